//! The means to answer a call.

use std::future::Future;
use std::marker::PhantomData;

use invoked_proto::registry::ErrorCode;

use super::cancellation::CancellationToken;
use super::error::{CallError, Fault, InvokeError};
use super::given::CallbackFn;
use super::handler::Returned;
use super::peer::Peer;
use super::response::{IpcResponse, Outcome};
use super::runtime::{Runtime, Wry};
use crate::app::AppHandle;

/// Answers one call, once. It is not cloneable and consumed by use; dropping it unused, also by a panic, answers
/// `internal`.
#[derive(Debug)]
pub struct InvokeResolver<R: Runtime = Wry> {
    sink: Option<ReplySink>,
    cancellation: CancellationToken,
    /// Where to put the means to answer instead of answering, when this is dropped unused.
    returned: Option<Returned>,
    runtime: PhantomData<R>,
}

/// Where an answer goes.
pub(crate) struct ReplySink(Box<OwnedInvokeResponder>);

impl std::fmt::Debug for ReplySink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplySink")
    }
}

impl ReplySink {
    pub(crate) fn new(send: impl FnOnce(Outcome) + Send + 'static) -> Self {
        ReplySink(Box::new(send))
    }
}

impl InvokeResolver {
    pub(crate) fn new(sink: ReplySink, cancellation: CancellationToken) -> Self {
        InvokeResolver { sink: Some(sink), cancellation, returned: None, runtime: PhantomData }
    }

    /// The same resolver, which comes back to `returned` if it is not used.
    pub(super) fn returning_to(mut self, returned: &Returned) -> Self {
        InvokeResolver {
            sink: self.sink.take(),
            cancellation: self.cancellation.clone(),
            returned: Some(returned.clone()),
            runtime: PhantomData,
        }
    }
}

impl<R: Runtime> InvokeResolver<R> {
    /// Answers with a value.
    pub fn resolve<T: IpcResponse>(self, value: T) {
        self.finish(value.into_response().map_err(CallError::Framework));
    }

    /// Answers with the application's own error.
    pub fn reject(self, error: impl Into<InvokeError>) {
        self.invoke_error(error.into());
    }

    /// Answers with an error.
    pub fn invoke_error(self, error: InvokeError) {
        self.finish(Err(error.into()));
    }

    /// Answers with a value or an error.
    pub fn respond<T: IpcResponse>(self, result: Result<T, InvokeError>) {
        match result {
            Ok(value) => self.resolve(value),
            Err(error) => self.invoke_error(error),
        }
    }

    /// Answers with what a future gives, on the workers. A future that panics answers `internal`.
    pub fn respond_async<T, F>(self, future: F)
    where
        T: IpcResponse,
        F: Future<Output = Result<T, InvokeError>> + Send + 'static,
    {
        drop(crate::async_runtime::spawn(async move { self.respond(future.await) }));
    }

    /// Answers.
    pub fn finish(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    /// True once nobody waits for the answer.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Waits until nobody waits for the answer. Cancel safe.
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    fn send(&mut self, outcome: Outcome) {
        if let Some(ReplySink(send)) = self.sink.take() {
            send(outcome);
        }
    }
}

impl<R: Runtime> Drop for InvokeResolver<R> {
    fn drop(&mut self) {
        let unused = match (self.sink.take(), &self.returned) {
            (Some(sink), Some(returned)) => returned.put(sink),
            (sink, _) => sink,
        };
        if let Some(ReplySink(send)) = unused {
            let fault = Fault::midway(ErrorCode::Internal, "the handler dropped the call without an answer");
            send(Err(CallError::Framework(fault)));
        }
    }
}

/// A reply of a command to its call, as an [`InvokeResponder`] sees it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Replied<'a> {
    /// The command's canonical name.
    pub command: &'a str,
    /// Who called.
    pub peer: &'a Peer,
    /// Which of the caller's calls.
    pub callback: CallbackFn,
    /// The reply.
    pub outcome: &'a Outcome,
}

impl<'a> Replied<'a> {
    pub(crate) fn new(command: &'a str, peer: &'a Peer, callback: CallbackFn, outcome: &'a Outcome) -> Self {
        Replied { command, peer, callback, outcome }
    }
}

/// Watches the replies of all hosted commands, for metrics and traces; see
/// [`Builder::invoke_responder`](crate::Builder::invoke_responder).
///
/// It runs where the command ran, before the reply goes out, and must not block: that of an inline command holds the
/// loop. It sees replies only; a call that ends without one (cancelled, past its deadline) it may see or not.
pub type InvokeResponder<R = Wry> = dyn Fn(&AppHandle<R>, Replied<'_>) + Send + Sync;

/// Writes the reply of one call, once. It must not block.
pub type OwnedInvokeResponder = dyn FnOnce(Outcome) + Send;
