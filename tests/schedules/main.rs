//! Where threads meet, under a scheduler that chooses who goes on at every lock, wait and atomic: the very files of the
//! daemon, compiled once more with shuttle's primitives as `crate::sync`.
//!
//! A thread that nobody wakes ends a schedule as a deadlock, and so fails the test. tokio's `Notify`, in which no thread ever
//! waits, is as it is: one step.
#![allow(clippy::unwrap_used)] // a test may fail by panicking
#![allow(dead_code, unreachable_pub)] // not all of these files is for threads

mod sync;

#[path = "../../src/ipc"]
mod ipc {
    mod cancellation;
    mod fair_share;

    pub(crate) use fair_share::is_fair;

    mod channel {
        mod budget;
        mod inlet;
        mod pipe;

        #[path = "../../../tests/schedules/inlets.rs"]
        mod inlets;
        #[path = "../../../tests/schedules/pipes.rs"]
        mod pipes;
    }

    #[path = "../../tests/schedules/cancellations.rs"]
    mod cancellations;
}

#[path = "../../src/runner"]
mod runner {
    mod backlog;

    #[path = "../../tests/schedules/results.rs"]
    mod results;
}

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Schedules of each kind for each test.
const SCHEDULES: usize = 1500;

/// How many times a schedule of the second kind takes the turn from a thread that would go on.
const CHANGES: usize = 3;

/// Runs `test` under chance, and under priorities that change a few times (PCT), which finds what needs few preemptions at
/// the right places.
pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = std::sync::Arc::new(test);
    let once = std::sync::Arc::clone(&test);
    Runner::new(RandomScheduler::new(SCHEDULES), Config::new()).run(move || once());
    Runner::new(PctScheduler::new(CHANGES, SCHEDULES), Config::new()).run(move || test());
}
