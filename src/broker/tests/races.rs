//! A cancel races an answer: whatever comes first where, both ends agree, and nothing of the call is left.

use invoked_proto::connection::{Role, Unsent, Withdrawal};
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_proto::testing::CreditWitness;

use super::bus::{Bus, End};
use super::{assert_idle, done, fail};
use crate::broker::{Bounds, CallId};
use crate::ipc::{Channel, Response};

const SCHEDULES: usize = 100_000;

/// How many of them share a connection.
const TOGETHER: usize = 500;

const WINDOW: u64 = 2000;
const CONNECTION_WINDOW: u64 = 100_000;

/// Numbers that look random and are the same in each run (xorshift64*).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Chance(seed)
    }

    /// A number below `below`.
    pub(super) fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).expect("31 bits") % below
    }
}

/// How schedules came out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    /// Cancelled before a byte was written.
    never_sent: usize,
    /// Answered before the caller cancelled.
    answered_first: usize,
    /// Answered though CANCEL was on its way.
    answer_won: usize,
    /// Cancelled before the handler had the call.
    before_the_handler: usize,
    /// Cancelled while the handler had it, or its answer was on the way.
    cancel_won: usize,
    /// Calls that had a channel.
    with_channel: usize,
}

/// One call, its cancel and its answer, in one order.
struct Race<'a> {
    bus: &'a mut Bus,
    chance: &'a mut Chance,
    stream: u64,
    has_channel: bool,
    channel: Option<Channel<Response>>,
    withdrawal: Option<Withdrawal>,
    /// The handler's name for it, once it had it.
    call: Option<CallId>,
    is_complete: bool,
}

const ANA: usize = 0;

impl<'a> Race<'a> {
    fn begin(bus: &'a mut Bus, chance: &'a mut Chance) -> Self {
        let has_channel = chance.below(3) == 0;
        // The longest takes several frames, and more than one window.
        let len = [0, 10, 3000, 150_000][[0, 0, 1, 1, 1, 2, 2, 3][chance.below(8)]];
        let stream =
            bus.start_with_channels(ANA, "t.slow", if has_channel { &[1] } else { &[] }, WINDOW, len);
        Race {
            bus,
            chance,
            stream,
            has_channel,
            channel: None,
            withdrawal: None,
            call: None,
            is_complete: false,
        }
    }

    fn run(&mut self) {
        for _ in 0..40 {
            let most = [1, 30, 200, 70_000, usize::MAX][self.chance.below(5)];
            match self.chance.below(8) {
                0 if self.withdrawal.is_none() => self.cancel(),
                1 if self.call.is_some() && !self.is_complete => self.complete(),
                2 | 3 => self.bus.carry_some(ANA, Role::Daemon, most),
                4 | 5 => self.bus.carry_some(ANA, Role::Client, most),
                6 => self.bus.write(ANA, Role::Client),
                _ => self.bus.write(ANA, Role::Daemon),
            }
            self.look();
            if self.withdrawal.is_some() && self.is_complete {
                break;
            }
        }
        if self.withdrawal.is_none() {
            self.cancel();
        }
        self.settle();
        if self.call.is_some() && !self.is_complete {
            self.complete();
        }
        self.settle();
    }

    /// The handler takes what it is given, and sends an item.
    fn look(&mut self) {
        if self.call.is_none()
            && let Some(run) = self.bus.running.front()
        {
            self.call = Some(run.call);
            if self.has_channel {
                let channel = self.bus.channel(1);
                let sent = channel.try_send(Response::new(vec![7; self.chance.below(5000)]));
                assert!(sent.is_ok() || channel.is_closed(), "{sent:?}");
                self.channel = Some(channel);
            }
        }
        self.bus.broker.handle_ready(self.bus.now);
        self.bus.pump_outputs();
    }

    fn settle(&mut self) {
        self.bus.settle();
        self.look();
        self.bus.settle();
    }

    fn cancel(&mut self) {
        self.withdrawal = Some(self.bus.peers[ANA].client.cancel(self.stream));
    }

    fn complete(&mut self) {
        let run = self.bus.running.pop_front().expect("the handler has it");
        self.bus.broker.handle_completion(self.bus.now, run.call, done());
        self.bus.pump_outputs();
        self.channel = None;
        self.is_complete = true;
    }

