//! Processor time of the processes that take part in a measurement.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of this process and of `servers` so far, in nanoseconds; `None` where the kernel doesn't tell of one.
///
/// Of another process it counts the threads that live. What runs at this moment is counted up to the last tick.
pub(super) fn spent(servers: &[u32]) -> Option<u64> {
    let others = servers.iter().map(|pid| of_process(*pid)).sum::<Option<u64>>()?;
    Some(own() + others)
}

fn own() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Processor time of the threads that live of a process, in nanoseconds; `None` where the kernel doesn't tell.
///
/// As `/proc/PID/task/*/schedstat` has it, where `stat` has hundredths of a second.
#[must_use]
pub fn of_process(pid: u32) -> Option<u64> {
    let mut sum = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while they are listed.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next()?.trim().parse::<u64>().ok()?;
    }
    // A kernel without these statistics has zeros.
    (sum > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::{of_process, own, spent};

    #[test]
    fn work_of_this_process_is_counted() {
        let me = std::process::id();
        let this_thread = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let before = (own(), of_process(me).expect("the kernel tells"), this_thread());
        let mut state = 1_u64;
        while this_thread() - before.2 < 100_000_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        assert_ne!(state, 0);
        assert!(own() - before.0 >= 100_000_000);
        // This thread's counts up to its last tick; that of other tests' threads may end and be gone.
        let counted = of_process(me).expect("the kernel tells");
        assert!(counted > 0 && spent(&[me]).is_some_and(|both| both > counted), "{counted}");
    }

    #[test]
    fn a_process_that_is_not_there_makes_the_sum_unknown() {
        assert!(spent(&[]).is_some());
        assert_eq!(spent(&[u32::MAX]), None);
    }
}
