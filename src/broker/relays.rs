//! Channels between callers and providers, both ways.
//!
//! Credit is the final receiver's: the daemon passes on what that gives, and holds back what would let more wait here than a
//! window. An item is charged to its sender from its first frame until it is queued for its receiver. One that is larger than
//! the window is advanced the credit that it needs to come whole, and that is kept from what the receiver gives for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use foldhash::HashMap;
use invoked_proto::body::{Assembly, Message, inline_len, whole_len};
use invoked_proto::connection::{Connection, More, Placement, Sent};
use invoked_proto::metadata::{Call, ChannelDeclaration};
use invoked_proto::registry::{Direction, ErrorCode, LIMITS, Overflow, limits};

use super::output::{ItemOf, Output};
use super::quota::{Charge, Resource};
use super::sweep::{Epoch, is_kept};
use super::uploads::{give_outside, refusal};
use super::{Broker, FirstOfItem};
use crate::authority::Grant;
use crate::ipc::{Fault, PeerId};

/// Names a channel between a caller and a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RelayId(u64);

/// The ends of such channels that one peer has, by stream and index.
pub(super) type PeerRelays = BTreeMap<(u64, u32), RelayId>;

/// All such channels.
#[derive(Debug, Default)]
pub(super) struct Relays {
    pub(super) open: HashMap<RelayId, Relay>,
    next: u64,
}

/// A channel between a caller and a provider, until one of them, or both, have ended it.
#[derive(Debug)]
pub(super) struct Relay {
    caller: (PeerId, u64),
    provider: PeerId,
    /// The daemon's stream at the provider, once the call is forwarded.
    routed: Option<u64>,
    channel: u32,
    direction: Direction,
    is_lossy: bool,
    grant: Arc<Grant>,
    /// The policy that it was last judged by.
    epoch: Epoch,
    queue: VecDeque<Queued>,
    /// The item that is on its way.
    growing: Option<(Assembly, Queued)>,
    /// What these cost their sender.
    pub(super) memory: Charge,
    /// What its sender ended it with.
    end: Option<RelayEnd>,
    credit: PassedCredit,
}

/// An item, whole or not.
#[derive(Debug, Default)]
struct Queued {
    message: Message,
    lagged: u64,
    /// What it takes of the credit, and is charged.
    cost: u64,
    /// What of that its sender was given before the receiver could.
    advanced: u64,
}

/// How a channel ended at its sender.
#[derive(Debug)]
pub(super) struct RelayEnd {
    pub(super) code: Option<ErrorCode>,
    pub(super) message: String,
    /// How many items were left out before the end.
    pub(super) lagged: u64,
}

/// Which of the two has ended a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Caller,
    Provider,
}

/// Credit on its way from the final receiver to the sender.
#[derive(Debug)]
struct PassedCredit {
    /// The most that the sender may have of credit and of items that wait here.
    most: u64,
    /// What it has of both.
    outstanding: u64,
    /// Given by the receiver and not passed on yet.
    withheld: u64,
    /// What the receiver will give for items that it was sent, and their sender was given before.
    advanced: u64,
}

impl PassedCredit {
    fn new(start: u64, most: u64) -> Self {
        let outstanding = start.min(most);
        PassedCredit { most, outstanding, withheld: start - outstanding, advanced: 0 }
    }

    /// The receiver gave credit.
    fn came(&mut self, bytes: u64) {
        let known = self.advanced.min(bytes);
        self.advanced -= known;
        self.withheld = self.withheld.saturating_add(bytes - known);
    }

    /// The sender was given credit for an item that is larger than its window, and on its way.
    fn advance(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_add(bytes);
    }

    /// Items left the queue, for which so much had been advanced. Only from here on the receiver can give credit for them: what
    /// it gives before is for others, and their sender needs it.
    fn left(&mut self, cost: u64, advanced: u64) {
        self.outstanding = self.outstanding.saturating_sub(cost);
        self.advanced = self.advanced.saturating_add(advanced);
    }