    /// Holds what both ends were told against each other.
    fn check(&mut self, outcomes: &mut Outcomes, late_before: u64) {
        let Race { bus, stream, .. } = self;
        let told = bus.end(ANA, *stream).cloned();
        let ends = bus.came(ANA, *stream, 1).ends;
        let withdrawal = self.withdrawal.expect("each is cancelled once");
        let records = std::mem::take(&mut bus.records);
        let late = bus.broker.stats().late_completions - late_before;
        let cancels = bus.cancelled.drain(..).filter(|call| Some(*call) == self.call).count();
        if withdrawal == Withdrawal::NeverSent {
            assert_eq!((told, self.call, records.len(), ends.len()), (None, None, 0, 0));
            outcomes.never_sent += 1;
            return;
        }
        assert_eq!(records.len(), 1, "the daemon ends it once");
        assert_eq!(ends.len(), usize::from(self.has_channel), "a channel ends once: {ends:?}");
        let told = told.expect("the caller is told");
        match records[0].code {
            None => {
                assert!(matches!(told, End::Reply(_)), "the daemon answered: {told:?}");
                assert_eq!((cancels, late, self.is_complete), (0, 0, true), "the answer was taken");
                match withdrawal {
                    Withdrawal::Asked if !self.has_channel => outcomes.answer_won += 1,
                    // With a channel it may have been asked for the end of that alone.
                    _ => outcomes.answered_first += 1,
                }
            }
            Some(ErrorCode::Cancelled) => {
                assert_eq!(withdrawal, Withdrawal::Asked);
                let had_it = self.call.is_some();
                let delivery = if had_it { Delivery::Delivered } else { Delivery::NotDelivered };
                assert_eq!(told, fail(ErrorCode::Cancelled, delivery));
                let once = usize::from(had_it);
                assert_eq!(
                    (cancels, late),
                    (once, once as u64),
                    "the handler is told once, and its end counted"
                );
                if had_it {
                    outcomes.cancel_won += 1;
                } else {
                    outcomes.before_the_handler += 1;
                }
            }
            code => panic!("neither answered nor cancelled: {code:?}"),
        }
        outcomes.with_channel += usize::from(self.has_channel);
    }
}

/// Nothing of any call is left at either side of the connection, and nothing is charged.
fn assert_free(bus: &Bus) {
    assert_idle(bus);
    let peer = &bus.peers[ANA];
    assert_eq!((peer.client.open_outbound(), peer.daemon.open_inbound()), (0, 0), "slots");
    for side in [&peer.client, &peer.daemon] {
        assert_eq!((side.open_channels(), side.unsent()), (0, Unsent::default()));
    }
}

#[test]
fn a_cancel_that_races_an_answer_ends_as_both_sides_agree_in_100_000_schedules() {
    let mut chance = Chance::new(0x9E37_79B9_7F4A_7C15);
    let mut outcomes = Outcomes::default();
    for _ in 0..SCHEDULES / TOGETHER {
        let mut bus = Bus::with_windows(Bounds::default(), WINDOW, CONNECTION_WINDOW);
        assert_eq!(bus.connect(1000), Some(ANA));
        bus.peers[ANA].wire.witness = Some(CreditWitness::new(WINDOW, CONNECTION_WINDOW));
        bus.broker.monitor(1, None);
        for _ in 0..TOGETHER {
            let late_before = bus.broker.stats().late_completions;
            let mut race = Race::begin(&mut bus, &mut chance);
            race.run();
            race.check(&mut outcomes, late_before);
            assert_free(&bus);
            bus.peers[ANA].ends.clear();
            bus.peers[ANA].channels.clear();
        }
    }
    println!("{SCHEDULES} schedules: {outcomes:?}");
    let Outcomes { never_sent, answered_first, answer_won, before_the_handler, cancel_won, with_channel } =
        outcomes;
    let all = never_sent + answered_first + answer_won + before_the_handler + cancel_won;
    assert_eq!(all, SCHEDULES);
    for (count, least) in [
        (never_sent, 1000),
        (answered_first, 1000),
        (answer_won, 5000),
        (before_the_handler, 5000),
        (cancel_won, 5000),
        (with_channel, 20_000),
    ] {
        assert!(count >= least, "an outcome that hardly came: {count} of {SCHEDULES}");
    }
}
