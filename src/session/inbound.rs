//! What a peer sends elsewhere than in the frames: its segments, the files that come with its calls, and what it leases to the
//! daemon until that has read it.
//!
//! Owns the choice of where a part is read: memory of a moderate size on the loop, the rest by [`Aside`](super::aside::Aside).

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap;
use invoked_proto::connection::{Connection, Event, LaneSet};
use invoked_proto::error::PeerError;
use invoked_proto::metadata::{Lease, Part, Place, Segment};
use invoked_proto::registry::{ErrorCode, Lane};
use invoked_transport::{Attachment, Closer, PeerFile};

use super::Hub;
use crate::broker::{CallId, ItemOf};
use crate::ipc::{Fault, HeldFile, HeldLease, LeaseReturns, MemoryCharge, Outside, PeerId, Source};

/// So many descriptors more than its uid may hold, and a connection on which one comes is ended: what was on its way when it
/// was told is let pass.
const PASSING: u64 = 256;

/// What is held of one peer.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// By number, with their generations.
    segments: RefCell<HashMap<u32, (u32, Arc<HeldFile>)>>,
    returns: Arc<LeaseReturns>,
    /// Descriptors are to be let in.
    opens: Cell<bool>,
    /// The rule that the peer broke, as its session is to be told.
    fault: Cell<Option<PeerError>>,
}

impl Inbound {
    /// Tells the peer, with the next output, what was read since.
    pub(super) fn return_leases(&self, connection: &mut Connection<Attachment>) {
        let returned = self.returns.take();
        if !returned.is_empty() {
            connection.release_leases(returned);
        }
    }

    /// Whether descriptors are to be let in from now on; told once.
    pub(super) fn opens(&self) -> bool {
        self.opens.take()
    }

    /// The rule that the peer broke, if it did; told once.
    pub(super) fn take_fault(&self) -> Option<PeerError> {
        self.fault.take()
    }
}

/// Where the parts of a message are that are elsewhere than in the frames, and the event that brought it.
type Rest = (Option<Result<Outside, Fault>>, Event<Attachment>);

/// What an answer to a call, or an item, says where a part is not where it should be.
fn refused(text: impl Into<String>) -> Fault {
    Fault::refusal(ErrorCode::AttachmentRefused, text)
}

impl Hub {
    /// Handles what an event has to do with other lanes than the frames. What is left of it is given back, with where the parts of
    /// its message are.
    pub(super) fn handle_lanes(&self, peer: PeerId, event: Event<Attachment>) -> Option<Rest> {
        match event {
            Event::LanesAsked(_) => self.handle_lanes_asked(peer),
            Event::SegmentCame { segment, file } => self.handle_segment(peer, &segment, file),
            Event::SegmentGone { segment, generation } => self.handle_segment_gone(peer, segment, generation),
            Event::Called { stream, flags, call, payload, more, fds } => {
                let outside = self.outside(peer, &call.parts, fds);
                let fds = Vec::new();
                return Some((outside, Event::Called { stream, flags, call, payload, more, fds }));
            }
            Event::ItemCame { stream, channel, item, payload, more, credit, fds } => {
                let outside = self.outside(peer, &item.parts, fds);
                let fds = Vec::new();
                return Some((
                    outside,
                    Event::ItemCame { stream, channel, item, payload, more, credit, fds },
                ));
            }
            event => return Some((None, event)),
        }
        None
    }

    /// The peer wants to send on other lanes than the frames: it is told on which it may.
    pub(super) fn handle_lanes_asked(&self, peer: PeerId) {
        let lanes = self.broker.borrow().lanes_to_take(peer);
        if !lanes.is_empty() {
            self.link(peer).inbound.opens.set(true);
        }
        self.tell_lanes(peer, lanes);
    }

    /// The same unasked, as something it sent was refused.
    pub(super) fn tell_lanes_again(&self, peer: PeerId) {
        let lanes = self.broker.borrow().lanes_to_take(peer);
        self.tell_lanes(peer, lanes);
    }

    fn tell_lanes(&self, peer: PeerId, lanes: LaneSet) {
        // A connection that is not open any more has nobody to tell.
        self.with_connection(peer, |connection| connection.take_lanes(lanes).is_ok());
    }

    /// The peer introduced a segment. One that is not what it was said to be ends the connection; for one that there is no room
    /// for the peer is told to use none.
    pub(super) fn handle_segment(&self, peer: PeerId, segment: &Segment, file: Attachment) {
        let link = self.link(peer);
        let Segment { segment: number, generation, len, .. } = *segment;
        // What was there under this number is of no use any more.
        link.inbound.segments.borrow_mut().remove(&number);
        let file = match PeerFile::segment(file, len) {
            Ok(file) => file,
            Err(fault) => {
                tracing::debug!(%peer, segment = number, %fault, "a segment is refused");
                let error = self.with_connection(peer, |connection| connection.refuse_segment(number));
                return link.inbound.fault.set(error);
            }
        };
        let lanes = self.broker.borrow().lanes_to_take(peer);
        let budget = self.broker.borrow().memory_files(peer);
        let charge = budget.filter(|_| lanes.contains(Lane::Pool)).and_then(|b| MemoryCharge::new(&b, len));
        match charge {
            Some(charge) => {
                let held = HeldFile::new(file, Some(charge));
                link.inbound.segments.borrow_mut().insert(number, (generation, held));
            }
            None => {
                let without = lanes.iter().filter(|lane| *lane != Lane::Pool);
                self.tell_lanes(peer, LaneSet::of(without));
            }
        }
    }

