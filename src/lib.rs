//! A daemon through which separate processes on one machine call each other: named commands, JSON or raw bodies,
//! capability files that say who may call what with which arguments.
//!
//! This crate is the daemon as a library, and its two binaries: `invoked`, the daemon, and `invokectl`, the tool of its
//! operator. A program can *host* its own commands, with the flags, signals and logs of `invoked`
//! ([`Builder::run`]), or *embed* a daemon ([`Builder::serve`]). To call commands, use the crate `invoked-client`.
//!
//! ```no_run
//! use invoked::ipc::{Command, Response};
//!
//! fn main() -> std::process::ExitCode {
//!     invoked::Builder::new("org.acme.photos")
//!         .invoke_handler(vec![Command::inline("greet", |_| Ok(Response::json("hello")?))])
//!         .run()
//! }
//! ```
//!
//! ARCHITECTURE.md tells how the parts fit; the wire is specified in proto/SPEC.md.

// The macros name this crate by its name, also inside it.
#[allow(unused_extern_crates)]
extern crate self as invoked;

pub mod authority;
mod broker;
mod builder;
pub mod commands;
pub mod config;
mod daemon;
mod error;
#[cfg(feature = "cli")]
mod host;
pub mod ipc;
pub mod plugin;
pub mod plugins;
mod runner;
mod session;

pub use builder::Builder;
pub use config::Config;
pub use daemon::{DaemonHandle, ReloadError, Reloaded, Running};
pub use error::BuildError;
pub use invoked_transport as transport;
