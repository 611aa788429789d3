//! Channels of a call, as its handler sees them.
//!
//! It owns the handler's end. What a channel's credit is and how items become frames is the protocol's; which peer they
//! go to is the broker's.

mod budget;
mod declared;
mod inlet;
mod pipe;
mod reader;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use invoked_proto::body::Message;
use invoked_proto::registry::{ErrorCode, Overflow};
use thiserror::Error;
use tokio::runtime::{Handle, RuntimeFlavor};

pub(crate) use budget::{Budget, Common};
use declared::claim;
pub use declared::{ChannelSource, JavaScriptChannelId, NotAChannelId};
pub(crate) use declared::{DeclaredChannels, HandlerEnd};
pub(crate) use inlet::{Inlet, Taken};
use pipe::Refused;
pub(crate) use pipe::{End, Pipe, PipeId, Ready, Waiting};
pub(crate) use reader::ReceivingEnd;
pub use reader::{ChannelItem, ChannelReader, FromItem, RecvError};

use super::argument::{CommandArg, CommandItem};
use super::body::InvokeResponseBody;
use super::error::{Fault, InvokeError};
use super::lanes::CallLanes;
use super::response::{IpcResponse, Response};
use super::runtime::Runtime;

/// The sending end of a channel that the caller opened: a command takes it as an argument and sends items on it.
///
/// Items arrive in order. What is `Serialize` travels as JSON; `Vec<u8>`, `Bytes` and `&[u8]` travel raw, as does
/// whatever a [`Response`] says for itself. A channel lives on after its call's reply, without a deadline, so a command
/// may hand it to a task and return. It ends well when its last clone is dropped, or with [`close`](Self::close); and it
/// ends when the caller wants no more, or fails, when the call fails, and when a policy takes the command away
/// ([`closed`](Self::closed)).
///
/// Nothing queues without bound: an item waits in the daemon until the caller's credit lets it go, and while too many
/// bytes wait, sending waits, as each method says. Where the caller opened the channel for news rather than for all items,
/// older ones are left out instead ([`overflow`](Self::overflow)).
///
/// ```
/// use invoked::command;
/// use invoked::ipc::Channel;
///
/// #[command]
/// fn count(to: u32, on_number: Channel<u32>) -> invoked::Result<()> {
///     (1..=to).try_for_each(|number| on_number.send(number))
/// }
/// ```
pub struct Channel<T = InvokeResponseBody> {
    index: u32,
    end: Arc<SendingEnd>,
    // A function, so that a channel goes where its items may not, and takes items that borrow for a shorter time.
    item: PhantomData<fn() -> T>,
}

/// Why an item was not sent. It is gone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// Too much waits for the caller, and this place must not wait for it.
    #[error("too much waits on the channel")]
    Full,
    /// The channel has ended: the caller wants no more, is gone, or its call failed.
    #[error("the channel has ended: {code}")]
    Closed {
        /// Why.
        code: ErrorCode,
    },
    /// The item can not be written.
    #[error("the item can not be sent: {0}")]
    Item(Fault),
}

impl SendError {
    /// True if the channel takes no more items at all.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, SendError::Closed { .. })
    }
}

impl From<SendError> for Fault {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => Fault::midway(ErrorCode::ResourceExhausted, error.to_string()),
            SendError::Closed { code } => Fault::midway(code, error.to_string()),
            SendError::Item(fault) => fault,
        }
    }
}

impl From<SendError> for InvokeError {
    fn from(error: SendError) -> Self {
        Fault::from(error).into()
    }
}

/// The handler's end of a pipe; its drop ends the channel well.
#[derive(Debug)]
pub(crate) struct SendingEnd {
    pipe: Arc<Pipe>,
    /// Where large parts of items are written, if the caller reads them there.
    lanes: Option<CallLanes>,
}

impl SendingEnd {
    pub(crate) fn new(pipe: Arc<Pipe>, lanes: Option<CallLanes>) -> Self {
        SendingEnd { pipe, lanes }
    }

    /// An item as it is sent.
    fn written<T: IpcResponse>(&self, item: T) -> Result<Message, SendError> {
        let mut message = item.into_response().and_then(Response::into_message).map_err(SendError::Item)?;
        if let Some(lanes) = &self.lanes {
            lanes.move_parts(&mut message);
        }
        Ok(message)
    }
}

impl Drop for SendingEnd {
    fn drop(&mut self) {
        self.pipe.end(End::new(None, String::new()));
    }
}

impl<T> Channel<T> {
    fn new(index: u32, end: SendingEnd) -> Self {
        Channel { index, end: Arc::new(end), item: PhantomData }
    }

