//! Descriptors that this process was started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes descriptor 3, once in the life of the process, if `LISTEN_PID` of the process's environment says that it was passed
/// to this process; `None` if it was taken before or was not passed.
///
/// An error when it was announced and isn't there.
pub(crate) fn take_first() -> io::Result<Option<OwnedFd>> {
    // Read here and not from the caller, since taking a descriptor that is another owner's would be unsound.
    let announced = std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    if !announced || TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(None);
    }
    // JUSTIFICATION: rustix and std ask for a descriptor that is known to be open, which is the question here.
    // SAFETY: F_GETFD only looks the number up.
    if unsafe { libc::fcntl(FIRST, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // JUSTIFICATION: std has no safe way to take over a descriptor that is known by its number only.
    // SAFETY: it is open, and whoever started the process passed it to it (`LISTEN_PID`), so that nothing in this process
    // opened it and nothing else owns it; the flag above lets it be taken once.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(FIRST) }))
}
