//! Calls into the operating system that need `unsafe`, or that exist on one system only.
//!
//! The only place of the workspace with `unsafe` code. Each block says why it is needed (`JUSTIFICATION`) and why it is sound
//! (`SAFETY`). Nothing here decides anything: policy, checks and messages are the callers'.
#![allow(unsafe_code)]

#[cfg(unix)]
pub(crate) mod inherited;
#[cfg(unix)]
pub(crate) mod map;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
pub(crate) mod windows;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;
#[cfg(all(unix, not(target_os = "linux")))]
#[path = "macos.rs"]
mod platform;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) use platform::{AllocatorBounds, bound_allocator, trim_allocator};
#[cfg(unix)]
pub(crate) use platform::{
    create_sealed, is_huge_page_file, pass_rights, peer_groups, peer_pidfd, peer_user, seals,
};
#[cfg(all(unix, test))]
pub(crate) use unix::counters;
#[cfg(all(unix, feature = "tokio"))]
pub(crate) use unix::register;
#[cfg(unix)]
pub(crate) use unix::{Blocking, receive, receive_bytes, send};
