//! The policy in force, and what it gives one peer.
//!
//! Owns verdicts. A snapshot never changes: a reload makes another one. Grants of a peer are compiled once, when the
//! first peer with these facts connects; a verdict is one lookup in them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use invoked_proto::name::CommandName;

use super::peer::{PeerFacts, PeerState};
use super::registry::Registry;
use super::resolve::{CapabilityRules, RuleOrigin};
use super::scope::{
    CompiledScope, GrantScope, PluginScope, ScopeContext, ScopeDefault, ScopeDenial, ScopeObject,
    ScopeObjectMatch, ScopeVariable, ScopeVerdict, TypedScopes, judge,
};
use super::source::Location;

/// Peers whose compiled grants are kept after they left; over it, those of nobody connected are dropped.
const CACHED_PEERS: usize = 1024;

/// One policy, compiled. Share it in an `Arc`; it is never changed.
#[derive(Debug)]
pub struct PolicySnapshot {
    revision: u64,
    pub(crate) registry: Registry,
    pub(crate) capabilities: Vec<CapabilityRules>,
    index: PeerIndex,
    variables: Arc<BTreeMap<ScopeVariable, String>>,
    /// The policy that is always there, and that of `--dev`.
    embedded: Vec<String>,
    cache: Mutex<PeerCache>,
    next_grant: AtomicU64,
}

/// Compiled grants by the facts they depend on.
#[derive(Debug, Default)]
struct PeerCache {
    grants: HashMap<PeerKey, Arc<PeerGrants>>,
    /// The number of entries at which those of nobody connected are dropped; twice what was left the last time, so
    /// that looking through them costs little per peer.
    sweep_at: usize,
}

impl PeerCache {
    fn insert(&mut self, key: PeerKey, grants: Arc<PeerGrants>) {
        if self.grants.len() >= self.sweep_at.max(CACHED_PEERS) {
            self.grants.retain(|_, grants| Arc::strong_count(grants) > 1);
            self.sweep_at = 2 * self.grants.len();
        }
        self.grants.insert(key, grants);
    }
}

/// The facts on which grants depend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PeerKey {
    uid: u32,
    groups: Vec<u32>,
    home: Option<PathBuf>,
}

/// Which capabilities may match a peer: by uid where a matcher names one, else by a group, else always.
#[derive(Debug, Default)]
struct PeerIndex {
    by_uid: HashMap<u32, Vec<usize>>,
    by_gid: HashMap<u32, Vec<usize>>,
    everyone: Vec<usize>,
}

impl PolicySnapshot {
    pub(crate) fn new(
        revision: u64,
        registry: Registry,
        capabilities: Vec<CapabilityRules>,
        variables: Arc<BTreeMap<ScopeVariable, String>>,
        embedded: Vec<String>,
    ) -> Self {
        PolicySnapshot {
            revision,
            registry,
            index: PeerIndex::new(&capabilities),
            capabilities,
            variables,
            embedded,
            cache: Mutex::default(),
            next_grant: AtomicU64::new(0),
        }
    }

    /// The number that the daemon gave this policy; higher after each reload.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What plugins ship, as this policy knows it.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The embedded policy in force, `--dev` included: the text of one capability file, ready to save.
    #[must_use]
    pub fn embedded_policy(&self) -> String {
        self.embedded.join("\n")
    }

    /// The part of it that `--dev` adds, ready to save, if it does.
    #[must_use]
    pub fn dev_policy(&self) -> Option<&str> {
        self.embedded.get(1).map(String::as_str)
    }

    /// The number of capabilities in force, the embedded ones included.
    #[must_use]
    pub fn capability_count(&self) -> usize {
        self.capabilities.len()
    }

    /// What this policy gives a peer. Peers with equal facts share it. The cost depends on the capabilities that may
    /// match this peer, not on how many there are; the first peer with its facts pays it.
    #[must_use]
    pub fn peer(&self, facts: &PeerFacts) -> Arc<PeerGrants> {
        if facts.unmatchable().is_some() {
            return Arc::new(PeerGrants::default());
        }
        let key = PeerKey { uid: facts.uid, groups: facts.matchable_groups(), home: facts.home.clone() };
        // A panic while it is held leaves a map that is whole: nothing is half inserted.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grants) = cache.grants.get(&key) {
            return Arc::clone(grants);
        }
        let grants = Arc::new(self.compile(&key));
        cache.insert(key, Arc::clone(&grants));
        grants
    }

    /// The capabilities that match a peer, in the order of their files.
    pub(crate) fn matching(&self, facts: &PeerFacts) -> Vec<&CapabilityRules> {
        if facts.unmatchable().is_some() {
            return Vec::new();
        }
        debug_assert_eq!(facts.state, PeerState::Live, "a reaped peer is unmatchable");
        self.matching_ids(facts.uid, &facts.matchable_groups())
    }

    fn matching_ids(&self, uid: u32, groups: &[u32]) -> Vec<&CapabilityRules> {
        let mut candidates = self.index.candidates(uid, groups);
        candidates.sort_unstable();
        candidates.dedup();
        let capabilities = candidates.into_iter().map(|i| &self.capabilities[i]);
        capabilities.filter(|c| c.peers.iter().any(|matcher| matcher.matches(uid, groups))).collect()
    }

    fn compile(&self, key: &PeerKey) -> PeerGrants {
        let mut build = GrantsBuilder::default();
        for capability in self.matching_ids(key.uid, &key.groups) {
            build.add(capability);
        }
        let context = Arc::new(ScopeContext::new(Arc::clone(&self.variables), key.home.as_deref()));
        build.finish(self, &context)
    }

    fn grant_id(&self) -> GrantId {
        // The revision in the upper half: an id is not used again after a reload.
        GrantId((self.revision << 32) | (self.next_grant.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff))
    }
}

