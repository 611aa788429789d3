//! Replies that are written where their caller reads them.
//!
//! Owns the choice: which bytes of a reply go into memory that the caller sees, and who is asked for that memory. A handler
//! is on a thread of its own for as long as it runs, and what it allocates for its reply there is its caller's memory.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::registry::limits;
use invoked_transport::{PlacedAt, SegmentBudget, Slot, SlotPool};

use super::error::Fault;
use super::file::FdCharge;
use super::response::{Outcome, Response};

/// What one peer can be given otherwise than in the frames: memory that it is written to, open files.
#[derive(Debug)]
pub(crate) struct ReplyLanes {
    pool: SlotPool,
    lanes: Lanes,
    /// File descriptors on their way to peers of the same uid.
    fds: Arc<dyn SegmentBudget>,
    counters: Arc<LaneCounters>,
}

/// From which size on what goes where; `None` is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lanes {
    /// Parts are written to memory that the caller reads.
    pub(crate) pool_from: Option<usize>,
    /// Regular files are given open.
    pub(crate) file_from: Option<u64>,
}

/// Which lanes the policy lets a caller have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) pool: bool,
    pub(crate) file: bool,
}

/// The lanes of one call.
#[derive(Debug, Clone)]
pub(crate) struct CallLanes {
    pub(crate) peer: Arc<ReplyLanes>,
    pub(crate) allowed: Allowed,
}

/// What went on which lane, since the start.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    pooled: AtomicU64,
    pooled_bytes: AtomicU64,
    fallbacks: AtomicU64,
    files: AtomicU64,
}

/// What [`LaneCounters`] say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneCounts {
    /// Parts in memory of the pool.
    pub(crate) pooled: u64,
    /// Their bytes.
    pub(crate) pooled_bytes: u64,
    /// Parts that had to go in the frames.
    pub(crate) fallbacks: u64,
    /// Open files.
    pub(crate) files: u64,
}

impl LaneCounters {
    /// Notes a part that goes in memory of the pool.
    pub(crate) fn note_pooled(&self, bytes: u64) {
        self.pooled.fetch_add(1, Ordering::Relaxed);
        self.pooled_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes a part that goes in the frames, as there was no memory for it or it could not be sent.
    pub(crate) fn note_fallback(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an open file.
    pub(crate) fn note_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// What they say now.
    pub(crate) fn read(&self) -> LaneCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LaneCounts {
            pooled: read(&self.pooled),
            pooled_bytes: read(&self.pooled_bytes),
            fallbacks: read(&self.fallbacks),
            files: read(&self.files),
        }
    }
}

thread_local! {
    /// What the caller can be given whose handler runs on this thread.
    static CURRENT: RefCell<Option<CallLanes>> = const { RefCell::new(None) };
}

impl ReplyLanes {
    /// Those of one peer: memory as far as `budget` allows, and as many file descriptors on their way as `fds` does.
    pub(crate) fn new(
        lanes: Lanes,
        budget: Arc<dyn SegmentBudget>,
        fds: Arc<dyn SegmentBudget>,
        counters: Arc<LaneCounters>,
    ) -> Self {
        ReplyLanes { pool: SlotPool::new(budget, limits::MAX_SEGMENTS), lanes, fds, counters }
    }

    /// Charges a file descriptor that is about to be sent.
    pub(crate) fn charge_fd(&self) -> Option<FdCharge> {
        FdCharge::new(&self.fds)
    }

    /// The memory.
    pub(crate) fn pool(&self) -> &SlotPool {
        &self.pool
    }

    /// The counters, which all peers have in common.
    pub(crate) fn counters(&self) -> &LaneCounters {
        &self.counters
    }

    /// Where bytes are, if they are in this memory and worth to be left there.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<PlacedAt> {
        if self.is_large(bytes.len()) { self.pool.find(bytes) } else { None }
    }

    /// Bytes of a message that are not in this memory.
    pub(crate) fn inline_len(&self, message: &Message) -> u64 {
        let parts = std::iter::once(message.body.bytes()).chain(message.attachments.iter().map(|a| &a[..]));
        parts.filter(|part| self.find(part).is_none()).map(|part| part.len() as u64).sum()
    }

