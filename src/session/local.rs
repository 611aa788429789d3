//! Calls that come from no connection, at the hub: who waits for which answer.

use std::time::{Duration, Instant};

use invoked_proto::body::Message;
use invoked_proto::metadata::{Failure, HeaderField};
use invoked_proto::registry::ErrorCode;

use super::Hub;
use crate::authority::PeerFacts;
use crate::broker::LocalCall;
use crate::ipc::{CallError, Fault, InvokeError, Outcome, OwnedInvokeResponder, PeerId, Response};

/// Who waits for the answer of a call that came from no connection.
pub(crate) struct LocalWaiter(pub(crate) Box<OwnedInvokeResponder>);

impl std::fmt::Debug for LocalWaiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalWaiter")
    }
}

impl Hub {
    /// Somebody inside of the daemon will call with the rights of `facts`.
    pub(crate) fn admit_local(&self, facts: PeerFacts) -> Option<PeerId> {
        let id = self.broker.borrow_mut().handle_local_peer(facts)?;
        self.runner.open_resources(id);
        Some(id)
    }

    /// The peer that stands for the daemon itself.
    pub(crate) fn set_own_peer(&self, id: Option<PeerId>) {
        self.own_peer.set(id);
    }

    /// The peer that stands for the daemon itself; `None` before it serves.
    pub(crate) fn own_peer(&self) -> Option<PeerId> {
        self.own_peer.get()
    }

    /// Calls with the rights of `peer`; the answer goes to `waiter`, once. The stream is there to cancel it.
    pub(crate) fn call_local(&self, peer: PeerId, call: LocalCall, waiter: LocalWaiter) -> u64 {
        let now = Instant::now();
        let stream = self.broker.borrow_mut().handle_local_call(now, peer, call);
        self.waiters.borrow_mut().insert(stream, waiter);
        self.pump(now);
        stream
    }

    /// Nobody waits any more.
    pub(crate) fn cancel_local(&self, peer: PeerId, stream: u64) {
        let now = Instant::now();
        self.broker.borrow_mut().handle_cancel(now, peer, stream);
        self.pump(now);
    }

    pub(super) fn answer_local(&self, stream: u64, outcome: Outcome) {
        let waiter = self.waiters.borrow_mut().remove(&stream);
        if let Some(LocalWaiter(answer)) = waiter {
            answer(outcome);
        }
    }
}

/// The outcome that a reply stands for.
pub(super) fn replied(headers: Vec<HeaderField>, message: Message) -> Outcome {
    Ok(Response { headers, message, file: None })
}

/// The outcome that an error stands for.
pub(super) fn failed(code: ErrorCode, failure: &Failure, message: Message) -> Outcome {
    if code == ErrorCode::Application {
        return Err(CallError::from(InvokeError::of_message(message)));
    }
    let mut fault = Fault::new(code, failure.message.as_str());
    fault.delivery = failure.delivery;
    fault.decision = failure.decision.as_ref().map(|decision| decision.as_str().to_owned());
    fault.retry_after = failure.retry_after_ms.map(Duration::from_millis);
    Err(fault.into())
}
