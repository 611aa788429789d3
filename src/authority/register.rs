//! Putting together what is shipped: commands, then permissions, then sets, each checked against what came before.
//!
//! Owns these checks. Every error says where it is written: in which manifest, or at which place of which file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use invoked_proto::name::CommandName;

use super::Platform;
use super::capability::TauriFiles;
use super::identifier::{Identifier, IdentifierError};
use super::permission_file::PermissionFile;
use super::registry::{
    CommandRules, OPERATE, Part, PermissionKind, PluginScopes, Registered, Registry, Resolved,
};
use super::scope::{ScopeContext, ScopeDefault, ScopeItem, ScopeKind, ScopeLists, ScopeRole};
use super::shipped::{Place, ShippedContents, ShippedPermission, ShippedPlugin, ShippedSet, Written};
use super::source::Findings;

/// How deep sets may contain sets.
const MAX_NESTING: usize = 64;

/// What registering depends on beside what is shipped.
pub(crate) struct Circumstances<'a> {
    pub(crate) platform: Platform,
    pub(crate) tauri: TauriFiles,
    /// Plugins that some capability lets a peer provide: they may come later.
    pub(crate) provided: &'a HashSet<String>,
}

/// Registers plugins, and then the permission files of theirs. A file says whose it is by `plugin`, `None` for the
/// application's.
pub(crate) fn register(
    plugins: &[ShippedPlugin],
    files: &[(Option<String>, PermissionFile)],
    circumstances: &Circumstances<'_>,
    findings: &mut Findings,
) -> Registry {
    let mut registrar = Registrar { registry: Registry::default(), sets: Sets::default(), circumstances };
    let mut contents: Vec<(&ShippedPlugin, &ShippedContents)> = Vec::new();
    let mut places: HashMap<&str, &Place> = HashMap::new();
    for plugin in plugins {
        let name = plugin.plugin().unwrap_or("");
        if let Some(first) = places.insert(name, &plugin.place) {
            findings.error(plugin.place.error(match first {
                Place::File(first) => {
                    format!("a second interface of plugin \"{name}\"; the first is at {first}")
                }
                Place::Manifest(_) if matches!(plugin.place, Place::Manifest(_)) => {
                    "registered twice".to_owned()
                }
                Place::Manifest(_) => format!("the plugin \"{name}\" is this daemon's own"),
            }));
            continue;
        }
        registrar.add_plugin(plugin, findings);
        contents.push((plugin, &plugin.contents));
    }
    for (plugin, file) in files {
        let name = plugin.as_deref().unwrap_or("");
        match plugins.iter().find(|plugin| plugin.plugin().unwrap_or("") == name) {
            Some(plugin) => contents.push((plugin, &file.contents)),
            None => registrar.without_plugin(name, file, findings),
        }
    }
    let mut seen = HashMap::new();
    for (plugin, contents) in contents {
        registrar.add_contents(plugin, contents, &mut seen, findings);
    }
    registrar.sets.resolve_into(&mut registrar.registry, findings);
    registrar.registry
}

struct Registrar<'a> {
    registry: Registry,
    sets: Sets,
    circumstances: &'a Circumstances<'a>,
}

