//! Calls that a provider's commands make, from whatever thread: they go to the daemon.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::connection::Request;
use invoked_proto::metadata::Extensions;
use invoked_proto::name::PluginName;
use invoked_proto::registry::{ErrorCode, tags};
use tokio::sync::oneshot;

use super::ProviderHandle;
use super::serve::Desk;
use crate::app::{Bus, BusCall};
use crate::authority::AddedCapability;
use crate::ipc::{Fault, Outcome};

/// Something that the provider's loop does for somebody else.
pub(super) type Ask = Box<dyn FnOnce(&Rc<Desk>) + Send>;

/// What handles of the application call through.
#[derive(Debug, Clone)]
pub(super) struct ProviderBus {
    handle: ProviderHandle,
    /// Under what name the application's own commands are provided.
    own: Option<Arc<str>>,
}

impl ProviderHandle {
    pub(super) fn for_own(&self, own: Option<&PluginName>) -> ProviderBus {
        ProviderBus { handle: self.clone(), own: own.map(|name| name.as_str().into()) }
    }
}

impl Bus for ProviderBus {
    fn call(&self, call: BusCall) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        Box::pin(run(self.clone(), call))
    }

    fn stop(&self) {
        self.handle.stop();
    }

    fn add_capability(&self, _: AddedCapability) -> crate::Result<()> {
        let text = "a provider can not add to the policy, which is its daemon's";
        Err(Fault::refusal(ErrorCode::Unimplemented, text).into())
    }
}

async fn run(bus: ProviderBus, call: BusCall) -> Outcome {
    let parent = call.parent;
    let request = request(call, bus.own.as_deref());
    let (answer, answered) = oneshot::channel();
    let waiter = Box::new(move |outcome| drop(answer.send(outcome)));
    let (began, beginning) = oneshot::channel();
    let guard = CancelOnDrop { handle: bus.handle.clone(), place: Arc::default() };
    let place = Arc::clone(&guard.place);
    let ask: Ask = Box::new(move |desk| {
        // Held meanwhile, so that the call either is seen by who cancels or does not begin.
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match *place {
            Place::Waiting => desk.call(request, parent, waiter).map(|called| *place = Place::Called(called)),
            Place::Called(_) | Place::Over => Ok(()),
        };
        // Whoever asked may have left.
        drop(began.send(result));
    });
    let gone = |_| Fault::refusal(ErrorCode::Unavailable, "the provider is stopping");
    bus.handle.asks.send(ask).await.map_err(|_| gone(()))?;
    beginning.await.map_err(|_| gone(()))??;
    let outcome = answered.await;
    guard.disarm();
    outcome.map_err(|_| Fault::midway(ErrorCode::Unavailable, "the provider has stopped"))?
}

/// What is sent. A name without a plugin is one of this application's own commands, as it is where they are hosted.
fn request(call: BusCall, own: Option<&str>) -> Request {
    let mut extensions = Extensions::none();
    if let Some(parent) = call.parent {
        extensions.insert(tags::PARENT, Bytes::copy_from_slice(&parent.to_le_bytes()));
    }
    let left = |at: Instant| {
        let left = at.saturating_duration_since(Instant::now()).as_micros();
        u64::try_from(left).unwrap_or(u64::MAX)
    };
    let command = match own {
        Some(own) if !call.command.as_str().contains('.') => {
            Text::from(format!("{own}.{}", call.command.as_str()))
        }
        _ => call.command,
    };
    Request {
        command,
        headers: call.headers,
        deadline_us: call.deadline.map(left),
        extensions,
        message: call.message,
        ..Request::default()
    }
}

/// A call that was sent: on which connection, on which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Called {
    pub(super) connection: u64,
    pub(super) stream: u64,
}

/// Where a call is.
#[derive(Debug, Default)]
enum Place {
    /// On its way to the loop.
    #[default]
    Waiting,
    Called(Called),
    /// Ended, or not wanted any more.
    Over,
}

/// Cancels a call that nobody waits for any more.
struct CancelOnDrop {
    handle: ProviderHandle,
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
        if let Place::Called(called) = self.take() {
            let asks = self.handle.asks.clone();
            drop(crate::async_runtime::spawn(async move {
                let ask: Ask = Box::new(move |desk| desk.cancel(called));
                drop(asks.send(ask).await);
            }));
        }
    }
}