    /// What is to be passed on now.
    fn take(&mut self) -> u64 {
        let bytes = self.withheld.min(self.most.saturating_sub(self.outstanding));
        self.withheld -= bytes;
        self.outstanding += bytes;
        bytes
    }
}

impl Relay {
    fn is_down(&self) -> bool {
        self.direction == Direction::Down
    }

    /// The hop to the provider, once there is one.
    fn routed(&self) -> Option<(PeerId, u64)> {
        self.routed.map(|stream| (self.provider, stream))
    }

    fn receiver(&self) -> Option<(PeerId, u64)> {
        if self.is_down() { Some(self.caller) } else { self.routed() }
    }

    fn receiving_side(&self) -> Side {
        if self.is_down() { Side::Caller } else { Side::Provider }
    }

    fn sender(&self) -> Option<(PeerId, u64)> {
        if self.is_down() { self.routed() } else { Some(self.caller) }
    }

    /// Takes a part of an item; whether it is whole.
    fn grow(&mut self, more: More) -> bool {
        if more == More::Follows {
            return false;
        }
        let Some((assembly, mut item)) = self.growing.take() else { return false };
        // The connection has checked the lengths.
        let Ok(message) = assembly.finish() else { return false };
        item.message = message;
        self.queue.push_back(item);
        true
    }

    /// So much is held no more.
    fn give_back(&mut self, cost: u64) {
        self.memory.settle(self.memory.amount().saturating_sub(cost));
    }

    /// Bytes that are there of its items, the one on its way with all its bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        let growing = self.growing.as_ref().map_or(0, |(_, item)| item.cost);
        self.queue.iter().map(|item| item.cost).sum::<u64>() + growing
    }
}

impl Relays {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The credit with which a channel is declared to the provider.
    pub(super) fn initial(&self, channel: &ChannelDeclaration) -> u64 {
        if channel.direction == Direction::Down { channel.credit.min(WINDOW) } else { 0 }
    }
}

/// The most that waits here for a receiver, if the daemon announced no larger window.
const WINDOW: u64 = limits::CHANNEL_WINDOW as u64;

impl Broker {
    /// Opens what a call to a provider declares. Items may come before the call is forwarded; they wait.
    pub(super) fn open_relays(
        &mut self,
        caller: (PeerId, u64),
        provider: PeerId,
        call: &Call,
        grant: &Arc<Grant>,
    ) {
        if call.channels.is_empty() {
            return;
        }
        let window = self.channel_window();
        for declaration in &call.channels {
            let is_down = declaration.direction == Direction::Down;
            let sender = if is_down { provider } else { caller.0 };
            let Some(sender) = self.peers.get(&sender) else { continue };
            let memory = sender.account.charge_nothing(Resource::MessageBytes);
            let start = if is_down { declaration.credit } else { window };
            let relay = Relay {
                caller,
                provider,
                routed: None,
                channel: declaration.index,
                direction: declaration.direction,
                is_lossy: is_down && call.overflow_of(declaration.index) != Overflow::Block,
                grant: Arc::clone(grant),
                epoch: self.epoch,
                queue: VecDeque::new(),
                growing: None,
                memory,
                end: None,
                credit: PassedCredit::new(start, if is_down { WINDOW } else { WINDOW.max(window) }),
            };
            let id = RelayId(self.relays.next);
            self.relays.next += 1;
            self.relays.open.insert(id, relay);
            if let Some(state) = self.peers.get_mut(&caller.0) {
                state.relays.insert((caller.1, declaration.index), id);
            }
        }
        self.outputs.push_back(Output::RelayChannels { peer: caller.0, stream: caller.1 });
    }

    /// The call that declares them was forwarded: what waited goes on.
    pub(super) fn begin_relays(
        &mut self,
        caller: (PeerId, u64),
        provider: (PeerId, u64),
        channels: &[ChannelDeclaration],
    ) {
        for declaration in channels {
            let channel = declaration.index;
            let (peer, stream) = provider;
            let Some(id) = self.find_relay(caller.0, (caller.1, channel)) else {
                // It was ended before the provider heard of it.
                self.outputs.push_back(ended(
                    declaration.direction,
                    (peer, stream),
                    channel,
                    ErrorCode::Cancelled,
                ));
                continue;
            };
            if let Some(state) = self.peers.get_mut(&peer) {
                state.relays.insert((stream, channel), id);
            }
            if let Some(relay) = self.relays.open.get_mut(&id) {
                relay.routed = Some(stream);
            }
            self.pass_credit(id);
            self.serve_later(id);
        }
    }

