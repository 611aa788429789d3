//! What an interrupt leaves behind: nothing.
//!
//! It owns the answer to SIGINT and SIGTERM. Where something is under way that can end in good order, the first signal asks
//! it to, and the tool ends by itself; a second one, or too long a wait, ends the process. A call that is open then is cancelled
//! by its connection, which ends with the process; half-written files and processes of ours are cleared away here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long what is under way may take to end.
const GRACE: Duration = Duration::from_secs(2);

type Cleanup = Box<dyn FnOnce() + Send>;

static CLEANUPS: Mutex<BTreeMap<u64, Cleanup>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What the first signal asks to end.
static UNDER_WAY: Mutex<Option<Cleanup>> = Mutex::new(None);

/// The exit code of the signal that came, or 0.
static CAUGHT: AtomicU8 = AtomicU8::new(0);

/// Something to clear away on an interrupt; dropping it takes it off the list.
#[derive(Debug)]
#[must_use]
pub(super) struct OnInterrupt(u64);

/// Something under way that the first signal asks to end; dropping it takes that back.
#[derive(Debug)]
#[must_use]
pub(super) struct UnderWay(());

/// Watches for the signals on a thread of its own, from now on. Without it they end the process as ever.
pub(super) fn watch() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    let streams = {
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()].map(signal)
    };
    let [Ok(mut interrupt), Ok(mut terminate)] = streams else { return };
    let wait = move || {
        let code =
            runtime.block_on(caught(async || either(&mut interrupt, &mut terminate).await, &UNDER_WAY));
        let cleanups = std::mem::take(&mut *CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner));
        // The last first, as they would be dropped.
        cleanups.into_values().rev().for_each(|cleanup| cleanup());
        std::process::exit(code.into());
    };
    // Without the thread the signals were lost: but a machine that has no thread left has other sorrows.
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(wait));
}

/// Waits until a signal ends the process, and gives the exit code.
async fn caught(mut next: impl AsyncFnMut() -> u8, under_way: &Mutex<Option<Cleanup>>) -> u8 {
    let code = next().await;
    CAUGHT.store(code, Ordering::Relaxed);
    let ask = under_way.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(ask) = ask else { return code };
    ask();
    tokio::select! {
        code = next() => code,
        () = tokio::time::sleep(GRACE) => code,
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> u8 {
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

/// The exit code of the signal that asked what was under way to end, if one did.
pub(super) fn exit_code() -> Option<u8> {
    Some(CAUGHT.load(Ordering::Relaxed)).filter(|code| *code != 0)
}

/// Lets the first signal run `ask` and nothing else, as long as what this returns lives: what is under way ends then, and
/// whoever waits for it looks at [`exit_code`]. There is one such thing at a time.
pub(super) fn under_way(ask: impl FnOnce() + Send + 'static) -> UnderWay {
    *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(ask));
    UnderWay(())
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let ask = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ask);
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::{Cleanup, caught};

    /// The exit code after these signals, of which each has its code.
    fn after(signals: &[u8], under_way: Option<Cleanup>) -> u8 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut signals = signals.iter();
        let next = async || match signals.next() {
            Some(code) => *code,
            None => std::future::pending().await,
        };
        runtime.block_on(caught(next, &Mutex::new(under_way)))
    }

    #[test]
    fn the_first_signal_ends_what_is_not_under_way() {
        assert_eq!(after(&[130, 143], None), 130);
    }

    #[test]
    fn what_is_under_way_is_asked_once_and_the_second_signal_ends_it() {
        let (asked, told) = channel();
        let ask: Cleanup = Box::new(move || asked.send(()).expect("the test listens"));
        assert_eq!(after(&[130, 143], Some(ask)), 143);
        assert_eq!(told.iter().count(), 1);
    }

    #[test]
    fn what_does_not_end_in_time_is_ended() {
        assert_eq!(after(&[130], Some(Box::new(|| {}))), 130);
    }
}
