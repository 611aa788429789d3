//! What a command, a plugin and a setup hook hold of the application that they are part of: its state, its paths, its
//! resources.
//!
//! The names are Tauri's. This module knows nothing of who runs commands; the daemon fills in what does.

mod absent;
mod handle;
mod manager;
pub mod path;

pub(crate) use absent::HasWindows;
pub use absent::{Emitter, Listener, Webview, WebviewWindow, Window};
pub use handle::{App, AppHandle, PackageInfo};
pub use manager::Manager;
