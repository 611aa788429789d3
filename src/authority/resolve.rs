//! From what capabilities write to what the registry knows: rules that are ready to be compiled for a peer.
//!
//! Owns the checks that need both: unknown and pending permissions, scopes where none is looked at, scope values of
//! the wrong form, denials that can't touch those who operate the daemon.

use std::collections::HashSet;
use std::sync::Arc;

use super::capability::{Capability, TauriFiles, WrittenPermission};
use super::limits::{PeerLanes, PeerLimits};
use super::matcher::Matcher;
use super::peer::Subject;
use super::registry::{OPERATE, Part, Registry, Resolved};
use super::remote::CallContext;
use super::scope::{GrantScope, ScopeContext, ScopeRole, ScopeVariable};
use super::snapshot::PendingPermission;
use super::source::{Findings, Location, nearest};

/// A capability whose permissions are resolved.
#[derive(Debug)]
pub(crate) struct CapabilityRules {
    pub(crate) identifier: Arc<str>,
    pub(crate) location: Location,
    pub(crate) peers: Vec<Matcher>,
    pub(crate) context: CallContext,
    pub(crate) entries: Vec<EntryRules>,
    pub(crate) provide: Vec<String>,
    pub(crate) limits: PeerLimits,
    pub(crate) lanes: Option<PeerLanes>,
    pub(crate) origin: RuleOrigin,
    /// Whether a command or a scope of it may look at the variables of its peer.
    pub(crate) personal: bool,
}

/// Who wrote a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleOrigin {
    /// An administrator.
    File,
    /// This program: root and the daemon's own uid operate it, whatever the files say.
    Operate,
    /// This program, under `--dev`.
    Dev,
}

/// One entry of `permissions`: what it resolves to, and its scope as every command without a shipped scope has it.
#[derive(Debug)]
pub(crate) struct EntryRules {
    pub(crate) resolved: Arc<Resolved>,
    pub(crate) scope: Arc<GrantScope>,
}

impl CapabilityRules {
    /// Whether it applies to a peer. The caller has refused peers that no rule may match.
    pub(crate) fn matches(&self, peer: &Subject) -> bool {
        self.context.matches(peer.remote.as_ref()) && self.peers.iter().any(|matcher| matcher.matches(peer))
    }
}

impl EntryRules {
    /// Whether a permission of this entry only adds to what its plugin's commands may touch, wherever they are granted.
    /// Beside commands of its plugin, in one set, it is the scope of these: a set is one grant.
    pub(crate) fn is_global(&self, part: &Part) -> bool {
        let commands_of_its_plugin = |other: &Arc<Part>| {
            !other.allow.is_empty() && other.identifier.plugin() == part.identifier.plugin()
        };
        part.is_scope_only() && !self.resolved.parts.iter().any(commands_of_its_plugin)
    }

    /// The scope that this entry gives the commands of `part`: its own values, those that the permission ships, and
    /// those of scope-only permissions beside it; except that an `allow = []` that someone wrote stays "nothing",
    /// whatever is shipped.
    pub(crate) fn scope_of(&self, part: &Part) -> Arc<GrantScope> {
        let plugin = part.identifier.plugin();
        let beside = self.resolved.scopes.iter();
        let beside = beside.filter(|other| !part.is_scope_only() && other.identifier.plugin() == plugin);
        let mut shipped =
            beside.map(|part| &part.scope).chain([&part.scope]).filter(|s| !s.is_absent()).peekable();
        if shipped.peek().is_none() {
            return Arc::clone(&self.scope);
        }
        let mut lists = self.scope.lists.clone();
        let nothing = lists.allow.as_ref().is_some_and(Vec::is_empty);
        for shipped in shipped {
            if let (Some(values), false) = (&shipped.allow, nothing) {
                lists.allow.get_or_insert_default().extend(values.iter().cloned());
            }
            lists.deny.extend(shipped.deny.iter().cloned());
        }
        Arc::new(GrantScope {
            capability: Arc::clone(&self.scope.capability),
            permission: Arc::clone(&self.scope.permission),
            location: self.scope.location.clone(),
            lists,
            given_up: false,
        })
    }
}

/// Whose home `$HOME` is: of some use to one user's daemon, a trap in the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Instance {
    /// The daemon of one user.
    #[default]
    User,
    /// The daemon of the machine.
    System,
}

