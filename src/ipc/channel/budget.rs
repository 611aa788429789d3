//! What items that wait for the loop may cost, for one uid and in all. Handlers charge it from any thread.

use super::pipe::Pipe;
use crate::ipc::is_fair;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, PoisonError, Weak};

/// The budget of one uid.
#[derive(Debug)]
pub(crate) struct Budget {
    own: Account,
    common: Arc<Common>,
    /// More waits for the uid's peers to read than may: no item is taken meanwhile, as it would only wait there too.
    is_behind: AtomicBool,
}

/// The budget of all.
#[derive(Debug)]
pub(crate) struct Common {
    account: Account,
    /// How many budgets there are: of the common bound each uid may have its fair share.
    uids: AtomicU64,
    /// Channels whose item found no room.
    starved: Mutex<Vec<Weak<Pipe>>>,
    has_starved: AtomicBool,
}

#[derive(Debug)]
struct Account {
    used: AtomicU64,
    bound: u64,
}

impl Common {
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Common {
            account: Account::new(bound),
            uids: AtomicU64::new(0),
            starved: Mutex::default(),
            has_starved: AtomicBool::new(false),
        })
    }

    /// What is charged in all.
    pub(crate) fn used(&self) -> u64 {
        self.account.used.load(Ordering::Relaxed)
    }

    /// Charges `amount` in the place of `freed` for a uid that holds `share` besides, if it fits.
    fn replace(&self, freed: u64, amount: u64, share: u64) -> bool {
        let (bound, uids) = (self.account.bound, self.uids.load(Ordering::Acquire));
        let fits = |used: u64| {
            let others = used - freed;
            // A first item is not measured by what each may have; what comes on top is.
            let is_first = share == 0 && others.checked_add(amount).is_some_and(|sum| sum <= bound);
            amount <= freed || others == 0 || is_first || is_fair(amount, share, others, bound, uids)
        };
        self.account.replace_if(freed, amount, fits).is_some()
    }

    fn tell_room(&self) {
        if self.has_starved.swap(false, Ordering::AcqRel) {
            let mut starved = self.starved.lock().unwrap_or_else(PoisonError::into_inner);
            let all = std::mem::take(&mut *starved);
            drop(starved);
            all.iter().filter_map(Weak::upgrade).for_each(|pipe| pipe.feed());
        }
    }
}

impl Budget {
    pub(crate) fn new(bound: u64, common: &Arc<Common>) -> Arc<Self> {
        common.uids.fetch_add(1, Ordering::AcqRel);
        Arc::new(Budget {
            own: Account::new(bound),
            common: Arc::clone(common),
            is_behind: AtomicBool::new(false),
        })
    }

    /// What is charged to this uid.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.own.used.load(Ordering::Relaxed)
    }

    /// Charges `amount` if it fits. A first charge of a uid fits wherever there is room in all, and where nothing else is
    /// charged, so that no item is too large for ever.
    pub(super) fn charge(&self, amount: u64) -> bool {
        if self.is_behind.load(Ordering::Acquire) {
            return false;
        }
        let Some(share) = self.own.replace(0, amount) else { return false };
        let fits = self.common.replace(0, amount, share);
        if !fits {
            self.own.give_back(amount);
        }
        fits
    }

    /// Charges `amount` in the place of `freed`, which is charged, if it fits; else nothing changes. Less than before fits
    /// always. It tells nobody, so it may be called under the lock of a channel: [`tell_room`](Self::tell_room) follows.
    pub(super) fn exchange(&self, freed: u64, amount: u64) -> bool {
        if amount > freed && self.is_behind.load(Ordering::Acquire) {
            return false;
        }
        let Some(before) = self.own.replace(freed, amount) else { return false };
        let fits = self.common.replace(freed, amount, before - freed);
        if !fits {
            self.own.restore(amount, freed);
        }
        fits
    }

    /// Gives back what was charged, and tells whom it may help.
    pub(super) fn give_back(&self, amount: u64) {
        if amount == 0 {
            return;
        }
        self.own.give_back(amount);
        self.common.account.give_back(amount);
        self.tell_room();
    }

    /// Notes whether more waits for the uid's peers to read than may. What left the pipes is charged there, and a channel whose
    /// caller gives no credit keeps it for as long as it likes.
    pub(crate) fn hold_back(&self, is_behind: bool) {
        let changed = self.is_behind.load(Ordering::Acquire) != is_behind;
        if changed && self.is_behind.swap(is_behind, Ordering::AcqRel) && !is_behind {
            self.common.tell_room();
        }
    }

    /// Tells those who found no room that there may be some.
    pub(super) fn tell_room(&self) {
        self.common.tell_room();
    }

    /// Notes whom to tell when there may be room.
    pub(super) fn note_starved(&self, pipe: &Arc<Pipe>) {
        let mut starved = self.common.starved.lock().unwrap_or_else(PoisonError::into_inner);
        starved.push(Arc::downgrade(pipe));
        self.common.has_starved.store(true, Ordering::Release);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.common.uids.fetch_sub(1, Ordering::AcqRel);
        // The others may have more now.
        self.common.tell_room();
    }
}

impl Account {
    fn new(bound: u64) -> Self {
        Account { used: AtomicU64::new(0), bound }
    }

    fn give_back(&self, amount: u64) {
        self.used.fetch_sub(amount, Ordering::AcqRel);
    }

    /// Charges `amount` in the place of `freed`, which is charged, if the bound allows; what was charged before.
    fn replace(&self, freed: u64, amount: u64) -> Option<u64> {
        let fits = |used: u64| {
            let others = used - freed;
            let is_below = others.checked_add(amount).is_some_and(|sum| sum <= self.bound);
            amount <= freed || others == 0 || is_below
        };
        self.replace_if(freed, amount, fits)
    }

    /// The same if what is charged `fits`.
    fn replace_if(&self, freed: u64, amount: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let replace = |used: u64| (used - freed).checked_add(amount).filter(|_| fits(used));
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, replace).ok()
    }

    /// Takes an exchange back.
    fn restore(&self, amount: u64, freed: u64) {
        if amount > freed {
            self.used.fetch_sub(amount - freed, Ordering::AcqRel);
        } else {
            self.used.fetch_add(freed - amount, Ordering::AcqRel);
        }
    }
}