    /// Whether a part of so many bytes is worth to be written to this memory.
    fn is_large(&self, len: usize) -> bool {
        self.lanes.pool_from.is_some_and(|from| len >= from)
    }
}

impl CallLanes {
    fn take(&self, len: usize) -> Option<Slot> {
        if self.allowed.pool && self.peer.is_large(len) { self.peer.pool.take(len) } else { None }
    }

    /// Copies a part into this memory, unless it is there already or there is no room.
    fn moved(&self, bytes: Bytes) -> Bytes {
        if !self.allowed.pool || !self.peer.is_large(bytes.len()) || self.peer.pool.find(&bytes).is_some() {
            return bytes;
        }
        match self.take(bytes.len()) {
            Some(mut slot) => {
                slot.copy_from_slice(&bytes);
                Bytes::from_owner(slot)
            }
            None => {
                self.peer.counters.note_fallback();
                bytes
            }
        }
    }

    fn settle(&self, response: &mut Response) -> Result<(), Fault> {
        if response.file.is_some() && (!self.allowed.file || self.peer.lanes.file_from.is_none()) {
            response.read_file()?;
        }
        self.move_parts(&mut response.message);
        Ok(())
    }

    /// Copies the large parts of a message to where the caller reads them.
    pub(super) fn move_parts(&self, message: &mut Message) {
        message.body = match std::mem::take(&mut message.body) {
            Body::None => Body::None,
            Body::Raw(bytes) => Body::Raw(self.moved(bytes)),
            Body::Json(bytes) => Body::Json(self.moved(bytes)),
        };
        for attachment in &mut message.attachments {
            *attachment = self.moved(std::mem::take(attachment));
        }
    }
}

/// A reply as its caller takes it: large parts copied to where it reads them, a file read if it takes none. It belongs on the
/// thread of the handler.
pub(crate) fn settled(lanes: Option<&CallLanes>, outcome: Outcome) -> Outcome {
    let mut response = outcome?;
    match lanes {
        Some(lanes) => lanes.settle(&mut response)?,
        None => response.read_file()?,
    }
    Ok(response)
}

/// Runs a handler, or a part of it, whose reply may be written to `lanes` on this thread meanwhile.
pub(crate) fn within<T>(lanes: Option<&CallLanes>, run: impl FnOnce() -> T) -> T {
    let Some(lanes) = lanes else { return run() };
    let _outer = Restore(CURRENT.replace(Some(lanes.clone())));
    run()
}

/// Puts back what was there before, also after a panic.
struct Restore(Option<CallLanes>);

impl Drop for Restore {
    fn drop(&mut self) {
        let before = self.0.take();
        CURRENT.with(|current| current.replace(before));
    }
}

/// Memory of `len` bytes for the reply of the handler that runs on this thread; `None` if its caller shares none, or `len` is
/// too small for it.
pub(super) fn take_slot(len: usize) -> Option<Slot> {
    CURRENT.with_borrow(|current| current.as_ref()?.take(len))
}

