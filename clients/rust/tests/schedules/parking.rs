//! Parking without waking up for nothing. Shuttle's own may do that, as the system's: then nobody would notice that a thread
//! was not woken. Time does not pass: a thread that parks for a while is woken too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread::{ThreadId, current as scheduled};

/// A thread that may be woken.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    id: ThreadId,
    parker: Arc<Parker>,
}

#[derive(Debug, Default)]
struct Parker {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

thread_local! {
    // All threads of a schedule run on one of the system's.
    static THREADS: RefCell<HashMap<ThreadId, Thread>> = RefCell::default();
}

/// Another schedule begins.
pub(crate) fn forget_all() {
    THREADS.take();
}

pub(crate) fn current() -> Thread {
    let id = scheduled().id();
    THREADS.with_borrow_mut(|threads| {
        threads.entry(id).or_insert_with(|| Thread { id, parker: Arc::default() }).clone()
    })
}

pub(crate) fn park() {
    let Thread { parker, .. } = current();
    let mut is_woken = parker.woken.wait_while(parker.is_woken.lock().unwrap(), |woken| !*woken).unwrap();
    *is_woken = false;
}

pub(crate) fn park_timeout(_: Duration) {
    park();
}

impl Thread {
    pub(crate) fn id(&self) -> ThreadId {
        self.id
    }

    pub(crate) fn unpark(&self) {
        *self.parker.is_woken.lock().unwrap() = true;
        self.parker.woken.notify_one();
    }
}
