//! What threads meet on: locks, waits, and the socket that they read in turn.
//!
//! The modules whose schedules are tested take these names from here and nowhere else: `tests/schedules` compiles the same
//! files with a scheduler's primitives, and a socket in memory, in their place.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub(crate) use std::thread;

pub(crate) use invoked_transport::Stream;
