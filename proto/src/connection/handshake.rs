//! Prefaces, HELLO and WELCOME (SPEC.md, "Handshake").

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{Connection, Event, Role, Settings, State};
use crate::coding;
use crate::decoder::Frame;
use crate::error::{DecodeError, MisuseError, PeerError, RecordError};
use crate::metadata::{Hello, Welcome};
use crate::preface::{self, Preface};
use crate::registry::{
    ErrorCode, FrameKind, HEADER_LEN, LIMITS, PREFACE_LEN, WIRE_VERSION, features, limits,
};

/// The largest HELLO: what is left of the handshake's bytes after preface and header.
pub(super) const HELLO_MAX: u32 = preface::narrow(limits::HANDSHAKE_MAX - PREFACE_LEN - HEADER_LEN);

/// How far the handshake is.
#[derive(Debug)]
pub(super) struct Handshake {
    preface_in: bool,
    preface_out: bool,
    /// The other side's first frame has come: HELLO at the daemon, WELCOME at the client.
    greeted: bool,
    /// WELCOME is queued at the daemon, or has come to the client.
    welcomed: bool,
    /// The daemon refused; what is left of its reason.
    refusal: Option<Refusal>,
    early: Early,
}

/// What a client sent before WELCOME, as either side counts it.
#[derive(Debug, Default)]
struct Early {
    calls: usize,
    bytes: usize,
}

impl Early {
    /// Counts if there is room; false if there is none.
    fn count(&mut self, calls: usize, bytes: usize) -> bool {
        let (calls, bytes) = (self.calls + calls, self.bytes + bytes);
        let fits = calls <= limits::EARLY_CALLS && bytes <= limits::EARLY_BYTES;
        if fits {
            *self = Early { calls, bytes };
        }
        fits
    }
}

#[derive(Debug, Default)]
struct Refusal {
    bytes: BytesMut,
}

impl Handshake {
    pub(super) fn new() -> Self {
        Handshake {
            preface_in: false,
            preface_out: false,
            greeted: false,
            welcomed: false,
            refusal: None,
            early: Early::default(),
        }
    }

    pub(super) fn preface_is_in(&self) -> bool {
        self.preface_in
    }

    pub(super) fn preface_is_out(&self) -> bool {
        self.preface_out
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn is_welcomed(&self) -> bool {
        self.welcomed
    }

    /// True unless the peer stopped inside its preface or its refusal.
    pub(super) fn is_between(&self) -> bool {
        self.refusal.is_none()
    }
}

impl<A> Connection<A> {
    /// The connecting side. Its preface and HELLO are queued at once, and a few calls may follow before WELCOME.
    ///
    /// # Errors
    /// [`MisuseError::Record`] if `hello` is above its limits.
    pub fn client(settings: Settings, hello: &Hello, now: Instant) -> Result<Self, MisuseError> {
        let mut connection = Connection::new(Role::Client, settings, now);
        connection.queue_preface(WIRE_VERSION, WIRE_VERSION);
        let len = coding::encoded_len(hello);
        if len > HELLO_MAX as usize {
            return Err(MisuseError::MessageTooLarge { len: len as u64, max: u64::from(HELLO_MAX) });
        }
        coding::Record::validate(hello)?;
        connection.send.control(FrameKind::Hello, 0, 0, Some(hello));
        connection.decoder.set_max_frame(settings.max_frame);
        Ok(connection)
    }

    /// The accepting side.
    #[must_use]
    pub fn daemon(settings: Settings, now: Instant) -> Self {
        Connection::new(Role::Daemon, settings, now)
    }

    /// Takes the client that [`Event::Greeted`] announced.
    ///
    /// # Errors
    /// [`MisuseError::NotOpen`] unless a HELLO waits for its answer; [`MisuseError::Record`] if `welcome` is above its
    /// limits.
    pub fn welcome(&mut self, welcome: &Welcome) -> Result<(), MisuseError> {
        let waits = self.handshake.greeted && !self.handshake.welcomed;
        if self.role != Role::Daemon || self.state == State::Closed || !waits {
            return Err(MisuseError::NotOpen);
        }
        coding::Record::validate(welcome)?;
        if coding::encoded_len(welcome) > limits::MAX_METADATA {
            return Err(MisuseError::Record(RecordError::LimitExceeded));
        }
        self.handshake.welcomed = true;
        self.send.control(FrameKind::Welcome, 0, 0, Some(welcome));
        Ok(())
    }

