//! The vocabulary of a command's author: what a command takes, what it gives, and how it is registered.
//!
//! The names are those of Tauri's `ipc` module. This module knows nothing of sockets, peers' connections or routing;
//! the daemon's other layers know it.

mod argument;
mod body;
mod cancellation;
mod channel;
mod command;
mod error;
mod fair_share;
mod file;
mod given;
mod handler;
mod headers;
mod invoke;
mod lanes;
mod outside;
mod peer;
mod raw;
#[doc(hidden)]
pub mod reply;
mod resolver;
mod response;
mod runtime;
mod scope;
mod state;
#[cfg(test)]
mod tests;

pub use argument::{CommandArg, CommandItem};
pub use body::{InvokeBody, InvokeResponseBody, Json, SerializeOptions};
pub use cancellation::CancellationToken;
pub(crate) use channel::{
    Budget, Common, DeclaredChannels, End, HandlerEnd, Inlet, LoopThread, Pipe, PipeId, Ready, ReceivingEnd,
    SendingEnd, Taken, Waiting,
};
pub use channel::{
    Channel, ChannelItem, ChannelReader, ChannelSource, FromItem, JavaScriptChannelId, NotAChannelId,
    RecvError, SendError,
};
pub use command::{Argument, Command, Execution, OutcomeFuture, ScopeQuestion, ScopeQuestioner};
pub use error::{ApplicationError, CallError, Fault, InvokeError};
pub(crate) use fair_share::is_fair;
pub(crate) use file::{FdCharge, FileBody};
pub use given::{CallbackFn, Deadline, Raw};
pub use handler::InvokeHandler;
pub use headers::{HeaderValue, Headers, ToStrError};
pub(crate) use invoke::WireCall;
pub use invoke::{Invoke, InvokeMessage, Request};
pub use invoked_proto::body::Body;
pub use invoked_proto::registry::{Delivery, ErrorCode, Overflow};
pub(crate) use lanes::{Allowed, CallLanes, LaneCounters, Lanes, ReplyLanes, settled, within};
pub(crate) use outside::{HeldFile, HeldLease, LeaseReturns, MemoryCharge, Outside, Source};
pub use peer::{Origin, Peer, PeerId};
pub(crate) use resolver::ReplySink;
pub use resolver::{InvokeResolver, InvokeResponder, OwnedInvokeResponder, Replied};
pub use response::{InvokeResponse, IpcResponse, Outcome, Response, ResponseBuffer};
pub use runtime::{Runtime, Wry};
pub use scope::{CommandScope, GlobalScope, ScopeValue};
pub use state::{State, StateManager};

pub use crate::authority::{CapabilityBuilder, RuntimeCapability, ScopeObject, ScopeObjectMatch};
pub use crate::daemon::RuntimeAuthority;
