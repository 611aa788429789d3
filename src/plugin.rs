//! Plugins: named groups of commands with their permissions, their state and their setup.
//!
//! ```
//! use invoked::ipc::{Command, Response};
//!
//! let plugin = invoked::plugin::Builder::<invoked::Wry>::new("clock")
//!     .invoke_handler(vec![Command::inline("zone", |_| Ok(Response::json("UTC")?))])
//!     .build();
//! assert_eq!(plugin.manifest()?.commands.len(), 1);
//! # Ok::<(), invoked::BuildError>(())
//! ```
//!
//! A plugin written for Tauri keeps its form:
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use invoked::plugin::{Builder, TauriPlugin};
//! use invoked::{AppHandle, Manager, Runtime, State};
//!
//! #[derive(Default)]
//! struct Hits(AtomicU64);
//!
//! #[invoked::command]
//! fn hit(hits: State<'_, Hits>) -> u64 {
//!     hits.0.fetch_add(1, Ordering::Relaxed) + 1
//! }
//!
//! pub fn init<R: Runtime>() -> TauriPlugin<R> {
//!     Builder::new("hits")
//!         .invoke_handler(invoked::generate_handler![hit])
//!         .setup(|app, _api| {
//!             app.manage(Hits::default());
//!             Ok(())
//!         })
//!         .build()
//! }
//! # let _builder = invoked::Builder::default().plugin(init());
//! ```

use std::fmt;
use std::marker::PhantomData;

use invoked_proto::name::PluginName;
use serde::de::DeserializeOwned;

use crate::app::AppHandle;
use crate::authority::{CommandInfo, Permission, PermissionSet, PluginManifest, ScopeDefault, ScopeKind};
use crate::error::BuildError;
pub use crate::ipc::Runtime;
use crate::ipc::{Command, InvokeHandler, Wry};

/// What a setup hook returns.
type SetupResult = Result<(), Box<dyn std::error::Error>>;

type SetupHook<R, C> = Box<dyn FnOnce(&AppHandle<R>, PluginApi<R, C>) -> SetupResult + Send>;

/// A plugin: commands, what may be granted of them, and what is done before they are called.
#[must_use]
pub struct TauriPlugin<R: Runtime = Wry, C: DeserializeOwned = ()> {
    name: String,
    handler: InvokeHandler,
    manifest: PluginManifest,
    setup: Option<SetupHook<R, C>>,
}

/// A plugin that needs no configuration.
pub type Plugin = TauriPlugin;

impl<R: Runtime, C: DeserializeOwned> fmt::Debug for TauriPlugin<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TauriPlugin").field("name", &self.name).field("handler", &self.handler).finish()
    }
}

impl<R: Runtime, C: DeserializeOwned> TauriPlugin<R, C> {
    /// Its name, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the authority is told of it.
    ///
    /// # Errors
    /// What a daemon with this plugin would not be built for: an ill-formed name, a handler without names.
    pub fn manifest(&self) -> Result<PluginManifest, BuildError> {
        let commands = self.handler.clone().into_commands().map_err(|text| self.refused(&text))?;
        let mut manifest = self.manifest.clone();
        manifest.name = Some(self.parsed_name()?);
        manifest.commands = infos(&commands);
        Ok(manifest)
    }

    fn parsed_name(&self) -> Result<PluginName, BuildError> {
        PluginName::parse(&self.name)
            .map_err(|error| BuildError::Name { name: self.name.clone(), reason: error.to_string() })
    }

    fn refused(&self, text: &str) -> BuildError {
        BuildError::Commands(format!("plugin {}: {text}", self.name))
    }

    /// The plugin, checked, for the table of commands.
    pub(crate) fn assemble(self) -> Result<Assembled<R>, BuildError>
    where
        C: 'static,
    {
        let manifest = self.manifest()?;
        let commands = self.handler.into_commands().map_err(BuildError::Commands)?;
        let setup = self.setup.map(|hook| -> AssembledSetup<R> {
            Box::new(move |app, config| {
                let config = serde_json::from_value(config)?;
                hook(app, PluginApi { handle: app.clone(), config: Box::new(config) })
            })
        });
        Ok(Assembled { commands, manifest, setup })
    }
}

type AssembledSetup<R> = Box<dyn FnOnce(&AppHandle<R>, serde_json::Value) -> SetupResult + Send>;

/// A plugin that was checked, or the application's own commands.
pub(crate) struct Assembled<R: Runtime = Wry> {
    commands: Vec<Command>,
    manifest: PluginManifest,
    pub(crate) setup: Option<AssembledSetup<R>>,
}

impl<R: Runtime> fmt::Debug for Assembled<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembled")
            .field("commands", &self.commands)
            .field("manifest", &self.manifest)
            .finish()
    }
}

impl<R: Runtime> Assembled<R> {
    /// The application's own commands, which have no plugin's name.
    pub(crate) fn application(commands: Vec<Command>) -> Self {
        let mut manifest = PluginManifest::application();
        manifest.commands = infos(&commands);
        Assembled { commands, manifest, setup: None }
    }

