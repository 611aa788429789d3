//! Calls routed to providers: registered, called, answered, cancelled, lost.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::Body;
use invoked_proto::connection::Request;
use invoked_proto::metadata::{Failure, MAJOR_HEADER, OriginStamp};
use invoked_proto::registry::{Delivery, ErrorCode, flags, quotas, tags};
use serde_json::json;

use super::bus::{Bus, End};
use super::providing::{CALLER, OTHER, PROVIDER, interface, policy, policy_with, raw, with_provider};
use super::sums::assert_charges_sum_to_use;
use super::{assert_idle, fail};

const UIDS: [u32; 3] = [CALLER, PROVIDER, OTHER];

fn fault<T: std::fmt::Debug>(result: Result<T, crate::ipc::Fault>) -> (ErrorCode, String) {
    let fault = result.unwrap_err();
    (fault.code, fault.message.to_string())
}

#[test]
fn a_call_is_routed_and_its_answer_comes_back() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 64);
    assert_eq!(bus.end(ana, stream), None);
    let called = bus.take_called(text);
    assert_eq!(called.call.command.as_str(), "text.upper");
    assert_eq!(called.body, vec![7; 64], "the body as it was sent");
    assert!(called.stream.is_multiple_of(2));
    // What the daemon knows is written anew.
    let deadline = called.call.deadline_us.unwrap();
    assert!(deadline <= 30_000_000 && deadline > 29_000_000, "{deadline}");
    let origin = OriginStamp::decode(called.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    assert_eq!((origin.uid, origin.peer), (CALLER, bus.peer_id(ana).0));
    assert_eq!(called.call.extensions.find(tags::DEPTH), None);
    assert_eq!(
        bus.peers[text].granted[&origin.grant],
        json!({ "command": "text.upper", "allow": null, "deny": [],
                "global": { "allow": [], "deny": [] }, "capabilities": ["calls"] })
    );
    assert_charges_sum_to_use(&bus, &UIDS);
    bus.provider_replies(text, called.stream, Body::Raw(Bytes::from_static(b"LOUD")).into());
    assert_eq!(bus.end(ana, stream), Some(&End::Reply(Body::Raw(Bytes::from_static(b"LOUD")))));
    assert_idle(&bus);

    // The grant is given once.
    bus.call(ana, "text.upper", 0);
    let again = bus.take_called(text);
    let stamp = OriginStamp::decode(again.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    assert_eq!((stamp.grant, bus.peers[text].granted.len()), (origin.grant, 1));
}

#[test]
fn what_a_caller_says_of_its_call_is_forwarded() {
    let (mut bus, ana, text) = with_provider();
    let mut request = Request {
        command: "text:upper".into(),
        headers: vec![("a".into(), "1".into()), (MAJOR_HEADER.into(), "1".into())],
        flags: flags::IDEMPOTENT | flags::SENSITIVE,
        deadline_us: Some(5_000_000),
        ..Request::default()
    };
    let extensions = [
        (tags::IDEMPOTENCY_KEY, "key"),
        (tags::TRACEPARENT, "00-1-2-01"),
        (tags::PRIORITY, "\u{7}"),
        (0x9000, "unknown"),
    ];
    for (tag, value) in extensions {
        request.extensions.insert(tag, Bytes::from_static(value.as_bytes()));
    }
    bus.peers[ana].client.call(Request { command: "text.upper".into(), ..request }).unwrap();
    bus.settle();
    let called = bus.take_called(text);
    assert_eq!(called.flags, flags::IDEMPOTENT | flags::SENSITIVE);
    let headers: Vec<_> = called.call.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(headers, [("a", "1"), (MAJOR_HEADER, "1")]);
    let tags: Vec<u16> = called.call.extensions.iter().map(|(tag, _)| tag).collect();
    assert_eq!(tags, [tags::IDEMPOTENCY_KEY, tags::ORIGIN, tags::TRACEPARENT, tags::PRIORITY]);
}

#[test]
fn scopes_are_told_with_the_grant() {
    let (mut bus, ana, text) = with_provider();
    bus.call(ana, "text.read", 0);
    let called = bus.take_called(text);
    let origin = OriginStamp::decode(called.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    let scopes = &bus.peers[text].granted[&origin.grant];
    assert_eq!((&scopes["allow"], &scopes["deny"]), (&json!(["/a/*"]), &json!(["/a/x"])));
}

#[test]
fn a_denied_call_is_invisible_to_the_provider() {
    let (mut bus, _, text) = with_provider();
    let eve = bus.connect(1001).unwrap();
    let stream = bus.call(eve, "text.upper", 3);
    assert_eq!(bus.end(eve, stream), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
    assert!(bus.peers[text].called.is_empty() && bus.peers[text].granted.is_empty());
}

#[test]
fn large_messages_go_both_ways_and_are_charged_to_who_sends_them() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 300_000);
    let called = bus.take_called(text);
    assert_eq!(called.body.len(), 300_000);
    assert_eq!(bus.broker.stats().message_bytes, 300_000, "the caller's, until its provider ends");
    bus.peers[text].client.reply(called.stream, Vec::new(), raw(200_000)).unwrap();
    // The first fragments of the answer.
    bus.write(text, invoked_proto::connection::Role::Client);
    bus.read(text, invoked_proto::connection::Role::Daemon, 100_000);
    bus.take_events(text);
    assert_eq!(bus.broker.stats().message_bytes, 500_000);
    assert_charges_sum_to_use(&bus, &UIDS);
    bus.settle();
    // Long replies are only counted by the bus.
    assert_eq!(bus.end(ana, stream), Some(&End::Reply(Body::None)));
    assert_idle(&bus);
}

#[test]
fn an_error_of_a_provider_comes_back_as_it_is() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    bus.provider_fails(text, called.stream, ErrorCode::OutOfRange, "too far");
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::OutOfRange, Delivery::Completed)));
    let own = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    let failure = Failure::framework(ErrorCode::Application, "", Delivery::Completed);
    bus.peers[text].client.fail_call(called.stream, ErrorCode::Application, failure, raw(3)).unwrap();
    bus.settle();
    assert_eq!(bus.end(ana, own), Some(&fail(ErrorCode::Application, Delivery::Completed)));
    assert_idle(&bus);
}

