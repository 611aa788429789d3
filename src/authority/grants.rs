//! What a policy gives one peer: a verdict for each command, and grants that judge arguments.
//!
//! Owns verdicts. A verdict is one lookup; which capabilities match the peer was settled before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use invoked_proto::name::CommandName;

use super::joined::default_of_joined;
use super::limits::{PeerLanes, PeerLimits};
use super::registry::Part;
use super::resolve::{CapabilityRules, EntryRules, RuleOrigin};
use super::scope::{
    CompiledScope, GrantScope, PluginScope, ScopeContext, ScopeDefault, ScopeDenial, ScopeObject,
    ScopeObjectMatch, ScopeVerdict, TypedScopes, judge,
};
use super::snapshot::PolicySnapshot;
use super::source::Location;

/// What matching capabilities say about each command, before it is one rule a command.
#[derive(Default)]
pub(crate) struct GrantsBuilder {
    allowed: foldhash::HashMap<CommandName, Vec<Arc<GrantScope>>>,
    /// Scopes of capabilities of which only the denials stay: they hold where something else allows the command.
    denying: HashMap<CommandName, Vec<Arc<GrantScope>>>,
    denied: HashMap<CommandName, Denial>,
    globals: HashMap<String, Vec<Arc<GrantScope>>>,
    /// Commands that the embedded policy allows this peer, which no file denies it.
    kept: HashSet<CommandName>,
    provide: HashSet<String>,
    limits: PeerLimits,
    lanes: Option<PeerLanes>,
    operator: bool,
}

impl GrantsBuilder {
    /// Adds a capability that matches the peer.
    pub(crate) fn add(&mut self, capability: &CapabilityRules, stay: Stay) {
        let whole = stay == Stay::Whole;
        // Of the peer, not of what it may call: giving up a capability that sets a low limit must not raise it.
        self.limits.add(&capability.limits);
        if let Some(lanes) = &capability.lanes {
            self.lanes.get_or_insert_default().add(lanes);
        }
        if whole {
            self.provide.extend(capability.provide.iter().cloned());
        }
        for entry in &capability.entries {
            if self.allowed.is_empty() {
                // Of a large set, the table would grow a dozen times.
                self.allowed.reserve(entry.resolved.parts.len());
            }
            self.operator |= whole && entry.resolved.operate;
            for part in &entry.resolved.parts {
                self.add_scope(capability, entry, part, stay);
                for command in &part.deny {
                    self.denied.entry(command.clone()).or_insert_with(|| {
                        Denial::Denied(DeniedBy {
                            capability: Arc::clone(&capability.identifier),
                            permission: Arc::clone(&entry.scope.permission),
                            location: entry.scope.location.clone(),
                        })
                    });
                }
            }
        }
    }

    /// Adds the scope that an entry gives the commands of one permission, or those of its plugin.
    fn add_scope(&mut self, capability: &CapabilityRules, entry: &EntryRules, part: &Part, stay: Stay) {
        let global = entry.is_global(part);
        if !global && part.allow.is_empty() {
            return;
        }
        let mut scope = entry.scope_of(part);
        if stay == Stay::Denials {
            if scope.lists.deny.is_empty() {
                return;
            }
            scope = Arc::new(scope.without_allow());
        }
        if global {
            let plugin = part.identifier.plugin().unwrap_or("").to_owned();
            self.globals.entry(plugin).or_default().push(Arc::clone(&scope));
        }
        for command in &part.allow {
            match stay {
                Stay::Whole => self
                    .allowed
                    .entry(command.clone())
                    .or_insert_with(|| Vec::with_capacity(1))
                    .push(Arc::clone(&scope)),
                Stay::Denials => self.denying.entry(command.clone()).or_default().push(Arc::clone(&scope)),
            }
            if stay == Stay::Whole && capability.origin == RuleOrigin::Operate {
                self.kept.insert(command.clone());
            }
        }
    }

