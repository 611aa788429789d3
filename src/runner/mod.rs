//! Where hosted commands run: in place, on the pool, on the workers.
//!
//! A handler that panics answers `internal`. One that is dropped without an answer does too. Neither can take the loop
//! with it; a build with `panic = "abort"` could not promise that, so it is refused.

mod backlog;
mod future;
mod patience;
mod pool;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use foldhash::HashMap;
use invoked_proto::registry::ErrorCode;
use tokio::sync::mpsc;

use crate::app::AppHandle;
use crate::broker::{CallId, Place, Run, Timing};
use crate::commands::RegisteredCommand;
use crate::ipc::{
    CallError, CallLanes, CallbackFn, CancellationToken, Execution, Fault, Invoke, InvokeMessage,
    InvokeResolver, Outcome, OutcomeFuture, PeerId, Replied, ReplySink, WireCall, settled, within,
};
use backlog::{Backlog, BacklogPlace};
use future::{Guarded, timed};
use patience::Watch;
use pool::{Job, Pool};

#[cfg(panic = "abort")]
compile_error!("invoked answers a call whose handler panics, which needs panic = \"unwind\"");

/// Handlers that are running elsewhere, at most; each holds a place in the queue of completions, so that ending never
/// waits and never fails.
const RUNNING_MAX: usize = 16 * 1024;

/// Shows the reply of one call to whoever watches replies.
type Observe = Box<dyn FnOnce(&Outcome) + Send>;

/// The end of a handler.
#[derive(Debug)]
pub(crate) struct Completion {
    /// Its call.
    pub(crate) call: CallId,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Dropped once the broker has decided on the outcome.
    pub(crate) place: Option<BacklogPlace>,
}

/// How many threads run handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunnerSettings {
    /// Threads for blocking handlers, started when they are first needed.
    pub(crate) pool_threads: usize,
    /// Blocking calls that wait for a thread; one more is answered `resource_exhausted`.
    pub(crate) pool_queue: usize,
}

/// Runs handlers and collects how they end.
#[derive(Debug)]
pub(crate) struct Runner {
    app: AppHandle,
    pool: Pool,
    workers: tokio::runtime::Handle,
    completions: mpsc::Sender<Completion>,
    backlog: Arc<Backlog>,
    /// Calls that run elsewhere, and how to tell them that nobody waits.
    running: RefCell<HashMap<CallId, CancellationToken>>,
    /// The loop's time, read once for each inline handler, at its end: what is between two of them takes microseconds.
    clock: Cell<Instant>,
}

impl Runner {
    /// A runner, and where completions of handlers elsewhere arrive.
    pub(crate) fn new(
        settings: RunnerSettings,
        workers: tokio::runtime::Handle,
        app: AppHandle,
    ) -> (Self, mpsc::Receiver<Completion>) {
        let (completions, ended) = mpsc::channel(RUNNING_MAX);
        let pool = Pool::new(settings.pool_threads, settings.pool_queue, workers.clone());
        let runner = Runner {
            app,
            pool,
            workers,
            completions,
            backlog: Arc::default(),
            running: RefCell::default(),
            clock: Cell::new(Instant::now()),
        };
        (runner, ended)
    }

