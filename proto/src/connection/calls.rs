//! Calls in both directions: opened, continued, ended, cancelled (SPEC.md, "Calls").

use bytes::Bytes;

use super::channels::Opener;
use super::send::Opening;
use super::{Connection, Event, More, Placement, Role, Settings, State};
use crate::body::{Message, held_len, inline_len, whole_len};
use crate::coding;
use crate::decoder::Frame;
use crate::error::{MisuseError, PeerError};
use crate::header::STREAM_MAX;
use crate::metadata::{Call, ChannelDeclaration, Extensions, Failure, HeaderField, Item, Part, Reply};
use crate::registry::{Delivery, ErrorCode, FrameKind, HEADER_LEN, Lane, features, flags, limits};
use crate::text::Text;

/// A call that the peer opened.
#[derive(Debug)]
pub(super) struct Inbound {
    /// Bytes of its message still to come.
    remaining: u64,
    answered: bool,
    cancelled: bool,
}

/// A call that we opened.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Whether a byte of it may have reached the peer.
    begun: bool,
    /// Once the terminal frame is here: bytes of its message still to come.
    remaining: Option<u64>,
    /// Its answer is above our limit: the rest is dropped as it comes.
    too_large: bool,
    cancelled: bool,
}

/// A call to make.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The command.
    pub command: Text,
    /// Headers of the application.
    pub headers: Vec<HeaderField>,
    /// Microseconds until the caller gives up; `None` takes the daemon's default.
    pub deadline_us: Option<u64>,
    /// IDEMPOTENT, SENSITIVE.
    pub flags: u16,
    /// Extensions.
    pub extensions: Extensions,
    /// Channels to open, for a peer that has them ([`Connection::has_channels`]).
    pub channels: Vec<ChannelDeclaration>,
    /// Body and attachments.
    pub message: Message,
}

/// What became of a call that its caller withdrew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// Nothing of it had been sent, and nothing will be; no event follows.
    NeverSent,
    /// CANCEL is queued; the terminal event follows.
    Asked,
    /// It had ended, or was cancelled before.
    TooLate,
}

impl<A> Connection<A> {
    /// Opens a call and returns its stream.
    ///
    /// # Errors
    /// A [`MisuseError`]; nothing was sent then.
    pub fn call(&mut self, request: Request) -> Result<u64, MisuseError> {
        self.call_placed(request, Placement::default())
    }

    /// Opens a call as [`call`](Self::call) does, with some of the parts on other lanes than the frames. What they are made of
    /// is kept until the peer gives it back.
    ///
    /// # Errors
    /// As [`call`](Self::call); [`MisuseError::NoLane`] and [`MisuseError::NotPlaced`] for parts that can't go where they were
    /// put.
    pub fn call_placed(&mut self, mut request: Request, placement: Placement<A>) -> Result<u64, MisuseError> {
        let callable = self.role == Role::Client || self.features() & features::PROVIDE != 0;
        if !matches!(self.state, State::Opening | State::Open) || self.peer_is_away || !callable {
            return Err(MisuseError::NotOpen);
        }
        if self.outbound.len() >= self.remote.open_calls {
            return Err(MisuseError::TooManyCalls);
        }
        if self.next_outbound > STREAM_MAX {
            return Err(MisuseError::Exhausted);
        }
        self.check_message(&request.message)?;
        self.check_channels(&request.channels)?;
        let (parts, lent) = self.place(&mut request.message, &placement)?;
        let stream = self.next_outbound;
        let record = Call {
            command: request.command,
            headers: request.headers,
            deadline_us: request.deadline_us,
            channels: request.channels,
            parts,
            extensions: request.extensions,
        };
        if self.is_early() {
            coding::Record::validate(&record)?;
            self.admit_early(HEADER_LEN + coding::encoded_len(&record) + request.message.len())?;
        }
        let opening = self.opening(FrameKind::Call, stream, request.flags, 0);
        let fds = placement.into_fds();
        let fd_count = fds.len();
        self.send.message(opening, &record, request.message, fds)?;
        self.lend(lent, fd_count);
        self.next_outbound += 2;
        let call = Outbound { begun: false, remaining: None, too_large: false, cancelled: false };
        self.outbound.insert(stream, call);
        self.open_channels_of(stream, &record.channels, Opener::Us);
        Ok(stream)
    }

