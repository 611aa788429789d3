//! What peers may be given otherwise than in the frames, and what they may give so: bytes of memory, file descriptors. It is
//! charged from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use invoked_transport::SegmentBudget;

use crate::ipc::is_fair;

/// How many there are of one thing: of one uid, within its fair share of those of all.
#[derive(Debug)]
pub(super) struct Given {
    used: AtomicU64,
    bound: AtomicU64,
    /// How many uids share it, where it is that of all.
    uids: AtomicU64,
    common: Option<Arc<Given>>,
}

impl Given {
    /// Those of all uids together.
    pub(super) fn in_all(bound: u64) -> Arc<Self> {
        Arc::new(Given {
            used: AtomicU64::new(0),
            bound: bound.into(),
            uids: AtomicU64::new(0),
            common: None,
        })
    }

    /// Those of one uid.
    pub(super) fn of_uid(bound: u64, common: &Arc<Self>) -> Arc<Self> {
        common.uids.fetch_add(1, Ordering::AcqRel);
        let common = Some(Arc::clone(common));
        Arc::new(Given { used: AtomicU64::new(0), bound: bound.into(), uids: AtomicU64::new(0), common })
    }

    /// What is charged.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most that may be.
    pub(super) fn bound(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    /// Another bound from now on; what is charged stays.
    pub(super) fn set_bound(&self, bound: u64) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// Whether so many more would fit.
    fn has_room(&self, amount: u64) -> bool {
        let used = self.used();
        let is_fair = |common: &Arc<Given>| common.is_fair_for(amount, used, common.used());
        used.checked_add(amount).is_some_and(|sum| sum <= self.bound())
            && self.common.as_ref().is_none_or(is_fair)
    }

    /// Whether one of the uids that share this, with `share` of what is `used`, may have `amount` more.
    fn is_fair_for(&self, amount: u64, share: u64, used: u64) -> bool {
        is_fair(amount, share, used, self.bound(), self.uids.load(Ordering::Relaxed))
    }

    /// Counts what is there, whether or not it fits.
    fn add(&self, amount: u64) {
        self.used.fetch_add(amount, Ordering::AcqRel);
        if let Some(common) = &self.common {
            common.add(amount);
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(common) = &self.common {
            common.uids.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl SegmentBudget for Given {
    fn charge(&self, bytes: u64) -> bool {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.bound());
        let Ok(share) = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add) else {
            return false;
        };
        let fits = self.common.as_ref().is_none_or(|common| {
            let add = |used: u64| common.is_fair_for(bytes, share, used).then(|| used.saturating_add(bytes));
            common.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
        });
        if !fits {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(common) = &self.common {
            common.give_back(bytes);
        }
    }
}

/// What of a uid's is there whether or not it may be, as a peer decides: it is counted, and the one who counts acts on it.
#[derive(Debug, Clone)]
pub(crate) struct Held(pub(super) Arc<Given>);

impl Held {
    /// So many more are there.
    pub(crate) fn add(&self, amount: u64) {
        self.0.add(amount);
    }

    /// So many are gone.
    pub(crate) fn give_back(&self, amount: u64) {
        self.0.give_back(amount);
    }

    /// Whether as many are there as may be, or fewer.
    pub(crate) fn is_within(&self) -> bool {
        self.0.has_room(0)
    }

    /// Whether so many more than may be are there.
    pub(crate) fn is_above(&self, slack: u64) -> bool {
        self.0.used() > self.0.bound().saturating_add(slack)
    }
}

#[cfg(test)]
mod tests {
    use invoked_transport::SegmentBudget;

    use super::{Given, Held};

    #[test]
    fn bytes_end_at_the_bound_of_the_uid_and_at_its_share_of_all() {
        let all = Given::in_all(1200);
        let ana = Given::of_uid(700, &all);
        assert!(!ana.charge(601), "n + 1 of its share, which is half while it is alone");
        assert!(ana.charge(600));
        let bob = Given::of_uid(150, &all);
        assert!(!bob.charge(151), "n + 1 of a uid");
        bob.set_bound(700);
        assert!(!bob.charge(201), "n + 1 of its share: a third of what is left");
        assert_eq!(
            (ana.used(), bob.used(), all.used()),
            (600, 0, 600),
            "nothing is left of what was refused"
        );
        assert!(bob.charge(200));
        assert!(!bob.charge(u64::MAX), "an overflow");
        drop(bob);
        assert_eq!(all.used(), 800, "whoever charges gives back");
        all.give_back(200);
        ana.give_back(600);
        assert!(ana.charge(600), "alone again");
    }

    #[test]
    fn what_is_there_is_counted_beyond_its_bound() {
        let all = Given::in_all(100);
        let held = Held(Given::of_uid(3, &all));
        held.add(3);
        assert!(held.is_within(), "n");
        held.add(1);
        assert!(!held.is_within(), "n + 1");
        assert!(held.is_above(0) && !held.is_above(1));
        held.give_back(4);
        assert!(held.is_within());
        assert_eq!(all.used(), 0);
        let other = Held(Given::of_uid(100, &all));
        other.add(60);
        assert!(!other.is_within(), "more than its share of all");
    }
}
