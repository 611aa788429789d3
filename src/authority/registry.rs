//! All that is shipped, resolved: what capability files may refer to.
//!
//! Owns the rules by which identifiers become commands. Says nothing about who holds a permission.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use invoked_proto::name::CommandName;
use serde_json::Value;

use super::Platform;
use super::identifier::Identifier;
use super::permission::{Permission, PermissionSet, PluginManifest};
use super::scope::{ScopeContext, ScopeDefault, ScopeError, ScopeItem, ScopeKind, ScopeLists, ScopeRole};
use super::source::{Findings, PolicyError, nearest};

/// The identifier whose holders operate the daemon.
pub(crate) const OPERATE: &str = "core:operate";

/// Everything that is shipped, resolved: what capability files may refer to.
#[derive(Debug)]
pub struct Registry {
    commands: HashMap<CommandName, CommandRules>,
    permissions: BTreeMap<Identifier, Arc<Resolved>>,
    plugins: BTreeMap<String, PluginScopes>,
}

#[derive(Debug)]
struct CommandRules {
    scoped: bool,
}

#[derive(Debug, Default)]
struct PluginScopes {
    kind: ScopeKind,
    default: Arc<ScopeDefault>,
}

/// A permission or set, resolved to the permissions in it.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) parts: Vec<Arc<Part>>,
    /// Those of `parts` that are scope-only.
    pub(crate) scopes: Vec<Arc<Part>>,
    /// Whether it is, or contains, `core:operate`.
    pub(crate) operate: bool,
}

/// One permission, with its commands parsed.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) identifier: Identifier,
    pub(crate) allow: Vec<CommandName>,
    pub(crate) deny: Vec<CommandName>,
    pub(crate) scope: ScopeLists,
}

