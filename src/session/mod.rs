//! One peer: its socket, its protocol connection and the broker meet here, and nowhere else.

mod activation;
mod aside;
mod claim;
mod hub;
mod inbound;
mod lanes;
mod local;
mod look;
mod loopback;
mod monitors;
mod providers;
mod turn;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_proto::connection::{Connection, Event, Transmit};
use invoked_proto::error::PeerError;
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_transport::{AsyncStream, Attachment, FdRefusal, Interest};
use tokio::sync::watch;
use tokio::time::Sleep;

pub(crate) use activation::{Activation, Gate};
pub(crate) use claim::ProcessClaim;
pub(crate) use hub::{Hub, Waits};
use inbound::Inbound;
pub(crate) use local::LocalWaiter;
use look::Looks;
use loopback::woken;
pub(crate) use loopback::{Loopback, LoopbackAsk, LoopbackCall};
pub(crate) use monitors::Watcher;
pub(crate) use turn::{Turn, Turns};
pub(crate) use upstream::Upstream;

use crate::ipc::PeerId;

/// Slices handed to one write; the kernel takes 1024.
const WRITE_SLICES: usize = 64;

/// Bytes that a session reads or writes before it lets the other sessions have the loop.
const TURN_BYTES: usize = 512 * 1024;

/// Events that a session handles in one turn: 64 inline calls take about 0.1 ms.
const TURN_EVENTS: usize = 64;

/// A turn ends after this long, whatever is left of it: inline handlers may take up to the runner's patience each.
const TURN_TIME: Duration = Duration::from_millis(1);

/// How long to wait where too many file descriptors of this uid are on their way. Nothing tells when there are fewer.
const CROWDED_PAUSE: Duration = Duration::from_millis(10);

/// A read from which on it is likely that more waits: then the others get their turn first.
const LONG_READ: usize = 16 * 1024;

/// A connection, and how to wake the task that owns its socket.
#[derive(Debug)]
pub(crate) struct Link {
    connection: RefCell<Connection<Attachment>>,
    /// The daemon's calls to the peer that were open when its socket failed, and whether it may have seen them.
    lost: RefCell<Vec<(u64, Delivery)>>,
    waker: RefCell<Option<Waker>>,
    woken: Cell<bool>,
    inbound: Inbound,
}

impl Link {
    pub(crate) fn new(connection: Connection<Attachment>) -> Self {
        Link {
            connection: RefCell::new(connection),
            lost: RefCell::default(),
            waker: RefCell::new(None),
            woken: Cell::new(false),
            inbound: Inbound::default(),
        }
    }

    /// The socket is of no use any more.
    fn lose(&self) {
        let lost = self.connection.borrow_mut().abandon();
        self.lost.borrow_mut().extend(lost);
    }

    /// Lets the session look at its connection. Without effect while it is at it anyway: it writes before it waits.
    fn wake(&self) {
        self.woken.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Link {
    /// Notes whom to wake; keeps the waker that is there if it is the same.
    fn await_wake(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(there) if there.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
    }
}

/// Why a session woke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Readable,
    Writable,
    Linked,
    Timer,
}

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed, or was drained.
    Closed,
    /// The peer broke the protocol and was told so.
    Protocol(PeerError),
    /// We turned it away.
    Refused,
    /// The peer took nothing for too long.
    SlowConsumer,
    /// The socket failed.
    Io(std::io::Error),
}

/// A peer's socket and what is half done on it.
pub(crate) struct Session {
    hub: Rc<Hub>,
    id: PeerId,
    link: Rc<Link>,
    stream: AsyncStream,
    fds: VecDeque<Attachment>,
    /// What the socket did not take yet; `None` while everything is written, so that an idle peer holds no buffer.
    unwritten: Option<Transmit<Attachment>>,
    /// Since when the socket takes nothing.
    blocked_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    ended: Option<Ended>,
    /// Whether the kernel lets no more file descriptors on their way now.
    crowded: bool,
    /// Whether it is the others' turn.
    yields: bool,
    /// Whether events wait that the last turn had no time for.
    unhandled: bool,
    /// Dropped once the peer has said who it is.
    handshake: Option<Turn>,
    /// Kept while rules may rely on what its process is.
    claim: Option<ProcessClaim>,
    /// At the other end is the daemon, not a peer of this one.
    upstream: Option<Rc<Upstream>>,
    /// A call whose provider is being started; what came after it waits too.
    held: Option<(Event<Attachment>, watch::Receiver<()>)>,
    looks: Looks,
}

