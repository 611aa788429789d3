//! Channels under any schedule: what both sides do, and how far bytes get, comes in any order, with windows from one byte
//! to one MiB. Nothing may stand still, nothing may be told twice, and a witness that counts credit by itself sees every byte.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Role, Sent, Settings, Transmit, Unsent};
use invoked_proto::metadata::{ChannelDeclaration, Failure};
use invoked_proto::registry::{Delivery, Direction, ErrorCode, features};
use invoked_proto::testing::{CreditWitness, Pair, Seen, Token, output};
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::test_runner::TestRunner;

type Key = (u64, u32);

/// One side's end of a channel.
#[derive(Debug, Default)]
struct Sender {
    /// Lengths of items that it still wants to send.
    wishes: VecDeque<usize>,
    /// How many it has sent.
    sent: usize,
    /// Whether it waits to be told of credit.
    waits: bool,
    /// It ended, or was told so.
    ended: bool,
    /// It ended the channel well: all that it sent must come.
    ended_well: bool,
}

#[derive(Debug, Default)]
struct Receiver {
    growing: Option<Assembly>,
    /// Credit of the item on its way, then of those that are not consumed.
    credit: u64,
    unconsumed: VecDeque<u64>,
    received: usize,
    stopped: bool,
    end: Option<Option<ErrorCode>>,
}

#[derive(Debug, Default)]
struct Side {
    senders: BTreeMap<Key, Sender>,
    receivers: BTreeMap<Key, Receiver>,
    /// Payload that was not given back.
    held: usize,
}

struct World {
    pair: Pair,
    client: Side,
    daemon: Side,
    /// Calls that the daemon was told of and has not answered.
    waiting: Vec<u64>,
    /// By stream: how often its caller was told of its end.
    ends: BTreeMap<u64, usize>,
    pipes: [BytesMut; 2],
    witness: CreditWitness,
    window: u64,
}

const ROLES: [Role; 2] = [Role::Client, Role::Daemon];

/// Items are small where windows are, so that a case ends soon.
fn size(window: u64, which: usize) -> usize {
    let most = (window as usize).clamp(20, 40_000) * 3;
    match which % 5 {
        0 => 0,
        1 => which,
        2 => which % 17,
        3 => most * (which % 7) / 7,
        _ => most,
    }
}

fn pattern(index: usize, len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 + index * 7) as u8).collect()
}

impl World {
    fn new(channel_window: u64, connection_window: u64) -> Self {
        let settings = Settings {
            features: features::CHANNELS,
            channel_window,
            connection_window,
            open_channels: 20,
            ..Settings::default()
        };
        World {
            pair: Pair::open_with(settings, settings),
            client: Side::default(),
            daemon: Side::default(),
            waiting: Vec::new(),
            ends: BTreeMap::new(),
            pipes: [BytesMut::new(), BytesMut::new()],
            witness: CreditWitness::new(channel_window, connection_window),
            window: channel_window.min(connection_window),
        }
    }

    fn side(&mut self, of: usize) -> (&mut Connection<Token>, &mut Side) {
        match of {
            0 => (&mut self.pair.client, &mut self.client),
            _ => (&mut self.pair.daemon, &mut self.daemon),
        }
    }

    fn step(&mut self, what: u8, of: usize, which: usize) {
        match what {
            0 | 1 => self.call(which),
            2..=4 => self.wish(of, which),
            5 => self.end_channel(of, which),
            6 => self.stop_channel(of, which),
            7 | 8 => self.consume(of, which),
            9 if !self.waiting.is_empty() => {
                let stream = self.waiting.swap_remove(which % self.waiting.len());
                self.answer(stream, which);
            }
            10 if !self.ends.is_empty() => {
                let stream = *self.ends.keys().nth(which % self.ends.len()).unwrap();
                self.pair.client.cancel(stream);
                self.note_withdrawn(stream);
            }
            11 | 12 => self.fill(of),
            13..=15 => self.carry(of, which * 90),
            _ => self.release(of),
        }
    }

    fn call(&mut self, which: usize) {
        let body = Body::Raw(pattern(which, size(self.window, which)));
        let directions = [Direction::Down, Direction::Up, Direction::Down];
        let channels: Vec<_> = directions[..which % 4 % 3 + 1]
            .iter()
            .enumerate()
            .map(|(at, direction)| {
                let credit = if *direction == Direction::Down { self.window } else { 0 };
                ChannelDeclaration { index: at as u32 * 2 + 1, direction: *direction, credit }
            })
            .collect();
        let before = self.pair.client.open_channels();
        let request = Request {
            command: "a.b".into(),
            channels: channels.clone(),
            message: body.into(),
            ..Request::default()
        };
        let Ok(stream) = self.pair.client.call(request) else {
            assert!(before + channels.len() > 20, "a call is refused though there is room");
            return;
        };
        self.ends.insert(stream, 0);
        for declared in channels {
            let key = (stream, declared.index);
            match declared.direction {
                Direction::Down => drop(self.client.receivers.insert(key, Receiver::default())),
                Direction::Up => drop(self.client.senders.insert(key, Sender::default())),
            }
        }
    }

