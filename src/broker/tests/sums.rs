//! Holds what is charged against what is there.

use super::bus::Bus;
use crate::broker::channels::Way;
use crate::broker::quota::{Charge, Resource};

/// What is charged in all is what is charged to the uids together, and what calls, channels and peers hold.
///
/// # Panics
/// If it is not.
pub(super) fn assert_charges_sum_to_use(bus: &Bus, uids: &[u32]) {
    let broker = &bus.broker;
    let ids = (0..broker.calls.slots()).filter_map(|slot| broker.calls.at(slot));
    let calls: Vec<_> = ids.filter_map(|id| broker.calls.find(id)).collect();
    let of_calls: u64 = calls.iter().filter_map(|call| call.memory.as_ref()).map(Charge::amount).sum();
    let of_items: u64 = broker
        .channels
        .open
        .values()
        .map(|open| match &open.way {
            Way::Up(upload) => {
                let charged = upload.memory.amount();
                let held = upload.held().unwrap_or(charged);
                assert_eq!(held, charged, "items that wait, or are on their way");
                charged
            }
            Way::Down(_) => 0,
        })
        .sum();
    let mut of_relays = 0;
    for relay in broker.relays.open.values() {
        assert_eq!(relay.held(), relay.memory.amount(), "items between a caller and a provider");
        of_relays += relay.memory.amount();
    }
    let of_answers: u64 = calls.iter().map(|call| call.answer_bytes()).sum();
    let unread: u64 = broker.peers.values().map(|peer| peer.unread.amount()).sum();
    let total = |resource| broker.ledger.total(resource);
    assert_eq!(total(Resource::Calls), calls.len() as u64, "a slot for each call");
    assert_eq!(
        total(Resource::MessageBytes),
        of_calls + of_items + of_relays + of_answers,
        "messages and items"
    );
    assert_eq!(total(Resource::ReplyBytes), unread, "replies");
    assert_eq!(total(Resource::Connections), broker.peers.len() as u64, "connections");

    // A handler has its message for as long as it runs, and that is charged for as long.
    for run in &bus.running {
        let call = broker.calls.find(run.call).expect("its slot is charged until it ends");
        let charged = call.memory.as_ref().map_or(0, Charge::amount);
        assert_eq!(charged, run.wire.message.len() as u64);
    }

    let mut uids = uids.to_vec();
    uids.sort_unstable();
    uids.dedup();
    let accounts: Vec<_> = uids.iter().filter_map(|uid| broker.ledger.find(*uid)).collect();
    for resource in [Resource::Calls, Resource::MessageBytes, Resource::ReplyBytes, Resource::Connections] {
        let sum: u64 = accounts.iter().map(|account| account.used(resource)).sum();
        assert_eq!(sum, total(resource), "{resource:?} of all uids");
    }
    let items: u64 = accounts.iter().map(|account| account.items().used()).sum();
    assert_eq!(items, broker.ledger.items(), "items of all uids that wait");
}
