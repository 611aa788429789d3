//! Memory and files of a peer's that this process reads and never maps.
//!
//! Owns the descriptor, and verifies what it refers to before a byte of it is read. What a peer can shorten or change
//! meanwhile is a short read or other bytes, and never a signal. Which bytes are meant is the caller's to know.

use std::io;

use thiserror::Error;

use crate::attachment::{AccessMode, Attachment, AttachmentKind, PageSize, Seals};

/// A file of a peer's, verified to be what it was said to be.
#[derive(Debug)]
pub struct PeerFile {
    file: Attachment,
    kind: PeerFileKind,
}

/// What a [`PeerFile`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFileKind {
    /// A segment of the pool lane: its writer goes on writing it.
    Segment,
    /// A sealed memory file: nobody can change it.
    Sealed,
    /// A regular file, which may change in any way, and whose reading may take as long as its file system likes.
    Regular,
}

/// Why a descriptor of a peer's is not what it was said to be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeerFileFault {
    /// It is no file in memory, or one of huge pages.
    #[error("the descriptor is no ordinary file in memory")]
    NoMemory,
    /// It is no regular file.
    #[error("the descriptor is no regular file")]
    NoFile,
    /// It can't be read.
    #[error("the descriptor can't be read from")]
    NoAccess,
    /// Somebody could shorten it, or change what must not change.
    #[error("the file lacks seals")]
    Seals,
    /// It has another size than was announced.
    #[error("the file has {has} bytes and not {announced}")]
    Size {
        /// As the kernel says.
        has: u64,
        /// As the sender said.
        announced: u64,
    },
    /// It has become shorter than was announced.
    #[error("the file ends before {0} bytes could be read")]
    Short(u64),
    /// The machine refused.
    #[error("the file can't be read: {0}")]
    Io(#[from] io::Error),
}

impl PeerFile {
    /// A segment that was announced with `len` bytes: memory of ordinary pages that nobody can shorten, and that only its
    /// writer can write.
    ///
    /// # Errors
    ///
    /// What keeps it from being one. The descriptor is closed then.
    pub fn segment(file: Attachment, len: u64) -> Result<Self, PeerFileFault> {
        let seals = memory(&file)?;
        let is_read_only = seals.contains(Seals::FUTURE_WRITE) || seals.contains(Seals::WRITE);
        if !seals.contains(Seals::SHRINK.and(Seals::GROW).and(Seals::SEAL)) || !is_read_only {
            return Err(PeerFileFault::Seals);
        }
        Self::of_size(file, len, PeerFileKind::Segment)
    }

    /// A sealed memory file of exactly `len` bytes: of ordinary pages, and neither its size nor its bytes can change.
    ///
    /// # Errors
    ///
    /// As [`segment`](Self::segment).
    pub fn sealed(file: Attachment, len: u64) -> Result<Self, PeerFileFault> {
        if !memory(&file)?.contains(Seals::SHRINK.and(Seals::GROW).and(Seals::WRITE)) {
            return Err(PeerFileFault::Seals);
        }
        Self::of_size(file, len, PeerFileKind::Sealed)
    }

    /// A regular file, on a disk or in memory.
    ///
    /// # Errors
    ///
    /// As [`segment`](Self::segment).
    pub fn regular(file: Attachment) -> Result<Self, PeerFileFault> {
        match kind(&file)? {
            AttachmentKind::RegularFile | AttachmentKind::MemoryFile { pages: PageSize::Normal, .. } => {
                Ok(PeerFile { file, kind: PeerFileKind::Regular })
            }
            _ => Err(PeerFileFault::NoFile),
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> PeerFileKind {
        self.kind
    }

    /// Reads `len` bytes from `offset` on. Memory is had for all of them first, so they are charged before.
    ///
    /// # Errors
    ///
    /// [`PeerFileFault::Short`] if there are fewer; the errors of `pread(2)`.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, PeerFileFault> {
        self.file.read_at(offset, len)?.ok_or(PeerFileFault::Short(len as u64))
    }

    fn of_size(file: Attachment, announced: u64, kind: PeerFileKind) -> Result<Self, PeerFileFault> {
        // Sealed, so it stays what it is now.
        let has = file.size()?;
        if has == announced {
            Ok(PeerFile { file, kind })
        } else {
            Err(PeerFileFault::Size { has, announced })
        }
    }
}

/// What a file is that can be read.
fn kind(file: &Attachment) -> Result<AttachmentKind, PeerFileFault> {
    match file.access()? {
        AccessMode::Read | AccessMode::ReadWrite => Ok(file.kind()?),
        AccessMode::None | AccessMode::Write => Err(PeerFileFault::NoAccess),
    }
}

/// The seals of a file in memory.
fn memory(file: &Attachment) -> Result<Seals, PeerFileFault> {
    match kind(file)? {
        AttachmentKind::MemoryFile { seals, pages: PageSize::Normal } => Ok(seals),
        _ => Err(PeerFileFault::NoMemory),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open};
    use rustix::io::Errno;

    use super::{PeerFile, PeerFileFault, PeerFileKind};
    use crate::attachment::Attachment;

    const MIB: u64 = 1 << 20;

    fn memory(len: u64, seals: SealFlags) -> Attachment {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
        ftruncate(&file, len).expect("sized");
        fcntl_add_seals(&file, seals).expect("sealed");
        file.into()
    }

    fn of_segments() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
    }

