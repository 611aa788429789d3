//! Handlers on threads and tasks send, the loop takes as far as credit reaches, receivers leave.

use invoked_proto::body::{Body, Message};
use invoked_proto::registry::{ErrorCode, Overflow};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::budget::{Budget, Common};
use super::pipe::{End, Pipe, PipeId, Ready};
use crate::explore;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Two of them don't fit into what may wait on one channel.
const LARGE: usize = 40_000;

/// What one channel's queue takes, and one item more.
const QUEUE: u64 = 65_536;

fn item(len: usize) -> Message {
    Body::Raw(vec![7; len].into()).into()
}

struct Loop {
    ready: Arc<Ready>,
    pipes: Vec<Arc<Pipe>>,
    common: Arc<Common>,
    budget: Arc<Budget>,
    /// By pipe: lengths of the items that came, what was left out, and its end.
    came: Vec<Vec<usize>>,
    lagged: u64,
    ends: Vec<Option<End>>,
}

impl Loop {
    /// Pipes of one uid, whose items may cost `per_uid` together.
    fn new(count: u64, overflow: Overflow, per_uid: u64) -> Self {
        let (ready, common) = (Arc::new(Ready::default()), Common::new(1 << 20));
        let budget = Budget::new(per_uid, &common);
        let pipes: Vec<_> = (0..count)
            .map(|id| Pipe::new(PipeId(id), Arc::clone(&ready), Arc::clone(&budget), overflow))
            .collect();
        let (came, ends) = (vec![Vec::new(); pipes.len()], vec![None; pipes.len()]);
        Loop { ready, pipes, common, budget, came, lagged: 0, ends }
    }

    /// Takes items until all pipes have ended; sometimes the credit is used up, and comes back later.
    fn run(mut self) -> Self {
        while self.ends.iter().any(Option::is_none) {
            block_on(self.ready.wait());
            for id in self.ready.take() {
                self.serve(usize::try_from(id.0).unwrap());
            }
        }
        self
    }

    fn serve(&mut self, at: usize) {
        let pipe = Arc::clone(&self.pipes[at]);
        let mut credit = thread_rng().gen_range(0..3);
        loop {
            let end = pipe.drain(|waiting| {
                if credit == 0 {
                    return Some(waiting);
                }
                credit -= 1;
                self.came[at].push(waiting.message.len());
                self.lagged += waiting.lagged;
                None
            });
            if let Some(end) = end {
                self.lagged += end.lagged;
                assert!(self.ends[at].replace(end).is_none(), "it ends once");
                return;
            }
            if credit > 0 {
                return;
            }
            // Others go on before credit comes.
            thread::yield_now();
            credit = 2;
        }
    }

    fn check(self) -> Vec<Vec<usize>> {
        assert_eq!(self.common.used(), 0, "what was charged is given back");
        self.came
    }
}

fn well() -> End {
    End::new(None, String::new())
}

#[test]
fn threads_and_tasks_that_wait_for_room_all_get_their_items_through_in_order() {
    explore(|| {
        let bus = Loop::new(1, Overflow::Block, 1 << 20);
        let pipe = Arc::clone(&bus.pipes[0]);
        let senders: Vec<_> = (0..2_usize)
            .map(|sender| {
                let pipe = Arc::clone(&pipe);
                thread::spawn(move || {
                    for at in 0..3 {
                        let message = item(LARGE + sender * 10 + at);
                        match sender {
                            0 => pipe.push_blocking(message).unwrap(),
                            _ => block_on(pipe.push_async(message)).unwrap(),
                        }
                    }
                })
            })
            .collect();
        let looping = thread::spawn(move || bus.run().check());
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        pipe.end(well());
        let came = looping.join().unwrap().remove(0);
        for sender in 0..2 {
            let of_one: Vec<usize> =
                came.iter().map(|len| len - LARGE).filter(|of| of / 10 == sender).collect();
            assert_eq!(of_one, [sender * 10, sender * 10 + 1, sender * 10 + 2]);
        }
    });
}

