//! The channels of hosted commands: where each goes, and how it ends.
//!
//! Items to the caller wait in the channel's [`Pipe`]; whoever owns the connections moves them ([`Output::ServeChannel`]) as
//! far as the caller's credit reaches. Items from the caller are in `uploads`. A channel is known here from when its call is
//! admitted until it has ended at either side; its handler is told of the end by the pipe, or the inlet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use invoked_proto::body::Message;
use invoked_proto::connection::{Connection, Placement, Sent};
use invoked_proto::metadata::Call;
use invoked_proto::registry::{Direction, ErrorCode, Overflow};

use super::output::Output;
use super::sweep::{Epoch, is_kept};
use super::uploads::Upload;
use super::{Broker, PeerState};
use crate::authority::Grant;
use crate::ipc::{
    DeclaredChannels, HandlerEnd, Inlet, PeerId, Pipe, PipeId, Ready, ReceivingEnd, SendingEnd, Waiting,
};

/// Channels of one peer, by stream and index.
pub(super) type PeerChannels = BTreeMap<(u64, u32), PipeId>;

/// All channels that are open.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) open: HashMap<PipeId, Open>,
    next: u64,
    ready: Arc<Ready>,
}

/// A channel, until both its peer and its handler are done with it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) peer: PeerId,
    pub(super) stream: u64,
    pub(super) channel: u32,
    pub(super) way: Way,
    grant: Arc<Grant>,
    /// The policy that it was last judged by.
    epoch: Epoch,
}

/// Which way the items of a channel go, and where they wait.
#[derive(Debug)]
pub(super) enum Way {
    Down(Arc<Pipe>),
    Up(Box<Upload>),
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

    /// Handlers have sent, or read, or let go of their channels.
    pub(crate) fn handle_ready(&mut self, now: Instant) {
        for id in self.channels.ready.take() {
            // One that its caller has ended is no concern of the policy: what came of it is charged until it is read.
            if !self.has_ended_upload(id) && self.revoke_channel_if_gone(now, id) {
                continue;
            }
            match self.channels.open.get(&id).map(|open| &open.way) {
                Some(Way::Down(_)) => self.serve(id),
                Some(Way::Up(_)) => self.settle_upload(id),
                None => {}
            }
        }
    }

    /// A channel of a peer takes items again.
    pub(crate) fn handle_channel_credited(&mut self, now: Instant, peer: PeerId, stream: u64, channel: u32) {
        if let Some(relay) = self.find_relay(peer, (stream, channel)) {
            return self.resume_relay(now, relay);
        }
        if let Some(id) = self.find_channel(peer, (stream, channel))
            && !self.revoke_channel_if_gone(now, id)
        {
            self.serve(id);
        }
    }

    /// A channel to a peer has ended: its receiver wants no more, or its end is said.
    pub(crate) fn handle_channel_end(&mut self, peer: PeerId, stream: u64, channel: u32) {
        if let Some(relay) = self.find_relay(peer, (stream, channel)) {
            return self.stop_relay(relay);
        }
        self.close_channel(peer, (stream, channel), ErrorCode::Cancelled);
    }

    /// A call was answered with an error that the broker did not choose; its channels have ended with it.
    pub(crate) fn handle_failed_answer(&mut self, peer: PeerId, stream: u64, code: ErrorCode) {
        self.close_channels(peer, stream, code);
    }

    /// Opens what a call declares; its handler gets the other ends.
    pub(super) fn open_channels(
        &mut self,
        peer: PeerId,
        stream: u64,
        call: &Call,
        grant: &Arc<Grant>,
    ) -> DeclaredChannels {
        let Some(state) = self.peers.get_mut(&peer) else { return DeclaredChannels::default() };
        let lanes = if call.channels.is_empty() { None } else { state.call_lanes() };
        let mut ends = Vec::new();
        for declaration in &call.channels {
            let id = PipeId(self.channels.next);
            self.channels.next += 1;
            let ready = Arc::clone(&self.channels.ready);
            let (way, end) = match declaration.direction {
                Direction::Down => {
                    let overflow = call.overflow_of(declaration.index);
                    let pipe = Pipe::new(id, ready, state.account.items(), overflow);
                    (Way::Down(Arc::clone(&pipe)), HandlerEnd::Sending(SendingEnd::new(pipe, lanes.clone())))
                }
                Direction::Up => {
                    let inlet = Inlet::new(id, ready);
                    let upload = Upload::new(Arc::clone(&inlet), &state.account);
                    (Way::Up(Box::new(upload)), HandlerEnd::Receiving(ReceivingEnd::new(inlet)))
                }
            };
            let channel = declaration.index;
            let (grant, epoch) = (Arc::clone(grant), self.epoch);
            self.channels.open.insert(id, Open { peer, stream, channel, way, grant, epoch });
            state.channels.insert((stream, channel), id);
            ends.push((channel, end));
        }
        DeclaredChannels::new(ends)
    }

