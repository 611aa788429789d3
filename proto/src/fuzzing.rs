//! What fuzzers call, and what `cargo test` replays over the committed corpus: each function takes any bytes and
//! panics only where a rule of SPEC.md is broken by this crate.
//!
//! Here and not in the fuzzing package, so that plain `cargo test` on a stable compiler runs the same code.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::body::{Assembly, Message};
use crate::connection::{Connection, Event, LaneSet, More, Request, Sent, Settings, Transmit};
use crate::decoder::Decoder;
use crate::error::PeerError;
use crate::metadata::{Call, ChannelDeclaration, Hello, Part, Welcome};
use crate::registry::{
    Direction, ErrorCode, FrameKind, HEADER_LEN, Lane, MAGIC, PREFACE_LEN, features, limits,
};
use crate::testing::{AnyRecord, Token, output, start};

/// Frame limit of the sessions: small, so that a fuzzer reaches it.
const MAX_FRAME: u32 = 1000;

/// Cuts `data` into frames, whole and in pieces, and compares.
///
/// # Panics
/// If the pieces make other frames than the whole, or a file descriptor stays open.
pub fn decoder(data: &[u8]) {
    let Some((&[read, fds], input)) = data.split_first_chunk::<2>() else { return };
    let whole = frames(input, usize::MAX, 0);
    let pieces = frames(input, usize::from(read).max(1), 0);
    assert_eq!(whole, pieces, "reads of {read}");
    frames(input, usize::from(read).max(1), usize::from(fds % 32));
}

/// The frames of `input`, as kind, metadata and payload, and the error that ended them.
fn frames(input: &[u8], read: usize, fds: usize) -> (Vec<(u8, Bytes, Bytes)>, Option<String>) {
    let open = Rc::new(Cell::new(0));
    let mut decoder = Decoder::new(MAX_FRAME);
    let mut frames = Vec::new();
    let mut error = None;
    'reads: for piece in input.chunks(read) {
        decoder.push(Bytes::copy_from_slice(piece), (0..fds).map(|_| Token::open(&open)));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.payload.len() + frame.metadata.len() <= MAX_FRAME as usize);
                    assert_eq!(frame.fds.len(), usize::from(frame.header.nfds));
                    frames.push((frame.header.kind, frame.metadata, frame.payload));
                }
                Ok(None) => break,
                Err(wrong) => {
                    error = Some(wrong.to_string());
                    break 'reads;
                }
            }
        }
        assert!(decoder.peek().0.len() < HEADER_LEN + MAX_FRAME as usize, "more than a frame is kept");
        assert!(open.get() <= limits::MAX_FDS_PER_FRAME, "{} file descriptors are kept", open.get());
    }
    drop(decoder);
    assert_eq!(open.get(), 0, "a file descriptor stays open");
    (frames, error)
}

/// Reads `data` as a record, the first byte choosing which, and encodes what came out.
///
/// # Panics
/// If the record has other bytes than it was read from, or fails its own rules.
pub fn records(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else { return };
    let name = AnyRecord::NAMES[usize::from(which) % AnyRecord::NAMES.len()];
    let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(limits::MAX_METADATA)]);
    if let Some(Ok(record)) = AnyRecord::decode(name, &bytes) {
        assert_eq!(record.encode(), bytes, "{name}");
        assert_eq!(record.validate(), Ok(()), "{name}");
    }
}

/// A daemon against a client that sends `data`: the first byte sizes the reads, the second says whether the bytes come
/// after a handshake, and by its second bit whether channels are offered.
///
/// # Panics
/// If the daemon breaks a rule: answers what was not asked, keeps what has ended, says what no peer can read.
pub fn daemon_session(data: &[u8]) {
    let Some((&[read, prelude], input)) = data.split_first_chunk::<2>() else { return };
    let settings = settings(prelude);
    let mut session = Session::new(Connection::daemon(settings, start()));
    if prelude % 2 == 1 {
        let hello = Hello::default();
        let client = Connection::<Token>::client(settings, &hello, start());
        let mut client = client.expect("a default HELLO is legal");
        session.give(output(&mut client)).expect("the handshake is legal");
    }
    session.run(input, usize::from(read).max(1));
    session.end();
}

