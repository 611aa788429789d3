//! Calls that come from no connection.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::registry::{Delivery, ErrorCode, limits};

use super::bus::{Bus, End, policy};
use super::done;
use crate::authority::PeerFacts;
use crate::broker::{Bound, Bounds, LocalCall};
use crate::ipc::PeerId;

fn call(command: &str, len: usize) -> LocalCall {
    let message = Message::from(Body::Raw(Bytes::from(vec![7; len])));
    LocalCall { command: command.into(), message, ..LocalCall::default() }
}

impl Bus {
    fn local_peer(&mut self, uid: u32) -> PeerId {
        self.broker.handle_local_peer(PeerFacts::new(uid, uid, [])).unwrap()
    }

    fn call_local(&mut self, peer: PeerId, call: LocalCall) -> u64 {
        let stream = self.broker.handle_local_call(self.now, peer, call);
        self.settle();
        stream
    }

    /// How a call ended; panics if it did so twice.
    #[track_caller]
    fn local_end(&self, stream: u64) -> Option<&End> {
        let ends = self.local_ends.get(&stream)?;
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends.first()
    }

    #[track_caller]
    fn fails(&self, stream: u64, code: ErrorCode, delivery: Delivery) {
        assert_eq!(self.local_end(stream), Some(&End::Fail(code, delivery)));
    }
}

#[test]
fn a_local_call_is_authorized_run_and_answered_once() {
    let mut bus = Bus::new();
    let ann = bus.local_peer(1000);
    let bob = bus.local_peer(1001);
    let allowed = bus.call_local(ann, call("t.slow", 10));
    assert_eq!(bus.running.len(), 1);
    assert_eq!(bus.running[0].wire.message.len(), 10);
    bus.complete_oldest(done());
    assert!(matches!(bus.local_end(allowed), Some(End::Reply(_))));
    let denied = bus.call_local(bob, call("t.slow", 0));
    bus.fails(denied, ErrorCode::PermissionDenied, Delivery::NotDelivered);
    let unknown = bus.call_local(ann, call("t.nothing", 0));
    bus.fails(unknown, ErrorCode::PermissionDenied, Delivery::NotDelivered);
    assert!(bus.running.is_empty());
}

#[test]
fn attachments_arrive_as_they_were_given() {
    let mut bus = Bus::new();
    let ann = bus.local_peer(1000);
    let mut with = call("t.slow", 3);
    with.message.attachments = vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bc")];
    let sent = with.message.clone();
    bus.call_local(ann, with);
    assert_eq!(bus.running[0].wire.message, sent);
}

#[test]
fn a_call_for_a_connected_caller_has_its_rights_and_ends_with_it() {
    let mut bus = Bus::new();
    let peer = bus.connect(1000).unwrap();
    let id = bus.peers[peer].id;
    let own = bus.call(peer, "t.slow", 0);
    let nested = bus.call_local(id, LocalCall { depth: 1, ..call("t.slow", 0) });
    assert_eq!(bus.running.iter().map(|run| run.wire.depth).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(bus.running[1].wire.peer.id, id);
    bus.kill(peer);
    assert!(bus.end(peer, own).is_none(), "nobody is there to be told");
    bus.fails(nested, ErrorCode::Unavailable, Delivery::Delivered);
    assert_eq!(bus.cancelled.len(), 2);
}

#[test]
fn a_local_call_ends_at_its_deadline_by_cancel_and_by_revocation() {
    let mut bus = Bus::new();
    let ann = bus.local_peer(1000);
    let deadline = Some(bus.now + Duration::from_secs(1));
    let late = bus.call_local(ann, LocalCall { deadline, ..call("t.slow", 0) });
    bus.advance(Duration::from_secs(1));
    bus.fails(late, ErrorCode::DeadlineExceeded, Delivery::Delivered);
    let past = bus.call_local(ann, LocalCall { deadline: Some(bus.now), ..call("t.slow", 0) });
    bus.fails(past, ErrorCode::DeadlineExceeded, Delivery::NotDelivered);
    let cancelled = bus.call_local(ann, call("t.slow", 0));
    bus.broker.handle_cancel(bus.now, ann, cancelled);
    bus.settle();
    bus.fails(cancelled, ErrorCode::Cancelled, Delivery::Delivered);
    let revoked = bus.call_local(ann, call("t.slow", 0));
    bus.broker.handle_policy(policy(r#"["t:allow-quick"]"#), Vec::new());
    bus.broker.sweep(bus.now);
    bus.settle();
    bus.fails(revoked, ErrorCode::Revoked, Delivery::Delivered);
}

#[test]
fn calls_nest_to_a_depth_and_no_deeper() {
    let mut bus = Bus::new();
    let ann = bus.local_peer(1000);
    let max = u8::try_from(limits::MAX_DEPTH).unwrap();
    let deepest = bus.call_local(ann, LocalCall { depth: max, ..call("t.slow", 0) });
    assert!(bus.local_end(deepest).is_none());
    let deeper = bus.call_local(ann, LocalCall { depth: max + 1, ..call("t.slow", 0) });
    bus.fails(deeper, ErrorCode::ResourceExhausted, Delivery::NotDelivered);
}

#[test]
fn what_no_connection_would_take_is_refused() {
    let mut bus = Bus::new();
    let ann = bus.local_peer(1000);
    let mut many = call("t.slow", 0);
    many.message.attachments = vec![Bytes::new(); limits::MAX_PARTS - 1];
    let most = bus.call_local(ann, LocalCall { message: many.message.clone(), ..call("t.slow", 0) });
    assert!(bus.local_end(most).is_none());
    many.message.attachments.push(Bytes::new());
    let one_more = bus.call_local(ann, many);
    bus.fails(one_more, ErrorCode::ResourceExhausted, Delivery::NotDelivered);
    let large = bus.call_local(ann, call("t.slow", limits::MAX_MESSAGE + 1));
    bus.fails(large, ErrorCode::ResourceExhausted, Delivery::NotDelivered);
}

#[test]
fn local_calls_are_charged_to_the_uid_whose_rights_they_have() {
    let calls = Bound { per_uid: 2, total: u64::MAX };
    let mut bus = Bus::with_bounds(Bounds { calls, ..Bounds::default() });
    let peer = bus.connect(1000).unwrap();
    let (id, daemon) = (bus.peers[peer].id, bus.local_peer(1));
    bus.call(peer, "t.slow", 0);
    bus.call_local(id, call("t.slow", 0));
    let third = bus.call_local(id, call("t.slow", 0));
    bus.fails(third, ErrorCode::ResourceExhausted, Delivery::NotDelivered);
    // Another uid's account is another's; it just has no right here.
    let other = bus.call_local(daemon, call("t.slow", 0));
    bus.fails(other, ErrorCode::PermissionDenied, Delivery::NotDelivered);
    bus.complete_oldest(done());
    bus.complete_oldest(done());
    let again = bus.call_local(id, call("t.slow", 0));
    assert!(bus.local_end(again).is_none());
    assert_eq!(bus.broker.stats().peers, 1, "only processes outside are counted");
}