    pub(super) fn find_relay(&self, peer: PeerId, key: (u64, u32)) -> Option<RelayId> {
        self.peers.get(&peer)?.relays.get(&key).copied()
    }

    /// An item began.
    pub(super) fn relay_item(&mut self, now: Instant, id: RelayId, first: FirstOfItem) {
        if self.revoke_relay_if_gone(now, id) {
            return;
        }
        let FirstOfItem { parts, payload, more, credit, lagged, outside } = first;
        let in_frames = inline_len(&parts).unwrap_or(u64::MAX);
        let len = whole_len(&parts).unwrap_or(u64::MAX);
        let cost = len.max(limits::ITEM_COST_MIN as u64);
        let sender =
            self.relays.open.get(&id).and_then(Relay::sender).and_then(|(peer, _)| self.peers.get(&peer));
        let refused = refusal(sender, outside.as_ref());
        let Some(relay) = self.relays.open.get_mut(&id) else { return };
        if relay.end.is_some() {
            // It was ended here, as an item before this one was refused: nothing may follow that.
            return;
        }
        if let Some(fault) = refused {
            return self.cut_relay(id, fault.code, fault.message);
        }
        if !relay.memory.grow(cost) {
            let text = "too many bytes of its sender's messages are held".to_owned();
            return self.cut_relay(id, ErrorCode::ResourceExhausted, text);
        }
        let least = limits::ITEM_COST_MIN as u64;
        // The connection has given it back already where the item is larger than what is left of the window.
        let given = if credit == 0 { payload.len() as u64 + least.saturating_sub(in_frames) } else { 0 };
        // What is in segments took nothing of its sender's credit, and what the receiver gives for it is kept.
        let advanced = given + (cost - in_frames.clamp(least, cost));
        relay.credit.advance(advanced);
        // The connection checks lengths before it gives an event; this is a second lock on the same door.
        if let Ok(assembly) = Assembly::begin(parts, payload) {
            let item = Queued { message: Message::default(), lagged, cost, advanced };
            relay.growing = Some((assembly, item));
            match outside {
                // Nothing else of the channel is handled before it is read.
                Some(Ok(outside)) => {
                    let item = ItemOf::Relay(id);
                    self.outputs.push_back(Output::FetchItem { item, outside });
                }
                _ if relay.grow(more) => self.serve_later(id),
                _ => {}
            }
        }
        self.note_held(0);
        self.stats.bytes_in += len;
    }

    /// What is elsewhere of an item was read, or can't be.
    pub(super) fn relay_fetched(&mut self, id: RelayId, fetched: Result<Vec<Bytes>, Fault>) {
        let Some(relay) = self.relays.open.get_mut(&id) else { return };
        let Some((assembly, _)) = &mut relay.growing else { return };
        match give_outside(assembly, fetched) {
            Ok(more) if relay.grow(more) => self.serve_later(id),
            Ok(_) => {}
            Err(fault) => self.cut_relay(id, fault.code, fault.message),
        }
    }

    /// Ends a channel whose sender sent what is not taken.
    fn cut_relay(&mut self, id: RelayId, code: ErrorCode, message: String) {
        let Some(relay) = self.relays.open.get(&id) else { return };
        if let Some((peer, stream)) = relay.sender() {
            let channel = relay.channel;
            self.outputs.push_back(Output::StopChannel { peer, stream, channel });
        }
        self.end_relay(id, RelayEnd { code: Some(code), message, lagged: 0 });
    }

