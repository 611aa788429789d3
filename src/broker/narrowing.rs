//! HELLO: a peer says who it is, and perhaps which of its capabilities it keeps, and is welcomed.
//!
//! To narrow is for the whole connection: the names are kept and applied to each policy that comes into force. What is
//! left is compiled elsewhere, as a policy may be long and each peer may keep others; until it is there, early calls
//! wait, so that none is looked at with the rights that the peer gave up.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::connection::More;
use invoked_proto::metadata::{Call, Extensions, Hello, Welcome};
use invoked_proto::registry::{ErrorCode, LIMITS};

use super::{Broker, FirstOfCall, Output, PeerState, Standing};
use crate::authority::{Asking, Narrowed, PeerFacts, PeerGrants, PolicySnapshot};
use crate::ipc::{Peer, PeerId};

/// Names without effect that WELCOME lists; of the rest it has the number.
const LISTED: usize = 8;

/// So many characters of such a name are repeated.
const NAME_MAX: usize = 64;

/// All that a peer's grants are compiled from, besides the policy.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    /// Who it is.
    pub(crate) facts: Arc<PeerFacts>,
    /// The capabilities that it keeps; `None` if it keeps all.
    pub(crate) kept: Option<Arc<[String]>>,
}

impl Holder {
    /// The same, to ask why.
    pub(crate) fn asking(&self) -> Asking<'_> {
        Asking { facts: &self.facts, kept: self.kept.as_deref() }
    }

    /// What `policy` gives it.
    pub(crate) fn grants(&self, policy: &PolicySnapshot) -> Arc<PeerGrants> {
        grants(policy, &self.facts, self.kept.as_deref())
    }
}

fn grants(policy: &PolicySnapshot, facts: &PeerFacts, kept: Option<&[String]>) -> Arc<PeerGrants> {
    match kept {
        None => policy.peer(facts),
        Some(kept) => policy.peer_narrowed(facts, kept).grants,
    }
}

/// The question what is left to a peer.
#[derive(Debug)]
pub(crate) struct Narrowing {
    peer: PeerId,
    policy: Arc<PolicySnapshot>,
    facts: Arc<PeerFacts>,
    kept: Arc<[String]>,
}

impl Narrowing {
    /// Its answer. Takes long where many capabilities match the peer.
    pub(crate) fn answer(&self) -> Narrowed {
        self.policy.peer_narrowed(&self.facts, &self.kept)
    }
}

/// A peer that waits for what is left of its grants.
#[derive(Debug)]
pub(super) struct Waiting {
    early: Vec<Early>,
}

/// What came before the peer was welcomed. The connection bounds it: a few small calls.
#[derive(Debug)]
pub(super) enum Early {
    Call { stream: u64, call: Box<Call>, first: FirstOfCall },
    Continuation { stream: u64, fragment: Bytes, more: More },
    Cancel { stream: u64 },
}

impl Broker {
    /// The peer said who it is.
    pub(crate) fn handle_hello(&mut self, id: PeerId, hello: &Hello) {
        if self.draining {
            return self.turn_away(id);
        }
        let Some(state) = self.peers.get_mut(&id) else { return };
        if !hello.name.is_empty() {
            let mut peer = Peer::clone(&state.peer);
            peer.program =
                Some(format!("{} {}", hello.name.as_str(), hello.version.as_str()).trim().to_owned());
            state.peer = Arc::new(peer);
        }
        match &hello.narrow {
            None => self.welcome(id, Vec::new()),
            Some(kept) => {
                state.kept = Some(kept.iter().map(|name| name.as_str().to_owned()).collect());
                // Not for a moment may it have what it gave up. Its allowance stays: limits are not narrowed.
                state.grants = Arc::default();
                state.standing = Standing::Waiting(Box::new(Waiting { early: Vec::new() }));
                self.ask_narrowing(id);
            }
        }
    }

