//! One peer, without I/O: bytes in, events out; requests in, bytes out; time is an argument.
//!
//! A [`Connection`] knows the rules of SPEC.md and nothing of commands or policies. After an error from
//! [`handle_input`](Connection::handle_input) or [`handle_timeout`](Connection::handle_timeout) it has put a GOAWAY
//! with the exact code in its output; the owner writes what [`poll_transmit`](Connection::poll_transmit) still gives
//! and closes the socket.

mod calls;
mod channels;
mod event;
mod flow;
mod handshake;
mod lanes;
mod relay;
mod send;
mod taking;
mod timer;
mod transmit;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};

pub use calls::{Request, Withdrawal};
pub use channels::Sent;
pub use event::{Event, More};
pub use lanes::Placement;
pub use taking::LaneSet;
pub use transmit::Transmit;

use crate::coding;
use crate::decoder::{Decoder, Frame};
use crate::error::{DecodeError, MisuseError, PeerError};
use crate::metadata::{Credit, End, GoAway, Grant, Item, Ungrant};
use crate::registry::{ErrorCode, FrameKind, StreamRule, flags, is_ignorable, limits, tags};
use crate::text::Text;
use calls::{Inbound, Outbound};
use channels::Channels;
use flow::Window;
use handshake::Handshake;
use lanes::Lanes;
use send::SendQueue;
use timer::Timers;

/// Which side this is: it decides the handshake and the parity of stream ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that connected; opens odd streams.
    Client,
    /// The side that accepted; opens even streams.
    Daemon,
}

/// What a side announces and keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Largest frame to take, in bytes after the header.
    pub max_frame: u32,
    /// Features offered.
    pub features: u64,
    /// A number that changes with each start of the daemon.
    pub instance: u64,
    /// Largest message to take or send, in bytes.
    pub max_message: u64,
    /// Calls open at once, per direction.
    pub open_calls: usize,
    /// Channels open at once.
    pub open_channels: usize,
    /// Credit that a daemon gives at the start of a channel on which a client sends, in bytes. It is announced in WELCOME.
    pub channel_window: u64,
    /// Credit of a daemon's connections at their start, in bytes, both ways. It is announced in WELCOME.
    pub connection_window: u64,
    /// From the start to a whole handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// From the last byte of a frame that is not whole, in milliseconds.
    pub frame_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_frame: crate::preface::narrow(limits::MAX_FRAME),
            features: 0,
            instance: 0,
            max_message: limits::MAX_MESSAGE as u64,
            open_calls: limits::OPEN_CALLS,
            open_channels: limits::OPEN_CHANNELS,
            channel_window: limits::CHANNEL_WINDOW as u64,
            connection_window: limits::CONNECTION_WINDOW as u64,
            handshake_timeout_ms: limits::HANDSHAKE_TIMEOUT_MS,
            frame_timeout_ms: limits::FRAME_TIMEOUT_MS,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The handshake is not over.
    Opening,
    /// Calls flow.
    Open,
    /// We said GOAWAY; calls that are open end, new ones are not taken.
    Draining,
    /// Only output is left.
    Closed,
}

/// What a peer announced in its preface, once it is known.
#[derive(Debug, Clone, Copy)]
struct Remote {
    max_frame: u32,
    features: u64,
    instance: u64,
    max_message: u64,
    open_calls: usize,
    open_channels: usize,
    channel_window: u64,
}

/// The state of one connection. `A` is what a file descriptor is: an owned one in production, a counted token in tests.
#[derive(Debug)]
pub struct Connection<A> {
    role: Role,
    settings: Settings,
    state: State,
    handshake: Handshake,
    remote: Remote,
    decoder: Decoder<A>,
    events: VecDeque<Event<A>>,
    inbound: HashMap<u64, Inbound>,
    outbound: HashMap<u64, Outbound>,
    channels: Channels,
    lanes: Lanes,
    /// What the peer may send of payload.
    window: Window,
    /// Bytes of payload that events have brought, in all.
    delivered: usize,
    /// The last stream that the peer opened.
    last_inbound: u64,
    /// The last of them that we took.
    last_taken: u64,
    /// The peer said GOAWAY.
    peer_is_away: bool,
    /// The next stream that we open.
    next_outbound: u64,
    send: SendQueue<A>,
    timers: Timers,
}

