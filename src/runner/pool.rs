//! Threads for handlers that block, fed by a bounded queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Something to run. It must answer its call, also when it panics.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A job that found no room.
pub(super) struct Refused(Job);

impl Refused {
    /// Drops the job on another thread's behalf: what it owns ends here.
    pub(super) fn discard(self) {
        drop(self.0);
    }
}

/// A bounded pool. Threads start as they are needed and end with the pool.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    idle: Arc<AtomicUsize>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    max_threads: usize,
}

impl Pool {
    pub(super) fn new(max_threads: usize, queue: usize) -> Self {
        let (jobs, waiting) = bounded(queue.max(1));
        Pool {
            jobs,
            queue: waiting,
            idle: Arc::default(),
            threads: Mutex::default(),
            max_threads: max_threads.max(1),
        }
    }

    /// Queues `job`; gives it back if the queue is full. Never waits.
    pub(super) fn submit(&self, job: Job) -> Option<Refused> {
        match self.jobs.try_send(job) {
            Ok(()) => {
                self.start_thread_if_none_is_idle();
                None
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(Refused(job)),
        }
    }

    fn start_thread_if_none_is_idle(&self) {
        if self.idle.load(Ordering::Acquire) >= self.queue.len() {
            return;
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.len() >= self.max_threads {
            return;
        }
        let (queue, idle) = (self.queue.clone(), Arc::clone(&self.idle));
        let name = format!("invoked-pool-{}", threads.len());
        match thread::Builder::new().name(name).spawn(move || work(&queue, &idle)) {
            Ok(thread) => threads.push(thread),
            // The threads there are will take it; with none at all it waits for the next submit.
            Err(error) => tracing::error!(%error, "can not start a pool thread"),
        }
    }
}

fn work(queue: &Receiver<Job>, idle: &AtomicUsize) {
    loop {
        idle.fetch_add(1, Ordering::AcqRel);
        let job = queue.recv();
        idle.fetch_sub(1, Ordering::AcqRel);
        let Ok(job) = job else { return };
        job();
    }
}
