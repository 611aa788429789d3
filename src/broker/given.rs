//! What peers may be given otherwise than in the frames: bytes of memory, file descriptors. Handlers charge it from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use invoked_transport::SegmentBudget;

/// How many there are of one thing: of one uid, within those of all.
#[derive(Debug)]
pub(super) struct Given {
    used: AtomicU64,
    bound: u64,
    common: Option<Arc<Given>>,
}

impl Given {
    /// Those of all uids together.
    pub(super) fn in_all(bound: u64) -> Arc<Self> {
        Arc::new(Given { used: AtomicU64::new(0), bound, common: None })
    }

    /// Those of one uid.
    pub(super) fn of_uid(bound: u64, common: &Arc<Self>) -> Arc<Self> {
        Arc::new(Given { used: AtomicU64::new(0), bound, common: Some(Arc::clone(common)) })
    }

    /// What is charged.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl SegmentBudget for Given {
    fn charge(&self, bytes: u64) -> bool {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.bound);
        if self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_err() {
            return false;
        }
        let fits = self.common.as_ref().is_none_or(|common| common.charge(bytes));
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

#[cfg(test)]
mod tests {
    use invoked_transport::SegmentBudget;

    use super::Given;

    #[test]
    fn bytes_end_at_the_bound_of_the_uid_and_of_all() {
        let all = Given::in_all(5);
        let (ana, bob) = (Given::of_uid(3, &all), Given::of_uid(3, &all));
        assert!(ana.charge(3));
        assert!(!ana.charge(1), "n + 1 of a uid");
        assert!(!bob.charge(3), "n + 1 of all");
        assert_eq!((ana.used(), bob.used(), all.used()), (3, 0, 3), "nothing is left of what was refused");
        assert!(bob.charge(2));
        assert!(!bob.charge(u64::MAX), "an overflow");
        ana.give_back(3);
        bob.give_back(2);
        assert_eq!((ana.used(), bob.used(), all.used()), (0, 0, 0));
    }
}
