//! Large results on their way from the pool to the loop.
//!
//! The loop decides which of them their callers may have; until it does, nobody is charged for them. So they are bounded
//! in bytes: a pool thread whose result finds no room waits, which costs no caller more than its own time.

use crate::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes of results that may wait for the loop. One result that is larger finds room when no other waits.
pub(super) const BYTES_MAX: usize = 64 << 20;

/// Smaller results are not counted: their number is bounded.
const COUNTED_FROM: usize = 64 << 10;

/// Counts bytes that wait.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Mutex<Waiting>,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    is_closed: bool,
}

/// A place in the backlog; dropping it makes room.
#[derive(Debug)]
pub(crate) struct BacklogPlace {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Backlog {
    /// Waits for room for a result of so many bytes; not for the loop. `None` for a small one, and once nobody takes
    /// results any more.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Option<BacklogPlace> {
        if bytes < COUNTED_FROM {
            return None;
        }
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |now: &mut Waiting| !now.is_closed && now.bytes > 0 && now.bytes + bytes > BYTES_MAX;
        let mut waiting = self.room.wait_while(waiting, is_full).unwrap_or_else(PoisonError::into_inner);
        if waiting.is_closed {
            return None;
        }
        waiting.bytes += bytes;
        Some(BacklogPlace { backlog: Arc::clone(self), bytes })
    }

    /// Bytes that wait.
    #[cfg(test)]
    #[allow(dead_code)] // tests/schedules compiles this file too
    pub(super) fn bytes(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Lets go of all who wait: nobody will take their results.
    pub(super) fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.room.notify_all();
    }
}

impl Drop for BacklogPlace {
    fn drop(&mut self) {
        self.backlog.waiting.lock().unwrap_or_else(PoisonError::into_inner).bytes -= self.bytes;
        self.backlog.room.notify_all();
    }
}
