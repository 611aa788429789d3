//! The client without I/O: the table of open calls on top of the protocol's connection.
//!
//! Bytes in, outcomes out; time is an argument. Both clients share it and add the waiting: the blocking one with threads,
//! the async one with tasks. It opens no socket, reads no clock and wakes nobody itself; whom to wake it says with
//! [`Core::poll_woken`].
//!
//! Each call ends exactly once: by its answer, by [`Core::cancel`], or by the loss of the connection.

mod inbox;
mod lanes;
mod outlet;
mod sending;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use invoked_proto::Text;
use invoked_proto::body::{Assembly, inline_len};
use invoked_proto::connection::{Connection, Event, More, Request, Settings, Transmit, Withdrawal};
use invoked_proto::error::{MisuseError, PeerError};
use invoked_proto::metadata::{Failure, Hello, Part, Reply as ReplyRecord, Welcome};
use invoked_proto::registry::{Delivery, ErrorCode, LIMITS};
use thiserror::Error;

pub(crate) use inbox::{ChannelKey, Next};
use inbox::{Declared, Inbox};
pub(crate) use lanes::{Files, Memory};
use lanes::{Segments, file_of};
use outlet::Outlet;
use sending::Sending;

use crate::error::Error;
use crate::file::{FileBody, OpenFile};
use crate::outgoing::Outgoing;
use crate::reply::Reply;

/// How a call ended.
pub(crate) type Outcome = Result<Reply, Error>;

/// The stream id of an open call.
pub(crate) type StreamId = u64;

