//! The writer: control frames first, then first frames of messages, then the rest, fairly.
//!
//! The rest of each message and the items of each channel go out in turn, a fragment's worth at a time, so that a large
//! message delays a small one by one fragment at most; and after each fragment's worth of first frames one turn goes
//! out, so that small ones without end do not starve a large one.
//!
//! Where credit is in force, payload goes out as far as the peer's credit reaches. A first frame never waits for it: it
//! goes out with what payload it may have, at worst none, so that no answer waits behind items.

mod outgoing;
mod pieces;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use foldhash::{HashMap, HashMapExt};

use super::flow::Credit;
use super::lanes::Lent;
use super::{Transmit, Unsent};
use crate::body::Message;
use crate::coding::{self, Record};
use crate::error::{MisuseError, RecordError};
use crate::header::Header;
use crate::preface::narrow;
use crate::registry::{FrameKind, HEADER_LEN, flags, limits};
use outgoing::Outgoing;
pub(super) use outgoing::{ChannelKey, Offered, Offering, Pressing};
use pieces::Pieces;

/// A first payload up to this size is copied behind its header. What waits unsent then keeps no buffer alive that it was
/// received in: an echo of one byte would keep a whole read buffer for as long as its peer does not read.
const COPY_MAX: usize = 16 * 1024;

/// Payload of one frame.
const FRAGMENT: u32 = narrow(limits::FRAGMENT);

#[derive(Debug)]
pub(super) struct SendQueue<A> {
    /// Where frames are encoded; its memory comes back when they are written.
    arena: BytesMut,
    control: VecDeque<Bytes>,
    heads: VecDeque<Head<A>>,
    /// Segments to be introduced: before any message, as each may have parts in one.
    introductions: VecDeque<Head<A>>,
    /// What items that have begun are made of, and that is not in their frames.
    lent: Lent,
    /// Whose turn it is: messages that have begun, channels that have something to send.
    turns: VecDeque<Turn>,
    outgoing: HashMap<ChannelKey, Outgoing>,
    /// Channels whose next item was not taken and that are to be told when it would be.
    waiting: Vec<ChannelKey>,
    credit: Credit,
    /// Whether the peer counts credit; until that is known it is counted and not kept to.
    credit_in_force: bool,
    unsent: Unsent,
    /// Of the unsent bytes, those that credit counts.
    payload: usize,
    /// Of these, those that wait for their channel's credit.
    stalled: usize,
    /// Streams whose terminal message went out with the last transmit.
    ended: Vec<u64>,
    /// Channels whose end went out.
    closed: Vec<ChannelKey>,
    /// Calls whose first frame went out.
    begun: Vec<u64>,
    /// Bytes of first frames that went out while a turn waited.
    overtaken: usize,
}

/// The first frame of a message.
#[derive(Debug)]
struct Head<A> {
    stream: u64,
    kind: FrameKind,
    /// Header and metadata, and a small payload.
    frame: BytesMut,
    /// Of that, header and metadata.
    head_len: usize,
    payload: VecDeque<Bytes>,
    /// Bytes of payload in this frame.
    payload_len: usize,
    rest: Option<Rest>,
    fds: Vec<A>,
}

/// What follows the first frame.
#[derive(Debug)]
struct Rest {
    stream: u64,
    terminal: bool,
    bytes: Pieces,
}

#[derive(Debug)]
enum Turn {
    Rest(Rest),
    Channel(ChannelKey),
}

/// What a first frame says besides its record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) kind: FrameKind,
    pub(super) stream: u64,
    pub(super) flags: u16,
    pub(super) arg: u32,
    /// Largest frame of the receiver.
    pub(super) max_frame: u32,
}

impl<A> SendQueue<A> {
    pub(super) fn new() -> Self {
        SendQueue {
            arena: BytesMut::new(),
            control: VecDeque::new(),
            heads: VecDeque::new(),
            introductions: VecDeque::new(),
            lent: Vec::new(),
            turns: VecDeque::new(),
            outgoing: HashMap::new(),
            waiting: Vec::new(),
            credit: Credit::new(limits::CONNECTION_WINDOW as u64),
            credit_in_force: false,
            unsent: Unsent::default(),
            payload: 0,
            stalled: 0,
            ended: Vec::new(),
            closed: Vec::new(),
            begun: Vec::new(),
            overtaken: 0,
        }
    }

