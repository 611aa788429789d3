//! What travels outside of the frames: segments, leases, file descriptors (SPEC.md, "Lanes" and "File descriptors").
//!
//! The writer keeps the bytes of each lease until RELEASE names it. Memory is the owners': here are numbers, and what the writer
//! lent. What the reader checks is in `taking`.

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};

use super::Connection;
use super::send::Opening;
use super::taking::LaneSet;
use crate::body::{Body, Message};
use crate::decoder::Frame;
use crate::error::{MisuseError, PeerError};
use crate::metadata::{Item, Lease, Part, Place, Release, Segment};
use crate::registry::{Codec, FrameKind, Lane, features, limits};

/// Leases that are given back in one frame.
const RELEASE_MAX: usize = 1024;

/// So many leases that were given back are told without waiting for something else to be sent.
const RELEASE_SOON: usize = 16;

/// Where the parts of a message go that do not travel in its frames.
#[derive(Debug)]
pub struct Placement<A> {
    parts: Vec<Placed>,
    fds: Vec<A>,
}

#[derive(Debug)]
struct Placed {
    /// 0 is the body.
    part: usize,
    len: u64,
    place: Place,
}

impl<A> Default for Placement<A> {
    fn default() -> Self {
        Placement { parts: Vec::new(), fds: Vec::new() }
    }
}

impl<A> Placement<A> {
    /// True if all parts travel in the frames.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Puts the body, `len` bytes of a regular file from `offset` on, into the file itself: its descriptor is sent. The
    /// message has an empty raw body in its place.
    pub fn in_file(&mut self, offset: u64, len: u64, file: A) {
        // A frame has room for more descriptors than a message has bodies.
        let fd = u8::try_from(self.fds.len()).unwrap_or(u8::MAX);
        self.fds.push(file);
        self.parts.push(Placed { part: 0, len, place: Place::File { fd, offset } });
    }

    /// Puts a part of the message, 0 for its body, into a sealed memory file of exactly its bytes, whose descriptor is sent.
    pub fn in_sealed(&mut self, part: usize, len: u64, file: A) {
        let fd = u8::try_from(self.fds.len()).unwrap_or(u8::MAX);
        self.fds.push(file);
        self.parts.push(Placed { part, len, place: Place::Sealed { fd } });
    }

    /// Whether a descriptor is sent with it.
    #[must_use]
    pub fn has_file(&self) -> bool {
        !self.fds.is_empty()
    }

    /// How many bytes each part has that was put into a segment.
    pub fn in_segments(&self) -> impl Iterator<Item = u64> {
        let is_pooled = |placed: &&Placed| matches!(placed.place, Place::Pool { .. });
        self.parts.iter().filter(is_pooled).map(|placed| placed.len)
    }

    pub(super) fn into_fds(self) -> Vec<A> {
        self.fds
    }

    /// Puts a part of the message, 0 for its body, where its bytes are already: into a segment.
    pub fn in_segment(&mut self, part: usize, at: Lease, len: u64) {
        let Lease { segment, generation, offset } = at;
        self.parts.push(Placed { part, len, place: Place::Pool { segment, generation, offset } });
    }
}

/// What goes out with a message and is not in its frames.
pub(super) type Lent = Vec<(Lease, Bytes)>;

/// What one connection has outside of its frames.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Segments that we introduced: generation and size.
    ours: HashMap<u32, (u32, u64)>,
    /// What the peer may read until it says that it is done, as often as it was given.
    lent: HashMap<(u32, u32, u64), (Bytes, usize)>,
    /// File descriptors that we sent and that the peer has not confirmed.
    unconfirmed: usize,
    /// Segments of the peer's; one of no size was given up.
    pub(super) theirs: HashMap<u32, (u32, u64)>,
    /// What a daemon has said it takes, and may have taken back since.
    pub(super) taken: LaneSet,
    /// What a client was told that its daemon takes.
    pub(super) told: LaneSet,
    /// File descriptors that came and are to be confirmed.
    to_confirm: u32,
    to_release: Vec<Lease>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Lanes {
            ours: HashMap::new(),
            lent: HashMap::new(),
            unconfirmed: 0,
            theirs: HashMap::new(),
            taken: LaneSet::NONE,
            told: LaneSet::NONE,
            to_confirm: 0,
            to_release: Vec::new(),
        }
    }

    /// Whether a RELEASE is to be sent without waiting for other output.
    pub(super) fn is_pressing(&self) -> bool {
        self.to_confirm > 0 || self.to_release.len() >= RELEASE_SOON
    }

    fn has_news(&self) -> bool {
        self.to_confirm > 0 || !self.to_release.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Lanes::new();
    }
}

