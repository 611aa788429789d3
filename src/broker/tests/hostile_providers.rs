//! Providers that do what they should not: none of it reaches other callers, and nothing of it stays.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::Body;
use invoked_proto::connection::Request;
use invoked_proto::header::Header;
use invoked_proto::metadata::{ChannelDeclaration, Extensions, Failure, Reply};
use invoked_proto::registry::{Codec, Delivery, Direction, ErrorCode, FrameKind, limits, quotas};
use invoked_proto::testing::frame;

use super::bus::{Bus, End};
use super::providing::{CALLER, OTHER, PROVIDER, interface, raw, with_provider};
use super::sums::assert_charges_sum_to_use;
use super::{assert_idle, done, fail};

const UIDS: [u32; 3] = [CALLER, PROVIDER, OTHER];

/// Somebody who calls what the daemon hosts, all along.
struct Innocent {
    peer: usize,
    sent: usize,
    answered: usize,
}

impl Innocent {
    fn new(bus: &mut Bus) -> Self {
        Innocent { peer: bus.connect(CALLER).unwrap(), sent: 0, answered: 0 }
    }

    fn call(&mut self, bus: &mut Bus) {
        self.sent += 1;
        let stream = bus.call(self.peer, "t.slow", 16);
        let run = bus.running.pop_back().expect("its handler runs");
        bus.complete(run.call, done());
        self.answered += usize::from(matches!(bus.end(self.peer, stream), Some(End::Reply(_))));
    }

    fn check(&self) {
        assert_eq!(self.sent, self.answered, "each of its calls was answered");
    }
}

/// The provider's bytes as they are, to the daemon, which finds them wrong; the provider is gone then.
fn break_protocol(bus: &mut Bus, provider: usize, bytes: impl AsRef<[u8]>) {
    let bytes = Bytes::copy_from_slice(bytes.as_ref());
    let result = bus.peers[provider].daemon.handle_input(bus.now, bytes, []);
    assert!(result.is_err(), "it is a fatal error");
    bus.take_events(provider);
    bus.pump_outputs();
    // As a session does whose peer broke the protocol.
    bus.kill(provider);
}

fn reply_frame(stream: u64, payload: &[u8]) -> Bytes {
    let parts = vec![invoked_proto::metadata::Part::inline(Codec::Raw, payload.len() as u64)];
    let reply = Reply { headers: Vec::new(), parts, extensions: Extensions::none() };
    let record = invoked_proto::testing::AnyRecord::from(reply).encode();
    let header = Header { codec: Codec::Raw, ..Header::new(FrameKind::Result, stream) };
    frame(header, &record, payload)
}

#[test]
fn one_that_never_answers_costs_its_callers_their_deadlines_and_in_the_end_itself_its_calls() {
    let (mut bus, ana, text) = with_provider();
    let mut innocent = Innocent::new(&mut bus);
    let most = usize::try_from(quotas::CALLS_PER_PROVIDER).unwrap();
    let calls: Vec<u64> = (0..most / 4).map(|_| bus.start(ana, "text.upper", 0, Some(1_000_000))).collect();
    bus.settle();
    innocent.call(&mut bus);
    bus.advance(Duration::from_secs(1));
    for stream in calls {
        assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::Delivered)));
    }
    // It has ten seconds to end what was cancelled.
    bus.advance(Duration::from_millis(9_999));
    let still = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, still), None, "n - 1 ms");
    bus.advance(Duration::from_millis(1));
    assert_eq!(bus.broker.stats().overdue, most as u64 / 4);
    let refused = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, refused), Some(&fail(ErrorCode::Unavailable, Delivery::NotDelivered)));
    innocent.call(&mut bus);
    // One that it ends makes it serve again.
    let called = bus.take_called(text);
    bus.provider_replies(text, called.stream, raw(1));
    let served = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, served), None);
    assert_charges_sum_to_use(&bus, &UIDS);
    bus.kill(text);
    innocent.check();
    assert_idle(&bus);
}

#[test]
fn it_has_so_many_calls_and_no_more_whoever_calls() {
    let (mut bus, ana, text) = with_provider();
    let bob = bus.connect(CALLER).unwrap();
    let most = usize::try_from(quotas::CALLS_PER_PROVIDER).unwrap();
    let callers = [ana, bob];
    for at in 0..most {
        bus.start(callers[at % 2], "text.upper", 0, None);
    }
    bus.settle();
    assert_eq!(bus.peers[text].called.len(), most, "n");
    let refused = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, refused), Some(&fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered)));
    let called = bus.take_called(text);
    bus.provider_replies(text, called.stream, raw(1));
    let next = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, next), None);
    bus.kill(text);
    assert_idle(&bus);
}

