//! A provider, at a daemon of which the test writes every frame: what it says, what it believes, how it ends.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a test may fail by panicking

mod calls;
mod channels;
mod connection;
mod identity;
mod nested;
mod registration;
mod script;