    /// Withdraws a call that we opened. If it has ended and left channels open, these are stopped.
    pub fn cancel(&mut self, stream: u64) -> Withdrawal {
        let Some(call) = self.outbound.get_mut(&stream).filter(|call| call.remaining.is_none()) else {
            return if self.stop_channels(stream) { Withdrawal::Asked } else { Withdrawal::TooLate };
        };
        if call.cancelled {
            return Withdrawal::TooLate;
        }
        if self.send.withdraw(stream) {
            self.outbound.remove(&stream);
            self.drop_channels(stream);
            // The peer will see a later id first; ids may skip.
            return Withdrawal::NeverSent;
        }
        call.cancelled = true;
        self.send.control::<Item>(FrameKind::Cancel, stream, 0, None);
        Withdrawal::Asked
    }

    /// Answers a call of the peer with its result. Its channels stay open.
    ///
    /// # Errors
    /// [`MisuseError::NotAStream`] if it is not open or is answered; otherwise the call stays open.
    pub fn reply(
        &mut self,
        stream: u64,
        headers: Vec<HeaderField>,
        message: Message,
    ) -> Result<(), MisuseError> {
        self.reply_placed(stream, headers, message, Placement::default())
    }

    /// Answers as [`reply`](Self::reply) does, with some of the parts on other lanes than the frames. What they are made of is
    /// kept until the peer gives it back.
    ///
    /// # Errors
    /// As [`reply`](Self::reply); [`MisuseError::NoLane`] and [`MisuseError::NotPlaced`] for parts that can't go where they
    /// were put.
    pub fn reply_placed(
        &mut self,
        stream: u64,
        headers: Vec<HeaderField>,
        message: Message,
        placement: Placement<A>,
    ) -> Result<(), MisuseError> {
        self.reply_extended(stream, headers, Extensions::none(), message, placement)
    }

    /// Answers as [`reply_placed`](Self::reply_placed) does, with these extensions in the record.
    ///
    /// # Errors
    /// The same.
    pub fn reply_extended(
        &mut self,
        stream: u64,
        headers: Vec<HeaderField>,
        extensions: Extensions,
        mut message: Message,
        placement: Placement<A>,
    ) -> Result<(), MisuseError> {
        self.check_unanswered(stream)?;
        // A message has one limit, wherever its bytes are.
        self.check_message(&message)?;
        let (parts, lent) = self.place(&mut message, &placement)?;
        let record = Reply { headers, parts, extensions };
        let opening = self.opening(FrameKind::Result, stream, 0, 0);
        let fds = placement.into_fds();
        let fd_count = fds.len();
        self.send.message(opening, &record, message, fds)?;
        self.lend(lent, fd_count);
        if self.mark_answered(stream) {
            // Its CANCEL is not told to the owner any more, and meant the channels too.
            self.handle_stop_of_all(stream);
        }
        self.settle_stream(stream);
        Ok(())
    }

    /// Answers a call of the peer with an error, which ends its channels too. The parts of `failure` are set from `message`.
    ///
    /// # Errors
    /// As for [`reply`](Self::reply).
    pub fn fail_call(
        &mut self,
        stream: u64,
        code: ErrorCode,
        mut failure: Failure,
        message: Message,
    ) -> Result<(), MisuseError> {
        self.check_unanswered(stream)?;
        self.check_message(&message)?;
        failure.parts = message.parts();
        let opening = self.opening(FrameKind::Error, stream, 0, code.as_u32());
        self.send.message(opening, &failure, message, Vec::new())?;
        self.mark_answered(stream);
        self.drop_channels(stream);
        Ok(())
    }

    /// Ends all calls that we opened, and tells of each whether a byte of it may have reached the peer. For an owner
    /// whose socket is gone.
    pub fn abandon(&mut self) -> Vec<(u64, Delivery)> {
        self.close();
        let verdict = |begun| if begun { Delivery::Delivered } else { Delivery::NotDelivered };
        let mut lost: Vec<_> = self.outbound.drain().map(|(id, call)| (id, verdict(call.begun))).collect();
        lost.sort_unstable_by_key(|(stream, _)| *stream);
        lost
    }

    /// Whether a call that we opened has not ended.
    #[must_use]
    pub fn is_open_call(&self, stream: u64) -> bool {
        self.outbound.contains_key(&stream)
    }

    /// Calls of ours that are open.
    #[must_use]
    pub fn open_outbound(&self) -> usize {
        self.outbound.len()
    }

    /// Calls of the peer that hold a slot: not answered, or the answer is not written.
    #[must_use]
    pub fn open_inbound(&self) -> usize {
        self.inbound.len()
    }