    /// A call of which nothing had been sent leaves nothing behind.
    fn note_withdrawn(&mut self, stream: u64) {
        if self.ends[&stream] == 0 && !self.pair.client.is_open_call(stream) {
            self.ends.remove(&stream);
            self.client.receivers.retain(|key, _| key.0 != stream);
            self.client.senders.retain(|key, _| key.0 != stream);
        }
        // Where the call had ended, its channels are cut by the client itself.
        for sender in self.client.senders.iter_mut().filter(|(key, _)| key.0 == stream).map(|(_, s)| s) {
            if self.ends.get(&stream).is_some_and(|ends| *ends == 1) {
                sender.ended = true;
            }
        }
        for receiver in self.client.receivers.iter_mut().filter(|(key, _)| key.0 == stream).map(|(_, r)| r) {
            receiver.stopped |= self.ends.get(&stream).is_some_and(|ends| *ends == 1);
        }
    }

    fn wish(&mut self, of: usize, which: usize) {
        let len = size(self.window, which);
        let (_, side) = self.side(of);
        let open: Vec<Key> = side.senders.iter().filter(|(_, s)| !s.ended).map(|(key, _)| *key).collect();
        if open.is_empty() {
            return;
        }
        let key = open[which % open.len()];
        side.senders.get_mut(&key).unwrap().wishes.push_back(len);
        self.send(of, key);
    }

    fn send(&mut self, of: usize, key: Key) {
        let (connection, side) = self.side(of);
        let Some(sender) = side.senders.get_mut(&key) else { return };
        while let Some(len) = sender.wishes.front().filter(|_| !sender.waits && !sender.ended) {
            let message = Message::from(Body::Raw(pattern(sender.sent, *len)));
            // Some channels would rather leave items out; here nobody does, so that all must come.
            let sent = match key.1 {
                5 => connection.send_lossy_item(key.0, key.1, 0, message),
                _ => connection.send_item(key.0, key.1, message),
            };
            match sent.unwrap() {
                Sent::Queued => {
                    sender.sent += 1;
                    sender.wishes.pop_front();
                }
                Sent::NeedsCredit(_) => sender.waits = true,
                // STOP has come, and the event waits.
                Sent::Ended => return,
            }
        }
    }

    fn end_channel(&mut self, of: usize, which: usize) {
        let (connection, side) = self.side(of);
        let open: Vec<Key> = side.senders.iter().filter(|(_, s)| !s.ended).map(|(key, _)| *key).collect();
        if open.is_empty() {
            return;
        }
        let key = open[which % open.len()];
        let sender = side.senders.get_mut(&key).unwrap();
        let ended = match which % 4 {
            0 => connection.cut_channel(key.0, key.1, ErrorCode::Aborted, "so"),
            1 => connection.end_channel(key.0, key.1, Some(ErrorCode::Aborted), "so"),
            _ => connection.end_channel(key.0, key.1, None, ""),
        };
        if ended {
            sender.ended = true;
            sender.ended_well = which % 4 > 1;
        }
    }

    fn stop_channel(&mut self, of: usize, which: usize) {
        let (connection, side) = self.side(of);
        let open: Vec<Key> = side.receivers.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let key = open[which % open.len()];
        connection.stop_channel(key.0, key.1);
        side.receivers.get_mut(&key).unwrap().stopped = true;
    }

    fn consume(&mut self, of: usize, which: usize) {
        let (connection, side) = self.side(of);
        let full: Vec<Key> =
            side.receivers.iter().filter(|(_, r)| !r.unconsumed.is_empty()).map(|(key, _)| *key).collect();
        if full.is_empty() {
            return;
        }
        let key = full[which % full.len()];
        let credit = side.receivers.get_mut(&key).unwrap().unconsumed.pop_front().unwrap();
        connection.give_credit(key.0, key.1, credit);
    }

    fn release(&mut self, of: usize) {
        let (connection, side) = self.side(of);
        connection.release(std::mem::take(&mut side.held));
    }