    /// Reads what comes before the first frame; false if it is not all here.
    pub(super) fn handle_prefaces(&mut self) -> Result<bool, PeerError> {
        if self.handshake.refusal.is_some() {
            self.read_refusal();
            return Ok(false);
        }
        if self.handshake.preface_in {
            return Ok(true);
        }
        if self.decoder.queued_fds() > 0 {
            return Err(PeerError::Decode(DecodeError::FdsUnclaimed(self.decoder.queued_fds())));
        }
        let (kept, input) = self.decoder.peek();
        let mut seen = [0; PREFACE_LEN];
        let mut len = 0;
        for (slot, byte) in seen.iter_mut().zip(kept.iter().chain(input)) {
            *slot = *byte;
            len += 1;
        }
        Preface::check_magic(&seen[..len])?;
        let Some(bytes) = self.decoder.take_exact::<PREFACE_LEN>() else {
            return Ok(false);
        };
        let preface = Preface::decode(&bytes)?;
        self.handshake.preface_in = true;
        match self.role {
            Role::Daemon => self.answer_preface(&preface)?,
            Role::Client => return self.read_answer(&preface),
        }
        Ok(true)
    }

    fn answer_preface(&mut self, preface: &Preface) -> Result<(), PeerError> {
        match preface.choose() {
            Ok(version) => {
                self.remote.max_frame = preface.usable_max_frame().inspect_err(|_| {
                    self.queue_preface(version, version);
                })?;
                self.take_preface(preface);
                self.queue_preface(version, version);
                Ok(())
            }
            Err(error) => {
                let mut bytes = BytesMut::new();
                self.preface(0, 0).encode(&mut bytes);
                let reason = format!("{error}; this daemon has {WIRE_VERSION}");
                preface::encode_refusal(error.wire_code(), &reason, &mut bytes);
                // Not through `fail`: a peer of another version can not read our GOAWAY.
                self.close();
                self.send.raw(bytes.freeze());
                Err(error)
            }
        }
    }

    fn read_answer(&mut self, preface: &Preface) -> Result<bool, PeerError> {
        if preface.version_min == 0 && preface.version_max == 0 {
            self.handshake.refusal = Some(Refusal::default());
            self.read_refusal();
            return Ok(false);
        }
        if preface.version_min != WIRE_VERSION || preface.version_max != WIRE_VERSION {
            return Err(PeerError::BadPreface);
        }
        self.remote.max_frame = preface.usable_max_frame()?;
        self.take_preface(preface);
        Ok(true)
    }

    fn take_preface(&mut self, preface: &Preface) {
        self.remote.features = preface.features;
        self.remote.instance = preface.instance;
        self.begin_credit();
        if self.features() & features::ATTACHED_FDS != 0 {
            self.decoder.set_max_fds(limits::MAX_FDS_PER_FRAME);
        }
    }

    /// Collects the reason of a refusal; once it is whole, or badly formed, the connection is closed.
    fn read_refusal(&mut self) {
        let Some(refusal) = &mut self.handshake.refusal else { return };
        while let Some([byte]) = self.decoder.take_exact::<1>() {
            refusal.bytes.extend_from_slice(&[byte]);
            let code = refusal.bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
            let Some(len) = refusal.bytes.get(4..8).and_then(|b| b.first_chunk::<4>()) else { continue };
            let len = u32::from_le_bytes(*len) as usize;
            let whole = refusal.bytes.len() == 8 + len;
            if !whole && len <= limits::REFUSAL_REASON_MAX {
                continue;
            }
            let code = code.and_then(ErrorCode::from_u32).unwrap_or(ErrorCode::Unknown);
            let reason = String::from_utf8_lossy(&refusal.bytes[8..]).into_owned();
            self.events.push_back(Event::Refused { code, reason });
            self.handshake.refusal = None;
            self.close();
            return;
        }
    }

