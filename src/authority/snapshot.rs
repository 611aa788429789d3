//! The policy in force, and which of its capabilities match a peer.
//!
//! Owns the index of capabilities and what is kept of peers. A snapshot never changes: a reload makes another one.
//! Grants are compiled once, when the first peer connects that these capabilities match.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::grants::{GrantId, GrantsBuilder, PeerGrants, Stay};
use super::identifier::Identifier;
use super::peer::{NeededFacts, PeerFacts, PeerState, Subject};
use super::registry::Registry;
use super::resolve::CapabilityRules;
use super::scope::{ScopeContext, ScopeVariable};
use super::source::{Location, PolicyError};

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
    remarks: Remarks,
    cache: Mutex<PeerCache>,
    next_grant: AtomicU64,
}

/// What is told of a policy and decides nothing.
#[derive(Debug)]
pub(crate) struct Remarks {
    /// The policy that is always there, and that of `--dev`.
    pub(crate) embedded: Vec<String>,
    pub(crate) notes: Vec<PolicyError>,
    pub(crate) pending: Vec<PendingPermission>,
}

/// A permission of a plugin that nobody has described yet, though some capability lets a peer provide it. It grants
/// nothing.
#[derive(Clone, Debug)]
pub struct PendingPermission {
    /// The permission.
    pub identifier: Identifier,
    /// The capability that names it.
    pub capability: Arc<str>,
    /// Where.
    pub location: Location,
}

/// Compiled grants by the facts they depend on, and by what these facts amount to: peers that the same capabilities
/// match hold the same, unless a scope looks at whose home it is.
#[derive(Debug, Default)]
struct PeerCache {
    grants: HashMap<PeerKey, Arc<PeerGrants>>,
    compiled: HashMap<Matched, Weak<PeerGrants>>,
    /// The number of entries at which those of nobody connected are dropped; twice what was left the last time, so
    /// that looking through them costs little per peer.
    sweep_at: usize,
}

impl PeerCache {
    /// The grants of a peer like this one, if they are there.
    fn compiled(&self, matched: &Matched) -> Option<Arc<PeerGrants>> {
        self.compiled.get(matched)?.upgrade()
    }

    /// Keeps `grants`, unless somebody else was quicker; gives what is kept.
    fn insert(&mut self, key: PeerKey, matched: Matched, grants: Arc<PeerGrants>) -> Arc<PeerGrants> {
        if let Some(kept) = self.grants.get(&key) {
            return Arc::clone(kept);
        }
        let grants = self.compiled(&matched).unwrap_or(grants);
        if self.grants.len() >= self.sweep_at.max(CACHED_PEERS) {
            self.sweep();
        }
        self.compiled.insert(matched, Arc::downgrade(&grants));
        Arc::clone(self.grants.entry(key).insert_entry(grants).get())
    }

    /// Drops what no connected peer holds: all its references are this map's.
    fn sweep(&mut self) {
        let mut own: HashMap<*const PeerGrants, usize> = HashMap::new();
        for grants in self.grants.values() {
            *own.entry(Arc::as_ptr(grants)).or_default() += 1;
        }
        self.grants.retain(|_, grants| Arc::strong_count(grants) > own[&Arc::as_ptr(grants)]);
        self.compiled.retain(|_, grants| grants.strong_count() > 0);
        self.sweep_at = 2 * self.grants.len();
    }
}

/// The facts on which grants depend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PeerKey {
    subject: Subject,
    home: Option<PathBuf>,
    /// The capabilities that a narrowed peer keeps, in order; `None` for one that is not narrowed.
    kept: Option<Box<[usize]>>,
}

/// What the facts of a peer amount to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Matched {
    /// The capabilities that match it, in order.
    capabilities: Box<[usize]>,
    /// Those that it keeps, if it is narrowed.
    kept: Option<Box<[usize]>>,
    /// Its home, where a scope may ask for it.
    home: Option<PathBuf>,
}

/// Which capabilities may match a peer: by uid where a matcher names one, else by a group, else always.
#[derive(Debug, Default)]
struct PeerIndex {
    by_uid: HashMap<u32, Vec<usize>>,
    by_gid: HashMap<u32, Vec<usize>>,
    everyone: Vec<usize>,
    /// What matchers ask of the processes of a uid. They name one: without it they are refused at load.
    needed: HashMap<u32, NeededFacts>,
}

