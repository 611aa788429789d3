//! Channels between callers and providers: order, credit from end to end, ends on either side.

use bytes::Bytes;
use invoked_proto::body::Body;
use invoked_proto::connection::{Request, Sent};
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::{Delivery, Direction, ErrorCode, Overflow, limits};

use super::bus::{Bus, End};
use super::providing::{CALLER, OTHER, PROVIDER, policy_with, raw, with_provider};
use super::sums::assert_charges_sum_to_use;
use super::{Bound, Bounds, assert_idle, fail};

const UIDS: [u32; 3] = [CALLER, PROVIDER, OTHER];
const WINDOW: usize = limits::CHANNEL_WINDOW;

/// A call with a channel each way, at its provider: the streams of both legs.
fn both_ways(bus: &mut Bus, caller: usize, provider: usize, credit: u64) -> (u64, u64) {
    let channels = vec![
        ChannelDeclaration { index: 1, direction: Direction::Down, credit },
        ChannelDeclaration { index: 2, direction: Direction::Up, credit: 0 },
    ];
    let request = Request { command: "text.relay".into(), channels, ..Request::default() };
    let stream = bus.peers[caller].client.call(request).unwrap();
    bus.settle();
    let called = bus.take_called(provider);
    assert_eq!(called.call.channels.len(), 2);
    (stream, called.stream)
}

fn send(bus: &mut Bus, peer: usize, stream: u64, channel: u32, len: usize) -> Sent {
    let sent = bus.peers[peer].client.send_item(stream, channel, raw(len)).unwrap();
    bus.settle();
    sent
}

fn is_queued(sent: &Sent) -> bool {
    matches!(sent, Sent::Queued)
}

#[test]
fn items_go_both_ways_in_order_and_end() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    for len in 1..=20 {
        assert!(is_queued(&send(&mut bus, text, routed, 1, len)));
        assert!(is_queued(&send(&mut bus, ana, stream, 2, 2 * len)));
    }
    assert_eq!(bus.came(ana, stream, 1).items, (1..=20).collect::<Vec<_>>());
    assert_eq!(bus.came(text, routed, 2).items, (1..=20).map(|len| 2 * len).collect::<Vec<_>>());
    bus.peers[text].client.end_channel(routed, 1, Some(ErrorCode::OutOfRange), "over");
    bus.peers[ana].client.end_channel(stream, 2, None, "");
    bus.settle();
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::OutOfRange)]);
    assert_eq!(bus.came(text, routed, 2).ends, [None]);
    assert_eq!(bus.end(ana, stream), None);
    bus.provider_replies(text, routed, raw(1));
    assert!(bus.end(ana, stream).is_some());
    assert_idle(&bus);
}

#[test]
fn channels_outlive_their_call() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    bus.provider_replies(text, routed, raw(1));
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    assert!(is_queued(&send(&mut bus, text, routed, 1, 7)));
    assert!(is_queued(&send(&mut bus, ana, stream, 2, 8)));
    assert_eq!((bus.came(ana, stream, 1).items, bus.came(text, routed, 2).items), (vec![7], vec![8]));
    bus.peers[text].client.end_channel(routed, 1, None, "");
    bus.peers[ana].client.end_channel(stream, 2, None, "");
    bus.settle();
    assert_idle(&bus);
    assert_eq!(bus.peers[text].daemon.open_channels(), 0);
    assert_eq!(bus.peers[ana].daemon.open_channels(), 0);
}

#[test]
fn credit_is_the_final_receivers_both_ways() {
    let (mut bus, ana, text) = with_provider();
    bus.peers[ana].consumes = false;
    bus.peers[text].consumes = false;
    let (stream, routed) = both_ways(&mut bus, ana, text, 1000);
    assert!(is_queued(&send(&mut bus, text, routed, 1, 1000)));
    assert!(!is_queued(&send(&mut bus, text, routed, 1, 1)), "the caller has promised no more");
    assert!(is_queued(&send(&mut bus, ana, stream, 2, WINDOW)));
    assert!(!is_queued(&send(&mut bus, ana, stream, 2, 1)), "nor the provider");
    assert_eq!(bus.broker.stats().message_bytes, 0, "nothing waits in the daemon");
    bus.consume(ana, stream, 1);
    bus.consume(text, routed, 2);
    assert_eq!(bus.peers[text].credited, [(routed, 1)]);
    assert_eq!(bus.peers[ana].credited, [(stream, 2)]);
    assert!(is_queued(&send(&mut bus, text, routed, 1, 1000)));
    assert!(is_queued(&send(&mut bus, ana, stream, 2, WINDOW)));
    assert_eq!(bus.came(ana, stream, 1).items, [1000, 1000]);
    assert_eq!(bus.came(text, routed, 2).items, [WINDOW, WINDOW]);
}

