//! Channels that leave items out, on the simulated bus: every item comes or is counted, in its place, whatever the receiver
//! takes and when.

use invoked_proto::registry::{ErrorCode, Overflow};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};
use proptest::proptest;

use super::bus::{Bus, Came};
use super::{Bound, Bounds, assert_idle, done};
use crate::ipc::{Channel, Response, SendError};

const WINDOW: u64 = 64 * 1024;

/// What waits on the way to the loop may cost so much, and one item more.
const QUEUE: u64 = 64 * 1024;

fn item(len: usize) -> Response {
    Response::new(vec![7; len])
}

/// A bus with a running call whose channel 1 has this overflow and window; its caller consumes nothing by itself.
fn called(overflow: Overflow, window: u64) -> (Bus, usize, u64, Channel<Response>) {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call_with_overflow(ana, "t.slow", &[1], window, overflow);
    bus.peers[ana].consumes = false;
    let channel = bus.channel(1);
    assert_eq!(channel.overflow(), overflow);
    (bus, ana, stream, channel)
}

/// Consumes until nothing more comes.
fn consume_all(bus: &mut Bus, ana: usize, stream: u64) {
    bus.peers[ana].consumes = true;
    loop {
        let before = bus.came(ana, stream, 1);
        bus.consume(ana, stream, 1);
        if bus.came(ana, stream, 1) == before {
            return;
        }
    }
}

/// Ends the call, and holds what came against `sent` items, whose lengths are `step` apart.
fn assert_each_came_or_is_counted(mut bus: Bus, ana: usize, stream: u64, sent: usize, step: usize) -> Came {
    consume_all(&mut bus, ana, stream);
    bus.complete_oldest(done());
    let came = bus.came(ana, stream, 1);
    assert_eq!(came.ends, [None]);
    let mut place = 0;
    for (at, lagged) in came.lagged.iter().enumerate() {
        place += usize::try_from(*lagged).unwrap();
        if let Some(len) = came.items.get(at) {
            assert_eq!(*len, place * step, "item {at} comes where it is counted");
            place += 1;
        }
    }
    assert_eq!(place, sent, "received and left out are what was sent");
    assert_idle(&bus);
    came
}

#[test]
fn a_channel_that_drops_the_oldest_keeps_what_fits_and_counts_the_rest() {
    let (mut bus, ana, stream, channel) = called(Overflow::DropOldest, WINDOW);
    for at in 0..2000 {
        channel.send(item(at)).unwrap();
        bus.settle();
        assert!(bus.broker.stats().item_bytes <= QUEUE, "what waits is bounded");
    }
    let before = bus.came(ana, stream, 1).items.len();
    assert_eq!(before as u64, WINDOW / 256, "a receiver that takes nothing is sent what its window holds");
    drop(channel);
    let came = assert_each_came_or_is_counted(bus, ana, stream, 2000, 1);
    let left_out: Vec<usize> =
        came.lagged.iter().enumerate().filter(|(_, lagged)| **lagged > 0).map(|(at, _)| at).collect();
    assert_eq!(left_out, [before], "they are missing in one place: after what the window held");
    assert_eq!(came.items.last(), Some(&1999));
}

#[test]
fn a_channel_of_the_latest_yields_the_last_item_and_what_its_window_held() {
    let (mut bus, ana, stream, channel) = called(Overflow::Latest, 1);
    for at in 0..500 {
        channel.try_send(item(at)).unwrap();
        bus.settle();
    }
    consume_all(&mut bus, ana, stream);
    let came = bus.came(ana, stream, 1);
    assert_eq!(came.items, [0, 499], "the last comes without another one behind it");
    assert_eq!(came.lagged, [0, 498]);
    channel.try_send(item(500)).unwrap();
    drop(channel);
    bus.settle();
    let came = assert_each_came_or_is_counted(bus, ana, stream, 501, 1);
    assert_eq!(came.items, [0, 499, 500]);
}