/// What is left to a peer that narrowed itself.
#[derive(Clone, Debug)]
pub struct Narrowed {
    /// What it holds.
    pub grants: Arc<PeerGrants>,
    /// The names that keep nothing, as no capability of that name matches this peer. Whether one exists is not said.
    pub unknown: Vec<String>,
}

impl PolicySnapshot {
    pub(crate) fn new(
        revision: u64,
        registry: Registry,
        capabilities: Vec<CapabilityRules>,
        variables: Arc<BTreeMap<ScopeVariable, String>>,
        remarks: Remarks,
    ) -> Self {
        PolicySnapshot {
            revision,
            registry,
            index: PeerIndex::new(&capabilities),
            capabilities,
            variables,
            remarks,
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
        self.remarks.embedded.join("\n")
    }

    /// The part of it that `--dev` adds, ready to save, if it does.
    #[must_use]
    pub fn dev_policy(&self) -> Option<&str> {
        self.remarks.embedded.get(1).map(String::as_str)
    }

    /// What authors of its files should know of what they wrote, and what is no fault.
    #[must_use]
    pub fn notes(&self) -> &[PolicyError] {
        &self.remarks.notes
    }

    /// The permissions that grant nothing until a peer provides their plugin, in the order of the files.
    #[must_use]
    pub fn pending(&self) -> &[PendingPermission] {
        &self.remarks.pending
    }

    /// The number of capabilities in force, the embedded ones included.
    #[must_use]
    pub fn capability_count(&self) -> usize {
        self.capabilities.len()
    }

    /// What has to be read of the process of a peer of this uid before it is asked about: what rules look at that may
    /// match it.
    #[must_use]
    pub fn needed_facts(&self, uid: u32) -> NeededFacts {
        self.index.needed.get(&uid).copied().unwrap_or_default()
    }

    /// Which facts of a peer's process some capability matches it by, so that what it is given depends on them.
    #[must_use]
    pub fn relied_facts(&self, facts: &PeerFacts) -> NeededFacts {
        if facts.unmatchable().is_some() || !self.needed_facts(facts.uid).any() {
            return NeededFacts::default();
        }
        let subject = self.key(facts).subject;
        let matching = self.matching_ids(&subject);
        let differs = |without: Subject| self.matching_ids(&without) != matching;
        let executable = differs(Subject { executable: None, ..subject.clone() });
        let unit = differs(Subject { unit: None, ..subject.clone() });
        // Where either would do, neither alone is missed; without both, what matched by them would be lost.
        let either =
            !executable && !unit && differs(Subject { executable: None, unit: None, ..subject.clone() });
        NeededFacts { executable: executable || either, unit: unit || either }
    }

    /// What this policy gives a peer. Peers share it that the same capabilities match, if no scope of these may ask for
    /// the peer's home. The cost depends on the capabilities that may match this peer, not on how many there are; the
    /// first such peer pays it.
    #[must_use]
    pub fn peer(&self, facts: &PeerFacts) -> Arc<PeerGrants> {
        match facts.unmatchable() {
            Some(_) => Arc::default(),
            None => self.cached(self.key(facts)),
        }
    }

    /// What this policy leaves a peer that keeps only the capabilities of these identifiers: their grants, and the
    /// denials of every capability that matches it, so that it can do nothing that it couldn't do otherwise. The
    /// embedded capabilities are called `operate` and `dev`.
    ///
    /// Limits and lanes stay those of [`peer`](Self::peer).
    #[must_use]
    pub fn peer_narrowed<S: AsRef<str>>(&self, facts: &PeerFacts, identifiers: &[S]) -> Narrowed {
        if facts.unmatchable().is_some() {
            let unknown = identifiers.iter().map(|name| name.as_ref().to_owned()).collect();
            return Narrowed { grants: Arc::default(), unknown };
        }
        let mut key = self.key(facts);
        let matching = self.matching_ids(&key.subject);
        let named = |i: &usize| identifiers.iter().any(|n| n.as_ref() == &*self.capabilities[*i].identifier);
        let kept: Box<[usize]> = matching.into_iter().filter(named).collect();
        let keeps = |name: &str| kept.iter().any(|i| &*self.capabilities[*i].identifier == name);
        let unknown = identifiers.iter().map(AsRef::as_ref).filter(|name| !keeps(name)).map(str::to_owned);
        let unknown = unknown.collect();
        key.kept = Some(kept);
        Narrowed { grants: self.cached(key), unknown }
    }

    fn key(&self, facts: &PeerFacts) -> PeerKey {
        debug_assert_eq!(facts.state, PeerState::Live, "a reaped peer is unmatchable");
        let subject = facts.subject(self.needed_facts(facts.uid));
        PeerKey { subject, home: facts.home.clone(), kept: None }
    }

    fn cached(&self, key: PeerKey) -> Arc<PeerGrants> {
        if let Some(grants) = self.cache().grants.get(&key) {
            return Arc::clone(grants);
        }
        // While the cache is free: whoever only looks something up must not wait for it.
        let matched = self.matched(&key);
        let alike = self.cache().compiled(&matched);
        let grants = alike.unwrap_or_else(|| Arc::new(self.compile(&matched)));
        self.cache().insert(key, matched, grants)
    }

    fn matched(&self, key: &PeerKey) -> Matched {
        let capabilities = self.matching_ids(&key.subject);
        let personal = capabilities.iter().any(|i| self.capabilities[*i].personal);
        let home = key.home.clone().filter(|_| personal);
        Matched { capabilities: capabilities.into(), kept: key.kept.clone(), home }
    }

    /// Whether [`peer`](Self::peer) is one lookup for a peer with these facts, as it is while the grants of one like it are
    /// in use.
    pub(crate) fn is_prepared_for(&self, facts: &PeerFacts) -> bool {
        facts.unmatchable().is_some() || self.cache().grants.contains_key(&self.key(facts))
    }

    fn cache(&self) -> MutexGuard<'_, PeerCache> {
        // A panic while it is held leaves a map that is whole: nothing is half inserted.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The capabilities that match a peer, in the order of their files.
    pub(crate) fn matching(&self, facts: &PeerFacts) -> Vec<&CapabilityRules> {
        if facts.unmatchable().is_some() {
            return Vec::new();
        }
        self.matching_ids(&self.key(facts).subject).into_iter().map(|i| &self.capabilities[i]).collect()
    }

    fn matching_ids(&self, subject: &Subject) -> Vec<usize> {
        let mut candidates = self.index.candidates(subject);
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|i| self.capabilities[*i].matches(subject));
        candidates
    }