#[test]
fn an_item_larger_than_its_window_comes_whole() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 1000);
    let large = 3 * WINDOW + 17;
    for _ in 0..3 {
        assert!(is_queued(&send(&mut bus, text, routed, 1, large)));
        assert!(is_queued(&send(&mut bus, ana, stream, 2, large)));
    }
    assert_eq!(bus.came(ana, stream, 1).items, [large; 3]);
    assert_eq!(bus.came(text, routed, 2).items, [large; 3]);
    assert_charges_sum_to_use(&bus, &UIDS);
    assert_eq!(bus.broker.stats().message_bytes, 0);
}

#[test]
fn of_a_promise_without_bounds_a_window_waits_in_the_daemon() {
    let (mut bus, ana, text) = with_provider();
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Down, credit: 1 << 40 }];
    let request = Request { command: "text.relay".into(), channels, ..Request::default() };
    let stream = bus.peers[ana].client.call(request).unwrap();
    bus.settle();
    let routed = bus.take_called(text);
    assert_eq!(routed.call.channels[0].credit, WINDOW as u64);
    // The caller's socket takes nothing from here on, however much it has promised.
    let mut sent = 0;
    while matches!(bus.peers[text].client.send_item(routed.stream, 1, raw(1000)).unwrap(), Sent::Queued) {
        sent += 1000;
        bus.write(text, invoked_proto::connection::Role::Client);
        bus.read(text, invoked_proto::connection::Role::Daemon, usize::MAX);
        bus.take_events(text);
        bus.pump_outputs();
        bus.write(text, invoked_proto::connection::Role::Daemon);
        bus.read(text, invoked_proto::connection::Role::Client, usize::MAX);
        bus.take_replies(text);
        assert_charges_sum_to_use(&bus, &UIDS);
    }
    assert!(sent < 3 * WINDOW, "{sent} bytes were taken for a caller that reads nothing");
    bus.settle();
    assert_eq!(bus.came(ana, stream, 1).items.len(), sent / 1000);
}

#[test]
fn items_left_out_are_told_to_the_caller() {
    let (mut bus, ana, text) = with_provider();
    bus.peers[ana].consumes = false;
    let stream = bus.call_with_overflow(ana, "text.relay", &[1], 1000, Overflow::DropOldest);
    let called = bus.take_called(text);
    assert_eq!(called.call.overflow_of(1), Overflow::DropOldest);
    bus.peers[text].client.send_lossy_item(called.stream, 1, 0, raw(300)).unwrap();
    bus.peers[text].client.send_lossy_item(called.stream, 1, 5, raw(300)).unwrap();
    bus.settle();
    bus.peers[text].client.end_lossy_channel(called.stream, 1, None, "", 2);
    bus.settle();
    let came = bus.came(ana, stream, 1);
    assert_eq!((came.items, came.lagged, came.ends), (vec![300, 300], vec![0, 5, 2], vec![None]));
}

#[test]
fn whoever_stops_a_channel_the_other_is_told() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    bus.peers[ana].client.stop_channel(stream, 1);
    bus.peers[text].client.stop_channel(routed, 2);
    bus.settle();
    assert_eq!(bus.peers[text].stops[&(routed, 1)], 1);
    assert_eq!(bus.peers[ana].stops[&(stream, 2)], 1);
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::Cancelled)]);
    assert_eq!(bus.came(text, routed, 2).ends, [Some(ErrorCode::Cancelled)]);
    bus.provider_replies(text, routed, raw(0));
    assert_idle(&bus);
}

#[test]
fn an_error_ends_the_channels_at_both_ends() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    bus.provider_fails(text, routed, ErrorCode::DataLoss, "");
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::DataLoss)]);
    assert_eq!(bus.peers[ana].stops[&(stream, 2)], 1);
    assert_idle(&bus);

    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    bus.cancel(ana, stream);
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::Cancelled)]);
    assert_eq!(bus.peers[text].stops[&(routed, 1)], 1, "the provider is told");
    bus.provider_replies(text, routed, raw(0));
    assert_idle(&bus);
    assert_eq!(bus.peers[text].daemon.open_channels(), 0, "an answer that comes too late leaves none open");
}

#[test]
fn a_provider_that_goes_ends_channels_with_unavailable_after_what_came() {
    let (mut bus, ana, text) = with_provider();
    let (open, _) = both_ways(&mut bus, ana, text, 10_000);
    let (answered, routed) = both_ways(&mut bus, ana, text, 10_000);
    bus.provider_replies(text, routed, raw(1));
    assert!(is_queued(&send(&mut bus, text, routed, 1, 9)));
    bus.kill(text);
    let unavailable = Some(ErrorCode::Unavailable);
    assert_eq!(bus.end(ana, open), Some(&fail(ErrorCode::Unavailable, Delivery::Delivered)));
    assert_eq!(bus.came(ana, open, 1).ends, [unavailable]);
    let came = bus.came(ana, answered, 1);
    assert_eq!((came.items, came.ends), (vec![9], vec![unavailable]));
    assert_eq!(bus.peers[ana].stops[&(answered, 2)], 1);
    assert_idle(&bus);
    assert_eq!(bus.peers[ana].daemon.open_channels(), 0);
}

