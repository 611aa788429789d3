//! Dialogues on the simulated bus.

mod allowances;
mod bus;
mod channels;
mod client;
mod denials;
mod fetching;
mod hostile_providers;
mod local;
mod lossy;
mod narrowing;
mod nested;
mod processes;
mod providers;
mod providing;
mod races;
mod relays;
mod reloads;
mod routed_schedules;
mod schedules;
mod sums;
mod uploads;
mod verdicts;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::Body;
use invoked_proto::registry::{Delivery, ErrorCode};
use proptest::prelude::*;

use super::Bodies;
use super::quota::{Bound, Bounds};
use crate::ipc::{Fault, InvokeError, Response};
pub(super) use bus::policy;
use bus::{Bus, End};

fn fail(code: ErrorCode, delivery: Delivery) -> End {
    End::Fail(code, delivery)
}

fn done() -> crate::ipc::Outcome {
    Ok(Response::new(&b"done"[..]))
}

/// Nothing is charged and nothing waits.
fn assert_idle(bus: &Bus) {
    let stats = bus.broker.stats();
    let held = (stats.calls_in_flight, stats.message_bytes, stats.unread_bytes);
    assert_eq!(held, (0, 0, 0), "calls, message bytes, unread bytes");
    assert_eq!((stats.channels, stats.item_bytes), (0, 0), "channels, bytes of their items");
    assert_eq!(bus.broker.poll_timeout(), None, "a deadline is left behind");
}

#[test]
fn a_call_is_authorized_run_and_answered() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.slow", 10);
    assert_eq!(bus.end(ana, stream), None);
    assert_eq!(bus.running.len(), 1);
    bus.complete_oldest(done());
    assert_eq!(bus.end(ana, stream), Some(&End::Reply(Body::Raw(Bytes::from_static(b"done")))));
    assert_idle(&bus);
}

#[test]
fn a_denied_call_reaches_no_handler_and_is_explained_to_the_operator() {
    let mut bus = Bus::new();
    let eve = bus.connect(1001).unwrap();
    let denied = bus.call(eve, "t.slow", 0);
    let unknown = bus.call(eve, "t.nothing", 0);
    assert_eq!(bus.end(eve, denied), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
    assert_eq!(bus.end(eve, unknown), bus.end(eve, denied), "denied and unknown answer alike");
    assert!(bus.running.is_empty());
    assert_eq!(bus.denials.len(), 2);
    assert!(bus.denials[0].starts_with("denied: t.slow for uid=1001"), "{}", bus.denials[0]);
    assert_idle(&bus);
}

#[test]
fn a_flood_of_denials_is_answered_and_does_not_fill_the_log() {
    let mut bus = Bus::new();
    let eve = bus.connect(1001).unwrap();
    for made_up in 0..100 {
        let stream = bus.call(eve, &format!("t.made_up_{made_up}"), 0);
        assert!(bus.end(eve, stream).is_some());
        bus.call(eve, "t.slow", 0);
    }
    assert_eq!(bus.denials.len(), 10, "five of each kind: a real command, made-up ones");
    bus.advance(Duration::from_secs(10));
    bus.call(eve, "t.slow", 0);
    assert_eq!(bus.suppressed.last(), Some(&95));
    assert_eq!(bus.broker.stats().denied, 201);
}

#[test]
fn calls_are_observed_only_while_somebody_watches() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    bus.call(ana, "t.slow", 10);
    bus.complete_oldest(done());
    assert_eq!(bus.observed, Vec::<String>::new());
    bus.broker.watch(true);
    bus.call(ana, "t.slow", 10);
    bus.advance(Duration::from_millis(3));
    bus.complete_oldest(done());
    assert_eq!(bus.observed, ["t.slow 10 bytes", "None 4 bytes 3ms"]);
}