    /// Closes the channels of a call that ends with an error; the connection ends them by itself.
    pub(super) fn close_channels(&mut self, peer: PeerId, stream: u64, code: ErrorCode) {
        self.close_relays(peer, stream, code);
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
                open.close(ErrorCode::Unavailable, "the caller is gone");
            }
        }
    }

    /// Ends those channels of a peer that live on without their call and whose grant a change of the policy took away.
    /// How many channels it has.
    pub(super) fn revoke_channels(&mut self, now: Instant, peer: PeerId) -> usize {
        let relays = self.revoke_relays(now, peer);
        let Some(state) = self.peers.get(&peer).filter(|state| !state.channels.is_empty()) else {
            return relays;
        };
        let all: Vec<PipeId> = state.channels.values().copied().collect();
        for id in &all {
            self.revoke_channel_if_gone(now, *id);
        }
        relays + all.len()
    }

    /// Lets the channels of a peer be judged anew.
    pub(super) fn unjudge_channels(&mut self, peer: PeerId, epoch: Epoch) {
        self.unjudge_relays(peer, epoch);
        let Some(state) = self.peers.get(&peer) else { return };
        for id in state.channels.values() {
            if let Some(open) = self.channels.open.get_mut(id) {
                open.epoch = epoch;
            }
        }
    }

    /// The same for one channel, and tells whether it did. To be asked before anything of it goes out.
    pub(super) fn revoke_channel_if_gone(&mut self, now: Instant, id: PipeId) -> bool {
        let Some(open) = self.channels.open.get(&id).filter(|open| open.epoch != self.epoch) else {
            return false;
        };
        let (peer, stream, channel) = (open.peer, open.stream, open.channel);
        let Some(state) = self.refresh(peer) else { return false };
        let (grants, epoch) = (Arc::clone(&state.grants), state.epoch);
        let of_open_call = state.calls.get(&stream).copied();
        let Some(open) = self.channels.open.get_mut(&id) else { return false };
        if is_kept(&grants, &open.grant) {
            open.epoch = epoch;
            return false;
        }
        if let Some(call) = of_open_call {
            // It ends with its call, and that now: another policy might keep the call, and not know what was withheld.
            self.revoke_if_gone(now, call);
            return true;
        }
        let (code, message) = (ErrorCode::Revoked, "a change of the policy took the grant away");
        self.outputs.push_back(match open.way {
            Way::Down(_) => Output::CutChannel { peer, stream, channel, code, message },
            Way::Up(_) => Output::StopChannel { peer, stream, channel },
        });
        self.close_channel(peer, (stream, channel), code);
        true
    }

    /// The daemon stops: channels without a call take nothing more, and end after what waits.
    pub(super) fn finish_channels(&mut self) {
        self.finish_relays();
        let calls =
            |open: &Open| self.peers.get(&open.peer).is_some_and(|s| s.calls.contains_key(&open.stream));
        let all = self.channels.open.iter().filter(|(_, open)| !calls(open)).map(|(id, _)| *id);
        let mut all: Vec<PipeId> = all.collect();
        all.sort_unstable();
        all.into_iter().for_each(|id| self.finish_channel(id));
    }

    /// The same for those of a call that ended while the daemon stops.
    pub(super) fn finish_channels_of(&mut self, peer: PeerId, stream: u64) {
        let Some(state) = self.peers.get(&peer) else { return };
        let of_call = state.channels.range((stream, 0)..=(stream, u32::MAX));
        let all: Vec<PipeId> = of_call.map(|(_, id)| *id).collect();
        all.into_iter().for_each(|id| self.finish_channel(id));
    }

    fn finish_channel(&mut self, id: PipeId) {
        let Some(open) = self.channels.open.get(&id) else { return };
        let (peer, stream, channel) = (open.peer, open.stream, open.channel);
        let (code, message) = (ErrorCode::Unavailable, "the daemon is stopping");
        match &open.way {
            Way::Down(pipe) => pipe.finish(code, message),
            Way::Up(upload) => {
                upload.end(Some(code), message);
                self.outputs.push_back(Output::StopChannel { peer, stream, channel });
            }
        }
    }

    pub(super) fn find_channel(&self, peer: PeerId, key: (u64, u32)) -> Option<PipeId> {
        self.peers.get(&peer)?.channels.get(&key).copied()
    }

    fn serve(&mut self, id: PipeId) {
        let Some(Open { peer, stream, channel, way: Way::Down(pipe), .. }) = self.channels.open.get(&id)
        else {
            return;
        };
        let (peer, stream, channel, pipe) = (*peer, *stream, *channel, Arc::clone(pipe));
        self.outputs.push_back(Output::ServeChannel { peer, stream, channel, pipe });
    }

    pub(super) fn close_channel(&mut self, peer: PeerId, key: (u64, u32), code: ErrorCode) {
        let id = self.peers.get_mut(&peer).and_then(|state| state.channels.remove(&key));
        if let Some(open) = id.and_then(|id| self.channels.open.remove(&id)) {
            open.close(code, "");
        }
    }
}

impl Open {
    /// Tells the handler that it is over, whatever waits.
    fn close(&self, code: ErrorCode, message: &str) {
        match &self.way {
            Way::Down(pipe) => pipe.close(code),
            Way::Up(upload) => upload.cut(code, message),
        }
    }
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
///
/// `place` says which parts lie where the peer reads them, and `sent` is told of those that were taken.
pub(crate) fn serve<A>(
    connection: &mut Connection<A>,
    stream: u64,
    channel: u32,
    pipe: &Pipe,
    mut place: impl FnMut(&mut Connection<A>, &Message) -> Placement<A>,
    sent: impl Fn(&Placement<A>),
) -> Served {
    let mut served = Served::Open;
    let is_lossy = pipe.overflow() != Overflow::Block;
    let end = pipe.drain(|Waiting { message, lagged }| {
        let placement = place(connection, &message);
        let lossy = is_lossy.then_some(lagged);
        match connection.send_item_placed(stream, channel, lossy, message, &placement) {
            Ok(Sent::Queued) => {
                sent(&placement);
                None
            }
            Ok(Sent::NeedsCredit(message)) => Some(Waiting { message, lagged }),
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
        }
    });
    if let Some(end) = end {
        connection.end_lossy_channel(stream, channel, end.code, &end.message, end.lagged);
        served = Served::Ended;
    }
    served
}
