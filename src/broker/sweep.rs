//! A change of the policy: in force at once, worked off in slices.
//!
//! From [`Broker::handle_policy`] on, whatever a peer sends and whatever a handler answers is judged by the new policy
//! before anything comes of it, wherever the sweep has got to. The sweep brings the news to the others: calls at which
//! nothing happens, peers that are silent, denials that nobody has asked about. It looks at so many at a time, so that ten thousand of them don't hold the
//! loop up.

use std::sync::Arc;
use std::time::Instant;

use invoked_proto::registry::ErrorCode;

use super::slots::CallId;
use super::{Broker, Holder, Output, PeerState};
use crate::authority::{Grant, PeerFacts, PeerGrants, PolicySnapshot, ProcessFact, Verdict};
use crate::ipc::PeerId;

/// Calls and peers that one slice looks at, together: some tens of microseconds.
pub(super) const SLICE: usize = 512;

/// Denials under the policy before that one slice explains: one may take as long as many of the others.
const EXPLAINED: usize = 4;

/// Which of the policies that were in force since the start something was last judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// Of what was judged by facts that hold no more.
    const NONE: Epoch = Epoch(u64::MAX);
}

/// What a change of the policy left to do.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The slot of the next call to look at.
    call: usize,
    /// Peers up to this one were looked at.
    peer: PeerId,
    retired: Retired,
}

/// What is of no use any more once a sweep is through. To free it takes long, so that is for another thread.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    /// Policies that peers held grants of.
    policies: Vec<Arc<PolicySnapshot>>,
    /// What was compiled before the policy came into force, and kept until all peers have theirs.
    prepared: Vec<Arc<PeerGrants>>,
}

/// What one slice did.
#[derive(Debug)]
pub(crate) enum Swept {
    /// There is more to look at.
    Partly {
        /// Calls, peers and their channels that were looked at, those that have ended included.
        looked_at: usize,
    },
    /// Everybody goes by the policy in force.
    Wholly(Retired),
}

impl Broker {
    /// Another policy is in force from now on. What it no longer grants ends with `revoked`: at the next thing that
    /// happens to it, or when [`sweep`](Self::sweep) comes to it, which is to be called until it is through. `prepared` is
    /// what it gives the peers that are there, compiled elsewhere; what is missing is compiled here.
    pub(crate) fn handle_policy(&mut self, policy: Arc<PolicySnapshot>, prepared: Vec<Arc<PeerGrants>>) {
        let before = std::mem::replace(&mut self.policy, policy);
        self.epoch = Epoch(self.epoch.0 + 1);
        self.decisions.handle_policy();
        self.nestings.handle_policy();
        // A sweep that was under way begins again: what it saw, it saw with the eyes of the policy before.
        let mut retired = self.sweep.take().map_or_else(Retired::default, |sweep| sweep.retired);
        retired.policies.push(before);
        retired.prepared.extend(prepared);
        self.sweep = Some(Sweep { call: 0, peer: PeerId(0), retired });
    }

    /// The next few peers after `after`, with what their grants depend on, so that these can be compiled elsewhere before
    /// another policy comes into force.
    pub(crate) fn peers_after(&self, after: PeerId) -> Vec<(PeerId, Holder)> {
        let ids = self.order.range(PeerId(after.0.saturating_add(1))..).take(SLICE);
        ids.filter_map(|id| Some((*id, self.peers.get(id)?.holder()))).collect()
    }

    /// Looks at the next few calls and peers after a change of the policy.
    pub(crate) fn sweep(&mut self, now: Instant) -> Swept {
        let Some(mut sweep) = self.sweep.take() else { return Swept::Wholly(Retired::default()) };
        let mut left = SLICE;
        let calls = sweep.call..self.calls.slots().min(sweep.call + left);
        left -= calls.len();
        for slot in calls {
            sweep.call = slot + 1;
            if let Some(id) = self.calls.at(slot) {
                self.revoke_if_gone(now, id);
            }
        }
        while left > 0 {
            let Some(id) = self.order.range(PeerId(sweep.peer.0 + 1)..).next().copied() else {
                return self.explain_retired(sweep);
            };
            sweep.peer = id;
            self.refresh(id);
            self.withdraw_ungranted(id);
            self.retire_grants(id);
            left = left.saturating_sub(1 + self.revoke_channels(now, id));
        }
        self.sweep = Some(sweep);
        Swept::Partly { looked_at: SLICE - left }
    }