impl Registrar<'_> {
    /// A permission file of a plugin that isn't here.
    fn without_plugin(&self, name: &str, file: &PermissionFile, findings: &mut Findings) {
        let place = file.plugin.as_ref().map_or(&file.place, |(_, place)| place);
        if name.is_empty() {
            let error = place.error("a permission file of the application, which has no commands here");
            findings
                .error(error.with_help(
                    "name its plugin: plugin = \"NAME\", or put it into a directory of this name",
                ));
        } else if self.circumstances.provided.contains(name) {
            let message = format!("pending: it adds nothing until a peer provides \"{name}\"");
            findings.warn(place.error(message));
        } else if self.circumstances.tauri == TauriFiles::Lenient {
            findings.warn(place.error(format!("adds nothing: no plugin \"{name}\" is here")));
        } else {
            let known = self.registry.plugins.keys().map(String::as_str).filter(|name| !name.is_empty());
            findings.error(place.error(format!("no plugin \"{name}\" is here")).did_you_mean(name, known));
        }
    }

    fn add_plugin(&mut self, plugin: &ShippedPlugin, findings: &mut Findings) {
        let scopes =
            PluginScopes { kind: plugin.scope.clone(), default: Arc::new(plugin.default_scope.clone()) };
        if let ScopeDefault::Items(items) = &plugin.default_scope {
            for value in items {
                if let Err(error) = plugin.scope.check(value, ScopeRole::Allow, &ScopeContext::for_shipped())
                {
                    findings.error(plugin.place.error(format!("default scope value {value}: {error}")));
                }
            }
        }
        self.registry.plugins.insert(plugin.plugin().unwrap_or("").to_owned(), scopes);
        let mut by_permission: HashMap<String, CommandName> = HashMap::new();
        for command in &plugin.commands {
            let Written { text, place } = &command.name;
            let name = match CommandName::new(plugin.name.as_ref(), text) {
                Ok(name) => name,
                Err(error) => {
                    findings.error(place.error(format!("command {text:?}: {error}")));
                    continue;
                }
            };
            if let Some(other) = by_permission.insert(name.permission_allow(), name.clone()) {
                findings.error(place.error(format!(
                    "commands \"{other}\" and \"{name}\" map to the one permission \"{}\"",
                    name.permission_allow()
                )));
                continue;
            }
            self.add_command(name, command.scoped);
        }
    }

    fn add_command(&mut self, name: CommandName, scoped: bool) {
        let scope = if scoped { ", for the arguments that its scope allows" } else { "" };
        let both = [
            (name.permission_allow(), vec![name.clone()], Vec::new(), format!("Allows {name}{scope}.")),
            (
                name.permission_deny(),
                Vec::new(),
                vec![name.clone()],
                format!("Denies {name}, whatever else allows it."),
            ),
        ];
        for (identifier, allow, deny, description) in both {
            let identifier = Identifier::parse(&identifier).expect("a checked name makes an identifier");
            let looks = scoped && deny.is_empty();
            let scope = ScopeLists::default();
            let part = Part { identifier: identifier.clone(), allow, deny, scope, scoped: looks };
            let resolved = Arc::new(Resolved::leaf(part));
            let registered = Registered { resolved, description, kind: PermissionKind::Command };
            self.registry.permissions.insert(identifier, registered);
        }
        self.registry.commands.insert(name, CommandRules { scoped });
    }

    /// `seen` is what somebody wrote so far, and where.
    fn add_contents(
        &mut self,
        plugin: &ShippedPlugin,
        contents: &ShippedContents,
        seen: &mut HashMap<Identifier, Place>,
        findings: &mut Findings,
    ) {
        for permission in &contents.permissions {
            let identifier = own_identifier(plugin, "permission", &permission.identifier, findings);
            if let Some(identifier) =
                identifier.filter(|i| is_first(i, &permission.identifier, seen, findings))
            {
                self.add_permission(plugin, identifier, permission, findings);
            }
        }
        for set in &contents.sets {
            let identifier = own_identifier(plugin, "set", &set.identifier, findings);
            let Some(identifier) = identifier.filter(|i| is_first(i, &set.identifier, seen, findings)) else {
                continue;
            };
            if self.registry.permissions.contains_key(&identifier) {
                let message = format!("the identifier \"{identifier}\" is a command's own permission");
                findings.error(set.identifier.place.error(message));
                continue;
            }
            let members = members(plugin, &identifier, set, findings);
            let pending = PendingSet { description: set.description.clone(), members };
            self.sets.0.insert(identifier, pending);
        }
    }

    /// A permission under the name of one that a command has by itself takes its place.
    fn add_permission(
        &mut self,
        plugin: &ShippedPlugin,
        identifier: Identifier,
        permission: &ShippedPermission,
        findings: &mut Findings,
    ) {
        let allow = self.commands_of(plugin, &identifier, &permission.allow, findings);
        let deny = self.commands_of(plugin, &identifier, &permission.deny, findings);
        check_scopes(&plugin.scope, &identifier, permission, findings);
        let here =
            permission.platforms.is_empty() || permission.platforms.contains(&self.circumstances.platform);
        let scoped = (allow.is_empty() && deny.is_empty())
            || allow.iter().any(|command| self.registry.is_scoped(command.as_str()));
        let scope = permission.scope.clone();
        let part = Part { identifier: identifier.clone(), allow, deny, scope, scoped };
        let resolved = Arc::new(if here { Resolved::leaf(part) } else { Resolved::default() });
        let description = permission.description.clone();
        let registered = Registered { resolved, description, kind: PermissionKind::Permission };
        self.registry.permissions.insert(identifier, registered);
    }

    fn commands_of(
        &self,
        plugin: &ShippedPlugin,
        identifier: &Identifier,
        names: &[Written],
        findings: &mut Findings,
    ) -> Vec<CommandName> {
        let mut commands = Vec::with_capacity(names.len());
        for Written { text, place } in names {
            let name = CommandName::new(plugin.name.as_ref(), text).ok();
            match name.filter(|name| self.registry.commands.contains_key(name)) {
                Some(name) => commands.push(name),
                None => {
                    let error = format!("permission \"{identifier}\" names the unknown command \"{text}\"");
                    let known = plugin.commands.iter().map(|command| command.name.text.as_str());
                    findings.error(place.error(error).did_you_mean(text, known));
                }
            }
        }
        commands
    }
}