    /// The rules for one peer, whose variables are `context`.
    pub(crate) fn finish(mut self, policy: &PolicySnapshot, context: &Arc<ScopeContext>) -> PeerGrants {
        let shared = |scopes| Arc::new(PluginScope::new(scopes, Arc::clone(context)));
        let globals: HashMap<String, Arc<PluginScope>> =
            self.globals.into_iter().map(|(plugin, scopes)| (plugin, shared(scopes))).collect();
        let none = shared(Vec::new());
        let mut rules = foldhash::HashMap::<CommandName, Rule>::with_capacity_and_hasher(
            self.allowed.len(),
            Default::default(),
        );
        for (command, mut scopes) in self.allowed {
            scopes.extend(self.denying.remove(&command).unwrap_or_default());
            let grant = Grant {
                id: policy.grant_id(),
                scoped: policy.registry.is_scoped(command.as_str()),
                scopes: scopes.into(),
                plugin: Arc::clone(globals.get(command.plugin().unwrap_or("")).unwrap_or(&none)),
                default: policy.registry.default_scope(command.plugin()),
                context: Arc::clone(context),
                typed: TypedScopes::default(),
                parts: Vec::new(),
                command: command.clone(),
            };
            rules.insert(command, Rule::Allow(Arc::new(grant)));
        }
        // Who may provide something says so by these, and asks for nothing else by them.
        let registering = ["core.provide", "core.withdraw"].into_iter().filter(|_| !self.provide.is_empty());
        for command in registering.filter_map(|name| policy.registry.command(name)) {
            rules.entry(command.clone()).or_insert_with(|| {
                Rule::Allow(Arc::new(Grant {
                    id: policy.grant_id(),
                    command: command.clone(),
                    scoped: false,
                    scopes: Arc::new([]),
                    plugin: Arc::clone(&none),
                    default: policy.registry.default_scope(command.plugin()),
                    context: Arc::clone(context),
                    typed: TypedScopes::default(),
                    parts: Vec::new(),
                }))
            });
        }
        for (command, denial) in self.denied.into_iter().filter(|(command, _)| !self.kept.contains(command)) {
            rules.insert(command, Rule::Deny(denial));
        }
        PeerGrants {
            rules,
            unlisted: Denial::NoRule,
            globals,
            provide: self.provide,
            limits: self.limits,
            lanes: self.lanes,
            operator: self.operator,
        }
    }
}

/// What a capability that matches a peer still does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    Whole,
    /// The peer gave up what it grants.
    Denials,
}

/// What the policy gives a peer: a verdict for each command.
#[derive(Debug, Default)]
pub struct PeerGrants {
    rules: foldhash::HashMap<CommandName, Rule>,
    unlisted: Denial,
    globals: HashMap<String, Arc<PluginScope>>,
    provide: HashSet<String>,
    limits: PeerLimits,
    lanes: Option<PeerLanes>,
    operator: bool,
}

#[derive(Debug)]
enum Rule {
    Allow(Arc<Grant>),
    Deny(Denial),
}

/// Whether a peer may call a command.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub enum Verdict<'g> {
    /// It may; if the command is scoped, its arguments are still to be checked against the grant.
    Allow(&'g Arc<Grant>),
    /// It may not.
    Deny(&'g Denial),
}

/// Why a peer may not call a command. For the operator: a peer is told neither, see
/// [`refusal`](PolicySnapshot::refusal).
#[derive(Clone, Debug, Default)]
pub enum Denial {
    /// No capability that matches the peer allows it, or no such command exists.
    #[default]
    NoRule,
    /// A capability that matches the peer denies it.
    Denied(DeniedBy),
}

/// The entry that denies a command.
#[derive(Clone, Debug)]
pub struct DeniedBy {
    pub(crate) capability: Arc<str>,
    pub(crate) permission: Arc<str>,
    pub(crate) location: Location,
}

impl DeniedBy {
    /// The identifier of the capability.
    #[must_use]
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// The permission as it writes it.
    #[must_use]
    pub fn permission(&self) -> &str {
        &self.permission
    }

    /// Where it writes it.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }
}

impl PeerGrants {
    /// Whether this peer may call `command`, by its canonical name. One lookup, no allocation; a name that isn't
    /// canonical names nothing.
    pub fn authorize(&self, command: &str) -> Verdict<'_> {
        match self.rules.get(command) {
            Some(Rule::Allow(grant)) => Verdict::Allow(grant),
            Some(Rule::Deny(denial)) => Verdict::Deny(denial),
            None => Verdict::Deny(&self.unlisted),
        }
    }

    /// Whether this peer may serve the plugin `name`.
    #[must_use]
    pub fn may_provide(&self, name: &str) -> bool {
        self.provide.contains(name) || self.provide.contains("*")
    }

    /// What capabilities set of what this peer may hold at once.
    #[must_use]
    pub fn limits(&self) -> &PeerLimits {
        &self.limits
    }

    /// The lanes that bodies may take between this peer and the daemon; `None` where no capability says, and all may be
    /// offered.
    #[must_use]
    pub fn lanes(&self) -> Option<&PeerLanes> {
        self.lanes.as_ref()
    }

    /// Whether this peer holds `core:operate`, and so may know which commands exist.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.operator
    }

    /// The commands that this peer may call, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.rules.values().filter_map(|rule| match rule {
            Rule::Allow(grant) => Some(grant),
            Rule::Deny(_) => None,
        })
    }

    /// The scopes that scope-only permissions of `plugin` give this peer.
    #[must_use]
    pub fn global_scopes(&self, plugin: &str) -> &[Arc<GrantScope>] {
        self.globals.get(plugin).map_or(&[], |plugin| plugin.scopes())
    }

    /// Why the scopes that scope-only permissions of `plugin` give this peer would refuse `input` to each of its commands.
    pub(crate) fn shared_denial<S: ScopeObjectMatch>(
        &self,
        plugin: &str,
        input: &S::Input,
    ) -> Option<ScopeDenial> {
        self.globals.get(plugin)?.compiled::<S>().denial(input)
    }
}

/// The number of a grant, unique within a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(u64);