    /// More bytes of an item came.
    pub(super) fn relay_continuation(&mut self, id: RelayId, fragment: &[u8], more: More, credit: u64) {
        let Some(relay) = self.relays.open.get_mut(&id) else { return };
        let Some((assembly, item)) = &mut relay.growing else { return };
        let advanced = if credit == 0 { fragment.len() as u64 } else { 0 };
        item.advanced += advanced;
        let is_taken = assembly.push(fragment).is_ok();
        relay.credit.advance(advanced);
        if is_taken && relay.grow(more) {
            self.serve_later(id);
        }
    }

    /// The sender has ended it: its receiver is told after the items that came whole.
    pub(super) fn end_relay(&mut self, id: RelayId, end: RelayEnd) {
        let Some(relay) = self.relays.open.get_mut(&id) else { return };
        if let Some((_, item)) = relay.growing.take() {
            // The rest of it will not come.
            relay.give_back(item.cost);
        }
        relay.end.get_or_insert(end);
        self.serve_later(id);
    }

    /// The receiver wants no more of it, or its end is said.
    pub(super) fn stop_relay(&mut self, id: RelayId) {
        let Some(relay) = self.relays.open.get(&id) else { return };
        self.close_relay(id, relay.receiving_side(), ErrorCode::Cancelled);
    }

    /// The receiver gave credit.
    pub(crate) fn handle_credit(&mut self, peer: PeerId, stream: u64, channel: u32, bytes: u64) {
        let Some(id) = self.find_relay(peer, (stream, channel)) else { return };
        if let Some(relay) = self.relays.open.get_mut(&id) {
            relay.credit.came(bytes);
        }
        self.pass_credit(id);
    }

    /// The receiver's connection takes items again.
    pub(super) fn resume_relay(&mut self, now: Instant, id: RelayId) {
        if !self.revoke_relay_if_gone(now, id) {
            self.serve_later(id);
        }
    }

    /// Sends what waits, as far as the receiver's connection takes it.
    pub(crate) fn serve_relay<A>(&mut self, id: RelayId, connection: &mut Connection<A>) {
        let Some(relay) = self.relays.open.get_mut(&id) else { return };
        let Some((_, stream)) = relay.receiver() else { return };
        let (channel, mut left, mut has_ended) = (relay.channel, 0, false);
        while let Some(Queued { message, lagged, cost, advanced }) = relay.queue.pop_front() {
            let lossy = (relay.is_lossy || lagged > 0).then_some(lagged);
            match connection.send_item_placed(stream, channel, lossy, message, &Placement::default()) {
                Ok(Sent::Queued) => {
                    left += cost;
                    relay.credit.left(cost, advanced);
                }
                Ok(Sent::NeedsCredit(message)) => {
                    relay.queue.push_front(Queued { message, lagged, cost, advanced });
                    break;
                }
                Ok(Sent::Ended) => {
                    (left, has_ended) = (left + cost, true);
                    break;
                }
                Err(error) => {
                    // Its receiver takes no such item: the channel can't go on as if it had been sent.
                    connection.cut_channel(stream, channel, error.wire_code(), &error.to_string());
                    (left, has_ended) = (left + cost, true);
                    break;
                }
            }
        }
        relay.give_back(left);
        if has_ended {
            let by = relay.receiving_side();
            return self.close_relay(id, by, ErrorCode::Cancelled);
        }
        if relay.queue.is_empty()
            && let Some(RelayEnd { code, message, lagged }) = relay.end.take()
        {
            connection.end_lossy_channel(stream, channel, code, &message, lagged);
            self.remove_relay(id);
            return;
        }
        self.pass_credit(id);
    }

    /// Closes those of a call whose caller is told an error, which ends them there.
    pub(super) fn close_relays(&mut self, caller: PeerId, stream: u64, code: ErrorCode) {
        for id in self.relays_of(caller, stream) {
            self.close_relay(id, Side::Caller, code);
        }
    }

    /// A peer is gone, with its ends of these.
    pub(super) fn lose_relays(&mut self, peer: PeerId, ends: PeerRelays) {
        for ((stream, _), id) in ends {
            let Some(relay) = self.relays.open.get_mut(&id) else { continue };
            if relay.caller == (peer, stream) {
                self.close_relay(id, Side::Caller, ErrorCode::Unavailable);
            } else if relay.is_down() {
                // What came whole is delivered before the end.
                relay.routed = None;
                let message = "the provider went away".to_owned();
                self.end_relay(id, RelayEnd { code: Some(ErrorCode::Unavailable), message, lagged: 0 });
            } else {
                self.close_relay(id, Side::Provider, ErrorCode::Unavailable);
            }
        }
    }