/// The identifier of something that a plugin ships, which must be its own.
fn own_identifier(
    plugin: &ShippedPlugin,
    what: &str,
    written: &Written,
    findings: &mut Findings,
) -> Option<Identifier> {
    let Written { text, place } = written;
    match Identifier::in_plugin(plugin.plugin(), text) {
        Ok(identifier) if identifier.plugin() == plugin.plugin() => return Some(identifier),
        Ok(identifier) => {
            findings.error(place.error(format!("{what} \"{identifier}\" belongs to another plugin")));
        }
        // The error names the text where there is some.
        Err(IdentifierError::Empty) => {
            findings.error(place.error(format!("{what} \"\": an empty identifier")))
        }
        Err(error) => findings.error(place.error(format!("{what} {text:?}: {error}"))),
    }
    None
}

fn is_first(
    identifier: &Identifier,
    written: &Written,
    seen: &mut HashMap<Identifier, Place>,
    findings: &mut Findings,
) -> bool {
    let first = match seen.entry(identifier.clone()) {
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(written.place.clone());
            return true;
        }
        std::collections::hash_map::Entry::Occupied(entry) => match entry.get() {
            Place::File(first) => format!("; the first is at {first}"),
            Place::Manifest(first) if matches!(written.place, Place::File(_)) => {
                format!("; {first} ships it")
            }
            Place::Manifest(_) => String::new(),
        },
    };
    findings.error(written.place.error(format!("the identifier \"{identifier}\" is used twice{first}")));
    false
}

fn members(
    plugin: &ShippedPlugin,
    identifier: &Identifier,
    set: &ShippedSet,
    findings: &mut Findings,
) -> Vec<(Identifier, Place)> {
    let mut members = Vec::with_capacity(set.members.len());
    for Written { text, place } in &set.members {
        match Identifier::in_plugin(plugin.plugin(), text) {
            Ok(member) => members.push((member, place.clone())),
            Err(error) => {
                findings.error(place.error(format!("set \"{identifier}\": member {text:?}: {error}")));
            }
        }
    }
    members
}

/// Shipped values may name any variable: whether it has a value here is not the plugin's to know.
fn check_scopes(
    kind: &ScopeKind,
    identifier: &Identifier,
    permission: &ShippedPermission,
    findings: &mut Findings,
) {
    let context = ScopeContext::for_shipped();
    let allow = permission.scope.allow.iter().flatten().map(|item| (item, ScopeRole::Allow));
    let deny = permission.scope.deny.iter().map(|item| (item, ScopeRole::Deny));
    for (item, role) in allow.chain(deny) {
        let Err(error) = kind.check(item.value(), role, &context) else { continue };
        let place = place_of(item, &permission.identifier);
        let message = format!("permission \"{identifier}\": scope value {}: {error}", item.value());
        findings.error(match error.help() {
            Some(help) => place.error(message).with_help(help),
            None => place.error(message),
        });
    }
}