    /// The peer gave a segment up.
    pub(super) fn handle_segment_gone(&self, peer: PeerId, number: u32, generation: u32) {
        let link = self.link(peer);
        let mut segments = link.inbound.segments.borrow_mut();
        if segments.get(&number).is_some_and(|(known, _)| *known == generation) {
            segments.remove(&number);
        }
    }

    /// Where the parts of a message are that are elsewhere than in the frames, or why they are not taken; `None` if all are in
    /// the frames.
    pub(super) fn outside(
        &self,
        peer: PeerId,
        parts: &[Part],
        fds: Vec<Attachment>,
    ) -> Option<Result<Outside, Fault>> {
        if parts.iter().all(|part| part.place == Place::Inline) {
            return None;
        }
        let link = self.link(peer);
        let mut fds: Vec<Option<Attachment>> = fds.into_iter().map(Some).collect();
        // All are looked at, also after a fault: each lease goes back.
        let found: Vec<_> = parts
            .iter()
            .filter(|part| part.place != Place::Inline)
            .map(|part| self.source(peer, &link.inbound, part, &mut fds))
            .collect();
        Some(found.into_iter().collect::<Result<_, _>>().map(Outside::new))
    }

    fn source(
        &self,
        peer: PeerId,
        inbound: &Inbound,
        part: &Part,
        fds: &mut [Option<Attachment>],
    ) -> Result<Source, Fault> {
        let len = part.len;
        // The connection has checked that the frame has it; a second part can't have the same.
        let mut take = |fd: u8| {
            let file = fds.get_mut(usize::from(fd)).and_then(Option::take);
            file.ok_or_else(|| refused("two parts are in one file descriptor"))
        };
        match part.place {
            Place::Pool { segment, generation, offset } => {
                let lease = HeldLease::new(Lease { segment, generation, offset }, &inbound.returns);
                let segments = inbound.segments.borrow();
                let known = segments.get(&segment).filter(|(known, _)| *known == generation);
                let (_, file) = known.ok_or_else(|| refused("a part is in a segment that was not taken"))?;
                Ok(Source { file: Arc::clone(file), offset, len, _lease: Some(lease) })
            }
            Place::Sealed { fd } => {
                let file = PeerFile::sealed(take(fd)?, len).map_err(|fault| refused(fault.to_string()))?;
                let budget = self.check_fds(peer)?;
                let charge = MemoryCharge::new(&budget, len).ok_or_else(|| {
                    let text = "too much memory of this uid's is held";
                    Fault::refusal(ErrorCode::ResourceExhausted, text)
                })?;
                Ok(Source { file: HeldFile::new(file, Some(charge)), offset: 0, len, _lease: None })
            }
            Place::File { fd, offset } => {
                let file = PeerFile::regular(take(fd)?).map_err(|fault| refused(fault.to_string()))?;
                self.check_fds(peer)?;
                Ok(Source { file: HeldFile::new(file, None), offset, len, _lease: None })
            }
            Place::Inline => Err(refused("the part is in the frames")),
        }
    }

    /// Refuses what comes in descriptors while the uid holds too many.
    fn check_fds(&self, peer: PeerId) -> Result<Arc<dyn invoked_transport::SegmentBudget>, Fault> {
        let broker = self.broker.borrow();
        let budget = broker.memory_files(peer);
        let is_within = broker.received_fds(peer).is_some_and(|(_, held)| held.is_within());
        budget.filter(|_| is_within).ok_or_else(|| {
            let text = "too many file descriptors of this uid's are held";
            Fault::refusal(ErrorCode::ResourceExhausted, text)
        })
    }

    /// Reads what is elsewhere of a call's message: here, or where it may take its time.
    pub(super) fn fetch(&self, now: Instant, call: CallId, uid: u32, outside: Outside) {
        if outside.is_quick() {
            return self.fetched(now, call, outside.read());
        }
        match self.fetches.clone().try_reserve_owned() {
            Ok(permit) => self.aside.submit(uid, move || {
                permit.send((call, outside.read()));
            }),
            Err(_) => {
                let text = "too many files of callers are being read";
                let fault = Fault::refusal(ErrorCode::ResourceExhausted, text);
                self.fetched(now, call, Err(fault));
            }
        }
    }

    fn fetched(&self, now: Instant, call: CallId, result: Result<Vec<bytes::Bytes>, Fault>) {
        let mut broker = self.broker.borrow_mut();
        if let Ok(parts) = &result {
            broker.note_read(parts);
        }
        broker.handle_fetched(now, call, result);
    }

    /// Reads what is elsewhere of an item. It is in memory and small, so it is read here, before anything else of its channel.
    pub(super) fn fetch_item(&self, item: ItemOf, outside: Outside) {
        let result = outside.read();
        let mut broker = self.broker.borrow_mut();
        if let Ok(parts) = &result {
            broker.note_read(parts);
        }
        broker.handle_item_fetched(item, result);
    }

    /// Brings what was read elsewhere to its calls, for ever.
    pub(crate) async fn watch_fetches(&self) {
        let taken = self.fetched.borrow_mut().take();
        let Some(mut fetched) = taken else { return };
        while let Some((call, result)) = fetched.recv().await {
            let now = Instant::now();
            self.fetched(now, call, result);
            self.pump(now);
        }
    }

    /// What closes the descriptors of a peer.
    pub(crate) fn closer(&self, peer: PeerId) -> Option<Arc<dyn Closer>> {
        let (uid, held) = self.broker.borrow().received_fds(peer)?;
        Some(self.aside.closer(uid, held))
    }

    /// Whether more descriptors of the peer's uid are held than can be on their way when it is told that it may send none.
    pub(crate) fn floods_with_fds(&self, peer: PeerId) -> bool {
        self.broker.borrow().received_fds(peer).is_some_and(|(_, held)| held.is_above(PASSING))
    }
}