impl Session {
    pub(crate) fn new(
        hub: Rc<Hub>,
        id: PeerId,
        stream: AsyncStream,
        handshake: Turn,
        claim: Option<ProcessClaim>,
    ) -> Self {
        let link = hub.link(id);
        let mut session = Session::over(hub, id, stream, link);
        (session.handshake, session.claim) = (Some(handshake), claim);
        session
    }

    /// The session of a provider with its daemon.
    pub(crate) fn with_daemon(hub: Rc<Hub>, upstream: Rc<Upstream>, stream: AsyncStream) -> Self {
        let (id, link) = (upstream.peer(), upstream.link());
        let mut session = Session::over(hub, id, stream, link);
        session.upstream = Some(upstream);
        session
    }

    fn over(hub: Rc<Hub>, id: PeerId, stream: AsyncStream, link: Rc<Link>) -> Self {
        let looks = Looks::new(hub.busy_poll());
        Session {
            hub,
            id,
            link,
            stream,
            fds: VecDeque::new(),
            unwritten: None,
            blocked_since: None,
            timer: None,
            ended: None,
            crowded: false,
            yields: false,
            unhandled: false,
            handshake: None,
            claim: None,
            upstream: None,
            held: None,
            looks,
        }
    }

    /// Serves the peer until its connection ends; the broker is told when the session is dropped.
    pub(crate) async fn run(mut self) -> Ended {
        loop {
            // Whatever woke this task so far is written by the flush.
            self.link.woken.set(false);
            if let Some(ended) = self.flush() {
                return ended;
            }
            if std::mem::take(&mut self.crowded) {
                tokio::time::sleep(CROWDED_PAUSE).await;
                match self.time_passed() {
                    Some(ended) => return ended,
                    None => continue,
                }
            }
            if self.held.is_some() {
                self.await_start().await;
                continue;
            }
            if std::mem::take(&mut self.yields) {
                tokio::task::yield_now().await;
                if self.unwritten.is_some() && self.blocked_since.is_none() {
                    continue;
                }
            }
            // Writing may have made room on a channel.
            if std::mem::take(&mut self.unhandled) || self.link.connection.borrow().has_events() {
                self.handle_events(Instant::now());
                continue;
            }
            if self.look() {
                continue;
            }
            match self.wait().await {
                Wake::Readable => self.read(),
                Wake::Writable | Wake::Linked => {}
                Wake::Timer => {
                    if let Some(ended) = self.time_passed() {
                        return ended;
                    }
                }
            }
        }
    }

    /// Waits until the provider of a held call was started, or can't be, and serves the call then. Answers of earlier calls go out
    /// meanwhile.
    async fn await_start(&mut self) {
        let Some((_, opened)) = &mut self.held else { return };
        let link = Rc::clone(&self.link);
        let is_open = tokio::select! {
            // It fails when the daemon ends.
            _ = opened.changed() => true,
            () = woken(&link) => false,
            () = tokio::time::sleep(CROWDED_PAUSE), if self.unwritten.is_some() => false,
        };
        if is_open && let Some((event, _)) = self.held.take() {
            let now = Instant::now();
            self.hub.handle_event(now, self.id, event);
            self.hub.pump(now);
        }
    }

    /// Waits for the next thing to do. The common case arms no timer and takes no lock.
    async fn wait(&mut self) -> Wake {
        let deadline = self.deadline();
        match (deadline, &mut self.timer) {
            (None, timer) => *timer = None,
            (Some(at), Some(timer)) => timer.as_mut().reset(at.into()),
            (Some(at), timer) => *timer = Some(Box::pin(tokio::time::sleep_until(at.into()))),
        }
        let reads = !self.link.connection.borrow().pauses_reading() && self.ended.is_none();
        let interest = match (reads, self.unwritten.is_some()) {
            (true, true) => Some(Interest::ReadWrite),
            (true, false) => Some(Interest::Read),
            (false, true) => Some(Interest::Write),
            (false, false) => None,
        };
        poll_fn(|context| {
            if self.link.woken.replace(false) {
                return Poll::Ready(Wake::Linked);
            }
            if let Some(interest) = interest
                && let Poll::Ready(ready) = self.stream.poll_ready(context, interest)
            {
                // An error shows in the read that follows; nothing else would end the session.
                let readable = ready.map_or(true, |ready| ready.readable);
                return Poll::Ready(if readable { Wake::Readable } else { Wake::Writable });
            }
            if let Some(timer) = &mut self.timer
                && timer.as_mut().poll(context).is_ready()
            {
                return Poll::Ready(Wake::Timer);
            }
            self.link.await_wake(context);
            Poll::Pending
        })
        .await
    }

