//! The receiving end of a channel on which the caller sends.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::registry::ErrorCode;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::inlet::{Inlet, Next};
use super::{JavaScriptChannelId, claim, is_loop};
use crate::ipc::argument::{CommandArg, CommandItem};
use crate::ipc::body::InvokeBody;
use crate::ipc::error::{Fault, InvokeError};
use crate::ipc::runtime::Runtime;

/// The receiving end of a channel that the caller opened and sends on: a command takes it as an argument and reads items.
///
/// It is the twin of [`Channel`](super::Channel). Items come in order. `Vec<u8>` and `Bytes` are raw items,
/// [`InvokeBody`] and [`ChannelItem`] take any, everything else that is `Deserialize` is read from JSON. Reading an item
/// gives its credit back to the caller, so a slow command slows its caller and nobody else. The channel may be handed to
/// a task and read on after the command has returned; dropping it asks the caller to stop.
///
/// ```
/// use invoked::command;
/// use invoked::ipc::{ChannelReader, RecvError};
///
/// #[command]
/// fn sum(numbers: ChannelReader<u64>) -> Result<u64, RecvError> {
///     numbers.sum()
/// }
/// ```
pub struct ChannelReader<T = InvokeBody> {
    index: u32,
    inlet: ReceivingEnd,
    ended: bool,
    item: PhantomData<fn() -> T>,
}

/// The handler's end of an inlet; its drop asks the caller to stop.
#[derive(Debug)]
pub(crate) struct ReceivingEnd(Arc<Inlet>);

impl ReceivingEnd {
    pub(crate) fn new(inlet: Arc<Inlet>) -> Self {
        ReceivingEnd(inlet)
    }
}

impl Drop for ReceivingEnd {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// An item with all that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelItem {
    /// The body; "none" and "empty" differ.
    pub body: Body,
    /// The raw attachments, in order.
    pub attachments: Vec<Bytes>,
}

/// Why there is no item.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// None has come yet, and this place must not wait for it.
    #[error("no item has come yet")]
    Empty,
    /// The channel has ended badly: the caller said so, is gone, or its call failed.
    #[error("the channel has ended: {code}{}", said(.message))]
    Closed {
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        message: String,
    },
    /// The item is not what the command expects. The channel goes on.
    #[error("an item of the channel is not what is expected: {0}")]
    Item(String),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl From<RecvError> for Fault {
    fn from(error: RecvError) -> Self {
        let text = error.to_string();
        match error {
            RecvError::Empty => Fault::midway(ErrorCode::ResourceExhausted, text),
            RecvError::Closed { code, .. } => Fault::midway(code, text),
            RecvError::Item(_) => Fault::midway(ErrorCode::InvalidArgument, text),
        }
    }
}

impl From<RecvError> for InvokeError {
    fn from(error: RecvError) -> Self {
        Fault::from(error).into()
    }
}

/// What may come on a channel.
pub trait FromItem: Sized {
    /// Reads an item.
    ///
    /// # Errors
    /// What is wrong with it.
    fn from_item(item: ChannelItem) -> Result<Self, String>;
}

impl FromItem for ChannelItem {
    fn from_item(item: ChannelItem) -> Result<Self, String> {
        Ok(item)
    }
}

impl FromItem for InvokeBody {
    fn from_item(item: ChannelItem) -> Result<Self, String> {
        Ok(item.body.into())
    }
}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + 'static> FromItem for T {
    fn from_item(item: ChannelItem) -> Result<Self, String> {
        let mut value: Option<T> = None;
        let any: &mut dyn Any = &mut value;
        // These types are Deserialize too, from arrays of numbers; the compiler resolves the tests.
        let raw = if any.is::<Option<Vec<u8>>>() || any.is::<Option<Bytes>>() {
            Some(raw(item.body.clone())?)
        } else {
            None
        };
        if let Some(bytes) = raw {
            if let Some(slot) = any.downcast_mut::<Option<Vec<u8>>>() {
                *slot = Some(bytes.into());
            } else if let Some(slot) = any.downcast_mut::<Option<Bytes>>() {
                *slot = Some(bytes);
            }
            return value.ok_or_else(|| "not bytes".to_owned());
        }
        match item.body {
            Body::Json(json) => serde_json::from_slice(&json).map_err(|error| error.to_string()),
            Body::None => serde_json::from_str("null").map_err(|error| error.to_string()),
            Body::Raw(bytes) => Err(format!("{} raw bytes, not JSON", bytes.len())),
        }
    }
}

fn raw(body: Body) -> Result<Bytes, String> {
    match body {
        Body::Raw(bytes) => Ok(bytes),
        Body::None => Ok(Bytes::new()),
        Body::Json(_) => Err("JSON, not raw bytes".to_owned()),
    }
}

impl<T> ChannelReader<T> {
    pub(super) fn new(index: u32, inlet: ReceivingEnd) -> Self {
        ChannelReader { index, inlet, ended: false, item: PhantomData }
    }

    /// The index that the caller gave the channel; it is unique in its call only.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.index
    }
}

impl<T: FromItem> ChannelReader<T> {
    /// Waits for the next item; `None` once the channel has ended well. It blocks the thread as
    /// [`Channel::send`](super::Channel::send) does; an inline command must not wait and gets [`RecvError::Empty`].
    ///
    /// # Errors
    /// [`RecvError::Closed`], once; [`RecvError::Item`], after which the next item may be read.
    ///
    /// # Panics
    /// Where `block_in_place` does: in a `LocalSet` of a runtime with several threads.
    pub fn recv(&mut self) -> Option<Result<T, RecvError>> {
        if is_loop() {
            return self.try_recv();
        }
        let next = || self.inlet.0.next_blocking();
        let next = match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            // Not for an item that is there.
            Ok(RuntimeFlavor::MultiThread) => match self.inlet.0.next() {
                Next::Empty => tokio::task::block_in_place(next),
                next => next,
            },
            _ => next(),
        };
        self.read(next)
    }

    /// Waits for the next item; `None` once the channel has ended well. Cancel safe: no item is lost.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), never `Empty`.
    pub async fn recv_async(&mut self) -> Option<Result<T, RecvError>> {
        let next = self.inlet.0.next_async().await;
        self.read(next)
    }

    /// The next item if it is there.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Empty`].
    pub fn try_recv(&mut self) -> Option<Result<T, RecvError>> {
        let next = self.inlet.0.next();
        self.read(next)
    }

    fn read(&mut self, next: Next) -> Option<Result<T, RecvError>> {
        let message = match next {
            Next::Item(message) => message,
            Next::Empty => return Some(Err(RecvError::Empty)),
            Next::End(end) => {
                let code = end.code.filter(|_| !std::mem::replace(&mut self.ended, true))?;
                return Some(Err(RecvError::Closed { code, message: end.message }));
            }
        };
        let Message { body, attachments } = message;
        Some(T::from_item(ChannelItem { body, attachments }).map_err(RecvError::Item))
    }
}

impl<T: FromItem> Iterator for ChannelReader<T> {
    type Item = Result<T, RecvError>;

    /// As [`ChannelReader::recv`].
    fn next(&mut self) -> Option<Self::Item> {
        self.recv()
    }
}

impl<T> fmt::Debug for ChannelReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelReader").field("id", &self.index).finish_non_exhaustive()
    }
}

impl<'de, R: Runtime, T> CommandArg<'de, R> for ChannelReader<T> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        claim(item, |id: JavaScriptChannelId| id.reader_on(item.message))
    }
}
