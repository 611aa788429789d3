//! The bus under any schedule: callers, handlers and bytes on their way move in any order, with windows from one byte to one
//! MiB. Every call and channel ends once at both ends, nothing stands still, and what is charged is what is held.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Request, Role, Sent, Withdrawal};
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::{Direction, ErrorCode};
use invoked_proto::testing::CreditWitness;
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, prop_oneof};
use proptest::test_runner::TestRunner;

use super::bus::{Bus, written};
use super::sums::assert_charges_sum_to_use;
use super::{Bound, Bounds, assert_idle};
use crate::authority::PolicySnapshot;
use crate::broker::CallId;
use crate::ipc::{Channel, ChannelItem, ChannelReader, InvokeError, RecvError, Response, SendError};

const CASES: u32 = 1000;

/// The uids of the peers.
const UIDS: [u32; 3] = [1000, 1000, 1001];

type Key = (usize, u64, u32);

/// What all schedules came to.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    calls: u64,
    replies: u64,
    abandoned: u64,
    refused: u64,
    /// Ends of channels at callers.
    channels: u64,
    /// Items that arrived, both ways.
    items: u64,
    /// How often a window was used up.
    used_up: u64,
    killed: u64,
}

/// An end on which items are sent.
#[derive(Debug, Default)]
struct Sending {
    /// Lengths of items that are still to be sent, and of those that were.
    wishes: VecDeque<usize>,
    sent: Vec<usize>,
    /// It waits to be told of credit.
    waits: bool,
    has_ended: bool,
    ended_well: bool,
}

/// An end at which a handler reads.
struct Reading {
    reader: ChannelReader<ChannelItem>,
    got: Vec<usize>,
    ends: Vec<Option<ErrorCode>>,
}

struct World {
    bus: Bus,
    window: u64,
    alive: [bool; 3],
    /// The indices of the channels that each call declares: to its caller, to its handler.
    calls: BTreeMap<(usize, u64), (Vec<u32>, Vec<u32>)>,
    /// What callers send.
    uploads: BTreeMap<Key, Sending>,
    /// Channels that callers have stopped.
    stopped: Vec<Key>,
    /// What handlers send.
    senders: BTreeMap<Key, (Channel<Response>, Sending)>,
    left: BTreeMap<Key, Sending>,
    readers: BTreeMap<Key, Reading>,
    /// Calls that handlers were given, and once they have ended whether they had been cancelled.
    handled: HashMap<CallId, Option<bool>>,
    killed: u64,
}

/// A policy that lets both uids call.
fn all() -> std::sync::Arc<PolicySnapshot> {
    written("identifier = \"x\"\npeers = [\"uid:1000\", \"uid:1001\"]\npermissions = [\"t:allow-slow\"]\n")
}

/// One that leaves the second uid nothing.
fn some() -> std::sync::Arc<PolicySnapshot> {
    written("identifier = \"x\"\npeers = [\"uid:1000\"]\npermissions = [\"t:allow-slow\"]\n")
}

/// Items are small where windows are, so that a case ends soon.
fn size(window: u64, which: usize) -> usize {
    let most = usize::try_from(window).unwrap().clamp(20, 20_000) * 3;
    match which % 5 {
        0 => 0,
        1 => which,
        2 => which % 17,
        3 => most * (which % 7) / 7,
        _ => most,
    }
}

fn raw(len: usize) -> Message {
    Body::Raw(Bytes::from(vec![7; len])).into()
}

impl World {
    fn new(channel_window: u64, connection_window: u64) -> Self {
        let bounds = Bounds {
            calls: Bound { per_uid: 8, total: u64::MAX },
            message_bytes: Bound { per_uid: 400_000, total: 600_000 },
            item_bytes: Bound { per_uid: 50_000, total: 90_000 },
            ..Bounds::default()
        };
        let mut bus = Bus::with_windows(bounds, channel_window, connection_window);
        bus.reload(all());
        bus.broker.monitor(1, None);
        for uid in UIDS {
            let peer = bus.connect(uid).unwrap();
            bus.peers[peer].consumes = false;
            bus.peers[peer].wire.witness = Some(CreditWitness::new(channel_window, connection_window));
        }
        World {
            bus,
            window: channel_window.min(connection_window),
            alive: [true; 3],
            calls: BTreeMap::new(),
            uploads: BTreeMap::new(),
            stopped: Vec::new(),
            senders: BTreeMap::new(),
            left: BTreeMap::new(),
            readers: BTreeMap::new(),
            handled: HashMap::new(),
            killed: 0,
        }
    }