    /// The process of a peer is not what was found when it connected: what rules gave it for that is gone, for good.
    pub(crate) fn handle_process_change(&mut self, now: Instant, id: PeerId) {
        let Some(state) = self.peers.get_mut(&id) else { return };
        let why = "its process runs another program now, has moved, or has ended";
        let facts = PeerFacts::clone(&state.facts);
        let facts = facts.with_executable(ProcessFact::Unknown(why.to_owned()));
        state.facts = Arc::new(facts.with_unit(ProcessFact::Unknown(why.to_owned())));
        state.epoch = Epoch::NONE;
        let calls: Vec<CallId> = state.calls.values().copied().collect();
        self.unjudge_channels(id, Epoch::NONE);
        for call in calls {
            if let Some(call) = self.calls.find_mut(call) {
                call.epoch = Epoch::NONE;
            }
            self.revoke(now, call, "the caller's process is not the one that the grant was for");
        }
        self.refresh(id);
        self.revoke_channels(now, id);
    }

    /// What the policies before have denied is explained by them, and then nobody asks them any more.
    fn explain_retired(&mut self, sweep: Sweep) -> Swept {
        self.decisions.explain_some(EXPLAINED);
        if !self.decisions.has_backlog() {
            return Swept::Wholly(sweep.retired);
        }
        self.sweep = Some(sweep);
        Swept::Partly { looked_at: SLICE }
    }

    /// The peer, with what the policy in force gives it.
    pub(super) fn refresh(&mut self, id: PeerId) -> Option<&mut PeerState> {
        let state = self.peers.get_mut(&id)?;
        // One that waits has none so far, and gets those of the policy that is in force then.
        if state.epoch != self.epoch && !state.is_waiting() {
            let given = state.given(&self.policy);
            let before = std::mem::replace(&mut state.grants, given);
            state.epoch = self.epoch;
            if before.limits() != state.grants.limits() {
                state.allowance = state.account.allow(state.grants.limits());
                self.outputs.push_back(Output::Bound { peer: id, limits: state.grants.limits().clone() });
            }
        }
        Some(state)
    }

    /// What the policy in force gives a connected peer.
    pub(crate) fn grants(&self, id: PeerId) -> Option<Arc<PeerGrants>> {
        let state = self.peers.get(&id)?;
        let is_current = state.epoch == self.epoch || state.is_waiting();
        Some(if is_current { Arc::clone(&state.grants) } else { state.given(&self.policy) })
    }

    /// What is in force for a connected peer, by the names of the registry, where capabilities may say so: what they say
    /// of its connection, and what all peers of its uid may hold.
    pub(crate) fn limits(&self, id: PeerId) -> Vec<(&'static str, u64)> {
        let Some(state) = self.peers.get(&id) else { return Vec::new() };
        state.grants.limits().iter().chain(state.account.per_uid()).collect()
    }

    /// Ends a call whose grant a change of the policy took away, and tells whether it did. To be asked before anything
    /// that happens to the call has an effect.
    pub(super) fn revoke_if_gone(&mut self, now: Instant, id: CallId) -> bool {
        self.revoke(now, id, "a change of the policy took the grant away")
    }

    fn revoke(&mut self, now: Instant, id: CallId, why: &str) -> bool {
        let Some(call) = self.calls.find(id) else { return false };
        let Some((peer, _)) = call.caller().filter(|_| call.epoch != self.epoch) else { return false };
        let Some(state) = self.refresh(peer) else { return false };
        let grants = Arc::clone(&state.grants);
        let epoch = state.epoch;
        let is_kept = self.calls.find(id).is_some_and(|call| is_kept(&grants, call.own_grant()));
        if is_kept && self.keeps_nested(id) {
            if let Some(call) = self.calls.find_mut(id) {
                call.epoch = epoch;
            }
            return false;
        }
        self.abandon(now, id, ErrorCode::Revoked, why);
        true
    }
}

/// Whether all that `before` allowed is still allowed.
pub(super) fn is_kept(grants: &PeerGrants, before: &Grant) -> bool {
    matches!(grants.authorize(before.command().as_str()), Verdict::Allow(grant) if grant.keeps(before))
}