#[test]
fn without_a_provider_a_call_is_unavailable() {
    let mut bus = Bus::new();
    bus.reload(policy());
    let ana = bus.connect(CALLER).unwrap();
    let unavailable = fail(ErrorCode::Unavailable, Delivery::NotDelivered);
    let early = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, early), Some(&unavailable));

    let text = bus.connect(PROVIDER).unwrap();
    bus.register(text, &interface("1.0.0", &[])).unwrap();
    bus.broker.withdraw(bus.peer_id(text), "text", 1).unwrap();
    let withdrawn = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, withdrawn), Some(&unavailable));
    let (code, _) = fault(bus.broker.withdraw(bus.peer_id(text), "text", 1));
    assert_eq!(code, ErrorCode::NotFound);

    bus.register(text, &interface("1.0.0", &[])).unwrap();
    bus.kill(text);
    let lost = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, lost), Some(&unavailable));
    assert_idle(&bus);
}

#[test]
fn open_calls_of_a_provider_that_withdraws_go_on() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 0);
    bus.broker.withdraw(bus.peer_id(text), "text", 1).unwrap();
    let called = bus.take_called(text);
    bus.provider_replies(text, called.stream, raw(1));
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
}

#[test]
fn a_name_has_one_owner_until_another_takes_it_over() {
    let (mut bus, ana, text) = with_provider();
    let other = bus.connect(OTHER).unwrap();
    let (code, message) = fault(bus.register(other, &interface("1.0.0", &[])));
    assert_eq!(code, ErrorCode::AlreadyExists, "{message}");
    let open = bus.call(ana, "text.upper", 0);
    bus.register_as(other, &interface("1.0.0", &[]), true).unwrap();
    let next = bus.call(ana, "text.upper", 0);
    // The old one finishes what it has, and gets no more.
    let called = bus.take_called(text);
    assert!(bus.peers[text].called.is_empty());
    bus.provider_replies(text, called.stream, raw(1));
    assert!(matches!(bus.end(ana, open), Some(End::Reply(_))));
    let called = bus.take_called(other);
    bus.provider_replies(other, called.stream, raw(1));
    assert!(matches!(bus.end(ana, next), Some(End::Reply(_))));
    // Who was taken over from doesn't withdraw what is another's now.
    assert!(bus.broker.withdraw(bus.peer_id(text), "text", 1).is_err());
    bus.kill(text);
    bus.call(ana, "text.upper", 0);
    bus.take_called(other);
}

