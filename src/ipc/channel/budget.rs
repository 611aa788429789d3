//! What items that wait for the loop may cost, for one uid and in all. Handlers charge it from any thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::pipe::Pipe;

/// The budget of one uid.
#[derive(Debug)]
pub(crate) struct Budget {
    own: Account,
    common: Arc<Common>,
}

/// The budget of all.
#[derive(Debug)]
pub(crate) struct Common {
    account: Account,
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
            starved: Mutex::default(),
            has_starved: AtomicBool::new(false),
        })
    }

    /// What is charged in all.
    pub(crate) fn used(&self) -> u64 {
        self.account.used.load(Ordering::Relaxed)
    }
}

impl Budget {
    pub(crate) fn new(bound: u64, common: &Arc<Common>) -> Arc<Self> {
        Arc::new(Budget { own: Account::new(bound), common: Arc::clone(common) })
    }

    /// What is charged to this uid.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.own.used.load(Ordering::Relaxed)
    }

    /// Charges `amount` if it fits. A first charge fits always, so that no item is too large for ever.
    pub(super) fn charge(&self, amount: u64) -> bool {
        if !self.own.charge(amount) {
            return false;
        }
        let fits = self.common.account.charge(amount);
        if !fits {
            self.own.give_back(amount);
        }
        fits
    }

    /// Charges `amount` in the place of `freed`, which is charged, if it fits; else nothing changes. Less than before fits
    /// always. It tells nobody, so it may be called under the lock of a channel: [`tell_room`](Self::tell_room) follows.
    pub(super) fn exchange(&self, freed: u64, amount: u64) -> bool {
        if !self.own.exchange(freed, amount) {
            return false;
        }
        let fits = self.common.account.exchange(freed, amount);
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

    /// Tells those who found no room that there may be some.
    pub(super) fn tell_room(&self) {
        if self.common.has_starved.swap(false, Ordering::AcqRel) {
            let mut starved = self.common.starved.lock().unwrap_or_else(PoisonError::into_inner);
            let all = std::mem::take(&mut *starved);
            drop(starved);
            all.iter().filter_map(Weak::upgrade).for_each(|pipe| pipe.feed());
        }
    }

    /// Notes whom to tell when there may be room.
    pub(super) fn note_starved(&self, pipe: &Arc<Pipe>) {
        let mut starved = self.common.starved.lock().unwrap_or_else(PoisonError::into_inner);
        starved.push(Arc::downgrade(pipe));
        self.common.has_starved.store(true, Ordering::Release);
    }
}

impl Account {
    fn new(bound: u64) -> Self {
        Account { used: AtomicU64::new(0), bound }
    }

    fn charge(&self, amount: u64) -> bool {
        let add = |used: u64| {
            let sum = used.checked_add(amount)?;
            (used == 0 || sum <= self.bound).then_some(sum)
        };
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    fn give_back(&self, amount: u64) {
        self.used.fetch_sub(amount, Ordering::AcqRel);
    }

    fn exchange(&self, freed: u64, amount: u64) -> bool {
        let replace = |used: u64| {
            let sum = (used - freed).checked_add(amount)?;
            (amount <= freed || used == freed || sum <= self.bound).then_some(sum)
        };
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, replace).is_ok()
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
