//! Looking for a while before waiting.
//!
//! A wait in the kernel costs a sleep and a wake-up, several times what a small call costs otherwise. Who gives the processor
//! away by `sched_yield` and looks again pays neither where the other end is about to answer: on the same processor it runs
//! meanwhile, on another it runs anyway. This module owns when that is worth trying, and no socket.

use std::thread;
use std::time::{Duration, Instant};

/// After so many doublings a reader that looks in vain looks at each 256th wait only.
const MOST_DOUBLINGS: u32 = 8;

/// A look that took so many times its length lost the processor to a third one, which keeps it for a time slice of
/// milliseconds. Then the next waits, so many of them, don't look.
const STOLEN: u32 = 4;
const AFTER_STOLEN: u32 = 1024;

/// Whether a reader looks before it waits, and for how long: adaptive, so that it costs nothing measurable where it does not
/// pay.
///
/// A look that finds something in its time is followed by another at the next wait; after one in vain 1 wait goes without,
/// then 2, 4 and so on up to 256.
#[derive(Debug, Clone)]
pub struct BusyPoll {
    /// How long a look lasts; zero is never.
    length: Duration,
    /// Waits that go without a look.
    skipped: u32,
    /// Looks in vain without one that paid since.
    misses: u32,
}

impl BusyPoll {
    /// How long looks last unless it is set otherwise: more than any answer from memory takes, and less than a wake-up on
    /// another processor often does.
    pub const DEFAULT: Duration = Duration::from_micros(50);

    /// The longest that a look may be set to: more would keep others from the processor.
    pub const MAX: Duration = Duration::from_millis(1);

    /// Looks for `length`, at most [`MAX`](Self::MAX), before a wait; zero never looks.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        BusyPoll { length: length.min(Self::MAX), skipped: 0, misses: 0 }
    }

    /// Looks from `now` on, if it is worth it, until `attempt` gives something or the time is over, and says when it was found:
    /// reading the clock is a hundredth of a small call, so it is read once an attempt, for everybody. The processor is given
    /// away before each attempt.
    pub fn look<T>(&mut self, now: Instant, mut attempt: impl FnMut() -> Option<T>) -> Option<(T, Instant)> {
        if !self.is_due() {
            return None;
        }
        loop {
            thread::yield_now();
            let found = attempt();
            let at = Instant::now();
            let goes_on = self.takes(at.saturating_duration_since(now), found.is_some());
            match found {
                Some(found) => return Some((found, at)),
                None if goes_on => {}
                None => return None,
            }
        }
    }

    /// Begins a look, if it is worth it, for one who has something else to do between its attempts; each is followed by
    /// [`go_on`](Self::go_on).
    pub fn begin(&mut self) -> Option<Look> {
        self.is_due().then(|| Look { since: Instant::now() })
    }

    /// An attempt has found something, or not: `None` ends the look, then and after its time.
    pub fn go_on(&mut self, look: Look, found: bool) -> Option<Look> {
        self.takes(look.since.elapsed(), found).then_some(look)
    }

    /// Whether a look that has taken so long goes on.
    fn takes(&mut self, taken: Duration, found: bool) -> bool {
        let goes_on = !found && taken < self.length;
        if !goes_on {
            self.note(found, taken);
        }
        goes_on
    }

    /// Whether the wait that comes is one to look before.
    fn is_due(&mut self) -> bool {
        if self.length.is_zero() {
            return false;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return false;
        }
        true
    }

    /// Takes in how a look went.
    fn note(&mut self, found: bool, taken: Duration) {
        if taken >= self.length * STOLEN {
            self.skipped = AFTER_STOLEN;
        } else if found && taken <= self.length {
            self.misses = 0;
        } else {
            self.skipped = 1 << self.misses.min(MOST_DOUBLINGS);
            self.misses = self.misses.saturating_add(1);
        }
    }
}

/// A look that has begun.
#[derive(Debug)]
pub struct Look {
    since: Instant,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AFTER_STOLEN, BusyPoll};

    const LENGTH: Duration = Duration::from_micros(50);

    /// How many of `waits` waits were looked before, when each look goes as given.
    fn looks(poll: &mut BusyPoll, waits: u32, found: bool, taken: Duration) -> u32 {
        let mut looks = 0;
        for _ in 0..waits {
            if poll.is_due() {
                looks += 1;
                poll.note(found, taken);
            }
        }
        looks
    }

    #[test]
    fn looks_that_pay_go_on() {
        assert_eq!(looks(&mut BusyPoll::new(LENGTH), 1000, true, LENGTH / 2), 1000);
    }

    #[test]
    fn looks_in_vain_become_rare_and_come_back() {
        let mut poll = BusyPoll::new(LENGTH);
        assert_eq!(looks(&mut poll, 1 + 1 + 1 + 2 + 1 + 4, false, LENGTH), 3);
        looks(&mut poll, 10_000, false, LENGTH);
        assert!((9..=11).contains(&looks(&mut poll, 2570, false, LENGTH)), "one in 257");
        // The next look that pays is followed by one at each wait.
        while !poll.is_due() {}
        poll.note(true, LENGTH / 2);
        assert_eq!(looks(&mut poll, 100, true, LENGTH / 2), 100);
    }

    #[test]
    fn a_processor_that_a_third_one_wants_is_waited_for() {
        let mut poll = BusyPoll::new(LENGTH);
        assert_eq!(looks(&mut poll, AFTER_STOLEN + 1, true, Duration::from_millis(3)), 1);
        assert!(poll.is_due());
    }

    #[test]
    fn zero_never_looks() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        assert_eq!(poll.look(Instant::now(), || -> Option<()> { panic!("it looked") }), None);
    }

    #[test]
    fn it_finds_what_comes_later() {
        let mut left = 3;
        let begun = Instant::now();
        let found = BusyPoll::new(BusyPoll::MAX).look(begun, || {
            left -= 1;
            (left == 0).then_some("here")
        });
        // Under load a look may end before the third attempt.
        assert!(found.is_some_and(|(what, at)| what == "here" && at >= begun) || left > 0);
    }
}
