//! In a provider: the processes for whom the daemon calls, each a peer of its own.
//!
//! They have no connection here but the daemon's, which all of them share, and were judged there: each of their calls brings
//! the grant that allows it. Quotas, deadlines, channels and ends of calls are as in a daemon.

use std::sync::Arc;
use std::time::Instant;

use foldhash::HashSet;
use invoked_proto::metadata::Call;

use super::quota::Resource;
use super::{Broker, FirstOfCall, Standing};
use crate::authority::{Grant, PeerFacts, PeerGrants};
use crate::ipc::PeerId;

/// What is kept of them besides what is kept of each peer.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// Those for whom something was answered that the daemon may not have read.
    owing: HashSet<PeerId>,
}

impl Origins {
    pub(super) fn note_answer(&mut self, peer: PeerId) {
        self.owing.insert(peer);
    }
}

impl Broker {
    /// The daemon will call for a process of which it says this; its number there is its number here. False if the provider
    /// is stopping.
    pub(crate) fn handle_origin(&mut self, id: PeerId, facts: PeerFacts) -> bool {
        if self.draining || self.peers.contains_key(&id) {
            return false;
        }
        self.origins.get_or_insert_default();
        let account = self.ledger.account(facts.uid);
        let grants: Arc<PeerGrants> = Arc::default();
        let allowance = account.allow(grants.limits());
        let nothing = account.charge_nothing(Resource::Connections);
        self.add_peer_as(id, facts, grants, account, allowance, nothing);
        self.local_peers += 1;
        let state = self.peers.get_mut(&id).expect("it was added just now");
        state.standing = Standing::Welcomed;
        state.is_local = true;
        true
    }

    /// The daemon called for `peer`, with what allows it.
    pub(crate) fn handle_granted_call(
        &mut self,
        now: Instant,
        (peer, stream): (PeerId, u64),
        call: Call,
        first: FirstOfCall,
        grant: Arc<Grant>,
    ) {
        self.begin_call(now, (peer, stream), call, first, Some(grant));
    }

    /// Whether a call of `peer` on `stream`, or a channel of it, is open still.
    pub(crate) fn has_stream(&self, peer: PeerId, stream: u64) -> bool {
        let Some(state) = self.peers.get(&peer) else { return false };
        let mut channels = state.channels.range((stream, 0)..=(stream, u32::MAX));
        state.calls.contains_key(&stream) || channels.next().is_some()
    }

    /// Whether nothing of `peer` is open.
    pub(crate) fn is_idle(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_none_or(|state| state.calls.is_empty() && state.channels.is_empty())
    }

    /// `bytes` wait for the daemon to read them, for whomever they are: nobody is charged for more.
    pub(crate) fn note_unread_of_origins(&mut self, bytes: usize) {
        let Some(origins) = &mut self.origins else { return };
        for peer in &origins.owing {
            if let Some(state) = self.peers.get_mut(peer) {
                let left = state.unread.amount().min(bytes as u64);
                state.unread.settle(left);
            }
        }
        if bytes == 0 {
            origins.owing.clear();
        }
    }
}
