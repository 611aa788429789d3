//! Call commands of invoked, async and blocking.
//!
//! A [`Client`] belongs to a tokio runtime; a [`blocking::Client`] needs none: the thread that waits for an answer reads
//! the socket itself. Both are shared freely, share one [`Error`], one [`Call`] builder and one [`Reply`], and hold to the
//! same rules:
//!
//! - Each call ends exactly once: with its reply, with the daemon's error, at its deadline, or with the connection.
//! - A lost connection is never hidden: each open call ends with `unavailable` and says whether it may have run
//!   ([`Error::delivery`]). Nothing that may have run is sent again, unless the caller marked it idempotent and asked for
//!   [`Reconnect::AutomaticResend`].
//! - Nothing queues without bound: a call beyond what the daemon allows to be open waits for a slot, under its deadline.
//!
//! ```no_run
//! use invoked_client::{Options, blocking::Client};
//!
//! let client = Client::connect(Options::new())?;
//! let reply = client.call("fs.read_file").arg("path", "/etc/hostname").send()?;
//! println!("{} bytes", reply.bytes().len());
//! # Ok::<(), invoked_client::Error>(())
//! ```
//!
//! The crate owns the caller's side. It speaks the protocol through `invoked-proto` and reaches the operating system
//! through `invoked-transport`; it knows nothing of policies.

pub mod blocking;
mod channel;
#[cfg(feature = "tokio")]
mod client;
mod core;
mod dial;
mod error;
mod file;
mod options;
mod outgoing;
mod reply;
mod request;
mod sync;
mod traffic;

pub use channel::{Item, Update};
pub use dial::ConnectionInfo;
pub use error::Error;
pub use file::OpenFile;
pub use invoked_proto::body::{Body, Message};
pub use invoked_proto::registry::{Delivery, ErrorCode, Overflow};
pub use invoked_transport::{Address, AddressError, AddressOptions, AddressSource, AppName, Scope};
pub use options::{DEFAULT_CONNECT_TIMEOUT, DEFAULT_TIMEOUT, Options, Reconnect, Server};
pub use reply::Reply;
pub use request::{Call, Caller};

#[cfg(feature = "tokio")]
pub use client::{Client, ItemSender, Items, Running, Subscription};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