    /// The answer to what is left to a peer that narrowed itself.
    pub(crate) fn handle_narrowed(&mut self, now: Instant, asked: &Narrowing, narrowed: Narrowed) {
        let id = asked.peer;
        if self.draining {
            return self.turn_away(id);
        }
        let epoch = self.epoch;
        let Some(state) = self.peers.get_mut(&id) else { return };
        if !Arc::ptr_eq(&asked.policy, &self.policy) || asked.facts != state.facts {
            // Another policy came into force meanwhile, or the peer's process is another one now.
            return self.ask_narrowing(id);
        }
        let Standing::Waiting(waiting) = std::mem::replace(&mut state.standing, Standing::Unknown) else {
            return;
        };
        (state.grants, state.epoch) = (narrowed.grants, epoch);
        // A policy that came into force meanwhile may say something else.
        state.allowance = state.account.allow(state.grants.limits());
        self.outputs.push_back(Output::Bound { peer: id, limits: state.grants.limits().clone() });
        self.welcome(id, warnings(&narrowed.unknown));
        for early in waiting.early {
            match early {
                Early::Call { stream, call, first } => self.handle_call(now, id, stream, *call, first),
                Early::Continuation { stream, fragment, more } => {
                    self.handle_continuation(now, id, stream, &fragment, more);
                }
                Early::Cancel { stream } => self.handle_cancel(now, id, stream),
            }
        }
    }

    /// Whether what a peer sends is to be [kept](Self::hold_early) until it is welcomed.
    pub(super) fn is_waiting(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(PeerState::is_waiting)
    }

    pub(super) fn hold_early(&mut self, id: PeerId, early: Early) {
        if let Some(Standing::Waiting(waiting)) = self.peers.get_mut(&id).map(|state| &mut state.standing) {
            waiting.early.push(early);
        }
    }

    fn ask_narrowing(&mut self, id: PeerId) {
        let Some(state) = self.peers.get(&id) else { return };
        let Some(kept) = state.kept.clone() else { return };
        let (policy, facts) = (Arc::clone(&self.policy), state.facts.clone());
        self.outputs.push_back(Output::Narrow(Narrowing { peer: id, policy, facts, kept }));
    }

    fn welcome(&mut self, id: PeerId, warnings: Vec<Text>) {
        let Some(state) = self.peers.get_mut(&id) else { return };
        state.standing = Standing::Welcomed;
        let limits = self.settings.announced.iter().map(|(limit, value)| {
            let name = LIMITS.iter().find(|known| known.id == Some(*limit)).map(|known| known.name);
            (*limit, name.and_then(|name| state.grants.limits().get(name)).unwrap_or(*value))
        });
        let welcome = Welcome {
            peer: id.0,
            limits: limits.collect(),
            catalogue: self.policy.revision(),
            warnings,
            extensions: Extensions::none(),
        };
        self.outputs.push_back(Output::Welcome { peer: id, welcome });
    }

    fn turn_away(&mut self, id: PeerId) {
        let message = "the daemon is stopping".to_owned();
        self.outputs.push_back(Output::Refuse { peer: id, code: ErrorCode::Unavailable, message });
    }
}

impl PeerState {
    /// What `policy` gives it.
    pub(super) fn given(&self, policy: &PolicySnapshot) -> Arc<PeerGrants> {
        grants(policy, &self.facts, self.kept.as_deref())
    }

    pub(super) fn holder(&self) -> Holder {
        Holder { facts: self.facts.clone(), kept: self.kept.clone() }
    }

    /// Whether it waits for what is left of its grants, and so has none.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.standing, Standing::Waiting(_))
    }
}

/// What a peer is told of names that keep nothing. They are its own words; whether another peer has such a capability is
/// not told.
fn warnings(unknown: &[String]) -> Vec<Text> {
    let line = |name: &String| {
        let name: String = name.chars().take(NAME_MAX).collect();
        format!("narrow: {name:?} keeps nothing: no capability of this name applies to you")
    };
    let mut warnings: Vec<Text> = unknown.iter().take(LISTED).map(|name| Text::from(line(name))).collect();
    if unknown.len() > LISTED {
        let rest = unknown.len() - LISTED;
        warnings.push(Text::from(format!("narrow: {rest} more names keep nothing")));
    }
    warnings
}
