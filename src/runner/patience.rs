//! Whether an inline handler held the loop too long.
//!
//! The clock alone would blame commands for what other processes do: on a machine with more to do than it has processors, any
//! run may lose its processor for a time slice. So a run that takes long only has the next ones measured, at two system calls
//! each, and those that take long count if the thread computed or slept meanwhile. In the steady state nothing is measured.

use std::time::Duration;

use invoked_transport::ThreadUse;

use crate::commands::RegisteredCommand;

/// A run that takes longer is too long for the loop.
const PATIENCE: Duration = Duration::from_millis(5);

/// One run of an inline handler.
pub(super) struct Watch {
    /// What the thread had used before; `None` if this run is not measured.
    before: Option<ThreadUse>,
}

impl Watch {
    /// The run begins.
    pub(super) fn begin(command: &RegisteredCommand) -> Self {
        Watch { before: if command.is_watched() { ThreadUse::now() } else { None } }
    }

    /// The run took so long; true if that is once too often.
    pub(super) fn end(self, command: &RegisteredCommand, took: Duration) -> bool {
        self.end_with(command, took, ThreadUse::now)
    }

    fn end_with(
        self,
        command: &RegisteredCommand,
        took: Duration,
        now: impl FnOnce() -> Option<ThreadUse>,
    ) -> bool {
        if took <= PATIENCE {
            return command.held_the_loop(false);
        }
        command.watch();
        match (self.before, now()) {
            (Some(before), Some(after)) => command.held_the_loop(held(before, after)),
            // The first one is not counted, unless none could be measured.
            (None, Some(_)) => false,
            (_, None) => command.held_the_loop(true),
        }
    }
}

/// Whether the thread itself was busy, or waited for something, and was not just without a processor.
fn held(before: ThreadUse, after: ThreadUse) -> bool {
    after.waits > before.waits || after.processor.saturating_sub(before.processor) > PATIENCE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use invoked_transport::ThreadUse;

    use super::{PATIENCE, Watch};
    use crate::commands::RegisteredCommand;
    use crate::ipc::{Command, Response};

    const LONG: Duration = Duration::from_millis(6);

    fn command() -> RegisteredCommand {
        RegisteredCommand::alone(Command::inline("quick", |_| Ok(Response::json("x")?)))
    }

    fn used(processor: Duration, waits: u64) -> ThreadUse {
        ThreadUse { processor, waits }
    }

    /// Runs so often that take long, in which the thread uses so much; whether that demoted the command.
    fn run(command: &RegisteredCommand, runs: u32, used_by_one: ThreadUse) -> bool {
        let mut demoted = false;
        for _ in 0..runs {
            let before = command.is_watched().then(|| used(Duration::from_secs(1), 10));
            let after = used(Duration::from_secs(1) + used_by_one.processor, 10 + used_by_one.waits);
            demoted |= Watch { before }.end_with(command, LONG, || Some(after));
        }
        demoted
    }

    #[test]
    fn a_run_that_lost_its_processor_is_not_blamed() {
        let command = command();
        assert!(!run(&command, 1000, used(Duration::from_millis(1), 0)));
        assert!(!command.is_demoted());
    }

    #[test]
    fn runs_that_compute_or_sleep_are_after_the_first() {
        for long in [used(PATIENCE + Duration::from_micros(1), 0), used(Duration::ZERO, 1)] {
            let command = command();
            assert!(!run(&command, 3, long), "the first is not measured");
            assert!(run(&command, 1, long), "three of which it is known");
            assert!(command.is_demoted());
        }
    }

    #[test]
    fn long_runs_far_from_each_other_are_not_counted_together() {
        let command = command();
        for _ in 0..100 {
            assert!(!run(&command, 1, used(LONG, 0)));
            for _ in 0..64 {
                assert!(!Watch::begin(&command).end(&command, PATIENCE));
            }
            assert!(!command.is_watched(), "it is measured no more");
        }
    }

    #[test]
    fn where_nothing_can_be_measured_the_clock_counts() {
        let command = command();
        let end = || Watch { before: None }.end_with(&command, LONG, || None);
        assert_eq!([end(), end(), end()], [false, false, true]);
    }
}
