//! Bodies that are written where the daemon reads them: the memory of one connection, for callers on any thread.
//!
//! Owns the memory and the choice of what goes there. Large parts are copied there outside of the connection's lock, once the
//! daemon has said that it takes them and has confirmed the memory; until then, and where there is none, they go through the
//! socket. Frames are the core's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::metadata::Lease;
use invoked_proto::registry::limits;
use invoked_transport::{Attachment, PlacedAt, SegmentBudget, SlotPool};

/// Memory that one connection may be given to send with.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

/// The memory that a client sends with on one connection; none if it shares none.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    pool: SlotPool,
    /// The daemon takes parts in segments.
    is_told: AtomicBool,
    /// Somebody had something to send so.
    is_wanted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Segments that the daemon has, with their generations.
    confirmed: HashMap<u32, u32>,
    /// Segments that it is to be told of.
    unknown: Vec<PlacedAt>,
}

/// Bounds the memory of one connection.
#[derive(Debug, Default)]
struct Most(AtomicU64);

impl SegmentBudget for Most {
    fn charge(&self, bytes: u64) -> bool {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= MEMORY_MAX);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Outgoing {
    /// Memory of a connection, of which none is taken before it is needed.
    pub(crate) fn new(shares: bool) -> Self {
        let inner = || Inner {
            pool: SlotPool::new(Arc::new(Most::default()), limits::MAX_SEGMENTS),
            is_told: AtomicBool::new(false),
            is_wanted: AtomicBool::new(false),
            state: Mutex::default(),
        };
        Outgoing(shares.then(|| Arc::new(inner())))
    }

    /// Copies the large parts of a message to where the daemon reads them, as far as it can be.
    pub(crate) fn move_parts(&self, message: &mut Message) {
        self.move_up_to(message, usize::MAX);
    }

    /// The same for an item of a channel, of which the daemon takes less so.
    pub(crate) fn move_item(&self, message: &mut Message) {
        self.move_up_to(message, limits::POOLED_ITEM_MAX);
    }

    fn move_up_to(&self, message: &mut Message, most: usize) {
        let Some(inner) = &self.0 else { return };
        let mut left = most;
        message.body = match std::mem::take(&mut message.body) {
            Body::None => Body::None,
            Body::Raw(bytes) => Body::Raw(inner.moved(bytes, &mut left)),
            Body::Json(bytes) => Body::Json(inner.moved(bytes, &mut left)),
        };
        for attachment in &mut message.attachments {
            *attachment = inner.moved(std::mem::take(attachment), &mut left);
        }
    }

    /// Where bytes are, if the daemon reads them there.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<Lease> {
        let inner = self.0.as_ref().filter(|_| bytes.len() >= limits::POOL_FROM)?;
        let PlacedAt { segment, generation, offset } = inner.pool.find(bytes)?;
        inner.is_confirmed(segment, generation).then_some(Lease { segment, generation, offset })
    }

    /// Whether somebody had something to send so that the daemon is not asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_wanted.load(Ordering::Relaxed))
    }

    /// What the daemon says of parts in segments.
    pub(crate) fn tell(&self, takes: bool) {
        if let Some(inner) = &self.0 {
            inner.is_told.store(takes, Ordering::Relaxed);
            inner.is_wanted.store(false, Ordering::Relaxed);
        }
    }

    /// The segments that the daemon is to be told of: number, generation, size, and the file of each.
    pub(crate) fn take_unknown(&self) -> Vec<(u32, u32, u64, Attachment)> {
        let Some(inner) = self.0.as_ref().filter(|inner| inner.is_told.load(Ordering::Relaxed)) else {
            return Vec::new();
        };
        let unknown = std::mem::take(&mut inner.lock().unknown);
        let file = |at: PlacedAt| {
            let (file, len) = inner.pool.take_file(at.segment, at.generation)?;
            Some((at.segment, at.generation, len, file))
        };
        unknown.into_iter().filter_map(file).collect()
    }

    /// The daemon has a segment; false if it takes none any more, and this one is of no use.
    pub(crate) fn confirm(&self, segment: u32, generation: u32) -> bool {
        let Some(inner) = &self.0 else { return false };
        if inner.is_told.load(Ordering::Relaxed) {
            inner.lock().confirmed.insert(segment, generation);
            return true;
        }
        inner.pool.forget(segment, generation);
        false
    }

    /// Gives up the segments that were not used since this was last asked; the daemon is to be told.
    pub(crate) fn trim(&self) -> Vec<(u32, u32)> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let trimmed = inner.pool.trim();
        let mut state = inner.lock();
        trimmed.iter().for_each(|(segment, generation)| {
            if state.confirmed.get(&segment) == Some(&generation) {
                state.confirmed.remove(&segment);
            }
        });
        trimmed.iter().collect()
    }
}