impl GrantId {
    pub(crate) fn new(id: u64) -> Self {
        GrantId(id)
    }

    /// The number.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

/// That a peer may call a command, with the scopes that its arguments must meet.
pub struct Grant {
    id: GrantId,
    command: CommandName,
    scoped: bool,
    scopes: Arc<[Arc<GrantScope>]>,
    plugin: Arc<PluginScope>,
    default: Arc<ScopeDefault>,
    context: Arc<ScopeContext>,
    typed: TypedScopes,
    /// Those of which each must allow an argument, where it stands for several.
    parts: Vec<Arc<Grant>>,
}

impl Grant {
    /// One that stands for several of the same command; `scope` is no wider than any of them.
    pub(super) fn joined(
        id: GrantId,
        parts: Vec<Arc<Grant>>,
        scope: Arc<GrantScope>,
        context: Arc<ScopeContext>,
    ) -> Self {
        let command = parts.first().expect("a call has its own caller's").command.clone();
        let plugin = Arc::new(PluginScope::new(Vec::new(), Arc::clone(&context)));
        let (scopes, default) = (Arc::new([scope]), default_of_joined());
        let typed = TypedScopes::default();
        Grant { id, command, scoped: true, scopes, plugin, default, context, typed, parts }
    }

    /// A grant that another daemon compiled: everything in it is resolved.
    pub(crate) fn given(
        id: GrantId,
        command: CommandName,
        scoped: bool,
        own: Arc<GrantScope>,
        global: Vec<Arc<GrantScope>>,
    ) -> Self {
        let context = Arc::new(ScopeContext::default());
        Grant {
            id,
            command,
            scoped,
            scopes: Arc::new([own]),
            plugin: Arc::new(PluginScope::new(global, Arc::clone(&context))),
            default: Arc::new(ScopeDefault::Everything),
            context,
            typed: TypedScopes::default(),
            parts: Vec::new(),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> GrantId {
        self.id
    }

    /// The command.
    #[must_use]
    pub fn command(&self) -> &CommandName {
        &self.command
    }

    /// Whether the command looks at scopes.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.scoped
    }

    /// One scope for each entry of a capability that allows the command.
    #[must_use]
    pub fn scopes(&self) -> &[Arc<GrantScope>] {
        &self.scopes
    }

    /// The scopes of scope-only permissions of the command's plugin.
    #[must_use]
    pub fn global_scopes(&self) -> &[Arc<GrantScope>] {
        self.plugin.scopes()
    }

    /// What a scope that names nothing stands for.
    pub(crate) fn default_scope(&self) -> &ScopeDefault {
        &self.default
    }

    /// The values of variables for this peer. Of a command that isn't scoped, the peer's home need not be among them.
    #[must_use]
    pub fn context(&self) -> &ScopeContext {
        &self.context
    }

    /// The scopes of this command's grants as `S`, or why they can't be told: a deny value that `S` can't read, which
    /// denies everything. Of a command that isn't scoped, no value, and everything is allowed.
    ///
    /// Read at the first call and kept, for as long as the grant is.
    ///
    /// # Errors
    /// [`ScopeDenial::DeniedBy`] with what is wrong with the value.
    pub fn command_scope<S: ScopeObject>(&self) -> Result<&Arc<CompiledScope<S>>, ScopeDenial> {
        self.compiled().readable()
    }

    /// The scopes that scope-only permissions give this peer for every command of the command's plugin, as `S`. They
    /// are those of this peer and this plugin, whatever `S` is.
    ///
    /// # Errors
    /// As [`command_scope`](Self::command_scope).
    pub fn global_scope<S: ScopeObject>(&self) -> Result<&Arc<CompiledScope<S>>, ScopeDenial> {
        self.plugin.compiled().readable()
    }

    /// Whether the scopes, those of the command and of its plugin, allow `input`: no deny value of any grant matches
    /// it, and some single grant allows it. A command that isn't scoped allows every input.
    ///
    /// Values are read as `S` at the first call and kept.
    pub fn check<S: ScopeObjectMatch>(&self, input: &S::Input) -> ScopeVerdict {
        if let Some(denied) = self.parts.iter().map(|part| part.check::<S>(input)).find(|v| !v.is_allowed()) {
            return denied;
        }
        if !self.parts.is_empty() {
            return ScopeVerdict::Allowed;
        }
        if !self.scoped {
            return match S::admit(input) {
                Ok(()) => ScopeVerdict::Allowed,
                Err(error) => ScopeVerdict::Denied(ScopeDenial::Input(error)),
            };
        }
        judge::<S>(&[self.compiled(), self.plugin.compiled()], input)
    }

    fn compiled<S: ScopeObject>(&self) -> &Arc<CompiledScope<S>> {
        self.typed.get(|| match self.scoped {
            true => CompiledScope::of_command(&self.scopes, &self.default, &self.context),
            false => CompiledScope::everything(),
        })
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("id", &self.id).field("command", &self.command).finish_non_exhaustive()
    }
}