    /// Whether a call of the peer holds a slot still: it is not answered, or the socket has not taken all of its answer.
    #[must_use]
    pub fn is_unwritten(&self, stream: u64) -> bool {
        self.inbound.contains_key(&stream)
    }

    pub(super) fn handle_call(&mut self, frame: Frame<A>) -> Result<(), PeerError> {
        let stream = frame.header.stream;
        self.check_opening(stream)?;
        let call: Call = self.record(FrameKind::Call, &frame)?;
        if !call.channels.is_empty() && self.features() & features::CHANNELS == 0 {
            return Err(PeerError::Feature);
        }
        let total = self.check_parts(&call.parts, &frame)?;
        // Whoever is called reads all parts, wherever they are.
        let whole = whole_len(&call.parts).ok_or(PeerError::MessageLength)?;
        self.last_inbound = stream;
        if self.state == State::Draining {
            // It crossed our GOAWAY, which told the peer that it is not taken.
            self.release_parts(&call.parts);
            return Ok(());
        }
        self.last_taken = stream;
        let remaining = total - frame.payload.len() as u64;
        self.inbound.insert(stream, Inbound { remaining, answered: false, cancelled: false });
        if let Some((code, message)) = self.refusal(&call, whole) {
            self.release_parts(&call.parts);
            return self.refuse_call(stream, code, &message);
        }
        self.open_channels_of(stream, &call.channels, Opener::Peer);
        self.delivered += frame.payload.len();
        self.events.push_back(Event::Called {
            stream,
            flags: frame.header.flags & (flags::IDEMPOTENT | flags::SENSITIVE),
            call,
            payload: frame.payload,
            more: more(remaining),
            fds: frame.fds,
        });
        Ok(())
    }

    /// Why a call that is legal is not taken all the same; it counts as open already.
    fn refusal(&self, call: &Call, whole: u64) -> Option<(ErrorCode, String)> {
        let Settings { max_message, open_calls, open_channels, .. } = self.settings;
        if whole > max_message {
            let text = format!("message of {whole} bytes is above the limit of {max_message}");
            Some((ErrorCode::TooLarge, text))
        } else if self.inbound.len() > open_calls {
            let text = format!("more than {open_calls} calls are open on this connection");
            Some((ErrorCode::ResourceExhausted, text))
        } else if !self.has_room_for_channels(call.channels.len()) {
            let text = format!("more than {open_channels} channels are open on this connection");
            Some((ErrorCode::ResourceExhausted, text))
        } else {
            None
        }
    }

    pub(super) fn handle_continuation(&mut self, frame: Frame<A>) -> Result<(), PeerError> {
        let stream = frame.header.stream;
        let (remaining, wanted) = if let Some(call) = self.inbound.get_mut(&stream) {
            (&mut call.remaining, !call.answered)
        } else if let Some(Outbound { remaining: Some(remaining), too_large, .. }) =
            self.outbound.get_mut(&stream)
        {
            (remaining, !*too_large)
        } else if self.is_ended(stream)? {
            return Ok(());
        } else {
            return Err(PeerError::Unexpected(FrameKind::Data));
        };
        let len = frame.payload.len() as u64;
        // An empty continuation would be a frame that costs the sender nothing and us a wake-up.
        let left = remaining.checked_sub(len).filter(|_| len > 0).ok_or(PeerError::MessageLength)?;
        if frame.header.has(flags::MORE) != (left > 0) {
            return Err(PeerError::MessageLength);
        }
        *remaining = left;
        if left == 0 && self.outbound.contains_key(&stream) {
            self.outbound.remove(&stream);
        }
        if wanted {
            self.delivered += frame.payload.len();
            self.events.push_back(Event::Continued { stream, payload: frame.payload, more: more(left) });
        }
        Ok(())
    }