    /// Ends those of a caller that live on without their call and whose grant a change of the policy took away. How many it
    /// has.
    pub(super) fn revoke_relays(&mut self, now: Instant, peer: PeerId) -> usize {
        let Some(state) = self.peers.get(&peer).filter(|state| !state.relays.is_empty()) else { return 0 };
        let all: Vec<RelayId> = state.relays.values().copied().collect();
        for id in &all {
            self.revoke_relay_if_gone(now, *id);
        }
        all.len()
    }

    /// Lets those of a caller be judged anew.
    pub(super) fn unjudge_relays(&mut self, peer: PeerId, epoch: Epoch) {
        let Some(state) = self.peers.get(&peer) else { return };
        for id in state.relays.values() {
            if let Some(relay) = self.relays.open.get_mut(id).filter(|relay| relay.caller.0 == peer) {
                relay.epoch = epoch;
            }
        }
    }

    /// The daemon stops: those without a call take nothing more, and end after what waits.
    pub(super) fn finish_relays(&mut self) {
        let has_call = |relay: &Relay| {
            let (peer, stream) = relay.caller;
            self.peers.get(&peer).is_some_and(|state| state.calls.contains_key(&stream))
        };
        let all = self.relays.open.iter().filter(|(_, relay)| !has_call(relay)).map(|(id, _)| *id);
        let mut all: Vec<RelayId> = all.collect();
        all.sort_unstable();
        all.into_iter().for_each(|id| self.finish_relay(id));
    }

    /// The same for those of a call that ended while the daemon stops.
    pub(super) fn finish_relays_of(&mut self, caller: PeerId, stream: u64) {
        self.relays_of(caller, stream).into_iter().for_each(|id| self.finish_relay(id));
    }

    fn finish_relay(&mut self, id: RelayId) {
        let Some(relay) = self.relays.open.get(&id) else { return };
        let channel = relay.channel;
        if let Some((peer, stream)) = relay.sender() {
            self.outputs.push_back(Output::StopChannel { peer, stream, channel });
        }
        let message = "the daemon is stopping".to_owned();
        self.end_relay(id, RelayEnd { code: Some(ErrorCode::Unavailable), message, lagged: 0 });
    }

    fn revoke_relay_if_gone(&mut self, now: Instant, id: RelayId) -> bool {
        let Some(relay) = self.relays.open.get(&id).filter(|relay| relay.epoch != self.epoch) else {
            return false;
        };
        let (caller, stream) = relay.caller;
        let Some(state) = self.refresh(caller) else { return false };
        let (grants, epoch) = (Arc::clone(&state.grants), state.epoch);
        let of_open_call = state.calls.get(&stream).copied();
        let Some(relay) = self.relays.open.get_mut(&id) else { return false };
        if is_kept(&grants, &relay.grant) {
            relay.epoch = epoch;
            return false;
        }
        if let Some(call) = of_open_call {
            // It ends with its call, and that now.
            self.revoke_if_gone(now, call);
            return true;
        }
        let (code, message) = (ErrorCode::Revoked, "a change of the policy took the grant away");
        let (peer, channel) = (caller, relay.channel);
        self.outputs.push_back(match relay.direction {
            Direction::Down => Output::CutChannel { peer, stream, channel, code, message },
            Direction::Up => Output::StopChannel { peer, stream, channel },
        });
        self.close_relay(id, Side::Caller, code);
        true
    }

    /// One side has ended it: tells the other, and forgets it.
    fn close_relay(&mut self, id: RelayId, by: Side, code: ErrorCode) {
        let Some(relay) = self.remove_relay(id) else { return };
        let (channel, direction) = (relay.channel, relay.direction);
        match by {
            Side::Caller => {
                let told = relay.routed().map(|at| ended(direction, at, channel, code));
                self.outputs.extend(told);
            }
            Side::Provider => {
                let opposite = if relay.is_down() { Direction::Up } else { Direction::Down };
                self.outputs.push_back(ended(opposite, relay.caller, channel, code));
            }
        }
    }

