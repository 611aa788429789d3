//! The wire format of invoked, version 1, and its per-connection state machine.
//!
//! This crate does no I/O, reads no clock, starts no thread and has no unsafe code. [`connection::Connection`] takes
//! the bytes and file descriptors that a socket brought and gives events; it takes requests and gives the bytes to
//! write. SPEC.md beside this crate is the normative text; [`registry`] has its numbers.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod body;
mod coding;
pub mod connection;
pub mod decoder;
pub mod error;
pub mod header;
pub mod lossy;
pub mod metadata;
pub mod name;
pub mod preface;
pub mod registry;
mod text;

pub use coding::Blob;
pub use text::Text;

#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
