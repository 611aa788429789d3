//! The vocabulary of a command's author: what a command takes, what it gives, and how it is registered.
//!
//! The names are those of Tauri's `ipc` module. This module knows nothing of sockets, peers' connections or routing;
//! the daemon's other layers know it.

mod argument;
mod cancellation;
mod command;
mod error;
mod handler;
mod invoke;
mod peer;
#[doc(hidden)]
pub mod reply;
mod resolver;
mod response;
mod runtime;
mod state;
#[cfg(test)]
mod tests;

pub use argument::{CommandArg, CommandItem};
pub use cancellation::CancellationToken;
pub use command::{Argument, Command, Execution, OutcomeFuture};
pub use error::{ApplicationError, CallError, Fault, InvokeError};
pub use handler::InvokeHandler;
pub(crate) use invoke::WireCall;
pub use invoke::{Headers, Invoke, InvokeMessage, Request};
pub use invoked_proto::body::Body as InvokeBody;
pub use peer::{Origin, Peer, PeerId};
pub use resolver::InvokeResolver;
pub(crate) use resolver::ReplySink;
pub use response::{InvokeResponse, IpcResponse, Outcome, Response};
pub use runtime::{Runtime, Wry};
pub use state::{State, StateManager};
