//! Putting a daemon together: commands, state, policy, configuration.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "cli")]
use invoked_transport::{Access, Address, Group};
use invoked_transport::{Credentials, Listener};

use crate::app::{App, AppHandle, PackageInfo};
use crate::authority::load::{DirectoryContents, PolicyDirectory};
use crate::authority::{DevOptions, Instance, PolicyError, ProcessFacts, ScopeVariable, TauriFiles};
use crate::commands::CommandTable;
use crate::config::Config;
#[cfg(feature = "cli")]
use crate::config::ListenAccess;
#[cfg(feature = "cli")]
use crate::context::Context;
use crate::daemon::{Daemon, PolicySource, Running, SetupHook, SourceState, check_processes};
use crate::error::BuildError;
use crate::ipc::{InvokeHandler, InvokeResponder, Replied, Runtime, StateManager, Wry};
use crate::plugin::{Assembled, TauriPlugin};
use crate::plugins;

/// What a setup hook of the application is.
type AppSetup<R> = Box<dyn FnOnce(&mut App<R>) -> Result<(), Box<dyn std::error::Error>> + Send>;

/// A [`Builder`] that knows the application's identifier: its [`run`](Builder::run) needs nothing more.
#[derive(Debug)]
pub enum Named {}

/// A [`Builder`] that does not know an identifier: it serves a listener, or is [`run`](Builder::run) with a
/// [`Context`](crate::Context).
#[derive(Debug)]
pub enum Unnamed {}

/// Builds a daemon.
///
/// The plugins `core` and `fs` are always there; without a capability file nobody but root and the daemon's own uid may
/// call anything, and those may only operate it.
///
/// `R` is there for Tauri's sake, and `N` says whether the builder was made by [`new`](Builder::new) or by `default`.
#[must_use]
pub struct Builder<R: Runtime = Wry, N = Unnamed> {
    pub(crate) app: Option<String>,
    pub(crate) provide_as: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) handler: InvokeHandler,
    pub(crate) plugins: Vec<Result<Assembled<R>, BuildError>>,
    pub(crate) plugin_config: serde_json::Map<String, serde_json::Value>,
    pub(crate) setup: Vec<AppSetup<R>>,
    pub(crate) responder: Option<Arc<InvokeResponder<R>>>,
    pub(crate) state: StateManager,
    pub(crate) config: Config,
    pub(crate) directories: Vec<PolicyDirectory>,
    pub(crate) dev: Option<PathBuf>,
    pub(crate) instance: Instance,
    pub(crate) tauri: TauriFiles,
    pub(crate) named: PhantomData<N>,
}

impl<R: Runtime, N> fmt::Debug for Builder<R, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("app", &self.app)
            .field("handler", &self.handler)
            .field("plugins", &self.plugins)
            .field("state", &self.state)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder::without_name()
    }
}

impl Builder<Wry, Named> {
    /// A daemon of the application `id` (`org.acme.photos`), with an address of its own.
    pub fn new(id: impl Into<String>) -> Self {
        Builder { app: Some(id.into()), ..Builder::without_name() }
    }
}

#[cfg(feature = "cli")]
impl<R: Runtime> Builder<R> {
    /// Takes identifier and version from the context, as [`run`](Self::run) does.
    pub(crate) fn named(self, context: Context<R>) -> Builder<R, Named> {
        Builder {
            app: Some(context.identifier),
            provide_as: self.provide_as,
            version: Some(context.version),
            handler: self.handler,
            plugins: self.plugins,
            plugin_config: self.plugin_config,
            setup: self.setup,
            responder: self.responder,
            state: self.state,
            config: self.config,
            directories: self.directories,
            dev: self.dev,
            instance: self.instance,
            tauri: self.tauri,
            named: PhantomData,
        }
    }
}

impl<R: Runtime, N> Builder<R, N> {
    fn without_name() -> Self {
        Builder {
            app: None,
            provide_as: None,
            version: None,
            handler: InvokeHandler::default(),
            plugins: Vec::new(),
            plugin_config: serde_json::Map::new(),
            setup: Vec::new(),
            responder: None,
            state: StateManager::default(),
            config: Config::default(),
            directories: Vec::new(),
            dev: None,
            instance: Instance::User,
            tauri: TauriFiles::Strict,
            named: PhantomData,
        }
    }