impl Part {
    /// Whether it only adds to the scope of its plugin's commands.
    pub(crate) fn is_scope_only(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

impl Registry {
    /// Registers `manifests` for `platform`.
    ///
    /// # Errors
    /// Everything that is wrong with any of them: a plugin twice, names against the grammar, two commands that map to
    /// one permission, permissions of commands that don't exist, unknown members of sets, cycles, scope values that
    /// are not of the declared kind.
    pub fn new(manifests: &[PluginManifest], platform: Platform) -> Result<Self, Vec<PolicyError>> {
        let mut registry =
            Registry { commands: HashMap::new(), permissions: BTreeMap::new(), plugins: BTreeMap::new() };
        let mut findings = Findings::default();
        let mut sets = Sets::default();
        for manifest in manifests {
            registry.register(manifest, platform, &mut sets, &mut findings);
        }
        sets.resolve_into(&mut registry, &mut findings);
        if findings.errors.is_empty() {
            return Ok(registry);
        }
        findings.sort();
        Err(findings.errors)
    }

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

    /// All commands, in no order.
    pub fn commands(&self) -> impl Iterator<Item = &CommandName> {
        self.commands.keys()
    }

    /// All identifiers of permissions and sets, in order.
    pub fn permissions(&self) -> impl Iterator<Item = &str> {
        self.permissions.keys().map(Identifier::as_str)
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
        self.permissions.get(identifier)
    }

    pub(crate) fn default_scope(&self, plugin: Option<&str>) -> Arc<ScopeDefault> {
        self.plugins.get(plugin.unwrap_or("")).map(|p| Arc::clone(&p.default)).unwrap_or_default()
    }

    pub(crate) fn scope_kind(&self, plugin: Option<&str>) -> &ScopeKind {
        self.plugins.get(plugin.unwrap_or("")).map_or(&ScopeKind::Opaque, |plugin| &plugin.kind)
    }

    /// The narrowest permission that allows `command`: nothing else, with no scope of its own.
    pub(crate) fn narrowest(&self, command: &CommandName) -> Option<&Identifier> {
        self.permissions.iter().find_map(|(identifier, resolved)| match &resolved.parts[..] {
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

    fn register(
        &mut self,
        manifest: &PluginManifest,
        platform: Platform,
        sets: &mut Sets,
        findings: &mut Findings,
    ) {
        let scopes =
            PluginScopes { kind: manifest.scope.clone(), default: Arc::new(manifest.default_scope.clone()) };
        if self.plugins.insert(manifest.plugin().unwrap_or("").to_owned(), scopes).is_some() {
            findings.error(PolicyError::unplaced(manifest.label(), "registered twice"));
            return;
        }
        self.register_commands(manifest, findings);
        self.register_permissions(manifest, platform, findings);
        let default = (!manifest.default.is_empty()).then(|| PermissionSet {
            identifier: "default".to_owned(),
            description: String::new(),
            permissions: manifest.default.clone(),
        });
        for set in manifest.sets.iter().chain(&default) {
            let mut refuse = |message| findings.error(PolicyError::unplaced(manifest.label(), message));
            let identifier = match Identifier::in_plugin(manifest.plugin(), &set.identifier) {
                Ok(identifier) if identifier.plugin() == manifest.plugin() => identifier,
                Ok(identifier) => {
                    refuse(format!("set \"{identifier}\" belongs to another plugin"));
                    continue;
                }
                Err(error) => {
                    refuse(format!("set {:?}: {error}", set.identifier));
                    continue;
                }
            };
            if self.permissions.contains_key(&identifier) || sets.0.contains_key(&identifier) {
                refuse(format!("the identifier \"{identifier}\" is used twice"));
                continue;
            }
            let members = set.permissions.iter().filter_map(|member| {
                Identifier::in_plugin(manifest.plugin(), member)
                    .map_err(|error| refuse(format!("set \"{identifier}\": member {member:?}: {error}")))
                    .ok()
            });
            let members = members.collect();
            sets.0.insert(identifier, PendingSet { label: manifest.label(), members });
        }
    }

    fn register_commands(&mut self, manifest: &PluginManifest, findings: &mut Findings) {
        let mut refuse = |message| findings.error(PolicyError::unplaced(manifest.label(), message));
        let mut by_permission: HashMap<String, CommandName> = HashMap::new();
        for info in &manifest.commands {
            let name = match CommandName::new(manifest.name.as_ref(), &info.name) {
                Ok(name) => name,
                Err(error) => {
                    refuse(format!("command {:?}: {error}", info.name));
                    continue;
                }
            };
            if let Some(other) = by_permission.insert(name.permission_allow(), name.clone()) {
                refuse(format!(
                    "commands \"{other}\" and \"{name}\" map to the one permission \"{}\"",
                    name.permission_allow()
                ));
                continue;
            }
            for (identifier, allow, deny) in [
                (name.permission_allow(), vec![name.clone()], Vec::new()),
                (name.permission_deny(), Vec::new(), vec![name.clone()]),
            ] {
                let identifier = Identifier::parse(&identifier).expect("a checked name makes an identifier");
                let part = Part { identifier: identifier.clone(), allow, deny, scope: ScopeLists::default() };
                self.permissions.insert(identifier, Arc::new(Resolved::leaf(part)));
            }
            self.commands.insert(name, CommandRules { scoped: info.scoped });
        }
    }

    fn register_permissions(
        &mut self,
        manifest: &PluginManifest,
        platform: Platform,
        findings: &mut Findings,
    ) {
        let mut seen = BTreeSet::new();
        for permission in &manifest.permissions {
            let mut refuse = |message| findings.error(PolicyError::unplaced(manifest.label(), message));
            let identifier = match Identifier::in_plugin(manifest.plugin(), &permission.identifier) {
                Ok(identifier) if identifier.plugin() == manifest.plugin() => identifier,
                Ok(identifier) => {
                    refuse(format!("permission \"{identifier}\" belongs to another plugin"));
                    continue;
                }
                Err(error) => {
                    refuse(format!("permission {:?}: {error}", permission.identifier));
                    continue;
                }
            };
            if !seen.insert(identifier.clone()) {
                refuse(format!("the identifier \"{identifier}\" is used twice"));
                continue;
            }
            let allow = self.commands_of(manifest, &identifier, &permission.allow, findings);
            let deny = self.commands_of(manifest, &identifier, &permission.deny, findings);
            check_shipped_scopes(manifest, &identifier, permission, findings);
            let items = |values: &[Value]| values.iter().map(|v| ScopeItem::new(v.clone(), None)).collect();
            let scope = ScopeLists {
                allow: permission.scope_allow.as_deref().map(items),
                deny: items(&permission.scope_deny),
            };
            let here = permission.platforms.is_empty() || permission.platforms.contains(&platform);
            let resolved = if here {
                Resolved::leaf(Part { identifier: identifier.clone(), allow, deny, scope })
            } else {
                Resolved::default()
            };
            self.permissions.insert(identifier, Arc::new(resolved));
        }
    }

    fn commands_of(
        &self,
        manifest: &PluginManifest,
        identifier: &Identifier,
        names: &[String],
        findings: &mut Findings,
    ) -> Vec<CommandName> {
        let mut commands = Vec::with_capacity(names.len());
        for written in names {
            let name = CommandName::new(manifest.name.as_ref(), written).ok();
            match name.filter(|name| self.commands.contains_key(name)) {
                Some(name) => commands.push(name),
                None => findings.error(
                    PolicyError::unplaced(
                        manifest.label(),
                        format!("permission \"{identifier}\" names the unknown command \"{written}\""),
                    )
                    .did_you_mean(written, manifest.commands.iter().map(|c| c.name.as_str())),
                ),
            }
        }
        commands
    }
}

impl Resolved {
    fn leaf(part: Part) -> Self {
        let mut resolved = Resolved { operate: part.identifier.as_str() == OPERATE, ..Resolved::default() };
        resolved.push(Arc::new(part));
        resolved
    }

    fn push(&mut self, part: Arc<Part>) {
        if part.is_scope_only() {
            self.scopes.push(Arc::clone(&part));
        }
        self.parts.push(part);
    }
}

fn check_shipped_scopes(
    manifest: &PluginManifest,
    identifier: &Identifier,
    permission: &Permission,
    findings: &mut Findings,
) {
    // Shipped values may name any variable: whether it has a value here is not the plugin's to know.
    let context = ScopeContext::for_shipped();
    let allow = permission.scope_allow.iter().flatten().map(|value| (value, ScopeRole::Allow));
    let deny = permission.scope_deny.iter().map(|value| (value, ScopeRole::Deny));
    for (value, role) in allow.chain(deny) {
        if let Err(error) = manifest.scope.check(value, role, &context) {
            let message = format!("permission \"{identifier}\": scope value {value}: {error}");
            findings.error(PolicyError::unplaced(manifest.label(), message));
        }
    }
}

/// Sets that wait until every permission is known.
#[derive(Default)]
struct Sets(BTreeMap<Identifier, PendingSet>);

struct PendingSet {
    label: String,
    members: Vec<Identifier>,
}

impl Sets {
    fn resolve_into(&self, registry: &mut Registry, findings: &mut Findings) {
        let mut path = Vec::new();
        for identifier in self.0.keys() {
            self.resolve(identifier, registry, &mut path, findings);
        }
    }

    /// Depth first; `path` is what is being resolved. Its length bounds the recursion to the number of sets of a
    /// plugin's author, who is trusted to write fewer than would overflow a stack.
    fn resolve(
        &self,
        identifier: &Identifier,
        registry: &mut Registry,
        path: &mut Vec<Identifier>,
        findings: &mut Findings,
    ) -> Option<Arc<Resolved>> {
        if let Some(resolved) = registry.permissions.get(identifier) {
            return Some(Arc::clone(resolved));
        }
        let set = self.0.get(identifier)?;
        if let Some(start) = path.iter().position(|step| step == identifier) {
            let cycle: Vec<_> = path[start..].iter().chain([identifier]).map(Identifier::as_str).collect();
            let message = format!("sets contain each other: {}", cycle.join(" -> "));
            findings.error(PolicyError::unplaced(&set.label, message));
            return Some(Arc::default());
        }
        path.push(identifier.clone());
        let mut resolved = Resolved { operate: identifier.as_str() == OPERATE, ..Resolved::default() };
        let mut seen = BTreeSet::new();
        for member in &set.members {
            let Some(inner) = self.resolve(member, registry, path, findings) else {
                let known = registry.permissions.keys().chain(self.0.keys()).map(Identifier::as_str);
                let message = format!("set \"{identifier}\" contains the unknown permission \"{member}\"");
                findings
                    .error(PolicyError::unplaced(&set.label, message).did_you_mean(member.as_str(), known));
                continue;
            };
            resolved.operate |= inner.operate;
            let new = inner.parts.iter().filter(|part| seen.insert(part.identifier.clone()));
            new.cloned().for_each(|part| resolved.push(part));
        }
        path.pop();
        let resolved = Arc::new(resolved);
        registry.permissions.insert(identifier.clone(), Arc::clone(&resolved));
        Some(resolved)
    }
}

#[cfg(test)]
mod tests {
    use invoked_proto::name::PluginName;
    use serde_json::json;

    use super::Registry;
    use crate::authority::{Permission, Platform, PluginManifest, ScopeDefault, ScopeKind};

    fn plugin(name: &str) -> PluginManifest {
        PluginManifest::new(PluginName::parse(name).unwrap())
    }

    fn permission(identifier: &str, allow: &[&str]) -> Permission {
        Permission {
            identifier: identifier.to_owned(),
            allow: allow.iter().map(|&c| c.to_owned()).collect(),
            ..Permission::default()
        }
    }

    fn register(manifests: &[PluginManifest]) -> Result<Registry, Vec<String>> {
        Registry::new(manifests, Platform::Linux).map_err(|e| e.iter().map(ToString::to_string).collect())
    }

    fn allows(registry: &Registry, identifier: &str) -> Vec<String> {
        let parts = &registry.resolved(identifier).unwrap().parts;
        parts.iter().flat_map(|part| &part.allow).map(ToString::to_string).collect()
    }

    #[test]
    fn each_command_has_two_permissions_unwritten() {
        let registry = register(&[
            plugin("fs").scoped_command("read_file"),
            PluginManifest::application().command("greet"),
        ]);
        let registry = registry.unwrap();
        let identifiers: Vec<_> = registry.permissions().collect();
        assert_eq!(identifiers, ["allow-greet", "deny-greet", "fs:allow-read-file", "fs:deny-read-file"]);
        assert_eq!(allows(&registry, "fs:allow-read-file"), ["fs.read_file"]);
        assert!(registry.is_scoped("fs.read_file") && !registry.is_scoped("greet"));
    }

    #[test]
    fn sets_nest_across_plugins_and_give_each_permission_once() {
        let registry = register(&[
            plugin("a").command("x").command("y").set("all", "", ["some", "allow-y", "b:default"]).set(
                "some",
                "",
                ["allow-x", "allow-y"],
            ),
            plugin("b").command("z").default_set(["allow-z"]),
        ])
        .unwrap();
        assert_eq!(allows(&registry, "a:all"), ["a.x", "a.y", "b.z"]);
        let outer = plugin("core").command("x").set("operate", "", ["allow-x"]).set("more", "", ["operate"]);
        let registry = register(&[outer]).unwrap();
        let operates = |identifier| registry.resolved(identifier).unwrap().operate;
        assert!(operates("core:operate") && operates("core:more") && !operates("core:allow-x"));
    }

    #[test]
    fn a_permission_for_another_platform_exists_and_grants_nothing() {
        let elsewhere = Permission { platforms: vec![Platform::Windows], ..permission("p", &["x"]) };
        let registry = register(&[plugin("a").command("x").permission(elsewhere)]).unwrap();
        assert!(registry.has_permission("a:p"));
        assert!(allows(&registry, "a:p").is_empty());
    }

    #[test]
    fn only_a_permission_of_one_command_without_scope_is_narrowest() {
        let wide = permission("allow-x", &["x", "y"]);
        let registry = register(&[plugin("a").command("x").command("y").permission(wide)]).unwrap();
        assert_eq!(registry.narrowest(registry.command("a.x").unwrap()), None);
        assert_eq!(registry.narrowest(registry.command("a.y").unwrap()).unwrap().as_str(), "a:allow-y");
        let scoped = Permission { scope_allow: Some(vec![json!("/s")]), ..permission("a", &["x"]) };
        let registry = register(&[plugin("a").command("x").permission(scoped)]).unwrap();
        assert_eq!(registry.narrowest(registry.command("a.x").unwrap()).unwrap().as_str(), "a:allow-x");
    }

    #[test]
    fn manifests_are_read_strictly() {
        let bad_scope = Permission { scope_allow: Some(vec![json!("relative")]), ..permission("s", &[]) };
        for (manifest, error) in [
            (plugin("a").command("x y"), r#"plugin a: command "x y": ' ' may not stand at byte 1 of a name"#),
            (
                plugin("a").command("read_file").command("read-file"),
                r#"plugin a: commands "a.read_file" and "a.read-file" map to the one permission "a:allow-read-file""#,
            ),
            (
                plugin("a").command("read_file").permission(permission("p", &["raed_file"])),
                r#"plugin a: permission "a:p" names the unknown command "raed_file"; did you mean "read_file"?"#,
            ),
            (
                plugin("a").permission(permission("p", &[])).permission(permission("p", &[])),
                r#"plugin a: the identifier "a:p" is used twice"#,
            ),
            (
                plugin("a").permission(permission("p", &[])).set("p", "", []),
                r#"plugin a: the identifier "a:p" is used twice"#,
            ),
            (
                plugin("a").permission(permission("b:p", &[])),
                r#"plugin a: permission "b:p" belongs to another plugin"#,
            ),
            (plugin("a").set("", "", []), r#"plugin a: set "": an empty identifier"#),
            (
                plugin("a").command("x").set("s", "", ["alow-x"]),
                r#"plugin a: set "a:s" contains the unknown permission "a:alow-x"; did you mean "a:allow-x"?"#,
            ),
            (
                plugin("a").set("s", "", ["t"]).set("t", "", ["u"]).set("u", "", ["t"]),
                "plugin a: sets contain each other: a:t -> a:u -> a:t",
            ),
            (
                plugin("a").scope(ScopeKind::Path, ScopeDefault::Nothing).permission(bad_scope),
                r#"plugin a: permission "a:s": scope value "relative": a path pattern starts with `/` or a variable such as $PEER_HOME"#,
            ),
        ] {
            assert_eq!(register(&[manifest]).unwrap_err(), [error]);
        }
        assert_eq!(register(&[plugin("a"), plugin("a")]).unwrap_err(), ["plugin a: registered twice"]);
    }
}
