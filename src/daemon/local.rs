//! Calls of the daemon's own code, from whatever thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use invoked_proto::registry::ErrorCode;
use tokio::sync::oneshot;

use super::DaemonHandle;
use crate::app::{Bus, BusCall};
use crate::authority::AddedCapability;
use crate::broker::LocalCall;
use crate::ipc::{Fault, Outcome, PeerId};
use crate::session::LocalWaiter;

impl Bus for DaemonHandle {
    fn call(&self, call: BusCall) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        Box::pin(run(self.clone(), call))
    }

    fn stop(&self) {
        self.shutdown();
    }

    fn add_capability(&self, capability: AddedCapability) -> crate::Result<()> {
        Ok(self.authority().add_capability_blocking(capability).map(drop)?)
    }
}

async fn run(daemon: DaemonHandle, call: BusCall) -> Outcome {
    let BusCall { caller, command, headers, message, deadline, depth, behalf, parent: _ } = call;
    let call = LocalCall { command, headers, message, deadline, depth, behalf };
    let (answer, answered) = oneshot::channel();
    let waiter = LocalWaiter(Box::new(move |outcome| drop(answer.send(outcome))));
    let guard = CancelOnDrop { daemon: daemon.clone(), place: Arc::default() };
    let place = Arc::clone(&guard.place);
    let started = daemon.ask(move |hub| {
        let Some(peer) = caller.or_else(|| hub.own_peer()) else {
            return Err(Fault::refusal(
                ErrorCode::ResourceExhausted,
                "there is no room for the daemon's own calls",
            ));
        };
        // Held meanwhile, so that the call either is seen by who cancels or does not begin.
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Waiting = *place {
            *place = Place::Called(peer, hub.call_local(peer, call, waiter));
        }
        Ok(())
    });
    let gone = || Fault::refusal(ErrorCode::Unavailable, "the daemon is stopping");
    started.await.ok_or_else(gone)??;
    let outcome = answered.await;
    guard.disarm();
    outcome.map_err(|_| Fault::midway(ErrorCode::Unavailable, "the daemon has stopped"))?
}

/// Where a call is.
#[derive(Debug, Default)]
enum Place {
    /// On its way to the loop.
    #[default]
    Waiting,
    /// Called with the rights of this peer, on this stream.
    Called(PeerId, u64),
    /// Ended, or not wanted any more.
    Over,
}

/// Cancels a call that nobody waits for any more.
struct CancelOnDrop {
    daemon: DaemonHandle,
    place: Arc<Mutex<Place>>,
}

impl CancelOnDrop {
    fn take(&self) -> Place {
        std::mem::replace(&mut *self.place.lock().unwrap_or_else(PoisonError::into_inner), Place::Over)
    }

    fn disarm(self) {
        self.take();
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Place::Called(peer, stream) = self.take() {
            let daemon = self.daemon.clone();
            drop(crate::async_runtime::spawn(async move {
                daemon.ask(move |hub| hub.cancel_local(peer, stream)).await
            }));
        }
    }
}
