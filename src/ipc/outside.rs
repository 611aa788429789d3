//! Parts of a caller's message that are elsewhere than in the frames: where they are, and how they are read.
//!
//! Nothing of a peer's is mapped. What is read here is charged before, and whoever reads chooses where: a file of a peer's may
//! hold its reader up for as long as the peer likes. A lease goes back when its source is dropped, read or not.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use invoked_proto::metadata::Lease;
use invoked_proto::registry::{ErrorCode, Lane};
use invoked_transport::{PeerFile, PeerFileKind, SegmentBudget};

use super::error::Fault;

/// So many bytes of memory are read on the loop, more elsewhere. It copies 1 MiB in 0.1 to 0.2 ms, which is what receiving as
/// much from a socket takes it too, and a tenth of a session's turn; a thread elsewhere costs two changes of thread.
const QUICK: u64 = 1024 * 1024;

/// A file of a peer's that is held, and charged as long.
#[derive(Debug)]
pub(crate) struct HeldFile {
    file: PeerFile,
    _charge: Option<MemoryCharge>,
}

/// Bytes of memory of a peer's that is held; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct MemoryCharge {
    budget: Arc<dyn SegmentBudget>,
    bytes: u64,
}

impl MemoryCharge {
    /// Charges them, if they fit.
    pub(crate) fn new(budget: &Arc<dyn SegmentBudget>, bytes: u64) -> Option<Self> {
        budget.charge(bytes).then(|| MemoryCharge { budget: Arc::clone(budget), bytes })
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl HeldFile {
    /// A file, with what its memory is charged.
    pub(crate) fn new(file: PeerFile, charge: Option<MemoryCharge>) -> Arc<Self> {
        Arc::new(HeldFile { file, _charge: charge })
    }
}

/// Leases that were given back, from any thread, and of which their writer is not told yet.
#[derive(Debug, Default)]
pub(crate) struct LeaseReturns {
    leases: Mutex<Vec<Lease>>,
    count: AtomicUsize,
}

impl LeaseReturns {
    /// Those since the last time.
    pub(crate) fn take(&self) -> Vec<Lease> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let taken = std::mem::take(&mut *self.leases.lock().unwrap_or_else(PoisonError::into_inner));
        self.count.fetch_sub(taken.len(), Ordering::Release);
        taken
    }

    fn push(&self, lease: Lease) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
        self.count.fetch_add(1, Ordering::Release);
    }
}

/// A lease, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldLease {
    lease: Lease,
    returns: Arc<LeaseReturns>,
}

impl HeldLease {
    /// A lease that came with a message.
    pub(crate) fn new(lease: Lease, returns: &Arc<LeaseReturns>) -> Self {
        HeldLease { lease, returns: Arc::clone(returns) }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.returns.push(self.lease);
    }
}

/// Where one part is.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<HeldFile>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) _lease: Option<HeldLease>,
}

/// All parts of a message that are elsewhere, in their order.
pub(crate) struct Outside(Vec<Source>);

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outside").field(&self.0.len()).finish()
    }
}

impl Outside {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        Outside(sources)
    }

    /// The lanes that they came on.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.0.iter().map(|source| match source.file.file.kind() {
            PeerFileKind::Segment => Lane::Pool,
            PeerFileKind::Sealed => Lane::Sealed,
            PeerFileKind::Regular => Lane::File,
        })
    }

    /// Whether reading them takes moments, whoever they are of.
    pub(crate) fn is_quick(&self) -> bool {
        let is_memory = |source: &Source| source.file.file.kind() != PeerFileKind::Regular;
        self.len() <= QUICK && self.0.iter().all(is_memory)
    }

    /// Bytes of all.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, source| sum.saturating_add(source.len))
    }

    /// Reads them all, and gives their leases back.
    ///
    /// # Errors
    /// `attachment_refused` if one is shorter than was said.
    pub(crate) fn read(self) -> Result<Vec<Bytes>, Fault> {
        self.0.into_iter().map(|source| source.read()).collect()
    }
}

impl Source {
    fn read(&self) -> Result<Bytes, Fault> {
        let refused = |text: String| Fault::refusal(ErrorCode::AttachmentRefused, text);
        let len = usize::try_from(self.len).map_err(|_| refused("a part is too large".to_owned()))?;
        let read = self.file.file.read(self.offset, len);
        read.map(Bytes::from).map_err(|fault| refused(format!("a part can't be read: {fault}")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use invoked_proto::metadata::Lease;
    use invoked_proto::registry::{ErrorCode, Lane};
    use invoked_transport::PeerFile;

    use super::{HeldFile, HeldLease, LeaseReturns, Outside, Source};

    fn held(bytes: &[u8]) -> (Arc<HeldFile>, File) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        let copy = OwnedFd::from(file.try_clone().expect("a copy"));
        (HeldFile::new(PeerFile::regular(copy.into()).expect("a file"), None), file)
    }

    fn lease(offset: u64) -> Lease {
        Lease { segment: 1, generation: 2, offset }
    }

    #[test]
    fn parts_are_read_in_their_order_and_their_leases_go_back() {
        let (file, _) = held(b"0123456789");
        let returns = Arc::default();
        let source = |offset, len| {
            let _lease = Some(HeldLease::new(lease(offset), &returns));
            Source { file: Arc::clone(&file), offset, len, _lease }
        };
        let outside = Outside::new(vec![source(7, 2), source(0, 3)]);
        assert_eq!(outside.len(), 5);
        assert!(!outside.is_quick(), "a file may take as long as it likes");
        assert!(outside.lanes().eq([Lane::File, Lane::File]));
        assert!(returns.take().is_empty());
        let parts = outside.read().expect("read");
        assert_eq!((&parts[0][..], &parts[1][..]), (&b"78"[..], &b"012"[..]));
        assert_eq!(returns.take(), [lease(7), lease(0)]);
        assert!(returns.take().is_empty());
    }

    #[test]
    fn what_became_shorter_is_refused_and_leases_go_back_all_the_same() {
        let (file, behind) = held(b"0123456789");
        let returns: Arc<LeaseReturns> = Arc::default();
        let source = |offset, len| {
            let _lease = Some(HeldLease::new(lease(offset), &returns));
            Source { file: Arc::clone(&file), offset, len, _lease }
        };
        let outside = Outside::new(vec![source(0, 5), source(5, 1)]);
        behind.set_len(4).expect("cut");
        let fault = outside.read().expect_err("shorter");
        assert_eq!(fault.code, ErrorCode::AttachmentRefused);
        assert_eq!(returns.take().len(), 2);
        drop(Outside::new(vec![source(0, 1)]));
        assert_eq!(returns.take().len(), 1, "also when nobody reads it");
    }
}
