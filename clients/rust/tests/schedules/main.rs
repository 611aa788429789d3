//! Threads that share one connection of the blocking client, under a scheduler that chooses who goes on at every lock, wait
//! and wake: the very files of the client, compiled once more with shuttle's primitives and a socket in memory.
//!
//! A thread that nobody wakes never comes to its end, and a schedule that goes on for too long fails its test.
#![allow(clippy::unwrap_used)] // a test may fail by panicking
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)] // not all of these files is for threads

#[path = "../../src"]
mod src {
    pub(crate) mod blocking;
    pub(crate) mod channel;
    pub(crate) mod core;
    pub(crate) mod error;
    pub(crate) mod file;
    pub(crate) mod options;
    pub(crate) mod outgoing;
    pub(crate) mod reply;
    pub(crate) mod request;
    pub(crate) mod traffic;
}

mod daemon;
mod dial;
mod parking;
mod sharing;
mod socket;

/// What `src/sync.rs` is for the client, of the scheduler's.
mod sync {
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

    pub(crate) use crate::parking as thread;
    pub(crate) use crate::socket::Stream;
}

pub(crate) use src::{blocking, channel, core, error, file, options, outgoing, reply, request, traffic};
