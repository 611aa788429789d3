//! Items of a channel for tasks.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::link::Link;
use crate::channel::{Farewell, Item, Slot, Update};
use crate::error::Error;

/// What comes on a channel, in order, and its end: a [`Stream`] of results.
///
/// It ends with `None`. If the channel ended badly, the last item is the error: how the call failed, what the command
/// closed the channel with, `revoked`, `unavailable` if the connection was lost. A channel may live on after its call's
/// reply; the connection lives as long.
///
/// Taking an item gives its credit back to the daemon, so a slow reader slows the command and nobody else. Dropping it
/// asks the command to stop.
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

    /// Waits for the next item; `None` once the channel has ended, or if its call was never sent. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Item, Error>> {
        poll_fn(|context| self.poll_item(context)).await
    }

    /// How the channel stands in the arguments of its call, for a body that is written by hand.
    #[must_use]
    pub fn placeholder(&self) -> String {
        crate::request::placeholder(self.index)
    }

    fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Item, Error>>> {
        loop {
            match ready!(self.poll_update(context)) {
                Some(Ok(Update::Item(item))) => return Poll::Ready(Some(Ok(item))),
                // Not told of a channel that blocks.
                Some(Ok(Update::Lagged(_))) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_update(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Update, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match self.slot.poll_bound(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some((link, key))) => link.poll_item(key, context),
        };
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled.map(|taken| taken.map(|next| next.map(Update::new)))
    }
}

impl Stream for Items {
    type Item = Result<Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(context)
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        if let Some((link, key, farewell)) = self.slot.leave(Farewell::Stop) {
            link.say(key, farewell);
        }
    }
}

/// What comes on a channel that may leave items out, and its end: a [`Stream`] of results, as [`Items`].
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

    /// Waits for what comes next; `None` once the channel has ended, or if its call was never sent. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Update, Error>> {
        poll_fn(|context| self.0.poll_update(context)).await
    }

    /// As [`Items::placeholder`].
    #[must_use]
    pub fn placeholder(&self) -> String {
        self.0.placeholder()
    }
}

impl Stream for Subscription {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_update(context)
    }
}