impl<A> Connection<A> {
    /// Whether parts may travel on `lane` between the two sides, as far as their features say. What a client's HELLO and the
    /// policy say of lanes is the owner's to keep to.
    #[must_use]
    pub fn has_lane(&self, lane: Lane) -> bool {
        let needed = match lane {
            Lane::Inline => return true,
            Lane::Pool => features::ATTACHED_FDS | features::POOL,
            Lane::Sealed => features::ATTACHED_FDS | features::SEALED,
            Lane::File => features::ATTACHED_FDS | features::FILE,
        };
        self.features() & needed == needed
    }

    /// Whether the peer was told of this segment of ours.
    #[must_use]
    pub fn has_introduced(&self, segment: u32, generation: u32) -> bool {
        self.lanes.ours.get(&segment).is_some_and(|(known, len)| *known == generation && *len > 0)
    }

    /// Introduces a segment of ours. It is sent before any message that is queued later.
    ///
    /// # Errors
    /// [`MisuseError::NoLane`] if the pool lane is not in force; [`MisuseError::NotPlaced`] for a generation that is not above
    /// the last under this number, or bytes of the last that are still lent.
    pub fn introduce(&mut self, segment: Segment, file: A) -> Result<(), MisuseError> {
        if !self.may_send(Lane::Pool) {
            return Err(MisuseError::NoLane);
        }
        let (number, generation, len) = (segment.segment, segment.generation, segment.len);
        let is_newer = self.lanes.ours.get(&number).is_none_or(|(known, _)| *known < generation);
        let is_lent = self.lanes.lent.keys().any(|(of, _, _)| *of == number);
        let has_room = self.lanes.ours.contains_key(&number) || self.lanes.ours.len() < limits::MAX_SEGMENTS;
        if !is_newer || is_lent || !has_room {
            return Err(MisuseError::NotPlaced);
        }
        self.send_segment(&segment, vec![file])?;
        self.lanes.ours.insert(number, (generation, len));
        self.lanes.unconfirmed += 1;
        Ok(())
    }

    /// Gives up a segment of ours of which nothing is lent, so that its reader may forget it; nothing if it knows none.
    ///
    /// # Errors
    /// [`MisuseError::NotPlaced`] if bytes of it are lent.
    pub fn give_up_segment(&mut self, segment: u32, generation: u32) -> Result<(), MisuseError> {
        if !self.has_introduced(segment, generation) {
            return Ok(());
        }
        if self.lanes.lent.keys().any(|(of, _, _)| *of == segment) {
            return Err(MisuseError::NotPlaced);
        }
        self.send_segment(&Segment { segment, generation, ..Segment::default() }, Vec::new())?;
        self.lanes.ours.insert(segment, (generation, 0));
        Ok(())
    }

    fn send_segment(&mut self, segment: &Segment, files: Vec<A>) -> Result<(), MisuseError> {
        let max_frame = self.remote.max_frame;
        let opening = Opening { kind: FrameKind::Segment, stream: 0, flags: 0, arg: 0, max_frame };
        self.send.message(opening, segment, Message::default(), files)
    }

    /// File descriptors that were queued for the peer and that it has not confirmed.
    #[must_use]
    pub fn unconfirmed_fds(&self) -> usize {
        self.lanes.unconfirmed
    }