#[test]
fn calls_are_recorded_only_while_somebody_monitors_and_once_each() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    bus.call(ana, "t.slow", 10);
    assert!(bus.running[0].timing.is_none(), "nothing is carried for a monitor that is not there");
    bus.broker.monitor(1, None);
    bus.complete_oldest(done());
    assert!(bus.records.is_empty(), "it began before");

    bus.call(ana, "t.slow", 10);
    bus.advance(Duration::from_millis(3));
    bus.complete_oldest(done());
    let cancelled = bus.call(ana, "t.slow", 0);
    bus.cancel(ana, cancelled);
    bus.complete_oldest(done());
    bus.call(ana, "t.nothing", 5);
    let eve = bus.connect(1001).unwrap();
    bus.call(eve, "t.slow", 7);
    let told: Vec<_> = bus
        .records
        .iter()
        .map(|r| (r.peer.uid, r.command.as_str(), r.code, r.bytes_in, r.bytes_out, r.place.is_some()))
        .collect();
    let (gone, denied) = (Some(ErrorCode::Cancelled), Some(ErrorCode::PermissionDenied));
    assert_eq!(
        told[..2],
        [(1000, "t.slow", None, 10, 4, true), (1000, "t.slow", gone, 0, 0, true)],
        "the late end of the handler is none of the call"
    );
    assert_eq!((told[2].1, told[2].5), ("t.nothing", false));
    assert_eq!(told[3], (1001, "t.slow", denied, 7, 0, false));
    let spent = bus.records[0].receive + bus.records[0].queue + bus.records[0].handler;
    assert_eq!(spent, Duration::from_millis(3), "all of its time, and no more");

    bus.broker.monitor(0, None);
    bus.call(ana, "t.slow", 10);
    assert!(bus.running[0].timing.is_none());
    bus.complete_oldest(done());
    assert_eq!(bus.records.len(), 4);
    assert_idle(&bus);
}

#[test]
fn bodies_are_recorded_where_somebody_asks_and_pays_and_never_of_sensitive_calls() {
    let mut bus = Bus::new();
    let (ana, watcher) = (bus.connect(1000).unwrap(), bus.connect(1000).unwrap());
    let held = bus.broker.stats().message_bytes;
    bus.broker.monitor(1, None);
    bus.call(ana, "t.slow", 10);
    bus.complete_oldest(done());
    assert!(matches!(bus.records[0].bodies, Bodies::Unasked));

    bus.broker.monitor(1, Some(bus.peer_id(watcher)));
    bus.call(ana, "t.slow", 2000);
    assert_eq!(bus.broker.stats().message_bytes, held + 2000 + 2048, "the message, and what is shown");
    bus.complete_oldest(done());
    let Bodies::Kept(kept) = &bus.records[1].bodies else { panic!("{:?}", bus.records[1]) };
    let request = kept.request.as_ref().expect("it came");
    assert_eq!((request.body.bytes().len(), request.len), (64, 2000));
    assert_eq!(kept.reply.as_ref().map(|reply| reply.len), Some(4));

    bus.call_sensitive(ana, "t.slow", 10);
    bus.complete_oldest(done());
    assert!(matches!(bus.records[2].bodies, Bodies::Sensitive));
    bus.records.clear();
    assert_eq!(bus.broker.stats().message_bytes, held, "a record that is told costs nothing");

    bus.broker.monitor(0, None);
    assert_idle(&bus);
}

#[test]
fn a_denied_message_is_not_kept_while_the_rest_of_it_arrives() {
    let mut bus = Bus::new();
    let eve = bus.connect(1001).unwrap();
    let denied = bus.call(eve, "t.slow", 1 << 20);
    assert_eq!(bus.end(eve, denied), Some(&fail(ErrorCode::PermissionDenied, Delivery::NotDelivered)));
    assert_idle(&bus);
    let again = bus.call(eve, "t.quick", 0);
    assert!(bus.end(eve, again).is_some(), "the connection goes on");
}

#[test]
fn cancel_ends_the_callers_leg_at_once_and_the_callees_when_it_ends() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call(ana, "t.slow", 10);
    bus.cancel(ana, stream);
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Cancelled, Delivery::Delivered)));
    assert_eq!(bus.cancelled, [bus.running[0].call]);
    assert_eq!(bus.broker.stats().calls_in_flight, 1, "charged until the handler ends");
    bus.complete_oldest(done());
    assert_eq!(bus.broker.stats().late_completions, 1);
    assert_idle(&bus);
}

#[test]
fn a_deadline_ends_a_call_whose_handler_does_not() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let short = bus.start(ana, "t.slow", 0, Some(1_000_000));
    let default = bus.start(ana, "t.slow", 0, None);
    let none_left = bus.start(ana, "t.slow", 0, Some(0));
    bus.settle();
    assert_eq!(bus.end(ana, none_left), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::NotDelivered)));
    bus.advance(Duration::from_micros(999_999));
    assert_eq!(bus.end(ana, short), None);
    bus.advance(Duration::from_micros(1));
    assert_eq!(bus.end(ana, short), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::Delivered)));
    bus.advance(Duration::from_secs(29));
    assert_eq!(bus.end(ana, default), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::Delivered)));
    bus.complete_oldest(done());
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn the_loss_of_a_caller_gives_everything_back_once_its_handlers_end() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    for _ in 0..5 {
        bus.call(ana, "t.slow", 1000);
    }
    bus.kill(ana);
    assert_eq!(bus.cancelled.len(), 5);
    assert_eq!(bus.broker.stats().message_bytes, 5000, "held by the handlers");
    for _ in 0..5 {
        bus.complete_oldest(done());
    }
    assert_idle(&bus);
    assert_eq!(bus.broker.stats().peers, 0);
}