    pub(super) fn unsent(&self) -> Unsent {
        self.unsent
    }

    /// The peer counts credit: from here on it is kept to.
    pub(super) fn enforce_credit(&mut self) {
        self.credit_in_force = true;
    }

    /// The connection's credit.
    pub(super) fn credit_mut(&mut self) -> &mut Credit {
        &mut self.credit
    }

    /// Payload that may be written now.
    fn room(&self) -> usize {
        if self.credit_in_force {
            usize::try_from(self.credit.room()).unwrap_or(usize::MAX)
        } else {
            usize::MAX
        }
    }

    /// Notes payload that is written. Before credit is in force more may have gone out than it will cover.
    fn spend(&mut self, payload: usize) {
        self.payload -= payload;
        let counted =
            if self.credit_in_force { payload as u64 } else { self.credit.room().min(payload as u64) };
        self.credit.take(counted, 0);
    }

    /// Bytes that wait for nothing but the socket.
    pub(super) fn writable(&self) -> usize {
        self.unsent.bytes - self.payload + (self.payload - self.stalled).min(self.room())
    }

    /// Whether something waits for the connection's credit, of which nothing is left.
    pub(super) fn is_starved(&self) -> bool {
        self.payload > self.stalled && self.room() == 0
    }

    /// True if [`fill`](Self::fill) would give something.
    pub(super) fn can_fill(&self, hold: bool) -> bool {
        let data = || {
            !self.heads.is_empty()
                || !self.introductions.is_empty()
                || self.turns.iter().any(|turn| self.can_go(turn))
        };
        !self.control.is_empty() || !hold && data()
    }

    fn can_go(&self, turn: &Turn) -> bool {
        match turn {
            Turn::Rest(_) => self.room() > 0,
            Turn::Channel(key) => self.outgoing.get(key).is_some_and(|out| out.can_go(self.room())),
        }
    }

    /// Queues bytes that are no frame.
    pub(super) fn raw(&mut self, bytes: Bytes) {
        self.unsent.bytes += bytes.len();
        self.control.push_back(bytes);
    }

    /// Queues a frame that waits behind no message.
    pub(super) fn control<R: Record>(&mut self, kind: FrameKind, stream: u64, arg: u32, record: Option<&R>) {
        let mut header = Header { arg, ..Header::new(kind, stream) };
        let meta_len = record.map_or(0, |record| coding::encoded_len(record));
        header.meta_len = u16::try_from(meta_len).expect("records of control frames are small");
        header.len = u32::from(header.meta_len);
        header.encode(&mut self.arena);
        if let Some(record) = record {
            coding::encode_into(record, &mut self.arena);
        }
        let frame = self.arena.split().freeze();
        self.raw(frame);
    }

    /// Queues a message: its first frame carries `record`, which announces the parts of `message`.
    pub(super) fn message<R: Record>(
        &mut self,
        opening: Opening,
        record: &R,
        message: Message,
        fds: Vec<A>,
    ) -> Result<(), MisuseError> {
        record.validate()?;
        let meta_len = coding::encoded_len(record);
        if meta_len > limits::MAX_METADATA {
            return Err(MisuseError::Record(RecordError::LimitExceeded));
        }
        let codec = message.body.codec();
        let mut bytes = Pieces::of(message);
        let meta_len = u16::try_from(meta_len).map_err(|_| RecordError::LimitExceeded)?;
        let room = (opening.max_frame - u32::from(meta_len)).min(FRAGMENT);
        let mut payload = bytes.take(room as usize);
        let payload_len = payload.iter().map(Bytes::len).sum::<usize>();
        let more = if bytes.len() > 0 { flags::MORE } else { 0 };
        let header = Header {
            len: u32::from(meta_len) + u32::try_from(payload_len).expect("at most one fragment"),
            kind: opening.kind.as_u8(),
            codec,
            flags: opening.flags | more,
            stream: opening.stream,
            meta_len,
            nfds: u8::try_from(fds.len()).map_err(|_| RecordError::TooMany("file descriptors"))?,
            arg: opening.arg,
        };
        header.encode(&mut self.arena);
        coding::encode_into(record, &mut self.arena);
        if payload_len <= COPY_MAX {
            for piece in payload.drain(..) {
                self.arena.extend_from_slice(&piece);
            }
        }
        let terminal = matches!(opening.kind, FrameKind::Result | FrameKind::Error);
        let head_len = HEADER_LEN + usize::from(meta_len);
        self.unsent.bytes += head_len + payload_len + bytes.len();
        self.payload += payload_len + bytes.len();
        self.unsent.terminals += usize::from(terminal);
        let rest = (bytes.len() > 0).then_some(Rest { stream: opening.stream, terminal, bytes });
        let queue = match opening.kind {
            FrameKind::Segment => &mut self.introductions,
            _ => &mut self.heads,
        };
        queue.push_back(Head {
            stream: opening.stream,
            kind: opening.kind,
            frame: self.arena.split(),
            head_len,
            payload,
            payload_len,
            rest,
            fds,
        });
        Ok(())
    }

