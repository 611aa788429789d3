//! Turns to shake hands: how many peers may be at it at once, in all and of one uid.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Gives out turns. A uid takes its own turns before the common ones, so that its waiting costs others nothing.
#[derive(Debug)]
pub(crate) struct Turns {
    common: Arc<Semaphore>,
    per_uid: usize,
    of_uid: RefCell<HashMap<u32, Weak<Semaphore>>>,
}

/// A turn; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _common: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(in_all: NonZeroU32, per_uid: NonZeroU32) -> Self {
        Turns {
            common: Arc::new(Semaphore::new(in_all.get() as usize)),
            per_uid: per_uid.get() as usize,
            of_uid: RefCell::default(),
        }
    }

    /// Waits for a turn. Cancel safe.
    pub(crate) async fn take(&self, uid: u32) -> Turn {
        let own = self.of_uid(uid).acquire_owned().await.expect("the semaphore is never closed");
        let common = Arc::clone(&self.common);
        let common = common.acquire_owned().await.expect("the semaphore is never closed");
        Turn { _own: own, _common: common }
    }

    fn of_uid(&self, uid: u32) -> Arc<Semaphore> {
        let mut of_uid = self.of_uid.borrow_mut();
        if let Some(semaphore) = of_uid.get(&uid).and_then(Weak::upgrade) {
            return semaphore;
        }
        // Uids come and go; those without a peer in its handshake leave nothing behind.
        of_uid.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.per_uid));
        of_uid.insert(uid, Arc::downgrade(&semaphore));
        semaphore
    }
}