/// Why there is no connection any more, or none for new calls.
#[derive(Debug, Clone, Error)]
pub(crate) enum Loss {
    #[error("the daemon closed the connection")]
    Closed,
    #[error("the daemon takes no more calls{}", said(.0))]
    Draining(String),
    #[error("the daemon ended the connection with {code}{}", said(.message))]
    Dismissed { code: ErrorCode, message: String },
    #[error("the daemon refused the connection with {code}{}", said(.reason))]
    Refused { code: ErrorCode, reason: String },
    #[error("the daemon did not finish the handshake in time")]
    HandshakeTimeout,
    #[error("the daemon broke the protocol")]
    Protocol(#[source] PeerError),
    #[error("the connection broke")]
    Io(#[source] Arc<io::Error>),
    #[cfg(feature = "tokio")]
    #[error("the runtime that served this connection has ended")]
    RuntimeEnded,
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl Loss {
    /// The code that the daemon gave.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Loss::Dismissed { code, .. } | Loss::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn cause(&self) -> Option<Arc<dyn StdError + Send + Sync>> {
        match self {
            Loss::Protocol(error) => Some(Arc::new(*error)),
            Loss::Io(error) => Some(Arc::clone(error) as _),
            _ => None,
        }
    }
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Self {
        Loss::Io(Arc::new(error))
    }
}

impl From<PeerError> for Loss {
    fn from(error: PeerError) -> Self {
        if error == PeerError::HandshakeTimeout { Loss::HandshakeTimeout } else { Loss::Protocol(error) }
    }
}

/// One connection and its open calls. `A` is a file descriptor, `W` whoever waits for a call.
#[derive(Debug)]
pub(crate) struct Core<A, W> {
    connection: Connection<A>,
    /// On its way to the socket.
    transmit: Transmit<A>,
    calls: HashMap<StreamId, Pending<W>>,
    inboxes: HashMap<ChannelKey, Inbox<W>>,
    outlets: HashMap<ChannelKey, Outlet<W>>,
    segments: Segments,
    files: Files<A>,
    sending: Sending<W>,
    /// Calls opened since the socket last took a byte: no byte of them can have reached the daemon.
    untouched: Vec<StreamId>,
    woken: VecDeque<W>,
    welcome: Option<Welcome>,
    /// The daemon takes no new calls.
    goodbye: Option<Loss>,
    /// The socket takes no more bytes; what it still has to give is read before the connection counts as lost.
    broken: Option<Loss>,
    loss: Option<Loss>,
    /// Calls that may be open at once.
    slots: usize,
    /// No open call has a deadline before this.
    earliest: Option<Instant>,
    /// The largest result taken, in bytes.
    max_message: u64,
}

#[derive(Debug)]
struct Pending<W> {
    waiter: Option<W>,
    progress: Progress,
    /// When it ends if nothing else has ended it.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum Progress {
    Waiting,
    /// The terminal frame is here, and not all of its message.
    Assembling(Answer, Assembly),
    Ended(Outcome),
}

/// A terminal frame's record.
#[derive(Debug)]
enum Answer {
    Result(ReplyRecord, Option<OpenFile>),
    Error(ErrorCode, Failure),
}

impl Progress {
    /// What became of a call that was answered, if it was.
    fn delivery(&self) -> Option<Delivery> {
        match self {
            Progress::Ended(Err(error)) => Some(error.delivery()),
            Progress::Ended(Ok(_)) | Progress::Assembling(Answer::Result(..), _) => Some(Delivery::Completed),
            Progress::Waiting | Progress::Assembling(Answer::Error(..), _) => None,
        }
    }
}

impl<A, W> Core<A, W> {
    /// Begins the handshake. `files` is how file descriptors are used, `outgoing` the memory to send with.
    ///
    /// # Errors
    /// If `hello` is above its limits.
    pub(crate) fn new(
        settings: Settings,
        hello: &Hello,
        now: Instant,
        files: Files<A>,
        outgoing: Outgoing,
    ) -> Result<Self, Error> {
        let connection = Connection::client(settings, hello, now).map_err(Error::misuse)?;
        Ok(Core {
            connection,
            transmit: Transmit::default(),
            calls: HashMap::new(),
            outlets: HashMap::default(),
            inboxes: HashMap::new(),
            segments: Segments::new(),
            files,
            sending: Sending::new(outgoing, now),
            untouched: Vec::new(),
            woken: VecDeque::new(),
            welcome: None,
            goodbye: None,
            broken: None,
            loss: None,
            slots: settings.open_calls,
            earliest: None,
            max_message: settings.max_message,
        })
    }

    /// The daemon's answer to the handshake, with its instance number; `None` if it is not here yet.
    pub(crate) fn poll_welcome(&self) -> Option<Result<(u64, Welcome), Error>> {
        match (&self.loss, &self.welcome) {
            (Some(loss), _) => Some(Err(Error::turned_away(loss))),
            (None, Some(welcome)) => {
                let instance = self.connection.remote_instance().unwrap_or_default();
                Some(Ok((instance, welcome.clone())))
            }
            (None, None) => None,
        }
    }

    /// Why no new call can be made, if none can.
    pub(crate) fn closed(&self) -> Option<&Loss> {
        self.loss.as_ref().or(self.broken.as_ref()).or(self.goodbye.as_ref())
    }

    /// True once the socket is of no use any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.loss.is_some()
    }

    /// How many calls may be opened now. A call that was cancelled holds its slot until the daemon has ended it.
    pub(crate) fn room(&self) -> usize {
        self.slots.saturating_sub(self.connection.open_outbound())
    }

    /// Calls that hold a slot.
    #[cfg(feature = "tokio")]
    pub(crate) fn open_calls(&self) -> usize {
        self.connection.open_outbound()
    }

    /// True if a new call has to wait until another ends. A daemon that allows none at all is told by
    /// [`call`](Self::call).
    pub(crate) fn must_wait(&self) -> bool {
        self.closed().is_none() && self.room() == 0 && self.connection.open_outbound() > 0
    }

    /// Opens a call; its outcome will be [`take`](Self::take)n.
    ///
    /// # Errors
    /// What is wrong with the call, or with the connection; nothing was sent then.
    pub(crate) fn call(&mut self, request: Request, file: Option<FileBody>) -> Result<StreamId, Error> {
        if let Some(loss) = self.closed() {
            return Err(Error::lost(loss, Delivery::NotDelivered));
        }
        let declared =
            Declared { channels: request.channels.clone(), extensions: request.extensions.clone() };
        let mut placement = self.place(&request.message);
        if let Some(file) = file {
            self.place_file(&mut placement, &file)?;
        }
        let sent_files = usize::from(placement.has_file());
        let stream = self.connection.call_placed(request, placement).map_err(|error| match error {
            MisuseError::NotOpen | MisuseError::Exhausted => {
                Error::lost(&Loss::Draining(error.to_string()), Delivery::NotDelivered)
            }
            error => Error::misuse(error),
        })?;
        self.note_files(sent_files);
        self.untouched.push(stream);
        self.calls.insert(stream, Pending { waiter: None, progress: Progress::Waiting, deadline: None });
        self.open_inboxes(stream, &declared);
        self.open_outlets(stream, &declared.channels);
        Ok(stream)
    }

    /// Ends a call at `deadline`, for a caller that waits without a clock of its own; [`poll_timeout`](Self::poll_timeout) says
    /// when to look. That costs a small call nothing: while the calls before it have earlier deadlines, nothing changes.
    #[cfg(feature = "tokio")]
    pub(crate) fn end_at(&mut self, stream: StreamId, deadline: Instant) {
        if let Some(pending) = self.calls.get_mut(&stream) {
            pending.deadline = Some(deadline);
            self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        }
    }

    /// Ends the calls whose deadline has passed.
    fn end_late(&mut self, now: Instant) {
        let open = |pending: &Pending<W>| !matches!(pending.progress, Progress::Ended(_));
        let late = |pending: &Pending<W>| pending.deadline.is_some_and(|deadline| deadline <= now);
        let all = self.calls.iter().filter(|(_, pending)| open(pending) && late(pending));
        for (stream, answered) in
            all.map(|(stream, pending)| (*stream, pending.progress.delivery())).collect::<Vec<_>>()
        {
            let delivery = answered.unwrap_or_else(|| self.withdraw(stream));
            self.end(stream, Err(Error::deadline(delivery)));
        }
        let left = self.calls.values().filter(|pending| open(pending));
        self.earliest = left.filter_map(|pending| pending.deadline).min();
    }

    /// Takes the outcome of a call; `None` while it is open. `waiter` is woken when that changes.
    pub(crate) fn take(&mut self, stream: StreamId, waiter: impl FnOnce() -> W) -> Option<Outcome> {
        let pending = self.calls.get_mut(&stream)?;
        if !matches!(pending.progress, Progress::Ended(_)) {
            pending.waiter = Some(waiter());
            return None;
        }
        match self.calls.remove(&stream)?.progress {
            Progress::Ended(outcome) => Some(outcome),
            Progress::Waiting | Progress::Assembling(..) => None,
        }
    }

    /// Withdraws a call whose caller does not wait any longer, and says what may have become of it.
    pub(crate) fn cancel(&mut self, stream: StreamId) -> Delivery {
        let answered = self.calls.remove(&stream).and_then(|pending| pending.progress.delivery());
        answered.unwrap_or_else(|| self.withdraw(stream))
    }

    /// Takes a call back that was not answered, and says what may have become of it.
    fn withdraw(&mut self, stream: StreamId) -> Delivery {
        match self.connection.cancel(stream) {
            Withdrawal::NeverSent => {
                let cancelled = || Error::channel_ended(ErrorCode::Cancelled, "");
                self.end_inboxes(Some(stream), cancelled);
                self.stop_outlets(Some(stream), cancelled);
                Delivery::NotDelivered
            }
            Withdrawal::Asked | Withdrawal::TooLate => Delivery::Delivered,
        }
    }

    /// Asks the daemon to cancel a call whose caller goes on waiting for its end; where it has ended, to stop the channels that
    /// it left open.
    pub(crate) fn ask_to_cancel(&mut self, stream: StreamId) {
        if self.connection.cancel(stream) == Withdrawal::NeverSent {
            let cancelled = || Error::channel_ended(ErrorCode::Cancelled, "");
            self.end_inboxes(Some(stream), cancelled);
            self.stop_outlets(Some(stream), cancelled);
            self.end(stream, Err(cancelled().with_delivery(Delivery::NotDelivered)));
        }
    }

    /// Takes what one read brought; `capacity` is that of the buffer which `data` is part of. An empty read is the end of
    /// the stream.
    pub(crate) fn handle_input(
        &mut self,
        now: Instant,
        data: Bytes,
        fds: impl IntoIterator<Item = A>,
        capacity: usize,
    ) {
        if data.is_empty() {
            return self.handle_eof();
        }
        let result = self.connection.handle_input(now, data, fds);
        while let Some(event) = self.connection.poll_event() {
            // Whatever it brought is read into a buffer that was promised.
            self.connection.release(event.payload_len());
            if let Err(error) = self.handle_event(event, capacity) {
                return self.refuse(error);
            }
        }
        self.settle_lanes(now);
        match result {
            Err(error) => self.lose(error.into()),
            Ok(()) if self.connection.is_closed() => self.lose(Loss::Closed),
            Ok(()) => {}
        }
    }

    /// A read failed: nothing more will come.
    pub(crate) fn handle_read_error(&mut self, error: io::Error) {
        let loss = self.broken.take().unwrap_or_else(|| error.into());
        self.lose(loss);
    }

    /// A write failed. The daemon may have said why, and answered calls, before it went: that is still to be read.
    pub(crate) fn handle_write_error(&mut self, error: io::Error) {
        self.transmit.clear();
        self.broken.get_or_insert(error.into());
    }

    /// True if a write failed and the rest of the input is to be read without waiting for more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some() && self.loss.is_none()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.connection.poll_timeout(), self.earliest].into_iter().flatten().min()
    }

