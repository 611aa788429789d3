//! Limits that capabilities set, each at its value and one above.

use std::rc::Rc;
use std::sync::Arc;

use invoked_proto::registry::{Delivery, ErrorCode, LIMITS};
use invoked_transport::SegmentBudget;

use super::bus::{Bus, End, written};
use super::{assert_idle, done, fail};
use crate::authority::PolicySnapshot;

const EXHAUSTED: End = End::Fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered);

/// Uid 1000 may call everything, and holds as much as `limits` says; so does group 7, with `of_group`.
fn limited(limits: &str, of_group: &str) -> Arc<PolicySnapshot> {
    written(&format!(
        "[[capabilities]]\nidentifier = \"a\"\npeers = [\"uid:1000\"]\n\
         permissions = [\"t:allow-slow\", \"t:allow-quick\"]\nlimits = {{ {limits} }}\n\
         [[capabilities]]\nidentifier = \"b\"\npeers = [\"gid:7\"]\npermissions = []\nlimits = {{ {of_group} }}\n"
    ))
}

fn bus(limits: &str) -> Bus {
    let mut bus = Bus::new();
    bus.reload(limited(limits, ""));
    bus
}

/// Opens calls until one is refused; how many are open then.
fn opened(bus: &mut Bus, peer: usize, at_most: usize) -> usize {
    (0..=at_most)
        .find(|_| {
            let stream = bus.call(peer, "t.slow", 0);
            bus.end(peer, stream).inspect(|end| assert_eq!(*end, &EXHAUSTED)).is_some()
        })
        .unwrap_or(usize::MAX)
}

#[test]
fn calls_per_uid_hold_for_all_its_connections() {
    let mut bus = bus("calls_per_uid = 3");
    let (one, two) = (bus.connect(1000).unwrap(), bus.connect(1000).unwrap());
    assert_eq!(opened(&mut bus, one, 5), 3);
    assert_eq!(opened(&mut bus, two, 5), 0);
}

#[test]
fn connections_per_uid_hold_at_the_door() {
    let mut bus = bus("connections_per_uid = 2");
    for _ in 0..2 {
        bus.connect(1000).unwrap();
    }
    assert_eq!(bus.connect(1000), None);
    bus.kill(0);
    assert!(bus.connect(1000).is_some());
}