impl<A> Connection<A> {
    fn new(role: Role, settings: Settings, now: Instant) -> Self {
        let mut connection = Connection {
            role,
            settings,
            state: State::Opening,
            handshake: Handshake::new(),
            remote: Remote {
                max_frame: crate::preface::narrow(limits::MAX_FRAME_FLOOR),
                features: 0,
                instance: 0,
                max_message: settings.max_message,
                open_calls: settings.open_calls,
                open_channels: settings.open_channels,
                channel_window: limits::CHANNEL_WINDOW as u64,
            },
            decoder: {
                let mut decoder = Decoder::new(handshake::HELLO_MAX);
                decoder.set_max_fds(0);
                decoder
            },
            events: VecDeque::new(),
            inbound: HashMap::new(),
            outbound: HashMap::new(),
            channels: Channels::new(),
            lanes: Lanes::new(),
            window: Window::new(limits::CONNECTION_WINDOW as u64),
            delivered: 0,
            last_inbound: 0,
            last_taken: 0,
            peer_is_away: false,
            next_outbound: if role == Role::Client { 1 } else { 2 },
            send: SendQueue::new(),
            timers: Timers::new(now, &settings),
        };
        if role == Role::Daemon {
            connection.take_connection_window(settings.connection_window);
        }
        connection
    }

    /// Takes what one read brought, and turns it into events.
    ///
    /// # Errors
    /// The rule that the peer broke; GOAWAY with its code is queued and nothing more is read from the peer.
    pub fn handle_input(
        &mut self,
        now: Instant,
        data: Bytes,
        fds: impl IntoIterator<Item = A>,
    ) -> Result<(), PeerError> {
        if self.state == State::Closed {
            return Ok(());
        }
        self.decoder.push(data, fds);
        let result = self.drain_input(now);
        self.timers.input_arrived(now, self.decoder.is_between_frames());
        result.inspect_err(|error| self.fail(*error))
    }

    /// The peer closed its side.
    ///
    /// # Errors
    /// [`PeerError::Truncated`] if it did so in the middle of a frame.
    pub fn handle_eof(&mut self) -> Result<(), PeerError> {
        let whole = self.decoder.is_between_frames() && self.handshake.is_between();
        let was_open = self.state != State::Closed;
        self.close();
        if whole || !was_open { Ok(()) } else { Err(PeerError::Truncated) }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event<A>> {
        loop {
            match self.events.pop_front()? {
                // The owner answered since: what came in one read with the call may be out of date by now.
                Event::Cancelled { stream } if !self.is_unanswered(stream) => {}
                event => return Some(event),
            }
        }
    }

    /// Whether [`poll_event`](Self::poll_event) may give something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Moves output into `transmit`, which must have been written entirely; false if there is none.
    pub fn poll_transmit(&mut self, transmit: &mut Transmit<A>) -> bool {
        debug_assert!(transmit.is_empty(), "the last transmit is not written");
        self.settle_written();
        self.queue_releases();
        // An answer to an early call must not come before WELCOME.
        let hold = self.holds_messages();
        self.send.fill(transmit, self.remote.max_frame, hold);
        self.settle_begun();
        self.lend_items();
        self.settle_channels();
        !transmit.is_empty()
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) would give something: what waits for credit of the peer's does not
    /// count.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        self.lanes.is_pressing() || self.send.can_fill(self.holds_messages())
    }

    fn holds_messages(&self) -> bool {
        self.role == Role::Daemon && !self.handshake.is_welcomed()
    }

