//! Threads for what a peer can hold up for as long as it likes: reading its files, closing its descriptors.
//!
//! Owns the fairness: of the threads, one uid has at most two at a time, so that what hangs holds up its own uid and no other.
//! Jobs wait in a queue of their uid; their number is bounded by what they are charged for, before they come here. Nobody waits
//! for a job that hangs when the daemon stops.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use invoked_transport::Closer;

use crate::broker::Held;

/// Threads in all.
const THREADS_MAX: usize = 32;

/// Threads that work for one uid at a time.
const OF_ONE_UID: usize = 2;

/// How long a thread without work stays.
const PATIENCE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs of uids, on threads that start as they are needed and end when they are not.
#[derive(Debug)]
pub(crate) struct Aside(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    uids: HashMap<u32, Queue>,
    /// Whose next job may begin; a uid stands here once for each.
    ready: VecDeque<u32>,
    threads: usize,
    idle: usize,
    is_over: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs that run, or that may begin.
    begun: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Aside {
    pub(crate) fn new() -> Self {
        Aside(Arc::default())
    }

    /// Runs `job` for `uid`. It never waits.
    pub(crate) fn submit(&self, uid: u32, job: impl FnOnce() + Send + 'static) {
        self.0.submit(uid, Box::new(job));
    }

    /// What closes the descriptors of a peer of `uid`, each of which is counted in `held` until it is closed.
    pub(crate) fn closer(&self, uid: u32, held: Held) -> Arc<dyn Closer> {
        Arc::new(PeerCloser { aside: Arc::clone(&self.0), uid, held })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
struct PeerCloser {
    aside: Arc<Shared>,
    uid: u32,
    held: Held,
}

impl Closer for PeerCloser {
    fn note_opened(&self) {
        self.held.add(1);
    }

    fn close(&self, fd: OwnedFd) {
        let held = self.held.clone();
        self.aside.submit(
            self.uid,
            Box::new(move || {
                drop(fd);
                held.give_back(1);
            }),
        );
    }
}

impl Shared {
    fn submit(self: &Arc<Self>, uid: u32, job: Job) {
        let mut state = self.lock();
        state.uids.entry(uid).or_default().jobs.push_back(job);
        state.offer(uid);
        let starts = state.idle < state.ready.len() && state.threads < THREADS_MAX;
        state.threads += usize::from(starts);
        drop(state);
        self.changed.notify_one();
        if starts {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("invoked-aside".to_owned());
            if let Err(error) = thread.spawn(move || shared.work()) {
                // The threads there are will take it; with none at all it waits for the next job.
                self.lock().threads -= 1;
                tracing::error!(%error, "can not start a thread for the files of peers");
            }
        }
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(uid) = state.ready.pop_front() else {
                if state.is_over {
                    break;
                }
                state.idle += 1;
                let (woken, waited) =
                    self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                state.idle -= 1;
                if waited.timed_out() && state.ready.is_empty() {
                    break;
                }
                continue;
            };
            let job = state.uids.get_mut(&uid).and_then(|queue| queue.jobs.pop_front());
            drop(state);
            if let Some(job) = job
                && catch_unwind(AssertUnwindSafe(job)).is_err()
            {
                tracing::error!("reading or closing a file of a peer's panicked");
            }
            state = self.lock();
            state.ended(uid);
        }
        state.threads -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets the next job of a uid begin, if it has one and a place for it.
    fn offer(&mut self, uid: u32) {
        let Some(queue) = self.uids.get_mut(&uid) else { return };
        // Those that may begin are still among the jobs.
        let offered = self.ready.iter().filter(|ready| **ready == uid).count();
        if queue.begun < OF_ONE_UID && queue.jobs.len() > offered {
            queue.begun += 1;
            self.ready.push_back(uid);
        }
    }

    fn ended(&mut self, uid: u32) {
        if let Some(queue) = self.uids.get_mut(&uid) {
            queue.begun -= 1;
            if queue.begun == 0 && queue.jobs.is_empty() {
                self.uids.remove(&uid);
            } else {
                self.offer(uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::{Aside, OF_ONE_UID, THREADS_MAX};

    const LONG: Duration = Duration::from_secs(60);

    /// Jobs of `uid` that hang until the sender is dropped.
    fn hang(aside: &Aside, uid: u32, jobs: usize) -> (Sender<()>, Receiver<usize>) {
        let (release, held) = channel::<()>();
        let (begun, begins) = channel();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        for job in 0..jobs {
            let (held, begun) = (std::sync::Arc::clone(&held), begun.clone());
            aside.submit(uid, move || {
                begun.send(job).expect("the test waits");
                // All hang: one has the lock, the others wait for it.
                assert!(held.lock().expect("whole").recv().is_err(), "released by its end");
            });
        }
        (release, begins)
    }

    #[test]
    fn what_hangs_holds_up_its_own_uid_and_no_other() {
        let aside = Aside::new();
        let (release, begins) = hang(&aside, 1, 10);
        let first: Vec<usize> = (0..OF_ONE_UID).map(|_| begins.recv_timeout(LONG).expect("begun")).collect();
        assert_eq!(first.len(), OF_ONE_UID);
        for uid in 2..200 {
            let (done, ended) = channel();
            aside.submit(uid, move || done.send(()).expect("the test waits"));
            ended.recv_timeout(LONG).expect("another uid goes on");
        }
        assert!(begins.try_recv().is_err(), "no third of the one that hangs");
        drop(release);
        let rest = std::iter::from_fn(|| begins.recv_timeout(LONG).ok()).count();
        assert_eq!(rest, 10 - OF_ONE_UID, "each runs once");
    }

    #[test]
    fn no_more_threads_than_allowed_are_started_and_each_job_runs() {
        let aside = Aside::new();
        let many = u32::try_from(THREADS_MAX).expect("few");
        let held: Vec<_> = (0..many).map(|uid| hang(&aside, uid, OF_ONE_UID)).collect();
        for (_, begins) in &held[..THREADS_MAX / OF_ONE_UID] {
            begins.recv_timeout(LONG).expect("begun");
        }
        assert!(aside.0.lock().threads <= THREADS_MAX);
        let (done, ended) = channel();
        aside.submit(1000, move || done.send(()).expect("the test waits"));
        assert!(ended.try_recv().is_err(), "all threads hang");
        drop(held);
        ended.recv_timeout(LONG).expect("it had to wait");
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let aside = Aside::new();
        for _ in 0..3 {
            aside.submit(1, || panic!("a job's"));
        }
        let (done, ended) = channel();
        aside.submit(1, move || done.send(()).expect("the test waits"));
        ended.recv_timeout(LONG).expect("it runs");
    }
}