#[test]
fn sending_never_waits_even_where_the_loop_has_not_run() {
    for overflow in [Overflow::DropOldest, Overflow::Latest] {
        let (mut bus, ana, stream, channel) = called(overflow, WINDOW);
        for at in 0..300 {
            channel.try_send(item(at * 1000)).unwrap();
        }
        let waits = bus.broker.stats().item_bytes;
        assert!(waits <= 299_000, "the last one, which is larger than the queue: {waits}");
        drop(channel);
        bus.settle();
        let came = assert_each_came_or_is_counted(bus, ana, stream, 300, 1000);
        assert_eq!((came.items, came.lagged), (vec![299_000], vec![299, 0]));
    }
}

#[test]
fn a_channel_that_a_stop_or_an_end_closes_takes_no_more() {
    let (mut bus, ana, stream, channel) = called(Overflow::Latest, WINDOW);
    bus.complete_oldest(done());
    channel.try_send(item(1)).unwrap();
    bus.peers[ana].client.stop_channel(stream, 1);
    bus.settle();
    assert_eq!(channel.try_send(item(1)), Err(SendError::Closed { code: ErrorCode::Cancelled }));
    assert_idle(&bus);
}

#[test]
fn where_the_uid_has_no_room_at_all_items_are_counted_or_the_channel_says_so() {
    let bounds = Bounds { item_bytes: Bound { per_uid: 5000, total: 1 << 20 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    let other = bus.call_with_channels(ana, "t.slow", &[1], WINDOW);
    let full = bus.channel(1);
    bus.complete_oldest(done());
    let dropping = bus.call_with_overflow(ana, "t.slow", &[1], WINDOW, Overflow::DropOldest);
    let drops = bus.channel(1);
    bus.complete_oldest(done());
    let ending = bus.call_with_overflow(ana, "t.slow", &[1], WINDOW, Overflow::Latest);
    let ends = bus.channel(1);
    bus.complete_oldest(done());

    full.try_send(item(9000)).unwrap();
    drops.try_send(item(1)).unwrap();
    drops.try_send(item(2)).unwrap();
    let refused = ends.try_send(item(1));
    assert_eq!(refused, Err(SendError::Closed { code: ErrorCode::ResourceExhausted }));
    assert_eq!(bus.broker.stats().item_bytes, 9000, "nothing is held beyond the quota");
    bus.settle();
    drops.try_send(item(3)).unwrap();
    drop((full, drops));
    bus.settle();
    assert_eq!(bus.came(ana, other, 1).items, [9000]);
    let came = bus.came(ana, dropping, 1);
    assert_eq!((came.items, came.lagged), (vec![3], vec![2, 0]));
    assert_eq!(bus.came(ana, ending, 1).ends, [Some(ErrorCode::ResourceExhausted)]);
    assert_idle(&bus);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send(usize),
    Settle,
    Consume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..20_usize).prop_map(Step::Send),
        2 => any::<bool>().prop_map(|_| Step::Settle),
        1 => any::<bool>().prop_map(|_| Step::Consume),
    ];
    vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_received_and_what_is_left_out_is_what_was_sent(
        steps in steps(),
        // Items are small where windows are, so that a case ends soon.
        (window, step) in prop_oneof![
            (1..2_u64, 1..2_usize),
            (200..300_u64, 1..5_usize),
            (900..1100_u64, 1..20_usize),
            (60_000..70_000_u64, 90..100_usize),
        ],
        latest in any::<bool>(),
    ) {
        let overflow = if latest { Overflow::Latest } else { Overflow::DropOldest };
        let (mut bus, ana, stream, channel) = called(overflow, window);
        let mut sent = 0;
        for of in steps {
            match of {
                Step::Send(count) => for _ in 0..count {
                    channel.try_send(item(sent * step)).unwrap();
                    sent += 1;
                },
                Step::Settle => bus.settle(),
                Step::Consume => bus.consume(ana, stream, 1),
            }
            let held = bus.broker.stats().item_bytes;
            assert!(held <= QUEUE + (sent * step) as u64 + 256, "{held} bytes wait");
        }
        drop(channel);
        bus.settle();
        let came = assert_each_came_or_is_counted(bus, ana, stream, sent, step);
        if latest && sent > 0 {
            assert_eq!(came.items.last(), Some(&((sent - 1) * step)));
        }
    }
}
