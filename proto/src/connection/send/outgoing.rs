//! The items of a channel on their way out.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::flow::{Credit, surcharge};
use super::super::lanes::Lent;
use super::{FRAGMENT, Pieces, SendQueue, Turn};
use crate::body::Message;
use crate::coding::{self, Record};
use crate::connection::Transmit;
use crate::error::{MisuseError, PeerError, RecordError};
use crate::header::Header;
use crate::metadata::{End, Extensions, Item, Part};
use crate::registry::{Codec, FrameKind, HEADER_LEN, flags, limits};

/// A stream and the index of a channel in it.
pub(in crate::connection) type ChannelKey = (u64, u32);

/// Items of one channel wait here up to this cost, and one more.
const QUEUE_MAX: u64 = limits::FRAGMENT as u64;

/// The same while much waits for the peer already: enough for a turn among what is larger.
const BEHIND_MAX: u64 = 4096;

/// An item to be sent.
#[derive(Debug)]
pub(in crate::connection) struct Offering {
    /// What goes in the frames.
    pub(in crate::connection) message: Message,
    /// All parts.
    pub(in crate::connection) parts: Vec<Part>,
    /// What goes otherwise.
    pub(in crate::connection) lent: Lent,
}

/// What became of an item that was offered.
#[derive(Debug)]
pub(in crate::connection) enum Offered {
    /// It will be sent.
    Taken,
    /// Credit is lacking, or enough waits already. The channel is noted and told of.
    Later(Offering),
    /// The channel has ended.
    Ended,
}

/// How an item is to be sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::connection) enum Pressing {
    /// It may wait here for credit, behind others.
    Queues,
    /// It is queued only where credit covers it, or as the only one: its sender may rather leave it out later.
    Covered {
        /// How many were left out before it.
        lagged: u64,
    },
}

/// A channel that we send on.
#[derive(Debug)]
pub(super) struct Outgoing {
    credit: Credit,
    /// Credit that came and that the owner was not told of.
    untold: u64,
    /// Whether the owner is told of credit as it comes.
    is_relayed: bool,
    items: VecDeque<Waiting>,
    /// Payload of the items.
    bytes: usize,
    /// What they will take of the credit.
    cost: u64,
    /// Of the payload, what the credit does not cover.
    stalled: usize,
    /// The frame that ends it, behind all items.
    end: Option<Bytes>,
    in_turns: bool,
    /// Whether the call that declares it has gone out.
    begun: bool,
    /// Whether its owner waits until it takes the next item, and how that is to be sent.
    wanted: Option<Pressing>,
}

#[derive(Debug)]
struct Waiting {
    item: Item,
    codec: Codec,
    bytes: Pieces,
    /// Lent with its first frame.
    lent: Lent,
    /// To be taken with its first frame.
    surcharge: u64,
    begun: bool,
}

impl Outgoing {
    fn new(credit: u64, begun: bool) -> Self {
        Outgoing {
            credit: Credit::new(credit),
            untold: 0,
            is_relayed: false,
            items: VecDeque::new(),
            bytes: 0,
            cost: 0,
            stalled: 0,
            end: None,
            in_turns: false,
            begun,
            wanted: None,
        }
    }

    fn takes(&self, most: u64) -> bool {
        self.end.is_none() && self.cost <= most && self.credit.room() > self.cost
    }

    /// The same for an item of so many bytes.
    fn takes_item(&self, len: usize, pressing: Pressing, most: u64) -> bool {
        let len = len as u64;
        let is_covered = || self.cost.saturating_add(len + surcharge(len)) <= self.credit.room();
        self.takes(most)
            && match pressing {
                Pressing::Queues => true,
                Pressing::Covered { .. } => self.items.is_empty() || is_covered(),
            }
    }

    /// Whether who waits to send is to be told to try again: half of what may wait must have gone, so that who sends
    /// small items is not told of each; what is to be covered is taken at least when nothing else waits.
    fn resumes(&self, pressing: Pressing, most: u64) -> bool {
        match pressing {
            Pressing::Queues => self.takes(most / 2),
            Pressing::Covered { .. } => self.items.is_empty() && self.takes(0),
        }
    }

    /// Whether a frame of it could be written with so much credit of the connection.
    pub(super) fn can_go(&self, room: usize) -> bool {
        match self.items.front() {
            _ if !self.begun => false,
            None => self.end.is_some(),
            Some(waiting) => self.credit.room() > 0 && (room > 0 || waiting.bytes.len() == 0),
        }
    }

    /// Whether it is no use to give it a turn before credit for it comes.
    pub(super) fn is_stuck(&self) -> bool {
        let lacks = if self.items.is_empty() { self.end.is_none() } else { self.credit.room() == 0 };
        lacks || !self.begun
    }

    pub(super) fn leave_turns(&mut self) {
        self.in_turns = false;
    }