    fn step(&mut self, what: u8, which: usize, peer: usize) {
        match what {
            0..=2 if self.alive[peer] => self.call(peer, which),
            3 if self.alive[peer] => self.cancel(peer, which),
            4 | 5 if !self.bus.running.is_empty() => self.complete(which),
            6 => self.bus.now += std::time::Duration::from_millis(which as u64),
            7 if which.is_multiple_of(40) && self.alive[peer] => self.kill(peer),
            8 if which.is_multiple_of(8) => self.bus.broker.handle_policy(some(), Vec::new()),
            8 | 9 if which.is_multiple_of(5) => drop(self.bus.reload(all())),
            9..=12 => self.send_from_handler(which),
            13 => self.read_some(which),
            14 => self.end_at_handler(which),
            15..=17 => self.send_from_caller(which),
            18 => self.end_at_caller(which),
            19 => self.stop_at_caller(which),
            20 | 21 => self.consume(which),
            22..=24 if self.alive[peer] => self.bus.carry_some(peer, Role::Daemon, which * 90),
            25..=27 if self.alive[peer] => self.bus.carry_some(peer, Role::Client, which * 90),
            _ => self.bus.broker.handle_ready(self.bus.now),
        }
        self.bus.broker.handle_timeout(self.bus.now);
        self.bus.pump_outputs();
        self.adopt();
        assert_charges_sum_to_use(&self.bus, &UIDS);
    }

    fn call(&mut self, peer: usize, which: usize) {
        let declare = |(at, direction): (usize, &Direction)| ChannelDeclaration {
            index: u32::try_from(at).unwrap() * 2 + 1,
            direction: *direction,
            credit: if *direction == Direction::Down { self.window } else { 0 },
        };
        let directions = [Direction::Down, Direction::Up, Direction::Down];
        let channels: Vec<_> = directions[..which % 4].iter().enumerate().map(declare).collect();
        let request = Request {
            command: if which % 23 == 7 { "t.nothing".into() } else { "t.slow".into() },
            message: raw(size(self.window, which)),
            deadline_us: (which % 3 == 1).then_some(which as u64 * 1000),
            channels: channels.clone(),
            ..Request::default()
        };
        let stream = self.bus.peers[peer].client.call(request).unwrap();
        let of = |direction| channels.iter().filter(move |c| c.direction == direction).map(|c| c.index);
        let (down, up): (Vec<u32>, Vec<u32>) = (of(Direction::Down).collect(), of(Direction::Up).collect());
        for index in &up {
            self.uploads.insert((peer, stream, *index), Sending::default());
        }
        self.calls.insert((peer, stream), (down, up));
    }

    fn cancel(&mut self, peer: usize, which: usize) {
        let own: Vec<u64> =
            self.calls.keys().filter(|(of, _)| *of == peer).map(|(_, stream)| *stream).collect();
        let Some(&stream) = own.get(which % own.len().max(1)) else { return };
        let had_ended = self.bus.end(peer, stream).is_some();
        let of_stream = |key: &Key| (key.0, key.1) == (peer, stream);
        match self.bus.peers[peer].client.cancel(stream) {
            Withdrawal::NeverSent => {
                self.calls.remove(&(peer, stream));
                self.uploads.retain(|key, _| !of_stream(key));
            }
            Withdrawal::Asked if had_ended => {
                // It is STOP for all channels of the call, which the client ends itself.
                let down = &self.calls[&(peer, stream)].0;
                self.stopped.extend(down.iter().map(|index| (peer, stream, *index)));
                for (_, upload) in self.uploads.iter_mut().filter(|(key, _)| of_stream(key)) {
                    upload.has_ended = true;
                }
            }
            Withdrawal::Asked | Withdrawal::TooLate => {}
        }
    }

    fn complete(&mut self, which: usize) {
        let at = which % self.bus.running.len();
        let run = self.bus.running.remove(at).unwrap();
        let outcome = match which % 4 {
            0 => Err(InvokeError::json(&1).into()),
            _ => Ok(Response::new(vec![0; size(self.window, which)])),
        };
        let call = run.call;
        drop(run);
        self.bus.broker.handle_completion(self.bus.now, call, outcome);
        self.bus.pump_outputs();
        // It may be found revoked by its end.
        let was_cancelled = self.bus.cancelled.contains(&call);
        let before = self.handled.insert(call, Some(was_cancelled));
        assert_eq!(before, Some(None), "a handler ends once");
    }

    fn kill(&mut self, peer: usize) {
        self.alive[peer] = false;
        self.killed += 1;
        self.bus.lose(peer);
    }

