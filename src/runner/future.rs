//! A handler's future that always ends in an answer.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::panicked;
use crate::broker::Timing;
use crate::ipc::{CallLanes, CancellationToken, InvokeResolver, OutcomeFuture, ReplySink, within};

/// Drives a handler's future and answers its call: with its outcome, or `internal` if it panics or is dropped.
pub(super) struct Guarded {
    future: Option<OutcomeFuture>,
    resolver: Option<InvokeResolver>,
    /// Where its reply is written.
    lanes: Option<CallLanes>,
}

impl Guarded {
    pub(super) fn new(future: OutcomeFuture, sink: ReplySink, lanes: Option<CallLanes>) -> Self {
        let resolver = InvokeResolver::new(sink, CancellationToken::default());
        Guarded { future: Some(future), resolver: Some(resolver), lanes }
    }

    /// A future may panic when it is dropped, too.
    fn drop_future(&mut self) {
        let future = self.future.take();
        drop(catch_unwind(AssertUnwindSafe(|| drop(future))));
    }
}

/// The same future, which says when it is polled first, to whoever wants to know.
pub(super) fn timed(future: OutcomeFuture, timing: Option<Arc<Timing>>) -> OutcomeFuture {
    let Some(timing) = timing else { return future };
    Box::pin(async move {
        timing.begin(Instant::now());
        future.await
    })
}

impl Future for Guarded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Guarded { future, lanes, .. } = &mut *self;
        let Some(future) = future else { return Poll::Ready(()) };
        let poll = || within(lanes.as_ref(), || future.as_mut().poll(context));
        let polled = catch_unwind(AssertUnwindSafe(poll));
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(_) => panicked(),
        };
        self.drop_future();
        if let Some(resolver) = self.resolver.take() {
            resolver.finish(outcome);
        }
        Poll::Ready(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.drop_future();
    }
}
