//! What peers are given otherwise than in the frames, and file descriptors on their way: what the broker knows of both.

use std::sync::Arc;

use bytes::Bytes;
use invoked_proto::connection::LaneSet;
use invoked_proto::registry::Lane;
use invoked_transport::SegmentBudget;

use super::{Broker, Held, PeerState};
use crate::ipc::{Allowed, CallLanes, FdCharge, Lanes, PeerId, ReplyLanes};

impl PeerState {
    /// How a reply may travel: in the frames only, unless the peer takes it otherwise and its capabilities let it.
    pub(super) fn call_lanes(&self) -> Option<CallLanes> {
        let peer = Arc::clone(self.lanes.as_ref()?);
        let is_allowed = |lane| self.grants.lanes().is_none_or(|lanes| lanes.allows(lane));
        let allowed = Allowed { pool: is_allowed(Lane::Pool), file: is_allowed(Lane::File) };
        (allowed.pool || allowed.file).then_some(CallLanes { peer, allowed })
    }
}

impl Broker {
    /// The peer takes large replies otherwise than in the frames, from the sizes in `lanes` on. Nothing is taken before one is
    /// made.
    pub(crate) fn open_lanes(&mut self, peer: PeerId, lanes: Lanes) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let counters = Arc::clone(&self.lane_counters);
        let lanes = ReplyLanes::new(lanes, state.account.segments(), state.account.fds(), counters);
        state.lanes = Some(Arc::new(lanes));
    }

    /// Parts of so many bytes each were sent in memory that their peer reads.
    pub(crate) fn note_pooled(&self, parts: impl Iterator<Item = u64>) {
        parts.for_each(|bytes| self.lane_counters.note_pooled(bytes));
    }

    /// What the peer is given.
    pub(crate) fn lanes(&self, peer: PeerId) -> Option<Arc<ReplyLanes>> {
        self.peers.get(&peer).and_then(|state| state.lanes.clone())
    }

    /// The same of all peers that were given memory.
    pub(crate) fn all_lanes(&self) -> Vec<(PeerId, Arc<ReplyLanes>)> {
        let used = |(peer, state): (&PeerId, &PeerState)| {
            let lanes = state.lanes.as_ref().filter(|lanes| lanes.pool().bytes() > 0)?;
            Some((*peer, Arc::clone(lanes)))
        };
        self.peers.iter().filter_map(used).collect()
    }

    /// The same, for a peer that is given nothing more.
    pub(crate) fn take_lanes(&mut self, peer: PeerId) -> Option<Arc<ReplyLanes>> {
        self.peers.get_mut(&peer).and_then(|state| state.lanes.take())
    }

    /// The lanes that the peer may send on, as its capabilities say now; none while its uid holds too many descriptors open.
    pub(crate) fn lanes_to_take(&self, peer: PeerId) -> LaneSet {
        let Some(state) = self.peers.get(&peer) else { return LaneSet::NONE };
        if state.account.received_fds().is_within() { state.allowed_lanes() } else { LaneSet::NONE }
    }

    /// Whose the peer is, and the descriptors of that uid that are held.
    pub(crate) fn received_fds(&self, peer: PeerId) -> Option<(u32, Held)> {
        self.peers.get(&peer).map(|state| (state.peer.uid, state.account.received_fds()))
    }

    /// What memory of the peer's uid may be held.
    pub(crate) fn memory_files(&self, peer: PeerId) -> Option<Arc<dyn SegmentBudget>> {
        self.peers.get(&peer).map(|state| state.account.memory_files() as _)
    }

    /// Parts were read that were elsewhere than in the frames.
    pub(crate) fn note_read(&mut self, parts: &[Bytes]) {
        self.stats.parts_read += parts.len() as u64;
        self.stats.parts_read_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
    }

    /// A file descriptor is on its way to the peer.
    pub(crate) fn keep_fd(&mut self, peer: PeerId, charge: FdCharge) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.fds.push_back(charge);
        }
    }

    /// So many file descriptors were sent to the peer, and not confirmed.
    pub(crate) fn note_unconfirmed(&mut self, peer: PeerId, fds: usize) {
        if let Some(state) = self.peers.get_mut(&peer) {
            while state.fds.len() > fds {
                state.fds.pop_front();
            }
        }
    }
}
