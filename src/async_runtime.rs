//! Tasks on the daemon's workers, by Tauri's names.
//!
//! Everything here uses the workers of the daemon that the calling thread belongs to: of the daemon whose command, setup
//! hook or task it runs, else of the daemon that was built first and still runs. A program that has none gets workers of
//! its own, which live as long as the program.
//!
//! ```
//! use invoked::async_runtime;
//!
//! let task = async_runtime::spawn(async { 6 * 7 });
//! assert_eq!(async_runtime::block_on(task)?, 42);
//! # Ok::<(), invoked::Error>(())
//! ```

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex as StdMutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Runtime};
pub use tokio::runtime::{Handle as TokioHandle, Runtime as TokioRuntime};
pub use tokio::sync::mpsc::{Receiver, Sender, channel};
pub use tokio::sync::{Mutex, RwLock};
pub use tokio::task::JoinHandle as TokioJoinHandle;

thread_local! {
    /// The workers of the daemon that this thread belongs to.
    static OWN: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// The workers of daemons that run, oldest first.
static RUNNING: StdMutex<Vec<Handle>> = StdMutex::new(Vec::new());

/// Workers of a daemon. While they live, they are found by the functions of this module.
#[derive(Debug)]
pub(crate) struct Workers {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Workers {
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let runtime = build(threads)?;
        running().push(runtime.handle().clone());
        Ok(Workers { runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it is there until it is dropped").handle()
    }

    /// Makes this thread belong to the daemon whose workers these are, until the answer is dropped.
    pub(crate) fn adopt_this_thread(handle: &Handle) -> Adopted {
        Adopted { before: OWN.replace(Some(handle.clone())) }
    }
}

/// A thread that belongs to a daemon's workers.
#[derive(Debug)]
#[must_use]
pub(crate) struct Adopted {
    before: Option<Handle>,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        OWN.set(self.before.take());
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let id = self.handle().id();
        running().retain(|handle| handle.id() != id);
        if let Some(runtime) = self.runtime.take() {
            // Handlers that ignore their cancel must not keep the process.
            runtime.shutdown_background();
        }
    }
}

fn running() -> std::sync::MutexGuard<'static, Vec<Handle>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn build(threads: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("invoked-worker")
        .on_thread_start(|| OWN.set(Handle::try_current().ok()))
        .enable_all()
        .build()
}

/// The workers that the functions of this module use on this thread.
///
/// # Panics
/// If there is no daemon and the machine refuses the program a thread.
#[must_use]
pub fn handle() -> RuntimeHandle {
    static DEFAULT: OnceLock<Runtime> = OnceLock::new();
    let own = OWN.with_borrow(Clone::clone);
    let found = own.or_else(|| running().first().cloned());
    let handle = found.unwrap_or_else(|| {
        DEFAULT.get_or_init(|| build(2).expect("a program that may start threads")).handle().clone()
    });
    RuntimeHandle { inner: handle }
}

/// A handle of workers.
#[derive(Debug, Clone)]
pub struct RuntimeHandle {
    inner: Handle,
}

impl RuntimeHandle {
    /// Tokio's handle.
    #[must_use]
    pub fn inner(&self) -> &Handle {
        &self.inner
    }

    /// Runs a future on the workers.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        JoinHandle { inner: self.inner.spawn(task) }
    }

    /// Runs a function that may block, on a thread for such.
    pub fn spawn_blocking<F, T>(&self, function: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        JoinHandle { inner: self.inner.spawn_blocking(function) }
    }

    /// Waits for a future; see [`block_on`].
    pub fn block_on<F: Future>(&self, task: F) -> F::Output {
        let on_a_worker = Handle::try_current().is_ok_and(|current| current.id() == self.inner.id());
        if on_a_worker {
            return tokio::task::block_in_place(|| self.inner.block_on(task));
        }
        self.inner.block_on(task)
    }
}

/// Runs a future on the workers.
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    handle().spawn(task)
}

/// Runs a function that may block, on a thread for such.
pub fn spawn_blocking<F, T>(function: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    handle().spawn_blocking(function)
}

/// Waits for a future on this thread. Its timers and tasks are the workers'.
///
/// # Panics
/// In an inline command, which must not wait: that would hold up the daemon.
pub fn block_on<F: Future>(task: F) -> F::Output {
    handle().block_on(task)
}

/// Waits for a task: its result, or [`Error::JoinError`](crate::Error::JoinError) if it panicked or was aborted.
///
/// Dropping it does not end the task.
pub struct JoinHandle<T> {
    inner: tokio::task::JoinHandle<T>,
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinHandle").field(&self.inner.id()).finish()
    }
}

impl<T> JoinHandle<T> {
    /// Ends the task at its next `await`.
    pub fn abort(&self) {
        self.inner.abort();
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.is_finished()
    }

    /// Tokio's handle of the task.
    #[must_use]
    pub fn inner(&self) -> &tokio::task::JoinHandle<T> {
        &self.inner
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = crate::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.inner).poll(context).map_err(crate::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::{Workers, block_on, spawn, spawn_blocking};

    fn thread_name() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn tasks_of_a_daemons_thread_run_on_its_workers() {
        let (one, other) = (Workers::start(1).unwrap(), Workers::start(1).unwrap());
        for workers in [&one, &other] {
            let expected = workers.handle().id();
            let handle = workers.handle().clone();
            let thread = std::thread::spawn(move || {
                let _adopted = Workers::adopt_this_thread(&handle);
                let on_worker = async { tokio::runtime::Handle::current().id() };
                let nested = async { spawn(async { tokio::runtime::Handle::current().id() }).await.unwrap() };
                (block_on(spawn(on_worker)).unwrap(), block_on(spawn(nested)).unwrap())
            });
            assert_eq!(thread.join().unwrap(), (expected, expected));
        }
    }

    #[test]
    fn a_task_on_a_worker_may_wait_for_another() {
        // Two workers: one waits in place, which starts a thread for its tasks.
        let workers = Workers::start(2).unwrap();
        let handle = super::RuntimeHandle { inner: workers.handle().clone() };
        let waits = handle.spawn(async { block_on(spawn(async { 7 })).unwrap() });
        assert_eq!(handle.block_on(waits).unwrap(), 7);
    }

    #[test]
    fn tasks_run_without_a_daemon_too() {
        assert_eq!(block_on(spawn_blocking(|| 1 + 1)).unwrap(), 2);
        assert!(block_on(spawn(async { thread_name() })).unwrap().starts_with("invoked-worker"));
    }

    #[test]
    fn a_task_that_is_aborted_says_so() {
        let task = spawn(std::future::pending::<()>());
        task.abort();
        let error = block_on(task).unwrap_err();
        assert!(matches!(error, crate::Error::JoinError(error) if error.is_cancelled()));
    }
}
