//! Sending items on a channel, for tasks.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_sink::Sink;
use invoked_proto::body::Message;
use invoked_proto::registry::ErrorCode;
use serde::Serialize;

use super::link::Link;
use crate::channel::{Farewell, Slot, json_item, raw_item};
use crate::error::Error;

/// The sending end of a channel of a call, on which the command reads.
///
/// Items arrive in order. Sending waits while the command doesn't keep up. [`close`](Self::close) ends the channel well;
/// dropping it without that ends it with `cancelled`, so that a command never takes half for all. It may be used on after
/// the call's reply, if the command reads on.
///
/// It is a [`Sink`] of [`Message`]s too; closing the sink is `close`.
#[derive(Debug)]
#[must_use = "dropping it tells the command that the items are not complete"]
pub struct ItemSender {
    index: u32,
    slot: Arc<Slot<Link>>,
    /// What the sink has taken and not sent.
    pending: Option<Message>,
}

impl ItemSender {
    pub(super) fn new(index: u32, slot: Arc<Slot<Link>>) -> Self {
        ItemSender { index, slot, pending: None }
    }

    /// Sends a value as JSON. Cancel safe: an item whose future is dropped before it is ready is not sent.
    ///
    /// # Errors
    /// As [`send_message`](Self::send_message); without a code of the daemon's if the value can't be written.
    pub async fn send(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        let item = json_item(value)?;
        self.send_message(item).await
    }

    /// Sends raw bytes. They are not copied. Cancel safe, as [`send`](Self::send).
    ///
    /// # Errors
    /// As [`send_message`](Self::send_message).
    pub async fn send_raw(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.send_message(raw_item(bytes)).await
    }

    /// Sends a body with attachments. Cancel safe, as [`send`](Self::send).
    ///
    /// # Errors
    /// `cancelled` if the command takes no more, its call has failed or was not sent; `unavailable` if the connection is
    /// lost; `too_large`.
    pub async fn send_message(&mut self, message: Message) -> Result<(), Error> {
        let mut message = Some(message);
        poll_fn(|context| self.poll_send(&mut message, context)).await
    }

    /// Ends the channel: all items were sent.
    pub fn close(self) {
        self.end(None, "");
    }

    /// Ends the channel with an error that the command is told.
    pub fn fail(self, code: ErrorCode, message: &str) {
        self.end(Some(code), message);
    }

    /// How the channel stands in the arguments of its call, for a body that is written by hand.
    #[must_use]
    pub fn placeholder(&self) -> String {
        crate::request::placeholder(self.index)
    }

    fn end(&self, code: Option<ErrorCode>, message: &str) {
        if let Some((link, key, farewell)) = self.slot.leave(Farewell::End(code, message.to_owned())) {
            link.say(key, farewell);
        }
    }

    fn poll_send(&self, message: &mut Option<Message>, context: &Context<'_>) -> Poll<Result<(), Error>> {
        match ready!(self.slot.poll_bound(context)) {
            Some((link, key)) => link.poll_send(key, message, context),
            None => Poll::Ready(Err(Error::not_sent())),
        }
    }

    fn poll_pending(&mut self, context: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut pending = self.pending.take();
        if pending.is_none() {
            return Poll::Ready(Ok(()));
        }
        let polled = self.poll_send(&mut pending, context);
        self.pending = pending;
        polled
    }
}

impl Sink<Message> for ItemSender {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_pending(context)
    }

    fn start_send(mut self: Pin<&mut Self>, item: Message) -> Result<(), Error> {
        self.pending = Some(item);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_pending(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_pending(context))?;
        self.end(None, "");
        Poll::Ready(Ok(()))
    }
}

impl Drop for ItemSender {
    fn drop(&mut self) {
        self.end(Some(ErrorCode::Cancelled), "the caller dropped the channel");
    }
}