/// What stays the same for all capabilities of one policy.
pub(crate) struct Resolver<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) context: &'a ScopeContext,
    pub(crate) instance: Instance,
    pub(crate) own_uid: u32,
    pub(crate) tauri: TauriFiles,
    /// Plugins that some capability lets a peer provide: permissions of these may be pending.
    pub(crate) provided: &'a HashSet<String>,
    /// Plugins that only a peer has described, by registering them.
    pub(crate) registered: &'a HashSet<String>,
}

impl Resolver<'_> {
    pub(crate) fn resolve(
        &self,
        capability: Capability,
        origin: RuleOrigin,
        findings: &mut Findings,
    ) -> CapabilityRules {
        let identifier = Arc::clone(&capability.identifier);
        let written =
            capability.permissions.iter().map(|entry| (entry.clone(), self.is_pending(&capability, entry)));
        let entries: Vec<EntryRules> = written
            .filter_map(|(entry, is_pending)| self.entry(&identifier, entry, is_pending, findings))
            .collect();
        if origin == RuleOrigin::File {
            for entry in &entries {
                let local = capability.context.is_local();
                self.warn_of_denials_without_effect(&capability.peers, local, entry, findings);
                warn_of_denials_by_process(&capability.peers, entry, findings);
            }
        }
        let personal = entries.iter().any(|entry| entry.resolved.scoped);
        CapabilityRules {
            personal,
            identifier,
            location: capability.location,
            peers: capability.peers,
            context: capability.context,
            limits: capability.limits,
            lanes: capability.lanes,
            entries,
            provide: capability.provide.into_iter().map(|plugin| plugin.name).collect(),
            origin,
        }
    }

    /// What a capability names of plugins that come later, if they do.
    pub(crate) fn pending<'c>(
        &'c self,
        capability: &'c Capability,
    ) -> impl Iterator<Item = PendingPermission> + 'c {
        let pending = capability.permissions.iter().filter(|written| self.is_pending(capability, written));
        pending.map(|written| PendingPermission {
            identifier: written.identifier.clone(),
            capability: Arc::clone(&capability.identifier),
            location: written.location.clone(),
        })
    }

    /// Whether a permission of a plugin that isn't here may come to mean something: some capability lets peers provide the
    /// plugin, or this one lets its own provide any. The latter is no licence for slips of the pen.
    fn is_pending(&self, capability: &Capability, written: &WrittenPermission) -> bool {
        let plugin = written.identifier.plugin().unwrap_or("");
        let provides_any = || capability.provide.iter().any(|plugin| plugin.name == "*");
        let is_slip = || nearest(plugin, self.registry.plugins()).is_some();
        !self.registry.has_plugin(plugin)
            && (self.provided.contains(plugin) || (!plugin.is_empty() && provides_any() && !is_slip()))
    }

    fn entry(
        &self,
        capability: &Arc<str>,
        written: WrittenPermission,
        is_pending: bool,
        findings: &mut Findings,
    ) -> Option<EntryRules> {
        let WrittenPermission { identifier, location, scope } = written;
        let Some(resolved) = self.registry.resolved(identifier.as_str()) else {
            let plugin = identifier.plugin().unwrap_or("");
            if is_pending {
                findings.warn(location.error(format!(
                    "\"{identifier}\" is pending: it grants nothing until a peer provides \"{plugin}\""
                )));
            } else if self.registered.contains(plugin) {
                let message = format!(
                    "\"{identifier}\" grants nothing: who provides \"{plugin}\" has no such permission"
                );
                findings.warn(location.error(message));
            } else if self.tauri == TauriFiles::Lenient
                && !plugin.is_empty()
                && !self.registry.has_plugin(plugin)
            {
                findings.warn(
                    location
                        .error(format!("\"{identifier}\" grants nothing: no plugin \"{plugin}\" is here")),
                );
            } else {
                let error = location.error(format!("unknown permission \"{identifier}\""));
                findings.error(match nearest(identifier.as_str(), self.registry.permissions()) {
                    Some(near) => error.with_help(format!("did you mean \"{near}\"?")),
                    None if !self.registry.has_plugin(plugin) && !plugin.is_empty() => {
                        error.with_help(format!("no plugin \"{plugin}\" is here"))
                    }
                    None => error,
                });
            }
            return None;
        };
        let entry = EntryRules {
            resolved: Arc::clone(resolved),
            scope: Arc::new(GrantScope {
                capability: Arc::clone(capability),
                permission: identifier.as_str().into(),
                location,
                lists: scope,
                given_up: false,
            }),
        };
        let mut found = Findings::default();
        self.check_scope(&entry, &mut found);
        findings.warnings.append(&mut found.warnings);
        if self.registered.contains(identifier.plugin().unwrap_or("")) {
            // Then such a value allows nothing, and denies everything.
            findings.warnings.append(&mut found.errors);
        }
        findings.errors.append(&mut found.errors);
        Some(entry)
    }

    fn check_scope(&self, entry: &EntryRules, findings: &mut Findings) {
        let GrantScope { lists, location, permission, .. } = &*entry.scope;
        if lists.is_absent() {
            return;
        }
        let parts = || entry.resolved.parts.iter();
        let plugins = entry.resolved.scoped_plugins();
        if plugins.is_empty() {
            let only_denies = parts().any(|p| !p.deny.is_empty()) && parts().all(|p| p.allow.is_empty());
            let message = if only_denies {
                format!("\"{permission}\" denies whole commands; a scope would change nothing")
            } else {
                format!("no command of \"{permission}\" looks at a scope")
            };
            findings.error(location.error(message));
            return;
        }
        let allow = lists.allow.iter().flatten().map(|item| (item, ScopeRole::Allow));
        for (item, role) in allow.chain(lists.deny.iter().map(|item| (item, ScopeRole::Deny))) {
            let place = item.location().unwrap_or(location);
            let checked = plugins
                .iter()
                .try_for_each(|plugin| self.registry.check_scope(*plugin, item.value(), role, self.context));
            match checked {
                Err(error) => {
                    let located = match place.is_placed() {
                        true => place.error(error.message()),
                        false => place.error(format!("scope value {}: {}", item.value(), error.message())),
                    };
                    findings.error(match error.help() {
                        Some(help) => located.with_help(help),
                        None => located,
                    });
                }
                Ok(()) if self.instance == Instance::System && uses_home(item.value()) => findings.warn(
                    place
                        .error("$HOME is the daemon's own home, and this daemon serves the whole machine")
                        .with_help("$PEER_HOME is the caller's"),
                ),
                Ok(()) => {}
            }
        }
    }

    /// Those who operate the daemon can't be locked out; say so where someone tries.
    fn warn_of_denials_without_effect(
        &self,
        peers: &[Matcher],
        local: bool,
        entry: &EntryRules,
        findings: &mut Findings,
    ) {
        let operators =
            peers.iter().any(|m| m.uid().map_or(m.gids().is_empty(), |u| u == 0 || u == self.own_uid))
                && local;
        let Some(operate) = self.registry.resolved(OPERATE).filter(|_| operators) else {
            return;
        };
        let denied = entry.resolved.parts.iter().flat_map(|part| &part.deny);
        let kept = denied.filter(|command| operate.parts.iter().any(|part| part.allow.contains(command)));
        if let Some(command) = kept.min() {
            let GrantScope { location, permission, .. } = &*entry.scope;
            findings.warn(location.error(format!(
                "\"{permission}\" has no effect on \"{command}\" for root and the daemon's own uid: they are never locked out"
            )));
        }
    }
}

/// A rule that a peer meets only if it runs a certain program is no way to keep a peer out.
fn warn_of_denials_by_process(peers: &[Matcher], entry: &EntryRules, findings: &mut Findings) {
    let GrantScope { location, permission, lists, .. } = &*entry.scope;
    let denies = !lists.deny.is_empty() || entry.resolved.parts.iter().any(|part| !part.deny.is_empty());
    if denies && peers.iter().any(|matcher| matcher.needs().any()) {
        let message = format!("what \"{permission}\" denies here is denied to no other program of the uid");
        findings.warn(location.error(message).with_help("deny it to the user, or to everyone"));
    }
}

fn uses_home(value: &serde_json::Value) -> bool {
    let text = value.as_str().or_else(|| value.get("path").and_then(serde_json::Value::as_str));
    let name = text.and_then(|text| text.strip_prefix('$')).and_then(|rest| rest.split('/').next());
    name.and_then(ScopeVariable::parse) == Some(ScopeVariable::Home)
}
