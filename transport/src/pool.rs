//! Memory that this process writes and one other reads: segments, cut into slots that are used again and again.
//!
//! Owns the memory and knows which slot is free. What is in a slot, who reads it and until when is its owner's to know: a slot
//! is free again when its owner drops it. Page faults are dear and copies are cheap, so what was touched once is kept and used
//! again before anything new is.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::attachment::{Attachment, Seals};
use crate::sys::{self, map::Region};

/// A segment of small slots has so many bytes.
const SMALL_SEGMENT: usize = 1024 * 1024;

/// The most slots of one segment.
const SLOTS_MAX: usize = 16;

/// A slot is used for what takes at least this part of it, unless no memory is left for a better one.
const FIT: usize = 4;

const PAGE: usize = 4096;

/// Bounds the memory of pools; several may have one in common.
pub trait SegmentBudget: fmt::Debug + Send + Sync {
    /// Charges `bytes` if they fit; they are given back once, later.
    fn charge(&self, bytes: u64) -> bool;

    /// Gives back what was charged.
    fn give_back(&self, bytes: u64);
}

/// The memory that one reader is written to. Handlers take slots from any thread.
#[derive(Debug)]
pub struct SlotPool(Arc<Shared>);

/// Where bytes are, as the reader is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlacedAt {
    /// The number of the segment.
    pub segment: u32,
    /// Tells a new segment from an older one under the same number; it only grows.
    pub generation: u32,
    /// The first byte inside the segment.
    pub offset: u64,
}