    /// Handlers that begin take their channels; of every fifth they leave one.
    fn adopt(&mut self) {
        for run in &self.bus.running {
            if self.handled.contains_key(&run.call) {
                continue;
            }
            self.handled.insert(run.call, None);
            let peer = self.bus.peers.iter().position(|peer| peer.id == run.wire.peer.id).unwrap();
            let stream = run.wire.stream;
            let (down, up) = &self.calls[&(peer, stream)];
            for index in down.iter().filter(|index| !(stream + u64::from(**index)).is_multiple_of(5)) {
                let channel = run.wire.channels.channel(*index).unwrap();
                self.senders.insert((peer, stream, *index), (channel, Sending::default()));
            }
            for index in up {
                let reader = run.wire.channels.reader(*index).unwrap();
                let reading = Reading { reader, got: Vec::new(), ends: Vec::new() };
                self.readers.insert((peer, stream, *index), reading);
            }
        }
    }

    fn send_from_handler(&mut self, which: usize) {
        let (window, count) = (self.window, self.senders.len());
        if let Some((_, (channel, sending))) = self.senders.iter_mut().nth(which % count.max(1)) {
            sending.wishes.push_back(size(window, which));
            push(channel, sending);
        }
    }

    fn end_at_handler(&mut self, which: usize) {
        let key = self.senders.keys().nth(which % self.senders.len().max(1)).copied();
        if let Some((key, (channel, mut sending))) = key.and_then(|key| self.senders.remove_entry(&key)) {
            sending.ended_well = !channel.is_closed();
            drop(channel);
            self.left.insert(key, sending);
        }
        if which.is_multiple_of(3) {
            let key = self.readers.keys().nth(which % self.readers.len().max(1)).copied();
            key.map(|key| self.readers.remove(&key));
        }
    }

    fn read_some(&mut self, which: usize) {
        let count = self.readers.len();
        if let Some((_, reading)) = self.readers.iter_mut().nth(which % count.max(1)) {
            reading.read(which % 4);
        }
    }

    fn send_from_caller(&mut self, which: usize) {
        let open = |(key, upload): (&Key, &Sending)| {
            (self.alive[key.0] && !upload.has_ended && self.bus.stops_of(*key) == 0).then_some(*key)
        };
        let open: Vec<Key> = self.uploads.iter().filter_map(open).collect();
        if let Some(key) = open.get(which % open.len().max(1)) {
            self.uploads.get_mut(key).unwrap().wishes.push_back(size(self.window, which));
            self.upload(*key);
        }
    }

    fn upload(&mut self, key @ (peer, stream, index): Key) {
        let told = &mut self.bus.peers[peer].credited;
        let is_credited = told.contains(&(stream, index));
        told.retain(|of| *of != (stream, index));
        let upload = self.uploads.get_mut(&key).unwrap();
        upload.waits &= !is_credited;
        while let Some(&len) = upload.wishes.front().filter(|_| !upload.waits && !upload.has_ended) {
            match self.bus.peers[peer].client.send_item(stream, index, raw(len)).unwrap() {
                Sent::Queued => {
                    upload.wishes.pop_front();
                    upload.sent.push(len);
                }
                Sent::NeedsCredit(_) => upload.waits = true,
                Sent::Ended => upload.has_ended = true,
            }
        }
    }

    fn end_at_caller(&mut self, which: usize) {
        let count = self.uploads.len();
        if let Some((key, upload)) = self.uploads.iter_mut().nth(which % count.max(1))
            && self.alive[key.0]
            && !upload.has_ended
        {
            let code = which.is_multiple_of(3).then_some(ErrorCode::Aborted);
            let client = &mut self.bus.peers[key.0].client;
            upload.ended_well = client.end_channel(key.1, key.2, code, "so") && code.is_none();
            upload.has_ended = true;
        }
    }

    fn stop_at_caller(&mut self, which: usize) {
        let down = self.calls.iter().flat_map(|((peer, stream), (down, _))| {
            down.iter().map(|index| (*peer, *stream, *index)).collect::<Vec<_>>()
        });
        let down: Vec<Key> = down.filter(|key| self.alive[key.0]).collect();
        if let Some(&(peer, stream, index)) = down.get(which % down.len().max(1)) {
            self.bus.peers[peer].client.stop_channel(stream, index);
            self.stopped.push((peer, stream, index));
        }
    }

    fn consume(&mut self, which: usize) {
        let peer = &mut self.bus.peers[which % UIDS.len()];
        for (key, came) in &mut peer.channels {
            peer.client.give_credit(key.0, key.1, std::mem::take(&mut came.held));
        }
    }