    /// Runs a call; the outcome, if it is there at once.
    pub(crate) fn run(&self, run: Run) -> Option<Outcome> {
        let Run { call, place, command, wire, timing } = run;
        if let (Place::Inline, Execution::Inline(handler)) = (place, command.execution()) {
            let observer = self.observer(&wire);
            let lanes = wire.lanes.clone();
            let message = InvokeMessage::new(wire, &self.app, None);
            note(timing.as_deref(), Timing::begin);
            let run = || settled(lanes.as_ref(), within(lanes.as_ref(), || handler(&message)));
            let outcome = self.watched(&command, run);
            note(timing.as_deref(), Timing::end);
            if let Some(observe) = observer {
                observe(&outcome);
            }
            return Some(outcome);
        }
        let observer = self.observer(&wire);
        let lanes = wire.lanes.clone();
        let token = CancellationToken::default();
        let message = InvokeMessage::new(wire, &self.app, Some(token.clone()));
        let Ok(permit) = self.completions.clone().try_reserve_owned() else {
            return Some(busy("too many handlers are running"));
        };
        // Only a thread of the pool may wait.
        let backlog = match command.execution() {
            Execution::Inline(_) | Execution::Blocking(_) => Some(Arc::clone(&self.backlog)),
            _ => None,
        };
        let written = lanes.clone();
        let sink = ReplySink::new(move |outcome| {
            let outcome = settled(written.as_ref(), outcome);
            if let Some(observe) = observer {
                observe(&outcome);
            }
            let place = backlog.and_then(|backlog| backlog.enter(bytes(&outcome)));
            permit.send(Completion { call, outcome, place });
        });
        self.running.borrow_mut().insert(call, token.clone());
        let refused = match (place, command.execution()) {
            (Place::InlineAsync, Execution::InlineAsync(handler)) => {
                note(timing.as_deref(), Timing::begin);
                self.poll_inline(&command, || handler(message), sink, lanes);
                None
            }
            (_, Execution::Async(handler) | Execution::InlineAsync(handler)) => {
                let future = catch_unwind(AssertUnwindSafe(|| handler(message)));
                match future {
                    Ok(future) => drop(self.workers.spawn(Guarded::new(timed(future, timing), sink, lanes))),
                    Err(_) => InvokeResolver::new(sink, token).finish(panicked()),
                }
                None
            }
            (_, Execution::Inline(handler) | Execution::Blocking(handler)) => {
                let handler = Arc::clone(handler);
                self.pool.submit(Box::new(move || {
                    let resolver = InvokeResolver::new(sink, token.clone());
                    if token.is_cancelled() {
                        // Its caller was answered while it waited for a thread; this only gives its slot back.
                        return resolver.finish(Err(cancelled().into()));
                    }
                    note(timing.as_deref(), Timing::begin);
                    resolver.finish(unwinding(|| within(lanes.as_ref(), || handler(&message))));
                }))
            }
            (_, Execution::Deferred(handler)) => {
                let handler = Arc::clone(handler);
                let job: Job = Box::new(move || {
                    let cancelled_before = token.is_cancelled();
                    let resolver = InvokeResolver::new(sink, token);
                    if cancelled_before {
                        return resolver.finish(Err(cancelled().into()));
                    }
                    note(timing.as_deref(), Timing::begin);
                    // A panic drops the resolver, which answers.
                    let run = || within(lanes.as_ref(), || handler(Invoke { message, resolver }));
                    drop(catch_unwind(AssertUnwindSafe(run)));
                });
                self.pool.submit(job)
            }
        };
        // Nothing of the call is left but its answer: a sink that is dropped sends nothing.
        drop(refused?);
        self.running.borrow_mut().remove(&call);
        Some(busy("the pool of blocking handlers is full"))
    }

    /// What shows the reply of a call to whoever watches replies; `None` if nobody does.
    fn observer(&self, wire: &WireCall) -> Option<Observe> {
        let responder = Arc::clone(self.app.shared().responder()?);
        let (app, command, peer) = (self.app.clone(), wire.command.detach(), Arc::clone(&wire.peer));
        let callback = CallbackFn(wire.stream);
        Some(Box::new(move |outcome| {
            let replied = Replied::new(&command, &peer, callback, outcome);
            if catch_unwind(AssertUnwindSafe(|| responder(&app, replied))).is_err() {
                tracing::error!(command = command.as_str(), "the observer of replies panicked");
            }
        }))
    }

    /// Tells a handler that nobody waits for it any more.
    pub(crate) fn cancel(&self, call: CallId) {
        if let Some(token) = self.running.borrow().get(&call) {
            token.cancel();
        }
    }

