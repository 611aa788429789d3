//! A channel from its declaration to its end: what a call is built with, and what comes on it.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use serde::de::DeserializeOwned;

use crate::core::ChannelKey;
use crate::error::Error;
use crate::reply::Reply;

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

/// Between a call that is being built and whoever takes the items: where the channel is once the call is sent.
pub(crate) struct Slot<L> {
    state: Mutex<State<L>>,
    changed: Condvar,
}

enum State<L> {
    /// The call is not sent.
    Waiting(Option<Waker>),
    Bound(Arc<L>, ChannelKey),
    /// It never was and never will be, or nobody takes the items.
    Gone,
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

    /// The call was sent. False if nobody takes the items any more.
    pub(crate) fn bind(self, link: &Arc<L>, key: ChannelKey) -> bool {
        self.slot.settle(|| State::Bound(Arc::clone(link), key))
    }
}

impl<L> Drop for Declared<L> {
    fn drop(&mut self) {
        self.slot.settle(|| State::Gone);
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
            State::Gone => Poll::Ready(None),
        }
    }

    /// Waits until the call is sent; `None` if it never will be.
    pub(crate) fn wait_bound(&self) -> Option<(Arc<L>, ChannelKey)> {
        let waiting = |state: &mut State<L>| matches!(state, State::Waiting(_));
        let state = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Bound(link, key) => Some((Arc::clone(link), *key)),
            State::Waiting(_) | State::Gone => None,
        }
    }

    /// Nobody takes items any more; where the channel was, if it was.
    pub(crate) fn leave(&self) -> Option<(Arc<L>, ChannelKey)> {
        match std::mem::replace(&mut *self.lock(), State::Gone) {
            State::Bound(link, key) => Some((link, key)),
            State::Waiting(_) | State::Gone => None,
        }
    }

    fn settle(&self, to: impl FnOnce() -> State<L>) -> bool {
        let mut state = self.lock();
        let State::Waiting(waker) = &mut *state else { return false };
        let waker = waker.take();
        *state = to();
        drop(state);
        self.changed.notify_all();
        waker.into_iter().for_each(Waker::wake);
        true
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
            State::Gone => "gone",
        };
        f.write_str(state)
    }
}

impl<L> fmt::Debug for Declared<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declared").field("index", &self.index).finish_non_exhaustive()
    }
}
