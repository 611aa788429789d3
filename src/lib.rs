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

mod app;
pub mod async_runtime;
pub mod authority;
mod broker;
mod builder;
pub mod commands;
pub mod config;
mod context;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod ctl;
mod daemon;
mod error;
#[cfg(feature = "cli")]
mod host;
pub mod ipc;
mod log_limit;
pub mod plugin;
pub mod plugins;
pub mod provider;
mod runner;
mod session;
mod sync;
pub mod testing;

pub use app::path;
pub use app::{
    App, AppCall, AppHandle, Emitter, Listener, Manager, PackageInfo, Resource, ResourceId, ResourceTable,
    Webview, WebviewWindow, Window,
};
pub use builder::{Builder, Named, Unnamed};
pub use config::Config;
pub use context::Context;
pub use daemon::{ChangeError, DaemonHandle, ReloadError, Reloaded, Running, RuntimeAuthority};
pub use error::{BuildError, Error, Result};
pub use invoked_transport as transport;
pub use ipc::{Runtime, State, StateManager, Wry};
/// [`testing`], by the name that Tauri's has.
pub use testing as test;

/// Makes a command of a function.
///
/// The arguments come from the call's JSON object by their names, or from the call itself ([`State`],
/// [`Request`](ipc::Request), `&`[`Peer`](ipc::Peer), and what else [`CommandArg`](ipc::CommandArg) lists). The result
/// goes back as JSON, bytes (`Vec<u8>`, `Bytes`, `&[u8]`) raw; of a `Result`, the error as the application's own.
/// The function stays what it is. Doc comments become what `describe` prints.
///
/// ```
/// use std::sync::Mutex;
///
/// use invoked::ipc::State;
/// use invoked::{command, generate_handler};
///
/// /// Greets someone.
/// #[command]
/// fn greet(first_name: &str) -> String {
///     format!("Hello, {first_name}!")
/// }
///
/// #[command]
/// async fn remember(note: String, notes: State<'_, Mutex<Vec<String>>>) -> Result<usize, String> {
///     let mut notes = notes.lock().map_err(|error| error.to_string())?;
///     notes.push(note);
///     Ok(notes.len())
/// }
///
/// let handler = generate_handler![greet, remember];
/// assert_eq!(greet("Ann"), "Hello, Ann!");
/// ```
///
/// Callers send `{"firstName": "Ann"}` to the first: keys are camelCase, as Tauri's are. An argument that is an
/// `Option` may be left out.
///
/// | attribute | effect |
/// |---|---|
/// | none, on `fn` | the command may block; it runs on the pool |
/// | none, on `async fn` | runs on the workers; its future must be `Send`, its arguments may borrow from the call |
/// | `async`, on `fn` | runs on the workers; it must not block for long |
/// | `inline`, on `fn` | runs in place; it must not wait |
/// | `inline`, on `async fn` | is polled once in place, and goes on on the workers |
/// | `rename = "name"` | the command's name, if not the function's |
/// | `rename_all = "snake_case"` | keys as the arguments are written (`camelCase` is the default) |
/// | `root = "path"` | where the expansion finds this crate, for crates that reach it through another one |
pub use invoked_macros::command;

/// Collects commands into an [`InvokeHandler`](ipc::InvokeHandler).
///
/// Takes paths of functions with [`#[command]`](macro@command), each with `#[cfg(…)]` before it if need be. A path must
/// name the function where it stands, or in a module that re-exports all of its names with `*`: beside the function
/// stands a hidden one, which this macro calls.
///
/// ```
/// mod photos {
///     #[invoked::command]
///     pub fn count() -> u32 { 3 }
/// }
///
/// #[invoked::command(inline)]
/// fn version() -> &'static str { "1" }
///
/// let handler = invoked::generate_handler![version, photos::count];
/// ```
pub use invoked_macros::generate_handler;

/// Tells who the program is, as a [`Context`]: the name and version of its package; where a `tauri.conf.json` stands beside
/// its manifest, the `identifier` and `version` of that. Another file can be named: `generate_context!("other.json")`.
///
/// ```
/// let context: invoked::Context = invoked::generate_context!();
/// assert_eq!(context.identifier(), env!("CARGO_PKG_NAME"));
/// ```
pub use invoked_macros::generate_context;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
