//! The reader's side of what travels outside of the frames: which lanes a side takes, and whether a part is where it says.
//!
//! A client takes what its features and its HELLO say. A daemon takes nothing until it has said so with LANES, which it does
//! when a client has asked: what comes on a lane that it never named ends the connection.

use super::lanes::lies_in;
use super::{Connection, Event, Role, State};
use crate::decoder::Frame;
use crate::error::{MisuseError, PeerError};
use crate::metadata::{Item, Lanes as LanesRecord, Lease, Part, Place, Segment};
use crate::registry::{Codec, FrameKind, Lane, features, limits};

/// Some lanes, besides the frames themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneSet(u8);

impl LaneSet {
    /// None of them.
    pub const NONE: Self = LaneSet(0);

    /// Those of `lanes`.
    #[must_use]
    pub fn of(lanes: impl IntoIterator<Item = Lane>) -> Self {
        let besides = lanes.into_iter().filter(|lane| *lane != Lane::Inline);
        LaneSet(besides.fold(0, |all, lane| all | 1 << lane.as_u8()))
    }

    /// Those of `numbers` that have a name.
    fn read(numbers: &[u8]) -> Self {
        LaneSet::of(numbers.iter().filter_map(|number| Lane::from_u8(*number)))
    }

    /// Whether `lane` is one of them.
    #[must_use]
    pub fn contains(self, lane: Lane) -> bool {
        self.0 & 1 << lane.as_u8() != 0
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        LaneSet(self.0 | other.0)
    }

    /// By number, ascending.
    pub fn iter(self) -> impl Iterator<Item = Lane> {
        (0..8).filter_map(Lane::from_u8).filter(move |lane| self.contains(*lane))
    }
}

impl<A> Connection<A> {
    /// Asks the daemon to take parts on `lanes` from this client; [`Event::LanesTold`] is its answer. Nothing may go there
    /// before.
    ///
    /// # Errors
    /// [`MisuseError::NoLane`] unless file descriptors may be sent, and from a daemon; [`MisuseError::NotOpen`] before WELCOME
    /// and after the end.
    pub fn ask_for_lanes(&mut self, lanes: LaneSet) -> Result<(), MisuseError> {
        if self.role != Role::Client || self.features() & features::ATTACHED_FDS == 0 {
            return Err(MisuseError::NoLane);
        }
        self.say_lanes(lanes)
    }

    /// Takes parts on `lanes` from the client from now on, as far as the features go, and tells it so. What comes on a lane that
    /// was taken before is no fault of the client's, which may not know yet; whether to read it is the owner's to decide.
    ///
    /// # Errors
    /// As [`ask_for_lanes`](Self::ask_for_lanes), from a client.
    pub fn take_lanes(&mut self, lanes: LaneSet) -> Result<(), MisuseError> {
        if self.role != Role::Daemon || self.features() & features::ATTACHED_FDS == 0 {
            return Err(MisuseError::NoLane);
        }
        let lanes = LaneSet::of(lanes.iter().filter(|lane| self.has_lane(*lane)));
        self.say_lanes(lanes)?;
        self.lanes.taken = self.lanes.taken.and(lanes);
        Ok(())
    }

    fn say_lanes(&mut self, lanes: LaneSet) -> Result<(), MisuseError> {
        if !matches!(self.state, State::Open | State::Draining) || !self.handshake.is_welcomed() {
            return Err(MisuseError::NotOpen);
        }
        let record = LanesRecord { lanes: lanes.iter().map(Lane::as_u8).collect(), ..LanesRecord::default() };
        self.send.control(FrameKind::Lanes, 0, 0, Some(&record));
        Ok(())
    }

    /// Whether parts may be sent on `lane` now: at the daemon, as far as the features say; at a client, if the daemon takes them.
    #[must_use]
    pub fn may_send(&self, lane: Lane) -> bool {
        let is_told = self.role == Role::Daemon || lane == Lane::Inline || self.lanes.told.contains(lane);
        is_told && self.has_lane(lane)
    }

    /// Whether this side takes parts on a lane, or did.
    #[must_use]
    pub fn takes(&self, lane: Lane) -> bool {
        match self.role {
            Role::Client => self.has_lane(lane),
            Role::Daemon => self.lanes.taken.contains(lane),
        }
    }