    /// Whether something waits that only credit of the connection would let go: a peer that takes what it is sent gives
    /// it back soon.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.send.is_starved()
    }

    /// What waits to be written, besides what is in a [`Transmit`].
    #[must_use]
    pub fn unsent(&self) -> Unsent {
        self.send.unsent()
    }

    /// True while our output to the peer is so far behind that it must not be read (SPEC.md, "Flow control"). What waits
    /// for credit does not count: only by reading it comes.
    #[must_use]
    pub fn pauses_reading(&self) -> bool {
        let unsent = self.send.unsent();
        self.send.writable() > limits::UNSENT_BYTES_PAUSE || unsent.terminals > limits::UNSENT_TERMINALS_PAUSE
    }

    /// Says GOAWAY without an error: calls that are open end, new ones are not taken. A client that was not welcomed
    /// yet is refused with `unavailable`.
    pub fn drain(&mut self, message: &str) {
        if self.role == Role::Daemon && !self.handshake.is_welcomed() {
            self.refuse(ErrorCode::Unavailable, message);
        } else if matches!(self.state, State::Opening | State::Open) {
            self.state = State::Draining;
            let notice = self.notice(message);
            self.send.control(FrameKind::GoAway, 0, 0, Some(&notice));
        }
    }

    /// Says GOAWAY with `code`, drops the messages that are queued for the peer, and reads no more.
    pub fn refuse(&mut self, code: ErrorCode, message: &str) {
        if self.state == State::Closed {
            return;
        }
        // Whoever has not sent a preface may not be a peer of this protocol at all.
        let can_explain = self.handshake.preface_is_in() && self.handshake.preface_is_out();
        if can_explain {
            // The answering preface may still wait, and the notice is of no use without it.
            self.send.clear_messages();
            self.stop();
            let notice = self.notice(message);
            self.send.control(FrameKind::GoAway, 0, code.as_u32(), Some(&notice));
        } else {
            self.close();
        }
    }

    /// True once nothing but output is left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// True when we said GOAWAY and no call is open any more: the socket may be closed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let calls_are_ended = self.inbound.is_empty() && self.outbound.is_empty();
        self.state == State::Draining && calls_are_ended && self.channels.is_empty()
    }

    /// The peer's instance number, once its preface has come.
    #[must_use]
    pub fn remote_instance(&self) -> Option<u64> {
        self.handshake.preface_is_in().then_some(self.remote.instance)
    }

    /// Features that both sides have.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.remote.features & self.settings.features
    }

    /// Holds the peer to the limits of messages and open calls in `settings` from now on, whatever it was told before; the
    /// rest of `settings` is not looked at. Calls that are open stay.
    pub fn hold_to(&mut self, settings: Settings) {
        self.settings.max_message = settings.max_message;
        self.settings.open_calls = settings.open_calls;
        self.settings.open_channels = settings.open_channels;
    }

    /// Sends a PING.
    ///
    /// # Errors
    /// [`MisuseError::NotOpen`] unless the connection is open.
    pub fn ping(&mut self, nonce: u32) -> Result<(), MisuseError> {
        if self.state != State::Open {
            return Err(MisuseError::NotOpen);
        }
        self.send.control::<Item>(FrameKind::Ping, 0, nonce, None);
        Ok(())
    }

    fn drain_input(&mut self, now: Instant) -> Result<(), PeerError> {
        if !self.handle_prefaces()? {
            return Ok(());
        }
        while self.state != State::Closed {
            let Some(frame) = self.decoder.next_frame()? else { break };
            self.timers.frame_arrived();
            self.handle_frame(now, frame)?;
        }
        Ok(())
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame<A>) -> Result<(), PeerError> {
        let header = frame.header;
        if is_ignorable(header.kind) {
            return Ok(());
        }
        let Some(kind) = header.known_kind() else {
            return Err(PeerError::Decode(DecodeError::UnknownKind(header.kind)));
        };
        match kind.stream_rule() {
            StreamRule::Zero if header.stream != 0 => return Err(PeerError::WrongStream(kind)),
            StreamRule::Opens | StreamRule::Open if header.stream == 0 => {
                return Err(PeerError::WrongStream(kind));
            }
            _ => {}
        }
        check_shape(kind, &frame)?;
        if !self.handshake.is_greeted() || matches!(kind, FrameKind::Hello | FrameKind::Welcome) {
            return self.handle_handshake_frame(kind, frame);
        }
        if !self.handshake.is_welcomed() {
            self.check_early(kind, &frame)?;
        }
        self.note_fds(frame.fds.len());
        let (payload, delivered) = (frame.payload.len(), self.delivered);
        self.count_payload(kind, payload)?;
        self.handle_open_frame(now, kind, frame)?;
        // What no event brings is dropped already.
        self.release(payload - (self.delivered - delivered));
        Ok(())
    }

    fn handle_open_frame(&mut self, now: Instant, kind: FrameKind, frame: Frame<A>) -> Result<(), PeerError> {
        let header = frame.header;
        match kind {
            FrameKind::Ping => {
                if self.timers.may_pong(now) {
                    self.send.control::<Item>(FrameKind::Pong, 0, header.arg, None);
                }
                Ok(())
            }
            FrameKind::Pong => {
                self.events.push_back(Event::Ponged { nonce: header.arg });
                Ok(())
            }
            FrameKind::GoAway => self.handle_goaway(&frame),
            FrameKind::Call => self.handle_call(frame),
            FrameKind::Data if header.has(flags::CONT) && header.arg == 0 => self.handle_continuation(frame),
            FrameKind::Result | FrameKind::Error => self.handle_terminal(kind, frame),
            FrameKind::Cancel => self.handle_cancel(header.stream),
            FrameKind::Release => self.handle_release(&frame),
            FrameKind::Segment => self.handle_segment(frame),
            FrameKind::Lanes => self.handle_lanes(&frame),
            FrameKind::Data if self.has_channels() => self.handle_item(frame),
            FrameKind::Stop if self.has_channels() => self.handle_stop((header.stream, header.arg)),
            FrameKind::Credit if self.has_channels() => self.handle_credit(&frame),
            FrameKind::Grant if self.is_provider() => {
                let grant = self.record(kind, &frame)?;
                self.events.push_back(Event::Granted(grant));
                Ok(())
            }
            FrameKind::Ungrant if self.is_provider() => {
                let ungrant = self.record(kind, &frame)?;
                self.events.push_back(Event::Ungranted(ungrant));
                Ok(())
            }
            _ => self.handle_unused(kind, &frame),
        }
    }

    /// Frames of features that this side does not offer. Their records are still held to their form, so that a
    /// malformed one gets the same answer whether or not the feature is in force.
    fn handle_unused(&mut self, kind: FrameKind, frame: &Frame<A>) -> Result<(), PeerError> {
        match kind {
            FrameKind::Data if frame.header.has(flags::CONT) => {}
            FrameKind::Data if frame.header.has(flags::END) => drop(self.record::<End>(kind, frame)?),
            FrameKind::Data => drop(self.record::<Item>(kind, frame)?),
            FrameKind::Credit => drop(self.record::<Credit>(kind, frame)?),
            FrameKind::Grant => drop(self.record::<Grant>(kind, frame)?),
            FrameKind::Ungrant => drop(self.record::<Ungrant>(kind, frame)?),
            _ => {}
        }
        if frame.header.stream != 0 && self.is_ended(frame.header.stream)? {
            return Ok(());
        }
        Err(PeerError::Feature)
    }

    fn handle_goaway(&mut self, frame: &Frame<A>) -> Result<(), PeerError> {
        let notice: GoAway = self.record(FrameKind::GoAway, frame)?;
        let code = match frame.header.arg {
            0 => None,
            code => Some(ErrorCode::from_u32(code).unwrap_or(ErrorCode::Unknown)),
        };
        let (last_taken, why) = (notice.last_stream, notice.message.clone());
        self.peer_is_away = true;
        self.events.push_back(Event::WentAway { code, notice });
        self.fail_above(last_taken, code.unwrap_or(ErrorCode::Unavailable), &why);
        Ok(())
    }

    /// The metadata of a frame; what only the daemon may write is taken from no client.
    fn record<R: coding::Record>(&self, kind: FrameKind, frame: &Frame<A>) -> Result<R, PeerError> {
        let record: R =
            coding::decode(&frame.metadata).map_err(|error| DecodeError::Record { kind, error })?;
        let forged = record.extensions().iter().map(|(tag, _)| tag).find(|tag| tags::from_daemon_only(*tag));
        match forged {
            Some(tag) if self.role == Role::Daemon => Err(PeerError::DaemonOnly(tag)),
            _ => Ok(record),
        }
    }

    /// For a frame that names an open stream which we don't have: true if it once was open, so the frame came late.
    fn is_ended(&self, stream: u64) -> Result<bool, PeerError> {
        if self.is_known(stream) {
            Ok(!self.inbound.contains_key(&stream) && !self.outbound.contains_key(&stream))
        } else {
            Err(PeerError::UnknownStream(stream))
        }
    }

    /// Whether a stream was opened, or skipped.
    fn is_known(&self, stream: u64) -> bool {
        if self.is_ours(stream) { stream < self.next_outbound } else { stream <= self.last_inbound }
    }

    fn is_ours(&self, stream: u64) -> bool {
        (stream % 2 == 1) == (self.role == Role::Client)
    }

    fn notice(&self, message: &str) -> GoAway {
        // GOAWAY must fit the smallest frame.
        let message = Text::from(calls::cut(message, limits::REFUSAL_REASON_MAX));
        // Nothing is run for a client that was not welcomed.
        let last_stream = if self.handshake.is_welcomed() { self.last_taken } else { 0 };
        GoAway { last_stream, message, ..GoAway::default() }
    }

    fn fail(&mut self, error: PeerError) {
        self.refuse(error.wire_code(), &error.to_string());
    }

    /// Drops everything queued, so that only what is queued from here on is still written.
    fn close(&mut self) {
        self.send.clear();
        self.stop();
    }

    /// Reads no more, and lets go of what was being read.
    fn stop(&mut self) {
        self.state = State::Closed;
        self.decoder.clear();
        self.inbound.clear();
        self.channels.clear();
        self.lanes.clear();
        self.timers.stop();
    }
}

