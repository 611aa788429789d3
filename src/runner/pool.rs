//! Threads for handlers that block, fed by a bounded queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::runtime::Handle;

use crate::async_runtime::Workers;

/// Something to run. It must answer its call, also when it panics.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool. Threads start as they are needed and end with the pool.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    /// Jobs that are queued or run.
    outstanding: Arc<AtomicUsize>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    max_threads: usize,
    /// What handlers spawn goes here.
    workers: Handle,
}

impl Pool {
    pub(super) fn new(max_threads: usize, queue: usize, workers: Handle) -> Self {
        let (jobs, waiting) = bounded(queue.max(1));
        Pool {
            jobs,
            queue: waiting,
            outstanding: Arc::default(),
            threads: Mutex::default(),
            max_threads: max_threads.max(1),
            workers,
        }
    }

    /// Queues `job`; gives it back if the queue is full. Never waits.
    pub(super) fn submit(&self, job: Job) -> Option<Job> {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        match self.jobs.try_send(job) {
            Ok(()) => {
                self.start_thread_if_all_are_busy();
                None
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.outstanding.fetch_sub(1, Ordering::AcqRel);
                Some(job)
            }
        }
    }

    fn start_thread_if_all_are_busy(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.outstanding.load(Ordering::Acquire).min(self.max_threads);
        if threads.len() >= wanted {
            return;
        }
        let (queue, outstanding) = (self.queue.clone(), Arc::clone(&self.outstanding));
        let name = format!("invoked-pool-{}", threads.len());
        let workers = self.workers.clone();
        let work = move || {
            let _adopted = Workers::adopt_this_thread(&workers);
            let _entered = workers.enter();
            work(&queue, &outstanding);
        };
        match thread::Builder::new().name(name).spawn(work) {
            Ok(thread) => threads.push(thread),
            // The threads there are will take it; with none at all it waits for the next submit.
            Err(error) => tracing::error!(%error, "can not start a pool thread"),
        }
    }
}

fn work(queue: &Receiver<Job>, outstanding: &AtomicUsize) {
    while let Ok(job) = queue.recv() {
        job();
        outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(max_threads: usize, queue: usize) -> (Pool, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        (Pool::new(max_threads, queue, runtime.handle().clone()), runtime)
    }

    #[test]
    fn a_job_never_waits_for_another_while_a_thread_could_be_started() {
        let (pool, _runtime) = pool(4, 16);
        for _ in 0..200 {
            let (done, ended) = bounded(4);
            let (release, held) = bounded::<()>(0);
            // Three jobs wait for the fourth: each needs a thread of its own.
            for _ in 0..3 {
                let (held, done) = (held.clone(), done.clone());
                let job: Job = Box::new(move || {
                    assert!(held.recv().is_err(), "released by its end");
                    done.send(()).expect("the test waits");
                });
                assert!(pool.submit(job).is_none());
            }
            let job: Job = Box::new(move || {
                drop(release);
                done.send(()).expect("the test waits");
            });
            assert!(pool.submit(job).is_none());
            for _ in 0..4 {
                ended.recv_timeout(Duration::from_secs(20)).expect("every job has a thread");
            }
        }
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let (pool, _runtime) = pool(1, 1);
        let (release, held) = bounded::<()>(0);
        let (begun, begins) = bounded(1);
        let job: Job = Box::new(move || {
            begun.send(()).expect("the test waits");
            assert!(held.recv().is_err(), "released by its end");
        });
        assert!(pool.submit(job).is_none());
        begins.recv().expect("the first job begins");
        assert!(pool.submit(Box::new(|| {})).is_none(), "one waits");
        assert!(pool.submit(Box::new(|| {})).is_some(), "one more does not");
        drop(release);
    }
}
