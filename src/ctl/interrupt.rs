//! What an interrupt leaves behind: nothing.
//!
//! It owns the answer to SIGINT and SIGTERM. A call that is open is cancelled by its connection, which ends with the
//! process; half-written files and processes of ours are cleared away here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

type Cleanup = Box<dyn FnOnce() + Send>;

static CLEANUPS: Mutex<BTreeMap<u64, Cleanup>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Something to clear away on an interrupt; dropping it takes it off the list.
#[derive(Debug)]
#[must_use]
pub(super) struct OnInterrupt(u64);

/// Watches for the signals on a thread of its own, from now on. Without it they end the process as ever.
pub(super) fn watch() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let Ok(runtime) = runtime else { return };
    let streams = {
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()].map(signal)
    };
    let [Ok(mut interrupt), Ok(mut terminate)] = streams else { return };
    let wait = move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        let cleanups = std::mem::take(&mut *CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner));
        // The last first, as they would be dropped.
        cleanups.into_values().rev().for_each(|cleanup| cleanup());
        std::process::exit(code);
    };
    // Without the thread the signals were lost: but a machine that has no thread left has other sorrows.
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(wait));
}

/// Runs `cleanup` on an interrupt, as long as what this returns lives.
pub(super) fn on_interrupt(cleanup: impl FnOnce() + Send + 'static) -> OnInterrupt {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Box::new(cleanup));
    OnInterrupt(id)
}

impl Drop for OnInterrupt {
    fn drop(&mut self) {
        // Taken out under the lock and dropped outside of it: what it owns may have a drop of its own.
        let cleanup = CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        drop(cleanup);
    }
}
