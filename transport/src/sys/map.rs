//! Memory that two processes see: mapped once, and handed out in pieces that exclude each other.

use std::ffi::c_void;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// How a file is mapped. Pages are there from the beginning in each case: a page fault costs more than a page's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By its one writer.
    Written,
    /// By a reader, who sees what the writer writes.
    Shared,
}

/// One mapping of a whole file.
#[derive(Debug)]
struct Mapping {
    address: NonNull<c_void>,
    len: usize,
}

// JUSTIFICATION: a mapping belongs to the process; the pointer in it keeps the compiler from knowing that.
// SAFETY: nothing in it has to do with the thread that made it; `munmap` may be called from any.
unsafe impl Send for Mapping {}
// JUSTIFICATION: as above.
// SAFETY: a shared reference gives the address and the length only, which never change.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, len: usize, kind: Kind) -> io::Result<Self> {
        let (access, flags) = match kind {
            Kind::Written => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED),
            Kind::Shared => (ProtFlags::READ, MapFlags::SHARED),
        };
        let flags = flags | populated();
        // JUSTIFICATION: rustix's `mmap` is unsafe, as every mapping is.
        // SAFETY: without a wished address the kernel picks one where nothing is mapped.
        let address = unsafe { mmap(ptr::null_mut(), len, access, flags, file, 0) }?;
        let address = NonNull::new(address)
            .ok_or_else(|| io::Error::other("the kernel mapped a file at the address 0"))?;
        Ok(Mapping { address, len })
    }

    fn start(&self) -> *mut u8 {
        self.address.as_ptr().cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // JUSTIFICATION: rustix's `munmap` is unsafe, as references into the mapping would dangle.
        // SAFETY: address and length are those of `mmap`, and each reference into the mapping borrows from an owner of it.
        let unmapped = unsafe { munmap(self.address.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(target_os = "linux")]
fn populated() -> MapFlags {
    MapFlags::POPULATE
}

#[cfg(not(target_os = "linux"))]
fn populated() -> MapFlags {
    MapFlags::empty()
}

/// A piece of memory of which there is one owner in this process: nobody else here reads or writes it.
///
/// Another process may read it at any time, which is no concern of this one's.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl Region {
    /// Maps all of a file of `len` bytes for writing, and cuts it into pieces of `piece` bytes; what is left over belongs to
    /// none. The file must have room for `len` bytes, and nothing may shrink it.
    pub(crate) fn carve(file: BorrowedFd<'_>, len: usize, piece: usize) -> io::Result<Vec<Region>> {
        if piece == 0 || piece > len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a piece of no bytes, or of more than all",
            ));
        }
        let mapping = Arc::new(Mapping::new(file, len, Kind::Written)?);
        let offsets = (0..len / piece).map(|index| index * piece);
        Ok(offsets.map(|offset| Region { mapping: Arc::clone(&mapping), offset, len: piece }).collect())
    }

    /// Where in its file it begins.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// The addresses of its whole mapping.
    pub(crate) fn mapped(&self) -> Range<usize> {
        let start = self.mapping.start() as usize;
        start..start + self.mapping.len
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // JUSTIFICATION: the memory is of no Rust object.
        // SAFETY: `carve` gives each region bytes inside the mapping that no other region has, the mapping lives as long as
        // this does, and the file is as large as the mapping for ever. No other process can write it: it is sealed before
        // it is sent, and a `Region` is made of a file of one's own only.
        unsafe { std::slice::from_raw_parts(self.mapping.start().add(self.offset), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // JUSTIFICATION: as for `deref`.
        // SAFETY: as for `deref`; and `self` is borrowed exclusively, so no reference to these bytes is alive.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start().add(self.offset), self.len) }
    }
}

/// A whole file, mapped to be read.
#[derive(Clone, Debug)]
pub(crate) struct View(Arc<Mapping>);

impl View {
    /// Maps a file which its one writer still writes. The caller has verified that it has `len` bytes, can't shrink, and that
    /// nobody but its writer can write it.
    pub(crate) fn shared(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Ok(View(Arc::new(Mapping::new(file, len, Kind::Shared)?)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // JUSTIFICATION: the memory is of no Rust object.
        // SAFETY: the mapping lives as long as this does and the file can't shrink, so all of it can be read. Its bytes do not
        // change while they are looked at: the writer is the daemon, which this process relies on anyway and which writes no
        // slot that is leased (SPEC.md, "Lanes").
        unsafe { std::slice::from_raw_parts(self.0.start(), self.0.len) }
    }
}