    /// The index that the caller gave the channel; it is unique in its call only.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.index
    }

    /// What the channel does where its caller takes less than is sent: the caller chose it when it opened the channel.
    ///
    /// On one with [`Overflow::DropOldest`] or [`Overflow::Latest`] sending never waits, and never is
    /// [`Full`](SendError::Full): older items that the caller's credit doesn't cover are left out, and the caller is told
    /// how many. Under `Latest` the last item that was sent arrives in any case, or the channel ends with
    /// `resource_exhausted`.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.end.pipe.overflow()
    }

    /// Sends an item, and waits while too much waits for the caller.
    ///
    /// On a thread of the pool, and on any other of its own, it blocks the thread. On a runtime with several threads the
    /// others take over what the thread has to do meanwhile (`tokio::task::block_in_place`); prefer
    /// [`send_async`](Self::send_async) there. An inline command runs on the daemon's loop, where nothing may wait: it gets
    /// [`SendError::Full`].
    ///
    /// # Errors
    /// [`Error::Channel`](crate::Error::Channel) with [`SendError::Closed`] once the channel has ended, with
    /// [`SendError::Item`] if the item can not be written.
    ///
    /// # Panics
    /// Where `block_in_place` does: in a `LocalSet` of a runtime with several threads.
    pub fn send(&self, item: T) -> crate::Result<()>
    where
        T: IpcResponse,
    {
        let message = match self.end.pipe.push(self.end.written(item)?) {
            Ok(()) => return Ok(()),
            Err(Refused::Closed(code)) => return Err(SendError::Closed { code }.into()),
            Err(Refused::Full(message)) => message,
        };
        if is_loop() {
            return Err(SendError::Full.into());
        }
        let push = || Ok(self.end.pipe.push_blocking(message).map_err(|code| SendError::Closed { code })?);
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(push),
            _ => push(),
        }
    }

    /// Sends an item, and waits while too much waits for the caller. Cancel safe: an item whose future is dropped before
    /// it is ready is not sent.
    ///
    /// # Errors
    /// [`SendError::Closed`] and [`SendError::Item`], as [`send`](Self::send).
    pub async fn send_async(&self, item: T) -> Result<(), SendError>
    where
        T: IpcResponse,
    {
        let message = self.end.written(item)?;
        self.end.pipe.push_async(message).await.map_err(|code| SendError::Closed { code })
    }

    /// Sends an item if that needs no waiting.
    ///
    /// # Errors
    /// As [`send_async`](Self::send_async), and [`SendError::Full`] while too much waits for the caller.
    pub fn try_send(&self, item: T) -> Result<(), SendError>
    where
        T: IpcResponse,
    {
        self.end.pipe.push(self.end.written(item)?).map_err(|refused| match refused {
            Refused::Full(_) => SendError::Full,
            Refused::Closed(code) => SendError::Closed { code },
        })
    }

    /// Ends the channel after the items that were sent: well, or with an error that the caller is told.
    ///
    /// Only the first end counts; clones find the channel closed.
    pub fn close(&self, end: Result<(), Fault>) {
        self.end.pipe.end(match end {
            Ok(()) => End::new(None, String::new()),
            Err(fault) => End::new(Some(fault.code), fault.message),
        });
    }

    /// Whether the channel has ended, as far as the daemon knows.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.end.pipe.closed_by().is_some()
    }

    /// Waits until the channel has ended, and tells why: `cancelled` if the caller wants no more, or it was closed here;
    /// `unavailable` if the caller is gone or the daemon is stopping; `revoked`; else how its call failed. Cancel safe.
    pub async fn closed(&self) -> ErrorCode {
        self.end.pipe.closed().await
    }
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        Channel { index: self.index, end: Arc::clone(&self.end), item: PhantomData }
    }
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("id", &self.index).field("closed", &self.is_closed()).finish()
    }
}

impl<'de, R: Runtime, T> CommandArg<'de, R> for Channel<T> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        claim(item, |id: JavaScriptChannelId| id.channel_on(item.message))
    }
}

thread_local! {
    static IS_LOOP: Cell<bool> = const { Cell::new(false) };
}

fn is_loop() -> bool {
    IS_LOOP.get()
}

/// While it lives, this thread is the daemon's loop, and sending on it does not wait.
#[derive(Debug)]
pub(crate) struct LoopThread(PhantomData<*const ()>);

impl LoopThread {
    pub(crate) fn enter() -> Self {
        IS_LOOP.set(true);
        LoopThread(PhantomData)
    }
}

impl Drop for LoopThread {
    fn drop(&mut self) {
        IS_LOOP.set(false);
    }
}