    fn push(&mut self, offering: Offering, pressing: Pressing) -> Result<(), MisuseError> {
        let Offering { message, parts, lent } = offering;
        let mut item = Item { parts, extensions: Extensions::none() };
        if let Pressing::Covered { lagged } = pressing {
            item.extensions.set_lagged(lagged);
        }
        item.validate()?;
        if coding::encoded_len(&item) > limits::MAX_METADATA {
            return Err(MisuseError::Record(RecordError::LimitExceeded));
        }
        let codec = message.body.codec();
        let bytes = Pieces::of(message);
        let surcharge = surcharge(bytes.len() as u64);
        self.bytes += bytes.len();
        self.cost += bytes.len() as u64 + surcharge;
        self.items.push_back(Waiting { item, codec, bytes, lent, surcharge, begun: false });
        Ok(())
    }

    /// What changed of the bytes that wait for credit: how many more, and how many fewer.
    fn restall(&mut self) -> (usize, usize) {
        let before = self.stalled;
        let room = usize::try_from(self.credit.room()).unwrap_or(usize::MAX);
        self.stalled = self.bytes.saturating_sub(room);
        (self.stalled.saturating_sub(before), before.saturating_sub(self.stalled))
    }

    /// Writes one frame of the first item, with at most `room` bytes of payload, and tells how many it has.
    fn write<A>(
        &mut self,
        key: ChannelKey,
        transmit: &mut Transmit<A>,
        max_frame: u32,
        room: usize,
        lent: &mut Lent,
    ) -> Option<usize> {
        let room = room.min(usize::try_from(self.credit.room()).unwrap_or(usize::MAX)).min(FRAGMENT as usize);
        let waiting = self.items.front_mut()?;
        let (meta_len, surcharge, codec) = if waiting.begun {
            (0, 0, Codec::None)
        } else {
            (coding::encoded_len(&waiting.item), waiting.surcharge, waiting.codec)
        };
        let payload = waiting.bytes.take(room.min(max_frame as usize - meta_len));
        let len: usize = payload.iter().map(Bytes::len).sum();
        let header = Header {
            len: u32::try_from(meta_len + len).expect("at most one frame"),
            codec,
            flags: if waiting.begun { flags::CONT } else { 0 }
                | if waiting.bytes.len() > 0 { flags::MORE } else { 0 },
            meta_len: u16::try_from(meta_len).expect("checked when it was queued"),
            arg: key.1,
            ..Header::new(FrameKind::Data, key.0)
        };
        transmit.append(|bytes| {
            header.encode(bytes);
            if meta_len > 0 {
                coding::encode_into(&waiting.item, bytes);
            }
        });
        payload.into_iter().for_each(|piece| transmit.push(piece));
        lent.append(&mut waiting.lent);
        waiting.begun = true;
        if waiting.bytes.len() == 0 {
            self.items.pop_front();
        }
        self.credit.take(len as u64, surcharge);
        self.bytes -= len;
        self.cost -= len as u64 + surcharge;
        Some(len)
    }
}

impl<A> SendQueue<A> {
    /// Opens a channel to send on; if the call that declares it has not `begun`, nothing of it goes out before.
    pub(in crate::connection) fn open_channel(&mut self, key: ChannelKey, credit: u64, begun: bool) {
        self.outgoing.insert(key, Outgoing::new(credit, begun));
    }

    /// The call that declares a channel went out.
    pub(in crate::connection) fn begin_channel(&mut self, key: ChannelKey) {
        if let Some(out) = self.outgoing.get_mut(&key) {
            out.begun = true;
            self.changed(key);
        }
    }

    /// Queues an item, if there is credit for its first byte and not much waits.
    pub(in crate::connection) fn offer(
        &mut self,
        key: ChannelKey,
        offering: Offering,
        pressing: Pressing,
    ) -> Result<Offered, MisuseError> {
        let most = self.queue_max(limits::UNSENT_BYTES_PAUSE);
        let Some(out) = self.outgoing.get_mut(&key).filter(|out| out.end.is_none()) else {
            return Ok(Offered::Ended);
        };
        let len = offering.message.len();
        if !out.takes_item(len, pressing, most) {
            if out.wanted.replace(pressing).is_none() {
                self.waiting.push(key);
            }
            return Ok(Offered::Later(offering));
        }
        out.push(offering, pressing)?;
        self.unsent.bytes += len;
        self.payload += len;
        self.changed(key);
        Ok(Offered::Taken)
    }

    /// What items of one channel may cost that wait: less where more than `pause` waits for the peer in all, so that many
    /// channels are not much; but something, so that each has its turns beside messages that are larger and never end.
    fn queue_max(&self, pause: usize) -> u64 {
        if self.writable() > pause { BEHIND_MAX } else { QUEUE_MAX }
    }

    /// Whether a channel takes items, now or later.
    pub(in crate::connection) fn is_open(&self, key: ChannelKey) -> bool {
        self.outgoing.get(&key).is_some_and(|out| out.end.is_none())
    }

