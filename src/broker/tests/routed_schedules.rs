//! Callers and providers under any schedule: whatever moves in any order, each call ends once, each channel at both ends, items
//! arrive in order, nothing stands still, and what is charged is what is held.

use std::cell::Cell;
use std::collections::BTreeMap;

use invoked_proto::body::Message;
use invoked_proto::connection::{Request, Role, Sent};
use invoked_proto::metadata::{ChannelDeclaration, Extensions, Failure};
use invoked_proto::registry::{Delivery, Direction, ErrorCode, tags};
use invoked_proto::testing::CreditWitness;
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, prop_oneof};
use proptest::test_runner::TestRunner;

use super::bus::Bus;
use super::client::Called;
use super::providing::{CALLER, OTHER, PROVIDER, interface, policy, policy_with, raw};
use super::sums::assert_charges_sum_to_use;
use super::{Bound, Bounds, assert_idle, done};

const CASES: u32 = 400;

const UIDS: [u32; 3] = [CALLER, PROVIDER, OTHER];

/// A channel at one of its ends: the peer, its stream, the index.
type Key = (usize, u64, u32);

/// What all schedules came to.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    calls: u64,
    routed: u64,
    replies: u64,
    late: u64,
    items: u64,
    killed: u64,
}

/// An end on which items are sent.
#[derive(Debug, Default)]
struct Sending {
    sent: Vec<usize>,
    has_ended: bool,
}

/// A call that a provider has.
struct Serving {
    provider: usize,
    called: Called,
    is_answered: bool,
}

struct World {
    bus: Bus,
    windows: (u64, u64),
    alive: Vec<bool>,
    callers: Vec<usize>,
    /// Who provides now.
    providers: Vec<usize>,
    /// Calls of the callers, with their channels down and up.
    calls: Vec<(usize, u64, Vec<u32>, Vec<u32>)>,
    serving: Vec<Serving>,
    sending: BTreeMap<Key, Sending>,
    /// Calls that providers made for their callers.
    nested: Vec<(usize, u64)>,
    killed: u64,
}

impl World {
    fn new(channel_window: u64, connection_window: u64) -> Self {
        let bounds = Bounds {
            calls: Bound { per_uid: 12, total: u64::MAX },
            message_bytes: Bound { per_uid: 500_000, total: 1_000_000 },
            ..Bounds::default()
        };
        let mut world = World {
            bus: Bus::with_windows(bounds, channel_window, connection_window),
            windows: (channel_window, connection_window),
            alive: Vec::new(),
            callers: Vec::new(),
            providers: Vec::new(),
            calls: Vec::new(),
            serving: Vec::new(),
            sending: BTreeMap::new(),
            nested: Vec::new(),
            killed: 0,
        };
        world.bus.reload(policy());
        world.callers = vec![world.connect(CALLER), world.connect(CALLER)];
        world.provide(PROVIDER, "1.0.0");
        world.provide(OTHER, "2.0.0");
        world
    }

    fn connect(&mut self, uid: u32) -> usize {
        let peer = self.bus.connect(uid).unwrap();
        self.bus.peers[peer].consumes = false;
        self.bus.peers[peer].wire.witness = Some(CreditWitness::new(self.windows.0, self.windows.1));
        self.alive.push(true);
        peer
    }

    fn provide(&mut self, uid: u32, version: &str) {
        let peer = self.connect(uid);
        self.bus.register(peer, &interface(version, &[])).unwrap();
        self.providers.push(peer);
    }

    fn step(&mut self, what: u8, which: usize) {
        let caller = self.callers[which % 2];
        match what {
            0..=3 if self.alive[caller] => self.call(caller, which),
            4 => self.cancel(which),
            5..=7 => self.answer(which),
            8 => self.bus.now += std::time::Duration::from_millis(which as u64 * 50),
            9 if which.is_multiple_of(25) => self.kill(which),
            10 if which.is_multiple_of(6) => {
                drop(self.bus.reload(policy_with(", \"text:allow-relay\"", "")));
            }
            10 if which.is_multiple_of(3) => drop(self.bus.reload(policy())),
            11..=15 => self.send(which),
            16 => self.end(which),
            17 => self.stop(which),
            18 | 19 => self.consume(which),
            20 => self.nest(which),
            21 => self.finish_nested(),
            _ => self.carry(what, which),
        }
        self.bus.broker.handle_timeout(self.bus.now);
        self.bus.pump_outputs();
        self.adopt();
        assert_charges_sum_to_use(&self.bus, &UIDS);
    }

