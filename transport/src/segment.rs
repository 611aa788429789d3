//! Memory that another process writes and this one reads.
//!
//! Owns the mapping, and verifies what a descriptor refers to before it maps it: a file that its sender could shorten would be a
//! signal to whoever reads it. Which bytes are meant, and until when, it does not know.

use std::io;
use std::os::fd::AsFd;

use thiserror::Error;

use crate::attachment::{Attachment, AttachmentKind, PageSize, Seals};
use crate::sys::map::View;

/// A segment of the pool lane, mapped to be read (SPEC.md, "Lanes").
///
/// What it gives as `&[u8]` must not change meanwhile. So it is for a reader whose writer is the daemon, which writes no slot
/// that is leased; a daemon maps no peer's memory.
#[derive(Clone, Debug)]
pub struct SharedSegment(View);

/// Why a descriptor is no segment.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SegmentFault {
    /// It is no file in memory, or one of huge pages.
    #[error("the descriptor is no ordinary file in memory")]
    Kind,
    /// Its sender could shorten it, or somebody else than its sender could write it.
    #[error("the file lacks seals")]
    Seals,
    /// It has another size than was announced, or more than this machine can map.
    #[error("the file has {has} bytes and not {announced}")]
    Size {
        /// As the kernel says.
        has: u64,
        /// As the sender said.
        announced: u64,
    },
    /// The machine refused.
    #[error("the file can't be mapped")]
    Io(#[from] io::Error),
}

impl SharedSegment {
    /// Verifies and maps a segment that was announced with `len` bytes. The descriptor is closed.
    ///
    /// # Errors
    ///
    /// What keeps it from being one.
    pub fn map(file: &Attachment, len: u64) -> Result<Self, SegmentFault> {
        let AttachmentKind::MemoryFile { seals, pages: PageSize::Normal } = file.kind()? else {
            return Err(SegmentFault::Kind);
        };
        let is_fixed = seals.contains(Seals::SHRINK.and(Seals::GROW));
        let is_read_only = seals.contains(Seals::FUTURE_WRITE) || seals.contains(Seals::WRITE);
        if !is_fixed || !is_read_only {
            return Err(SegmentFault::Seals);
        }
        // Sealed, so it stays what it is now.
        let has = file.size()?;
        let size = usize::try_from(len).ok().filter(|_| has == len && len > 0);
        let size = size.ok_or(SegmentFault::Size { has, announced: len })?;
        Ok(SharedSegment(View::shared(file.as_fd(), size)?))
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::{SegmentFault, SharedSegment};
    use crate::attachment::Attachment;

    fn memory(len: u64, seals: SealFlags) -> Attachment {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
        ftruncate(&file, len).expect("sized");
        fcntl_add_seals(&file, seals).expect("sealed");
        file.into()
    }

    fn all() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE
    }

    #[test]
    fn each_seal_is_asked_for() {
        for lacking in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE] {
            let fault = SharedSegment::map(&memory(4096, all() - lacking), 4096).expect_err("a seal lacks");
            assert!(matches!(fault, SegmentFault::Seals), "{lacking:?}: {fault}");
        }
        assert_eq!(SharedSegment::map(&memory(4096, all()), 4096).expect("whole").bytes(), [0; 4096]);
        let written = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        SharedSegment::map(&memory(4096, written), 4096).expect("nobody writes it");
    }

    #[test]
    fn another_size_than_announced_is_refused() {
        // A sparse file costs its sender nothing, whatever its size.
        for (has, announced) in [(4096, 8192), (8192, 4096), (1 << 40, 4096), (0, 0)] {
            let fault = SharedSegment::map(&memory(has, all()), announced).expect_err("another size");
            assert!(matches!(fault, SegmentFault::Size { .. }), "{has} {announced}: {fault}");
        }
    }

    #[test]
    fn what_is_no_memory_file_is_refused() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[1; 4096]).expect("written");
        let fault = SharedSegment::map(&Attachment::from(OwnedFd::from(file)), 4096).expect_err("a file");
        // The temporary directory may lie in memory: then the file is one without seals.
        assert!(matches!(fault, SegmentFault::Kind | SegmentFault::Seals), "{fault}");
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let fault = SharedSegment::map(&Attachment::from(OwnedFd::from(reader)), 4096).expect_err("a pipe");
        assert!(matches!(fault, SegmentFault::Kind), "{fault}");
        let null = Attachment::from(OwnedFd::from(File::open("/dev/null").expect("opened")));
        assert!(matches!(SharedSegment::map(&null, 4096), Err(SegmentFault::Kind)));
    }
}
