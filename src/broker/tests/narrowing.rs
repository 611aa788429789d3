//! Peers that give up rights in HELLO.

use std::sync::Arc;

use invoked_proto::metadata::Hello;
use invoked_proto::registry::{Delivery, ErrorCode};

use super::bus::{Bus, End, policy, written};
use super::{assert_idle, done, fail};
use crate::authority::{PolicySnapshot, Verdict};

const DENIED: End = End::Fail(ErrorCode::PermissionDenied, Delivery::NotDelivered);

fn hello(names: &[&str]) -> Hello {
    Hello { narrow: Some(names.iter().map(|name| (*name).into()).collect()), ..Hello::default() }
}

/// Uid 1000 may call both commands by one capability each.
fn two() -> Arc<PolicySnapshot> {
    with("")
}

fn with(more: &str) -> Arc<PolicySnapshot> {
    let capability = |name: &str, permissions: &str| {
        format!(
            "[[capabilities]]\nidentifier = \"{name}\"\npeers = [\"uid:1000\"]\npermissions = [{permissions}]\n"
        )
    };
    written(&[&capability("s", "\"t:allow-slow\""), &capability("q", "\"t:allow-quick\""), more].concat())
}

fn bus() -> Bus {
    let mut bus = Bus::new();
    bus.reload(two());
    bus
}

#[test]
fn early_calls_are_judged_by_what_is_left() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["q"])).unwrap();
    // In the flight of HELLO: they arrive before anybody has looked at it.
    let slow = bus.start(ana, "t.slow", 100, None);
    let quick = bus.start(ana, "t.quick", 100, None);
    let withdrawn = bus.start(ana, "t.quick", 0, None);
    bus.settle();
    bus.cancel(ana, withdrawn);
    assert!(bus.running.is_empty(), "a call was served before it was known what is left");
    assert!(bus.peers[ana].welcome.is_none());
    assert_eq!(bus.narrow(), 1);
    assert_eq!(bus.running.len(), 2, "the one that is left, and the one that was withdrawn after it came");
    assert!(bus.running.iter().all(|run| run.command.name() == "t.quick"));
    assert_eq!(bus.end(ana, slow), Some(&DENIED));
    assert_eq!(bus.end(ana, withdrawn), Some(&fail(ErrorCode::Cancelled, Delivery::Delivered)));
    bus.complete_oldest(done());
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, quick), Some(End::Reply(_))));
    assert!(bus.peers[ana].welcome.as_ref().unwrap().warnings.is_empty());
    assert_idle(&bus);
}

#[test]
fn an_early_message_in_pieces_is_put_together_after_the_narrowing() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["s"])).unwrap();
    let stream = bus.start(ana, "t.slow", 10_000, None);
    let rest = bus.deliver_partially(ana, 3_000);
    bus.deliver(ana, rest);
    bus.settle();
    assert!(bus.running.is_empty());
    bus.narrow();
    assert_eq!(bus.running.front().map(|run| run.wire.message.len()), Some(10_000));
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn what_was_given_up_does_not_come_back() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["q"])).unwrap();
    let wide = bus.connect(1000).unwrap();
    bus.settle();
    bus.narrow();
    // The same capabilities, more of them, the same name with more in it.
    let more =
        "[[capabilities]]\nidentifier = \"m\"\npeers = [\"uid:1000\"]\npermissions = [\"t:allow-slow\"]\n";
    for policy in [two(), with(more)] {
        bus.reload(policy);
        let stream = bus.call(ana, "t.slow", 0);
        assert_eq!(bus.end(ana, stream), Some(&DENIED));
        let stream = bus.call(wide, "t.slow", 0);
        assert_eq!(bus.end(wide, stream), None, "another connection of the uid is not narrowed");
    }
    // What it kept follows the files: gone, and given more.
    bus.reload(policy(r#"["t:allow-quick"]"#));
    let stream = bus.call(ana, "t.quick", 0);
    assert_eq!(bus.end(ana, stream), Some(&DENIED), "\"q\" is gone");
    bus.reload(written("identifier = \"q\"\npeers = [\"uid:1000\"]\npermissions = [\"t:allow-slow\"]\n"));
    bus.call(ana, "t.slow", 0);
    assert_eq!(bus.running.back().map(|run| run.command.name()), Some("t.slow"));
}

#[test]
fn a_reload_revokes_what_a_narrowed_peer_kept() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["s"])).unwrap();
    bus.settle();
    bus.narrow();
    let stream = bus.call(ana, "t.slow", 0);
    // Another capability gives the uid the same; this peer gave that up.
    bus.reload(written("identifier = \"x\"\npeers = [\"uid:1000\"]\npermissions = [\"t:allow-slow\"]\n"));
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
}

#[test]
fn a_policy_that_comes_before_the_narrowing_is_found_is_the_one_that_counts() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["x"])).unwrap();
    let early = bus.start(ana, "t.slow", 0, None);
    bus.settle();
    let id = bus.peers[ana].id;
    bus.reload(policy(r#"["t:allow-slow"]"#));
    let grants = bus.broker.grants(id).unwrap();
    assert!(matches!(grants.authorize("t.slow"), Verdict::Deny(_)), "it waits with no rights at all");
    assert_eq!(bus.narrow(), 2, "asked again with the new policy");
    assert_eq!(bus.running.len(), 1);
    assert_eq!(bus.end(ana, early), None);
    assert!(bus.peers[ana].welcome.as_ref().unwrap().warnings.is_empty());
}

#[test]
fn names_that_keep_nothing_are_told_and_nothing_is_left() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["q", "nope"])).unwrap();
    let none = bus.begin(1000, &hello(&[])).unwrap();
    let long = "n".repeat(200);
    let many: Vec<String> = (0..10).map(|i| format!("{long}{i}")).collect();
    let many = bus.begin(1000, &hello(&many.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    bus.settle();
    bus.narrow();
    let warnings = |peer: usize| -> Vec<String> {
        let welcome = bus.peers[peer].welcome.as_ref().unwrap();
        welcome.warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(warnings(ana), ["narrow: \"nope\" keeps nothing: no capability of this name applies to you"]);
    assert_eq!(warnings(none), Vec::<String>::new());
    let told = warnings(many);
    assert_eq!(told.len(), 9, "{told:?}");
    assert!(told[0].contains(&format!("\"{}\"", "n".repeat(64))), "{told:?}");
    assert_eq!(told[8], "narrow: 2 more names keep nothing");
    for peer in [none, many] {
        let stream = bus.call(peer, "t.quick", 0);
        assert_eq!(bus.end(peer, stream), Some(&DENIED));
    }
}

#[test]
fn a_peer_that_goes_while_it_waits_leaves_nothing() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["q"])).unwrap();
    bus.start(ana, "t.quick", 100, None);
    bus.settle();
    bus.kill(ana);
    bus.narrow();
    assert!(bus.running.is_empty());
    assert_idle(&bus);
    assert_eq!(bus.broker.stats().peers, 0);
}

#[test]
fn a_daemon_that_stops_turns_away_who_waits() {
    let mut bus = bus();
    let ana = bus.begin(1000, &hello(&["q"])).unwrap();
    let early = bus.start(ana, "t.quick", 0, None);
    bus.settle();
    bus.broker.drain();
    bus.narrow();
    bus.settle();
    assert!(bus.running.is_empty() && bus.peers[ana].welcome.is_none());
    assert!(!matches!(bus.end(ana, early), Some(End::Reply(_))));
    assert_idle(&bus);
}