#[test]
fn a_caller_that_goes_ends_channels_at_the_provider() {
    let (mut bus, ana, text) = with_provider();
    let (_, open) = both_ways(&mut bus, ana, text, 10_000);
    let (_, answered) = both_ways(&mut bus, ana, text, 10_000);
    bus.provider_replies(text, answered, raw(1));
    bus.kill(ana);
    assert_eq!(bus.peers[text].withdrawn, [open]);
    for stream in [open, answered] {
        assert_eq!(bus.peers[text].stops[&(stream, 1)], 1);
        assert_eq!(bus.came(text, stream, 2).ends, [Some(ErrorCode::Unavailable)]);
    }
    bus.provider_replies(text, open, raw(1));
    assert_idle(&bus);
    assert_eq!(bus.peers[text].daemon.open_channels(), 0);
}

#[test]
fn revocation_ends_channels_that_outlived_their_call() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    bus.provider_replies(text, routed, raw(1));
    bus.reload(policy_with(", \"text:allow-relay\"", ""));
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::Revoked)]);
    assert_eq!(bus.peers[ana].stops[&(stream, 2)], 1);
    assert_eq!(bus.peers[text].stops[&(routed, 1)], 1);
    assert_eq!(bus.came(text, routed, 2).ends, [Some(ErrorCode::Revoked)]);
    assert_idle(&bus);
}

#[test]
fn items_that_come_before_the_call_is_whole_wait_for_it() {
    let (mut bus, ana, text) = with_provider();
    let channels = vec![ChannelDeclaration { index: 2, direction: Direction::Up, credit: 0 }];
    let message = Body::Raw(Bytes::from(vec![7; 400_000])).into();
    let request = Request { command: "text.relay".into(), channels, message, ..Request::default() };
    let stream = bus.peers[ana].client.call(request).unwrap();
    // The first frames of the call and the items, in turn.
    bus.peers[ana].client.send_item(stream, 2, raw(5)).unwrap();
    let rest = bus.deliver_partially(ana, 200_000);
    assert!(bus.peers[text].called.is_empty());
    bus.deliver(ana, rest);
    bus.settle();
    let called = bus.take_called(text);
    assert_eq!(called.body.len(), 400_000);
    bus.peers[ana].client.end_channel(stream, 2, None, "");
    bus.settle();
    let came = bus.came(text, called.stream, 2);
    assert_eq!((came.items, came.ends), (vec![5], vec![None]));
}

#[test]
fn a_sender_above_its_bytes_ends_the_channel_and_nothing_else() {
    let bounds = Bounds { message_bytes: Bound { per_uid: 1000, total: 1 << 30 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    bus.reload(super::providing::policy());
    let (ana, text) = (bus.connect(CALLER).unwrap(), bus.connect(PROVIDER).unwrap());
    bus.register(text, &super::providing::interface("1.0.0", &[])).unwrap();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    assert!(is_queued(&send(&mut bus, text, routed, 1, 1000)));
    assert!(is_queued(&send(&mut bus, text, routed, 1, 1001)));
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::ResourceExhausted)]);
    assert_eq!(bus.peers[text].stops[&(routed, 1)], 1);
    assert!(is_queued(&send(&mut bus, ana, stream, 2, 1000)));
    bus.provider_replies(text, routed, raw(1));
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
}

#[test]
fn a_daemon_that_stops_ends_channels_without_a_call() {
    let (mut bus, ana, text) = with_provider();
    let (stream, routed) = both_ways(&mut bus, ana, text, 10_000);
    let (open, of_open) = both_ways(&mut bus, ana, text, 10_000);
    bus.provider_replies(text, routed, raw(1));
    bus.broker.drain();
    bus.settle();
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::Unavailable)]);
    assert_eq!(bus.came(text, routed, 2).ends, [Some(ErrorCode::Unavailable)]);
    assert!(bus.came(ana, open, 1).ends.is_empty());
    bus.provider_replies(text, of_open, raw(1));
    assert!(matches!(bus.end(ana, open), Some(End::Reply(_))));
    assert_eq!(bus.came(ana, open, 1).ends, [Some(ErrorCode::Unavailable)]);
    assert!(bus.peers[ana].daemon.is_drained() && bus.peers[text].daemon.is_drained());
}