    /// Parts that the peer may read now.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lanes.lent.values().map(|(_, times)| times).sum()
    }

    /// Gives bytes of the peer's segments back, which it may use for something else from then on. It is told with the next
    /// output, or once many are given back.
    pub fn release_leases(&mut self, leases: impl IntoIterator<Item = Lease>) {
        if self.state != super::State::Closed {
            self.lanes.to_release.extend(leases);
        }
    }

    /// Gives back what the parts of a message lease, for an owner that does not want the message.
    pub fn release_parts(&mut self, parts: &[Part]) {
        let leases = parts.iter().filter_map(|part| match part.place {
            Place::Pool { segment, generation, offset } => Some(Lease { segment, generation, offset }),
            _ => None,
        });
        self.release_leases(leases.collect::<Vec<_>>());
    }

    /// Takes the parts out of `message` that do not travel in its frames. What it returns announces all parts; the bytes are
    /// lent once the message is queued.
    pub(super) fn place(
        &self,
        message: &mut Message,
        placement: &Placement<A>,
    ) -> Result<(Vec<Part>, Lent), MisuseError> {
        let mut parts = message.parts();
        let mut lent = Vec::new();
        for placed in &placement.parts {
            let part = parts.get_mut(placed.part).ok_or(MisuseError::NotPlaced)?;
            let bytes = take_part(message, placed.part).ok_or(MisuseError::NotPlaced)?;
            let needed = match placed.place {
                Place::File { .. } => Lane::File,
                Place::Sealed { .. } => Lane::Sealed,
                Place::Pool { .. } | Place::Inline => Lane::Pool,
            };
            if !self.may_send(needed) {
                return Err(MisuseError::NoLane);
            }
            if needed == Lane::File && (part.codec != Codec::Raw || !bytes.is_empty()) {
                return Err(MisuseError::NotPlaced);
            }
            if let Place::Pool { segment, generation, offset } = placed.place {
                let at = Lease { segment, generation, offset };
                self.check_ours(at, placed.len)?;
                lent.push((at, bytes));
            }
            *part = Part { codec: part.codec, len: placed.len, place: placed.place };
        }
        Ok((parts, lent))
    }

    /// Notes what went out with a message.
    pub(super) fn lend(&mut self, lent: Lent, fds: usize) {
        for (at, bytes) in lent {
            self.lanes.lent.entry(key(at)).or_insert((bytes, 0)).1 += 1;
        }
        self.lanes.unconfirmed += fds;
    }

    /// Lends what items that have begun are made of.
    pub(super) fn lend_items(&mut self) {
        let lent = self.send.take_lent();
        self.lend(lent, 0);
    }

    fn check_ours(&self, at: Lease, len: u64) -> Result<(), MisuseError> {
        if lies_in(&self.lanes.ours, at, len) { Ok(()) } else { Err(MisuseError::NotPlaced) }
    }

    /// Gives back what an item leases that nobody wants.
    pub(super) fn release_item(&mut self, item: Option<&Item>) {
        if let Some(item) = item {
            self.release_parts(&item.parts);
        }
    }

    /// Drops an item that comes too late.
    pub(super) fn drop_item(&mut self, item: Option<&Item>, frame: &Frame<A>) -> Result<(), PeerError> {
        if let Some(item) = item.filter(|_| self.has_lane(Lane::Pool)) {
            self.check_item(item, frame)?;
            self.release_parts(&item.parts);
        }
        Ok(())
    }

    pub(super) fn handle_release(&mut self, frame: &Frame<A>) -> Result<(), PeerError> {
        let release: Release = self.record(FrameKind::Release, frame)?;
        if self.features() & features::ATTACHED_FDS == 0 {
            return Err(PeerError::Feature);
        }
        let fds = usize::try_from(release.fds).unwrap_or(usize::MAX);
        self.lanes.unconfirmed = self.lanes.unconfirmed.checked_sub(fds).ok_or(PeerError::NotLent)?;
        for at in release.leases {
            let (_, times) = self.lanes.lent.get_mut(&key(at)).ok_or(PeerError::NotLent)?;
            *times -= 1;
            if *times == 0 {
                self.lanes.lent.remove(&key(at));
            }
        }
        Ok(())
    }

    /// Notes file descriptors that came with a frame: their sender is told that they have arrived.
    pub(super) fn note_fds(&mut self, fds: usize) {
        let fds = u32::try_from(fds).unwrap_or(u32::MAX);
        self.lanes.to_confirm = self.lanes.to_confirm.saturating_add(fds);
    }

    /// Queues what is to be told of file descriptors and leases, before anything else is written.
    pub(super) fn queue_releases(&mut self) {
        while self.lanes.has_news() && self.state != super::State::Closed {
            let rest = self.lanes.to_release.split_off(self.lanes.to_release.len().min(RELEASE_MAX));
            let leases = std::mem::replace(&mut self.lanes.to_release, rest);
            let fds = std::mem::take(&mut self.lanes.to_confirm);
            self.send.control(FrameKind::Release, 0, 0, Some(&Release { fds, leases, ..Release::default() }));
        }
    }
}

fn key(at: Lease) -> (u32, u32, u64) {
    (at.segment, at.generation, at.offset)
}

pub(super) fn lies_in(segments: &HashMap<u32, (u32, u64)>, at: Lease, len: u64) -> bool {
    let Some((generation, size)) = segments.get(&at.segment) else { return false };
    let end = at.offset.checked_add(len);
    *generation == at.generation && *size > 0 && end.is_some_and(|end| end <= *size)
}

/// Puts the bytes of parts back that [`Connection::place`] took out.
pub(super) fn put_back(message: &mut Message, parts: &[Part], lent: Lent) {
    let mut lent = lent.into_iter();
    for (index, part) in parts.iter().enumerate() {
        let Place::Pool { .. } = part.place else { continue };
        let Some((_, bytes)) = lent.next() else { break };
        match index.checked_sub(1) {
            None => {
                message.body = match part.codec {
                    Codec::Json => Body::Json(bytes),
                    _ => Body::Raw(bytes),
                }
            }
            Some(index) => {
                message.attachments.get_mut(index).into_iter().for_each(|slot| *slot = bytes.clone())
            }
        }
    }
}

/// Takes the bytes of a part out; an empty one of the same codec stays.
fn take_part(message: &mut Message, part: usize) -> Option<Bytes> {
    match part.checked_sub(1) {
        None => match &mut message.body {
            Body::None => None,
            Body::Raw(bytes) | Body::Json(bytes) => Some(std::mem::take(bytes)),
        },
        Some(index) => message.attachments.get_mut(index).map(std::mem::take),
    }
}