/// A client with four open calls against a daemon that sends `data`, as for [`daemon_session`].
///
/// # Panics
/// If the client breaks a rule, above all if a call of its own ends twice or never.
pub fn client_session(data: &[u8]) {
    let Some((&[read, prelude], input)) = data.split_first_chunk::<2>() else { return };
    let hello = Hello::default();
    let settings = settings(prelude);
    let client = Connection::client(settings, &hello, start()).expect("a default HELLO is legal");
    let mut session = Session::new(client);
    for len in [0, 1, 100, 10_000] {
        let message = Message::from(crate::body::Body::Raw(Bytes::from(vec![7; len])));
        let request = Request { command: "a.b".into(), message, ..Request::default() };
        session.open.push(session.side.call(request).expect("four small early calls are allowed"));
    }
    if prelude % 2 == 1 {
        let mut daemon = Connection::<Token>::daemon(settings, start());
        session.take_output();
        let said = Bytes::copy_from_slice(&session.out);
        daemon.handle_input(start(), said, []).expect("the handshake is legal");
        daemon.welcome(&Welcome::default()).expect("a HELLO waits");
        session.give(output(&mut daemon)).expect("the handshake is legal");
        if session.side.has_channels() {
            session.call_with_channels();
            session.call_with_channels();
        }
    }
    session.run(input, usize::from(read).max(1));
    session.end();
}

fn settings(prelude: u8) -> Settings {
    let channels = if prelude & 2 == 0 { 0 } else { features::CHANNELS };
    let lanes = if prelude & 4 == 0 { 0 } else { features::ATTACHED_FDS | features::POOL };
    let features = channels | lanes;
    // The limit of frames must leave room for the handshake's own check of the floor.
    Settings { features, max_message: 100_000, open_calls: 8, open_channels: 12, ..Settings::default() }
}

/// Begins an answer; what is in a segment is of no size here.
fn begin(parts: Vec<Part>, payload: Bytes) -> Assembly {
    Assembly::begin_with(parts, payload, |_| Ok(Bytes::new())).expect("its first frame was checked")
}

/// One channel each way.
fn declared() -> Vec<ChannelDeclaration> {
    let down = ChannelDeclaration { index: 1, direction: Direction::Down, credit: 3000 };
    vec![down, ChannelDeclaration { index: 2, direction: Direction::Up, credit: 0 }]
}

/// One side under input, with an owner that answers what it can.
struct Session {
    side: Connection<Token>,
    now: Instant,
    /// Our calls that have not ended.
    open: Vec<u64>,
    /// Messages on their way in, ours and the peer's.
    growing: Vec<(u64, Assembly, bool)>,
    /// Channels that we receive on and that have not ended, with the item that is on its way and its credit.
    receiving: Vec<(u64, u32, Option<Assembly>, u64)>,
    /// Channels that we send on and that were not stopped.
    sending: Vec<(u64, u32)>,
    out: Vec<u8>,
}

impl Session {
    fn new(side: Connection<Token>) -> Self {
        Session {
            side,
            now: start(),
            open: Vec::new(),
            growing: Vec::new(),
            receiving: Vec::new(),
            sending: Vec::new(),
            out: Vec::new(),
        }
    }

    fn run(&mut self, input: &[u8], read: usize) {
        for piece in input.chunks(read) {
            if self.give(Bytes::copy_from_slice(piece)).is_err() {
                assert!(self.side.is_closed(), "an error does not close");
                break;
            }
        }
    }

    fn give(&mut self, bytes: Bytes) -> Result<(), PeerError> {
        self.now += Duration::from_millis(1);
        let result = self.side.handle_input(self.now, bytes, []);
        while let Some(event) = self.side.poll_event() {
            self.handle(event);
        }
        self.take_output();
        result
    }