    /// Manages a value that commands take as `State<T>`. A second value of the same type is ignored.
    pub fn manage<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.state.manage(value);
        self
    }

    /// Says what is done once, before the first call, with the plugins set up already. May be called more than once. An
    /// error keeps the daemon from starting.
    pub fn setup(
        mut self,
        hook: impl FnOnce(&mut App<R>) -> Result<(), Box<dyn std::error::Error>> + Send + 'static,
    ) -> Self {
        self.setup.push(Box::new(hook));
        self
    }

    /// Adds the application's own commands: from [`generate_handler!`](crate::generate_handler), by hand, or by a function
    /// that picks its calls. May be called more than once; see [`InvokeHandler`].
    pub fn invoke_handler(mut self, handler: impl Into<InvokeHandler>) -> Self {
        self.handler.extend(handler.into());
        self
    }

    /// Names the commands that handlers take which are functions.
    pub fn commands(mut self, names: &[&'static str]) -> Self {
        self.handler.names.extend_from_slice(names);
        self
    }

    /// Adds a plugin. What is wrong with it is told when the daemon is built.
    pub fn plugin<C: serde::de::DeserializeOwned + 'static>(mut self, plugin: TauriPlugin<R, C>) -> Self {
        self.plugins.push(plugin.assemble());
        self
    }

    /// Shows each reply of a hosted command to `responder` before it goes out; see [`InvokeResponder`]. The last one that is
    /// given holds.
    pub fn invoke_responder(
        mut self,
        responder: impl Fn(&AppHandle<R>, Replied<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.responder = Some(Arc::new(responder));
        self
    }

    /// Configures the plugin `name`; a table `[plugins.NAME]` of the configuration file comes before it.
    pub fn plugin_config(mut self, name: impl Into<String>, config: serde_json::Value) -> Self {
        self.plugin_config.insert(name.into(), config);
        self
    }

    /// Sets the configuration. A program that is [`run`](Self::run) takes its configuration file instead, if there is one,
    /// and what command-line flags set comes on top.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Reads capability files of `directory`, which must be there. Several directories add up.
    pub fn capabilities(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directories.push(PolicyDirectory::required(directory));
        self
    }

    /// Reads permission files of `directory`, which must be there: `*.toml` and `*.json`, and in a directory within it those
    /// of the plugin that it is called by. Several directories add up.
    pub fn permissions(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directories.push(PolicyDirectory::required(directory).of(DirectoryContents::Permissions));
        self
    }

    /// Reads interface files of `directory`, which must be there: the manifests, `*.json`, of plugins that providers serve.
    /// Several directories add up.
    pub fn interfaces(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directories.push(PolicyDirectory::required(directory).of(DirectoryContents::Interfaces));
        self
    }

    /// Says how files written for Tauri are taken.
    pub fn tauri_files(mut self, tauri: TauriFiles) -> Self {
        self.tauri = tauri;
        self
    }

    /// Grants the daemon's own uid what is of use while developing: `fs:default` on `directory`, `bench:default`, and all
    /// commands of the application and of its plugins.
    pub fn dev(mut self, directory: impl Into<PathBuf>) -> Self {
        self.dev = Some(directory.into());
        self
    }
}

impl<N> Builder<Wry, N> {
    /// Serves `listener` on a thread of its own: no flags, no signals, no logs set up.
    ///
    /// ```
    /// use invoked::ipc::{Command, Response};
    /// use invoked::transport::{Access, Listener};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let address = format!("unix:{}/run/app.sock", directory.path().display()).parse()?;
    /// let listener = Listener::bind(&address, Access::Owner)?;
    /// let daemon = invoked::Builder::default()
    ///     .invoke_handler(vec![Command::inline("greet", |_| Ok(Response::json("hello")?))])
    ///     .serve(listener)?;
    /// daemon.shutdown()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What is wrong with the commands or the policy; nothing runs then.
    pub fn serve(self, listener: Listener) -> Result<Running, BuildError> {
        let (daemon, warnings) = self.build()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        daemon.spawn(Some(listener))
    }