    /// Queues the end of a channel behind its items.
    pub(in crate::connection) fn end_channel(&mut self, key: ChannelKey, end: &End) {
        let frame = self.encode_end(key, end);
        let Some(out) = self.outgoing.get_mut(&key) else { return };
        self.unsent.bytes += frame.len();
        self.unsent.bytes -= out.end.replace(frame).map_or(0, |before| before.len());
        self.changed(key);
    }

    /// Drops what waits of a channel, its end too, and queues an end with a code: an item may be half sent.
    pub(in crate::connection) fn cut_channel(&mut self, key: ChannelKey, end: &End) {
        self.clear_channel(key);
        self.end_channel(key, end);
    }

    fn clear_channel(&mut self, key: ChannelKey) {
        let Some(out) = self.outgoing.get_mut(&key) else { return };
        out.items.clear();
        let bytes = std::mem::take(&mut out.bytes);
        self.unsent.bytes -= bytes;
        self.payload -= bytes;
        out.cost = 0;
        self.changed(key);
    }

    /// Drops a channel, its end too.
    pub(in crate::connection) fn drop_channel(&mut self, key: ChannelKey) {
        self.clear_channel(key);
        if let Some(out) = self.outgoing.remove(&key) {
            self.unsent.bytes -= out.end.map_or(0, |end| end.len());
        }
        self.waiting.retain(|waiting| *waiting != key);
    }

    /// Credit came for a channel. What is to be told of it, if its owner passes credit on.
    pub(in crate::connection) fn credit_channel(
        &mut self,
        key: ChannelKey,
        bytes: u64,
    ) -> Result<Option<u64>, PeerError> {
        let Some(out) = self.outgoing.get_mut(&key) else { return Ok(None) };
        out.credit.add(bytes)?;
        out.untold = out.untold.saturating_add(bytes);
        let told = out.is_relayed.then(|| std::mem::take(&mut out.untold));
        self.changed(key);
        Ok(told)
    }

    /// Lets the owner of a channel be told of its credit from now on; what came until now.
    pub(in crate::connection) fn relay_channel(&mut self, key: ChannelKey) -> u64 {
        let Some(out) = self.outgoing.get_mut(&key) else { return 0 };
        out.is_relayed = true;
        std::mem::take(&mut out.untold)
    }

    /// Brings a channel into turn if it has something to send, and counts again what waits for its credit.
    pub(in crate::connection) fn changed(&mut self, key: ChannelKey) {
        let Some(out) = self.outgoing.get_mut(&key) else { return };
        let (more, fewer) = out.restall();
        self.stalled = self.stalled + more - fewer;
        if !out.is_stuck() && !std::mem::replace(&mut out.in_turns, true) {
            self.turns.push_back(Turn::Channel(key));
        }
    }

    /// Channels that take items again after one was not taken.
    pub(in crate::connection) fn drain_resumed(&mut self, mut tell: impl FnMut(ChannelKey)) {
        if self.waiting.is_empty() {
            return;
        }
        let most = self.queue_max(limits::UNSENT_BYTES_PAUSE / 2);
        let outgoing = &mut self.outgoing;
        self.waiting.retain(|key| match outgoing.get_mut(key) {
            Some(out) if out.wanted.is_some_and(|pressing| out.resumes(pressing, most)) => {
                out.wanted = None;
                tell(*key);
                false
            }
            Some(out) => out.end.is_none(),
            None => false,
        });
    }

    /// A turn of a channel: a fragment's worth of items, or what its credit and the connection's allow.
    pub(super) fn fill_channel(&mut self, key: ChannelKey, transmit: &mut Transmit<A>, max_frame: u32) {
        self.overtaken = 0;
        let start = transmit.len();
        while transmit.len() - start < limits::FRAGMENT && !transmit.is_full() {
            let room = self.room();
            let Some(out) = self.outgoing.get_mut(&key).filter(|out| out.can_go(room)) else { break };
            if let Some(payload) = out.write(key, transmit, max_frame, room, &mut self.lent) {
                self.unsent.bytes -= payload;
                self.spend(payload);
            } else {
                if let Some(end) = self.outgoing.remove(&key).and_then(|out| out.end) {
                    self.unsent.bytes -= end.len();
                    transmit.push(end);
                }
                self.closed.push(key);
                return;
            }
        }
        if let Some(out) = self.outgoing.get_mut(&key) {
            out.in_turns = false;
        }
        self.changed(key);
    }

    fn encode_end(&mut self, key: ChannelKey, end: &End) -> Bytes {
        let meta_len = coding::encoded_len(end);
        let header = Header {
            len: u32::try_from(meta_len).expect("cut to fit"),
            flags: flags::END,
            meta_len: u16::try_from(meta_len).expect("cut to fit"),
            arg: key.1,
            ..Header::new(FrameKind::Data, key.0)
        };
        debug_assert!(HEADER_LEN + meta_len <= limits::MAX_METADATA, "an end is small");
        header.encode(&mut self.arena);
        coding::encode_into(end, &mut self.arena);
        self.arena.split().freeze()
    }
}