#[test]
fn bytes_of_messages_and_replies_per_uid() {
    let mut bus = bus("reassembly_bytes_per_uid = 1000, reply_bytes_per_uid = 100000");
    let ana = bus.connect(1000).unwrap();
    let held = bus.call(ana, "t.slow", 1000);
    let over = bus.call(ana, "t.slow", 1);
    assert_eq!((bus.end(ana, held), bus.end(ana, over)), (None, Some(&EXHAUSTED)));
    bus.unread = 1;
    bus.settle();
    bus.complete_oldest(Ok(crate::ipc::Response::new(vec![0; 100_000])));
    assert_eq!(bus.end(ana, held), Some(&fail(ErrorCode::ResourceExhausted, Delivery::Completed)));
    bus.unread = 0;
    bus.settle();
    let fits = bus.call(ana, "t.slow", 0);
    bus.complete_oldest(Ok(crate::ipc::Response::new(vec![0; 100_000])));
    assert!(matches!(bus.end(ana, fits), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn the_limits_of_one_connection_are_announced_and_held_after_a_reload() {
    let mut bus = bus("open_calls = 2, max_message = 500");
    let ana = bus.connect(1000).unwrap();
    let told = |name: &str| {
        let id = LIMITS.iter().find(|limit| limit.name == name).unwrap().id.unwrap();
        let limits = &bus.peers[ana].welcome.as_ref().unwrap().limits;
        limits.iter().find(|(known, _)| *known == id).map(|(_, value)| *value)
    };
    assert_eq!((told("open_calls"), told("max_message")), (Some(2), Some(500)));
    // A reload reaches a connection that is there; its client does not know.
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let first = bus.call(ana, "t.slow", 600);
    bus.reload(limited("open_calls = 2, max_message = 500", ""));
    let fits = bus.call(ana, "t.slow", 500);
    let many = bus.call(ana, "t.slow", 0);
    assert_eq!((bus.end(ana, first), bus.end(ana, fits)), (None, None), "what is open stays");
    assert_eq!(bus.end(ana, many), Some(&EXHAUSTED));
    bus.complete_oldest(done());
    let long = bus.call(ana, "t.slow", 501);
    assert_eq!(bus.end(ana, long), Some(&fail(ErrorCode::TooLarge, Delivery::NotDelivered)));
    bus.reload(limited("", ""));
    let again = bus.call(ana, "t.slow", 501);
    assert_eq!(bus.end(ana, again), None, "taken away, the daemon's own hold again");
}

#[test]
fn open_channels_are_announced_and_held_after_a_reload() {
    let announced = LIMITS.iter().find(|limit| limit.name == "open_channels").unwrap().id.unwrap();
    let mut bus = bus("open_channels = 3");
    let ana = bus.connect(1000).unwrap();
    let limits = &bus.peers[ana].welcome.as_ref().unwrap().limits;
    assert!(limits.contains(&(announced, 3)), "{limits:?}");
    // A reload reaches a connection that is there; its client does not know.
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let two = bus.call_with_channels(ana, "t.slow", &[1, 2], 100);
    bus.reload(limited("open_channels = 3", ""));
    let over = bus.call_with_channels(ana, "t.slow", &[1, 2], 100);
    assert_eq!((bus.end(ana, two), bus.end(ana, over)), (None, Some(&EXHAUSTED)));
    let third = bus.call_with_channels(ana, "t.slow", &[1], 100);
    let fourth = bus.call_with_channels(ana, "t.slow", &[1], 100);
    assert_eq!((bus.end(ana, third), bus.end(ana, fourth)), (None, Some(&EXHAUSTED)));
    let id = bus.peers[ana].id;
    assert!(bus.broker.limits(id).contains(&("open_channels", 3)));
    // What is open above a bound stays, and nothing comes on top.
    bus.reload(limited("open_channels = 1", ""));
    let more = bus.call_with_channels(ana, "t.slow", &[1], 100);
    assert_eq!((bus.end(ana, two), bus.end(ana, third)), (None, None));
    assert_eq!(bus.end(ana, more), Some(&EXHAUSTED));
    bus.reload(limited("", ""));
    let again = bus.call_with_channels(ana, "t.slow", &[1, 2, 3], 100);
    assert_eq!(bus.end(ana, again), None, "taken away, the daemon's own hold again");
}

#[test]
fn what_lanes_take_is_held_per_uid_too() {
    let limits = "segment_bytes_per_uid = 10, unconfirmed_fds_per_uid = 2, memory_file_bytes_per_uid = 5, \
                  received_fds_per_uid = 1";
    let mut bus = bus(limits);
    let ana = bus.connect(1000).unwrap();
    let id = bus.peers[ana].id;
    let account = Rc::clone(&bus.broker.peers[&id].account);
    let budgets: [(Arc<dyn SegmentBudget>, u64); 3] =
        [(account.segments(), 10), (account.fds(), 2), (account.memory_files(), 5)];
    for (budget, bound) in &budgets {
        assert!(!budget.charge(bound + 1), "n + 1");
        assert!(budget.charge(*bound), "n");
        budget.give_back(*bound);
    }
    let held = account.received_fds();
    held.add(1);
    assert!(!bus.broker.lanes_to_take(id).is_empty(), "n");
    held.add(1);
    assert!(bus.broker.lanes_to_take(id).is_empty(), "n + 1");
    held.give_back(2);
    bus.reload(limited("", ""));
    assert!(budgets.iter().all(|(budget, bound)| budget.charge(bound + 1)), "the daemon's own hold again");
    budgets.iter().for_each(|(budget, bound)| budget.give_back(bound + 1));
}

#[test]
fn each_limit_that_a_capability_may_set_is_told_as_it_is_in_force() {
    let names = crate::authority::limit_names().collect::<Vec<_>>();
    for name in &names {
        let mut bus = bus(&format!("{name} = 2"));
        let ana = bus.connect(1000).unwrap();
        let id = bus.peers[ana].id;
        let told = bus.broker.limits(id);
        let told: Vec<u64> = told.iter().filter(|(n, _)| n == name).map(|(_, value)| *value).collect();
        assert_eq!(told.last(), Some(&2), "{name}");
    }
    assert_eq!(names.len(), 11, "a test above holds each of them: {names:?}");
}

#[test]
fn a_uid_has_the_largest_that_is_said_of_any_of_its_peers_while_they_are_there() {
    let mut bus = Bus::new();
    bus.reload(limited("calls_per_uid = 2", "calls_per_uid = 4"));
    let ana = bus.connect(1000).unwrap();
    assert_eq!(opened(&mut bus, ana, 5), 2);
    let member = bus.connect_as(1000, &[7]).unwrap();
    assert_eq!(opened(&mut bus, ana, 5), 2, "two more for the uid, whoever uses them");
    bus.kill(member);
    assert_eq!(opened(&mut bus, ana, 5), 0);
    bus.complete_oldest(done());
    bus.complete_oldest(done());
    assert_eq!(opened(&mut bus, ana, 5), 0, "two are left, as many as it may have");
    bus.complete_oldest(done());
    assert_eq!(opened(&mut bus, ana, 5), 1);
}

#[test]
fn limits_that_a_reload_changes_are_in_force() {
    let mut bus = bus("calls_per_uid = 1");
    let ana = bus.connect(1000).unwrap();
    assert_eq!(opened(&mut bus, ana, 3), 1);
    bus.reload(limited("calls_per_uid = 3", ""));
    assert_eq!(opened(&mut bus, ana, 5), 2);
    let id = bus.peers[ana].id;
    assert!(bus.broker.limits(id).contains(&("calls_per_uid", 3)));
    // What is open above a bound stays, and nothing comes on top.
    bus.reload(limited("calls_per_uid = 1", ""));
    assert_eq!(bus.broker.stats().calls_in_flight, 3);
    assert_eq!(opened(&mut bus, ana, 5), 0);
    bus.reload(limited("", ""));
    assert!(bus.broker.limits(id).contains(&("calls_per_uid", 4096)), "{:?}", bus.broker.limits(id));
}
