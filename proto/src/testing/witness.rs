//! Holds the bytes between two sides against the rules of credit, which it counts for itself.

use std::collections::HashMap;

use bytes::Bytes;

use crate::body::inline_len;
use crate::coding;
use crate::connection::Role;
use crate::decoder::{Decoder, Frame};
use crate::metadata::{Call, Credit, Item};
use crate::registry::{Direction, FrameKind, flags, limits};

/// What is sent by which side on which channel; `(side, 0, 0)` is all that it sends on the connection.
type Key = (usize, u64, u32);

/// Sees the bytes of one connection after its handshake, as they leave each side and as they arrive at the other.
///
/// It counts credit by itself, as SPEC.md ("Flow control") says: what the sender may send when a frame leaves it, and what
/// the receiver has promised when it arrives. With [`Connection`](crate::connection::Connection) it shares no arithmetic.
#[derive(Debug)]
pub struct CreditWitness {
    channel_window: u64,
    connection_window: u64,
    /// Decoders of what leaves each side, and of what arrives from it.
    left: [Decoder<()>; 2],
    arrived: [Decoder<()>; 2],
    at_sender: HashMap<Key, Balance>,
    at_receiver: HashMap<Key, Balance>,
    seen: Seen,
}

/// What a witness has seen, so that a test can say that it saw something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames that left a side.
    pub frames: u64,
    /// Frames of items among them.
    pub items: u64,
    /// CREDIT frames among them.
    pub credits: u64,
    /// How often a sender had used up all credit of a channel, or owed some.
    pub used_up: u64,
}

/// Credit that is left. Below zero it is owed for a small item.
#[derive(Debug, Clone, Copy)]
struct Balance {
    limit: i128,
    left: i128,
}

impl Balance {
    fn new(limit: u64) -> Self {
        Balance { limit: limit.into(), left: limit.into() }
    }

    fn take(&mut self, key: Key, payload: i128, least: i128, cost: i128) {
        assert!(self.left >= least, "{key:?}: {payload} bytes of payload where {} are left", self.left);
        self.left -= cost;
    }

    fn add(&mut self, key: Key, bytes: i128) {
        self.left += bytes;
        assert!(
            self.left <= self.limit,
            "{key:?}: a window of {} where the limit is {}",
            self.left,
            self.limit
        );
    }
}

impl CreditWitness {
    /// For a connection of which both sides have CHANNELS and nothing but the handshake has been said: what the daemon
    /// announced as the window of a channel on which the client sends, and of the connection.
    #[must_use]
    pub fn new(channel_window: u64, connection_window: u64) -> Self {
        let decoders = || [Decoder::new(u32::MAX), Decoder::new(u32::MAX)];
        CreditWitness {
            channel_window,
            connection_window,
            left: decoders(),
            arrived: decoders(),
            at_sender: HashMap::new(),
            at_receiver: HashMap::new(),
            seen: Seen::default(),
        }
    }

    /// What was seen until now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Bytes leave a side.
    ///
    /// # Panics
    /// If the side sends beyond its credit, or gives more credit than its window has room for.
    pub fn leave(&mut self, from: Role, bytes: Bytes) {
        let side = side(from);
        self.left[side].push(bytes, []);
        while let Some(frame) = self.left[side].next_frame().expect("a side writes frames") {
            self.seen.frames += 1;
            self.open(side, &frame, true);
            self.count(side, &frame, true);
            if frame.header.known_kind() == Some(FrameKind::Credit) {
                self.seen.credits += 1;
                self.credit(1 - side, &frame, false);
            }
        }
    }

    /// Bytes that left a side arrive at the other.
    ///
    /// # Panics
    /// If they are beyond what the other side has promised.
    pub fn arrive(&mut self, from: Role, bytes: Bytes) {
        let side = side(from);
        self.arrived[side].push(bytes, []);
        while let Some(frame) = self.arrived[side].next_frame().expect("a side writes frames") {
            self.open(side, &frame, false);
            self.count(side, &frame, false);
            if frame.header.known_kind() == Some(FrameKind::Credit) {
                self.credit(1 - side, &frame, true);
            }
        }
    }

    /// Notes what a CALL declares: for the caller when it leaves, for the called when it arrives.
    fn open(&mut self, side: usize, frame: &Frame<()>, leaves: bool) {
        if frame.header.known_kind() != Some(FrameKind::Call) {
            return;
        }
        let call: Call = coding::decode(&frame.metadata).expect("a side writes records");
        for channel in call.channels {
            let (sender, window) = match channel.direction {
                Direction::Down => (1 - side, channel.credit),
                Direction::Up => (side, self.channel_window),
            };
            let key = (sender, frame.header.stream, channel.index);
            // The caller of a channel to it promises when the call leaves, and is promised by the same token.
            let at = if (sender == side) == leaves { &mut self.at_sender } else { &mut self.at_receiver };
            at.insert(key, Balance::new(window));
        }
    }