#[test]
fn a_caller_lost_in_the_middle_of_a_message_leaves_nothing() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    bus.start(ana, "t.slow", 1 << 20, None);
    bus.deliver_partially(ana, 200_000);
    assert_eq!(bus.broker.stats().message_bytes, 1 << 20, "the whole length is charged at once");
    bus.kill(ana);
    assert!(bus.cancelled.is_empty(), "no handler had it");
    assert_idle(&bus);
}

#[test]
fn a_second_completion_counts_for_nothing() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let first = bus.call(ana, "t.slow", 0);
    let id = bus.running[0].call;
    bus.complete_oldest(done());
    // The slot is used again; the old name must not reach it.
    let second = bus.call(ana, "t.slow", 0);
    bus.complete(id, done());
    assert!(bus.end(ana, first).is_some());
    assert_eq!(bus.end(ana, second), None);
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn errors_of_the_application_and_of_the_framework_do_not_mix() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let own = bus.call(ana, "t.slow", 0);
    bus.complete_oldest(Err(InvokeError::json(&"mine").into()));
    let framework = bus.call(ana, "t.slow", 0);
    bus.complete_oldest(Err(Fault::refusal(ErrorCode::InvalidArgument, "no").into()));
    assert_eq!(bus.end(ana, own), Some(&fail(ErrorCode::Application, Delivery::Completed)));
    assert_eq!(bus.end(ana, framework), Some(&fail(ErrorCode::InvalidArgument, Delivery::NotDelivered)));
}

#[test]
fn quotas_hold_at_n_and_refuse_at_n_plus_one() {
    let bounds = Bounds {
        connections: Bound { per_uid: 2, total: 6 },
        calls: Bound { per_uid: 2, total: u64::MAX },
        message_bytes: Bound { per_uid: 100, total: 300 },
        ..Bounds::default()
    };
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    let other = bus.connect(1000).unwrap();
    assert_eq!(bus.connect(1000), None, "a third connection of the uid");
    bus.connect(1001).unwrap();
    assert_eq!(bus.connect(1002), None, "3 are left, and 4 uids at once would each find one");
    let held = bus.call(ana, "t.slow", 100);
    let bytes = bus.call(other, "t.slow", 1);
    assert_eq!(bus.end(other, bytes), Some(&fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered)));
    let empty = bus.call(other, "t.slow", 0);
    assert_eq!(bus.end(other, empty), None, "the second call of the uid");
    let third = bus.call(other, "t.slow", 0);
    assert_eq!(bus.end(other, third), Some(&fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered)));
    bus.complete_oldest(done());
    bus.complete_oldest(done());
    assert!(bus.end(ana, held).is_some());
    assert_idle(&bus);
}

#[test]
fn uids_that_hold_much_leave_a_share_to_those_who_come_later() {
    const ALL: u64 = 1_200_000;
    let bounds = Bounds { message_bytes: Bound { per_uid: ALL, total: ALL }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    bus.reload(bus::written(
        "identifier = \"x\"\npeers = [\"uid:1000\", \"uid:1001\", \"uid:1002\"]\npermissions = [\"t:allow-slow\"]\n",
    ));
    let refused = fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered);
    // Alone it gets half; the second a third of what that leaves; the third a quarter of what is left then.
    for (uid, share) in [(1000, 600_000), (1001, 200_000), (1002, 100_000)] {
        let peer = bus.connect(uid).unwrap();
        let above = bus.call(peer, "t.slow", share + 1);
        assert_eq!(bus.end(peer, above), Some(&refused), "{uid}");
        let fits = bus.call(peer, "t.slow", share);
        assert_eq!(bus.end(peer, fits), None, "{uid}");
    }
    assert_eq!(bus.broker.stats().message_bytes, 900_000);
    let more = bus.call(0, "t.slow", 1);
    assert_eq!(bus.end(0, more), Some(&refused), "who has most gets nothing more");
    while !bus.running.is_empty() {
        bus.complete_oldest(done());
    }
    assert_idle(&bus);
}

