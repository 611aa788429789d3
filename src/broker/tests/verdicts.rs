//! What each way of ending tells the caller: the code, and whether the command may have run.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::Body;
use invoked_proto::connection::Role;
use invoked_proto::registry::{Delivery, ErrorCode};

use super::bus::{Bus, End, policy};
use super::{Bound, Bounds, assert_idle, done, fail};
use crate::ipc::{Fault, InvokeError, Outcome, Response};

/// How far the call has come when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It was not sent.
    Queued,
    /// Half of its message is there.
    Receiving,
    /// Its handler has it.
    Running,
}

type Act = fn(&mut Bus, u64);

const ANA: usize = 0;

fn complete(bus: &mut Bus, outcome: Outcome) {
    bus.complete_oldest(outcome);
}

/// Each way, at each stage at which it may come.
const WAYS: &[(&str, Stage, Act, ErrorCode, Delivery)] = {
    use Delivery::{Completed, Delivered, NotDelivered};
    use Stage::{Queued, Receiving, Running};
    let cancel: Act = |bus, stream| bus.cancel(ANA, stream);
    let late: Act = |bus, _| bus.advance(Duration::from_secs(31));
    let revoke: Act = |bus, _| drop(bus.reload(policy(r#"["t:allow-quick"]"#)));
    &[
        ("denied", Queued, revoke, ErrorCode::PermissionDenied, NotDelivered),
        ("cancelled", Receiving, cancel, ErrorCode::Cancelled, NotDelivered),
        ("cancelled", Running, cancel, ErrorCode::Cancelled, Delivered),
        ("late", Receiving, late, ErrorCode::DeadlineExceeded, NotDelivered),
        ("late", Running, late, ErrorCode::DeadlineExceeded, Delivered),
        ("revoked", Receiving, revoke, ErrorCode::Revoked, NotDelivered),
        ("revoked", Running, revoke, ErrorCode::Revoked, Delivered),
        ("the daemon stops", Queued, |bus, _| drain(bus), ErrorCode::Unavailable, NotDelivered),
        (
            "too many calls of the uid",
            Queued,
            |bus, _| (0..3).for_each(|_| assert!(bus.call(1, "t.slow", 0) > 0)),
            ErrorCode::ResourceExhausted,
            NotDelivered,
        ),
        (
            "too many bytes of the uid",
            Queued,
            |bus, _| assert!(bus.call(1, "t.slow", 900_000) > 0),
            ErrorCode::ResourceExhausted,
            NotDelivered,
        ),
        (
            "the command's own error",
            Running,
            |bus, _| complete(bus, Err(InvokeError::json(&1).into())),
            ErrorCode::Application,
            Completed,
        ),
        (
            "arguments that don't fit",
            Running,
            |bus, _| complete(bus, Err(Fault::refusal(ErrorCode::InvalidArgument, "").into())),
            ErrorCode::InvalidArgument,
            NotDelivered,
        ),
        (
            "a handler that panics, or drops its call",
            Running,
            |bus, _| complete(bus, Err(Fault::midway(ErrorCode::Internal, "").into())),
            ErrorCode::Internal,
            Delivered,
        ),
        (
            "a fault that the command gives",
            Running,
            |bus, _| complete(bus, Err(Fault::new(ErrorCode::NotFound, "").into())),
            ErrorCode::NotFound,
            Completed,
        ),
        (
            "an answer that there is no room for",
            Running,
            |bus, _| complete(bus, Ok(Response::new(vec![0; 300_000]))),
            ErrorCode::ResourceExhausted,
            Completed,
        ),
    ]
};

fn drain(bus: &mut Bus) {
    bus.broker.drain();
}

fn bus() -> Bus {
    let bounds = Bounds {
        calls: Bound { per_uid: 3, total: u64::MAX },
        message_bytes: Bound { per_uid: 1_000_000, total: 1 << 30 },
        reply_bytes: Bound { per_uid: 200_000, total: 1 << 30 },
        ..Bounds::default()
    };
    // Half of a message uses up the connection's credit.
    let mut bus = Bus::with_windows(bounds, 1 << 18, 100_000);
    assert_eq!((bus.connect(1000), bus.connect(1000)), (Some(ANA), Some(1)));
    bus
}

#[test]
fn each_way_of_ending_says_whether_the_command_may_have_run() {
    for (name, stage, act, code, delivery) in WAYS {
        let mut bus = bus();
        let stream = match stage {
            Stage::Queued => {
                // What the others do comes first.
                act(&mut bus, 0);
                bus.start(ANA, "t.slow", 200_000, None)
            }
            Stage::Receiving => {
                let stream = bus.start(ANA, "t.slow", 200_000, None);
                bus.carry_some(ANA, Role::Daemon, usize::MAX);
                assert!(bus.running.is_empty() && bus.broker.stats().calls_in_flight == 1);
                stream
            }
            Stage::Running => {
                let stream = bus.call(ANA, "t.slow", 200_000);
                assert_eq!(bus.running.len(), 1);
                stream
            }
        };
        if *stage != Stage::Queued {
            act(&mut bus, stream);
        }
        bus.settle();
        assert_eq!(bus.end(ANA, stream), Some(&fail(*code, *delivery)), "{name} while {stage:?}");
        while !bus.running.is_empty() {
            bus.complete_oldest(done());
        }
        bus.settle();
        assert_idle(&bus);
    }
}

#[test]
fn a_lost_connection_says_of_which_calls_a_byte_was_written() {
    let mut bus = bus();
    let sent = bus.call(ANA, "t.slow", 10);
    let half = bus.start(ANA, "t.slow", 200_000, None);
    bus.write(ANA, Role::Client);
    let queued = bus.start(ANA, "t.slow", 10, None);
    let lost = bus.peers[ANA].client.abandon();
    let verdicts =
        [(sent, Delivery::Delivered), (half, Delivery::Delivered), (queued, Delivery::NotDelivered)];
    assert_eq!(lost, verdicts);
    bus.kill(ANA);
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn an_end_that_comes_after_the_caller_s_is_dropped_and_counted() {
    let mut bus = bus();
    let streams: Vec<u64> = (0..3).map(|_| bus.call(ANA, "t.slow", 10)).collect();
    bus.cancel(ANA, streams[0]);
    bus.advance(Duration::from_secs(31));
    let told: Vec<End> = streams.iter().map(|stream| bus.end(ANA, *stream).unwrap().clone()).collect();
    let (replies, in_flight) = (bus.broker.stats().replies, bus.broker.stats().calls_in_flight);
    assert_eq!((replies, in_flight), (0, 3), "all work on");
    let refused = bus.call(1, "t.slow", 0);
    assert_eq!(bus.end(1, refused), Some(&fail(ErrorCode::ResourceExhausted, Delivery::NotDelivered)));
    bus.complete_oldest(Ok(Response::new(vec![0; 100_000])));
    bus.complete_oldest(Err(Fault::new(ErrorCode::Aborted, "").into()));
    bus.complete_oldest(done());
    let stats = bus.broker.stats();
    assert_eq!((stats.late_completions, stats.replies), (3, 0));
    assert_eq!(stats.bytes_out, 0, "nothing of them is sent");
    assert!(streams.iter().zip(told).all(|(stream, told)| bus.end(ANA, *stream) == Some(&told)));
    let next = bus.call(1, "t.slow", 0);
    bus.complete_oldest(done());
    assert_eq!(bus.end(1, next), Some(&End::Reply(Body::Raw(Bytes::from_static(b"done")))), "there is room");
    assert_idle(&bus);
}