#[test]
fn one_that_answers_twice_is_heard_once() {
    let (mut bus, ana, text) = with_provider();
    let mut innocent = Innocent::new(&mut bus);
    let stream = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    bus.provider_replies(text, called.stream, Body::Raw(Bytes::from_static(b"one")).into());
    // Later it is dropped, as SPEC.md has it for every late frame.
    bus.deliver(text, reply_frame(called.stream, b"two"));
    bus.settle();
    assert_eq!(bus.end(ana, stream), Some(&End::Reply(Body::Raw(Bytes::from_static(b"one")))));
    innocent.call(&mut bus);
    // Inside of the first it is fatal.
    let inside = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    bus.peers[text].client.reply(called.stream, Vec::new(), raw(200_000)).unwrap();
    // Its first frame and no more.
    let head = invoked_proto::testing::AnyRecord::from(Reply {
        headers: Vec::new(),
        parts: raw(200_000).parts(),
        extensions: Extensions::none(),
    });
    bus.deliver_partially(text, invoked_proto::registry::HEADER_LEN + head.encode().len() + limits::FRAGMENT);
    let other = bus.call(ana, "text.relay", 0);
    break_protocol(&mut bus, text, reply_frame(called.stream, b"two"));
    assert_eq!(bus.end(ana, inside), Some(&fail(ErrorCode::Unavailable, Delivery::Delivered)));
    assert!(matches!(bus.end(ana, other), Some(End::Fail(ErrorCode::Unavailable, _))));
    innocent.call(&mut bus);
    innocent.check();
    assert_idle(&bus);
}

#[test]
fn an_answer_to_a_call_that_it_does_not_have_ends_its_connection_alone() {
    let (mut bus, ana, text) = with_provider();
    let other = bus.connect(OTHER).unwrap();
    bus.register(other, &interface("2.0.0", &[])).unwrap();
    let mut innocent = Innocent::new(&mut bus);
    // The highest version takes it, and streams of both connections are numbered alike.
    let stream = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(other);
    break_protocol(&mut bus, text, reply_frame(called.stream, b"forged"));
    assert_eq!(bus.end(ana, stream), None, "another's call is not touched");
    bus.provider_replies(other, called.stream, raw(3));
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    innocent.call(&mut bus);
    innocent.check();
    assert_idle(&bus);
}

#[test]
fn a_giant_answer_is_an_error_and_its_bytes_are_dropped() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    let len = limits::MAX_MESSAGE as u64 + 1;
    let parts = vec![invoked_proto::metadata::Part::inline(Codec::Raw, len)];
    let reply = Reply { headers: Vec::new(), parts, extensions: Extensions::none() };
    let record = invoked_proto::testing::AnyRecord::from(reply).encode();
    let more = invoked_proto::registry::flags::MORE;
    let header = Header { codec: Codec::Raw, flags: more, ..Header::new(FrameKind::Result, called.stream) };
    bus.deliver(text, frame(header, &record, &[7; 1000]));
    bus.settle();
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::TooLarge, Delivery::Completed)));
    assert_idle(&bus);
}

#[test]
fn answers_that_never_become_whole_are_charged_to_who_sends_them() {
    let (mut bus, ana, text) = with_provider();
    let bob = bus.connect(CALLER).unwrap();
    let per_uid = quotas::REASSEMBLY_BYTES_PER_UID;
    let each = 32 << 20;
    let more = invoked_proto::registry::flags::MORE;
    let mut ends = Vec::new();
    for _ in 0..=per_uid / each {
        ends.push(bus.call(ana, "text.upper", 0));
        let called = bus.take_called(text);
        let parts = vec![invoked_proto::metadata::Part::inline(Codec::Raw, each)];
        let reply = Reply { headers: Vec::new(), parts, extensions: Extensions::none() };
        let record = invoked_proto::testing::AnyRecord::from(reply).encode();
        let header =
            Header { codec: Codec::Raw, flags: more, ..Header::new(FrameKind::Result, called.stream) };
        bus.deliver(text, frame(header, &record, &[7; 100]));
        bus.settle();
    }
    assert_charges_sum_to_use(&bus, &UIDS);
    assert_eq!(bus.broker.stats().message_bytes, per_uid);
    let (last, rest) = ends.split_last().unwrap();
    assert_eq!(bus.end(ana, *last), Some(&fail(ErrorCode::ResourceExhausted, Delivery::Completed)));
    // The callers have their own.
    let stream = bus.call(bob, "t.slow", 1000);
    bus.complete_oldest(done());
    assert!(matches!(bus.end(bob, stream), Some(End::Reply(_))));
    bus.advance(Duration::from_secs(30));
    for stream in rest {
        assert_eq!(bus.end(ana, *stream), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::Delivered)));
    }
    bus.kill(text);
    assert_idle(&bus);
}