    fn sealed() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
    }

    #[test]
    fn each_seal_is_asked_for() {
        for lacking in of_segments().iter() {
            let fault =
                PeerFile::segment(memory(4096, of_segments() - lacking), 4096).expect_err("a seal lacks");
            assert!(matches!(fault, PeerFileFault::Seals), "{lacking:?}: {fault}");
        }
        assert!(PeerFile::segment(memory(4096, of_segments()), 4096).is_ok());
        for lacking in sealed().iter() {
            let fault = PeerFile::sealed(memory(4096, sealed() - lacking), 4096).expect_err("a seal lacks");
            assert!(matches!(fault, PeerFileFault::Seals), "{lacking:?}: {fault}");
        }
        let part = PeerFile::sealed(memory(4096, sealed()), 4096).expect("whole");
        assert_eq!((part.kind(), part.read(0, 4096).expect("read")), (PeerFileKind::Sealed, vec![0; 4096]));
    }

    #[test]
    fn another_size_than_announced_is_refused() {
        for (has, announced) in [(4096, 8192), (8192, 4096), (1 << 40, 4096), (1 << 40, MIB)] {
            for verify in [PeerFile::segment, PeerFile::sealed] {
                let fault =
                    verify(memory(has, of_segments() | sealed()), announced).expect_err("another size");
                assert!(matches!(fault, PeerFileFault::Size { .. }), "{has} {announced}: {fault}");
            }
        }
    }

    #[test]
    fn what_is_no_memory_file_is_no_segment() {
        let file = || Attachment::from(OwnedFd::from(tempfile::tempfile().expect("a file")));
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let (near, _far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let others: [(OwnedFd, &str); 3] = [
            (reader.into(), "a pipe"),
            (near.into(), "a socket"),
            (File::open("/").expect("opened").into(), "a directory"),
        ];
        for (fd, what) in others {
            let copy = fd.try_clone().expect("a copy");
            assert!(matches!(PeerFile::segment(copy.into(), 4096), Err(PeerFileFault::NoMemory)), "{what}");
            assert!(matches!(PeerFile::regular(fd.into()), Err(PeerFileFault::NoFile)), "{what}");
        }
        // The temporary directory may lie in memory: then the file is one without seals.
        let fault = PeerFile::segment(file(), 0).expect_err("a file");
        assert!(matches!(fault, PeerFileFault::NoMemory | PeerFileFault::Seals), "{fault}");
        assert!(PeerFile::regular(file()).is_ok());
    }

    #[test]
    fn a_file_on_a_tmpfs_has_seals_and_not_those() {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(format!("/dev/shm/invoked-test-{}", std::process::id()));
        let file = match file {
            Ok(file) => file,
            Err(error) => return eprintln!("there is no /dev/shm to try: {error}"),
        };
        std::fs::remove_file(format!("/dev/shm/invoked-test-{}", std::process::id())).expect("removed");
        file.set_len(4096).expect("sized");
        let attached = || Attachment::from(OwnedFd::from(file.try_clone().expect("a copy")));
        assert!(matches!(PeerFile::segment(attached(), 4096), Err(PeerFileFault::Seals)));
        assert!(matches!(PeerFile::sealed(attached(), 4096), Err(PeerFileFault::Seals)));
        assert_eq!(PeerFile::regular(attached()).expect("a file").read(0, 10).expect("read"), [0; 10]);
    }

    #[test]
    fn huge_pages_are_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        let file = match memfd_create("test", flags) {
            Ok(file) => file,
            Err(error) => return eprintln!("this machine makes no files of huge pages: {error}"),
        };
        // None of them need be there: the size alone takes none.
        ftruncate(&file, 2 * MIB).expect("sized");
        let attached = || Attachment::from(file.try_clone().expect("a copy"));
        assert!(matches!(PeerFile::segment(attached(), 2 * MIB), Err(PeerFileFault::NoMemory)));
        assert!(matches!(PeerFile::sealed(attached(), 2 * MIB), Err(PeerFileFault::NoMemory)));
        assert!(matches!(PeerFile::regular(attached()), Err(PeerFileFault::NoFile)));
    }

    #[test]
    fn what_can_not_be_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, b"bytes").expect("written");
        for flags in [OFlags::WRONLY, OFlags::PATH] {
            let fd = open(&path, flags | OFlags::CLOEXEC, Mode::empty()).expect("opened");
            let fault = PeerFile::regular(fd.into()).expect_err("it can't be read");
            assert!(matches!(fault, PeerFileFault::NoAccess), "{flags:?}: {fault}");
        }
    }

    #[test]
    fn a_part_is_read_where_it_is_and_a_short_one_is_told() {
        let mut file = tempfile::tempfile().expect("a file");
        // The file's own position is behind its bytes.
        file.write_all(b"0123456789").expect("written");
        let part =
            PeerFile::regular(OwnedFd::from(file.try_clone().expect("a copy")).into()).expect("a file");
        assert_eq!(part.read(2, 5).expect("read"), b"23456");
        for (offset, len) in [(6, 5), (10, 1), (u64::MAX - 1, 4)] {
            let fault = part.read(offset, len).expect_err("there are fewer");
            let out_of_range = matches!(&fault, PeerFileFault::Io(error) if Errno::from_io_error(error) == Some(Errno::INVAL));
            assert!(matches!(fault, PeerFileFault::Short(_)) || out_of_range, "{offset} {len}: {fault}");
        }
        file.set_len(4).expect("cut");
        assert!(matches!(part.read(2, 5), Err(PeerFileFault::Short(5))));
    }
}