    fn remove_relay(&mut self, id: RelayId) -> Option<Relay> {
        let relay = self.relays.open.remove(&id)?;
        for (peer, stream) in relay.routed().into_iter().chain([relay.caller]) {
            if let Some(state) = self.peers.get_mut(&peer) {
                state.relays.remove(&(stream, relay.channel));
            }
        }
        Some(relay)
    }

    fn relays_of(&self, caller: PeerId, stream: u64) -> Vec<RelayId> {
        let Some(state) = self.peers.get(&caller).filter(|state| !state.relays.is_empty()) else {
            return Vec::new();
        };
        state.relays.range((stream, 0)..=(stream, u32::MAX)).map(|(_, id)| *id).collect()
    }

    fn serve_later(&mut self, id: RelayId) {
        if let Some((peer, _)) = self.relays.open.get(&id).and_then(Relay::receiver) {
            self.outputs.push_back(Output::ServeRelay { peer, relay: id });
        }
    }

    fn pass_credit(&mut self, id: RelayId) {
        let Some(relay) = self.relays.open.get_mut(&id) else { return };
        let Some((peer, stream)) = relay.sender() else { return };
        let (channel, credit) = (relay.channel, relay.credit.take());
        if credit > 0 {
            self.outputs.push_back(Output::PassCredit { peer, stream, channel, credit });
        }
    }

    /// The credit with which a channel to a provider starts, as it was announced.
    fn channel_window(&self) -> u64 {
        let limit = LIMITS.iter().find(|limit| limit.name == "channel_window").and_then(|limit| limit.id);
        let announced = self.settings.announced.iter().find(|(id, _)| Some(*id) == limit);
        announced.map_or(WINDOW, |(_, value)| *value)
    }
}

/// Tells a provider that a channel has ended at its caller; with the other direction, a caller that it has at its provider.
fn ended(direction: Direction, (peer, stream): (PeerId, u64), channel: u32, code: ErrorCode) -> Output {
    match direction {
        Direction::Down => Output::StopChannel { peer, stream, channel },
        Direction::Up => {
            Output::CutChannel { peer, stream, channel, code, message: "the other side has ended it" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PassedCredit;

    #[test]
    fn credit_is_the_receivers_and_no_more_waits_than_a_window() {
        let mut credit = PassedCredit::new(1000, 1000);
        assert_eq!(credit.take(), 0, "the sender has it from the start");
        credit.came(600);
        assert_eq!(credit.take(), 0, "a window waits here, or may come");
        credit.left(1000, 0);
        assert_eq!(credit.take(), 600, "what the receiver gave, and nothing else");
        credit.left(600, 0);
        assert_eq!(credit.take(), 0);
    }

    #[test]
    fn of_a_larger_promise_a_window_is_passed_on_at_a_time() {
        let mut credit = PassedCredit::new(2500, 1000);
        credit.left(400, 0);
        assert_eq!(credit.take(), 400);
        credit.left(1000, 0);
        assert_eq!(credit.take(), 1000);
        credit.left(1000, 0);
        assert_eq!(credit.take(), 100, "the rest");
    }

    #[test]
    fn what_was_advanced_for_a_large_item_is_not_given_twice() {
        let mut credit = PassedCredit::new(1000, 1000);
        credit.advance(2000);
        credit.left(3000, 2000);
        credit.came(2500);
        assert_eq!(credit.take(), 500);
        credit.came(500);
        assert_eq!(credit.take(), 500);
    }

    #[test]
    fn what_is_given_for_one_item_is_not_kept_for_the_next() {
        let mut credit = PassedCredit::new(9, 1000);
        credit.advance(248);
        credit.left(256, 248);
        credit.advance(78);
        credit.came(256);
        assert_eq!(credit.take(), 8, "the next can't come whole without it");
    }
}