#[derive(Debug)]
struct Shared {
    budget: Arc<dyn SegmentBudget>,
    segments_max: usize,
    next_generation: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` while one is being made.
    segments: BTreeMap<u32, Option<Segment>>,
}

#[derive(Debug)]
struct Segment {
    generation: u32,
    len: u64,
    mapped: Range<usize>,
    slot_len: usize,
    slots: usize,
    /// The one that was used last is taken first: it may still be in a cache.
    free: Vec<Region>,
    /// Since the pool was last trimmed.
    was_used: bool,
    /// Until it is sent.
    file: Option<OwnedFd>,
    _charge: Charge,
}

#[derive(Debug)]
struct Charge {
    budget: Arc<dyn SegmentBudget>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl SlotPool {
    /// A pool without memory, which it takes when it is first asked for some: at most `segments_max` segments at once, and no
    /// more bytes than `budget` allows.
    #[must_use]
    pub fn new(budget: Arc<dyn SegmentBudget>, segments_max: usize) -> Self {
        SlotPool(Arc::new(Shared {
            budget,
            segments_max,
            next_generation: AtomicU32::new(1),
            state: Mutex::default(),
        }))
    }

    /// Takes a slot of `len` bytes; `None` if there is none and no memory for another. Their values are what was there before:
    /// zeros, or what this reader was shown earlier.
    ///
    /// It takes a lock for moments. Where memory must be had from the system first, it takes as long as that, without the lock.
    #[must_use]
    pub fn take(&self, len: usize) -> Option<Slot> {
        if len == 0 {
            return None;
        }
        let slot_len = class(len)?;
        let mut state = self.0.lock();
        if let Some(found) = state.take_free(len, len.saturating_mul(FIT)) {
            return Some(self.slot(found, len));
        }
        let segment_len = slot_len * (SMALL_SEGMENT / slot_len).clamp(1, SLOTS_MAX);
        let (room, unused) = self.0.make_room(&mut state, segment_len as u64);
        let number = match room {
            Some(charge) => {
                let number = (0..).find(|number| !state.segments.contains_key(number))?;
                state.segments.insert(number, None);
                Some((number, charge))
            }
            // One that is much too large is better than none.
            None => match state.take_free(len, usize::MAX) {
                Some(found) => return Some(self.slot(found, len)),
                None => None,
            },
        };
        drop(state);
        // Giving memory back to the system takes its time.
        drop(unused);
        let (number, charge) = number?;
        let made = self.0.make(charge, segment_len, slot_len);
        let mut state = self.0.lock();
        match made {
            Ok(segment) => {
                state.segments.insert(number, Some(segment));
                // Others may have been quicker, so any that fits is looked for.
                state.take_free(len, usize::MAX).map(|found| self.slot(found, len))
            }
            Err(_) => {
                state.segments.remove(&number);
                None
            }
        }
    }

    /// Where bytes are that a slot of this pool has; `None` for any others.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<PlacedAt> {
        let start = bytes.as_ptr() as usize;
        let end = start.checked_add(bytes.len())?;
        let state = self.0.lock();
        let mut all =
            state.segments.iter().filter_map(|(number, segment)| Some((*number, segment.as_ref()?)));
        let (number, segment) =
            all.find(|(_, segment)| segment.mapped.start <= start && end <= segment.mapped.end)?;
        let offset = (start - segment.mapped.start) as u64;
        Some(PlacedAt { segment: number, generation: segment.generation, offset })
    }

    /// The descriptor of a segment, to be sent to its reader, and its size. It is given once.
    #[must_use]
    pub fn take_file(&self, segment: u32, generation: u32) -> Option<(Attachment, u64)> {
        let mut state = self.0.lock();
        let found = state.segments.get_mut(&segment)?.as_mut().filter(|s| s.generation == generation)?;
        let len = found.len;
        found.file.take().map(|file| (file.into(), len))
    }

    /// Takes out the segments of which no slot was used since the last time that this was asked, and none is: their reader is to be
    /// told, and dropping them gives their memory back, which takes its time.
    #[must_use]
    pub fn trim(&self) -> Trimmed {
        let mut state = self.0.lock();
        let mut idle = Vec::new();
        for (number, segment) in &mut state.segments {
            if let Some(segment) = segment
                && !std::mem::take(&mut segment.was_used)
                && segment.free.len() == segment.slots
            {
                idle.push(*number);
            }
        }
        let taken = idle.into_iter().filter_map(|number| Some((number, state.segments.remove(&number)??)));
        Trimmed(taken.collect())
    }

    /// Gives up a segment that is of no use, unless a slot of it is used.
    pub fn forget(&self, segment: u32, generation: u32) {
        let mut state = self.0.lock();
        let found = state.segments.get(&segment).and_then(Option::as_ref);
        let is_unused = found.is_some_and(|s| s.generation == generation && s.free.len() == s.slots);
        let forgotten = is_unused.then(|| state.segments.remove(&segment));
        drop(state);
        drop(forgotten);
    }

    /// Bytes of memory that it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.lock().segments.values().flatten().map(|segment| segment.len).sum()
    }

    fn slot(&self, (place, region): (PlacedAt, Region), len: usize) -> Slot {
        Slot { region: Some(region), place, len, pool: Arc::clone(&self.0) }
    }
}

/// Segments that were taken out of a pool.
#[derive(Debug)]
pub struct Trimmed(Vec<(u32, Segment)>);

impl Trimmed {
    /// Their numbers and generations.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().map(|(number, segment)| (*number, segment.generation))
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Clone for SlotPool {
    /// The same pool.
    fn clone(&self) -> Self {
        SlotPool(Arc::clone(&self.0))
    }
}

impl Shared {
    /// Charges a segment, in the place of segments without a used slot where that is needed. These are given to be dropped.
    fn make_room(&self, state: &mut State, bytes: u64) -> (Option<Charge>, Vec<Segment>) {
        let mut unused = Vec::new();
        loop {
            if state.segments.len() < self.segments_max && self.budget.charge(bytes) {
                let charge = Charge { budget: Arc::clone(&self.budget), bytes };
                return (Some(charge), unused);
            }
            let is_unused = |segment: &Segment| segment.free.len() == segment.slots;
            let mut numbers = state.segments.iter();
            let found = numbers.find(|(_, segment)| segment.as_ref().is_some_and(is_unused));
            let Some(number) = found.map(|(number, _)| *number) else { return (None, unused) };
            if let Some(mut segment) = state.segments.remove(&number).flatten() {
                // Its bytes count for the one that takes its place, though its memory is given back a little later.
                segment._charge.release();
                unused.push(segment);
            }
        }
    }

    fn make(&self, charge: Charge, len: usize, slot_len: usize) -> io::Result<Segment> {
        let seals = Seals::SHRINK.and(Seals::GROW).and(Seals::FUTURE_WRITE).and(Seals::SEAL);
        let carve = |file: std::os::fd::BorrowedFd<'_>| Region::carve(file, len, slot_len);
        let (file, free) = sys::create_sealed("invoked-pool", len as u64, seals.bits(), carve)?;
        let mapped = free.first().map(Region::mapped).unwrap_or_default();
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        Ok(Segment {
            generation,
            len: len as u64,
            mapped,
            slot_len,
            slots: free.len(),
            free,
            was_used: true,
            file: Some(file),
            _charge: charge,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge {
    /// Gives it back before it is dropped.
    fn release(&mut self) {
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }
}

impl State {
    /// The smallest free slot of `len` to `most` bytes.
    fn take_free(&mut self, len: usize, most: usize) -> Option<(PlacedAt, Region)> {
        let all = self.segments.iter_mut().filter_map(|(number, segment)| Some((*number, segment.as_mut()?)));
        let fitting = all.filter(|(_, segment)| {
            !segment.free.is_empty() && segment.slot_len >= len && segment.slot_len <= most.max(PAGE)
        });
        let (number, segment) = fitting.min_by_key(|(_, segment)| segment.slot_len)?;
        let region = segment.free.pop()?;
        segment.was_used = true;
        let offset = region.offset() as u64;
        Some((PlacedAt { segment: number, generation: segment.generation, offset }, region))
    }
}

/// Memory that one reply is written to. It is free for another when this, and all that it was made, is dropped.
#[derive(Debug)]
pub struct Slot {
    /// There until it is dropped.
    region: Option<Region>,
    place: PlacedAt,
    len: usize,
    pool: Arc<Shared>,
}

impl Slot {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> PlacedAt {
        self.place
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| &region[..self.len])
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.region.as_mut().map_or(&mut [], |region| &mut region[..len])
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let segment = state.segments.get_mut(&self.place.segment).and_then(Option::as_mut);
        // A segment with a used slot is not given up, so it is the one of this generation.
        if let (Some(segment), Some(region)) = (segment, self.region.take())
            && segment.generation == self.place.generation
        {
            segment.free.push(region);
        }
    }
}

/// The size of the slots for `len` bytes: four sizes to each doubling, so that a fifth at most is of no use.
fn class(len: usize) -> Option<usize> {
    let step = (len.checked_next_power_of_two()? / 8).max(PAGE);
    len.div_ceil(step).checked_mul(step)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use rustix::fs::ftruncate;
    use rustix::io::Errno;

    use super::{SegmentBudget, Slot, SlotPool, class};
    use crate::attachment::Attachment;
    use crate::segment::SharedSegment;

    const MIB: u64 = 1 << 20;

    #[derive(Debug)]
    struct Limited {
        used: AtomicU64,
        most: u64,
    }

    impl SegmentBudget for Limited {
        fn charge(&self, bytes: u64) -> bool {
            let fits = self.used.load(Ordering::Relaxed) + bytes <= self.most;
            if fits {
                self.used.fetch_add(bytes, Ordering::Relaxed);
            }
            fits
        }

        fn give_back(&self, bytes: u64) {
            let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
            assert!(before >= bytes, "more is given back than was charged");
        }
    }

    fn pool(most: u64) -> (SlotPool, Arc<Limited>) {
        let budget = Arc::new(Limited { used: AtomicU64::new(0), most });
        (SlotPool::new(Arc::clone(&budget) as _, 64), budget)
    }

    fn filled(pool: &SlotPool, len: usize, byte: u8) -> Option<Slot> {
        let mut slot = pool.take(len)?;
        assert_eq!(slot.len(), len);
        slot.fill(byte);
        Some(slot)
    }

    /// What a reader sees at a place.
    fn read(file: &Attachment, size: u64) -> SharedSegment {
        SharedSegment::map(file, size).expect("a segment as a reader wants it")
    }

    #[test]
    fn slots_exclude_each_other_and_the_reader_sees_each() {
        let (pool, _) = pool(64 * MIB);
        let slots: Vec<Slot> = (0..16_u8).map(|i| filled(&pool, 65_536, i).expect("room")).collect();
        let place = slots[0].place;
        let (file, size) = pool.take_file(place.segment, place.generation).expect("not sent yet");
        assert!(pool.take_file(place.segment, place.generation).is_none(), "it is given once");
        let seen = read(&file, size);
        for (i, slot) in slots.iter().enumerate() {
            let at = pool.find(slot).expect("it is of this pool");
            assert_eq!((at.segment, at.generation), (place.segment, place.generation));
            let offset = usize::try_from(at.offset).expect("small");
            let byte = u8::try_from(i).expect("small");
            assert!(slot.iter().all(|b| *b == byte));
            assert!(seen.bytes()[offset..offset + 65_536].iter().all(|b| *b == byte), "slot {i}");
        }
    }

    #[test]
    fn a_dropped_slot_is_used_again_and_one_that_is_shared_is_not() {
        let (pool, budget) = pool(64 * MIB);
        let first = filled(&pool, 100_000, 1).expect("room");
        let address = first.as_ptr();
        drop(first);
        let second = filled(&pool, 90_000, 2).expect("room");
        assert_eq!(second.as_ptr(), address, "the memory is warm");
        let shared = Bytes::from_owner(second);
        let also = shared.slice(10..20);
        drop(shared);
        assert_ne!(filled(&pool, 100_000, 3).expect("room").as_ptr(), address, "somebody still has it");
        assert_eq!(&also[..], [2; 10]);
        let at = pool.find(&also).expect("it is of this pool");
        assert_eq!(at.offset % 4096, 10);
        drop(also);
        assert_eq!(filled(&pool, 100_000, 4).expect("room").as_ptr(), address);
        assert_eq!(budget.used.load(Ordering::Relaxed), pool.bytes());
    }

    #[test]
    fn what_was_not_used_between_two_trims_is_taken_out() {
        let (pool, budget) = pool(64 * MIB);
        let held = filled(&pool, 1 << 20, 1).expect("room");
        let first = filled(&pool, 2 << 20, 2).expect("room").place;
        assert!(pool.trim().is_empty(), "both are new");
        assert_eq!(filled(&pool, 2 << 20, 2).expect("room").place, first);
        assert!(pool.trim().is_empty(), "one was used, the other is");
        let trimmed = pool.trim();
        assert_eq!(trimmed.iter().collect::<Vec<_>>(), [(first.segment, first.generation)]);
        assert_eq!(pool.bytes(), 1 << 20);
        drop(trimmed);
        assert_eq!(budget.used.load(Ordering::Relaxed), MIB);
        assert!(held.iter().all(|byte| *byte == 1));
        drop(held);
        assert_eq!(pool.trim().iter().count(), 1, "it was given back and not taken again");
        let again = filled(&pool, 1 << 20, 3).expect("room").place;
        assert!(again.generation > first.generation, "a number is used again under a newer generation");
    }

    #[test]
    fn memory_ends_at_the_budget_and_comes_back() {
        let (pool, budget) = pool(4 * MIB);
        let held: Vec<Slot> = (0..4).map(|_| pool.take(1 << 20).expect("room")).collect();
        assert!(pool.take(1 << 20).is_none(), "n + 1");
        assert!(pool.take(65_536).is_none(), "nor a small one");
        let generation = held[0].place.generation;
        drop(held);
        assert_eq!(budget.used.load(Ordering::Relaxed), 4 * MIB, "it is kept");
        // Slots of another size take the place of unused ones, under a new generation.
        let other = pool.take(3 << 20).expect("unused segments make room");
        assert!(other.place.generation > generation);
        assert_eq!(budget.used.load(Ordering::Relaxed), 4 * MIB);
        assert_eq!(pool.bytes(), 4 * MIB);
        drop((other, pool));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_slot_that_is_much_too_large_is_taken_where_nothing_else_is_left() {
        let (pool, _) = pool(16 * MIB);
        let large = pool.take(16 << 20).expect("room");
        drop(large);
        let held = pool.take(5 << 20).expect("the large one fits");
        assert_eq!(pool.bytes(), 16 * MIB);
        let small = pool.take(65_536);
        assert!(small.is_none(), "all is used: {small:?}");
        drop(held);
        let small = pool.take(65_536).expect("room is made");
        assert_eq!(pool.bytes(), MIB, "by a segment that fits, in the place of the large one");
        drop(small);
    }

    #[test]
    fn a_slot_outlives_its_pool() {
        let (pool, budget) = pool(MIB);
        let slot = filled(&pool, 70_000, 9).expect("room");
        drop(pool);
        assert!(slot.iter().all(|byte| *byte == 9));
        drop(slot);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_reader_can_neither_write_nor_shorten_it() {
        let (pool, _) = pool(MIB);
        let slot = pool.take(65_536).expect("room");
        let (file, size) = pool.take_file(slot.place.segment, slot.place.generation).expect("not sent yet");
        assert_eq!(size, MIB);
        assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(Errno::PERM));
        assert_eq!(ftruncate(&file, 0), Err(Errno::PERM));
        assert_eq!(ftruncate(&file, 2 * size), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE), Err(Errno::PERM));
    }

    #[test]
    fn threads_share_a_pool() {
        let (pool, budget) = pool(64 * MIB);
        std::thread::scope(|scope| {
            for byte in 0..4_u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for round in 0..200_usize {
                        let len = 65_536 + round * 1024;
                        let slot = filled(&pool, len, byte).expect("room for four");
                        std::thread::yield_now();
                        assert!(slot.iter().all(|b| *b == byte));
                    }
                });
            }
        });
        assert_eq!(budget.used.load(Ordering::Relaxed), pool.bytes());
    }

    #[test]
    fn sizes_waste_a_fifth_at_most() {
        for len in [1, 4096, 65_536, 65_537, 100_000, 1 << 20, (1 << 20) + 1, 5 << 20, (64 << 20) - 1] {
            let size = class(len).expect("small");
            assert!(size >= len && size.is_multiple_of(4096), "{len} {size}");
            assert!(len < 65_536 || size - len <= len / 4, "{len} {size}");
        }
        assert_eq!(class(usize::MAX), None);
    }
}
