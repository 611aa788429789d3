//! What a peer's process was found to be when it connected, and whether it still is.
//!
//! Owns the hold on the process for as long as the connection lives. A process may run another program, or end and leave
//! its connection to others; a rule that looked at it means neither.

use invoked_transport::{ControlGroup, FileId, Process};

/// That a peer's process is what its rules say of it.
#[derive(Debug)]
pub(crate) struct ProcessClaim {
    process: Process,
    executable: Option<FileId>,
    /// Where it was found.
    group: Option<(ControlGroup, String)>,
}

impl ProcessClaim {
    pub(crate) fn new(
        process: Process,
        executable: Option<FileId>,
        group: Option<(ControlGroup, String)>,
    ) -> Self {
        ProcessClaim { process, executable, group }
    }

    /// Whether it holds now. One system call for each thing that was claimed.
    pub(super) fn holds(&self) -> bool {
        let runs = self.executable.is_none_or(|file| self.process.runs(file));
        let is_there = |(group, path): &(ControlGroup, String)| group.path().is_ok_and(|now| now == *path);
        runs && self.group.as_ref().is_none_or(is_there)
    }
}