    pub(super) fn handle_terminal(&mut self, kind: FrameKind, frame: Frame<A>) -> Result<(), PeerError> {
        let stream = frame.header.stream;
        match self.outbound.get(&stream) {
            Some(call) if call.remaining.is_none() => {}
            Some(_) => return Err(PeerError::Unexpected(kind)),
            None if self.is_ended(stream)? => return self.drop_terminal(kind, &frame),
            None => return Err(PeerError::Unexpected(kind)),
        }
        if kind == FrameKind::Result {
            let reply: Reply = self.record(kind, &frame)?;
            let total = self.check_parts(&reply.parts, &frame)?;
            let more = self.end_outbound(stream, total, frame.payload.len());
            let Frame { payload, fds, .. } = frame;
            let held = held_len(&reply.parts).ok_or(PeerError::MessageLength)?;
            self.push_terminal(
                stream,
                held,
                payload.len(),
                Event::Replied { stream, reply, payload, more, fds },
            );
            self.settle_stream(stream);
        } else {
            let failure: Failure = self.record(kind, &frame)?;
            let total = self.check_parts(&failure.parts, &frame)?;
            let code = ErrorCode::from_u32(frame.header.arg).unwrap_or(ErrorCode::Unknown);
            let here = frame.payload.len();
            let more = self.end_outbound(stream, total, here);
            let Frame { payload, fds, .. } = frame;
            let text = failure.message.clone();
            let held = held_len(&failure.parts).ok_or(PeerError::MessageLength)?;
            let failed = Event::Failed { stream, code, failure, payload, more, fds };
            self.push_terminal(stream, held, here, failed);
            self.fail_channels(stream, code, &text);
        }
        Ok(())
    }

    /// Gives back what a terminal frame leases that comes too late.
    fn drop_terminal(&mut self, kind: FrameKind, frame: &Frame<A>) -> Result<(), PeerError> {
        if self.has_lane(Lane::Pool) {
            let parts = match kind {
                FrameKind::Result => self.record::<Reply>(kind, frame)?.parts,
                _ => self.record::<Failure>(kind, frame)?.parts,
            };
            self.check_places(&parts, frame.fds.len())?;
            self.release_parts(&parts);
        }
        Ok(())
    }

    /// Hands a terminal frame on, or in its place an error if its message is more than we take.
    fn push_terminal(&mut self, stream: u64, total: u64, payload: usize, event: Event<A>) {
        let max = self.settings.max_message;
        if total <= max {
            self.delivered += payload;
            self.events.push_back(event);
            return;
        }
        if let Some(call) = self.outbound.get_mut(&stream) {
            call.too_large = true;
        }
        match &event {
            Event::Replied { reply, .. } => self.release_parts(&reply.parts),
            Event::Failed { failure, .. } => self.release_parts(&failure.parts),
            _ => {}
        }
        let message = format!("answer of {total} bytes is above the limit of {max}");
        self.push_failure(stream, ErrorCode::TooLarge, &message, Delivery::Completed);
    }

    /// Ends a call of ours with an error that the peer did not send.
    fn push_failure(&mut self, stream: u64, code: ErrorCode, message: &str, delivery: Delivery) {
        let mut failure = Failure::framework(code, message, delivery);
        failure.parts = Message::default().parts();
        self.events.push_back(Event::Failed {
            stream,
            code,
            failure,
            payload: Bytes::new(),
            more: More::Whole,
            fds: Vec::new(),
        });
    }

    /// Ends our calls above the last that the peer takes; they were not and will not be run.
    pub(super) fn fail_above(&mut self, last_taken: u64, code: ErrorCode, why: &str) {
        let waiting = self.outbound.iter().filter(|(id, call)| **id > last_taken && call.remaining.is_none());
        let mut lost: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        lost.sort_unstable();
        for stream in lost {
            self.send.withdraw(stream);
            self.outbound.remove(&stream);
            self.push_failure(stream, code, why, Delivery::NotDelivered);
            self.fail_channels(stream, code, &Text::from(why));
        }
    }

    pub(super) fn handle_cancel(&mut self, stream: u64) -> Result<(), PeerError> {
        let has_channels_of_ours = self.is_ours(stream) && self.channels.has(stream);
        match self.inbound.get_mut(&stream) {
            Some(call) if call.answered => {
                self.handle_stop_of_all(stream);
                Ok(())
            }
            Some(call) => {
                if !call.cancelled {
                    call.cancelled = true;
                    self.events.push_back(Event::Cancelled { stream });
                }
                Ok(())
            }
            None if self.outbound.contains_key(&stream) || has_channels_of_ours => {
                Err(PeerError::Unexpected(FrameKind::Cancel))
            }
            None => {
                self.is_ended(stream)?;
                self.handle_stop_of_all(stream);
                Ok(())
            }
        }
    }

    /// Frees the slots of calls whose answer is written, and notes which of ours have begun.
    pub(super) fn settle_written(&mut self) {
        for stream in self.send.drain_ended() {
            self.inbound.remove(&stream);
        }
    }

