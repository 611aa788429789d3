//! A file descriptor that came from, or goes to, a peer.
//!
//! Owns it, and tells what it is. It does not decide what is acceptable: the caller compares kind, seals, access and size
//! with what it was promised, before it uses the descriptor in any way.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::{Errno, pread};

use crate::sys;

/// Why a descriptor is there.
const THERE: &str = "only dropping it and giving it up take it";

/// A file descriptor received from a peer or ready to be sent; closed when dropped, by its [`Closer`] if it has one.
///
/// A received one is close-on-exec from its first moment. Nothing is known of what it refers to until it is asked.
#[derive(Debug)]
pub struct Attachment {
    /// There until it is dropped or given up.
    fd: Option<OwnedFd>,
    closer: Option<Arc<dyn Closer>>,
}

/// Closes the file descriptors of a peer where that may take its time: what is behind one may hold up whoever closes it,
/// for as long as it likes.
pub trait Closer: fmt::Debug + Send + Sync {
    /// One came.
    fn note_opened(&self);

    /// Closes one. It never waits.
    fn close(&self, fd: OwnedFd);
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let (Some(closer), Some(fd)) = (&self.closer, self.fd.take()) {
            closer.close(fd);
        }
    }
}

impl Attachment {
    /// What the descriptor refers to.
    ///
    /// # Errors
    ///
    /// The errors of `fstat(2)`, `fcntl(2)` and `fstatfs(2)`.
    pub fn kind(&self) -> io::Result<AttachmentKind> {
        let status = fstat(self.fd())?;
        Ok(match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => self.file_kind()?,
            FileType::Directory => AttachmentKind::Directory,
            FileType::Fifo => AttachmentKind::Pipe,
            FileType::Socket => AttachmentKind::Socket,
            _ => AttachmentKind::Other,
        })
    }

    /// The size of the file in bytes; 0 for what has none.
    ///
    /// For memory that isn't sealed against it, the size may differ the next moment.
    ///
    /// # Errors
    ///
    /// The errors of `fstat(2)`.
    pub fn size(&self) -> io::Result<u64> {
        // A size below zero would be a fault of the file system; none is safe to report.
        u64::try_from(fstat(self.fd())?.st_size)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file has a negative size"))
    }

    /// What the descriptor allows its holder to do, whatever the file's mode says.
    ///
    /// # Errors
    ///
    /// The errors of `fcntl(2)`.
    pub fn access(&self) -> io::Result<AccessMode> {
        let flags = fcntl_getfl(self.fd())?;
        if flags.contains(OFlags::PATH) {
            return Ok(AccessMode::None);
        }
        Ok(match flags & OFlags::ACCMODE {
            OFlags::RDONLY => AccessMode::Read,
            OFlags::WRONLY => AccessMode::Write,
            OFlags::RDWR => AccessMode::ReadWrite,
            // Linux has a fourth mode, 3, which allows ioctl only.
            _ => AccessMode::None,
        })
    }

    /// Gives up the wrapper.
    #[must_use]
    pub fn into_fd(mut self) -> OwnedFd {
        self.fd.take().expect(THERE)
    }

    /// Lets `closer` close it, and tells it that there is one more.
    pub(crate) fn closed_by(mut self, closer: &Arc<dyn Closer>) -> Self {
        closer.note_opened();
        self.closer = Some(Arc::clone(closer));
        self
    }

    /// Reads `len` bytes from `offset` on, whatever the file's own position; `None` if there are fewer. It waits as long as the
    /// file makes it.
    ///
    /// # Errors
    ///
    /// The errors of `pread(2)`; `OutOfMemory` if there is no memory for so much.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        while bytes.len() < len {
            let Some(at) = offset.checked_add(bytes.len() as u64) else { return Ok(None) };
            match pread(self.fd(), spare_capacity(&mut bytes), at) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The allocator may have given more room than it was asked for.
        bytes.truncate(len);
        Ok(Some(bytes))
    }

    fn fd(&self) -> &OwnedFd {
        self.fd.as_ref().expect(THERE)
    }

    /// Makes a second descriptor, close-on-exec, of the same open file.
    ///
    /// # Errors
    ///
    /// The errors of `fcntl(2)`, `EMFILE` above all.
    pub fn duplicate(&self) -> io::Result<Self> {
        self.fd().try_clone().map(Self::from)
    }

    fn file_kind(&self) -> io::Result<AttachmentKind> {
        let Some(bits) = sys::seals(self.fd().as_fd())? else { return Ok(AttachmentKind::RegularFile) };
        let pages =
            if sys::is_huge_page_file(self.fd().as_fd())? { PageSize::Huge } else { PageSize::Normal };
        Ok(AttachmentKind::MemoryFile { seals: Seals(bits), pages })
    }
}

impl From<OwnedFd> for Attachment {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), closer: None }
    }
}

impl From<Attachment> for OwnedFd {
    fn from(attachment: Attachment) -> Self {
        attachment.into_fd()
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd().as_fd()
    }
}

