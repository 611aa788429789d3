//! Between the loop and a handler: the items of one channel that the handler has not taken yet.
//!
//! The loop never waits: what waits here is bounded by the credit that the caller was given, and by one item, which may
//! be larger. What the handler takes is told to the loop through the [`Ready`] list, so that it gives the credit back.

use std::collections::VecDeque;

use invoked_proto::body::Message;
use invoked_proto::registry::ErrorCode;
use tokio::sync::Notify;

use super::pipe::{End, PipeId, Ready};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One channel between the loop and its handler.
#[derive(Debug)]
pub(crate) struct Inlet {
    id: PipeId,
    ready: Arc<Ready>,
    state: Mutex<State>,
    /// For threads that wait; [`Inlet::changed`] is for tasks.
    came: Condvar,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<(Message, Taken)>,
    taken: Taken,
    end: Option<End>,
    /// Nobody takes items any more.
    is_left: bool,
    /// It stands in the ready list.
    is_listed: bool,
}

/// What the handler took since the loop last looked, or what one item is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Credit to give back.
    pub(crate) credit: u64,
    /// Bytes that are no longer held.
    pub(crate) bytes: u64,
}

/// What is next on a channel.
#[derive(Debug)]
pub(super) enum Next {
    Item(Message),
    End(End),
    /// Nothing yet.
    Empty,
}

impl Inlet {
    pub(crate) fn new(id: PipeId, ready: Arc<Ready>) -> Arc<Self> {
        let (state, came, changed) = (Mutex::default(), Condvar::new(), Notify::new());
        Arc::new(Inlet { id, ready, state, came, changed })
    }

    // The loop's end.

    /// Brings an item; false, and without effect, once the channel has ended, or nobody takes items.
    pub(crate) fn push(&self, message: Message, cost: Taken) -> bool {
        let mut state = self.lock();
        let takes = state.end.is_none() && !state.is_left;
        if takes {
            state.items.push_back((message, cost));
            self.wake(state);
        }
        takes
    }

    /// Ends the channel after the items that came; only the first end counts.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.wake(state);
    }

    /// Ends the channel at once: what waits is dropped.
    pub(crate) fn cut(&self, code: ErrorCode, message: &str) {
        let mut state = self.lock();
        state.items.clear();
        state.end.get_or_insert(End::new(Some(code), message.to_owned()));
        self.wake(state);
    }

    /// What the handler took since the last time, and whether it takes no more.
    pub(crate) fn settle(&self) -> (Taken, bool) {
        let mut state = self.lock();
        state.is_listed = false;
        (std::mem::take(&mut state.taken), state.is_left)
    }

    /// Bytes of the items that the loop counts as held; `None` once it is left, and the loop gives all up.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Option<u64> {
        let state = self.lock();
        let waiting: u64 = state.items.iter().map(|(_, cost)| cost.bytes).sum();
        (!state.is_left).then_some(waiting + state.taken.bytes)
    }

    // The handler's end.

    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        if let Some((message, cost)) = state.items.pop_front() {
            state.taken.credit += cost.credit;
            state.taken.bytes += cost.bytes;
            self.list(state);
            return Next::Item(message);
        }
        match &state.end {
            Some(end) => Next::End(end.clone()),
            None => Next::Empty,
        }
    }

    pub(super) fn next_blocking(&self) -> Next {
        loop {
            match self.next() {
                Next::Empty => {}
                next => return next,
            }
            let state = self.lock();
            let is_empty = |state: &mut State| state.items.is_empty() && state.end.is_none();
            drop(self.came.wait_while(state, is_empty).unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) async fn next_async(&self) -> Next {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the state is read, so a change in between is not missed.
            changed.as_mut().enable();
            match self.next() {
                Next::Empty => changed.await,
                next => return next,
            }
        }
    }

    /// Nobody takes items any more: what waits is dropped, and the caller is asked to stop.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.is_left = true;
        state.items.clear();
        self.list(state);
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.changed.notify_waiters();
        self.came.notify_all();
    }

    fn list(&self, mut state: MutexGuard<'_, State>) {
        if !std::mem::replace(&mut state.is_listed, true) {
            drop(state);
            self.ready.add(self.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, and each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
