//! When a session looks for its peer's next call in place of waiting for it.
//!
//! A peer that calls, is answered, and calls again is the common case, and for it a sleep and a wake-up are most of what a
//! small call costs. The loop stands still while a session looks, so it looks only while no other peer and no handler has it
//! do anything, and the others get their turn after each few finds.

use std::time::Duration;

use invoked_transport::BusyPoll;

/// Finds in a row after which the loop has its turn: one more system call for so many calls.
const FINDS: u32 = 64;

/// A session's looks.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) busy: BusyPoll,
    finds: u32,
    /// Whether the last two reads on the loop were both this session's.
    alone: bool,
}

impl Looks {
    pub(super) fn new(length: Duration) -> Self {
        Looks { busy: BusyPoll::new(length), finds: 0, alone: false }
    }

    /// Notes a read, and whether the read before it, on the whole loop, was of this session too.
    pub(super) fn note_read(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// Whether a look may come now.
    pub(super) fn may_look(&mut self) -> bool {
        std::mem::take(&mut self.alone)
    }

    /// Notes a find; true if it is the others' turn now.
    pub(super) fn note_find(&mut self) -> bool {
        self.finds = (self.finds + 1) % FINDS;
        self.finds == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{FINDS, Looks};

    #[test]
    fn only_a_peer_that_calls_alone_is_looked_for() {
        let mut looks = Looks::new(Duration::from_micros(50));
        assert!(!looks.may_look(), "before its first call");
        looks.note_read(false);
        assert!(!looks.may_look(), "another peer called in between");
        looks.note_read(true);
        assert!(looks.may_look());
        assert!(!looks.may_look(), "once a read");
    }

    #[test]
    fn the_others_have_their_turn() {
        let mut looks = Looks::new(Duration::from_micros(50));
        let turns = (0..10 * FINDS).filter(|_| looks.note_find()).count();
        assert_eq!(turns, 10);
    }
}