fn place_of(item: &ScopeItem, of: &Written) -> Place {
    item.location().map_or_else(|| of.place.clone(), |location| Place::File(location.clone()))
}

/// Sets that wait until every permission is known.
#[derive(Default)]
struct Sets(BTreeMap<Identifier, PendingSet>);

struct PendingSet {
    description: String,
    members: Vec<(Identifier, Place)>,
}

impl Sets {
    fn resolve_into(&self, registry: &mut Registry, findings: &mut Findings) {
        let mut path = Vec::new();
        for identifier in self.0.keys() {
            self.resolve(identifier, None, registry, &mut path, findings);
        }
    }

    /// Depth first; `path` is what is being resolved, and `from` where it is named as a member.
    fn resolve(
        &self,
        identifier: &Identifier,
        from: Option<&Place>,
        registry: &mut Registry,
        path: &mut Vec<Identifier>,
        findings: &mut Findings,
    ) -> Option<Arc<Resolved>> {
        if let Some(resolved) = registry.resolved(identifier.as_str()) {
            return Some(Arc::clone(resolved));
        }
        let set = self.0.get(identifier)?;
        if let Some(place) = from {
            let cycle = path.iter().position(|step| step == identifier);
            if let Some(start) = cycle {
                let steps: Vec<_> =
                    path[start..].iter().chain([identifier]).map(Identifier::as_str).collect();
                findings.error(place.error(format!("sets contain each other: {}", steps.join(" -> "))));
            } else if path.len() >= MAX_NESTING {
                findings.error(place.error(format!("sets nest deeper than {MAX_NESTING}")));
            }
            if cycle.is_some() || path.len() >= MAX_NESTING {
                return Some(Arc::default());
            }
        }
        path.push(identifier.clone());
        let mut resolved = Resolved { operate: identifier.as_str() == OPERATE, ..Resolved::default() };
        let mut seen = BTreeSet::new();
        for (member, place) in &set.members {
            let Some(inner) = self.resolve(member, Some(place), registry, path, findings) else {
                let known = registry.permissions.keys().chain(self.0.keys()).map(Identifier::as_str);
                let message = format!("set \"{identifier}\" contains the unknown permission \"{member}\"");
                findings.error(place.error(message).did_you_mean(member.as_str(), known));
                continue;
            };
            resolved.operate |= inner.operate;
            let new = inner.parts.iter().filter(|part| seen.insert(part.identifier.clone()));
            new.cloned().for_each(|part| resolved.push(part));
        }
        path.pop();
        let resolved = Arc::new(resolved);
        let (description, kind) = (set.description.clone(), PermissionKind::Set);
        let registered = Registered { resolved: Arc::clone(&resolved), description, kind };
        registry.permissions.insert(identifier.clone(), registered);
        Some(resolved)
    }
}

#[cfg(test)]
mod tests {
    use invoked_proto::name::PluginName;
    use serde_json::json;

    use std::collections::HashSet;

    use super::{Circumstances, register as register_all};
    use crate::authority::shipped::ShippedPlugin;
    use crate::authority::source::Findings;
    use crate::authority::{
        Permission, Platform, PluginManifest, Registry, ScopeDefault, ScopeKind, TauriFiles,
    };

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
        let mut findings = Findings::default();
        let circumstances =
            Circumstances { platform: Platform::Linux, tauri: TauriFiles::Strict, provided: &HashSet::new() };
        let plugins: Vec<_> = manifests.iter().map(ShippedPlugin::of).collect();
        let registry = register_all(&plugins, &[], &circumstances, &mut findings);
        let errors: Vec<_> = findings.errors.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(registry) } else { Err(errors) }
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