impl AsRawFd for Attachment {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

/// What a file descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachmentKind {
    /// A file on a disk, or on another file system without seals.
    RegularFile,
    /// A file in memory: a memfd, or a file on a tmpfs, which answers for its seals too and never has more than `SEAL`.
    MemoryFile {
        /// What can't be done to it any more.
        seals: Seals,
        /// The pages that it is made of.
        pages: PageSize,
    },
    /// A directory: whoever holds it may reach what lies in it.
    Directory,
    /// A pipe or FIFO.
    Pipe,
    /// A socket of any kind.
    Socket,
    /// Anything else: a device, an eventfd, an epoll, a pidfd …
    Other,
}

/// The pages that a file in memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// The system's ordinary pages.
    Normal,
    /// Huge pages (hugetlbfs), which come from a pool of their own and can run out at a page fault.
    Huge,
}

/// The seals of a file in memory, as a bit mask (`fcntl(2)`, `F_GET_SEALS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seals(u32);

impl Seals {
    /// No more seals can be added.
    pub const SEAL: Self = Self(0x01);
    /// The file can't become smaller.
    pub const SHRINK: Self = Self(0x02);
    /// The file can't become larger.
    pub const GROW: Self = Self(0x04);
    /// The contents can't change.
    pub const WRITE: Self = Self(0x08);
    /// The contents can change only through mappings that were there before the seal.
    pub const FUTURE_WRITE: Self = Self(0x10);
    /// The executable bits can't change (kernel 6.3).
    pub const EXEC: Self = Self(0x20);

    /// Both sets of seals.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether each of `wanted` is set.
    #[must_use]
    pub const fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// What a file descriptor allows its holder to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// Neither reading nor writing (`O_PATH`).
    None,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

/// Why the kernel would not take descriptors from [`Stream::try_write`](crate::Stream::try_write), where bytes alone would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FdRefusal {
    /// Too many descriptors of this uid's are on their way (`ETOOMANYREFS`); the body can go inline instead.
    TooManyInFlight,
    /// The receiver has turned descriptors off ([`Stream::refuse_fds`](crate::Stream::refuse_fds)).
    ReceiverRefuses,
}

impl FdRefusal {
    /// Reads the refusal from the error of a write that carried descriptors; `None` for any other error.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::TOOMANYREFS => Some(Self::TooManyInFlight),
            Errno::PERM => Some(Self::ReceiverRefuses),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};

    use super::{AccessMode, Attachment, AttachmentKind, FdRefusal, PageSize, Seals};

    fn opened(path: &str, flags: OFlags) -> Attachment {
        open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect(path).into()
    }

    #[test]
    fn a_memory_file_tells_its_seals_and_size() {
        let memory = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
        let mut file = File::from(memory);
        file.write_all(b"twelve bytes").expect("written");
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).expect("sealed");
        let attachment = Attachment::from(OwnedFd::from(file));

        let AttachmentKind::MemoryFile { seals, pages } = attachment.kind().expect("kind") else {
            panic!("a memfd is a memory file");
        };
        assert!(seals.contains(Seals::SHRINK.and(Seals::GROW)));
        assert!(!seals.contains(Seals::SHRINK.and(Seals::WRITE)), "each wanted seal must be there");
        assert_eq!(pages, PageSize::Normal);
        assert_eq!(attachment.size().expect("size"), 12);
        assert_eq!(attachment.access().expect("access"), AccessMode::ReadWrite);
    }

    #[test]
    fn other_kinds_are_told_apart() {
        let kind = |attachment: &Attachment| attachment.kind().expect("kind");
        let file = Attachment::from(OwnedFd::from(tempfile::tempfile().expect("a file")));
        // The temporary directory may lie on a disk or in memory.
        assert!(matches!(
            kind(&file),
            AttachmentKind::RegularFile | AttachmentKind::MemoryFile { seals: Seals::SEAL, .. }
        ));
        assert_eq!(kind(&opened("/", OFlags::RDONLY)), AttachmentKind::Directory);
        assert_eq!(kind(&opened("/dev/null", OFlags::RDONLY)), AttachmentKind::Other);
        let (reader, writer) = io::pipe().expect("a pipe");
        let (reader, writer) =
            (Attachment::from(OwnedFd::from(reader)), Attachment::from(OwnedFd::from(writer)));
        assert_eq!(kind(&reader), AttachmentKind::Pipe);
        assert_eq!(reader.access().expect("access"), AccessMode::Read);
        assert_eq!(writer.access().expect("access"), AccessMode::Write);
        assert_eq!(opened("/", OFlags::PATH).access().expect("access"), AccessMode::None);
    }

    #[test]
    fn refusals_are_read_from_their_errno() {
        let refusal = |errno| FdRefusal::of(&io::Error::from_raw_os_error(errno));
        assert_eq!(refusal(libc::ETOOMANYREFS), Some(FdRefusal::TooManyInFlight));
        assert_eq!(refusal(libc::EPERM), Some(FdRefusal::ReceiverRefuses));
        assert_eq!(refusal(libc::EPIPE), None);
        assert_eq!(FdRefusal::of(&io::Error::other("no errno")), None);
    }
}
