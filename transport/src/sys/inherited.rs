//! Descriptors that this process was started with.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes descriptor 3, once in the life of the process.
///
/// The caller has checked that the environment says that it was passed to this process.
pub(crate) fn take_first() -> Option<OwnedFd> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    // JUSTIFICATION: std has no safe way to take over a descriptor that is known by its number only.
    // SAFETY: whoever started the process passed descriptor 3 to it (`LISTEN_PID`, `LISTEN_FDS`), so nothing in this
    // process opened it and nothing else owns it; the flag above lets it be taken once.
    Some(unsafe { OwnedFd::from_raw_fd(FIRST) })
}