impl Inner {
    /// Copies a part into this memory, unless it is there already, or too small, or there is no room that the daemon knows.
    fn moved(&self, bytes: Bytes, left: &mut usize) -> Bytes {
        let len = bytes.len();
        // More than a segment has is too large for a message too, which is told where it is sent.
        if len < limits::POOL_FROM || len > (*left).min(limits::SEGMENT_MAX) {
            return bytes;
        }
        if !self.is_told.load(Ordering::Relaxed) {
            self.is_wanted.store(true, Ordering::Relaxed);
            return bytes;
        }
        *left -= len;
        if self.pool.find(&bytes).is_some() {
            return bytes;
        }
        let Some(mut slot) = self.pool.take(len) else { return bytes };
        let at = slot.place();
        let mut state = self.lock();
        if state.confirmed.get(&at.segment) != Some(&at.generation) {
            let is_known =
                |known: &PlacedAt| (known.segment, known.generation) == (at.segment, at.generation);
            if !state.unknown.iter().any(is_known) {
                state.unknown.push(at);
            }
            return bytes;
        }
        drop(state);
        slot.copy_from_slice(&bytes);
        Bytes::from_owner(slot)
    }

    fn is_confirmed(&self, segment: u32, generation: u32) -> bool {
        self.lock().confirmed.get(&segment) == Some(&generation)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use invoked_proto::body::{Body, Message};
    use invoked_proto::registry::limits;

    use super::Outgoing;

    fn message(len: usize) -> Message {
        Message::from(Body::Raw(Bytes::from(vec![7; len])))
    }

    fn is_moved(outgoing: &Outgoing, mut message: Message) -> bool {
        let before = message.clone();
        outgoing.move_parts(&mut message);
        assert_eq!(message, before, "the same bytes");
        outgoing.find(message.body.bytes()).is_some()
    }

    #[test]
    fn a_part_is_moved_once_the_daemon_has_asked_for_and_confirmed_its_memory() {
        let outgoing = Outgoing::new(true);
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM - 1)));
        assert!(!outgoing.is_wanted(), "n - 1");
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)));
        assert!(outgoing.is_wanted() && outgoing.take_unknown().is_empty());
        outgoing.tell(true);
        assert!(!outgoing.is_wanted());
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)));
        let unknown = outgoing.take_unknown();
        let [(segment, generation, _, _)] = unknown[..] else { panic!("{unknown:?}") };
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)), "it is on its way");
        assert!(outgoing.take_unknown().is_empty(), "it is told of once");
        assert!(outgoing.confirm(segment, generation));
        assert!(is_moved(&outgoing, message(limits::POOL_FROM)));
        outgoing.tell(false);
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)));
        assert!(!is_moved(&Outgoing::new(false), message(limits::POOL_FROM)));
    }

    #[test]
    fn no_segment_is_larger_than_the_daemon_takes() {
        let outgoing = Outgoing::new(true);
        outgoing.tell(true);
        for (len, segments) in [(limits::SEGMENT_MAX + 1, 0), (limits::SEGMENT_MAX, 1)] {
            outgoing.move_parts(&mut message(len));
            let unknown = outgoing.take_unknown();
            assert_eq!(unknown.len(), segments, "{len}");
            assert!(unknown.iter().all(|(_, _, len, _)| *len <= limits::SEGMENT_MAX as u64));
        }
    }

    #[test]
    fn memory_that_the_daemon_does_not_take_is_forgotten() {
        let outgoing = Outgoing::new(true);
        outgoing.tell(true);
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)));
        let unknown = outgoing.take_unknown();
        let [(segment, generation, _, _)] = unknown[..] else { panic!("{unknown:?}") };
        outgoing.tell(false);
        assert!(!outgoing.confirm(segment, generation));
        outgoing.tell(true);
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)));
        let newer = outgoing.take_unknown();
        assert!(newer[0].1 > generation, "another takes its place");
    }

    #[test]
    fn an_item_has_no_more_in_memory_than_the_daemon_takes() {
        let outgoing = Outgoing::new(true);
        outgoing.tell(true);
        let item = || {
            let attachment = |len: usize| Bytes::from(vec![7; len]);
            let attachments = vec![attachment(limits::POOLED_ITEM_MAX), attachment(limits::POOL_FROM)];
            Message { attachments, ..message(limits::POOL_FROM) }
        };
        // Each round makes memory for another size known.
        for _ in 0..2 {
            outgoing.move_item(&mut item());
            for (segment, generation, ..) in outgoing.take_unknown() {
                assert!(outgoing.confirm(segment, generation));
            }
        }
        let mut moved = item();
        outgoing.move_item(&mut moved);
        let parts = [moved.body.bytes(), &moved.attachments[0], &moved.attachments[1]];
        assert_eq!(parts.map(|part| outgoing.find(part).is_some()), [true, false, true]);
        outgoing.move_parts(&mut moved);
        assert!(outgoing.trim().is_empty(), "all of it was used");
        drop(moved);
        assert!(!outgoing.trim().is_empty());
        assert!(!is_moved(&outgoing, message(limits::POOL_FROM)), "what was given up is not confirmed");
    }
}
