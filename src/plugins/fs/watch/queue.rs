//! What the kernel told of one watch and was not judged yet.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Changes that wait; above it all are lost, and that is told.
const WAITING_MAX: usize = 1024;

/// A name that goes away is waited with for so long: where it comes back under another, it is one change.
const RENAME: Duration = Duration::from_millis(50);

/// A change, with names in what is watched; an empty one is what is watched itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Created(OsString),
    Modified(OsString),
    Removed(OsString),
    /// A rename from here, by its number.
    MovedAway(OsString, usize, Instant),
    /// A rename to here, by its number.
    MovedHere(OsString, usize),
    Renamed(OsString, OsString),
    /// Changes were lost.
    Lost,
}

/// The changes that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Raw>>,
    changed: Notify,
}

impl Queue {
    /// Adds a change.
    pub(super) fn add(&self, change: Raw) {
        let mut waiting = self.lock();
        // Each write to a file is told; between two looks one is as good as many.
        if waiting.back() == Some(&change) {
            return;
        }
        if waiting.len() >= WAITING_MAX {
            waiting.clear();
            waiting.push_back(Raw::Lost);
        } else {
            waiting.push_back(change);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Both ends of a rename, by its number, are here: they are one change, unless the first was told already.
    pub(super) fn join(&self, number: usize) {
        let mut waiting = self.lock();
        let away = waiting.iter().position(|raw| matches!(raw, Raw::MovedAway(_, of, _) if *of == number));
        let here = waiting.iter().position(|raw| matches!(raw, Raw::MovedHere(_, of) if *of == number));
        let (Some(away), Some(here)) = (away, here) else { return };
        if let (Some(Raw::MovedHere(to, _)), Some(Raw::MovedAway(from, ..))) =
            (waiting.remove(here), waiting.remove(away))
        {
            waiting.push_back(Raw::Renamed(from, to));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Lets whoever waits look.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits for a change. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When something is to be taken that waits for its other end; `None` if nothing does.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.lock().front()? {
            Raw::MovedAway(_, _, at) => Some(*at + RENAME),
            _ => Some(Instant::now()),
        }
    }

    /// Takes what may be told at `now`, in order.
    pub(super) fn take(&self, now: Instant) -> Vec<Raw> {
        let mut waiting = self.lock();
        let waits = |raw: &Raw| matches!(raw, Raw::MovedAway(_, _, at) if now < *at + RENAME);
        let end = waiting.iter().position(waits).unwrap_or(waiting.len());
        waiting.drain(..end).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Raw>> {
        // No code of others runs under the lock, and each change is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> OsString {
        text.into()
    }

    #[test]
    fn both_ends_of_a_rename_are_one_change_and_one_alone_is_told_late() {
        let (queue, now) = (Queue::default(), Instant::now());
        queue.add(Raw::MovedAway(name("a"), 7, now));
        queue.add(Raw::Created(name("other")));
        assert!(queue.take(now).is_empty(), "what stands behind it waits too");
        queue.add(Raw::MovedHere(name("b"), 7));
        queue.join(7);
        assert_eq!(queue.take(now), [Raw::Created(name("other")), Raw::Renamed(name("a"), name("b"))]);
        queue.add(Raw::MovedAway(name("c"), 8, now));
        assert_eq!(queue.due(), Some(now + RENAME));
        assert_eq!(queue.take(now + RENAME).len(), 1, "nothing came of it");
        queue.add(Raw::MovedHere(name("d"), 8));
        queue.join(8);
        assert_eq!(queue.take(now), [Raw::MovedHere(name("d"), 8)], "it was told to be gone");
    }

    #[test]
    fn many_writes_are_one_change_and_too_many_changes_are_told_as_lost() {
        let queue = Queue::default();
        for _ in 0..10_000 {
            queue.add(Raw::Modified(name("a")));
        }
        assert_eq!(queue.take(Instant::now()), [Raw::Modified(name("a"))]);
        for at in 0..WAITING_MAX {
            queue.add(Raw::Created(name(&at.to_string())));
        }
        assert_eq!(queue.take(Instant::now()).len(), WAITING_MAX, "n");
        for at in 0..=WAITING_MAX {
            queue.add(Raw::Created(name(&at.to_string())));
        }
        assert_eq!(queue.take(Instant::now()), [Raw::Lost], "n + 1");
    }
}