    /// Moves frames into `transmit` until it is full or nothing is left; messages only unless `hold`.
    pub(super) fn fill(&mut self, transmit: &mut Transmit<A>, max_frame: u32, hold: bool) {
        while !transmit.is_full() {
            if let Some(frame) = self.control.pop_front() {
                self.unsent.bytes -= frame.len();
                transmit.push(frame);
            } else if hold {
                return;
            } else if !self.introductions.is_empty() {
                if !transmit.is_empty() {
                    // File descriptors ride the first byte of a write.
                    return;
                }
                let head = self.introductions.pop_front();
                self.fill_head(head, transmit);
            } else if self.overtaken >= limits::FRAGMENT && !self.turns.is_empty() {
                // First frames without end must not starve a message that is on its way.
                self.overtaken = 0;
                self.fill_turn(transmit, max_frame);
            } else if let Some(head) = self.heads.front() {
                if !head.fds.is_empty() && !transmit.is_empty() {
                    // File descriptors ride the first byte of a write.
                    return;
                }
                let head = self.heads.pop_front();
                self.fill_head(head, transmit);
            } else if !self.fill_turn(transmit, max_frame) {
                return;
            }
        }
    }

    fn fill_head(&mut self, head: Option<Head<A>>, transmit: &mut Transmit<A>) {
        let Some(mut head) = head else { return };
        if head.payload_len > self.room() {
            head.cut(self.room());
        }
        if !head.fds.is_empty() {
            transmit.push_fds(head.fds);
        }
        let before = transmit.len();
        transmit.push(head.frame.freeze());
        head.payload.into_iter().for_each(|piece| transmit.push(piece));
        let written = transmit.len() - before;
        self.unsent.bytes -= written;
        self.spend(head.payload_len);
        self.overtaken += if self.turns.is_empty() { 0 } else { written };
        let is_terminal = matches!(head.kind, FrameKind::Result | FrameKind::Error);
        match head.kind {
            FrameKind::Call => self.begun.push(head.stream),
            _ => self.unsent.terminals -= usize::from(is_terminal),
        }
        match head.rest {
            Some(rest) => self.turns.push_back(Turn::Rest(rest)),
            None if is_terminal => self.ended.push(head.stream),
            None => {}
        }
    }

    /// Gives the next one that can go on its turn; false if none can.
    fn fill_turn(&mut self, transmit: &mut Transmit<A>, max_frame: u32) -> bool {
        for _ in 0..self.turns.len() {
            let Some(turn) = self.turns.pop_front() else { break };
            if self.can_go(&turn) {
                match turn {
                    Turn::Rest(rest) => self.fill_rest(rest, transmit, max_frame),
                    Turn::Channel(key) => self.fill_channel(key, transmit, max_frame),
                }
                return true;
            }
            match turn {
                // It comes back into turn with its credit.
                Turn::Channel(key) if self.outgoing.get(&key).is_none_or(Outgoing::is_stuck) => {
                    self.outgoing.entry(key).and_modify(Outgoing::leave_turns);
                }
                turn => self.turns.push_back(turn),
            }
        }
        false
    }

