//! The channels of hosted commands: where each goes, and how it ends.
//!
//! Items wait in the channel's [`Pipe`]; whoever owns the connections moves them ([`Output::ServeChannel`]) as far as the
//! receiver's credit reaches. A channel is known here from when its call runs until it has ended at either side; its
//! handler is told of the end by the pipe.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use invoked_proto::connection::{Connection, Sent};
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::{Direction, ErrorCode};

use super::output::Output;
use super::sweep::{Epoch, is_kept};
use super::{Broker, PeerState};
use crate::authority::Grant;
use crate::ipc::{DeclaredChannels, PeerId, Pipe, PipeId, Ready, SendingEnd};

/// Channels of one peer, by stream and index.
pub(super) type PeerChannels = BTreeMap<(u64, u32), PipeId>;

/// All channels that are open.
#[derive(Debug)]
pub(super) struct Channels {
    open: HashMap<PipeId, Open>,
    next: u64,
    ready: Arc<Ready>,
}

#[derive(Debug)]
struct Open {
    peer: PeerId,
    stream: u64,
    channel: u32,
    pipe: Arc<Pipe>,
    grant: Arc<Grant>,
    /// The policy that it was last judged by.
    epoch: Epoch,
}

impl Channels {
    pub(super) fn new() -> Self {
        Channels { open: HashMap::new(), next: 1, ready: Arc::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

impl Broker {
    /// Tells which channels have something to send.
    pub(crate) fn ready_channels(&self) -> Arc<Ready> {
        Arc::clone(&self.channels.ready)
    }

    /// Handlers have sent, or ended their channels.
    pub(crate) fn handle_ready(&mut self) {
        for id in self.channels.ready.take() {
            self.serve(id);
        }
    }

    /// A channel of a peer takes items again.
    pub(crate) fn handle_channel_credited(&mut self, peer: PeerId, stream: u64, channel: u32) {
        let id = self.peers.get(&peer).and_then(|state| state.channels.get(&(stream, channel)).copied());
        if let Some(id) = id {
            self.serve(id);
        }
    }

    /// A channel of a peer has ended: its receiver wants no more, or its end is said.
    pub(crate) fn handle_channel_end(&mut self, peer: PeerId, stream: u64, channel: u32) {
        self.close_channel(peer, (stream, channel), ErrorCode::Cancelled);
    }

    /// A call was answered with an error that the broker did not choose; its channels have ended with it.
    pub(crate) fn handle_failed_answer(&mut self, peer: PeerId, stream: u64, code: ErrorCode) {
        self.close_channels(peer, stream, code);
    }

    /// Opens what a call declares; its handler gets the sending ends.
    pub(super) fn open_channels(
        &mut self,
        peer: PeerId,
        stream: u64,
        declared: &[ChannelDeclaration],
        grant: &Arc<Grant>,
    ) -> DeclaredChannels {
        let Some(state) = self.peers.get_mut(&peer) else { return DeclaredChannels::default() };
        let mut ends = Vec::new();
        for declaration in declared.iter().filter(|declared| declared.direction == Direction::Down) {
            let id = PipeId(self.channels.next);
            self.channels.next += 1;
            let pipe = Pipe::new(id, Arc::clone(&self.channels.ready), state.account.items());
            let channel = declaration.index;
            let (grant, epoch) = (Arc::clone(grant), self.epoch);
            let open = Open { peer, stream, channel, pipe: Arc::clone(&pipe), grant, epoch };
            self.channels.open.insert(id, open);
            state.channels.insert((stream, channel), id);
            ends.push((channel, SendingEnd::new(pipe)));
        }
        DeclaredChannels::new(ends)
    }

    /// Closes the channels of a call that ends with an error; the connection ends them by itself.
    pub(super) fn close_channels(&mut self, peer: PeerId, stream: u64, code: ErrorCode) {
        let Some(state) = self.peers.get(&peer).filter(|state| !state.channels.is_empty()) else { return };
        let all: Vec<_> =
            state.channels.range((stream, 0)..=(stream, u32::MAX)).map(|(key, _)| *key).collect();
        for key in all {
            self.close_channel(peer, key, code);
        }
    }

    /// Closes the channels of a peer that is gone.
    pub(super) fn abandon_channels(&mut self, state: &PeerState) {
        for id in state.channels.values() {
            if let Some(open) = self.channels.open.remove(id) {
                open.pipe.close(ErrorCode::Unavailable);
            }
        }
    }

    /// Ends those channels of a peer that live on without their call and whose grant a change of the policy took away.
    /// How many channels it has.
    pub(super) fn revoke_channels(&mut self, peer: PeerId) -> usize {
        let Some(state) = self.peers.get(&peer).filter(|state| !state.channels.is_empty()) else { return 0 };
        let all: Vec<PipeId> = state.channels.values().copied().collect();
        for id in &all {
            self.revoke_channel_if_gone(*id);
        }
        all.len()
    }

    /// Lets the channels of a peer be judged anew.
    pub(super) fn unjudge_channels(&mut self, peer: PeerId, epoch: Epoch) {
        let Some(state) = self.peers.get(&peer) else { return };
        for id in state.channels.values() {
            if let Some(open) = self.channels.open.get_mut(id) {
                open.epoch = epoch;
            }
        }
    }

    /// The same for one channel, and tells whether it did. To be asked before anything of it goes out.
    fn revoke_channel_if_gone(&mut self, id: PipeId) -> bool {
        let Some(open) = self.channels.open.get(&id).filter(|open| open.epoch != self.epoch) else {
            return false;
        };
        let (peer, stream, channel) = (open.peer, open.stream, open.channel);
        let Some(state) = self.refresh(peer) else { return false };
        let (grants, epoch) = (Arc::clone(&state.grants), state.epoch);
        let of_open_call = state.calls.contains_key(&stream);
        let Some(open) = self.channels.open.get_mut(&id) else { return false };
        if is_kept(&grants, &open.grant) {
            open.epoch = epoch;
            return false;
        }
        // One whose call is open ends with it.
        if !of_open_call {
            let (code, message) = (ErrorCode::Revoked, "a change of the policy took the grant away");
            self.outputs.push_back(Output::CutChannel { peer, stream, channel, code, message });
            self.close_channel(peer, (stream, channel), code);
        }
        true
    }

    /// The daemon stops: channels without a call take nothing more, send what waits, and end.
    pub(super) fn finish_channels(&mut self) {
        let calls =
            |open: &&Open| self.peers.get(&open.peer).is_some_and(|s| s.calls.contains_key(&open.stream));
        self.channels.open.values().filter(|open| !calls(open)).for_each(finish);
    }

    /// The same for those of a call that ended while the daemon stops.
    pub(super) fn finish_channels_of(&mut self, peer: PeerId, stream: u64) {
        let Some(state) = self.peers.get(&peer) else { return };
        for (_, id) in state.channels.range((stream, 0)..=(stream, u32::MAX)) {
            self.channels.open.get(id).into_iter().for_each(finish);
        }
    }

    fn serve(&mut self, id: PipeId) {
        if self.revoke_channel_if_gone(id) {
            return;
        }
        let Some(Open { peer, stream, channel, pipe, .. }) = self.channels.open.get(&id) else { return };
        let (peer, stream, channel, pipe) = (*peer, *stream, *channel, Arc::clone(pipe));
        self.outputs.push_back(Output::ServeChannel { peer, stream, channel, pipe });
    }

    fn close_channel(&mut self, peer: PeerId, key: (u64, u32), code: ErrorCode) {
        let id = self.peers.get_mut(&peer).and_then(|state| state.channels.remove(&key));
        if let Some(open) = id.and_then(|id| self.channels.open.remove(&id)) {
            open.pipe.close(code);
        }
    }
}

fn finish(open: &Open) {
    open.pipe.finish(ErrorCode::Unavailable, "the daemon is stopping");
}

/// How far a channel was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// Nothing waits, or no more is taken now.
    Open,
    /// It has ended, or its end is on its way.
    Ended,
}

/// Moves items from a handler's pipe to its peer's connection, as far as that takes them.
pub(crate) fn serve<A>(connection: &mut Connection<A>, stream: u64, channel: u32, pipe: &Pipe) -> Served {
    let mut served = Served::Open;
    let end = pipe.drain(|item| match connection.send_item(stream, channel, item) {
        Ok(Sent::Queued) => None,
        Ok(Sent::NeedsCredit(item)) => Some(item),
        Ok(Sent::Ended) => {
            served = Served::Ended;
            None
        }
        Err(error) => {
            // An item that no peer could take: the channel can't go on as if it had been sent.
            connection.cut_channel(stream, channel, error.wire_code(), &error.to_string());
            served = Served::Ended;
            None
        }
    });
    if let Some(end) = end {
        connection.end_channel(stream, channel, end.code, &end.message);
        served = Served::Ended;
    }
    served
}