    fn carry(&mut self, what: u8, which: usize) {
        let live: Vec<usize> = (0..self.alive.len()).filter(|peer| self.alive[*peer]).collect();
        let reader = if what.is_multiple_of(2) { Role::Daemon } else { Role::Client };
        if let Some(peer) = live.get(which % live.len().max(1)) {
            self.bus.carry_some(*peer, reader, which * 90);
        }
    }

    /// Not much more than a window, which takes turns as many as its bytes where it is one byte.
    fn size(&self, which: usize) -> usize {
        let window = usize::try_from(self.windows.0.min(self.windows.1)).unwrap();
        match which % 9 {
            0 => 0,
            1 => (window * 4 + 17).min(300_000),
            2 => (window + 1).min(300_000),
            _ => (which * 3).min(window * 20),
        }
    }

    fn call(&mut self, caller: usize, which: usize) {
        let all = [(1, Direction::Down), (2, Direction::Up), (3, Direction::Down)];
        let declare = |(index, direction): &(u32, Direction)| ChannelDeclaration {
            index: *index,
            direction: *direction,
            credit: if *direction == Direction::Down { self.windows.0 } else { 0 },
        };
        let channels: Vec<_> = all[..which % 4].iter().map(declare).collect();
        let request = Request {
            command: if which % 3 == 1 { "text.upper".into() } else { "text.relay".into() },
            message: raw(self.size(which)),
            deadline_us: (which % 5 == 1).then_some(which as u64 * 1000),
            channels: channels.clone(),
            ..Request::default()
        };
        let Ok(stream) = self.bus.peers[caller].client.call(request) else { return };
        let of = |direction| channels.iter().filter(move |c| c.direction == direction).map(|c| c.index);
        for index in of(Direction::Up) {
            self.sending.insert((caller, stream, index), Sending::default());
        }
        self.calls.push((caller, stream, of(Direction::Down).collect(), of(Direction::Up).collect()));
    }

    fn cancel(&mut self, which: usize) {
        let Some((caller, stream, ..)) = self.calls.get(which % self.calls.len().max(1)) else { return };
        let (caller, stream) = (*caller, *stream);
        if !self.alive[caller] {
            return;
        }
        let withdrawal = self.bus.peers[caller].client.cancel(stream);
        if withdrawal == invoked_proto::connection::Withdrawal::NeverSent {
            self.calls.retain(|call| (call.0, call.1) != (caller, stream));
            self.sending.retain(|key, _| (key.0, key.1) != (caller, stream));
        } else if self.bus.end(caller, stream).is_some() {
            // It is STOP for all channels of the call, which the client ends itself.
            let of_stream = |key: &Key| (key.0, key.1) == (caller, stream);
            self.sending.iter_mut().filter(|(key, _)| of_stream(key)).for_each(|(_, s)| s.has_ended = true);
        }
    }

    /// Providers take what has come.
    fn adopt(&mut self) {
        for peer in self.providers.clone() {
            let mut kept = std::collections::VecDeque::new();
            while let Some(called) = self.bus.peers[peer].called.pop_front() {
                // One that is cancelled inside of its message is answered as it is.
                let is_cancelled = self.bus.peers[peer].withdrawn.contains(&called.stream);
                if !called.is_whole && !is_cancelled {
                    kept.push_back(called);
                    continue;
                }
                for channel in called.call.channels.iter().filter(|c| c.direction == Direction::Down) {
                    self.sending.insert((peer, called.stream, channel.index), Sending::default());
                }
                self.serving.push(Serving { provider: peer, called, is_answered: false });
            }
            self.bus.peers[peer].called = kept;
        }
    }

    fn answer(&mut self, which: usize) {
        let size = self.size(which);
        let open = self.serving.iter_mut().filter(|s| !s.is_answered && self.alive[s.provider]);
        let mut open: Vec<&mut Serving> = open.collect();
        let count = open.len();
        let Some(serving) = open.get_mut(which % count.max(1)) else { return };
        serving.is_answered = true;
        let client = &mut self.bus.peers[serving.provider].client;
        let stream = serving.called.stream;
        if which.is_multiple_of(4) {
            let failure = Failure::framework(ErrorCode::Aborted, "", Delivery::Completed);
            client.fail_call(stream, ErrorCode::Aborted, failure, Message::default()).unwrap();
        } else {
            client.reply(stream, Vec::new(), raw(size)).unwrap();
        }
    }

