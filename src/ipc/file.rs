//! Results that are open files: the caller reads the file itself, and the daemon none of it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use invoked_proto::registry::{ErrorCode, limits};
use invoked_transport::SegmentBudget;

use super::error::Fault;

/// A part of an open regular file.
#[derive(Debug, Clone)]
pub(crate) struct FileBody(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    offset: u64,
    len: u64,
    /// Until the descriptor is sent.
    charge: Mutex<Option<FdCharge>>,
}

impl PartialEq for FileBody {
    /// Whether it is the same open file.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for FileBody {}

/// A file descriptor on its way to a peer; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct FdCharge(Arc<dyn SegmentBudget>);

impl FdCharge {
    /// Charges one, if it fits.
    pub(crate) fn new(budget: &Arc<dyn SegmentBudget>) -> Option<Self> {
        budget.charge(1).then(|| FdCharge(Arc::clone(budget)))
    }
}

impl Drop for FdCharge {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

impl FileBody {
    /// `len` bytes of `file` from `offset` on; `None` if the process has no descriptor left for it.
    pub(super) fn new(file: &File, offset: u64, len: u64, charge: FdCharge) -> Option<Self> {
        let charge = Mutex::new(Some(charge));
        Some(FileBody(Arc::new(Inner { file: file.try_clone().ok()?, offset, len, charge })))
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.0.file
    }

    /// Its first byte, and how many.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.0.offset, self.0.len)
    }

    /// What its descriptor is charged; there once.
    pub(crate) fn take_charge(&self) -> Option<FdCharge> {
        self.0.charge.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads it after all, for whoever does not take files.
    pub(super) fn read(&self) -> Result<Bytes, Fault> {
        let (max, len) = (limits::MAX_MESSAGE as u64, self.0.len);
        let len = usize::try_from(len).ok().filter(|_| len <= max).ok_or_else(|| too_large(max))?;
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.0.file.read_at(&mut bytes[filled..], self.0.offset + filled as u64) {
                // It became shorter.
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }
}

/// What is left to read of a file of any kind.
pub(super) fn read_rest(file: &File) -> Result<Bytes, Fault> {
    let max = limits::MAX_MESSAGE as u64;
    let mut bytes = Vec::new();
    // One more than allowed tells a file that is too large from one that is not.
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > max { Err(too_large(max)) } else { Ok(bytes.into()) }
}

fn unreadable(error: &std::io::Error) -> Fault {
    Fault::new(ErrorCode::Internal, format!("reading the file: {error}"))
}

fn too_large(max: u64) -> Fault {
    let text = format!("the file has more than the {max} bytes that one reply may have");
    Fault::new(ErrorCode::TooLarge, text)
}
