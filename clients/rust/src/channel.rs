//! A channel from its declaration to its end: what a call is built with, and what comes on it.

use std::fmt;
use std::task::Waker;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::registry::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::{ChannelKey, Next};
use crate::error::Error;
use crate::reply::Reply;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// An item of a channel: a body and raw attachments. It owns its memory and keeps no connection alive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item(Reply);

impl Item {
    pub(crate) fn new(message: Message) -> Self {
        Item(Reply::new(Vec::new(), message))
    }

    /// The body. "None" and "empty" differ.
    #[must_use]
    pub fn body(&self) -> &Body {
        self.0.body()
    }

    /// The body's bytes, whatever they mean; none if there is no body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The body's bytes, taken without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }

    /// The raw attachments, in order.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        self.0.attachments()
    }

    /// Body and attachments, taken without a copy.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.0.into_message()
    }

    /// Reads the body as JSON. No body reads as `null`.
    ///
    /// # Errors
    /// An [`Error`] without a code if the body is raw, or does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.0.json()
    }
}

/// What comes on a channel that may leave items out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// An item.
    Item(Item),
    /// So many items are missing in this place, one at least: they were sent faster than they were taken.
    Lagged(u64),
}

impl Update {
    pub(crate) fn new(next: Next) -> Self {
        match next {
            Next::Item(message) => Update::Item(Item::new(message)),
            Next::Lagged(items) => Update::Lagged(items),
        }
    }

    /// The item, if it is one.
    #[must_use]
    pub fn into_item(self) -> Option<Item> {
        match self {
            Update::Item(item) => Some(item),
            Update::Lagged(_) => None,
        }
    }
}

/// A value as an item.
pub(crate) fn json_item(value: &(impl Serialize + ?Sized)) -> Result<Message, Error> {
    let json = serde_json::to_vec(value).map_err(|error| Error::unwritable("the item", error))?;
    Ok(Body::Json(json.into()).into())
}

/// Raw bytes as an item.
pub(crate) fn raw_item(bytes: impl Into<Bytes>) -> Message {
    Body::Raw(bytes.into()).into()
}

/// Between a call that is being built and whoever takes the items: where the channel is once the call is sent.
pub(crate) struct Slot<L> {
    state: Mutex<State<L>>,
    changed: Condvar,
}

enum State<L> {
    /// The call is not sent.
    Waiting(Option<Waker>),
    Bound(Arc<L>, ChannelKey),
    /// It never was and never will be, or whoever used it has left.
    Gone(Option<Farewell>),
}

/// What whoever used a channel has to say on leaving.
#[derive(Debug)]
pub(crate) enum Farewell {
    /// Nobody takes the items.
    Stop,
    /// No more are sent: all were, or why not.
    End(Option<ErrorCode>, String),
}

/// The call's end of a [`Slot`]; dropping it unsent lets go of who waits for items.
pub(crate) struct Declared<L> {
    pub(crate) index: u32,
    slot: Arc<Slot<L>>,
}

impl<L> Declared<L> {
    pub(crate) fn new(index: u32) -> (Self, Arc<Slot<L>>) {
        let slot = Arc::new(Slot { state: Mutex::new(State::Waiting(None)), changed: Condvar::new() });
        (Declared { index, slot: Arc::clone(&slot) }, slot)
    }

    /// The call was sent. Gives what is to be said if whoever uses the channel has left already.
    pub(crate) fn bind(self, link: &Arc<L>, key: ChannelKey) -> Option<Farewell> {
        self.slot.settle(|| State::Bound(Arc::clone(link), key))
    }
}

impl<L> Drop for Declared<L> {
    fn drop(&mut self) {
        drop(self.slot.settle(|| State::Gone(None)));
    }
}

impl<L> Slot<L> {
    /// Where the channel is; `None` if its call was never sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_bound(&self, context: &Context<'_>) -> Poll<Option<(Arc<L>, ChannelKey)>> {
        match &mut *self.lock() {
            State::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            State::Bound(link, key) => Poll::Ready(Some((Arc::clone(link), *key))),
            State::Gone(_) => Poll::Ready(None),
        }
    }

    /// Waits until the call is sent; `None` if it never will be.
    pub(crate) fn wait_bound(&self) -> Option<(Arc<L>, ChannelKey)> {
        let waiting = |state: &mut State<L>| matches!(state, State::Waiting(_));
        let state = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Bound(link, key) => Some((Arc::clone(link), *key)),
            State::Waiting(_) | State::Gone(_) => None,
        }
    }

    /// Whoever uses the channel leaves: where it is and what is to be said there, if it is anywhere yet. Only the first
    /// farewell counts.
    pub(crate) fn leave(&self, farewell: Farewell) -> Option<(Arc<L>, ChannelKey, Farewell)> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Gone(None)) {
            State::Bound(link, key) => Some((link, key, farewell)),
            State::Waiting(_) => {
                *state = State::Gone(Some(farewell));
                None
            }
            gone @ State::Gone(_) => {
                *state = gone;
                None
            }
        }
    }

    fn settle(&self, to: impl FnOnce() -> State<L>) -> Option<Farewell> {
        let mut state = self.lock();
        let waker = match &mut *state {
            State::Waiting(waker) => waker.take(),
            State::Bound(..) => return None,
            State::Gone(farewell) => return farewell.take(),
        };
        *state = to();
        drop(state);
        self.changed.notify_all();
        waker.into_iter().for_each(Waker::wake);
        None
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        // No code of a caller runs under the lock, and each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> fmt::Debug for Slot<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.lock() {
            State::Waiting(_) => "not sent",
            State::Bound(..) => "open",
            State::Gone(_) => "gone",
        };
        f.write_str(state)
    }
}

impl<L> fmt::Debug for Declared<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declared").field("index", &self.index).finish_non_exhaustive()
    }
}
