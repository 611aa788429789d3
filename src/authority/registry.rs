//! All that is shipped, resolved: what capability files may refer to.
//!
//! Owns the answers; `register` fills it. Says nothing about who holds a permission.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use invoked_proto::name::CommandName;
use serde_json::Value;

use super::identifier::Identifier;
use super::scope::{ScopeContext, ScopeDefault, ScopeError, ScopeKind, ScopeLists, ScopeRole};
use super::source::nearest;

/// The identifier whose holders operate the daemon.
pub(crate) const OPERATE: &str = "core:operate";

/// Everything that is shipped, resolved: what capability files may refer to.
#[derive(Debug, Default)]
pub struct Registry {
    pub(super) commands: HashMap<CommandName, CommandRules>,
    pub(super) permissions: BTreeMap<Identifier, Registered>,
    /// By name; the application's is empty.
    pub(super) plugins: BTreeMap<String, PluginScopes>,
}

#[derive(Debug)]
pub(super) struct CommandRules {
    pub(super) scoped: bool,
}

#[derive(Debug, Default)]
pub(super) struct PluginScopes {
    pub(super) kind: ScopeKind,
    pub(super) default: Arc<ScopeDefault>,
}

/// What an identifier stands for.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) resolved: Arc<Resolved>,
    pub(super) description: String,
    pub(super) kind: PermissionKind,
}

/// What kind of thing an identifier names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionKind {
    /// `allow-<command>` or `deny-<command>`, which nobody wrote.
    Command,
    /// A permission that somebody wrote.
    Permission,
    /// A set of permissions.
    Set,
}

/// A permission or set, for those who choose among them.
#[derive(Clone, Copy, Debug)]
pub struct PermissionInfo<'r> {
    /// As capability files write it.
    pub identifier: &'r str,
    /// The plugin it belongs to; `None` for the application's own.
    pub plugin: Option<&'r str>,
    /// For people; empty where none is shipped.
    pub description: &'r str,
    /// What kind of thing it is.
    pub kind: PermissionKind,
    resolved: &'r Resolved,
}

impl<'r> PermissionInfo<'r> {
    /// The commands that it allows.
    pub fn allows(&self) -> impl Iterator<Item = &'r CommandName> + use<'r> {
        self.resolved.parts.iter().flat_map(|part| &part.allow)
    }

    /// The commands that it denies.
    pub fn denies(&self) -> impl Iterator<Item = &'r CommandName> + use<'r> {
        self.resolved.parts.iter().flat_map(|part| &part.deny)
    }

    /// The plugins of which it may carry scope values, each once; the application is `None`. A scope on a permission
    /// without any is an error.
    #[must_use]
    pub fn scoped_plugins(&self) -> Vec<Option<&'r str>> {
        self.resolved.scoped_plugins()
    }
}

/// A permission or set, resolved to the permissions in it.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) parts: Vec<Arc<Part>>,
    /// Those of `parts` that are scope-only.
    pub(crate) scopes: Vec<Arc<Part>>,
    /// Whether it is, or contains, `core:operate`.
    pub(crate) operate: bool,
    /// Whether some part of it may look at scopes.
    pub(crate) scoped: bool,
}

/// One permission, with its commands parsed.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) identifier: Identifier,
    pub(crate) allow: Vec<CommandName>,
    pub(crate) deny: Vec<CommandName>,
    pub(crate) scope: ScopeLists,
    /// Whether it is a scope, or allows a command that looks at one.
    pub(crate) scoped: bool,
}

