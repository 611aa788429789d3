//! Credit, as its two ends count it (SPEC.md, "Flow control").
//!
//! Both count the same bytes the same way: what the sender took of its credit, the receiver takes of its window. So the
//! receiver's number is never below the sender's, and a sender that keeps to the rule is never found to break it.

use crate::error::PeerError;
use crate::registry::limits;

/// The most that credit may add up to.
const CREDIT_MAX: u64 = (1 << 63) - 1;

/// What an item of `len` bytes takes beyond its bytes: small ones cost memory and time too.
pub(super) fn surcharge(len: u64) -> u64 {
    (limits::ITEM_COST_MIN as u64).saturating_sub(len)
}

/// What the peer lets us send.
#[derive(Debug)]
pub(super) struct Credit {
    left: u64,
    /// What small items took beyond the credit: paid by what comes next, before anything else is sent.
    owed: u64,
}

impl Credit {
    pub(super) fn new(bytes: u64) -> Self {
        Credit { left: bytes.min(CREDIT_MAX), owed: 0 }
    }

    /// Bytes of payload that may be sent now; with 0 not even an empty item.
    pub(super) fn room(&self) -> u64 {
        if self.owed > 0 { 0 } else { self.left }
    }

    /// Notes a frame that is sent.
    pub(super) fn take(&mut self, payload: u64, surcharge: u64) {
        debug_assert!(payload <= self.left && self.owed == 0, "sent beyond the credit");
        let all = payload + surcharge;
        self.owed += all.saturating_sub(self.left);
        self.left = self.left.saturating_sub(all);
    }

    /// Notes credit that came.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), PeerError> {
        let paid = self.owed.min(bytes);
        let sum = self.left.checked_add(bytes - paid).filter(|sum| *sum <= CREDIT_MAX);
        self.left = sum.ok_or(PeerError::CreditOverflow)?;
        self.owed -= paid;
        Ok(())
    }

    /// Changes what was there at the start; what was sent of it since stays sent.
    pub(super) fn restart(&mut self, before: u64, after: u64) {
        self.left = self.left.saturating_add(after).saturating_sub(before).min(CREDIT_MAX);
    }
}

/// What we let the peer send.
#[derive(Debug)]
pub(super) struct Window {
    limit: u64,
    left: u64,
    owed: u64,
    /// Given back and not yet said.
    unsaid: u64,
}

impl Window {
    pub(super) fn new(limit: u64) -> Self {
        let limit = limit.min(CREDIT_MAX);
        Window { limit, left: limit, owed: 0, unsaid: 0 }
    }

    /// What is left, as the peer will know it when all that was said has come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Notes a frame that came; an item needs some room even if it is empty.
    pub(super) fn take(&mut self, payload: u64, surcharge: u64) -> Result<(), PeerError> {
        let least = if surcharge > 0 { payload.max(1) } else { payload };
        if self.owed > 0 || least > self.left {
            return Err(PeerError::Overrun);
        }
        let all = payload + surcharge;
        self.owed += all.saturating_sub(self.left);
        self.left = self.left.saturating_sub(all);
        Ok(())
    }

    /// Gives back what came, and tells what to say to the peer once it is worth a frame: half a window. With the other
    /// half a sender always gets on. More than what came is not given.
    pub(super) fn give_back(&mut self, bytes: u64) -> Option<u64> {
        let held = (self.limit - self.left).saturating_add(self.owed).saturating_sub(self.unsaid);
        debug_assert!(bytes <= held, "more is given back than came");
        self.unsaid += bytes.min(held);
        if self.unsaid == 0 || self.unsaid < self.limit.div_ceil(2) {
            return None;
        }
        let said = std::mem::take(&mut self.unsaid);
        let paid = self.owed.min(said);
        self.owed -= paid;
        self.left += said - paid;
        debug_assert!(self.left <= self.limit, "a window above its limit");
        Some(said)
    }

    /// Adds what the final receiver promised in place of what came back, and tells what to say to the peer, as
    /// [`give_back`](Self::give_back) does. It may add more than was taken: then the window is larger from here on.
    pub(super) fn pass_on(&mut self, bytes: u64) -> Option<u64> {
        self.unsaid = self.unsaid.saturating_add(bytes);
        if self.unsaid == 0 || self.unsaid < self.limit.div_ceil(2) {
            return None;
        }
        let said = std::mem::take(&mut self.unsaid);
        let paid = self.owed.min(said);
        self.owed -= paid;
        self.left = self.left.saturating_add(said - paid).min(CREDIT_MAX);
        self.limit = self.limit.max(self.left);
        Some(said)
    }

    /// Starts anew with another limit; for a window of which nothing was taken.
    pub(super) fn restart(&mut self, limit: u64) {
        *self = Window::new(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_item_is_owed_where_it_is_not_covered() {
        let mut credit = Credit::new(1);
        let mut window = Window::new(1);
        credit.take(1, surcharge(1));
        assert_eq!(window.take(1, surcharge(1)), Ok(()));
        assert_eq!((credit.room(), window.left()), (0, 0));
        assert_eq!(window.take(0, surcharge(0)), Err(PeerError::Overrun), "while something is owed");
        let said = window.give_back(256).expect("half a window is there");
        credit.add(said).expect("small");
        assert_eq!((said, credit.room(), window.left()), (256, 1, 1));
    }

    #[test]
    fn credit_is_said_by_half_a_window() {
        let mut window = Window::new(1000);
        assert_eq!(window.take(1001, 0), Err(PeerError::Overrun), "n + 1");
        assert_eq!(window.take(1000, 0), Ok(()), "n");
        assert_eq!(window.give_back(499), None);
        assert_eq!(window.give_back(1), Some(500));
        assert_eq!(window.give_back(500), Some(500));
        assert_eq!(window.left(), 1000);
    }

    #[test]
    fn credit_that_is_passed_on_is_gathered_and_may_enlarge_the_window() {
        let mut window = Window::new(1000);
        assert_eq!(window.take(600, 0), Ok(()));
        assert_eq!(window.pass_on(499), None);
        assert_eq!(window.pass_on(101), Some(600), "what was taken");
        assert_eq!(window.left(), 1000);
        assert_eq!(window.pass_on(500), Some(500), "more than was taken");
        assert_eq!(window.left(), 1500);
        assert_eq!(window.pass_on(749), None, "half of the larger window is worth a frame now");
        assert_eq!(window.pass_on(u64::MAX), Some(u64::MAX));
        assert_eq!(window.left(), CREDIT_MAX);
    }

    #[test]
    fn credit_above_its_most_is_refused() {
        let mut credit = Credit::new(u64::MAX);
        assert_eq!(credit.room(), CREDIT_MAX);
        assert_eq!(credit.add(1), Err(PeerError::CreditOverflow));
        credit.take(1, 0);
        assert_eq!(credit.add(1), Ok(()));
        assert_eq!(credit.add(u64::MAX), Err(PeerError::CreditOverflow));
    }

    #[test]
    fn a_start_that_is_told_late_keeps_what_was_sent() {
        let mut credit = Credit::new(1000);
        credit.take(10, 0);
        credit.restart(1000, 64);
        assert_eq!(credit.room(), 54);
        credit.restart(64, 5000);
        assert_eq!(credit.room(), 4990);
    }
}