    pub(super) fn handle_handshake_frame(
        &mut self,
        kind: FrameKind,
        frame: Frame<A>,
    ) -> Result<(), PeerError> {
        match (self.role, kind) {
            (Role::Daemon, FrameKind::Hello) if !self.handshake.greeted => {
                let hello: Hello = self.record(kind, &frame)?;
                self.opened();
                self.decoder.set_max_frame(self.settings.max_frame);
                self.events.push_back(Event::Greeted(hello));
                Ok(())
            }
            (Role::Client, FrameKind::Welcome) if !self.handshake.welcomed => {
                let welcome: Welcome = self.record(kind, &frame)?;
                self.handshake.welcomed = true;
                for &(id, value) in &welcome.limits {
                    self.take_limit(id, value);
                }
                self.opened();
                self.events.push_back(Event::Welcomed(welcome));
                Ok(())
            }
            (Role::Client, FrameKind::GoAway) => self.handle_goaway(&frame),
            _ => Err(PeerError::Unexpected(kind)),
        }
    }

    /// Whether what a client sends now, it sends before WELCOME.
    pub(super) fn is_early(&self) -> bool {
        self.role == Role::Client && !self.handshake.welcomed
    }

    /// Counts an early call against what may be sent before WELCOME.
    pub(super) fn admit_early(&mut self, bytes: usize) -> Result<(), MisuseError> {
        if self.handshake.early.count(1, bytes) { Ok(()) } else { Err(MisuseError::TooEarly) }
    }

    /// Holds what a client sends before we queued WELCOME to what it may: a few small calls and their withdrawal.
    pub(super) fn check_early(&mut self, kind: FrameKind, frame: &Frame<A>) -> Result<(), PeerError> {
        let calls = match kind {
            FrameKind::Call => 1,
            FrameKind::Data => 0,
            FrameKind::Cancel | FrameKind::GoAway => return Ok(()),
            _ => return Err(PeerError::Unexpected(kind)),
        };
        let bytes = HEADER_LEN + frame.metadata.len() + frame.payload.len();
        if self.handshake.early.count(calls, bytes) { Ok(()) } else { Err(PeerError::Unexpected(kind)) }
    }

    fn opened(&mut self) {
        self.handshake.greeted = true;
        if self.state == State::Opening {
            self.state = State::Open;
        }
        self.timers.handshake_ended();
    }

    /// Limits that the daemon announced narrow ours; they never widen them.
    fn take_limit(&mut self, id: u16, value: u64) {
        let announced = LIMITS.iter().find(|limit| limit.id == Some(id));
        match announced.map(|limit| limit.name) {
            Some("max_message") => self.remote.max_message = self.remote.max_message.min(value),
            Some("open_calls") => {
                let value = usize::try_from(value).unwrap_or(usize::MAX);
                self.remote.open_calls = self.remote.open_calls.min(value);
            }
            Some("open_channels") => {
                let value = usize::try_from(value).unwrap_or(usize::MAX);
                self.remote.open_channels = self.remote.open_channels.min(value);
            }
            // These are no limits of ours: both sides count from the same number.
            Some("channel_window") => self.remote.channel_window = value,
            Some("connection_window") => self.take_connection_window(value),
            _ => {}
        }
    }

    fn queue_preface(&mut self, version_min: u16, version_max: u16) {
        let mut bytes = BytesMut::with_capacity(PREFACE_LEN);
        self.preface(version_min, version_max).encode(&mut bytes);
        self.send.raw(Bytes::from(bytes));
        self.handshake.preface_out = true;
    }

    fn preface(&self, version_min: u16, version_max: u16) -> Preface {
        Preface {
            version_min,
            version_max,
            max_frame: self.settings.max_frame,
            features: self.settings.features,
            instance: self.settings.instance,
        }
    }
}
