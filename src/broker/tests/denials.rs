//! Denials: their ids, how long they are kept, what they explain after a reload.

use std::path::Path;
use std::sync::Arc;

use invoked_proto::registry::{Delivery, ErrorCode, quotas};
use serde_json::json;

use super::bus::{Bus, End, policy};
use super::{assert_idle, done};
use crate::authority::{Judged, PathScope, ScopeDenial, ScopeRefusal, ScopeVerdict};
use crate::broker::{DecisionId, Swept};
use crate::ipc::{Fault, Outcome};

/// What the operator is told of the decision that a call's error named.
fn explained(bus: &mut Bus, peer: usize, stream: u64) -> Option<String> {
    let id = DecisionId::parse(bus.peers[peer].decisions.get(&stream)?).expect("an id");
    bus.broker.decision(id).map(|decision| decision.explanation().to_string())
}

/// What a handler answers whose scopes refuse the argument.
fn refused(bus: &Bus) -> Outcome {
    let grant = Arc::clone(&bus.running.front().expect("a handler runs").wire.grant);
    let denial = match grant.check::<PathScope>(Path::new("relative")) {
        ScopeVerdict::Denied(denial @ ScopeDenial::Input(_)) => denial,
        other => panic!("{other:?}"),
    };
    let argument = Judged::new(&json!("relative"));
    Err(Fault::scope_refusal(ScopeRefusal { grant, denial, argument }, "not this one").into())
}

#[test]
fn a_denial_is_explained_by_the_id_that_its_peer_was_given() {
    let mut bus = Bus::new();
    let eve = bus.connect(1001).unwrap();
    let (first, second) = (bus.call(eve, "t.slow", 0), bus.call(eve, "t.made_up", 0));
    let text = explained(&mut bus, eve, first).unwrap();
    assert!(text.starts_with("denied: t.slow for uid=1001\n"), "{text}");
    assert_eq!(bus.denials[0], text, "the log has the same");
    assert!(explained(&mut bus, eve, second).unwrap().starts_with("denied: t.made_up for uid=1001\n"));
    assert_ne!(bus.peers[eve].decisions[&first], bus.peers[eve].decisions[&second]);
    bus.kill(eve);
    assert!(explained(&mut bus, eve, first).is_some(), "also when the peer is gone");
    assert_idle(&bus);
}

#[test]
fn a_denial_by_an_argument_has_an_id_too() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.quick", 0);
    let outcome = refused(&bus);
    bus.complete_oldest(outcome);
    let expected = End::Fail(ErrorCode::PermissionDenied, Delivery::NotDelivered);
    assert_eq!(bus.end(ana, stream), Some(&expected));
    let text = explained(&mut bus, ana, stream).unwrap();
    assert!(
        text.starts_with("denied: t.quick for uid=1000\n  no scope may judge \"relative\": it "),
        "{text}"
    );
    assert_eq!((bus.denials.as_slice(), bus.broker.stats().denied), (&[text][..], 1));
}

#[test]
fn to_cancel_a_call_hides_no_denial() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.slow", 0);
    bus.cancel(ana, stream);
    let outcome = refused(&bus);
    bus.complete_oldest(outcome);
    assert_eq!(bus.denials.len(), 1);
    assert_eq!(bus.broker.decisions().latest(), 1);
    assert_eq!(bus.peers[ana].decisions.get(&stream), None, "it was answered before");
    assert_idle(&bus);
}

#[test]
fn what_the_log_leaves_out_is_kept() {
    let mut bus = Bus::new();
    let eve = bus.connect(1001).unwrap();
    let streams: Vec<u64> = (0..50).map(|_| bus.call(eve, "t.slow", 0)).collect();
    assert_eq!(bus.denials.len(), 5);
    for stream in streams {
        assert!(explained(&mut bus, eve, stream).unwrap().starts_with("denied: t.slow"));
    }
}

#[test]
fn a_flood_leaves_the_denials_of_others_and_a_bounded_number() {
    let mut bus = Bus::new();
    let (eve, bob) = (bus.connect(1001).unwrap(), bus.connect(1002).unwrap());
    let (first, bobs) = (bus.call(eve, "t.slow", 0), bus.call(bob, "t.slow", 0));
    for _ in 0..quotas::DECISIONS {
        bus.call(eve, "t.slow", 0);
    }
    assert_eq!(explained(&mut bus, eve, first), None);
    assert!(explained(&mut bus, bob, bobs).is_some());
    assert_eq!(bus.broker.decisions().len(), usize::try_from(quotas::DECISIONS).unwrap());
}

#[test]
fn a_denial_is_explained_under_the_policy_that_it_was_made_under() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    bus.reload(policy(r#"["t:deny-slow"]"#));
    let old = Arc::downgrade(bus.broker.policy());
    let streams: Vec<u64> = (0..25).map(|_| bus.call(ana, "t.slow", 0)).collect();
    bus.broker.handle_policy(policy(r#"["t:allow-slow"]"#), Vec::new());
    // A few at a time; after that nothing holds the policy that was.
    let slices = (1..).find(|_| matches!(bus.broker.sweep(bus.now), Swept::Wholly(_))).unwrap();
    assert!((3..10).contains(&slices), "{slices} slices");
    assert!(old.upgrade().is_none());
    for stream in streams {
        let text = explained(&mut bus, ana, stream).unwrap();
        assert!(text.contains("matches this peer and denies it with \"t:deny-slow\" (x.toml:3)"), "{text}");
    }
    bus.call(ana, "t.slow", 0);
    bus.complete_oldest(done());
    assert_idle(&bus);
}
