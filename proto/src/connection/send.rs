//! The writer: control frames first, then first frames of messages, then the rest, fairly.
//!
//! The rest of each message goes out in fragments, one message after the other in turn, so that a large message
//! delays a small one by one fragment at most; and after each fragment's worth of first frames one fragment of the
//! rest goes out, so that small ones without end do not starve a large one.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{Transmit, Unsent};
use crate::body::{Body, Message};
use crate::coding::{self, Record};
use crate::error::{MisuseError, RecordError};
use crate::header::Header;
use crate::preface::narrow;
use crate::registry::{FrameKind, HEADER_LEN, flags, limits};

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
    rests: VecDeque<Rest>,
    unsent: Unsent,
    /// Streams whose terminal message went out with the last transmit.
    ended: Vec<u64>,
    /// Calls whose first frame went out.
    begun: Vec<u64>,
    /// Bytes of first frames that went out while a rest waited.
    overtaken: usize,
}

/// The first frame of a message.
#[derive(Debug)]
struct Head<A> {
    stream: u64,
    kind: FrameKind,
    /// Header and metadata.
    frame: Bytes,
    payload: VecDeque<Bytes>,
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

/// The inline bytes of a message, in order.
#[derive(Debug)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
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
            rests: VecDeque::new(),
            unsent: Unsent::default(),
            ended: Vec::new(),
            begun: Vec::new(),
            overtaken: 0,
        }
    }

    pub(super) fn unsent(&self) -> Unsent {
        self.unsent
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
        let more = if bytes.len > 0 { flags::MORE } else { 0 };
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
        self.unsent.bytes += HEADER_LEN + usize::from(meta_len) + payload_len + bytes.len;
        self.unsent.terminals += usize::from(terminal);
        let rest = (bytes.len > 0).then_some(Rest { stream: opening.stream, terminal, bytes });
        self.heads.push_back(Head {
            stream: opening.stream,
            kind: opening.kind,
            frame: self.arena.split().freeze(),
            payload,
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
            } else if self.overtaken >= limits::FRAGMENT
                && let Some(rest) = self.rests.pop_front()
            {
                // First frames without end must not starve a message that is on its way.
                self.fill_rest(rest, transmit, max_frame);
            } else if let Some(head) = self.heads.front() {
                if !head.fds.is_empty() && !transmit.is_empty() {
                    // File descriptors ride the first byte of a write.
                    return;
                }
                self.fill_head(transmit);
            } else if let Some(rest) = self.rests.pop_front() {
                self.fill_rest(rest, transmit, max_frame);
            } else {
                return;
            }
        }
    }

    fn fill_head(&mut self, transmit: &mut Transmit<A>) {
        let Some(head) = self.heads.pop_front() else { return };
        if !head.fds.is_empty() {
            transmit.push_fds(head.fds);
        }
        let before = transmit.len();
        self.unsent.bytes -= head.frame.len();
        transmit.push(head.frame);
        for piece in head.payload {
            self.unsent.bytes -= piece.len();
            transmit.push(piece);
        }
        self.overtaken += if self.rests.is_empty() { 0 } else { transmit.len() - before };
        match head.kind {
            FrameKind::Call => self.begun.push(head.stream),
            _ => self.unsent.terminals -= 1,
        }
        match head.rest {
            Some(rest) => self.rests.push_back(rest),
            None if head.kind != FrameKind::Call => self.ended.push(head.stream),
            None => {}
        }
    }

    fn fill_rest(&mut self, mut rest: Rest, transmit: &mut Transmit<A>, max_frame: u32) {
        self.overtaken = 0;
        let payload = rest.bytes.take(max_frame.min(FRAGMENT) as usize);
        let len: usize = payload.iter().map(Bytes::len).sum();
        let more = if rest.bytes.len > 0 { flags::MORE } else { 0 };
        let header = Header {
            len: u32::try_from(len).expect("at most one fragment"),
            flags: flags::CONT | more,
            ..Header::new(FrameKind::Data, rest.stream)
        };
        header.encode(&mut self.arena);
        transmit.push(self.arena.split().freeze());
        for piece in payload {
            self.unsent.bytes -= piece.len();
            transmit.push(piece);
        }
        if rest.bytes.len > 0 {
            self.rests.push_back(rest);
        } else if rest.terminal {
            self.ended.push(rest.stream);
        }
    }

    /// Drops what waits of `stream`; true if not even its first frame had gone out.
    pub(super) fn withdraw(&mut self, stream: u64) -> bool {
        let unsent = &mut self.unsent;
        let mut whole = false;
        self.heads.retain(|head| {
            if head.stream != stream {
                return true;
            }
            whole = true;
            let rest = head.rest.as_ref().map_or(0, |rest| rest.bytes.len);
            unsent.bytes -= head.frame.len() + head.payload.iter().map(Bytes::len).sum::<usize>() + rest;
            unsent.terminals -= usize::from(head.kind != FrameKind::Call);
            false
        });
        self.rests.retain(|rest| {
            if rest.stream == stream {
                unsent.bytes -= rest.bytes.len;
            }
            rest.stream != stream
        });
        whole
    }

    /// Streams whose terminal message is written, since the last call.
    pub(super) fn drain_ended(&mut self) -> impl Iterator<Item = u64> {
        self.ended.drain(..)
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
        self.rests.clear();
        self.ended.clear();
        self.overtaken = 0;
        let bytes = self.control.iter().map(Bytes::len).sum();
        self.unsent = Unsent { bytes, terminals: 0 };
    }
}

impl Pieces {
    fn of(message: Message) -> Self {
        let len = message.len();
        let body = match message.body {
            Body::None => None,
            Body::Raw(bytes) | Body::Json(bytes) => Some(bytes),
        };
        let all = body.into_iter().chain(message.attachments);
        Pieces { pieces: all.filter(|bytes| !bytes.is_empty()).collect(), len }
    }

    /// The next `max` bytes at most.
    fn take(&mut self, max: usize) -> VecDeque<Bytes> {
        if self.len <= max {
            self.len = 0;
            return std::mem::take(&mut self.pieces);
        }
        let mut taken = VecDeque::new();
        let mut room = max;
        while room > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            if piece.len() <= room {
                room -= piece.len();
                taken.extend(self.pieces.pop_front());
            } else {
                taken.push_back(piece.split_to(room));
                room = 0;
            }
        }
        self.len -= max - room;
        taken
    }
}
