//! What threads meet on.
//!
//! The modules whose schedules are tested take these names from here and nowhere else: `tests/schedules` compiles the same
//! files with a scheduler's primitives in their place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
