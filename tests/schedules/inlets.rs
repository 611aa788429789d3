//! The loop brings items, a handler reads them on a thread or in a task, and one of both leaves.

use invoked_proto::body::{Body, Message};
use invoked_proto::registry::ErrorCode;
use shuttle::future::block_on;
use shuttle::thread;

use super::inlet::{Inlet, Next, Taken};
use super::pipe::{End, PipeId, Ready};
use crate::explore;
use crate::sync::Arc;

const COUNT: u64 = 4;
const CREDIT: u64 = 256;

fn item(len: u64) -> Message {
    Body::Raw(vec![7; usize::try_from(len).unwrap()].into()).into()
}

fn cost(len: u64) -> Taken {
    Taken { credit: CREDIT, bytes: len }
}

/// What the loop is told while it waits for the handler, until `is_over`.
fn settle(ready: &Ready, inlet: &Inlet, mut is_over: impl FnMut(Taken, bool) -> bool) -> Taken {
    let mut all = Taken::default();
    loop {
        block_on(ready.wait());
        for id in ready.take() {
            assert_eq!(id, PipeId(1));
            let (taken, is_left) = inlet.settle();
            all = Taken { credit: all.credit + taken.credit, bytes: all.bytes + taken.bytes };
            if is_over(all, is_left) {
                return all;
            }
        }
    }
}

#[test]
fn what_a_handler_reads_comes_in_order_and_all_its_credit_goes_back() {
    for is_task in [false, true] {
        explore(move || {
            let ready = Arc::new(Ready::default());
            let inlet = Inlet::new(PipeId(1), Arc::clone(&ready));
            let reading = Arc::clone(&inlet);
            let handler = thread::spawn(move || {
                let mut came = Vec::new();
                loop {
                    let next = if is_task { block_on(reading.next_async()) } else { reading.next_blocking() };
                    match next {
                        Next::Item(message) => came.push(message.len() as u64),
                        Next::End(end) => {
                            assert_eq!(end.code, None);
                            return came;
                        }
                        Next::Empty => panic!("it waits until something is there"),
                    }
                }
            });
            for len in 1..=COUNT {
                inlet.push(item(len), cost(len));
            }
            inlet.end(End::new(None, String::new()));
            inlet.push(item(99), cost(99));
            let all = COUNT * (COUNT + 1) / 2;
            let taken = settle(&ready, &inlet, |taken, _| taken.bytes == all);
            assert_eq!(taken, Taken { credit: COUNT * CREDIT, bytes: all });
            assert_eq!(handler.join().unwrap(), (1..=COUNT).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_handler_that_leaves_is_noticed_and_one_that_waits_is_told_of_a_cut() {
    explore(|| {
        let ready = Arc::new(Ready::default());
        let inlet = Inlet::new(PipeId(1), Arc::clone(&ready));
        let reading = Arc::clone(&inlet);
        let handler = thread::spawn(move || {
            let first = reading.next_blocking();
            reading.leave();
            matches!(first, Next::Item(_))
        });
        inlet.push(item(1), cost(1));
        inlet.push(item(2), cost(2));
        let taken = settle(&ready, &inlet, |_, is_left| is_left);
        assert!(handler.join().unwrap());
        assert_eq!(taken, cost(1), "what it did not read gives no credit; the loop gives its charge up");
    });
    explore(|| {
        let inlet = Inlet::new(PipeId(1), Arc::new(Ready::default()));
        let reading = |is_task: bool| {
            let inlet = Arc::clone(&inlet);
            thread::spawn(move || {
                let next = if is_task { block_on(inlet.next_async()) } else { inlet.next_blocking() };
                assert!(matches!(next, Next::End(End { code: Some(ErrorCode::Revoked), .. })), "{next:?}");
            })
        };
        let handlers = [reading(false), reading(true)];
        inlet.cut(ErrorCode::Revoked, "");
        inlet.cut(ErrorCode::Cancelled, "");
        handlers.into_iter().for_each(|handler| handler.join().unwrap());
    });
}