    /// Notes which of our calls went into the transmit just filled.
    pub(super) fn settle_begun(&mut self) {
        let mut with_channels = Vec::new();
        for stream in self.send.drain_begun() {
            if let Some(call) = self.outbound.get_mut(&stream) {
                call.begun = true;
            }
            if self.channels.has(stream) {
                with_channels.push(stream);
            }
        }
        with_channels.into_iter().for_each(|stream| self.begin_channels(stream));
    }

    /// False for a call of ours of which the peer knows nothing yet.
    pub(super) fn has_begun(&self, stream: u64) -> bool {
        self.outbound.get(&stream).is_none_or(|call| call.begun)
    }

    fn check_opening(&self, stream: u64) -> Result<(), PeerError> {
        if self.role == Role::Client && self.features() & features::PROVIDE == 0 {
            return Err(PeerError::Feature);
        }
        let parity = if self.role == Role::Daemon { 1 } else { 0 };
        if stream % 2 == parity && stream > self.last_inbound {
            Ok(())
        } else {
            Err(PeerError::StreamOrder(stream))
        }
    }

    /// Checks the parts of a message against its first frame and returns its inline length.
    pub(super) fn check_parts(&self, parts: &[Part], frame: &Frame<A>) -> Result<u64, PeerError> {
        if parts.first().map(|part| part.codec) != Some(frame.header.codec) {
            return Err(PeerError::BodyMismatch);
        }
        self.check_places(parts, frame.fds.len())?;
        let total = inline_len(parts).ok_or(PeerError::MessageLength)?;
        let here = frame.payload.len() as u64;
        if here > total || frame.header.has(flags::MORE) != (here < total) {
            return Err(PeerError::MessageLength);
        }
        Ok(total)
    }

    /// Notes the terminal frame of a call of ours.
    fn end_outbound(&mut self, stream: u64, total: u64, here: usize) -> More {
        let remaining = total - here as u64;
        // The answer came before all of the question was sent: the rest is of no use.
        self.send.withdraw(stream);
        if remaining == 0 {
            self.outbound.remove(&stream);
        } else if let Some(call) = self.outbound.get_mut(&stream) {
            call.remaining = Some(remaining);
        }
        more(remaining)
    }

    fn refuse_call(&mut self, stream: u64, code: ErrorCode, message: &str) -> Result<(), PeerError> {
        let failure = Failure::framework(code, message, Delivery::NotDelivered);
        self.fail_call(stream, code, failure, Message::default()).expect("the stream was opened just now");
        Ok(())
    }

    /// True for a call of the peer that waits for its answer.
    pub(super) fn is_unanswered(&self, stream: u64) -> bool {
        self.inbound.get(&stream).is_some_and(|call| !call.answered)
    }

    /// True for a call whose terminal frame is not said, or has not come.
    pub(super) fn is_call_open(&self, stream: u64) -> bool {
        let waits = || self.outbound.get(&stream).is_some_and(|call| call.remaining.is_none());
        self.is_unanswered(stream) || waits()
    }

    fn check_unanswered(&self, stream: u64) -> Result<(), MisuseError> {
        if self.is_unanswered(stream) { Ok(()) } else { Err(MisuseError::NotAStream(stream)) }
    }

    pub(super) fn check_message(&self, message: &Message) -> Result<(), MisuseError> {
        let len = message.len() as u64;
        let max = self.remote.max_message;
        if len <= max { Ok(()) } else { Err(MisuseError::MessageTooLarge { len, max }) }
    }

    /// Notes the answer, and tells whether the call had been cancelled.
    fn mark_answered(&mut self, stream: u64) -> bool {
        let Some(call) = self.inbound.get_mut(&stream) else { return false };
        call.answered = true;
        call.cancelled
    }

    fn opening(&self, kind: FrameKind, stream: u64, flags: u16, arg: u32) -> Opening {
        Opening { kind, stream, flags, arg, max_frame: self.remote.max_frame }
    }
}

pub(super) fn more(remaining: u64) -> More {
    if remaining == 0 { More::Whole } else { More::Follows }
}

/// The beginning of `text`, at most `max` bytes, cut between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Failure {
    /// An error of the framework: no body, retryable as its code says. A message above 8 KiB is cut, so that it fits
    /// its frame.
    #[must_use]
    pub fn framework(code: ErrorCode, message: &str, delivery: Delivery) -> Self {
        Failure {
            message: Text::from(cut(message, limits::MAX_METADATA / 2)),
            delivery,
            retryable: code.is_retryable(),
            retry_after_ms: None,
            decision: None,
            parts: Vec::new(),
            extensions: Extensions::none(),
        }
    }
}