    /// Everybody goes on until nothing moves.
    fn settle(&mut self) {
        loop {
            let before = self.progress();
            self.bus.settle();
            self.adopt();
            (0..UIDS.len()).filter(|peer| self.alive[*peer]).collect::<Vec<_>>().into_iter().for_each(|p| {
                self.consume(p);
            });
            self.readers.values_mut().for_each(|reading| reading.read(usize::MAX));
            self.senders.values_mut().for_each(|(channel, sending)| push(channel, sending));
            let keys: Vec<Key> = self.uploads.keys().copied().filter(|key| self.alive[key.0]).collect();
            keys.into_iter().for_each(|key| self.upload(key));
            self.bus.settle();
            assert_charges_sum_to_use(&self.bus, &UIDS);
            if self.progress() == before {
                return;
            }
        }
    }

    /// Changes with whatever moves.
    fn progress(&self) -> (usize, usize, usize, u64) {
        let sent = self.senders.values().map(|(_, sending)| sending.sent.len()).sum::<usize>()
            + self.uploads.values().map(|upload| upload.sent.len()).sum::<usize>();
        let came = self.bus.peers.iter().flat_map(|peer| peer.channels.values());
        let came = came.map(|came| came.items.len() + came.ends.len()).sum();
        let read = self.readers.values().map(|reading| reading.got.len() + reading.ends.len()).sum();
        let frames = self.bus.peers.iter().filter_map(|peer| peer.wire.witness.as_ref());
        (sent, came, read, frames.map(|witness| witness.seen().frames).sum())
    }

    fn finish(mut self) -> Counts {
        self.settle();
        for (key, (channel, sending)) in &self.senders {
            assert!(sending.wishes.is_empty() || channel.is_closed(), "{key:?} stands still: {sending:?}");
        }
        for (key, upload) in self.uploads.iter().filter(|(key, _)| self.alive[key.0]) {
            let has_ended = upload.has_ended || self.bus.stops_of(*key) > 0;
            assert!(upload.wishes.is_empty() || has_ended, "{key:?} stands still: {upload:?}");
        }
        while !self.bus.running.is_empty() {
            self.complete(1);
            self.settle();
        }
        for (key, (channel, mut sending)) in std::mem::take(&mut self.senders) {
            sending.ended_well = !channel.is_closed();
            self.left.insert(key, sending);
        }
        for at in 0..self.uploads.len() * 3 {
            self.end_at_caller(at);
        }
        self.settle();
        self.check_calls();
        self.check_channels();
        let counts = self.counts();
        drop(std::mem::take(&mut self.readers));
        self.settle();
        assert_idle(&self.bus);
        assert_charges_sum_to_use(&self.bus, &UIDS);
        counts
    }

    fn check_calls(&self) {
        for (peer, stream) in self.calls.keys().filter(|(peer, _)| self.alive[*peer]) {
            assert!(self.bus.end(*peer, *stream).is_some(), "call {stream} of {peer} did not end");
        }
        let mut cancelled = self.bus.cancelled.clone();
        cancelled.sort_unstable();
        cancelled.dedup();
        assert_eq!(cancelled.len(), self.bus.cancelled.len(), "a handler is told once");
        for (call, end) in &self.handled {
            let told_before_its_end = end.expect("each handler has ended");
            assert_eq!(told_before_its_end, cancelled.contains(call), "a handler that had ended is told");
        }
        let late = self.handled.values().filter(|end| **end == Some(true)).count();
        let stats = self.bus.broker.stats();
        assert_eq!(stats.late_completions, late as u64);
        assert_eq!(self.bus.records.len() as u64, stats.calls, "each call ends once at the daemon");
    }

    fn check_channels(&self) {
        for ((peer, stream), (down, up)) in self.calls.iter().filter(|(key, _)| self.alive[key.0]) {
            for index in down {
                let key = (*peer, *stream, *index);
                let came = self.bus.came(*peer, *stream, *index);
                assert_eq!(came.ends.len(), 1, "{key:?} ends once at its caller: {:?}", came.ends);
                let sent = self.left.get(&key).map_or(&[][..], |sending| &sending.sent);
                assert!(sent.starts_with(&came.items), "{key:?} is in order");
                let is_all = came.ends == [None] && !self.stopped.contains(&key);
                assert!(!is_all || came.items.len() == sent.len(), "{key:?} lost items");
            }
            for index in up {
                assert!(self.bus.stops_of((*peer, *stream, *index)) <= 1, "a sender is told once");
            }
        }
        for (key, reading) in &self.readers {
            assert_eq!(reading.ends.len(), 1, "{key:?} ends once at its handler: {:?}", reading.ends);
            let upload = &self.uploads[key];
            assert!(upload.sent.starts_with(&reading.got), "{key:?} is in order");
            let is_all = reading.ends == [None];
            assert!(!is_all || upload.ended_well && reading.got == upload.sent, "{key:?} lost items");
        }
        let peers = self.bus.peers.iter().zip(self.alive).filter(|(_, alive)| *alive).map(|(peer, _)| peer);
        for peer in peers {
            assert_eq!((peer.client.open_outbound(), peer.daemon.open_inbound()), (0, 0), "slots");
            assert_eq!((peer.client.open_channels(), peer.daemon.open_channels()), (0, 0), "channels");
        }
    }