#[test]
fn who_may_not_provide_a_name_is_denied_and_that_is_kept() {
    let mut bus = Bus::new();
    bus.reload(policy());
    let eve = bus.connect(1001).unwrap();
    let fault = bus.register(eve, &interface("1.0.0", &[])).unwrap_err();
    assert_eq!(fault.code, ErrorCode::PermissionDenied);
    assert!(fault.decision.is_some());
    assert_eq!(bus.denials.len(), 1);
    assert!(bus.denials[0].contains("text"), "{}", bus.denials[0]);
    // Under a name that is taken the same is said: it must not tell more.
    let (mut bus, ..) = with_provider();
    let eve = bus.connect(1001).unwrap();
    let fault = bus.register_as(eve, &interface("1.0.0", &[]), true).unwrap_err();
    assert_eq!(fault.code, ErrorCode::PermissionDenied);
}

#[test]
fn two_majors_live_side_by_side() {
    let (mut bus, ana, text) = with_provider();
    let other = bus.connect(OTHER).unwrap();
    bus.register(other, &interface("2.3.0", &[])).unwrap();
    let mut call = |major: Option<&str>| {
        let headers = major.map(|major| (MAJOR_HEADER.into(), major.into())).into_iter().collect();
        let request = Request { command: "text.upper".into(), headers, ..Request::default() };
        let stream = bus.peers[ana].client.call(request).unwrap();
        bus.settle();
        let taken = |bus: &mut Bus, peer: usize| bus.peers[peer].called.pop_front().is_some();
        (taken(&mut bus, text), taken(&mut bus, other), bus.end(ana, stream).cloned())
    };
    assert_eq!(call(None), (false, true, None), "the highest");
    assert_eq!(call(Some("1")), (true, false, None));
    assert_eq!(call(Some("2")), (false, true, None));
    let refused = |code| (false, false, Some(fail(code, Delivery::NotDelivered)));
    assert_eq!(call(Some("3")), refused(ErrorCode::Unavailable));
    assert_eq!(call(Some("x")), refused(ErrorCode::InvalidArgument));
    assert_eq!(call(Some("+1")), refused(ErrorCode::InvalidArgument));
}

#[test]
fn a_provider_of_two_majors_is_told_which_is_meant() {
    let (mut bus, ana, text) = with_provider();
    bus.register(text, &interface("2.0.0", &[])).unwrap();
    bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    let headers: Vec<_> = called.call.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(headers, [(MAJOR_HEADER, "2")]);
}

#[test]
fn cancel_ends_the_callers_leg_at_once_and_the_slot_stays_until_the_providers_ends() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.call(ana, "text.upper", 1000);
    let called = bus.take_called(text);
    bus.cancel(ana, stream);
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Cancelled, Delivery::Delivered)));
    assert_eq!(bus.peers[text].withdrawn, [called.stream]);
    let stats = bus.broker.stats();
    assert_eq!((stats.calls_in_flight, stats.message_bytes), (1, 1000), "a cancel gains nothing");
    bus.provider_replies(text, called.stream, raw(1));
    assert_eq!(bus.broker.stats().late_completions, 1);
    assert!(bus.end(ana, stream).is_some(), "it ended once");
    assert_idle(&bus);
}

#[test]
fn a_call_that_was_cancelled_before_it_was_sent_was_not_delivered() {
    let (mut bus, ana, text) = with_provider();
    // The provider's socket takes nothing.
    let stream = bus.start(ana, "text.upper", 5, None);
    bus.write(ana, invoked_proto::connection::Role::Client);
    bus.read(ana, invoked_proto::connection::Role::Daemon, usize::MAX);
    bus.take_events(ana);
    bus.pump_outputs();
    let id = bus.peer_id(ana);
    bus.broker.handle_cancel(bus.now, id, stream);
    bus.settle();
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Cancelled, Delivery::NotDelivered)));
    assert!(bus.peers[text].called.is_empty());
    assert_idle(&bus);
}

