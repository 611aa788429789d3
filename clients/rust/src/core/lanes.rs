//! Bodies that are read where the daemon wrote them: the segments of one connection, and what is leased of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use invoked_proto::error::PeerError;
use invoked_proto::metadata::{Lease, Part, Place, Segment};
use invoked_transport::Attachment;

use super::Core;
use crate::file::OpenFile;

/// Memory that the daemon writes and this process reads.
pub(crate) type Memory = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// How file descriptors are used.
pub(crate) struct Files<A> {
    /// Verifies what one refers to, and maps so many bytes; `None` if it is no segment.
    pub(crate) map: fn(A, u64) -> Option<Memory>,
    /// So many bytes, the last number, of a regular file; `None` if it is none.
    pub(crate) open: fn(A, u64, u64) -> Option<OpenFile>,
    /// What one of this process's is sent as.
    pub(crate) own: fn(Attachment) -> A,
}

impl<A> std::fmt::Debug for Files<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

/// The open file that the body of an answer is, if it is one.
pub(super) fn file_of<A>(
    files: &Files<A>,
    parts: &[Part],
    fds: Vec<A>,
) -> Result<Option<OpenFile>, PeerError> {
    let Some(Part { len, place: Place::File { fd, offset }, .. }) = parts.first() else { return Ok(None) };
    // The connection has checked that the frame has it.
    let file = fds.into_iter().nth(usize::from(*fd)).ok_or(PeerError::NoFile(*fd))?;
    (files.open)(file, *offset, *len).ok_or(PeerError::NoFile(*fd)).map(Some)
}

/// The segments of a connection.
#[derive(Debug)]
pub(super) struct Segments {
    known: HashMap<u32, Known>,
    returns: Arc<Returns>,
}

struct Known {
    generation: u32,
    memory: Memory,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Leases that were dropped, from any thread, and of which the daemon is not told yet.
#[derive(Debug, Default)]
struct Returns {
    leases: Mutex<Vec<Lease>>,
    count: AtomicUsize,
}

impl Returns {
    fn push(&self, lease: Lease) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
        self.count.fetch_add(1, Ordering::Release);
    }

    fn take(&self) -> Vec<Lease> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let taken = std::mem::take(&mut *self.leases.lock().unwrap_or_else(PoisonError::into_inner));
        self.count.fetch_sub(taken.len(), Ordering::Release);
        taken
    }
}

/// Bytes of a segment that the daemon leaves alone until this is dropped.
struct Leased {
    memory: Memory,
    range: Range<usize>,
    lease: Lease,
    returns: Arc<Returns>,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &(*self.memory).as_ref()[self.range.clone()]
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.returns.push(self.lease);
    }
}

impl Segments {
    pub(super) fn new() -> Self {
        Segments { known: HashMap::new(), returns: Arc::default() }
    }

    /// The bytes of a part that is in a segment.
    pub(super) fn find(&self, part: &Part) -> Result<Bytes, PeerError> {
        let (segment, generation, offset) = match part.place {
            Place::Pool { segment, generation, offset } => (segment, generation, offset),
            // It is not read here.
            Place::File { .. } => return Ok(Bytes::new()),
            _ => return Err(PeerError::Feature),
        };
        // The connection has checked that a segment of this generation was introduced, and that the part lies in it.
        let known = self.known.get(&segment).filter(|known| known.generation == generation);
        let known = known.ok_or(PeerError::NoSegment(segment))?;
        let start = usize::try_from(offset).map_err(|_| PeerError::NoSegment(segment))?;
        let end = usize::try_from(part.len).ok().and_then(|len| start.checked_add(len));
        let size = (*known.memory).as_ref().len();
        let end = end.filter(|end| *end <= size).ok_or(PeerError::NoSegment(segment))?;
        let lease = Lease { segment, generation, offset };
        let returns = Arc::clone(&self.returns);
        Ok(Bytes::from_owner(Leased { memory: Arc::clone(&known.memory), range: start..end, lease, returns }))
    }
}

impl<A, W> Core<A, W> {
    /// The daemon introduced a segment.
    pub(super) fn add_segment(&mut self, segment: &Segment, file: A) -> Result<(), PeerError> {
        let memory = (self.files.map)(file, segment.len).ok_or(PeerError::BadSegment(segment.segment))?;
        // What is leased of an older one stays readable.
        self.segments.known.insert(segment.segment, Known { generation: segment.generation, memory });
        Ok(())
    }

    /// The daemon gave a segment up. What is leased of it stays readable.
    pub(super) fn forget_segment(&mut self, number: u32, generation: u32) {
        if self.segments.known.get(&number).is_some_and(|known| known.generation == generation) {
            self.segments.known.remove(&number);
        }
    }

    /// Tells the daemon, with the next output, what was dropped since.
    pub(super) fn return_leases(&mut self) {
        let returned = self.segments.returns.take();
        if !returned.is_empty() {
            self.connection.release_leases(returned);
        }
    }
}
