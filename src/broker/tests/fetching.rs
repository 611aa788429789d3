//! Parts of calls that are read elsewhere, on the simulated bus: what is charged meanwhile, and what may end first.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use invoked_proto::metadata::Lease;
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_transport::PeerFile;

use super::bus::{Bus, End, policy};
use super::{assert_idle, done, fail};
use crate::ipc::{Fault, HeldFile, HeldLease, LeaseReturns, Outside, Source};

/// 1000 bytes of a file.
fn outside(returns: &Arc<LeaseReturns>) -> Outside {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1000).unwrap();
    let file = HeldFile::new(PeerFile::regular(OwnedFd::from(file).into()).unwrap(), None);
    let lease = HeldLease::new(Lease { segment: 1, generation: 1, offset: 0 }, returns);
    Outside::new(vec![Source { file, offset: 0, len: 1000, _lease: Some(lease) }])
}

/// A call of which something is being read.
fn fetching() -> (Bus, usize, u64, Arc<LeaseReturns>) {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let returns = Arc::default();
    bus.next_outside = Some(outside(&returns));
    let stream = bus.call(ana, "t.slow", 0);
    assert_eq!((bus.fetches.len(), bus.running.len()), (1, 0));
    assert_eq!(bus.broker.stats().message_bytes, 1000);
    (bus, ana, stream, returns)
}

fn fetched(bus: &mut Bus, fault: Option<Fault>) {
    let (call, outside) = bus.fetches.pop_front().unwrap();
    let result = fault.map_or_else(|| outside.read(), Err);
    bus.broker.handle_fetched(bus.now, call, result);
    bus.settle();
}

#[test]
fn a_call_runs_once_what_is_elsewhere_of_it_is_read() {
    let (mut bus, ana, stream, returns) = fetching();
    fetched(&mut bus, None);
    assert_eq!(returns.take().len(), 1);
    let run = bus.running.front().unwrap();
    assert_eq!(run.wire.message.body.bytes(), [0; 1000]);
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn what_can_not_be_read_ends_its_call_and_nothing_else() {
    let (mut bus, ana, stream, _) = fetching();
    fetched(&mut bus, Some(Fault::refusal(ErrorCode::AttachmentRefused, "shorter")));
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::AttachmentRefused, Delivery::NotDelivered)));
    assert!(bus.running.is_empty());
    let stream = bus.call(ana, "t.slow", 5);
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    assert_idle(&bus);
}

#[test]
fn a_call_that_ends_before_holds_its_memory_until_the_reading_ends() {
    type Act = fn(&mut Bus, usize, u64);
    let acts: [(Act, Option<ErrorCode>); 3] = [
        (|bus, ana, stream| bus.cancel(ana, stream), Some(ErrorCode::Cancelled)),
        (|bus, _, _| bus.advance(Duration::from_secs(60)), Some(ErrorCode::DeadlineExceeded)),
        (|bus, ana, _| bus.kill(ana), None),
    ];
    for (act, code) in acts {
        let (mut bus, ana, stream, _) = fetching();
        act(&mut bus, ana, stream);
        bus.settle();
        if let Some(code) = code {
            assert_eq!(bus.end(ana, stream), Some(&fail(code, Delivery::NotDelivered)));
        }
        let stats = bus.broker.stats();
        assert_eq!(
            (stats.message_bytes, stats.calls_in_flight),
            (1000, 1),
            "{code:?}: it is read into still"
        );
        fetched(&mut bus, None);
        assert!(bus.running.is_empty());
        let stats = bus.broker.stats();
        assert_eq!((stats.message_bytes, stats.calls_in_flight), (0, 0), "{code:?}");
        assert_idle(&bus);
    }
}

#[test]
fn a_call_whose_grant_is_gone_meanwhile_does_not_run() {
    let (mut bus, ana, stream, _) = fetching();
    bus.reload(policy(r#"["t:allow-quick"]"#));
    fetched(&mut bus, None);
    assert_eq!(bus.end(ana, stream), Some(&fail(ErrorCode::Revoked, Delivery::NotDelivered)));
    assert!(bus.running.is_empty());
    assert_idle(&bus);
}