    fn counts(&self) -> Counts {
        let stats = self.bus.broker.stats();
        let came = || self.bus.peers.iter().flat_map(|peer| peer.channels.values());
        let read: usize = self.readers.values().map(|reading| reading.got.len()).sum();
        let witnesses = self.bus.peers.iter().filter_map(|peer| peer.wire.witness.as_ref());
        Counts {
            calls: stats.calls,
            replies: stats.replies,
            abandoned: stats.abandoned,
            refused: stats.denied + stats.errors.get("resource_exhausted").copied().unwrap_or(0),
            channels: came().map(|came| came.ends.len() as u64).sum(),
            items: (came().map(|came| came.items.len()).sum::<usize>() + read) as u64,
            used_up: witnesses.map(|witness| witness.seen().used_up).sum(),
            killed: self.killed,
        }
    }
}

impl Bus {
    fn stops_of(&self, (peer, stream, index): Key) -> usize {
        self.peers[peer].stops.get(&(stream, index)).copied().unwrap_or(0)
    }
}

impl Reading {
    fn read(&mut self, most: usize) {
        for _ in 0..most {
            let end = match self.reader.try_recv() {
                Some(Ok(item)) => {
                    assert!(self.ends.is_empty(), "an item after the end");
                    self.got.push(item.body.bytes().len());
                    continue;
                }
                Some(Err(RecvError::Empty)) => return,
                Some(Err(RecvError::Closed { code, .. })) => Some(code),
                Some(Err(error)) => panic!("{error}"),
                None => None,
            };
            // After an end with a code, the end is all that is left; it is told as long as somebody asks.
            if self.ends.is_empty() {
                self.ends.push(end);
            } else {
                assert_eq!(end, None, "an end with a code is told once");
                return;
            }
        }
    }
}

fn push(channel: &Channel<Response>, sending: &mut Sending) {
    while let Some(&len) = sending.wishes.front() {
        match channel.try_send(Response::new(vec![7; len])) {
            Ok(()) => {
                sending.wishes.pop_front();
                sending.sent.push(len);
            }
            Err(SendError::Full | SendError::Closed { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn window() -> BoxedStrategy<u64> {
    prop_oneof![Just(1_u64), 2_u64..300, 300_u64..70_000, Just(1 << 18), Just(1 << 20)].boxed()
}

#[test]
fn every_call_and_channel_ends_once_at_both_ends_and_charges_are_what_is_held() {
    let step = (0_u8..30, 0_usize..256, 0..UIDS.len());
    let schedules = ((window(), window()), vec(step, 1..160));
    let default = ProptestConfig::default();
    let config = ProptestConfig { cases: default.cases.max(CASES), failure_persistence: None, ..default };
    let total = Cell::new(Counts::default());
    let run = TestRunner::new(config).run(&schedules, |(windows, steps)| {
        let mut world = World::new(windows.0, windows.1);
        for (what, which, peer) in steps {
            world.step(what, which, peer);
        }
        let (new, old) = (world.finish(), total.get());
        total.set(Counts {
            calls: old.calls + new.calls,
            replies: old.replies + new.replies,
            abandoned: old.abandoned + new.abandoned,
            refused: old.refused + new.refused,
            channels: old.channels + new.channels,
            items: old.items + new.items,
            used_up: old.used_up + new.used_up,
            killed: old.killed + new.killed,
        });
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    let total = total.get();
    println!("at least {CASES} schedules: {total:?}");
    let Counts { calls, replies, abandoned, refused, channels, items, used_up, killed } = total;
    for (count, least) in [
        (calls, 4000),
        (replies, 2000),
        (abandoned, 500),
        (refused, 200),
        (channels, 4000),
        (items, 2000),
        (used_up, 10_000),
        (killed, 20),
    ] {
        assert!(count >= least, "{count}, and at least {least} were expected: {total:?}");
    }
}
