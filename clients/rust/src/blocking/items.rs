//! Items of a channel for threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::Link;
use crate::channel::{Farewell, Item, Slot, Update};
use crate::error::Error;

/// What comes on a channel, in order, and its end: an iterator of results.
///
/// It ends with `None`. If the channel ended badly, the last item is the error: how the call failed, what the command
/// closed the channel with, `revoked`, `unavailable` if the connection was lost. A channel may live on after its call's
/// reply; the connection lives as long.
///
/// The thread that waits for an item reads the socket itself, as for an answer. Nothing is read while no thread waits for
/// anything on the connection: a command that sends much then waits, and a daemon whose bytes nobody takes for ten
/// seconds disconnects. Taking an item gives its credit back to the daemon. Dropping the iterator asks the command to
/// stop.
#[derive(Debug)]
#[must_use = "dropping it asks the command to stop sending"]
pub struct Items {
    index: u32,
    slot: Arc<Slot<Link>>,
    ended: bool,
}

impl Items {
    pub(super) fn new(index: u32, slot: Arc<Slot<Link>>) -> Self {
        Items { index, slot, ended: false }
    }

    /// Waits for the next item for as long as `timeout`.
    ///
    /// # Errors
    /// `deadline_exceeded` if none came; the channel is as it was.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Item, Error>> {
        self.take(Instant::now().checked_add(timeout))
    }

    /// How the channel stands in the arguments of its call, for a body that is written by hand.
    #[must_use]
    pub fn placeholder(&self) -> String {
        crate::request::placeholder(self.index)
    }

    pub(super) fn slot(&self) -> Arc<Slot<Link>> {
        Arc::clone(&self.slot)
    }

    fn take(&mut self, deadline: Option<Instant>) -> Option<Result<Item, Error>> {
        loop {
            match self.take_update(deadline)? {
                Ok(Update::Item(item)) => return Some(Ok(item)),
                // Not told of a channel that blocks.
                Ok(Update::Lagged(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn take_update(&mut self, deadline: Option<Instant>) -> Option<Result<Update, Error>> {
        if self.ended {
            return None;
        }
        let Some((link, key)) = self.slot.wait_bound() else {
            self.ended = true;
            return None;
        };
        let Some(taken) = link.wait_item(key, deadline) else { return Some(Err(Error::no_item())) };
        self.ended = matches!(taken, None | Some(Err(_)));
        taken.map(|next| next.map(Update::new))
    }
}

impl Iterator for Items {
    type Item = Result<Item, Error>;

    /// Waits for the next item; until its call is sent by another thread, for that.
    fn next(&mut self) -> Option<Self::Item> {
        self.take(None)
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        if let Some((link, key, farewell)) = self.slot.leave(Farewell::Stop) {
            link.say(key, farewell);
        }
    }
}

/// What comes on a channel that may leave items out, and its end: an iterator of results, as [`Items`].
///
/// Where items are missing it yields how many, in their place: items and these numbers are together what was sent. Of a
/// channel opened with [`Overflow::Latest`](crate::Overflow::Latest) the last item always comes, and of those that came
/// while none was taken only the last is kept.
#[derive(Debug)]
#[must_use = "dropping it asks the command to stop sending"]
pub struct Subscription(Items);

impl Subscription {
    pub(super) fn new(index: u32, slot: Arc<Slot<Link>>) -> Self {
        Subscription(Items::new(index, slot))
    }

    pub(super) fn slot(&self) -> Arc<Slot<Link>> {
        self.0.slot()
    }

    /// Waits for what comes next for as long as `timeout`.
    ///
    /// # Errors
    /// `deadline_exceeded` if nothing came; the channel is as it was.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Update, Error>> {
        self.0.take_update(Instant::now().checked_add(timeout))
    }

    /// As [`Items::placeholder`].
    #[must_use]
    pub fn placeholder(&self) -> String {
        self.0.placeholder()
    }
}

impl Iterator for Subscription {
    type Item = Result<Update, Error>;

    /// Waits for what comes next; until its call is sent by another thread, for that.
    fn next(&mut self) -> Option<Self::Item> {
        self.0.take_update(None)
    }
}
