//! Calls that a provider makes for its own caller: for as long as that waits, and with no more than both may do.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::connection::Request;
use invoked_proto::metadata::{Extensions, OriginStamp};
use invoked_proto::registry::{Delivery, ErrorCode, limits, tags};

use super::bus::{Bus, End};
use super::providing::{PROVIDER, policy_with, raw, with_provider};
use super::{assert_idle, done, fail};

/// Calls on behalf of a call that the peer has; the stream.
fn call_for(bus: &mut Bus, peer: usize, command: &str, parent: u64, deadline_us: Option<u64>) -> u64 {
    let mut extensions = Extensions::none();
    extensions.insert(tags::PARENT, Bytes::copy_from_slice(&parent.to_le_bytes()));
    let request = Request { command: command.into(), extensions, deadline_us, ..Request::default() };
    let stream = bus.peers[peer].client.call(request).unwrap();
    bus.settle();
    stream
}

#[test]
fn a_nested_call_is_one_deeper_and_has_no_more_time() {
    let (mut bus, ana, text) = with_provider();
    let outer = bus.start(ana, "text.upper", 0, Some(2_000_000));
    bus.settle();
    let called = bus.take_called(text);
    let inner = call_for(&mut bus, text, "t.slow", called.stream, Some(60_000_000));
    let run = bus.running.front().unwrap();
    assert_eq!((run.wire.depth, run.wire.deadline), (1, Some(bus.now + Duration::from_secs(2))));
    assert_eq!((run.wire.peer.uid, &run.wire.behalf[..]), (PROVIDER, &[bus.peer_id(ana)][..]));
    bus.complete_oldest(done());
    assert!(matches!(bus.end(text, inner), Some(End::Reply(_))));
    bus.provider_replies(text, called.stream, raw(1));
    assert!(matches!(bus.end(ana, outer), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn it_may_do_what_both_may() {
    let (mut bus, ana, text) = with_provider();
    bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    // The provider may call it by itself, its caller may not.
    bus.call(text, "t.quick", 0);
    bus.complete_oldest(done());
    let inner = call_for(&mut bus, text, "t.quick", called.stream, None);
    assert_eq!(bus.end(text, inner), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
    assert!(
        bus.denials.last().unwrap().contains("uid=1000"),
        "the log names who lacks it: {:?}",
        bus.denials
    );
    // Its caller may, the provider itself may not.
    let inner = call_for(&mut bus, text, "text.relay", called.stream, None);
    assert_eq!(bus.end(text, inner), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
}

#[test]
fn it_ends_with_the_call_it_is_made_for() {
    for how in ["cancel", "deadline", "loss", "revocation"] {
        let (mut bus, ana, text) = with_provider();
        let outer = bus.start(ana, "text.upper", 0, Some(2_000_000));
        bus.settle();
        let called = bus.take_called(text);
        let inner = call_for(&mut bus, text, "t.slow", called.stream, Some(1_000_000_000));
        match how {
            "cancel" => bus.cancel(ana, outer),
            "deadline" => bus.advance(Duration::from_secs(2)),
            "loss" => bus.kill(ana),
            _ => drop(bus.reload(policy_with("\"text:allow-upper\", ", ""))),
        }
        let end = bus.end(text, inner).unwrap();
        let expected = match how {
            // Both deadlines are the same.
            "deadline" => [ErrorCode::Cancelled, ErrorCode::DeadlineExceeded],
            _ => [ErrorCode::Cancelled; 2],
        };
        assert!(matches!(end, End::Fail(code, _) if expected.contains(code)), "{how}: {end:?}");
        assert_eq!(bus.cancelled.len(), 1, "{how}: the handler is told");
        // Too late for another.
        let late = call_for(&mut bus, text, "t.slow", called.stream, None);
        assert_eq!(bus.end(text, late), Some(&fail(ErrorCode::FailedPrecondition, Delivery::NotDelivered)));
        bus.complete_oldest(done());
        bus.provider_replies(text, called.stream, raw(1));
        assert_idle(&bus);
    }
}

#[test]
fn it_ends_when_a_policy_takes_it_from_whom_it_is_made_for() {
    let (mut bus, ana, text) = with_provider();
    bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    let inner = call_for(&mut bus, text, "t.slow", called.stream, None);
    let own = bus.call(text, "t.slow", 0);
    bus.reload(policy_with("\"t:allow-slow\", \"text:allow-upper\"", "\"text:allow-upper\""));
    assert_eq!(bus.end(text, inner), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
    assert_eq!(bus.end(text, own), None, "what it calls for itself goes on");
}

#[test]
fn only_an_open_call_of_its_own_is_a_parent() {
    let (mut bus, ana, text) = with_provider();
    let outer = bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    let refused = fail(ErrorCode::FailedPrecondition, Delivery::NotDelivered);
    for (peer, parent) in
        [(ana, called.stream), (ana, outer), (text, called.stream + 2), (text, 1), (text, 0)]
    {
        let stream = call_for(&mut bus, peer, "t.slow", parent, None);
        assert_eq!(bus.end(peer, stream), Some(&refused), "{parent}");
    }
    bus.provider_replies(text, called.stream, raw(1));
    let late = call_for(&mut bus, text, "t.slow", called.stream, None);
    assert_eq!(bus.end(text, late), Some(&refused));
    assert!(bus.running.is_empty());
}

#[test]
fn calls_are_nested_so_deep_and_no_deeper() {
    // The provider calls its own command for its caller, again and again.
    let (mut bus, ana, text) = with_provider();
    bus.call(ana, "text.upper", 0);
    for depth in 1..=limits::MAX_DEPTH {
        let called = bus.take_called(text);
        let stream = call_for(&mut bus, text, "text.upper", called.stream, None);
        assert_eq!(bus.end(text, stream), None, "{depth}");
    }
    let called = bus.take_called(text);
    let depth = called.call.extensions.find(tags::DEPTH).unwrap();
    assert_eq!(usize::from(depth[0]), limits::MAX_DEPTH);
    let on_behalf = called.call.extensions.find(tags::ON_BEHALF).unwrap();
    assert_eq!(on_behalf[..], bus.peer_id(ana).0.to_le_bytes());
    let origin = OriginStamp::decode(called.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    assert_eq!(origin.uid, PROVIDER);
    let deeper = call_for(&mut bus, text, "text.upper", called.stream, None);
    assert_eq!(bus.end(text, deeper), Some(&fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered)));
    // When the outermost goes, all go.
    bus.kill(ana);
    let ends = bus.peers[text].ends.values().flatten();
    let cancelled = ends.filter(|end| matches!(end, End::Fail(ErrorCode::Cancelled, _))).count();
    assert_eq!(cancelled, limits::MAX_DEPTH);
    assert_eq!(bus.peers[text].withdrawn.len(), limits::MAX_DEPTH + 1);
}

#[test]
fn scopes_of_both_are_joined() {
    let more = "\"text:allow-upper\", { identifier = \"text:allow-read\", allow = [\"/a/*\", \"/b\"], deny = [\"/a/y\"] }]\n[[capabilities]]\nidentifier = \"also-serves\"";
    let (mut bus, ana, text) = with_provider();
    bus.reload(policy_with("\"text:allow-upper\"]\n[[capabilities]]\nidentifier = \"also-serves\"", more));
    bus.call(ana, "text.upper", 0);
    let called = bus.take_called(text);
    call_for(&mut bus, text, "text.read", called.stream, None);
    call_for(&mut bus, text, "text.read", called.stream, None);
    let inner = bus.take_called(text);
    let origin = OriginStamp::decode(inner.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    let scopes = &bus.peers[text].granted[&origin.grant];
    assert_eq!(scopes["allow"], serde_json::json!(["/a/*"]), "what stands in both");
    assert_eq!(scopes["deny"], serde_json::json!(["/a/y", "/a/x"]), "what stands in any");
    let again = bus.take_called(text);
    let stamp = OriginStamp::decode(again.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    assert_eq!(stamp.grant, origin.grant, "joined once");
}