#[test]
fn a_reply_beyond_what_may_wait_unread_is_an_error_instead() {
    let bounds = Bounds { reply_bytes: Bound { per_uid: 100_000, total: 1 << 30 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    let id = bus.peers[ana].id;
    let fits = bus.call(ana, "t.slow", 0);
    bus.complete_oldest(Ok(Response::new(vec![0; 100_000])));
    assert!(matches!(bus.end(ana, fits), Some(End::Reply(_))));
    bus.unread = 1;
    bus.settle();
    bus.broker.note_unread(id, 1);
    let over = bus.call(ana, "t.slow", 0);
    bus.complete_oldest(Ok(Response::new(vec![0; 100_000])));
    assert_eq!(bus.end(ana, over), Some(&fail(ErrorCode::ResourceExhausted, Delivery::Completed)));
    bus.unread = 0;
    bus.broker.note_unread(id, 0);
    assert_idle(&bus);
}

#[test]
fn a_peer_that_is_not_behind_gets_small_replies_whatever_others_of_its_uid_left_unread() {
    let bounds = Bounds { reply_bytes: Bound { per_uid: 100_000, total: u64::MAX }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    let (behind, calm) = (bus.connect(1000).unwrap(), bus.connect(1000).unwrap());
    let streams = [behind, calm].map(|peer| bus.start(peer, "t.slow", 0, None));
    bus.settle();
    let id = bus.peers[behind].id;
    bus.broker.note_unread(id, 300_000);
    assert!(bus.begin(1000, &Default::default()).is_some(), "a connection costs no bytes of replies");
    while let Some(run) = bus.running.pop_front() {
        bus.broker.handle_completion(bus.now, run.call, Ok(Response::new(vec![0; 1000])));
    }
    bus.settle();
    let refused = fail(ErrorCode::ResourceExhausted, Delivery::Completed);
    assert_eq!(bus.end(behind, streams[0]), Some(&refused));
    assert!(matches!(bus.end(calm, streams[1]), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn relief_is_due_once_after_much_was_held() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    bus.call(ana, "t.slow", 1000);
    bus.complete_oldest(done());
    assert!(!bus.broker.poll_relief(), "little was held");
    bus.call(ana, "t.slow", 20_000_000);
    assert!(!bus.broker.poll_relief(), "it is still held");
    bus.complete_oldest(done());
    assert!(bus.broker.poll_relief());
    assert!(!bus.broker.poll_relief(), "told once");
    assert_idle(&bus);
}

#[test]
fn opening_and_cancelling_gains_no_more_handlers_than_the_quota() {
    let bounds = Bounds { calls: Bound { per_uid: 50, total: u64::MAX }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    for round in 0..20_000_u32 {
        let stream = bus.call(ana, "t.slow", 8);
        bus.cancel(ana, stream);
        assert!(bus.running.len() <= 50, "{} handlers", bus.running.len());
        assert!(bus.end(ana, stream).is_some());
        if round % 7 == 0 && !bus.running.is_empty() {
            bus.complete_oldest(done());
        }
    }
    while !bus.running.is_empty() {
        bus.complete_oldest(done());
    }
    assert_idle(&bus);
}

#[test]
fn a_drained_daemon_ends_open_calls_and_takes_no_new_ones() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let open = bus.call(ana, "t.slow", 0);
    // On its way while GOAWAY is on the other.
    let late = bus.start(ana, "t.slow", 0, None);
    bus.broker.drain();
    bus.settle();
    assert_eq!(bus.running.len(), 1, "the late call reached no handler");
    assert_eq!(bus.end(ana, late), Some(&fail(ErrorCode::Unavailable, Delivery::NotDelivered)));
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, open), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn replies_of_one_instant_are_charged_one_after_the_other() {
    let bounds = Bounds { reply_bytes: Bound { per_uid: 250_000, total: 1 << 30 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    let streams: Vec<u64> = (0..10).map(|_| bus.call(ana, "t.slow", 0)).collect();
    // No flush comes in between.
    for _ in 0..10 {
        let run = bus.running.pop_front().unwrap();
        bus.broker.handle_completion(bus.now, run.call, Ok(Response::new(vec![0; 70_000])));
    }
    bus.settle();
    let replied =
        streams.iter().filter(|stream| matches!(bus.end(ana, **stream), Some(End::Reply(_)))).count();
    assert_eq!(replied, 3);
    assert_idle(&bus);
}

#[test]
fn a_draining_daemon_welcomes_nobody() {
    let mut bus = Bus::new();
    let ana = bus.begin(1000, &Default::default()).unwrap();
    bus.broker.drain();
    let early = bus.start(ana, "t.slow", 0, None);
    bus.settle();
    assert!(bus.running.is_empty());
    assert!(!matches!(bus.end(ana, early), Some(End::Reply(_))));
    assert_eq!(bus.connect(1000), None);
}

#[test]
fn no_deadline_is_longer_than_the_longest() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let none = bus.start(ana, "t.slow", 0, Some(u64::MAX));
    let nearly = bus.start(ana, "t.slow", 0, Some(u64::MAX - 1));
    bus.settle();
    bus.advance(Duration::from_secs(3599));
    assert_eq!((bus.end(ana, none), bus.end(ana, nearly)), (None, None));
    bus.advance(Duration::from_secs(1));
    for stream in [none, nearly] {
        assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::DeadlineExceeded, Delivery::Delivered)));
    }
}

/// One step of a random schedule.
#[derive(Debug, Clone)]
enum Step {
    Call { peer: usize, len: usize, deadline_ms: Option<u64> },
    Cancel { peer: usize, pick: usize },
    Complete { pick: usize, ok: bool },
    Advance { ms: u64 },
    Kill { peer: usize },
    Reload { slow: bool, sweep: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let call = (0..3_usize, 0..200_000_usize, proptest::option::of(0..50_u64))
        .prop_map(|(peer, len, deadline_ms)| Step::Call { peer, len, deadline_ms });
    let step = prop_oneof![
        6 => call,
        3 => (0..3_usize, any::<usize>()).prop_map(|(peer, pick)| Step::Cancel { peer, pick }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(pick, ok)| Step::Complete { pick, ok }),
        2 => (0..40_u64).prop_map(|ms| Step::Advance { ms }),
        1 => (0..3_usize).prop_map(|peer| Step::Kill { peer }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(slow, sweep)| Step::Reload { slow, sweep }),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens in whatever order, each call of a living caller ends exactly once, and everything charged is given
    /// back once the handlers have ended.
    #[test]
    fn every_call_ends_once_and_every_charge_comes_back(steps in steps()) {
        let bounds = Bounds {
            calls: Bound { per_uid: 8, total: u64::MAX },
            message_bytes: Bound { per_uid: 600_000, total: 900_000 },
            ..Bounds::default()
        };
        let mut bus = Bus::with_bounds(bounds);
        let mut alive = [true; 3];
        let mut is_allowed = true;
        for _ in 0..3 {
            bus.connect(1000).unwrap();
        }
        let mut started = Vec::new();
        for step in steps {
            match step {
                Step::Call { peer, len, deadline_ms } if alive[peer] => {
                    let running = bus.running.len();
                    let stream = bus.start(peer, "t.slow", len, deadline_ms.map(|ms| ms * 1000));
                    bus.settle();
                    prop_assert!(is_allowed || bus.running.len() == running, "a denied call reached a handler");
                    started.push((peer, stream));
                }
                Step::Cancel { peer, pick } if alive[peer] => {
                    let own: Vec<_> = started.iter().filter(|(of, _)| *of == peer).collect();
                    if !own.is_empty() {
                        let (_, stream) = *own[pick % own.len()];
                        bus.cancel(peer, stream);
                    }
                }
                Step::Complete { pick, ok } if !bus.running.is_empty() => {
                    let at = pick % bus.running.len();
                    let run = bus.running.remove(at).unwrap();
                    let outcome = if ok { done() } else { Err(InvokeError::json(&1).into()) };
                    let replies = bus.broker.stats().replies;
                    bus.complete(run.call, outcome);
                    prop_assert!(is_allowed || bus.broker.stats().replies == replies, "a revoked call was answered");
                }
                Step::Advance { ms } => bus.advance(Duration::from_millis(ms)),
                Step::Kill { peer } if alive[peer] => {
                    alive[peer] = false;
                    bus.kill(peer);
                }
                Step::Reload { slow, sweep } => {
                    let text = if slow { r#"["t:allow-slow"]"# } else { r#"["t:allow-quick"]"# };
                    is_allowed = slow;
                    if sweep {
                        bus.reload(policy(text));
                    } else {
                        bus.broker.handle_policy(policy(text), Vec::new());
                    }
                }
                _ => {}
            }
            prop_assert!(bus.broker.stats().calls_in_flight <= 8);
            prop_assert!(bus.broker.stats().message_bytes <= 600_000);
        }
        while let Some(run) = bus.running.pop_front() {
            bus.complete(run.call, done());
        }
        for (peer, stream) in started {
            prop_assert!(!alive[peer] || bus.end(peer, stream).is_some(), "call {stream} of {peer} never ended");
        }
        assert_idle(&bus);
    }
}