    fn fill_rest(&mut self, mut rest: Rest, transmit: &mut Transmit<A>, max_frame: u32) {
        self.overtaken = 0;
        let payload = rest.bytes.take(self.room().min(max_frame.min(FRAGMENT) as usize));
        let len: usize = payload.iter().map(Bytes::len).sum();
        let more = if rest.bytes.len() > 0 { flags::MORE } else { 0 };
        let header = Header {
            len: u32::try_from(len).expect("at most one fragment"),
            flags: flags::CONT | more,
            ..Header::new(FrameKind::Data, rest.stream)
        };
        transmit.append(|bytes| header.encode(bytes));
        payload.into_iter().for_each(|piece| transmit.push(piece));
        self.unsent.bytes -= len;
        self.spend(len);
        if rest.bytes.len() > 0 {
            self.turns.push_back(Turn::Rest(rest));
        } else if rest.terminal {
            self.ended.push(rest.stream);
        }
    }

    /// Drops what waits of the message of a call that we opened, not of its channels; true if not even its first frame
    /// had gone out.
    pub(super) fn withdraw(&mut self, stream: u64) -> bool {
        let (unsent, payload) = (&mut self.unsent, &mut self.payload);
        let mut whole = false;
        self.heads.retain(|head| {
            if head.stream != stream {
                return true;
            }
            whole = true;
            let bytes = head.payload_len + head.rest.as_ref().map_or(0, |rest| rest.bytes.len());
            unsent.bytes -= head.head_len + bytes;
            *payload -= bytes;
            unsent.terminals -= usize::from(head.kind != FrameKind::Call);
            false
        });
        self.turns.retain(|turn| match turn {
            Turn::Rest(rest) if rest.stream == stream => {
                unsent.bytes -= rest.bytes.len();
                *payload -= rest.bytes.len();
                false
            }
            _ => true,
        });
        whole
    }

    /// Streams whose terminal message is written, since the last call.
    pub(super) fn drain_ended(&mut self) -> impl Iterator<Item = u64> {
        self.ended.drain(..)
    }

    /// Channels whose end is written, since the last call.
    pub(super) fn drain_closed(&mut self) -> impl Iterator<Item = ChannelKey> {
        self.closed.drain(..)
    }

    /// What items that have begun since the last call are made of.
    pub(super) fn take_lent(&mut self) -> Lent {
        std::mem::take(&mut self.lent)
    }

    /// Calls whose first frame went out, since the last call.
    pub(super) fn drain_begun(&mut self) -> impl Iterator<Item = u64> {
        self.begun.drain(..)
    }

    pub(super) fn clear(&mut self) {
        self.control.clear();
        self.clear_messages();
    }

    /// Drops messages, and keeps the few small frames that wait behind none.
    pub(super) fn clear_messages(&mut self) {
        self.heads.clear();
        self.introductions.clear();
        self.lent.clear();
        self.turns.clear();
        self.outgoing.clear();
        self.waiting.clear();
        self.ended.clear();
        self.closed.clear();
        self.overtaken = 0;
        let bytes = self.control.iter().map(Bytes::len).sum();
        self.unsent = Unsent { bytes, terminals: 0 };
        (self.payload, self.stalled) = (0, 0);
    }
}

impl<A> Head<A> {
    /// Leaves at most `room` bytes of payload in the first frame; the others follow it.
    fn cut(&mut self, room: usize) {
        let mut bytes = self.rest.take().map_or_else(|| Pieces::of(Message::default()), |rest| rest.bytes);
        while let Some(piece) = self.payload.pop_back() {
            bytes.put_back(piece);
        }
        bytes.put_back(self.frame.split_off(self.head_len).freeze());
        self.payload = bytes.take(room);
        self.payload_len = room;
        let len = u32::try_from(self.head_len - HEADER_LEN + room).expect("it was longer before");
        self.frame[0..4].copy_from_slice(&len.to_le_bytes());
        let set = u16::from_le_bytes([self.frame[6], self.frame[7]]) | flags::MORE;
        self.frame[6..8].copy_from_slice(&set.to_le_bytes());
        let terminal = matches!(self.kind, FrameKind::Result | FrameKind::Error);
        self.rest = Some(Rest { stream: self.stream, terminal, bytes });
    }
}