#[test]
fn channels_that_starve_for_the_uid_s_bytes_are_fed() {
    explore(|| {
        // An item of one channel leaves no room for one of the other.
        let bus = Loop::new(2, Overflow::Block, 50_000);
        let most = Arc::new(AtomicU64::new(0));
        let senders: Vec<_> = (0..2)
            .map(|at| {
                let (pipe, budget, most) =
                    (Arc::clone(&bus.pipes[at]), Arc::clone(&bus.budget), Arc::clone(&most));
                thread::spawn(move || {
                    for _ in 0..3 {
                        pipe.push_blocking(item(LARGE)).unwrap();
                        most.fetch_max(budget.used(), Ordering::SeqCst);
                    }
                    pipe.end(well());
                })
            })
            .collect();
        let came = thread::spawn(move || bus.run().check());
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(came.join().unwrap().iter().all(|of_one| *of_one == [LARGE; 3]));
        assert!(most.load(Ordering::SeqCst) <= LARGE as u64, "more waited than the uid may have");
    });
}

#[test]
fn uids_together_are_never_charged_more_than_the_common_bound() {
    explore(|| {
        let common = Common::new(100_000);
        let uids: Vec<_> = (0..3).map(|_| Budget::new(1 << 20, &common)).collect();
        let chargers: Vec<_> = uids
            .into_iter()
            .map(|budget| {
                let common = Arc::clone(&common);
                thread::spawn(move || {
                    let charged: Vec<u64> = [9000, 10_000, 11_000, 50_000]
                        .into_iter()
                        .filter(|amount| {
                            let fits = budget.charge(*amount);
                            assert!(common.used() <= 100_000);
                            fits
                        })
                        .collect();
                    assert_eq!(charged.first(), Some(&9000), "something is there for each in any order");
                    assert!(budget.exchange(charged[0], 1), "less than before fits always");
                    budget.give_back(1 + charged[1..].iter().sum::<u64>());
                })
            })
            .collect();
        chargers.into_iter().for_each(|charger| charger.join().unwrap());
        assert_eq!(common.used(), 0);
    });
}

#[test]
fn a_receiver_that_leaves_frees_whoever_waits() {
    explore(|| {
        let bus = Loop::new(1, Overflow::Block, 1 << 20);
        let (pipe, common) = (Arc::clone(&bus.pipes[0]), Arc::clone(&bus.common));
        let waits = |how: usize| {
            let pipe = Arc::clone(&pipe);
            thread::spawn(move || match how {
                0 => while pipe.push_blocking(item(LARGE)).is_ok() {},
                1 => while block_on(pipe.push_async(item(LARGE))).is_ok() {},
                _ => assert_eq!(block_on(pipe.closed()), ErrorCode::Cancelled),
            })
        };
        let waiting: Vec<_> = (0..3).map(waits).collect();
        pipe.close(ErrorCode::Cancelled);
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        // The last clone is dropped after that.
        pipe.end(well());
        assert_eq!((pipe.closed_by(), common.used()), (Some(ErrorCode::Cancelled), 0));
        assert!(pipe.drain(|_| panic!("nothing waits")).is_none(), "a closed channel has no end of its own");
    });
}

#[test]
fn news_never_wait_and_each_comes_or_is_counted() {
    for overflow in [Overflow::DropOldest, Overflow::Latest] {
        explore(move || {
            const COUNT: usize = 4;
            let bus = Loop::new(1, overflow, 1 << 20);
            let (pipe, common) = (Arc::clone(&bus.pipes[0]), Arc::clone(&bus.common));
            let sender = thread::spawn(move || {
                for at in 0..COUNT {
                    pipe.push(item(LARGE + at)).unwrap();
                    // What the loop has in its hands comes on top.
                    assert!(common.used() <= 2 * QUEUE + 2 * LARGE as u64);
                }
                pipe.end(well());
            });
            let bus = bus.run();
            sender.join().unwrap();
            let lagged = usize::try_from(bus.lagged).unwrap();
            let came = bus.check().remove(0);
            assert_eq!(came.len() + lagged, COUNT, "{came:?} came and {lagged} were left out");
            assert!(came.is_sorted(), "{came:?}");
            assert_eq!(came.last(), Some(&(LARGE + COUNT - 1)), "the last one comes");
        });
    }
}
