//! Changes of the policy while calls are open.

use std::sync::Arc;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Request, Sent};
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::{Delivery, Direction, ErrorCode};

use super::bus::{Bus, End, policy};
use super::{Bound, Bounds, assert_idle, done, fail};
use crate::authority::{PeerFacts, PolicySnapshot, Verdict};
use crate::broker::Swept;
use crate::broker::sweep::SLICE;
use crate::ipc::{PeerId, Response};

#[test]
fn a_reload_that_removes_a_grant_ends_what_it_allowed_in_the_same_instant() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.slow", 0);
    bus.reload(policy(r#"["t:allow-quick"]"#));
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
    let again = bus.call(ana, "t.slow", 0);
    assert_eq!(bus.end(ana, again), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn a_reload_that_keeps_a_grant_keeps_its_calls() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.slow", 0);
    bus.reload(policy(r#"["t:allow-slow"]"#));
    assert_eq!(bus.end(ana, stream), None);
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
}

/// The policy in force is that of before; the next one has no `t.slow`.
fn without_slow() -> Arc<PolicySnapshot> {
    policy(r#"["t:allow-quick"]"#)
}

#[test]
fn a_revoked_call_takes_no_more_input_though_the_sweep_has_not_come_to_it() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.start(ana, "t.slow", 200_000, None);
    let rest = bus.deliver_partially(ana, 100_000);
    bus.broker.handle_policy(without_slow(), Vec::new());
    // The rest of its message comes before the first slice.
    bus.deliver(ana, rest);
    bus.settle();
    assert!(bus.running.is_empty(), "a handler saw a call whose grant was gone");
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Revoked, Delivery::NotDelivered)));
    assert_idle(&bus);
}

#[test]
fn a_revoked_call_gets_no_answer_though_the_sweep_has_not_come_to_it() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.slow", 10);
    bus.broker.handle_policy(without_slow(), Vec::new());
    bus.complete_oldest(done());
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
    assert_eq!(bus.broker.stats().replies, 0);
    assert_idle(&bus);
}

#[test]
fn a_call_whose_channel_was_found_revoked_is_not_kept_by_the_policy_after_that() {
    type Act = fn(&mut Bus, usize, u64);
    let acts: [Act; 2] = [
        |bus, _, _| bus.channel(1).try_send(Response::new(vec![7; 10])).unwrap(),
        |bus, ana, stream| {
            let item = Message::from(Body::Raw(Bytes::from_static(b"item")));
            assert!(matches!(bus.peers[ana].client.send_item(stream, 2, item), Ok(Sent::Queued)));
        },
    ];
    for act in acts {
        let mut bus = Bus::new();
        let ana = bus.connect(1000).unwrap();
        let declare = |index, direction| ChannelDeclaration { index, direction, credit: 1000 };
        let channels = vec![declare(1, Direction::Down), declare(2, Direction::Up)];
        let request = Request { command: "t.slow".into(), channels, ..Request::default() };
        let stream = bus.peers[ana].client.call(request).unwrap();
        bus.settle();
        bus.broker.handle_policy(without_slow(), Vec::new());
        act(&mut bus, ana, stream);
        bus.settle();
        // Before the sweep has come to the call, it is allowed again; but an item was withheld.
        bus.reload(policy(r#"["t:allow-slow", "t:allow-quick"]"#));
        assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
        bus.complete_oldest(done());
        assert_idle(&bus);
    }
}

#[test]
fn a_new_call_is_judged_by_the_new_policy_before_the_sweep() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    bus.broker.handle_policy(without_slow(), Vec::new());
    let id = bus.peers[ana].id;
    let grants = bus.broker.grants(id).unwrap();
    assert!(matches!(grants.authorize("t.slow"), Verdict::Deny(_)), "the old grants are told");
    let stream = bus.call(ana, "t.slow", 10);
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
    assert!(bus.running.is_empty());
    // And the other way round.
    bus.broker.handle_policy(policy(r#"["t:allow-slow"]"#), Vec::new());
    bus.call(ana, "t.slow", 10);
    assert_eq!(bus.running.len(), 1);
}

#[test]
fn ten_thousand_peers_and_their_calls_are_swept_in_slices_at_one_instant() {
    // Ten thousand uids at once, for each of which another share is to be left.
    let connections = Bound { per_uid: 1024, total: 1 << 20 };
    let mut bus = Bus::with_bounds(Bounds { connections, ..Bounds::default() });
    let callers: Vec<usize> = (0..10).map(|_| bus.connect(1000).unwrap()).collect();
    let mut streams = Vec::new();
    for caller in callers {
        streams.extend((0..300).map(|_| (caller, bus.start(caller, "t.slow", 0, None))));
    }
    bus.settle();
    for uid in 2_000..12_000 {
        bus.broker.handle_connection(PeerFacts::new(uid, uid, [])).unwrap();
    }
    assert_eq!((bus.running.len(), bus.broker.stats().peers), (3_000, 10_010));
    let old = Arc::downgrade(bus.broker.policy());
    let start = bus.now;
    let slices = bus.reload(without_slow());
    assert!(slices.iter().all(|looked_at| *looked_at == SLICE), "{slices:?}");
    assert_eq!(slices.len(), (3_000 + 10_010) / SLICE, "and a last one that found the rest");
    assert_eq!(bus.now, start);
    let revoked = fail(ErrorCode::Revoked, Delivery::Delivered);
    assert!(streams.into_iter().all(|(caller, stream)| bus.end(caller, stream) == Some(&revoked)));
    assert_eq!(bus.cancelled.len(), 3_000);
    assert!(old.upgrade().is_none(), "somebody still goes by the old policy");
}

#[test]
fn a_policy_that_comes_during_a_sweep_is_swept_for_wholly() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let first: Vec<u64> = (0..=SLICE).map(|_| bus.start(ana, "t.slow", 0, None)).collect();
    bus.settle();
    bus.broker.handle_policy(policy(r#"["t:allow-slow"]"#), Vec::new());
    assert!(matches!(bus.broker.sweep(bus.now), Swept::Partly { looked_at: SLICE }));
    // Those that the first sweep has seen lose their grant now.
    bus.reload(without_slow());
    let revoked = fail(ErrorCode::Revoked, Delivery::Delivered);
    assert!(first.iter().all(|stream| bus.end(ana, *stream) == Some(&revoked)));
}

#[test]
fn a_peer_that_comes_and_goes_during_a_sweep_is_no_concern_of_it() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    for _ in 0..=SLICE {
        bus.start(ana, "t.slow", 0, None);
    }
    bus.settle();
    bus.broker.handle_policy(without_slow(), Vec::new());
    assert!(matches!(bus.broker.sweep(bus.now), Swept::Partly { .. }));
    bus.kill(ana);
    let eve = bus.connect(1001).unwrap();
    while let Swept::Partly { .. } = bus.broker.sweep(bus.now) {}
    assert!(bus.broker.grants(bus.peers[eve].id).is_some());
    assert!(bus.broker.grants(PeerId(u64::MAX)).is_none());
    while !bus.running.is_empty() {
        bus.complete_oldest(done());
    }
    assert_idle(&bus);
}