    fn send(&mut self, which: usize) {
        let len = self.size(which);
        let open: Vec<Key> = self
            .sending
            .iter()
            .filter(|(key, sending)| self.alive[key.0] && !sending.has_ended)
            .map(|(key, _)| *key)
            .collect();
        let Some(key) = open.get(which % open.len().max(1)) else { return };
        let sent = self.bus.peers[key.0].client.send_item(key.1, key.2, raw(len)).unwrap();
        let sending = self.sending.get_mut(key).unwrap();
        match sent {
            Sent::Queued => sending.sent.push(len),
            Sent::NeedsCredit(_) => {}
            Sent::Ended => sending.has_ended = true,
        }
    }

    fn end(&mut self, which: usize) {
        let keys: Vec<Key> = self.sending.keys().filter(|key| self.alive[key.0]).copied().collect();
        if let Some(key) = keys.get(which % keys.len().max(1)) {
            let code = which.is_multiple_of(3).then_some(ErrorCode::Aborted);
            self.bus.peers[key.0].client.end_channel(key.1, key.2, code, "so");
            self.sending.get_mut(key).unwrap().has_ended = true;
        }
    }

    fn stop(&mut self, which: usize) {
        let of_callers = self.calls.iter().flat_map(|(peer, stream, down, _)| {
            down.iter().map(|index| (*peer, *stream, *index)).collect::<Vec<_>>()
        });
        let of_providers = self.serving.iter().flat_map(|serving| {
            let up = serving.called.call.channels.iter().filter(|c| c.direction == Direction::Up);
            up.map(|c| (serving.provider, serving.called.stream, c.index)).collect::<Vec<_>>()
        });
        let all: Vec<Key> = of_callers.chain(of_providers).filter(|key| self.alive[key.0]).collect();
        if let Some(key) = all.get(which % all.len().max(1)) {
            self.bus.peers[key.0].client.stop_channel(key.1, key.2);
        }
    }

    fn consume(&mut self, which: usize) {
        let peer = which % self.alive.len();
        let peer = &mut self.bus.peers[peer];
        for (key, came) in &mut peer.channels {
            peer.client.give_credit(key.0, key.1, std::mem::take(&mut came.held));
        }
    }

    /// A provider calls something hosted for its caller.
    fn nest(&mut self, which: usize) {
        let open = self.serving.iter().filter(|s| !s.is_answered && self.alive[s.provider]);
        let open: Vec<(usize, u64)> = open.map(|s| (s.provider, s.called.stream)).collect();
        let Some((provider, parent)) = open.get(which % open.len().max(1)) else { return };
        let mut extensions = Extensions::none();
        extensions.insert(tags::PARENT, parent.to_le_bytes().to_vec().into());
        let request = Request { command: "t.slow".into(), extensions, ..Request::default() };
        if let Ok(stream) = self.bus.peers[*provider].client.call(request) {
            self.nested.push((*provider, stream));
        }
    }

    fn finish_nested(&mut self) {
        if let Some(run) = self.bus.running.pop_front() {
            self.bus.broker.handle_completion(self.bus.now, run.call, done());
        }
    }

    /// A provider dies, and another comes; now and then a caller dies.
    fn kill(&mut self, which: usize) {
        self.killed += 1;
        if which.is_multiple_of(50) {
            let caller = self.callers[which / 50 % 2];
            if std::mem::replace(&mut self.alive[caller], false) {
                self.bus.lose(caller);
            }
            return;
        }
        let at = which / 25 % self.providers.len();
        let provider = self.providers.remove(at);
        self.alive[provider] = false;
        let uid = self.bus.peers[provider].uid;
        self.bus.lose(provider);
        self.bus.pump_outputs();
        self.provide(uid, if uid == PROVIDER { "1.0.0" } else { "2.0.0" });
    }