    /// The same commands as those of a plugin.
    pub(crate) fn named(mut self, name: PluginName) -> Self {
        self.manifest.name = Some(name);
        self
    }

    /// Its name; `None` for the commands of the application itself.
    pub(crate) fn name(&self) -> Option<&PluginName> {
        self.manifest.name.as_ref()
    }

    pub(crate) fn manifest(&self) -> &PluginManifest {
        &self.manifest
    }

    pub(crate) fn commands(&self) -> &[Command] {
        &self.commands
    }
}

/// What a plugin's setup hook is given besides the application.
#[derive(Debug)]
pub struct PluginApi<R: Runtime, C: DeserializeOwned> {
    handle: AppHandle<R>,
    config: Box<C>,
}

impl<R: Runtime, C: DeserializeOwned> PluginApi<R, C> {
    /// The plugin's configuration: what [`Builder::plugin_config`](crate::Builder::plugin_config) says, or the table
    /// `[plugins.NAME]` of the configuration file.
    #[must_use]
    pub fn config(&self) -> &C {
        &self.config
    }

    /// The application.
    #[must_use]
    pub fn app(&self) -> &AppHandle<R> {
        &self.handle
    }
}

/// Builds a [`TauriPlugin`].
///
/// `C` is the type of its configuration; a plugin without one leaves it `()`. Nothing here fails: what is wrong is told
/// when the daemon is built.
#[must_use]
pub struct Builder<R: Runtime = Wry, C: DeserializeOwned = ()> {
    name: String,
    handler: InvokeHandler,
    manifest: PluginManifest,
    setup: Option<SetupHook<R, C>>,
    config: PhantomData<fn() -> C>,
}

impl<R: Runtime, C: DeserializeOwned> fmt::Debug for Builder<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("name", &self.name).field("handler", &self.handler).finish()
    }
}

impl<R: Runtime, C: DeserializeOwned> Builder<R, C> {
    /// A plugin of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Builder {
            name: name.into(),
            handler: InvokeHandler::default(),
            manifest: PluginManifest::application(),
            setup: None,
            config: PhantomData,
        }
    }

    /// Adds commands: from [`generate_handler!`](crate::generate_handler), by hand, or by a function that picks its calls.
    /// May be called more than once; see [`InvokeHandler`].
    pub fn invoke_handler(mut self, handler: impl Into<InvokeHandler>) -> Self {
        self.handler.extend(handler.into());
        self
    }

    /// Names the commands that handlers take which are functions.
    pub fn commands(mut self, names: &[&'static str]) -> Self {
        self.handler.names.extend_from_slice(names);
        self
    }

    /// Says what is done once, before the first call: managing state, mostly. An error keeps the daemon from being built.
    pub fn setup(
        mut self,
        hook: impl FnOnce(&AppHandle<R>, PluginApi<R, C>) -> SetupResult + Send + 'static,
    ) -> Self {
        self.setup = Some(Box::new(hook));
        self
    }

    /// Adds a permission besides the `allow-` and `deny-` that each command has.
    pub fn permission(mut self, permission: Permission) -> Self {
        self.manifest.permissions.push(permission);
        self
    }

    /// Adds a permission file as text, in Tauri's format, as `include_str!` gives it: TOML, or JSON if it begins with a
    /// brace. Names in it are this plugin's own. What is wrong with it is told, by plugin, line and column, when a daemon
    /// with this plugin is built.
    ///
    /// ```
    /// let zone = invoked::ipc::Command::inline("zone", |_| Ok(invoked::ipc::Response::json("UTC")?));
    /// let clock: invoked::plugin::TauriPlugin = invoked::plugin::Builder::new("clock")
    ///     .invoke_handler(vec![zone])
    ///     .permissions(r#"
    ///         [default]
    ///         description = "Everybody may know what time it is."
    ///         permissions = ["allow-zone"]
    ///     "#)
    ///     .build();
    /// ```
    pub fn permissions(mut self, text: impl Into<String>) -> Self {
        self.manifest = self.manifest.permission_text(text);
        self
    }

    /// Adds a set of permissions.
    pub fn set(mut self, set: PermissionSet) -> Self {
        self.manifest.sets.push(set);
        self
    }

    /// The permissions of the plugin's `default` set.
    pub fn default_permissions(mut self, identifiers: &[&str]) -> Self {
        self.manifest.default = identifiers.iter().map(|&text| text.to_owned()).collect();
        self
    }

    /// What scope values of this plugin are, and what a grant without any may touch.
    pub fn scope(mut self, kind: ScopeKind, default: ScopeDefault) -> Self {
        self.manifest = self.manifest.scope(kind, default);
        self
    }

    /// The plugin.
    pub fn build(self) -> TauriPlugin<R, C> {
        TauriPlugin { name: self.name, handler: self.handler, manifest: self.manifest, setup: self.setup }
    }
}

fn infos(commands: &[Command]) -> Vec<CommandInfo> {
    commands.iter().map(|c| CommandInfo { name: c.name().to_owned(), scoped: c.is_scoped() }).collect()
}