    fn deadline(&self) -> Option<Instant> {
        let protocol = self.link.connection.borrow().poll_timeout();
        let slow = self.blocked_since.map(|since| since + self.hub.slow_consumer_timeout());
        match (protocol, slow) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn time_passed(&mut self) -> Option<Ended> {
        let now = Instant::now();
        if let Some(since) = self.blocked_since
            && now.duration_since(since) >= self.hub.slow_consumer_timeout()
        {
            return Some(Ended::SlowConsumer);
        }
        if let Err(error) = self.link.connection.borrow_mut().handle_timeout(now) {
            self.ended = Some(Ended::Protocol(error));
        }
        None
    }

    /// One read.
    fn read(&mut self) {
        let received = self.hub.with_read_buffer(|buffer| {
            let received = self.stream.try_read(buffer, &mut self.fds)?;
            Ok((received.bytes, buffer.split().freeze()))
        });
        self.take_read(Instant::now(), received);
    }

    /// Looks whether the peer calls at once again. True if something was read.
    fn look(&mut self) -> bool {
        if !self.looks.may_look() || self.unwritten.is_some() || self.ended.is_some() {
            return false;
        }
        let connection = self.link.connection.borrow();
        // With a call open the peer may well wait for the handler, which may wait for this loop.
        if connection.pauses_reading() || connection.open_inbound() > 0 {
            return false;
        }
        drop(connection);
        let mut found = None;
        let received = self.hub.with_read_buffer(|buffer| {
            let now = Instant::now();
            let Some((received, at)) = self.stream.look(now, buffer, &mut self.fds, &mut self.looks.busy)
            else {
                return Err(ErrorKind::WouldBlock.into());
            };
            found = Some(at);
            Ok((received?.bytes, buffer.split().freeze()))
        });
        let Some(at) = found else { return false };
        self.yields |= self.looks.note_find();
        self.take_read(at, received);
        true
    }

    /// What a read brought that was through at `now`, and everything that follows from it.
    fn take_read(&mut self, now: Instant, received: std::io::Result<(usize, Bytes)>) {
        let (bytes, data) = match received {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(error) => {
                self.ended = Some(Ended::Io(error));
                self.link.lose();
                return;
            }
        };
        self.yields |= bytes >= LONG_READ;
        self.looks.note_read(self.hub.note_reader(self.id));
        let mut connection = self.link.connection.borrow_mut();
        let result = if !self.fds.is_empty() && self.hub.floods_with_fds(self.id) {
            self.fds.clear();
            self.ended = Some(Ended::Refused);
            connection
                .refuse(ErrorCode::ResourceExhausted, "too many file descriptors of this uid's are held");
            Ok(())
        } else if bytes == 0 {
            self.ended = Some(Ended::Closed);
            connection.handle_eof()
        } else {
            connection.handle_input(now, data, self.fds.drain(..))
        };
        drop(connection);
        // What came before the fault is legal and is served as far as it still can be.
        self.handle_events(now);
        if let Err(error) = result {
            self.ended = Some(Ended::Protocol(error));
        }
    }

    /// Handles what came, for one turn; what is left waits until the other sessions had theirs.
    fn handle_events(&mut self, now: Instant) {
        for _ in 0..TURN_EVENTS {
            let mut connection = self.link.connection.borrow_mut();
            let Some(event) = connection.poll_event() else { return };
            // What it brought is charged to its call from here on.
            connection.release(event.payload_len());
            drop(connection);
            if matches!(event, Event::Greeted(_)) {
                self.handshake = None;
            }
            if matches!(event, Event::Called { .. }) && self.claim.take_if(|claim| !claim.holds()).is_some() {
                self.hub.forget_process(now, self.id);
            }
            if let (Event::Called { call, .. }, None) = (&event, &self.upstream)
                && let Some(opened) = self.hub.awaited(now, self.id, &call.command)
            {
                self.held = Some((event, opened));
                return;
            }
            match &self.upstream {
                None => self.hub.handle_event(now, self.id, event),
                Some(upstream) => {
                    if let Err(error) = upstream.handle_event(now, event) {
                        self.ended = Some(Ended::Protocol(error));
                    }
                }
            }
            if let Some(error) = self.link.inbound.take_fault() {
                self.ended = Some(Ended::Protocol(error));
            }
            // At once, so that what each call is charged is known when the next is judged.
            self.hub.pump(now);
            if self.hub.clock().saturating_duration_since(now) > TURN_TIME {
                break;
            }
        }
        self.unhandled = true;
        self.yields = true;
    }

    /// Writes what there is, as far as the socket takes it. Tells when the session is over.
    fn flush(&mut self) -> Option<Ended> {
        if self.link.inbound.opens()
            && let Err(error) = self.stream.accept_fds()
        {
            tracing::debug!(peer = %self.id, %error, "descriptors can't be let in");
        }
        self.link.inbound.return_leases(&mut self.link.connection.borrow_mut());
        let mut transmit = self.unwritten.take().unwrap_or_else(|| self.hub.spare_transmit());
        let mut written = 0;
        let result = loop {
            if written > TURN_BYTES {
                self.note_unread(&transmit);
                self.unwritten = Some(transmit);
                self.yields = true;
                return None;
            }
            if transmit.is_empty() && !self.link.connection.borrow_mut().poll_transmit(&mut transmit) {
                break Ok(());
            }
            match self.write(&mut transmit) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    written += bytes;
                    self.blocked_since = None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.note_unread(&transmit);
        match result {
            Ok(()) => {
                self.hub.keep_transmit(transmit);
                if self.link.connection.borrow().is_starved() {
                    // A peer that reads gives credit back, so one that gives none takes nothing either.
                    self.blocked_since.get_or_insert_with(Instant::now);
                } else {
                    self.blocked_since = None;
                }
                self.is_over()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.unwritten = Some(transmit);
                self.blocked_since.get_or_insert_with(Instant::now);
                // A peer that broke the protocol may still be told so; one that is gone, or failed, not.
                self.ended.take_if(|ended| !matches!(ended, Ended::Protocol(_)))
            }
            Err(error) if FdRefusal::of(&error) == Some(FdRefusal::TooManyInFlight) => {
                self.unwritten = Some(transmit);
                self.blocked_since.get_or_insert_with(Instant::now);
                self.crowded = true;
                self.ended.take()
            }
            Err(error) => Some(self.ended.take().unwrap_or(Ended::Io(error))),
        }
    }

    /// Notes the bytes that wait for the peer to read them, and the file descriptors that it has not confirmed.
    fn note_unread(&self, transmit: &Transmit<Attachment>) {
        let connection = self.link.connection.borrow();
        let (bytes, fds) = (transmit.len() + connection.unsent().bytes, connection.unconfirmed_fds());
        drop(connection);
        match &self.upstream {
            None => self.hub.note_unread(self.id, bytes, fds),
            Some(upstream) => upstream.note_unread(bytes),
        }
    }

    fn is_over(&mut self) -> Option<Ended> {
        if let Some(ended) = self.ended.take() {
            return Some(ended);
        }
        let connection = self.link.connection.borrow();
        if connection.is_drained() {
            return Some(Ended::Closed);
        }
        connection.is_closed().then_some(Ended::Refused)
    }

    fn write(&mut self, transmit: &mut Transmit<Attachment>) -> std::io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let filled = transmit.slices(&mut slices);
        let written = if transmit.fds().is_empty() {
            self.stream.try_write(&slices[..filled], &[])?
        } else {
            let fds: Vec<BorrowedFd<'_>> = transmit.fds().iter().map(AsFd::as_fd).collect();
            self.stream.try_write(&slices[..filled], &fds)?
        };
        transmit.advance(written);
        Ok(written)
    }
}

impl Drop for Session {
    /// Also when its task ends by a panic: the broker must not keep a peer that nobody serves.
    fn drop(&mut self) {
        let now = Instant::now();
        match &self.upstream {
            None => self.hub.forget(self.id, now),
            Some(upstream) => upstream.lost(now),
        }
    }
}