#[test]
fn one_that_crashes_again_and_again_harms_nobody_and_leaves_nothing() {
    let (mut bus, ana, text) = with_provider();
    let mut innocent = Innocent::new(&mut bus);
    bus.kill(text);
    let revision = bus.broker.policy().revision();
    for _ in 0..50 {
        let provider = bus.connect(PROVIDER).unwrap();
        bus.register(provider, &interface("1.0.0", &[])).unwrap();
        let stream = bus.call(ana, "text.upper", 10);
        bus.kill(provider);
        assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Unavailable, Delivery::Delivered)));
        innocent.call(&mut bus);
    }
    assert_eq!(bus.broker.policy().revision(), revision);
    innocent.check();
    assert_idle(&bus);
    assert_eq!(bus.broker.stats().providers, 0);
}

#[test]
fn one_that_is_killed_with_calls_channels_and_items_on_their_way_leaves_nothing() {
    let (mut bus, ana, text) = with_provider();
    let bob = bus.connect(CALLER).unwrap();
    let mut innocent = Innocent::new(&mut bus);
    let callers = [ana, bob];
    let mut streams = Vec::new();
    for at in 0..90 {
        streams.push((callers[at % 2], bus.call(callers[at % 2], "text.upper", 100)));
    }
    let channels = |at: u32| {
        vec![
            ChannelDeclaration { index: 1, direction: Direction::Down, credit: 1000 + u64::from(at) },
            ChannelDeclaration { index: 2, direction: Direction::Up, credit: 0 },
        ]
    };
    for at in 0..10 {
        let request = Request { command: "text.relay".into(), channels: channels(at), ..Request::default() };
        let caller = callers[at as usize % 2];
        let stream = bus.peers[caller].client.call(request).unwrap();
        bus.settle();
        streams.push((caller, stream));
        bus.peers[caller].client.send_item(stream, 2, raw(50_000)).unwrap();
        bus.settle();
    }
    // Nothing of these ten reaches it: its socket is full.
    let unsent: Vec<_> = (0..10).map(|_| bus.start(ana, "text.upper", 20, None)).collect();
    bus.write(ana, invoked_proto::connection::Role::Client);
    bus.read(ana, invoked_proto::connection::Role::Daemon, usize::MAX);
    bus.take_events(ana);
    bus.pump_outputs();
    assert_charges_sum_to_use(&bus, &UIDS);
    let now = bus.now;
    bus.kill(text);
    for (caller, stream) in &streams {
        assert_eq!(bus.end(*caller, *stream), Some(&fail(ErrorCode::Unavailable, Delivery::Delivered)));
    }
    for stream in unsent {
        assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Unavailable, Delivery::NotDelivered)));
    }
    for (caller, stream) in &streams[90..] {
        assert_eq!(bus.came(*caller, *stream, 1).ends, [Some(ErrorCode::Unavailable)]);
        assert_eq!(bus.peers[*caller].stops[&(*stream, 2)], 1);
    }
    assert_eq!(bus.now, now, "all at one instant");
    innocent.call(&mut bus);
    innocent.check();
    assert_idle(&bus);
    assert_charges_sum_to_use(&bus, &UIDS);
}

#[test]
fn one_that_ends_its_connection_politely_answers_what_it_has() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    bus.peers[text].client.drain("going");
    bus.settle();
    let refused = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, refused), Some(&fail(ErrorCode::Unavailable, Delivery::NotDelivered)));
    bus.provider_replies(text, called.stream, raw(1));
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn an_error_that_it_makes_up_goes_to_its_own_caller_alone() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    let failure = Failure::framework(ErrorCode::Unknown, "", Delivery::NotDelivered);
    let record = invoked_proto::testing::AnyRecord::from(Failure {
        parts: vec![invoked_proto::metadata::Part::inline(Codec::None, 0)],
        ..failure
    });
    let header = Header { arg: 4711, ..Header::new(FrameKind::Error, called.stream) };
    bus.deliver(text, frame(header, &record.encode(), &[]));
    bus.settle();
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Unknown, Delivery::NotDelivered)));
    assert_idle(&bus);
}