    fn compile(&self, matched: &Matched) -> PeerGrants {
        let mut build = GrantsBuilder::default();
        for i in &matched.capabilities {
            let kept = matched.kept.as_ref().is_none_or(|kept| kept.binary_search(i).is_ok());
            build.add(&self.capabilities[*i], if kept { Stay::Whole } else { Stay::Denials });
        }
        let context = ScopeContext::new(Arc::clone(&self.variables), matched.home.as_deref());
        build.finish(self, &Arc::new(context))
    }

    pub(crate) fn grant_id(&self) -> GrantId {
        // The revision in the upper half: an id is not used again after a reload.
        GrantId::new((self.revision << 32) | (self.next_grant.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff))
    }
}

impl PeerIndex {
    fn new(capabilities: &[CapabilityRules]) -> Self {
        let mut index = PeerIndex::default();
        for (i, capability) in capabilities.iter().enumerate() {
            for matcher in &capability.peers {
                if let (Some(uid), true) = (matcher.uid(), matcher.needs().any()) {
                    let needed = index.needed.entry(uid).or_default();
                    needed.executable |= matcher.needs().executable;
                    needed.unit |= matcher.needs().unit;
                }
                match (matcher.uid(), matcher.gids().first()) {
                    (Some(uid), _) => index.by_uid.entry(uid).or_default().push(i),
                    (None, Some(gid)) => index.by_gid.entry(*gid).or_default().push(i),
                    (None, None) => index.everyone.push(i),
                }
            }
        }
        index
    }

    fn candidates(&self, peer: &Subject) -> Vec<usize> {
        let by_gid = peer.groups.iter().filter_map(|gid| self.by_gid.get(gid));
        self.by_uid
            .get(&peer.uid)
            .into_iter()
            .chain(by_gid)
            .flatten()
            .chain(&self.everyone)
            .copied()
            .collect()
    }
}
