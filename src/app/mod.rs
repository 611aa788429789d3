//! What a command, a plugin and a setup hook hold of the application that they are part of: its state, its paths, its
//! resources.
//!
//! The names are Tauri's. This module knows nothing of who runs commands; the daemon fills in what does.

mod absent;
mod call;
mod handle;
mod manager;
pub mod path;
mod resources;

pub(crate) use absent::HasWindows;
pub use absent::{Emitter, Listener, Webview, WebviewWindow, Window};
pub use call::AppCall;
pub(crate) use call::{Bus, BusCall, Calling};
pub use handle::{App, AppHandle, PackageInfo};
pub use manager::Manager;
pub use resources::{Resource, ResourceId, ResourceTable};
