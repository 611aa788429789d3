//! Peers that rules match by what their process is, and whose process is another one then.

use std::sync::Arc;

use invoked_proto::metadata::Hello;
use invoked_proto::registry::{Delivery, ErrorCode};

use super::bus::{Bus, End, written};
use super::{assert_idle, done, fail};
use crate::authority::{PeerFacts, PolicySnapshot, ProcessFact};

const DENIED: End = End::Fail(ErrorCode::PermissionDenied, Delivery::NotDelivered);

/// Uid 1000 may call `quick`, and running `/gallery` it may call `slow` as well.
fn by_executable() -> Arc<PolicySnapshot> {
    written(
        "[[capabilities]]\nidentifier = \"q\"\npeers = [\"uid:1000\"]\npermissions = [\"t:allow-quick\"]\n\
         [[capabilities]]\nidentifier = \"s\"\npeers = [{ uid = 1000, exe = \"/gallery\" }]\n\
         permissions = [\"t:allow-slow\"]\nlimits = { calls_per_uid = 7 }\n",
    )
}

fn gallery() -> PeerFacts {
    PeerFacts::new(1000, 1000, []).with_executable(ProcessFact::Known("/gallery".into()))
}

fn bus() -> Bus {
    let mut bus = Bus::new();
    bus.reload(by_executable());
    bus
}

fn change(bus: &mut Bus, peer: usize) {
    let id = bus.peers[peer].id;
    bus.broker.handle_process_change(bus.now, id);
    bus.settle();
}

#[test]
fn what_the_process_was_for_is_gone_with_it_and_nothing_else_is() {
    let mut bus = bus();
    let gone = bus.admit(gallery(), &Hello::default()).unwrap();
    let other = bus.admit(gallery(), &Hello::default()).unwrap();
    bus.settle();
    let [slow, quick] = ["t.slow", "t.quick"].map(|command| bus.call(gone, command, 0));
    let of_other = bus.call(other, "t.slow", 0);
    change(&mut bus, gone);
    assert_eq!(bus.end(gone, slow), Some(&fail(ErrorCode::Revoked, Delivery::Delivered)));
    assert_eq!((bus.end(gone, quick), bus.end(other, of_other)), (None, None));
    let again = bus.call(gone, "t.slow", 0);
    assert_eq!(bus.end(gone, again), Some(&DENIED));
    let still = bus.call(gone, "t.quick", 0);
    assert_eq!(bus.end(gone, still), None);
    while !bus.running.is_empty() {
        bus.complete_oldest(done());
    }
    assert!(matches!(bus.end(gone, quick), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn no_reload_brings_it_back() {
    let mut bus = bus();
    let gone = bus.admit(gallery(), &Hello::default()).unwrap();
    bus.settle();
    change(&mut bus, gone);
    bus.reload(by_executable());
    let stream = bus.call(gone, "t.slow", 0);
    assert_eq!(bus.end(gone, stream), Some(&DENIED));
}

#[test]
fn its_limits_are_gone_as_well() {
    let mut bus = bus();
    let gone = bus.admit(gallery(), &Hello::default()).unwrap();
    let id = bus.peers[gone].id;
    assert!(bus.broker.limits(id).contains(&("calls_per_uid", 7)));
    change(&mut bus, gone);
    assert!(!bus.broker.limits(id).contains(&("calls_per_uid", 7)), "{:?}", bus.broker.limits(id));
}

#[test]
fn a_narrowed_peer_is_judged_by_what_its_process_is_when_it_is_welcomed() {
    let mut bus = bus();
    let hello = Hello { narrow: Some(vec!["s".into()]), ..Hello::default() };
    let gone = bus.admit(gallery(), &hello).unwrap();
    let early = bus.start(gone, "t.slow", 0, None);
    bus.settle();
    change(&mut bus, gone);
    assert_eq!(bus.narrow(), 2, "asked again for the process that it is now");
    assert_eq!(bus.end(gone, early), Some(&DENIED));
    assert!(bus.running.is_empty());
}

#[test]
fn a_peer_that_was_there_before_a_rule_looked_at_processes_is_not_matched() {
    let mut bus = Bus::new();
    // Nobody asked, so nothing was read.
    let ana = bus.connect(1000).unwrap();
    bus.reload(by_executable());
    let stream = bus.call(ana, "t.slow", 0);
    assert_eq!(bus.end(ana, stream), Some(&DENIED));
}