#[test]
fn a_deadline_ends_a_routed_call_and_is_told_to_the_provider() {
    let (mut bus, ana, text) = with_provider();
    let stream = bus.start(ana, "text.upper", 0, Some(2_000_000));
    bus.settle();
    let called = bus.take_called(text);
    assert_eq!(called.call.deadline_us, Some(2_000_000));
    bus.advance(Duration::from_secs(2));
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::Delivered)));
    assert_eq!(bus.peers[text].withdrawn, [called.stream]);
    bus.provider_fails(text, called.stream, ErrorCode::Cancelled, "");
    assert_idle(&bus);
}

#[test]
fn a_reload_that_takes_the_grant_ends_the_call_and_takes_the_providers_grant_back() {
    let (mut bus, ana, text) = with_provider();
    let revoked = bus.call(ana, "text.upper", 0);
    let kept = bus.call(ana, "text.relay", 0);
    bus.reload(policy_with("\"text:allow-upper\", ", ""));
    assert_eq!(bus.end(ana, revoked), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
    assert_eq!(bus.end(ana, kept), None);
    let (first, second) = (bus.take_called(text), bus.take_called(text));
    assert_eq!(bus.peers[text].granted.len(), 2, "both are named by open calls");
    bus.provider_fails(text, first.stream, ErrorCode::Cancelled, "");
    assert_eq!(bus.peers[text].granted.len(), 1);
    bus.provider_replies(text, second.stream, raw(1));
    assert_eq!(bus.peers[text].granted.len(), 0);
    assert!(matches!(bus.end(ana, kept), Some(End::Reply(_))));
    let again = bus.call(ana, "text.relay", 0);
    assert_eq!((bus.end(ana, again), bus.peers[text].granted.len()), (None, 1));
}

#[test]
fn a_reload_that_takes_provide_takes_the_name() {
    let (mut bus, ana, text) = with_provider();
    let open = bus.call(ana, "text.upper", 0);
    bus.reload(policy_with("provide = [\"text\"]", "provide = [\"other\"]"));
    let next = bus.call(ana, "text.upper", 0);
    assert_eq!(bus.end(ana, next), Some(&fail(ErrorCode::Unavailable, Delivery::NotDelivered)));
    assert_eq!(bus.broker.stats().providers, 0);
    let called = bus.take_called(text);
    bus.provider_replies(text, called.stream, raw(1));
    assert!(matches!(bus.end(ana, open), Some(End::Reply(_))), "what it has it finishes");
}

#[test]
fn registrations_end_at_their_limits() {
    let (mut bus, _, text) = with_provider();
    let most = quotas::REGISTRATIONS_PER_PEER;
    for major in 2..=most {
        bus.register(text, &interface(&format!("{major}.0"), &[])).unwrap();
    }
    let (code, _) = fault(bus.register(text, &interface(&format!("{}.0", most + 1), &[])));
    assert_eq!(code, ErrorCode::ResourceExhausted, "n + 1");
    bus.register(text, &interface("7.1", &[])).expect("what it has it may replace");
    let id = bus.peer_id(text);
    bus.broker.withdraw(id, "text", 9).unwrap();
    bus.register(text, &interface(&format!("{}.0", most + 1), &[])).unwrap();

    for _ in 0..quotas::REGISTRATIONS_PER_SECOND {
        bus.broker.count_registration(bus.now, id).unwrap();
    }
    let fault = bus.broker.count_registration(bus.now, id).unwrap_err();
    assert_eq!((fault.code, fault.retry_after), (ErrorCode::ResourceExhausted, Some(Duration::from_secs(1))));
    let other = bus.connect(OTHER).unwrap();
    bus.broker.count_registration(bus.now, bus.peer_id(other)).expect("another uid");
    bus.broker.count_registration(bus.now + Duration::from_secs(1), id).expect("a second later");
}