    /// Tells the time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.connection.handle_timeout(now) {
            self.lose(error.into());
        }
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.end_late(now);
        }
    }

    /// What to write next; `None` if there is nothing, or nobody to write to. It may wake who waits to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<&Transmit<A>> {
        if self.broken.is_some() {
            return None;
        }
        if self.transmit.is_empty() {
            self.return_leases();
            self.say_lanes();
            if self.loss.is_some() || !self.connection.poll_transmit(&mut self.transmit) {
                return None;
            }
            // Writing makes room on channels, and nothing else is told then.
            while let Some(event) = self.connection.poll_event() {
                if let Event::ChannelCredited { stream, channel } = event {
                    self.wake_outlet((stream, channel));
                }
            }
        }
        Some(&self.transmit)
    }

    /// True if the socket did not take everything.
    pub(crate) fn has_output(&self) -> bool {
        let unsent = || !self.transmit.is_empty() || self.connection.has_transmit();
        self.broken.is_none() && self.loss.is_none() && unsent()
    }

    /// Bytes that the socket has not taken yet.
    #[cfg(feature = "tokio")]
    pub(crate) fn unsent(&self) -> usize {
        self.transmit.len() + self.connection.unsent().bytes
    }

    /// Notes that the socket took `len` bytes of [`poll_transmit`](Self::poll_transmit).
    pub(crate) fn handle_written(&mut self, len: usize) {
        if len > 0 {
            self.untouched.clear();
        }
        self.transmit.advance(len);
    }

    /// The next one to wake: a call that it waits for has ended.
    pub(crate) fn poll_woken(&mut self) -> Option<W> {
        self.woken.pop_front()
    }

    /// Gives up the connection and ends every open call.
    pub(crate) fn lose(&mut self, loss: Loss) {
        if self.loss.is_some() {
            return;
        }
        // What the daemon said before it went tells more than that it went.
        let loss = match (loss, self.goodbye.take()) {
            (Loss::Closed | Loss::Io(_), Some(goodbye)) => goodbye,
            (loss, _) => loss,
        };
        if self.transmit.is_empty() && self.broken.is_none() && self.connection.is_closed() {
            // Our own GOAWAY, if the daemon broke the protocol: written if the socket takes it, else not. An open
            // connection would hand out calls here, and count them as sent.
            self.connection.poll_transmit(&mut self.transmit);
        }
        for (stream, verdict) in self.connection.abandon() {
            let untouched = self.untouched.contains(&stream);
            let verdict = if untouched { Delivery::NotDelivered } else { verdict };
            self.end_lost(stream, &loss, verdict);
        }
        let open = |(stream, pending): (&StreamId, &Pending<W>)| {
            (!matches!(pending.progress, Progress::Ended(_))).then_some(*stream)
        };
        for stream in self.calls.iter().filter_map(open).collect::<Vec<_>>() {
            self.end_lost(stream, &loss, Delivery::Delivered);
        }
        self.untouched.clear();
        self.stop_asking();
        self.end_inboxes(None, || Error::lost(&loss, Delivery::Delivered));
        self.stop_outlets(None, || Error::lost(&loss, Delivery::Delivered));
        self.loss = Some(loss);
    }

    fn end_lost(&mut self, stream: StreamId, loss: &Loss, verdict: Delivery) {
        let delivery = match self.calls.get(&stream).map(|pending| &pending.progress) {
            // Its end was already on the way.
            Some(Progress::Assembling(Answer::Result(..), _)) => Delivery::Completed,
            Some(Progress::Assembling(Answer::Error(_, failure), _)) => failure.delivery,
            _ => verdict,
        };
        self.end(stream, Err(Error::lost(loss, delivery)));
    }

    fn handle_eof(&mut self) {
        let loss = match self.connection.handle_eof() {
            Ok(()) => Loss::Closed,
            Err(error) => error.into(),
        };
        self.lose(loss);
    }

    /// The daemon broke a rule that the connection could not see.
    fn refuse(&mut self, error: PeerError) {
        self.connection.refuse(error.wire_code(), &error.to_string());
        self.lose(error.into());
    }

    fn handle_event(&mut self, event: Event<A>, capacity: usize) -> Result<(), PeerError> {
        match event {
            Event::Welcomed(welcome) => {
                self.take_limits(&welcome);
                self.welcome = Some(welcome);
            }
            Event::Refused { code, reason } => self.lose(Loss::Refused { code, reason }),
            Event::Replied { stream, reply, payload, more, fds } => {
                let parts = reply.parts.clone();
                let file = file_of(&self.files, &parts, fds)?;
                return self.begin(stream, Answer::Result(reply, file), parts, payload, more, capacity);
            }
            Event::Failed { stream, code, failure, payload, more, .. } => {
                let parts = failure.parts.clone();
                return self.begin(stream, Answer::Error(code, failure), parts, payload, more, capacity);
            }
            Event::Continued { stream, payload, more } => return self.go_on(stream, &payload, more),
            Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                let key = (stream, channel);
                return self.begin_item(key, item, payload, more, credit, capacity);
            }
            Event::ItemContinued { stream, channel, payload, more, credit } => {
                return self.go_on_with_item((stream, channel), &payload, more, credit);
            }
            Event::ChannelEnded { stream, channel, code, message, lagged } => {
                let end = code.map_or(Ok(()), |code| Err(Error::channel_ended(code, &message)));
                self.end_inbox((stream, channel), end, lagged);
            }
            Event::ChannelStopped { stream, channel } => {
                self.stop_outlet((stream, channel), Error::channel_closed());
            }
            Event::ChannelCredited { stream, channel } => self.wake_outlet((stream, channel)),
            Event::SegmentCame { segment, file } => return self.add_segment(&segment, file),
            Event::SegmentGone { segment, generation } => self.forget_segment(segment, generation),
            Event::LanesTold(lanes) => self.hear_lanes(lanes),
            Event::WentAway { code, notice } => {
                let message = notice.message.to_string();
                let goodbye = match code {
                    Some(code) => Loss::Dismissed { code, message },
                    None => Loss::Draining(message),
                };
                self.say_goodbye(notice.last_stream, goodbye);
            }
            // The rest concerns the accepting side, or what this client does not ask for.
            _ => {}
        }
        Ok(())
    }

    fn take_limits(&mut self, welcome: &Welcome) {
        let id = LIMITS.iter().find(|limit| limit.name == "open_calls").and_then(|limit| limit.id);
        for (_, value) in welcome.limits.iter().filter(|(announced, _)| Some(*announced) == id) {
            self.slots = self.slots.min(usize::try_from(*value).unwrap_or(usize::MAX));
        }
    }

    /// No stream above `last` was or will be taken; the others go on.
    fn say_goodbye(&mut self, last: StreamId, goodbye: Loss) {
        for stream in self.calls.keys().copied().filter(|stream| *stream > last).collect::<Vec<_>>() {
            let waits =
                self.calls.get(&stream).is_some_and(|call| matches!(call.progress, Progress::Waiting));
            if waits {
                self.end(stream, Err(Error::lost(&goodbye, Delivery::NotDelivered)));
            }
        }
        self.goodbye = Some(goodbye);
    }

    fn begin(
        &mut self,
        stream: StreamId,
        answer: Answer,
        parts: Vec<Part>,
        payload: Bytes,
        more: More,
        capacity: usize,
    ) -> Result<(), PeerError> {
        let waits = |pending: &&mut Pending<W>| matches!(pending.progress, Progress::Waiting);
        let Some(pending) = self.calls.get_mut(&stream).filter(waits) else {
            // Its caller has gone.
            self.connection.release_parts(&parts);
            return Ok(());
        };
        let len = inline_len(&parts).unwrap_or(u64::MAX);
        if len > self.max_message {
            let max = self.max_message;
            self.connection.release_parts(&parts);
            self.end(stream, Err(Error::result_too_large(len, max)));
            return Ok(());
        }
        let assembly = Assembly::begin_with(parts, payload, |part| self.segments.find(part))?;
        match more {
            More::Whole => self.finish(stream, answer, assembly, capacity),
            More::Follows => {
                pending.progress = Progress::Assembling(answer, assembly);
                Ok(())
            }
        }
    }

    fn go_on(&mut self, stream: StreamId, payload: &[u8], more: More) -> Result<(), PeerError> {
        let Some(pending) = self.calls.get_mut(&stream) else { return Ok(()) };
        let Progress::Assembling(_, assembly) = &mut pending.progress else { return Ok(()) };
        assembly.push(payload)?;
        if more == More::Follows {
            return Ok(());
        }
        match std::mem::replace(&mut pending.progress, Progress::Waiting) {
            // Fragments were copied together, so the read buffer is not shared.
            Progress::Assembling(answer, assembly) => self.finish(stream, answer, assembly, 0),
            Progress::Waiting | Progress::Ended(_) => Ok(()),
        }
    }

    fn finish(
        &mut self,
        stream: StreamId,
        answer: Answer,
        assembly: Assembly,
        capacity: usize,
    ) -> Result<(), PeerError> {
        let message = assembly.finish_detached(capacity)?;
        let outcome = match answer {
            Answer::Result(reply, file) => {
                // Header texts share the read buffer; a reply that is kept must not keep it.
                let detach = |(key, value): &(Text, Text)| (key.detach(), value.detach());
                Ok(Reply::new(reply.headers.iter().map(detach).collect(), message).with_file(file))
            }
            Answer::Error(code, failure) => Err(Error::answered(code, &failure, message)),
        };
        self.end(stream, outcome);
        Ok(())
    }

    fn end(&mut self, stream: StreamId, outcome: Outcome) {
        if let Some(pending) = self.calls.get_mut(&stream)
            && !matches!(pending.progress, Progress::Ended(_))
        {
            pending.progress = Progress::Ended(outcome);
            self.woken.extend(pending.waiter.take());
        }
    }
}

#[cfg(test)]
mod tests;
