//! Sending items on a channel, for threads.

use std::sync::Arc;

use bytes::Bytes;
use invoked_proto::body::Message;
use invoked_proto::registry::ErrorCode;
use serde::Serialize;

use super::link::Link;
use crate::channel::{Farewell, Slot, json_item, raw_item};
use crate::error::Error;

/// The sending end of a channel of a call, on which the command reads.
///
/// Items arrive in order. Sending blocks while the command doesn't keep up. [`close`](Self::close) ends the channel well;
/// dropping it without that ends it with `cancelled`, so that a command never takes half for all. It may be used on after
/// the call's reply, if the command reads on.
#[derive(Debug)]
#[must_use = "dropping it tells the command that the items are not complete"]
pub struct ItemSender {
    index: u32,
    slot: Arc<Slot<Link>>,
}

impl ItemSender {
    pub(super) fn new(index: u32, slot: Arc<Slot<Link>>) -> Self {
        ItemSender { index, slot }
    }

    /// Sends a value as JSON. Until its call is sent by another thread it waits for that.
    ///
    /// # Errors
    /// As [`send_message`](Self::send_message); without a code of the daemon's if the value can't be written.
    pub fn send(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.send_message(json_item(value)?)
    }

    /// Sends raw bytes. They are not copied.
    ///
    /// # Errors
    /// As [`send_message`](Self::send_message).
    pub fn send_raw(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.send_message(raw_item(bytes))
    }

    /// Sends a body with attachments.
    ///
    /// # Errors
    /// `cancelled` if the command takes no more, its call has failed or was not sent; `unavailable` if the connection is
    /// lost; `too_large`.
    pub fn send_message(&mut self, message: Message) -> Result<(), Error> {
        let (link, key) = self.slot.wait_bound().ok_or_else(Error::not_sent)?;
        link.send_item(key, message)
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
}

impl Drop for ItemSender {
    fn drop(&mut self) {
        self.end(Some(ErrorCode::Cancelled), "the caller dropped the channel");
    }
}
