//! Putting a daemon together: commands, state, policy, configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use invoked_transport::Listener;
#[cfg(feature = "cli")]
use invoked_transport::{Access, Address, Group};

use crate::authority::load::PolicyDirectory;
use crate::authority::{DevOptions, Instance, PolicyError, ScopeVariable};
use crate::commands::CommandTable;
use crate::config::Config;
#[cfg(feature = "cli")]
use crate::config::ListenAccess;
use crate::daemon::{Daemon, PolicySource, Running, SourceState};
use crate::error::BuildError;
use crate::ipc::{Command, InvokeHandler, StateManager};
use crate::plugin::Plugin;
use crate::plugins;

/// Builds a daemon.
///
/// The plugins `core` and `fs` are always there; without a capability file nobody but root and the daemon's own uid may
/// call anything, and those may only operate it.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    /// Names the address and the configuration of a program; an embedded daemon is given its listener.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) app: Option<String>,
    pub(crate) commands: Vec<Command>,
    pub(crate) plugins: Vec<Plugin>,
    pub(crate) state: StateManager,
    pub(crate) config: Config,
    pub(crate) directories: Vec<PolicyDirectory>,
    pub(crate) dev: Option<PathBuf>,
    pub(crate) instance: Instance,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            app: None,
            commands: Vec::new(),
            plugins: Vec::new(),
            state: StateManager::default(),
            config: Config::default(),
            directories: Vec::new(),
            dev: None,
            instance: Instance::User,
        }
    }
}

impl Builder {
    /// A daemon of the application `id` (`org.acme.photos`), with an address of its own.
    pub fn new(id: impl Into<String>) -> Self {
        Builder { app: Some(id.into()), ..Builder::default() }
    }

    /// Manages a value that commands take as `State<T>`. A second value of the same type is ignored.
    pub fn manage<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.state.manage(value);
        self
    }

    /// Adds the application's own commands. May be called more than once.
    pub fn invoke_handler(mut self, handler: impl Into<InvokeHandler>) -> Self {
        self.commands.extend(handler.into().commands);
        self
    }

    /// Adds a plugin.
    pub fn plugin(mut self, plugin: Plugin) -> Self {
        self.plugins.push(plugin);
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

    /// Grants the daemon's own uid what is of use while developing: `fs:default` on `directory`, `bench:default`, and all
    /// the application's commands.
    pub fn dev(mut self, directory: impl Into<PathBuf>) -> Self {
        self.dev = Some(directory.into());
        self
    }

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
        daemon.spawn(listener)
    }

    /// Everything but the socket.
    pub(crate) fn build(mut self) -> Result<(Daemon, Vec<PolicyError>), BuildError> {
        let mut all = vec![plugins::core::plugin(&self.config)?, plugins::fs::plugin()?];
        if self.dev.is_some() {
            all.push(plugins::bench::plugin()?);
        }
        all.append(&mut self.plugins);
        if !self.commands.is_empty() {
            all.push(Plugin::application(std::mem::take(&mut self.commands)));
        }
        let commands = Arc::new(CommandTable::new(&all).map_err(BuildError::Commands)?);
        let dev = self.dev.as_deref().map(dev_options).transpose()?;
        let source = PolicySource {
            own_uid: rustix::process::geteuid().as_raw(),
            instance: self.instance,
            manifests: all.iter().map(|plugin| plugin.manifest().clone()).collect(),
            directories: std::mem::take(&mut self.directories),
            variables: variables(self.instance),
            dev,
            state: SourceState::default(),
        };
        let compiled = source.load().map_err(BuildError::Policy)?;
        let daemon = Daemon {
            config: self.config,
            commands,
            policy: Arc::new(compiled.snapshot),
            source: Arc::new(source),
            state: self.state,
        };
        Ok((daemon, compiled.warnings))
    }
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
