//! Replies that are written where their caller reads them.
//!
//! Owns the choice: which bytes of a reply go into memory that the caller sees, and who is asked for that memory. A handler
//! is on a thread of its own for as long as it runs, and what it allocates for its reply there is its caller's memory.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_transport::{PlacedAt, SegmentBudget, Slot, SlotPool};

use super::response::Outcome;

/// The memory that one peer is written to.
#[derive(Debug)]
pub(crate) struct ReplyLanes {
    pool: SlotPool,
    /// Parts of so many bytes and more are written there.
    from: usize,
    counters: Arc<LaneCounters>,
}

/// What went on which lane, since the start.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    pooled: AtomicU64,
    pooled_bytes: AtomicU64,
    fallbacks: AtomicU64,
}

impl LaneCounters {
    /// Notes a part that goes in memory of the pool.
    pub(crate) fn note_pooled(&self, bytes: usize) {
        self.pooled.fetch_add(1, Ordering::Relaxed);
        self.pooled_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes a part that goes in the frames, as there was no memory for it or it could not be sent.
    pub(crate) fn note_fallback(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Parts in memory of the pool, their bytes, and parts that had to go in the frames.
    pub(crate) fn read(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.pooled), read(&self.pooled_bytes), read(&self.fallbacks))
    }
}

thread_local! {
    /// The memory of the caller whose handler runs on this thread.
    static CURRENT: RefCell<Option<Arc<ReplyLanes>>> = const { RefCell::new(None) };
}

impl ReplyLanes {
    /// Memory for one peer: at most `segments_max` segments, as many bytes as `budget` allows, for parts of `from` bytes and
    /// more.
    pub(crate) fn new(
        budget: Arc<dyn SegmentBudget>,
        segments_max: usize,
        from: usize,
        counters: Arc<LaneCounters>,
    ) -> Self {
        ReplyLanes { pool: SlotPool::new(budget, segments_max), from, counters }
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
        if bytes.len() < self.from { None } else { self.pool.find(bytes) }
    }

    /// Bytes of a message that are not in this memory.
    pub(crate) fn inline_len(&self, message: &Message) -> u64 {
        let parts = std::iter::once(message.body.bytes()).chain(message.attachments.iter().map(|a| &a[..]));
        parts.filter(|part| self.find(part).is_none()).map(|part| part.len() as u64).sum()
    }

    fn take(&self, len: usize) -> Option<Slot> {
        if len < self.from {
            return None;
        }
        self.pool.take(len)
    }

    /// Copies a part into this memory, unless it is there already or there is no room.
    fn moved(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < self.from || self.pool.find(&bytes).is_some() {
            return bytes;
        }
        match self.take(bytes.len()) {
            Some(mut slot) => {
                slot.copy_from_slice(&bytes);
                Bytes::from_owner(slot)
            }
            None => {
                self.counters.note_fallback();
                bytes
            }
        }
    }

    /// Copies the large parts of a reply to where its caller reads them. It belongs on the thread of the handler.
    pub(crate) fn settle(&self, outcome: Outcome) -> Outcome {
        let mut response = outcome?;
        let message = &mut response.message;
        message.body = match std::mem::take(&mut message.body) {
            Body::None => Body::None,
            Body::Raw(bytes) => Body::Raw(self.moved(bytes)),
            Body::Json(bytes) => Body::Json(self.moved(bytes)),
        };
        for attachment in &mut message.attachments {
            *attachment = self.moved(std::mem::take(attachment));
        }
        Ok(response)
    }
}

/// Runs a handler, or a part of it, whose reply may be written to `lanes` on this thread meanwhile.
pub(crate) fn within<T>(lanes: Option<&Arc<ReplyLanes>>, run: impl FnOnce() -> T) -> T {
    let Some(lanes) = lanes else { return run() };
    let _outer = Restore(CURRENT.replace(Some(Arc::clone(lanes))));
    run()
}

/// Puts back what was there before, also after a panic.
struct Restore(Option<Arc<ReplyLanes>>);

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use invoked_transport::SegmentBudget;

    use super::{LaneCounters, ReplyLanes, within};
    use crate::ipc::{Fault, Outcome, Response};

    #[derive(Debug)]
    struct NoBound;

    impl SegmentBudget for NoBound {
        fn charge(&self, _bytes: u64) -> bool {
            true
        }

        fn give_back(&self, _bytes: u64) {}
    }

    fn lanes(segments: usize) -> Arc<ReplyLanes> {
        Arc::new(ReplyLanes::new(Arc::new(NoBound), segments, 1000, Arc::new(LaneCounters::default())))
    }

    fn body(outcome: Outcome) -> Bytes {
        outcome.expect("a reply").message.body.into_bytes()
    }

    #[test]
    fn what_a_handler_allocates_is_its_callers_memory() {
        let lanes = lanes(64);
        let reply = |len: usize| {
            let mut buffer = Response::alloc(len);
            buffer.fill(7);
            Ok(Response::from(buffer))
        };
        let written = body(within(Some(&lanes), || reply(1000)));
        assert!(lanes.find(&written).is_some());
        assert_eq!(&written[..], [7; 1000]);
        let settled = body(lanes.settle(Ok(Response::new(written.clone()))));
        assert_eq!(settled.as_ptr(), written.as_ptr(), "it is there already");
        assert!(lanes.find(&body(within(Some(&lanes), || reply(999)))).is_none(), "too small");
        assert!(lanes.find(&body(reply(1000))).is_none(), "no handler runs here any more");
        assert!(lanes.find(&body(within(None, || reply(1000)))).is_none());
    }

    #[test]
    fn large_parts_are_copied_once_and_the_rest_stays() {
        let lanes = lanes(64);
        let response = Response::new(vec![1; 999]).attach(vec![2; 1000]).header("a", "b");
        assert_eq!(lanes.inline_len(&response.message), 1999);
        let settled = lanes.settle(Ok(response.clone())).expect("a reply");
        assert_eq!(settled, response);
        assert_eq!(lanes.inline_len(&settled.message), 999);
        let error: Outcome = Err(Fault::new(crate::ipc::ErrorCode::Internal, "no").into());
        assert!(lanes.settle(error).is_err());
    }

    #[test]
    fn without_memory_a_reply_stays_as_it_is_and_that_is_counted() {
        let lanes = lanes(0);
        let response = Response::new(vec![1; 1000]);
        let settled = lanes.settle(Ok(response.clone())).expect("a reply");
        assert_eq!((settled.clone(), lanes.inline_len(&settled.message)), (response, 1000));
        assert_eq!(within(Some(&lanes), || Response::alloc(1000)).len(), 1000);
        assert_eq!(lanes.counters().read(), (0, 0, 1), "what a handler allocates is counted when it answers");
    }

    #[test]
    fn a_panic_leaves_no_memory_behind_for_the_next_handler() {
        let lanes = lanes(64);
        let panics = || within(Some(&lanes), || panic!("a handler's"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(super::take_slot(1000).is_none());
    }
}