    fn answer(&mut self, stream: u64, which: usize) {
        if which.is_multiple_of(3) {
            let failure = Failure::framework(ErrorCode::Internal, "x", Delivery::Delivered);
            self.pair.daemon.fail_call(stream, ErrorCode::Internal, failure, Message::default()).unwrap();
            for sender in self.daemon.senders.iter_mut().filter(|(key, _)| key.0 == stream).map(|(_, s)| s) {
                (sender.ended, sender.ended_well) = (true, false);
            }
            for receiver in
                self.daemon.receivers.iter_mut().filter(|(key, _)| key.0 == stream).map(|(_, r)| r)
            {
                receiver.end.get_or_insert(Some(ErrorCode::Internal));
            }
        } else {
            let message = Message::from(Body::Raw(pattern(which, size(self.window, which))));
            self.pair.daemon.reply(stream, Vec::new(), message).unwrap();
        }
    }

    /// One batch of output of a side goes into the pipe.
    fn fill(&mut self, of: usize) {
        let mut transmit = Transmit::default();
        let (connection, _) = self.side(of);
        let had = connection.has_transmit();
        assert_eq!(connection.poll_transmit(&mut transmit), had, "has_transmit says the truth");
        let mut bytes = BytesMut::new();
        while !transmit.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let filled = transmit.slices(&mut slices);
            let before = bytes.len();
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            transmit.advance(bytes.len() - before);
        }
        self.put(of, bytes.freeze());
        self.take_events(of);
    }

    /// Bytes of a side go into the pipe.
    fn put(&mut self, of: usize, bytes: Bytes) {
        self.pipes[of].extend_from_slice(&bytes);
        self.witness.leave(ROLES[of], bytes);
    }

    /// Up to `most` bytes come out of the pipe.
    fn carry(&mut self, of: usize, most: usize) {
        let len = self.pipes[of].len().min(most);
        let bytes = self.pipes[of].split_to(len).freeze();
        let now = self.pair.now;
        self.witness.arrive(ROLES[of], bytes.clone());
        let (connection, _) = self.side(1 - of);
        connection.handle_input(now, bytes, []).unwrap();
        self.take_events(1 - of);
    }

    fn take_events(&mut self, of: usize) {
        while let Some(event) = self.side(of).0.poll_event() {
            self.handle(of, event);
        }
    }

    fn handle(&mut self, of: usize, event: Event<Token>) {
        match event {
            Event::Called { stream, call, payload, .. } => {
                self.daemon.held += payload.len();
                self.waiting.push(stream);
                for declared in call.channels {
                    let key = (stream, declared.index);
                    match declared.direction {
                        Direction::Up => drop(self.daemon.receivers.insert(key, Receiver::default())),
                        Direction::Down => drop(self.daemon.senders.insert(key, Sender::default())),
                    }
                }
            }
            Event::Replied { stream, payload, .. } | Event::Failed { stream, payload, .. } => {
                self.client.held += payload.len();
                let ends = self.ends.get_mut(&stream).expect("an end of a call that was never made");
                *ends += 1;
                assert_eq!(*ends, 1, "stream {stream} ended twice");
            }
            Event::Continued { payload, .. } => self.side(of).1.held += payload.len(),
            Event::Cancelled { stream } => {
                // Half of the handlers answer, the others go on.
                if stream % 4 == 1 {
                    self.waiting.retain(|waiting| *waiting != stream);
                    self.answer(stream, 0);
                }
            }
            Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                let (_, side) = self.side(of);
                side.held += payload.len();
                let Some(receiver) = live(side, (stream, channel)) else { return };
                assert!(receiver.growing.is_none(), "an item inside another");
                receiver.growing = Some(Assembly::begin(item.parts, payload).unwrap());
                receiver.advance(more, credit);
            }
            Event::ItemContinued { stream, channel, payload, more, credit } => {
                let (_, side) = self.side(of);
                side.held += payload.len();
                let Some(receiver) = live(side, (stream, channel)) else { return };
                receiver.growing.as_mut().expect("a fragment of no item").push(&payload).unwrap();
                receiver.advance(more, credit);
            }
            Event::ChannelEnded { stream, channel, code, .. } => {
                let (_, side) = self.side(of);
                let Some(receiver) = live(side, (stream, channel)) else { return };
                assert!(receiver.end.is_none(), "a channel ended twice");
                assert!(
                    code.is_some() || receiver.stopped || receiver.growing.is_none(),
                    "it ended well inside an item"
                );
                receiver.end = Some(code);
            }
            Event::ChannelStopped { stream, channel } => {
                let (_, side) = self.side(of);
                let sender = side.senders.get_mut(&(stream, channel)).expect("a channel that we send on");
                assert!(!sender.ended || of == 1, "a channel that had ended was stopped");
                sender.ended = true;
            }
            Event::ChannelCredited { stream, channel } => {
                let (_, side) = self.side(of);
                let sender = side.senders.get_mut(&(stream, channel)).expect("a channel that we send on");
                assert!(sender.waits, "credit that nobody waits for is told");
                sender.waits = false;
                self.send(of, (stream, channel));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everything is carried, consumed, answered and ended, until nothing moves; what the witness saw.
    fn finish(mut self) -> Seen {
        self.settle();
        for stream in std::mem::take(&mut self.waiting) {
            self.answer(stream, 1);
        }
        self.settle();
        for of in [0, 1] {
            let (connection, side) = self.side(of);
            for (key, sender) in side.senders.iter_mut().filter(|(_, sender)| !sender.ended) {
                assert!(sender.wishes.is_empty(), "{key:?} stands still: {sender:?}");
                assert!(connection.end_channel(key.0, key.1, None, ""), "{key:?} had ended and was not told");
                (sender.ended, sender.ended_well) = (true, true);
            }
        }
        self.settle();
        self.check();
        self.witness.seen()
    }

    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for of in [0, 1] {
                let bytes = output(self.side(of).0);
                self.put(of, bytes);
                moved |= !self.pipes[of].is_empty();
                self.carry(of, usize::MAX);
                self.take_events(of);
            }
            for of in [0, 1] {
                self.release(of);
                let (connection, side) = self.side(of);
                for (key, receiver) in &mut side.receivers {
                    for credit in receiver.unconsumed.drain(..) {
                        connection.give_credit(key.0, key.1, credit);
                    }
                }
            }
            if !moved && !self.pair.client.has_transmit() && !self.pair.daemon.has_transmit() {
                return;
            }
        }
    }

    fn check(&mut self) {
        let open: Vec<_> = self.ends.iter().filter(|(_, ends)| **ends != 1).collect();
        assert!(open.is_empty(), "calls that did not end: {open:?}");
        for of in [0, 1] {
            let (connection, side) = self.side(of);
            assert_eq!(connection.unsent(), Unsent::default());
            assert_eq!(connection.open_channels(), 0, "channels are left open: {side:?}");
            assert!(!connection.is_starved());
        }
        let both = [(&self.client, &self.daemon), (&self.daemon, &self.client)];
        for (from, to) in both {
            for (key, receiver) in &to.receivers {
                assert!(receiver.end.is_some(), "{key:?} did not end");
                let Some(sender) = from.senders.get(key) else {
                    // The call was refused or withdrawn before the other side knew of it.
                    assert_eq!(receiver.received, 0);
                    continue;
                };
                assert!(receiver.received <= sender.sent, "{key:?} has more than was sent");
                if sender.ended_well && !receiver.stopped && receiver.end == Some(None) {
                    assert_eq!(receiver.received, sender.sent, "{key:?} lost items");
                }
            }
        }
    }
}

