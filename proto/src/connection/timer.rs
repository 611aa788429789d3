//! The clocks of one connection: handshake, stalled frame, pings. They never read the time.

use std::time::{Duration, Instant};

use super::{Connection, Settings};
use crate::error::PeerError;
use crate::registry::limits;

#[derive(Debug)]
pub(super) struct Timers {
    handshake: Option<Instant>,
    /// When the frame that is partly here is given up.
    frame: Option<Instant>,
    frame_timeout: Duration,
    pings: Pings,
}

/// A bucket of PINGs that are answered, refilled once a second.
#[derive(Debug)]
struct Pings {
    since: Instant,
    answered: usize,
}

impl Timers {
    pub(super) fn new(now: Instant, settings: &Settings) -> Self {
        Timers {
            handshake: Some(now + Duration::from_millis(settings.handshake_timeout_ms)),
            frame: None,
            frame_timeout: Duration::from_millis(settings.frame_timeout_ms),
            pings: Pings { since: now, answered: 0 },
        }
    }

    pub(super) fn handshake_ended(&mut self) {
        self.handshake = None;
    }

    pub(super) fn stop(&mut self) {
        self.handshake = None;
        self.frame = None;
    }

    /// Progress is a whole frame: a byte now and then does not keep a frame alive, so the clock of a partial frame
    /// starts when it begins and is not moved by its bytes.
    pub(super) fn input_arrived(&mut self, now: Instant, between_frames: bool) {
        if between_frames {
            self.frame = None;
        } else if self.frame.is_none() {
            self.frame = Some(now + self.frame_timeout);
        }
    }

    /// A whole frame came: what is partly here now began just now.
    pub(super) fn frame_arrived(&mut self) {
        self.frame = None;
    }

    /// The frame that is partly here gets its whole time anew.
    pub(super) fn put_off_frame(&mut self, now: Instant) {
        self.frame = Some(now + self.frame_timeout);
    }

    pub(super) fn may_pong(&mut self, now: Instant) -> bool {
        if now.duration_since(self.pings.since) >= Duration::from_secs(1) {
            self.pings = Pings { since: now, answered: 0 };
        }
        self.pings.answered += 1;
        self.pings.answered <= limits::MAX_PINGS_PER_SECOND
    }
}

impl<A> Connection<A> {
    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, if nothing comes before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.timers.handshake, self.timers.frame) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Tells the connection the time.
    ///
    /// # Errors
    /// [`PeerError::HandshakeTimeout`] or [`PeerError::FrameTimeout`]; GOAWAY is queued as for bad input.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let error = if passed(self.timers.handshake) {
            PeerError::HandshakeTimeout
        } else if passed(self.timers.frame) && self.pauses_reading() {
            // It is us who do not read: the peer can not go on with its frame.
            self.timers.put_off_frame(now);
            return Ok(());
        } else if passed(self.timers.frame) {
            PeerError::FrameTimeout
        } else {
            return Ok(());
        };
        self.fail(error);
        Err(error)
    }
}
