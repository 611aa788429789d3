//! What a monitor is told of calls: one record a call, once its answer is written. Bodies are in it only
//! while a monitor asks for them.
//!
//! While nobody monitors, a call carries an empty `Option` and nothing is noted of it.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use invoked_proto::Text;
use invoked_proto::body::Message;
use invoked_proto::registry::{ErrorCode, Lane};

use super::excerpts::Bodies;
use super::output::{Observed, Output, Place};
use super::{Broker, PeerState};
use crate::ipc::{Peer, PeerId};

/// A call that ended at its caller, or was refused.
#[derive(Debug, Clone)]
pub(crate) struct CallRecord {
    /// The caller.
    pub(crate) peer: Arc<Peer>,
    /// Its stream.
    pub(crate) stream: u64,
    /// What it called.
    pub(crate) command: Text,
    /// How it ended; `None` for a result.
    pub(crate) code: Option<ErrorCode>,
    /// Bytes of its message, as announced.
    pub(crate) bytes_in: u64,
    /// Bytes of the answer.
    pub(crate) bytes_out: u64,
    /// Where its answer lies.
    pub(crate) lane: Lane,
    /// Where its handler ran; `None` if none did.
    pub(crate) place: Option<Place>,
    /// From its first byte to its last.
    pub(crate) receive: Duration,
    /// From there until its handler began.
    pub(crate) queue: Duration,
    /// From there to its end.
    pub(crate) handler: Duration,
    /// When that was.
    pub(crate) ended: Instant,
    /// From there until the socket had taken all of the answer; `None` while it has not, and if the caller left before.
    pub(crate) transfer: Option<Duration>,
    /// Its bodies, as far as they are shown.
    pub(crate) bodies: Bodies,
}

impl CallRecord {
    /// The answer is written.
    pub(crate) fn written(&mut self, now: Instant) {
        self.transfer = Some(now.saturating_duration_since(self.ended));
    }
}

/// When a handler ran, as whoever runs it says.
#[derive(Debug, Default)]
pub(crate) struct Timing {
    began: OnceLock<Instant>,
    ended: OnceLock<Instant>,
}

impl Timing {
    /// The handler begins.
    pub(crate) fn begin(&self, now: Instant) {
        self.began.get_or_init(|| now);
    }

    /// It has ended. Said where the end comes to the broker with the time of the beginning.
    pub(crate) fn end(&self, now: Instant) {
        self.ended.get_or_init(|| now);
    }
}

/// What is noted of a call that is under way.
#[derive(Debug)]
pub(super) struct Noted {
    peer: Arc<Peer>,
    stream: u64,
    command: Text,
    bytes_in: u64,
    started: Instant,
    /// When the message was whole, and where the handler was to run.
    dispatched: Option<(Instant, Place)>,
    timing: Arc<Timing>,
    bodies: Bodies,
}

impl Broker {
    /// So many monitor from now on, and of them this peer wants bodies, for whose memory it is charged. While nobody monitors,
    /// nothing of a call is recorded, and while nobody wants bodies, nothing of them.
    pub(crate) fn monitor(&mut self, monitors: usize, bodies: Option<PeerId>) {
        self.stats.monitors = monitors;
        self.bodies = bodies.and_then(|peer| self.peers.get(&peer)).map(|peer| Rc::clone(&peer.account));
    }

    /// What is to be noted of a call that comes now; `None` while nobody monitors.
    pub(super) fn note_call(
        &mut self,
        now: Instant,
        (peer, stream): (PeerId, u64),
        flags: u16,
        command: &Text,
        bytes_in: u64,
    ) -> Option<Box<Noted>> {
        if self.stats.monitors == 0 {
            return None;
        }
        let PeerState { peer, .. } = self.peers.get(&peer)?;
        self.stats.calls_recorded += 1;
        Some(Box::new(Noted {
            peer: Arc::clone(peer),
            stream,
            command: command.detach(),
            bytes_in,
            started: now,
            dispatched: None,
            timing: Arc::default(),
            bodies: Bodies::begin(self.bodies.as_ref(), stream, flags),
        }))
    }

    /// A call ended.
    pub(super) fn tell_monitor(
        &mut self,
        now: Instant,
        noted: Option<Box<Noted>>,
        code: Option<ErrorCode>,
        bytes_out: u64,
    ) {
        if let Some(noted) = noted {
            let record = noted.record(now, code, bytes_out);
            self.outputs.push_back(Output::Observed(Observed::Called(Box::new(record))));
        }
    }
}

impl Noted {
    /// The message is whole, and goes to its handler, which is to say when it runs.
    pub(super) fn dispatch(&mut self, now: Instant, place: Place, message: &Message) -> Arc<Timing> {
        self.bodies.keep_request(message);
        self.dispatched = Some((now, place));
        Arc::clone(&self.timing)
    }

    /// Its handler has ended, and this is the answer.
    pub(super) fn answer(&mut self, message: &Message) {
        self.bodies.keep_reply(message);
    }

    fn record(self, now: Instant, code: Option<ErrorCode>, bytes_out: u64) -> CallRecord {
        let Noted { peer, stream, command, bytes_in, started, dispatched, timing, bodies } = self;
        let (whole, place) = match dispatched {
            Some((at, place)) => (at, Some(place)),
            None => (now, None),
        };
        let ended = timing.ended.get().copied().unwrap_or(now).max(whole);
        // One that was given up before it ran has spent all its time in the queue.
        let began = timing.began.get().copied().unwrap_or(ended).clamp(whole, ended);
        CallRecord {
            peer,
            stream,
            command,
            code,
            bytes_in,
            bytes_out,
            lane: Lane::Inline,
            place,
            receive: whole.saturating_duration_since(started),
            queue: began.saturating_duration_since(whole),
            handler: ended.saturating_duration_since(began),
            ended,
            transfer: None,
            bodies,
        }
    }
}
