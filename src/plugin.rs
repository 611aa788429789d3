//! Plugins: named groups of commands with their permissions.
//!
//! ```
//! use invoked::ipc::{Command, Response};
//!
//! let plugin = invoked::plugin::Builder::new("clock")
//!     .invoke_handler(vec![Command::inline("zone", |_| Ok(Response::json("UTC")?))])
//!     .build()?;
//! assert_eq!(plugin.manifest().commands.len(), 1);
//! # Ok::<(), invoked::BuildError>(())
//! ```

use invoked_proto::name::PluginName;

use crate::authority::{CommandInfo, Permission, PermissionSet, PluginManifest, ScopeDefault, ScopeKind};
use crate::error::BuildError;
use crate::ipc::{Command, InvokeHandler};

/// A plugin: commands and what may be granted of them.
#[derive(Debug, Clone)]
pub struct Plugin {
    commands: Vec<Command>,
    manifest: PluginManifest,
}

impl Plugin {
    /// Its name; `None` for the commands of the application itself.
    #[must_use]
    pub fn name(&self) -> Option<&PluginName> {
        self.manifest.name.as_ref()
    }

    /// What the authority knows of it.
    #[must_use]
    pub fn manifest(&self) -> &PluginManifest {
        &self.manifest
    }

    pub(crate) fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The application's own commands, which have no plugin's name.
    pub(crate) fn application(commands: Vec<Command>) -> Self {
        let mut manifest = PluginManifest::application();
        manifest.commands = infos(&commands);
        Plugin { commands, manifest }
    }
}

/// Builds a [`Plugin`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    name: String,
    commands: Vec<Command>,
    manifest: PluginManifest,
}

impl Builder {
    /// A plugin of this name; it is checked by [`build`](Self::build).
    pub fn new(name: impl Into<String>) -> Self {
        Builder { name: name.into(), commands: Vec::new(), manifest: PluginManifest::application() }
    }

    /// Adds commands, from [`generate_handler!`](crate::generate_handler) or by hand. May be called more than once.
    pub fn invoke_handler(mut self, handler: impl Into<InvokeHandler>) -> Self {
        self.commands.extend(handler.into().commands);
        self
    }

    /// Adds a permission besides the `allow-` and `deny-` that each command has.
    pub fn permission(mut self, permission: Permission) -> Self {
        self.manifest.permissions.push(permission);
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
    ///
    /// # Errors
    /// [`BuildError::Name`] if the name is ill-formed.
    pub fn build(mut self) -> Result<Plugin, BuildError> {
        let name = PluginName::parse(&self.name)
            .map_err(|error| BuildError::Name { name: self.name.clone(), reason: error.to_string() })?;
        self.manifest.name = Some(name);
        self.manifest.commands = infos(&self.commands);
        Ok(Plugin { commands: self.commands, manifest: self.manifest })
    }
}

fn infos(commands: &[Command]) -> Vec<CommandInfo> {
    commands.iter().map(|c| CommandInfo { name: c.name.to_owned(), scoped: c.scoped }).collect()
}