    fn take_output(&mut self) {
        let mut transmit = Transmit::default();
        while self.side.poll_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let mut slices = [std::io::IoSlice::new(&[]); 16];
                let filled = transmit.slices(&mut slices);
                let before = self.out.len();
                slices[..filled].iter().for_each(|slice| self.out.extend_from_slice(slice));
                transmit.advance(self.out.len() - before);
            }
        }
        assert_eq!(self.side.unsent().terminals, 0, "an answer is not written");
    }

    fn handle(&mut self, event: Event<Token>) {
        match event {
            Event::Greeted(_) => self.side.welcome(&Welcome::default()).unwrap_or_default(),
            Event::Called { stream, call, payload, more, .. } => {
                self.side.release(payload.len());
                self.declare(stream, &call, Direction::Up);
                self.send_on(stream);
                let assembly = begin(call.parts, payload);
                self.grow(stream, assembly, more, false);
            }
            Event::Replied { stream, reply, payload, more, .. } => {
                self.side.release(payload.len());
                let assembly = begin(reply.parts, payload);
                self.grow(stream, assembly, more, true);
            }
            Event::Failed { stream, failure, payload, more, .. } => {
                self.side.release(payload.len());
                let assembly = begin(failure.parts, payload);
                self.grow(stream, assembly, more, true);
            }
            Event::Continued { stream, payload, more } => {
                self.side.release(payload.len());
                let at = self.growing.iter().position(|(of, ..)| *of == stream);
                let (_, mut assembly, ours) = self.growing.swap_remove(at.expect("a fragment of no message"));
                assembly.push(&payload).expect("its length was checked");
                self.grow(stream, assembly, more, ours);
            }
            Event::Cancelled { stream } => {
                self.growing.retain(|(of, ..)| *of != stream);
                let failure = crate::metadata::Failure::framework(
                    ErrorCode::Cancelled,
                    "cancelled",
                    crate::registry::Delivery::Delivered,
                );
                let answered = self.side.fail_call(stream, ErrorCode::Cancelled, failure, Message::default());
                self.forget_channels(stream);
                assert!(answered.is_ok() || self.side.is_closed(), "a cancelled call is not open");
            }
            Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                let assembly = begin(item.parts, payload.clone());
                let Some(at) = self.receives(stream, channel) else {
                    return self.side.release(payload.len());
                };
                assert!(self.receiving[at].2.is_none(), "an item inside another");
                self.receiving[at].2 = Some(assembly);
                self.receiving[at].3 = 0;
                self.take_item(at, payload.len(), more, credit);
            }
            Event::ItemContinued { stream, channel, payload, more, credit } => {
                let Some(at) = self.receives(stream, channel) else {
                    return self.side.release(payload.len());
                };
                let assembly = self.receiving[at].2.as_mut().expect("a fragment of no item");
                assembly.push(&payload).expect("its length was checked");
                self.take_item(at, payload.len(), more, credit);
            }
            Event::ChannelEnded { stream, channel, code, .. } => {
                let Some(at) = self.receives(stream, channel) else { return };
                let (.., assembly, _) = self.receiving.swap_remove(at);
                assert!(code.is_some() || assembly.is_none(), "a channel ended well inside an item");
            }
            Event::ChannelStopped { stream, channel } => {
                let Some(at) = self.sending.iter().position(|of| *of == (stream, channel)) else { return };
                self.sending.swap_remove(at);
                let sent = self.side.send_item(stream, channel, Message::default());
                assert!(matches!(sent, Ok(Sent::Ended)), "a stopped channel takes items");
            }
            Event::ChannelCredited { stream, .. } => self.send_on(stream),
            Event::SegmentCame { segment, .. } => assert!(segment.len > 0, "a segment of nothing"),
            Event::SegmentGone { .. } | Event::LanesTold(_) => {}
            Event::LanesAsked(_) => {
                let all = LaneSet::of([Lane::Pool, Lane::Sealed, Lane::File]);
                assert!(self.side.take_lanes(all).is_ok() || self.side.is_closed(), "lanes can't be told");
            }
            Event::CreditCame { .. } => panic!("credit of a channel that is not relayed is told"),
            Event::Granted(grant) => {
                assert!(self.side.may_provide(), "{grant:?} came to one that does not provide")
            }
            Event::Ungranted(_)
            | Event::Welcomed(_)
            | Event::Refused { .. }
            | Event::WentAway { .. }
            | Event::Ponged { .. } => {}
        }
    }

    /// Opens a call with a channel each way.
    fn call_with_channels(&mut self) {
        let channels = declared();
        let request = Request { command: "a.b".into(), channels: channels.clone(), ..Request::default() };
        let stream = self.side.call(request).expect("the peer has channels");
        self.open.push(stream);
        self.declare(stream, &Call { channels, ..Call::default() }, Direction::Down);
        self.send_on(stream);
    }

    /// Notes the channels of a call, of which those in `incoming` direction bring items to us.
    fn declare(&mut self, stream: u64, call: &Call, incoming: Direction) {
        for declared in &call.channels {
            if declared.direction == incoming {
                self.receiving.push((stream, declared.index, None, 0));
            } else {
                self.sending.push((stream, declared.index));
            }
        }
    }

    /// The place of a channel, unless its call was answered with an error after the event was there.
    fn receives(&self, stream: u64, channel: u32) -> Option<usize> {
        self.receiving.iter().position(|(of, index, ..)| (*of, *index) == (stream, channel))
    }

    /// Takes a part of an item, and gives its credit back once it is whole. The third channel wants no more then.
    fn take_item(&mut self, at: usize, payload: usize, more: More, credit: u64) {
        self.side.release(payload);
        let (stream, channel, assembly, sum) = &mut self.receiving[at];
        *sum += credit;
        let whole = assembly.as_ref().is_some_and(Assembly::is_complete);
        assert_eq!(whole, more == More::Whole, "{stream}/{channel}");
        if whole {
            let (stream, channel, sum) = (*stream, *channel, *sum);
            self.receiving[at].2.take().expect("it is there").finish().expect("it is complete and inline");
            self.side.give_credit(stream, channel, sum);
            if channel % 3 == 0 {
                self.side.stop_channel(stream, channel);
            }
        }
    }

    /// Sends an item on each channel of a stream, and ends every other channel.
    fn send_on(&mut self, stream: u64) {
        let of_stream: Vec<_> = self.sending.iter().copied().filter(|(of, _)| *of == stream).collect();
        for key @ (stream, channel) in of_stream {
            let message = Message::from(crate::body::Body::Raw(Bytes::from(vec![7; 700])));
            self.side.send_item(stream, channel, message).expect("it goes this way");
            if channel % 2 == 0 && self.side.end_channel(stream, channel, None, "") {
                self.sending.retain(|of| *of != key);
            }
        }
    }

    /// The call was answered with an error: its channels have ended, and nothing is told of them.
    fn forget_channels(&mut self, stream: u64) {
        self.receiving.retain(|(of, ..)| *of != stream);
        self.sending.retain(|(of, _)| *of != stream);
    }

    fn grow(&mut self, stream: u64, assembly: Assembly, more: More, ours: bool) {
        assert_eq!(assembly.is_complete(), more == More::Whole, "stream {stream}");
        if more == More::Follows {
            self.growing.push((stream, assembly, ours));
            return;
        }
        let message = assembly.finish().expect("it is complete and inline");
        if ours {
            let at = self.open.iter().position(|open| *open == stream);
            self.open.swap_remove(at.expect("a call that is not open has ended"));
        } else if stream % 4 == 1 && !self.side.is_closed() {
            // Half of the calls are answered at once, the others stay open.
            self.side.reply(stream, Vec::new(), message).expect("it was just called");
        }
    }

    /// The peer leaves: what is open ends, and what was said can be read.
    fn end(mut self) {
        // The end of the input may be in the middle of a frame, which is an error of the peer's only.
        let _ = self.side.handle_eof();
        let growing = self.growing.iter().filter(|(_, _, ours)| *ours).map(|(stream, ..)| *stream);
        let mut ended: Vec<u64> = growing.collect();
        for (stream, _) in self.side.abandon() {
            if !ended.contains(&stream) {
                ended.push(stream);
            }
        }
        // A call above our limit has ended for its owner while its bytes are still dropped.
        let left: Vec<_> = self.open.iter().filter(|stream| !ended.contains(stream)).collect();
        assert!(left.is_empty(), "calls that never end: {left:?}");
        assert_eq!((self.side.open_outbound(), self.side.open_inbound()), (0, 0));
        assert_eq!((self.side.open_channels(), self.side.unsent().bytes), (0, 0));
        check_output(&self.out);
    }
}

/// What a side wrote is a preface and whole frames of known kinds.
fn check_output(out: &[u8]) {
    if out.is_empty() {
        return;
    }
    assert!(out.starts_with(&MAGIC) && out.len() >= PREFACE_LEN, "output without a preface");
    if out[MAGIC.len()..MAGIC.len() + 4] == [0; 4] {
        return; // a refusal: code and reason follow
    }
    let mut decoder = Decoder::<()>::new(u32::MAX);
    decoder.push(Bytes::copy_from_slice(&out[PREFACE_LEN..]), []);
    let mut last = None;
    while let Some(frame) = decoder.next_frame().expect("we write legal frames") {
        assert_ne!(last, Some(FrameKind::GoAway), "a frame after GOAWAY with a code");
        let fatal = frame.header.arg != 0;
        last = frame.header.known_kind().filter(|kind| *kind != FrameKind::GoAway || fatal);
    }
    assert!(decoder.is_between_frames(), "half a frame is written");
}