impl Receiver {
    fn advance(&mut self, more: More, credit: u64) {
        self.credit += credit;
        assert!(self.end.is_none(), "an item after the end");
        assert!(!self.stopped || more == More::Follows || self.growing.is_some());
        if more == More::Whole {
            let message = self.growing.take().unwrap().finish().unwrap();
            let expected = pattern(self.received, message.len());
            assert_eq!(message.body.bytes(), &expected[..], "items come in order");
            self.received += 1;
            self.unconsumed.push_back(std::mem::take(&mut self.credit));
        }
    }
}

/// The receiver of a channel whose call was not answered with an error while the event waited.
fn live(side: &mut Side, key: Key) -> Option<&mut Receiver> {
    side.receivers.get_mut(&key).filter(|receiver| receiver.end.is_none())
}

fn window() -> BoxedStrategy<u64> {
    prop_oneof![Just(1_u64), 2_u64..300, 300_u64..70_000, Just(1 << 18), Just(1 << 20)].boxed()
}

#[test]
fn channels_keep_order_end_once_and_never_stand_still() {
    let schedules =
        ((window(), window()), vec((0_u8..17, 0_usize..2, any::<u8>().prop_map(usize::from)), 1..120));
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let total = std::cell::Cell::new(Seen::default());
    let run = TestRunner::new(config).run(&schedules, |(windows, schedule)| {
        let mut world = World::new(windows.0, windows.1);
        for (what, of, which) in schedule {
            world.step(what, of, which);
        }
        let (seen, before) = (world.finish(), total.get());
        total.set(Seen {
            frames: before.frames + seen.frames,
            items: before.items + seen.items,
            credits: before.credits + seen.credits,
            used_up: before.used_up + seen.used_up,
        });
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    let Seen { frames, items, credits, used_up } = total.get();
    println!(
        "1000 schedules: {frames} frames, {items} of items, {credits} of credit, {used_up} used credit up"
    );
    assert!(
        items > 20_000 && credits > 20_000 && used_up > 10_000,
        "the schedules reach little: {:?}",
        total.get()
    );
}