    /// A handler elsewhere ended.
    pub(crate) fn ended(&self, call: CallId) {
        self.running.borrow_mut().remove(&call);
    }

    /// Handlers may hold resources for a peer from now on.
    pub(crate) fn open_resources(&self, peer: PeerId) {
        self.app.shared().resources.open(peer);
    }

    /// The peer is gone: closes what handlers hold for it, where that may block.
    pub(crate) fn close_resources(&self, peer: PeerId) {
        if let Some(close) = self.app.shared().resources.forget(peer) {
            drop(self.workers.spawn_blocking(close));
        }
    }

    /// Drops what may take its time to be dropped, off the loop.
    pub(crate) fn drop_elsewhere(&self, value: impl Send + 'static) {
        drop(self.workers.spawn_blocking(move || drop(value)));
    }

    /// The loop's time, as of the last pump or inline handler.
    pub(crate) fn clock(&self) -> Instant {
        self.clock.get()
    }

    /// Takes the time from one who has just read the clock.
    pub(crate) fn note_clock(&self, now: Instant) {
        self.clock.set(self.clock.get().max(now));
    }

    /// Runs an inline handler and moves it off the loop for the future if it took long.
    fn watched(&self, command: &RegisteredCommand, run: impl FnOnce() -> Outcome) -> Outcome {
        let watch = Watch::begin(command);
        let outcome = unwinding(run);
        self.note_time(command, watch);
        outcome
    }

    /// An inline handler has ended.
    fn note_time(&self, command: &RegisteredCommand, watch: Watch) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.clock.replace(now));
        if watch.end(command, took) {
            tracing::warn!(
                command = command.name(),
                ?took,
                "inline command held the loop; it runs elsewhere from now on"
            );
        }
    }

    /// Handlers that run elsewhere now.
    pub(crate) fn running(&self) -> usize {
        self.running.borrow().len()
    }

    /// Polls once, inside the workers' context so that timers and tasks land there, then leaves the rest to them.
    fn poll_inline(
        &self,
        command: &RegisteredCommand,
        handler: impl FnOnce() -> OutcomeFuture,
        sink: ReplySink,
        lanes: Option<CallLanes>,
    ) {
        let _workers = self.workers.enter();
        let watch = Watch::begin(command);
        let future = match catch_unwind(AssertUnwindSafe(handler)) {
            Ok(future) => future,
            Err(_) => return InvokeResolver::new(sink, CancellationToken::default()).finish(panicked()),
        };
        let mut guarded = Guarded::new(future, sink, lanes);
        let ready = std::pin::Pin::new(&mut guarded).poll_once(&mut Context::from_waker(Waker::noop()));
        self.note_time(command, watch);
        if ready.is_pending() {
            drop(self.workers.spawn(guarded));
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.backlog.close();
    }
}

/// Bytes that an outcome brings to its caller.
fn bytes(outcome: &Outcome) -> usize {
    match outcome {
        Ok(response) => response.message.len(),
        Err(CallError::Application(error)) => error.body().bytes().len(),
        Err(CallError::Framework(_)) => 0,
    }
}

/// Says when a handler runs, to whoever wants to know.
fn note(timing: Option<&Timing>, what: fn(&Timing, Instant)) {
    if let Some(timing) = timing {
        what(timing, Instant::now());
    }
}

fn unwinding(run: impl FnOnce() -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panicked())
}

fn panicked() -> Outcome {
    Err(CallError::Framework(Fault::midway(ErrorCode::Internal, "the handler panicked")))
}

fn cancelled() -> Fault {
    Fault::refusal(ErrorCode::Cancelled, "cancelled before it ran")
}

fn busy(text: &str) -> Outcome {
    Err(CallError::Framework(Fault::refusal(ErrorCode::ResourceExhausted, text)))
}

/// Polls a future without an executor.
trait PollOnce {
    fn poll_once(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()>;
}

impl<F: Future<Output = ()>> PollOnce for F {
    fn poll_once(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.poll(context)
    }
}