impl PeerIndex {
    fn new(capabilities: &[CapabilityRules]) -> Self {
        let mut index = PeerIndex::default();
        for (i, capability) in capabilities.iter().enumerate() {
            for matcher in &capability.peers {
                match (matcher.uid(), matcher.gids().first()) {
                    (Some(uid), _) => index.by_uid.entry(uid).or_default().push(i),
                    (None, Some(gid)) => index.by_gid.entry(*gid).or_default().push(i),
                    (None, None) => index.everyone.push(i),
                }
            }
        }
        index
    }

    fn candidates(&self, uid: u32, groups: &[u32]) -> Vec<usize> {
        let by_gid = groups.iter().filter_map(|gid| self.by_gid.get(gid));
        self.by_uid.get(&uid).into_iter().chain(by_gid).flatten().chain(&self.everyone).copied().collect()
    }
}

/// What matching capabilities say about each command, before it is one rule a command.
#[derive(Default)]
struct GrantsBuilder {
    allowed: HashMap<CommandName, Vec<Arc<GrantScope>>>,
    denied: HashMap<CommandName, Denial>,
    globals: HashMap<String, Vec<Arc<GrantScope>>>,
    /// Commands that the embedded policy allows this peer, which no file denies it.
    kept: HashSet<CommandName>,
    provide: HashSet<String>,
    operator: bool,
}

impl GrantsBuilder {
    fn add(&mut self, capability: &CapabilityRules) {
        self.provide.extend(capability.provide.iter().cloned());
        for entry in &capability.entries {
            self.operator |= entry.resolved.operate;
            for part in &entry.resolved.parts {
                let scope = entry.scope_of(part);
                if part.is_scope_only() {
                    let plugin = part.identifier.plugin().unwrap_or("").to_owned();
                    self.globals.entry(plugin).or_default().push(Arc::clone(&scope));
                }
                for command in &part.allow {
                    self.allowed.entry(command.clone()).or_default().push(Arc::clone(&scope));
                    if capability.origin == RuleOrigin::Operate {
                        self.kept.insert(command.clone());
                    }
                }
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

    fn finish(self, policy: &PolicySnapshot, context: &Arc<ScopeContext>) -> PeerGrants {
        let shared = |scopes| Arc::new(PluginScope::new(scopes, Arc::clone(context)));
        let globals: HashMap<String, Arc<PluginScope>> =
            self.globals.into_iter().map(|(plugin, scopes)| (plugin, shared(scopes))).collect();
        let none = shared(Vec::new());
        let mut rules = foldhash::HashMap::<CommandName, Rule>::with_capacity_and_hasher(
            self.allowed.len(),
            Default::default(),
        );
        for (command, scopes) in self.allowed {
            let grant = Grant {
                id: policy.grant_id(),
                scoped: policy.registry.is_scoped(command.as_str()),
                scopes: scopes.into(),
                plugin: Arc::clone(globals.get(command.plugin().unwrap_or("")).unwrap_or(&none)),
                default: policy.registry.default_scope(command.plugin()),
                context: Arc::clone(context),
                typed: TypedScopes::default(),
                command: command.clone(),
            };
            rules.insert(command, Rule::Allow(Arc::new(grant)));
        }
        for (command, denial) in self.denied.into_iter().filter(|(command, _)| !self.kept.contains(command)) {
            rules.insert(command, Rule::Deny(denial));
        }
        PeerGrants {
            rules,
            unlisted: Denial::NoRule,
            globals,
            provide: self.provide,
            operator: self.operator,
        }
    }
}

/// What the policy gives a peer: a verdict for each command.
#[derive(Debug, Default)]
pub struct PeerGrants {
    rules: foldhash::HashMap<CommandName, Rule>,
    unlisted: Denial,
    globals: HashMap<String, Arc<PluginScope>>,
    provide: HashSet<String>,
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
}

/// The number of a grant, unique within a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(u64);

impl GrantId {
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
}

impl Grant {
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

    /// The values of variables for this peer.
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
