//! The news that a call's caller no longer waits for it.

use tokio::sync::Notify;

use crate::sync::{Arc, AtomicBool, Ordering};

/// Tells a handler that its call is cancelled, past its deadline, revoked, or its caller gone. The caller has been
/// answered by then; the handler should stop, and what it still returns is dropped.
#[derive(Debug, Clone, Default)]
pub struct CancellationToken(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cancelled: AtomicBool,
    notify: Notify,
}

impl CancellationToken {
    /// True once the call is cancelled; it stays so.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Waits until the call is cancelled. Cancel safe.
    pub async fn cancelled(&self) {
        let notified = self.0.notify.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, so a cancel in between is not missed.
        notified.as_mut().enable();
        if !self.is_cancelled() {
            notified.await;
        }
    }

    pub(crate) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}
