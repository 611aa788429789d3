//! Unix systems other than Linux: the seam where macOS and the BSDs come in.
//!
//! Nothing is implemented yet, and each function says so rather than do half of it: without `MSG_CMSG_CLOEXEC` a received
//! descriptor leaks into a program started at the wrong moment, and identity comes from `getpeereid` and `LOCAL_PEERPID`,
//! with other guarantees than Linux gives.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::SendFlags;

pub(super) fn receive_flags() -> io::Result<libc::c_int> {
    Err(unsupported())
}

pub(super) fn send_flags() -> io::Result<SendFlags> {
    Err(unsupported())
}

pub(crate) fn peer_user(_socket: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    Err(unsupported())
}

pub(crate) fn peer_groups(_socket: BorrowedFd<'_>, _into: &mut [u32]) -> io::Result<usize> {
    Err(unsupported())
}

pub(crate) fn peer_pidfd(_socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Err(unsupported())
}

pub(crate) fn pass_rights(_socket: BorrowedFd<'_>, _passes: bool) -> io::Result<()> {
    Err(unsupported())
}

/// No file of this system has seals.
pub(crate) fn seals(_file: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    Ok(None)
}

pub(crate) fn is_huge_page_file(_file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// No file of this system has seals, and without them nobody may map it.
pub(crate) fn create_sealed<T>(
    _name: &str,
    _len: u64,
    _seals: u32,
    _fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<(OwnedFd, T)> {
    Err(unsupported())
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "invoked's sockets are implemented for Linux only so far")
}