    pub(super) fn handle_lanes(&mut self, frame: &Frame<A>) -> Result<(), PeerError> {
        let record: LanesRecord = self.record(FrameKind::Lanes, frame)?;
        if self.features() & features::ATTACHED_FDS == 0 {
            return Err(PeerError::Feature);
        }
        let lanes = LaneSet::read(&record.lanes);
        self.events.push_back(match self.role {
            Role::Daemon => Event::LanesAsked(lanes),
            Role::Client => {
                self.lanes.told = lanes;
                Event::LanesTold(lanes)
            }
        });
        Ok(())
    }

    /// Checks that the parts of a message of the peer's are where this side takes them from; `fds` came with it.
    pub(super) fn check_places(&self, parts: &[Part], fds: usize) -> Result<(), PeerError> {
        parts.iter().enumerate().try_for_each(|(index, part)| self.check_place(index, part, fds))
    }

    fn check_place(&self, index: usize, part: &Part, fds: usize) -> Result<(), PeerError> {
        match part.place {
            Place::Inline => Ok(()),
            Place::Pool { segment, generation, offset } if self.takes(Lane::Pool) => {
                let at = Lease { segment, generation, offset };
                let lies = lies_in(&self.lanes.theirs, at, part.len);
                if lies { Ok(()) } else { Err(PeerError::NoSegment(segment)) }
            }
            // Attachments are for what a command takes apart; what is a file is the body.
            Place::File { .. } if self.takes(Lane::File) && (index > 0 || part.codec != Codec::Raw) => {
                Err(PeerError::BodyMismatch)
            }
            Place::File { fd, .. } if self.takes(Lane::File) => check_fd(fd, fds),
            Place::Sealed { fd } if self.takes(Lane::Sealed) => check_fd(fd, fds),
            _ => Err(PeerError::Feature),
        }
    }

    /// Checks the parts of an item. None is in a file descriptor: what it would cost its receiver can't be counted.
    pub(super) fn check_item(&self, item: &Item, frame: &Frame<A>) -> Result<u64, PeerError> {
        let has_fd = |part: &Part| matches!(part.place, Place::File { .. } | Place::Sealed { .. });
        if item.parts.iter().any(has_fd) {
            return Err(PeerError::Feature);
        }
        self.check_parts(&item.parts, frame)
    }

    pub(super) fn handle_segment(&mut self, frame: Frame<A>) -> Result<(), PeerError> {
        let segment: Segment = self.record(FrameKind::Segment, &frame)?;
        if !self.takes(Lane::Pool) {
            return Err(PeerError::Feature);
        }
        let Segment { segment: number, generation, len, .. } = segment;
        let known = self.lanes.theirs.get(&number);
        if len == 0 && frame.fds.is_empty() {
            // Given up: the number stays known, as its next generation must be larger.
            return match known {
                Some((earlier, size)) if *earlier == generation && *size > 0 => {
                    self.lanes.theirs.insert(number, (generation, 0));
                    self.events.push_back(Event::SegmentGone { segment: number, generation });
                    Ok(())
                }
                _ => Err(PeerError::BadSegment(number)),
            };
        }
        let is_newer = known.is_none_or(|(earlier, _)| *earlier < generation);
        let has_room = known.is_some() || self.lanes.theirs.len() < limits::MAX_SEGMENTS;
        let is_sized = len > 0 && len <= limits::SEGMENT_MAX as u64;
        let mut fds = frame.fds;
        match (fds.pop(), fds.is_empty()) {
            (Some(file), true) if is_newer && has_room && is_sized => {
                self.lanes.theirs.insert(number, (generation, len));
                self.events.push_back(Event::SegmentCame { segment, file });
                Ok(())
            }
            _ => Err(PeerError::BadSegment(number)),
        }
    }

    /// Refuses a segment of the peer's, whose file is not what was said of it: GOAWAY, and nothing more is read.
    pub fn refuse_segment(&mut self, segment: u32) -> PeerError {
        let error = PeerError::BadSegment(segment);
        self.refuse(error.wire_code(), &error.to_string());
        error
    }
}

fn check_fd(fd: u8, fds: usize) -> Result<(), PeerError> {
    if usize::from(fd) < fds { Ok(()) } else { Err(PeerError::NoFile(fd)) }
}