impl Part {
    /// Whether it only adds to the scope of its plugin's commands.
    pub(crate) fn is_scope_only(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

impl Registry {
    /// Whether a command of this canonical name is registered.
    #[must_use]
    pub fn has_command(&self, name: &str) -> bool {
        self.commands.contains_key(name)
    }

    /// Whether a permission or set of this identifier exists.
    #[must_use]
    pub fn has_permission(&self, identifier: &str) -> bool {
        self.permissions.contains_key(identifier)
    }

    /// Whether this plugin has a manifest.
    #[must_use]
    pub fn has_plugin(&self, name: &str) -> bool {
        self.plugins.contains_key(name)
    }

    /// The names of all plugins, in order.
    pub(crate) fn plugins(&self) -> impl Iterator<Item = &str> {
        self.plugins.keys().map(String::as_str).filter(|name| !name.is_empty())
    }

    /// All commands, in no order.
    pub fn commands(&self) -> impl Iterator<Item = &CommandName> {
        self.commands.keys()
    }

    /// All identifiers of permissions and sets, in order.
    pub fn permissions(&self) -> impl Iterator<Item = &str> {
        self.permissions.keys().map(Identifier::as_str)
    }

    /// All permissions and sets with what is known of them, in the order of their identifiers.
    pub fn permission_infos(&self) -> impl Iterator<Item = PermissionInfo<'_>> {
        self.permissions.iter().map(|(identifier, registered)| PermissionInfo {
            identifier: identifier.as_str(),
            plugin: identifier.plugin(),
            description: &registered.description,
            kind: registered.kind,
            resolved: &registered.resolved,
        })
    }

    /// A JSON Schema of the scope values of a plugin, or of the application: `true` where they are its own business.
    #[must_use]
    pub fn scope_schema(&self, plugin: Option<&str>) -> Value {
        self.scope_kind(plugin).schema()
    }

    /// The registered command whose name is nearest to `name`, if any is near.
    #[must_use]
    pub fn nearest_command(&self, name: &str) -> Option<&str> {
        nearest(name, self.commands.keys().map(CommandName::as_str))
    }

    pub(crate) fn is_scoped(&self, command: &str) -> bool {
        self.commands.get(command).is_some_and(|rules| rules.scoped)
    }

    pub(crate) fn command(&self, name: &str) -> Option<&CommandName> {
        self.commands.get_key_value(name).map(|(name, _)| name)
    }

    pub(crate) fn resolved(&self, identifier: &str) -> Option<&Arc<Resolved>> {
        self.permissions.get(identifier).map(|registered| &registered.resolved)
    }

    pub(crate) fn default_scope(&self, plugin: Option<&str>) -> Arc<ScopeDefault> {
        self.plugins.get(plugin.unwrap_or("")).map(|p| Arc::clone(&p.default)).unwrap_or_default()
    }

    pub(crate) fn scope_kind(&self, plugin: Option<&str>) -> &ScopeKind {
        self.plugins.get(plugin.unwrap_or("")).map_or(&ScopeKind::Opaque, |plugin| &plugin.kind)
    }

    /// The narrowest permission that allows `command`: nothing else, with no scope of its own.
    pub(crate) fn narrowest(&self, command: &CommandName) -> Option<&Identifier> {
        self.permissions.iter().find_map(|(identifier, registered)| match &registered.resolved.parts[..] {
            [part] if part.allow == [command.clone()] && part.deny.is_empty() && part.scope.is_absent() => {
                Some(identifier)
            }
            _ => None,
        })
    }

    /// Whether a scope value has the form that `plugin` declares.
    pub(crate) fn check_scope(
        &self,
        plugin: Option<&str>,
        value: &Value,
        role: ScopeRole,
        context: &ScopeContext,
    ) -> Result<(), ScopeError> {
        self.scope_kind(plugin).check(value, role, context)
    }
}

impl Resolved {
    pub(super) fn leaf(part: Part) -> Self {
        let mut resolved = Resolved { operate: part.identifier.as_str() == OPERATE, ..Resolved::default() };
        resolved.push(Arc::new(part));
        resolved
    }

    /// The plugins whose scope values an entry of this permission may carry.
    pub(crate) fn scoped_plugins(&self) -> Vec<Option<&str>> {
        let scoped = self.parts.iter().filter(|part| part.scoped);
        let mut plugins: Vec<_> = scoped.map(|part| part.identifier.plugin()).collect();
        plugins.sort_unstable();
        plugins.dedup();
        plugins
    }

    pub(super) fn push(&mut self, part: Arc<Part>) {
        self.scoped |= part.scoped;
        if part.is_scope_only() {
            self.scopes.push(Arc::clone(&part));
        }
        self.parts.push(part);
    }
}