/// Checks that a frame has metadata, payload and file descriptors only where its kind has a place for them.
fn check_shape<A>(kind: FrameKind, frame: &Frame<A>) -> Result<(), PeerError> {
    let header = &frame.header;
    let continues = kind == FrameKind::Data && header.has(flags::CONT);
    let ends = kind == FrameKind::Data && header.has(flags::END);
    let message = matches!(kind, FrameKind::Call | FrameKind::Data | FrameKind::Result | FrameKind::Error);
    let recordless =
        continues || matches!(kind, FrameKind::Ping | FrameKind::Pong | FrameKind::Cancel | FrameKind::Stop);
    if recordless && header.meta_len != 0 || (!message || ends) && !frame.payload.is_empty() {
        return Err(PeerError::BodyMismatch);
    }
    if continues && ends {
        return Err(PeerError::Unexpected(kind));
    }
    let carries = message && !continues && !ends || kind == FrameKind::Segment;
    if header.nfds > 0 && !carries {
        return Err(PeerError::Decode(DecodeError::FdsUnclaimed(usize::from(header.nfds))));
    }
    Ok(())
}

/// Output that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsent {
    /// Bytes of messages and frames.
    pub bytes: usize,
    /// RESULT and ERROR frames.
    pub terminals: usize,
}
