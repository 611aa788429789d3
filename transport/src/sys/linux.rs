//! What only Linux has: socket options that name the peer, and seals.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstatfs, memfd_create,
};
use rustix::net::SendFlags;

/// `SO_PASSRIGHTS`, kernel 6.16 (include/uapi/asm-generic/socket.h); `libc` knows it for SPARC only.
const SO_PASSRIGHTS: libc::c_int =
    if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x5c } else { 83 };

/// `recvmsg` marks what it installs close-on-exec in the same step, so that no other thread's exec can inherit it.
pub(super) fn receive_flags() -> io::Result<libc::c_int> {
    Ok(libc::MSG_CMSG_CLOEXEC)
}

/// A peer that is gone is an error and not a signal, and a full socket is `WouldBlock`.
pub(super) fn send_flags() -> io::Result<SendFlags> {
    Ok(SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// `SO_PEERCRED`: pid, uid and gid of the process that connected, or that listens.
pub(crate) fn peer_user(socket: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    // `struct ucred` is a pid_t, a uid_t and a gid_t. rustix's type for it can't hold the pid 0 that the kernel gives for
    // a peer outside of this pid namespace.
    let mut ucred = [0; 3];
    if read_option(socket, libc::SO_PEERCRED, &mut ucred)? != ucred.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel gave incomplete peer credentials",
        ));
    }
    Ok((ucred[0].cast_signed(), ucred[1], ucred[2]))
}

/// `SO_PEERGROUPS`: fills `into` with the peer's supplementary groups and gives their number.
///
/// `ERANGE` when there are more than fit.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>, into: &mut [u32]) -> io::Result<usize> {
    read_option(socket, libc::SO_PEERGROUPS, into)
}

/// `SO_PEERPIDFD`, kernel 6.5: a descriptor, close-on-exec, of the process that connected.
pub(crate) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut pidfd = [u32::MAX];
    let read = read_option(socket, libc::SO_PEERPIDFD, &mut pidfd)?;
    let raw = pidfd[0].cast_signed();
    if read != 1 || raw < 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel gave no pidfd"));
    }
    // JUSTIFICATION: no crate in use wraps SO_PEERPIDFD.
    // SAFETY: the kernel has just installed this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Bounds of the allocator, in bytes but for the last.
#[cfg(target_env = "gnu")]
pub(crate) struct AllocatorBounds {
    /// From here on memory is mapped for itself.
    pub(crate) mapped_from: libc::c_int,
    /// At the end of an arena, so much is kept.
    pub(crate) kept: libc::c_int,
    /// How many arenas threads share.
    pub(crate) arenas: libc::c_int,
}

/// `mallopt`, three times.
#[cfg(target_env = "gnu")]
pub(crate) fn bound_allocator(bounds: AllocatorBounds) {
    let AllocatorBounds { mapped_from, kept, arenas } = bounds;
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, mapped_from), (libc::M_TRIM_THRESHOLD, kept), (libc::M_ARENA_MAX, arenas)]
    {
        // JUSTIFICATION: no crate in use wraps it, and without it the allocator keeps what one burst of messages took.
        // SAFETY: it takes numbers only; a value that it refuses leaves the setting as it is, which is no error here.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// `malloc_trim`: gives whole pages of freed memory back.
#[cfg(target_env = "gnu")]
pub(crate) fn trim_allocator() {
    // JUSTIFICATION: no crate in use wraps it, and without it a daemon keeps for ever what one burst of messages took.
    // SAFETY: it takes no pointer, and takes the allocator's own locks; whether pages were released is of no interest.
    unsafe { libc::malloc_trim(0) };
}

/// `SO_PASSRIGHTS`, kernel 6.16: if it is off, the kernel refuses descriptors that a peer tries to send to this socket.
pub(crate) fn pass_rights(socket: BorrowedFd<'_>, passes: bool) -> io::Result<()> {
    let passes = libc::c_int::from(passes);
    // JUSTIFICATION: no crate in use wraps SO_PASSRIGHTS.
    // SAFETY: the pointer and the length are those of `passes`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const passes).cast(),
            size_of_u32s(1)?,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `F_GET_SEALS` as a bit mask, or `None` for a file that can't have seals.
pub(crate) fn seals(file: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    match fcntl_get_seals(file) {
        Ok(seals) => Ok(Some(seals.bits())),
        Err(rustix::io::Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a file in memory whose `len` bytes are there, lets `fill` map or write it, and then adds `seals`.
///
/// All memory is reserved first: a page that could not be had later would be a signal to whoever touches it.
pub(crate) fn create_sealed<T>(
    name: &str,
    len: u64,
    seals: u32,
    fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<(OwnedFd, T)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before kernel 6.3, which can't take the executable bit away.
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
        made => made?,
    };
    fallocate(&file, FallocateFlags::empty(), 0, len)?;
    let filled = fill(file.as_fd())?;
    fcntl_add_seals(&file, SealFlags::from_bits_retain(seals))?;
    Ok((file, filled))
}

/// Whether a file lies in huge pages, whose size and cost follow other rules.
pub(crate) fn is_huge_page_file(file: BorrowedFd<'_>) -> io::Result<bool> {
    // HUGETLBFS_MAGIC of include/uapi/linux/magic.h; the types of both sides differ between architectures.
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, clippy::useless_conversion)]
    let magic = fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    Ok(magic == HUGETLBFS_MAGIC)
}

/// Reads a socket option of 32-bit numbers and gives how many there were; `into` is the room for them.
fn read_option(socket: BorrowedFd<'_>, option: libc::c_int, into: &mut [u32]) -> io::Result<usize> {
    let mut length = size_of_u32s(into.len())?;
    // JUSTIFICATION: no crate in use wraps SO_PEERGROUPS and SO_PEERPIDFD, and see `peer_user` for SO_PEERCRED.
    // SAFETY: `into` is writable for `length` bytes, the kernel writes at most that many, and any bytes are a `u32`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            into.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((length as usize / size_of::<u32>()).min(into.len()))
}

fn size_of_u32s(count: usize) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(count.saturating_mul(size_of::<u32>()))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a socket option of more than 4 GiB"))
}