    /// Everything but the socket.
    pub(crate) fn build(self) -> Result<(Daemon, Vec<PolicyError>), BuildError> {
        let plugin = |plugin: TauriPlugin| plugin.assemble();
        let mut all = vec![plugin(plugins::core::plugin(&self.config))?, plugin(plugins::fs::plugin())?];
        if self.dev.is_some() {
            all.push(plugin(plugins::bench::plugin())?);
        }
        for plugin in self.plugins {
            all.push(plugin?);
        }
        let own = self.handler.into_commands().map_err(BuildError::Commands)?;
        if !own.is_empty() {
            all.push(Assembled::application(own));
        }
        let commands = Arc::new(CommandTable::new(&all).map_err(BuildError::Commands)?);
        let is_there =
            |name: &str| all.iter().any(|p| p.name().is_some_and(|plugin| plugin.as_str() == name));
        if let Some(name) = self.config.plugins.keys().find(|name| !is_there(name)) {
            return Err(BuildError::Commands(format!("[plugins.{name}]: there is no plugin {name}")));
        }
        check_processes(&self.config.providers)?;
        let dev = self.dev.as_deref().map(dev_options).transpose()?;
        let source = PolicySource {
            own_uid: rustix::process::geteuid().as_raw(),
            instance: self.instance,
            tauri: self.tauri,
            manifests: all.iter().map(|plugin| plugin.manifest().clone()).collect(),
            directories: self.directories,
            variables: variables(self.instance),
            dev,
            ceilings: self.config.ceilings(),
            process_facts: process_facts(),
            state: SourceState::default(),
        };
        let proposal = source.load().map_err(BuildError::Policy)?;
        let compiled = source.adopt(proposal);
        let mut package = PackageInfo::default();
        package.name = self.app.unwrap_or(package.name);
        package.version = self.version.unwrap_or(package.version);
        let daemon = Daemon {
            commands,
            policy: Arc::new(compiled.snapshot),
            source: Arc::new(source),
            app: AppHandle::new(self.state, package, self.instance, self.responder),
            setup: hooks(all, self.setup, &self.config, self.plugin_config),
            config: self.config,
        };
        Ok((daemon, compiled.warnings))
    }
}

/// The setup hooks in the order in which they run: plugins first.
pub(crate) fn hooks(
    plugins: Vec<Assembled>,
    own: Vec<AppSetup<Wry>>,
    config: &Config,
    mut configured: serde_json::Map<String, serde_json::Value>,
) -> Vec<SetupHook> {
    let mut hooks = Vec::new();
    for mut plugin in plugins {
        let Some(hook) = plugin.setup.take() else { continue };
        let name = plugin.name().map_or_else(String::new, |name| name.as_str().to_owned());
        let in_file = config.plugins.get(&name).cloned();
        let config = in_file.or_else(|| configured.remove(&name)).unwrap_or_default();
        hooks.push(SetupHook { plugin: Some(name), run: Box::new(move |app| hook(app, config)) });
    }
    for hook in own {
        let run = Box::new(move |app: &AppHandle| hook(&mut App::new(app.clone())));
        hooks.push(SetupHook { plugin: None, run });
    }
    hooks
}

/// The directory that `--dev` shares, with links resolved.
fn dev_options(directory: &Path) -> Result<DevOptions, BuildError> {
    let what = format!("--dev in {}", directory.display());
    let directory = directory.canonicalize().map_err(BuildError::io(what))?;
    if directory == Path::new("/") {
        let text = "--dev in / would share every file of the machine; start it in the directory that you want to share";
        return Err(BuildError::Dev(text.to_owned()));
    }
    Ok(DevOptions { directory })
}

/// Whether files may look at peers' processes.
fn process_facts() -> ProcessFacts {
    match Credentials::can_hold_processes() {
        Ok(true) => ProcessFacts::Confirmed,
        Ok(false) => ProcessFacts::Unconfirmed,
        Err(error) => {
            tracing::warn!(%error, "can not ask the kernel about processes; rules by executable or unit are refused");
            ProcessFacts::Unconfirmed
        }
    }
}

/// Variables of path scopes that this process can fill in.
fn variables(instance: Instance) -> Vec<(ScopeVariable, PathBuf)> {
    let from_environment = |variable, name| {
        let value = PathBuf::from(std::env::var_os(name)?);
        Some((variable, value.canonicalize().ok()?))
    };
    let mut variables = Vec::new();
    if instance == Instance::User {
        variables.extend(from_environment(ScopeVariable::Home, "HOME"));
        variables.extend(from_environment(ScopeVariable::Runtime, "XDG_RUNTIME_DIR"));
    }
    variables.extend(std::env::temp_dir().canonicalize().ok().map(|temp| (ScopeVariable::Temp, temp)));
    variables
}

/// Opens the socket that `config` asks for.
#[cfg(feature = "cli")]
pub(crate) fn listen(address: &Address, access: &ListenAccess) -> Result<Listener, BuildError> {
    let access = match access {
        ListenAccess::Owner => Access::Owner,
        ListenAccess::Everyone => Access::Everyone,
        ListenAccess::Group(group) => Access::Group(group_id(group)?),
    };
    Ok(Listener::bind(address, access)?)
}

#[cfg(feature = "cli")]
fn group_id(group: &str) -> Result<u32, BuildError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let found = Group::by_name(group).map_err(BuildError::io("reading the groups of this machine"))?;
    let missing = || BuildError::Name { name: group.to_owned(), reason: "no such group".to_owned() };
    found.map(|group| group.gid).ok_or_else(missing)
}