    /// Takes the payload of a frame of the credit of whoever sent it.
    fn count(&mut self, side: usize, frame: &Frame<()>, leaves: bool) {
        let kind = frame.header.known_kind();
        let counts =
            [FrameKind::Call, FrameKind::Data, FrameKind::Result, FrameKind::Error].map(Some).contains(&kind);
        let payload = i128::try_from(frame.payload.len()).expect("a frame is small");
        let at = if leaves { &mut self.at_sender } else { &mut self.at_receiver };
        if counts && payload > 0 {
            let key = (side, 0, 0);
            let window = self.connection_window;
            at.entry(key).or_insert_with(|| Balance::new(window)).take(key, payload, payload, payload);
        }
        let header = frame.header;
        if kind != Some(FrameKind::Data) || header.arg == 0 || header.has(flags::END) {
            return;
        }
        let key = (side, header.stream, header.arg);
        let balance = at.get_mut(&key).expect("a channel that its call declares");
        if header.has(flags::CONT) {
            balance.take(key, payload, payload, payload);
        } else {
            let item: Item = coding::decode(&frame.metadata).expect("a side writes records");
            let len = i128::from(inline_len(&item.parts).expect("a length that exists"));
            let surcharge = (limits::ITEM_COST_MIN as i128 - len).max(0);
            balance.take(key, payload, payload.max(i128::from(surcharge > 0)), payload + surcharge);
        }
        if leaves {
            self.seen.items += 1;
            self.seen.used_up += u64::from(balance.left <= 0);
        }
    }

    /// Notes credit for what `sender` sends: for the receiver when it leaves, for the sender when it arrives.
    fn credit(&mut self, sender: usize, frame: &Frame<()>, arrives: bool) {
        let credit: Credit = coding::decode(&frame.metadata).expect("a side writes records");
        let key = (sender, frame.header.stream, frame.header.arg);
        let at = if arrives { &mut self.at_sender } else { &mut self.at_receiver };
        let balance = at.get_mut(&key).expect("credit for what something was sent on");
        balance.add(key, credit.bytes.into());
    }
}

fn side(of: Role) -> usize {
    match of {
        Role::Client => 0,
        Role::Daemon => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Body, Message};
    use crate::connection::{Event, Request, Sent, Settings};
    use crate::metadata::ChannelDeclaration;
    use crate::registry::features;
    use crate::testing::{Pair, output};

    /// A client that has sent an item of 100 bytes on a channel whose window the witness takes for `window`.
    fn sent(window: u64) -> CreditWitness {
        let settings = Settings { features: features::CHANNELS, ..Settings::default() };
        let mut pair = Pair::open_with(settings, settings);
        let mut witness = CreditWitness::new(window, 1 << 20);
        let up = ChannelDeclaration { index: 1, direction: Direction::Up, credit: 0 };
        let request = Request { command: "a.b".into(), channels: vec![up], ..Request::default() };
        let stream = pair.client.call(request).expect("a legal call");
        let item = Message::from(Body::Raw(Bytes::from_static(&[7; 100])));
        assert!(matches!(pair.client.send_item(stream, 1, item), Ok(Sent::Queued)));
        let bytes = output(&mut pair.client);
        witness.leave(Role::Client, bytes.clone());
        witness.arrive(Role::Client, bytes.clone());
        pair.daemon.handle_input(pair.now, bytes, []).expect("legal");
        let credit = std::iter::from_fn(|| pair.daemon.poll_event()).find_map(|event| match event {
            Event::ItemCame { credit, .. } => Some(credit),
            _ => None,
        });
        assert_eq!(credit, Some(256));
        witness
    }

    #[test]
    fn what_keeps_to_the_rules_is_counted() {
        let witness = sent(100);
        assert_eq!(witness.seen(), Seen { frames: 2, items: 1, credits: 0, used_up: 1 });
        let owed = witness.at_receiver[&(0, 1, 1)];
        assert_eq!(owed.left, -156, "what a small item lacks is owed");
    }

    #[test]
    #[should_panic(expected = "100 bytes of payload where 99 are left")]
    fn payload_beyond_the_credit_is_found() {
        sent(99);
    }

    #[test]
    #[should_panic(expected = "a window of 1001 where the limit is 1000")]
    fn credit_beyond_the_window_is_found() {
        let mut witness = sent(1000);
        let record = Credit { bytes: 257, ..Credit::default() };
        let header = crate::header::Header { arg: 1, ..crate::header::Header::new(FrameKind::Credit, 1) };
        let bytes = crate::testing::frame(header, &crate::testing::AnyRecord::from(record).encode(), &[]);
        witness.leave(Role::Daemon, bytes);
    }
}
