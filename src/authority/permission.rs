//! What plugins ship: commands, permissions, sets, defaults.
//!
//! Owns the form of a manifest. What manifests make together is the registry's business, and who holds a permission is
//! said by capabilities.

use invoked_proto::name::PluginName;
use serde_json::Value;

use super::Platform;
use super::document::Format;
use super::scope::{ScopeDefault, ScopeKind};
use super::source::Source;

/// What a plugin, or the application itself, tells the authority about its commands.
///
/// `allow-<command>` and `deny-<command>` exist for each command without being written; a permission that is written
/// under the same identifier takes its place.
#[derive(Clone, Debug, Default)]
pub struct PluginManifest {
    /// The plugin's name; `None` for the commands of the application itself.
    pub name: Option<PluginName>,
    /// Its commands.
    pub commands: Vec<CommandInfo>,
    /// Permissions beyond the ones that each command has.
    pub permissions: Vec<Permission>,
    /// Named sets of permissions.
    pub sets: Vec<PermissionSet>,
    /// Members of the set `default`, which exists when this is not empty.
    pub default: Vec<String>,
    /// Permission files as text, in Tauri's format, TOML or JSON.
    pub permission_texts: Vec<String>,
    /// What its scope values are.
    pub scope: ScopeKind,
    /// What its scoped commands may touch under a grant without a scope.
    pub default_scope: ScopeDefault,
}

/// One command of a manifest.
#[derive(Clone, Debug)]
pub struct CommandInfo {
    /// Its name within the plugin: `read_file`.
    pub name: String,
    /// Whether it looks at scopes. A scope on a permission none of whose commands does is an error at load.
    pub scoped: bool,
}

/// A permission that a plugin ships. One without commands is a scope: it adds to what its plugin's scoped commands
/// may touch.
#[derive(Clone, Debug, Default)]
pub struct Permission {
    /// Its name within the plugin: `read-all`.
    pub identifier: String,
    /// For people.
    pub description: String,
    /// Commands of this plugin that it allows.
    pub allow: Vec<String>,
    /// Commands of this plugin that it denies, whatever else allows them.
    pub deny: Vec<String>,
    /// Scope values that whoever holds it may touch; `None` is "not written".
    pub scope_allow: Option<Vec<Value>>,
    /// Scope values that whoever holds it may not touch.
    pub scope_deny: Vec<Value>,
    /// Where it means anything; everywhere when empty. Elsewhere it grants and denies nothing.
    pub platforms: Vec<Platform>,
}

/// A named set of permissions, which may contain sets.
#[derive(Clone, Debug, Default)]
pub struct PermissionSet {
    /// Its name within the plugin: `operate`.
    pub identifier: String,
    /// For people.
    pub description: String,
    /// Its members: names of this plugin, or identifiers with a colon of another.
    pub permissions: Vec<String>,
}

impl PluginManifest {
    /// The manifest of a plugin.
    #[must_use]
    pub fn new(name: PluginName) -> Self {
        PluginManifest { name: Some(name), ..Self::default() }
    }

    /// The manifest of the application's own commands.
    #[must_use]
    pub fn application() -> Self {
        Self::default()
    }

    /// Adds a command without arguments that need a scope.
    #[must_use]
    pub fn command(mut self, name: impl Into<String>) -> Self {
        self.commands.push(CommandInfo { name: name.into(), scoped: false });
        self
    }

    /// Adds a command that looks at scopes.
    #[must_use]
    pub fn scoped_command(mut self, name: impl Into<String>) -> Self {
        self.commands.push(CommandInfo { name: name.into(), scoped: true });
        self
    }

    /// Adds a permission.
    #[must_use]
    pub fn permission(mut self, permission: Permission) -> Self {
        self.permissions.push(permission);
        self
    }

    /// Adds a set.
    #[must_use]
    pub fn set<'a>(
        mut self,
        identifier: &str,
        description: &str,
        members: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        self.sets.push(PermissionSet {
            identifier: identifier.to_owned(),
            description: description.to_owned(),
            permissions: members.into_iter().map(str::to_owned).collect(),
        });
        self
    }

    /// Names the members of the default set.
    #[must_use]
    pub fn default_set<'a>(mut self, members: impl IntoIterator<Item = &'a str>) -> Self {
        self.default.extend(members.into_iter().map(str::to_owned));
        self
    }

    /// Adds a permission file as text, in Tauri's format: TOML, or JSON, which begins with a brace. It is read when a
    /// policy is compiled, and what is wrong with it named there by plugin, line and column.
    #[must_use]
    pub fn permission_text(mut self, text: impl Into<String>) -> Self {
        self.permission_texts.push(text.into());
        self
    }

    /// Says what scope values are, and what a grant without a scope may touch.
    #[must_use]
    pub fn scope(mut self, kind: ScopeKind, default: ScopeDefault) -> Self {
        self.scope = kind;
        self.default_scope = default;
        self
    }

    pub(crate) fn plugin(&self) -> Option<&str> {
        self.name.as_ref().map(PluginName::as_str)
    }

    /// The permission texts, called by the plugin in messages.
    pub(crate) fn permission_sources(&self) -> impl Iterator<Item = (Source, Format)> + '_ {
        let several = self.permission_texts.len() > 1;
        self.permission_texts.iter().enumerate().map(move |(i, text)| {
            let number = if several { format!(" {}", i + 1) } else { String::new() };
            let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::Toml };
            (Source::new(format!("{}, permissions{number}", self.label()), None, text.as_str()), format)
        })
    }

    /// What messages call it.
    pub(crate) fn label(&self) -> String {
        self.plugin().map_or_else(|| "application manifest".to_owned(), |name| format!("plugin {name}"))
    }
}