    /// Everybody goes on until nothing moves.
    fn settle(&mut self) {
        loop {
            let before = self.progress();
            self.bus.settle();
            self.adopt();
            (0..self.alive.len())
                .filter(|peer| self.alive[*peer])
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|peer| self.consume(peer));
            self.bus.settle();
            assert_charges_sum_to_use(&self.bus, &UIDS);
            if self.progress() == before {
                return;
            }
        }
    }

    fn progress(&self) -> (usize, u64) {
        let came = self.bus.peers.iter().flat_map(|peer| peer.channels.values());
        let frames = self.bus.peers.iter().filter_map(|peer| peer.wire.witness.as_ref());
        (
            came.map(|came| came.items.len() + came.ends.len()).sum(),
            frames.map(|witness| witness.seen().frames).sum(),
        )
    }

    fn finish(mut self) -> Counts {
        self.settle();
        // Whoever is open is answered, and ends what it sends.
        for at in 0..self.serving.len() {
            self.answer(at * 4 + 1);
            self.settle();
        }
        while !self.bus.running.is_empty() {
            self.finish_nested();
            self.settle();
        }
        for key in self.sending.keys().copied().collect::<Vec<_>>() {
            if self.alive[key.0] {
                self.bus.peers[key.0].client.end_channel(key.1, key.2, None, "");
            }
        }
        self.settle();
        self.check();
        let stats = self.bus.broker.stats();
        let came = self.bus.peers.iter().flat_map(|peer| peer.channels.values());
        Counts {
            calls: stats.calls,
            routed: stats.routed,
            replies: stats.replies,
            late: stats.late_completions,
            items: came.map(|came| came.items.len() as u64).sum(),
            killed: self.killed,
        }
    }

    fn check(&self) {
        for (caller, stream, down, up) in self.calls.iter().filter(|call| self.alive[call.0]) {
            assert!(self.bus.end(*caller, *stream).is_some(), "call {stream} of {caller} did not end");
            for index in down {
                let came = self.bus.came(*caller, *stream, *index);
                assert_eq!(came.ends.len(), 1, "channel {index} of {stream} ends once: {:?}", came.ends);
            }
            for index in up {
                let stops = self.bus.peers[*caller].stops.get(&(*stream, *index)).copied().unwrap_or(0);
                assert!(stops <= 1, "a sender is told once");
            }
        }
        for (provider, stream) in self.nested.iter().filter(|call| self.alive[call.0]) {
            assert!(self.bus.end(*provider, *stream).is_some(), "nested call {stream} did not end");
        }
        self.check_items();
        for (at, peer) in self.bus.peers.iter().enumerate().filter(|(at, _)| self.alive[*at]) {
            assert_eq!((peer.client.open_outbound(), peer.client.open_inbound()), (0, 0), "calls of {at}");
            assert_eq!((peer.daemon.open_outbound(), peer.daemon.open_inbound()), (0, 0), "calls to {at}");
            assert_eq!(
                (peer.client.open_channels(), peer.daemon.open_channels()),
                (0, 0),
                "channels of {at}"
            );
        }
        assert_idle(&self.bus);
        assert_charges_sum_to_use(&self.bus, &UIDS);
    }

    /// What came anywhere is the beginning of what was sent somewhere on a channel of the same call.
    fn check_items(&self) {
        for (at, peer) in self.bus.peers.iter().enumerate() {
            for ((stream, index), came) in peer.channels.iter().filter(|(_, came)| !came.items.is_empty()) {
                let is_caller = self.callers.contains(&at);
                let from = self
                    .sending
                    .iter()
                    .filter(|(key, _)| key.2 == *index && self.callers.contains(&key.0) != is_caller);
                let mut matching = from.filter(|(_, sending)| sending.sent.starts_with(&came.items));
                assert!(matching.next().is_some(), "{at} {stream} {index}: nobody sent {:?}", came.items);
            }
        }
    }
}

fn window() -> BoxedStrategy<u64> {
    prop_oneof![Just(1_u64), 2_u64..300, 300_u64..70_000, Just(1 << 18), Just(1 << 20)].boxed()
}

#[test]
fn routed_calls_and_channels_end_once_at_both_ends_and_charges_are_what_is_held() {
    let schedules = ((window(), window()), vec((0_u8..36, 0_usize..256), 1..200));
    let default = ProptestConfig::default();
    let config = ProptestConfig { cases: default.cases.max(CASES), failure_persistence: None, ..default };
    let total = Cell::new(Counts::default());
    let run = TestRunner::new(config).run(&schedules, |(windows, steps)| {
        let mut world = World::new(windows.0, windows.1);
        for (what, which) in steps {
            world.step(what, which);
        }
        let (new, old) = (world.finish(), total.get());
        total.set(Counts {
            calls: old.calls + new.calls,
            routed: old.routed + new.routed,
            replies: old.replies + new.replies,
            late: old.late + new.late,
            items: old.items + new.items,
            killed: old.killed + new.killed,
        });
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    let total = total.get();
    println!("at least {CASES} schedules: {total:?}");
    let Counts { calls, routed, replies, late, items, killed } = total;
    for (count, least) in
        [(calls, 2000), (routed, 1000), (replies, 500), (late, 50), (items, 400), (killed, 15)]
    {
        assert!(count >= least, "{count}, and at least {least} were expected: {total:?}");
    }
}
