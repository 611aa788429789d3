//! How often the same thing is logged: a peer that misbehaves must not fill the log, nor cost a full explanation each
//! time.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};

/// Lines of one kind that one uid may cause per [`WINDOW`].
const LINES: u32 = 5;

/// After this long without a line being due, the count begins anew.
const WINDOW: Duration = Duration::from_secs(10);

/// Kinds that are remembered at most; over it, those whose window has passed are forgotten, and then all.
const KINDS_MAX: usize = 4096;

/// Decides which lines are written. The time is an argument.
#[derive(Debug)]
pub(crate) struct LogLimit {
    kinds: HashMap<(u32, Cow<'static, str>), Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(crate) fn new() -> Self {
        LogLimit { kinds: HashMap::new() }
    }

    /// Whether a line of `kind`, caused by `uid`, is due; if so, how many were left out before it.
    pub(crate) fn due(&mut self, now: Instant, uid: u32, kind: impl Into<Cow<'static, str>>) -> Option<u64> {
        if self.kinds.len() >= KINDS_MAX {
            self.kinds.retain(|_, window| now.duration_since(window.since) < WINDOW);
            if self.kinds.len() >= KINDS_MAX {
                self.kinds.clear();
            }
        }
        let fresh = || Window { since: now, lines: 0, suppressed: 0 };
        let window = self.kinds.entry((uid, kind.into())).or_insert_with(fresh);
        if now.duration_since(window.since) >= WINDOW {
            window.since = now;
            window.lines = 0;
        }
        if window.lines >= LINES {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lines_of_a_kind_then_a_count_of_what_was_left_out() {
        let (mut limit, start) = (LogLimit::new(), Instant::now());
        let due: Vec<_> = (0..8).map(|_| limit.due(start, 1, "a")).collect();
        assert_eq!(due, [Some(0), Some(0), Some(0), Some(0), Some(0), None, None, None]);
        assert_eq!(limit.due(start, 1, "b"), Some(0), "another kind");
        assert_eq!(limit.due(start, 2, "a"), Some(0), "another uid");
        assert_eq!(limit.due(start + WINDOW, 1, "a"), Some(3));
        assert_eq!(limit.due(start + WINDOW, 1, "a"), Some(0));
    }

    #[test]
    fn kinds_that_a_peer_makes_up_do_not_add_up() {
        let (mut limit, now) = (LogLimit::new(), Instant::now());
        for kind in 0..3 * KINDS_MAX {
            assert!(limit.due(now, 1, kind.to_string()).is_some());
        }
        assert!(limit.kinds.len() <= KINDS_MAX);
    }
}
