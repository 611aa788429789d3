//! Memory that peers are written to, and file descriptors that are on their way: what the broker knows of both.

use std::sync::Arc;

use invoked_proto::registry::{Lane, limits};

use super::{Broker, PeerState};
use crate::ipc::{PeerId, ReplyLanes};

impl PeerState {
    /// Where large parts of a reply are written: nowhere, unless the peer reads there and its capabilities let it.
    pub(super) fn reply_lanes(&self) -> Option<Arc<ReplyLanes>> {
        let is_allowed = || self.grants.lanes().is_none_or(|lanes| lanes.allows(Lane::Pool));
        self.lanes.as_ref().filter(|_| is_allowed()).map(Arc::clone)
    }
}

impl Broker {
    /// The peer reads large replies in memory that the daemon writes, those from `from` bytes on. None is taken before one is
    /// written.
    pub(crate) fn open_lanes(&mut self, peer: PeerId, from: usize) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let counters = Arc::clone(&self.lane_counters);
        let lanes = ReplyLanes::new(state.account.segments(), limits::MAX_SEGMENTS, from, counters);
        state.lanes = Some(Arc::new(lanes));
    }

    /// The memory that the peer is written to.
    pub(crate) fn lanes(&self, peer: PeerId) -> Option<Arc<ReplyLanes>> {
        self.peers.get(&peer).and_then(|state| state.lanes.clone())
    }

    /// The same, for a peer that is written to no more.
    pub(crate) fn take_lanes(&mut self, peer: PeerId) -> Option<Arc<ReplyLanes>> {
        self.peers.get_mut(&peer).and_then(|state| state.lanes.take())
    }

    /// Charges a file descriptor that is about to be sent; false if too many are on their way to peers of its uid.
    pub(crate) fn charge_fd(&mut self, peer: PeerId) -> bool {
        self.peers.get_mut(&peer).is_some_and(|state| state.fds.grow(1))
    }

    /// So many file descriptors were sent to the peer, and not confirmed.
    pub(crate) fn note_unconfirmed(&mut self, peer: PeerId, fds: usize) {
        if let Some(state) = self.peers.get_mut(&peer)
            && state.fds.amount() != fds as u64
        {
            state.fds.settle(fds as u64);
        }
    }
}
