//! What the current thread has used of the machine.
//!
//! It tells a thread that was busy, or asleep, from one that was ready to run and that the machine had no processor for.

use std::time::Duration;

/// What a thread has used so far (`getrusage(2)`, `RUSAGE_THREAD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadUse {
    /// Processor time, its own and the kernel's on its behalf.
    pub processor: Duration,
    /// How often it gave the processor away to wait for something.
    pub waits: u64,
}

impl ThreadUse {
    /// That of the current thread; `None` where the system doesn't tell. It costs a system call.
    #[must_use]
    pub fn now() -> Option<Self> {
        #[cfg(any(target_os = "linux", target_os = "freebsd"))]
        {
            use nix::sys::resource::{UsageWho, getrusage};
            use nix::sys::time::TimeValLike;
            let used = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
            let micros = (used.user_time() + used.system_time()).num_microseconds();
            Some(ThreadUse {
                processor: Duration::from_micros(u64::try_from(micros).unwrap_or(0)),
                waits: u64::try_from(used.voluntary_context_switches()).unwrap_or(0),
            })
        }
        #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::ThreadUse;

    #[test]
    fn it_tells_sleeping_from_computing() {
        let begun = ThreadUse::now().expect("linux tells");
        thread::sleep(Duration::from_millis(5));
        let slept = ThreadUse::now().expect("linux tells");
        assert!(slept.waits > begun.waits, "{begun:?} {slept:?}");
        let start = Instant::now();
        // However loaded the machine is, so much is used in the end.
        while ThreadUse::now().expect("linux tells").processor < slept.processor + Duration::from_millis(5) {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn it_is_of_one_thread() {
        let mine = ThreadUse::now().expect("linux tells");
        let other = thread::spawn(|| {
            (0..20).for_each(|_| thread::sleep(Duration::from_micros(100)));
            ThreadUse::now().expect("linux tells").waits
        });
        assert!(other.join().expect("joined") >= 20);
        assert!(ThreadUse::now().expect("linux tells").waits <= mine.waits + 10);
    }
}