/// Charges the descriptor of an open file for the caller of the handler that runs on this thread; `None` if it takes no file,
/// none of so few bytes, or too many are on their way.
pub(super) fn charge_file(len: u64) -> Option<FdCharge> {
    CURRENT.with_borrow(|current| {
        let lanes = current.as_ref().filter(|lanes| lanes.allowed.file)?;
        lanes.peer.lanes.file_from.filter(|from| len >= *from)?;
        lanes.peer.charge_fd()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use invoked_transport::SegmentBudget;

    use super::{Allowed, CallLanes, LaneCounters, Lanes, ReplyLanes, settled, within};
    use crate::ipc::{Fault, Outcome, Response};

    #[derive(Debug)]
    struct Bound(u64);

    impl SegmentBudget for Bound {
        fn charge(&self, bytes: u64) -> bool {
            bytes <= self.0
        }

        fn give_back(&self, _bytes: u64) {}
    }

    fn lanes(bytes: u64) -> CallLanes {
        let sizes = Lanes { pool_from: Some(1000), file_from: Some(1000) };
        let (budget, fds) = (Arc::new(Bound(bytes)), Arc::new(Bound(1)));
        let peer = Arc::new(ReplyLanes::new(sizes, budget, fds, Arc::new(LaneCounters::default())));
        CallLanes { peer, allowed: Allowed { pool: true, file: true } }
    }

    fn body(outcome: Outcome) -> Bytes {
        outcome.expect("a reply").message.body.into_bytes()
    }

    #[test]
    fn what_a_handler_allocates_is_its_callers_memory() {
        let lanes = lanes(u64::MAX);
        let reply = |len: usize| {
            let mut buffer = Response::alloc(len);
            buffer.fill(7);
            Ok(Response::from(buffer))
        };
        let written = body(within(Some(&lanes), || reply(1000)));
        assert!(lanes.peer.find(&written).is_some());
        assert_eq!(&written[..], [7; 1000]);
        let settled = body(settled(Some(&lanes), Ok(Response::new(written.clone()))));
        assert_eq!(settled.as_ptr(), written.as_ptr(), "it is there already");
        assert!(lanes.peer.find(&body(within(Some(&lanes), || reply(999)))).is_none(), "too small");
        assert!(lanes.peer.find(&body(reply(1000))).is_none(), "no handler runs here any more");
        assert!(lanes.peer.find(&body(within(None, || reply(1000)))).is_none());
    }

    #[test]
    fn large_parts_are_copied_once_and_the_rest_stays() {
        let lanes = lanes(u64::MAX);
        let response = Response::new(vec![1; 999]).attach(vec![2; 1000]).header("a", "b");
        assert_eq!(lanes.peer.inline_len(&response.message), 1999);
        let reply = settled(Some(&lanes), Ok(response.clone())).expect("a reply");
        assert_eq!(reply, response);
        assert_eq!(lanes.peer.inline_len(&reply.message), 999);
        let error: Outcome = Err(Fault::new(crate::ipc::ErrorCode::Internal, "no").into());
        assert!(settled(Some(&lanes), error).is_err());
    }

    #[test]
    fn without_memory_a_reply_stays_as_it_is_and_that_is_counted() {
        let lanes = lanes(0);
        let response = Response::new(vec![1; 1000]);
        let settled = settled(Some(&lanes), Ok(response.clone())).expect("a reply");
        assert_eq!((settled.clone(), lanes.peer.inline_len(&settled.message)), (response, 1000));
        assert_eq!(within(Some(&lanes), || Response::alloc(1000)).len(), 1000);
        assert_eq!(
            lanes.peer.counters().read().fallbacks,
            1,
            "what a handler allocates is counted when it answers"
        );
    }

    #[test]
    fn a_panic_leaves_no_memory_behind_for_the_next_handler() {
        let lanes = lanes(u64::MAX);
        let panics = || within(Some(&lanes), || panic!("a handler's"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(super::take_slot(1000).is_none());
    }

    #[test]
    fn a_file_stays_open_for_who_takes_it_and_is_read_for_others() {
        use std::io::{Seek, SeekFrom, Write};
        let lanes = lanes(u64::MAX);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 3000]).expect("written");
        file.seek(SeekFrom::Start(1000)).expect("sought");
        let made = within(Some(&lanes), || Response::from_file(&file)).expect("open");
        assert_eq!(made.file.as_ref().expect("it is kept").range(), (1000, 2000));
        let kept = settled(Some(&lanes), Ok(made.clone())).expect("a reply");
        assert_eq!(kept, made);
        for none in [None, Some(&CallLanes { allowed: Allowed { pool: true, file: false }, ..lanes.clone() })]
        {
            let read = settled(none, Ok(made.clone())).expect("a reply");
            assert!(read.file.is_none());
            assert_eq!(read.message.body.bytes(), [7; 2000]);
        }
        assert_eq!(made.clone().into_message().expect("read").len(), 2000);
        // Elsewhere, and what is small, is read at once.
        assert!(Response::from_file(&file).expect("read").file.is_none());
        file.seek(SeekFrom::Start(2001)).expect("sought");
        let small = within(Some(&lanes), || Response::from_file(&file)).expect("read");
        assert_eq!((small.file, small.message.body.bytes().len()), (None, 999));
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(b"no file").expect("written");
        drop(writer);
        let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
        let read = within(Some(&lanes), || Response::from_file(&pipe)).expect("read");
        assert_eq!((read.file, read.message.body.bytes()), (None, &b"no file"[..]));
    }
}
