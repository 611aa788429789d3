//! Large results on their way from the pool to the loop.
//!
//! The loop decides which of them their callers may have; until it does, nobody is charged for them. So they are bounded
//! in bytes: a pool thread whose result finds no room waits, which costs no caller more than its own time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::ipc::{CallError, Outcome};

/// Bytes of results that may wait for the loop. One result that is larger finds room when no other waits.
const BYTES_MAX: usize = 64 << 20;

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
    /// Waits for room for `outcome`; not for the loop. `None` for a small one, and once nobody takes results any more.
    pub(super) fn enter(self: &Arc<Self>, outcome: &Outcome) -> Option<BacklogPlace> {
        let bytes = len(outcome);
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

fn len(outcome: &Outcome) -> usize {
    match outcome {
        Ok(response) => response.message.len(),
        Err(CallError::Application(error)) => error.body().bytes().len(),
        Err(CallError::Framework(_)) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{BYTES_MAX, Backlog};
    use crate::ipc::{Outcome, Response};

    fn result(len: usize) -> Outcome {
        Ok(Response::new(vec![0; len]))
    }

    #[test]
    fn a_result_waits_until_there_is_room() {
        let backlog = Arc::new(Backlog::default());
        assert!(backlog.enter(&result(100)).is_none(), "a small one is not counted");
        let whole = backlog.enter(&result(BYTES_MAX + 1)).expect("alone, it may be larger");
        let entered = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let place = backlog.enter(&result(BYTES_MAX / 2)).expect("open");
                    let now = entered.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= 2, "{now} at once");
                    entered.fetch_sub(1, Ordering::SeqCst);
                    drop(place);
                });
            }
            assert_eq!(entered.load(Ordering::SeqCst), 0);
            drop(whole);
        });
        assert_eq!(backlog.waiting.lock().unwrap().bytes, 0);
    }

    #[test]
    fn nobody_waits_once_it_is_closed() {
        let backlog = Arc::new(Backlog::default());
        let whole = backlog.enter(&result(BYTES_MAX));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(backlog.enter(&result(BYTES_MAX)).is_none()));
            backlog.close();
        });
        drop(whole);
    }
}
