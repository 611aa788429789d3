//! One connection of the blocking client, and the threads that share it.
//!
//! Leader and follower: of the threads that wait, one at a time reads the socket (it has taken the read buffer out of the
//! state) and hands the others what is theirs; when its own answer comes, it puts the buffer back and wakes another. So a
//! single thread makes a call with one `sendmsg` and one `recvmsg`, and no thread of the library's own takes part.
//!
//! Each thread that runs looks at the whole state again, takes a role that is free, and on leaving wakes one that waits if a
//! role is still free ([`State::nudge`]). That, and that nobody sleeps without being in `parked`, is why nobody is forgotten.
//!
//! It owns the waiting. What a frame means is the core's.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use invoked_proto::body::Message;
use invoked_proto::registry::Delivery;
use invoked_transport::{Attachment, BusyPoll, Interest};

use crate::channel::Farewell;
use crate::core::{ChannelKey, Core, Loss, Next, Outcome, StreamId};
use crate::dial::{ConnectionInfo, dial};
use crate::error::Error;
use crate::options::Options;
use crate::outgoing::Outgoing;
use crate::request::{Channels, Prepared};
use crate::sync::thread::{self, Thread};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Stream};
use crate::traffic::{ReadBuffer, files, flush, is_passing};

/// The longest that a reading thread stays away. It can't be woken from outside, and output that another thread has left
/// behind must go on well within the daemon's patience for a frame that was begun (10 s).
const LONGEST_READ: Duration = Duration::from_millis(4096);

/// How often a thread that waits for room to write looks whether somebody still reads. Nobody does if the last reader
/// left with its answer meanwhile, and a daemon whose answers are not read takes no more calls.
const WRITER_PAUSE: Duration = Duration::from_millis(10);

/// A connection that threads share.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    state: Mutex<State>,
    outgoing: Outgoing,
    info: ConnectionInfo,
}

#[derive(Debug)]
struct State {
    core: Core<Attachment, Thread>,
    /// Taken by the thread that reads.
    buffer: Option<ReadBuffer>,
    /// Used by the thread that reads.
    busy: BusyPoll,
    /// A thread waits for room to write.
    writing: bool,
    /// Threads that sleep, the one that has slept longest first.
    parked: VecDeque<Parked>,
    next_parked: u64,
    /// The socket is shut down after a loss.
    shut: bool,
}

#[derive(Debug)]
struct Parked {
    id: u64,
    thread: Thread,
    wants: Wants,
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// A slot for a call.
    Slot,
    /// The end of something that is open.
    End,
}

impl Link {
    /// Connects and shakes hands.
    pub(super) fn connect(options: &Options, generation: u64) -> Result<Self, Error> {
        let dialled = dial(options)?;
        let now = Instant::now();
        let outgoing = options.outgoing();
        let state = State {
            core: Core::new(options.settings(), &options.hello(), now, files(), outgoing.clone())?,
            buffer: Some(ReadBuffer::default()),
            busy: BusyPoll::new(options.busy_poll),
            writing: false,
            parked: VecDeque::new(),
            next_parked: 0,
            shut: false,
        };
        let info = ConnectionInfo::new(&dialled, generation);
        let mut link = Link { stream: dialled.stream, state: Mutex::new(state), outgoing, info };
        link.flush(&mut link.lock());
        let deadline = now.checked_add(options.connect_timeout);
        let welcomed = link.wait(deadline, Wants::End, |state| state.core.poll_welcome());
        let (instance, welcome) =
            welcomed.unwrap_or_else(|| Err(Error::turned_away(&Loss::HandshakeTimeout)))?;
        link.info.complete(instance, &welcome);
        Ok(link)
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Whether calls can be made, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.lock().core.closed().is_none()
    }

    /// Whether calls can be made, as far as the socket shows without waiting.
    pub(super) fn is_usable(&self) -> bool {
        let mut state = self.lock();
        if let Some(mut buffer) = state.buffer.take() {
            // Nobody reads, so what the daemon said since the last call is still unread.
            let result = buffer.fill(|bytes, fds| self.stream.try_read(bytes, fds));
            self.take_input(&mut state, Instant::now(), buffer, result);
            state.nudge();
        }
        state.core.closed().is_none()
    }

    /// Makes a call and waits for its end.
    pub(super) fn call(self: &Arc<Self>, call: Prepared, channels: Channels<Link>) -> Outcome {
        let deadline = call.deadline;
        let stream = self.start(call, channels)?;
        self.finish(stream, deadline)
    }

    /// Sends a call.
    pub(super) fn start(
        self: &Arc<Self>,
        mut call: Prepared,
        channels: Channels<Link>,
    ) -> Result<StreamId, Error> {
        let deadline = call.deadline;
        if call.has_file() && !self.sends_files(deadline) {
            call.read_file()?;
        }
        self.outgoing.move_parts(call.message_mut());
        let mut call = Some(call);
        let opened = self.wait(deadline, Wants::Slot, |state| self.open(state, &mut call));
        let stream = opened.unwrap_or_else(|| Err(Error::deadline(Delivery::NotDelivered)))?;
        for channel in channels {
            let key = (stream, channel.index);
            if let Some(farewell) = channel.bind(self, key) {
                self.say(key, farewell);
            }
        }
        Ok(stream)
    }

    /// Whether the daemon takes files from this client; false if it does not say so in time.
    fn sends_files(&self, deadline: Option<Instant>) -> bool {
        let told = self.wait(deadline, Wants::End, |state| {
            let told = state.core.poll_files(thread::current);
            if told.is_none() && !state.writing {
                self.flush(state);
            }
            told
        });
        told.unwrap_or(false)
    }

    /// Waits for the end of a call.
    pub(super) fn finish(&self, stream: StreamId, deadline: Option<Instant>) -> Outcome {
        let outcome = self.wait(deadline, Wants::End, |state| state.core.take(stream, thread::current));
        outcome.unwrap_or_else(|| self.give_up(stream))
    }

    fn open(&self, state: &mut State, call: &mut Option<Prepared>) -> Option<Result<StreamId, Error>> {
        if state.core.must_wait() {
            return None;
        }
        let (call, now) = (call.take()?, Instant::now());
        if call.is_late(now) {
            return Some(Err(Error::deadline(Delivery::NotDelivered)));
        }
        let (request, file) = call.into_request(now);
        let opened = state.core.call(request, file);
        self.flush(state);
        Some(opened)
    }

    /// Withdraws a call that nobody waits for.
    pub(super) fn cancel(&self, stream: StreamId) {
        let mut state = self.lock();
        state.core.cancel(stream);
        self.flush(&mut state);
        state.nudge();
    }

    /// Asks the daemon to cancel a call for whose end another thread waits, or to stop the channels that it left open.
    pub(super) fn ask_to_cancel(&self, stream: StreamId) {
        let mut state = self.lock();
        state.core.ask_to_cancel(stream);
        self.flush(&mut state);
        state.nudge();
    }

    /// Waits for the next item of a channel, or its end; `None` at the deadline.
    pub(super) fn wait_item(
        &self,
        key: ChannelKey,
        deadline: Option<Instant>,
    ) -> Option<Option<Result<Next, Error>>> {
        self.wait(deadline, Wants::End, |state| {
            let taken = state.core.take_item(key, thread::current);
            if state.core.has_output() && !state.writing {
                // Its credit, for the daemon.
                self.flush(state);
            }
            taken
        })
    }

    /// Sends an item, and waits while there is no credit for it.
    pub(super) fn send_item(&self, key: ChannelKey, mut message: Message) -> Result<(), Error> {
        self.outgoing.move_item(&mut message);
        let mut message = Some(message);
        let sent = self.wait(None, Wants::End, |state| {
            let sent = state.core.send_item(key, &mut message, thread::current);
            if !state.writing {
                self.flush(state);
            }
            sent
        });
        // Without a deadline it waits until there is an answer.
        sent.unwrap_or(Ok(()))
    }

    /// Whoever used a channel has left.
    pub(super) fn say(&self, key: ChannelKey, farewell: Farewell) {
        let mut state = self.lock();
        state.core.say(key, farewell);
        self.flush(&mut state);
        state.nudge();
    }

    /// The deadline has passed.
    fn give_up(&self, stream: StreamId) -> Outcome {
        let mut state = self.lock();
        if let Some(outcome) = state.core.take(stream, thread::current) {
            // It came at the last moment.
            return outcome;
        }
        let delivery = state.core.cancel(stream);
        self.flush(&mut state);
        state.nudge();
        Err(Error::deadline(delivery))
    }

    /// Waits until `ready` gives something, and keeps the connection going meanwhile; `None` at the deadline.
    fn wait<T>(
        &self,
        deadline: Option<Instant>,
        wants: Wants,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                state.nudge();
                return Some(found);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                state.nudge();
                return None;
            }
            if state.core.poll_timeout().is_some_and(|at| at <= now) {
                state.core.handle_timeout(now);
                self.settle(&mut state);
                continue;
            }
            let until = [deadline, state.core.poll_timeout()].into_iter().flatten().min();
            state = self.take_part(state, now, until, wants);
        }
    }

    /// Takes the role that is free and returns once something may have changed, at the latest when it is `until`; it is `now`.
    fn take_part<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        now: Instant,
        until: Option<Instant>,
        wants: Wants,
    ) -> MutexGuard<'a, State> {
        let must_write = state.core.has_output() && !state.writing;
        let left = until.map(|until| until.saturating_duration_since(now));
        if let Some(buffer) = state.buffer.take() {
            return self.read(state, now, buffer, left, must_write);
        }
        if must_write {
            state.writing = true;
            drop(state);
            let pause = left.map_or(WRITER_PAUSE, |left| left.min(WRITER_PAUSE));
            let waited = self.stream.wait(Interest::Write, Some(pause));
            let mut state = self.lock();
            state.writing = false;
            match waited {
                Ok(ready) if ready.writable => self.flush(&mut state),
                Ok(_) => {}
                Err(error) => self.fail(&mut state, error),
            }
            return state;
        }
        let id = state.park(wants);
        drop(state);
        match left {
            Some(left) => thread::park_timeout(left),
            None => thread::park(),
        }
        let mut state = self.lock();
        state.parked.retain(|parked| parked.id != id);
        state
    }

    /// Reads once, and writes too if output waits and nobody else sees to it.
    fn read<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        now: Instant,
        mut buffer: ReadBuffer,
        left: Option<Duration>,
        must_write: bool,
    ) -> MutexGuard<'a, State> {
        let left = Some(left.map_or(LONGEST_READ, |left| left.min(LONGEST_READ)));
        if state.core.is_broken() {
            let result = buffer.fill(|bytes, fds| self.stream.try_read(bytes, fds));
            let nothing_left = result.as_ref().is_err_and(is_passing);
            self.take_input(&mut state, Instant::now(), buffer, result);
            if nothing_left {
                state.core.handle_read_error(io::ErrorKind::BrokenPipe.into());
                self.settle(&mut state);
            }
            return state;
        }
        if !must_write {
            let mut busy = state.busy.clone();
            drop(state);
            let mut found = None;
            let result = buffer.fill(|bytes, fds| match self.stream.look(now, bytes, fds, &mut busy) {
                Some((result, at)) => {
                    found = Some(at);
                    result
                }
                None => self.stream.recv_wait(bytes, fds, left),
            });
            let mut state = self.lock();
            state.busy = busy;
            self.take_input(&mut state, found.unwrap_or_else(Instant::now), buffer, result);
            return state;
        }
        state.writing = true;
        drop(state);
        let waited = self.stream.wait(Interest::ReadWrite, left);
        let result = match waited {
            Ok(ready) if ready.readable => buffer.fill(|bytes, fds| self.stream.try_read(bytes, fds)),
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        };
        let mut state = self.lock();
        state.writing = false;
        self.take_input(&mut state, Instant::now(), buffer, result);
        self.flush(&mut state);
        state
    }

    /// Puts the read buffer back and turns what it brought into outcomes.
    fn take_input(&self, state: &mut State, now: Instant, mut buffer: ReadBuffer, result: io::Result<()>) {
        buffer.drain(now, result, &mut state.core);
        state.buffer = Some(buffer);
        if state.core.has_output() && !state.writing {
            // File descriptors are confirmed at once.
            self.flush(state);
        }
        self.settle(state);
    }

    /// Writes what waits, as far as the socket takes it.
    fn flush(&self, state: &mut State) {
        flush(&mut state.core, |slices, fds| self.stream.try_write(slices, fds));
        state.wake();
    }

    /// The socket is of no use.
    fn fail(&self, state: &mut State, error: io::Error) {
        state.core.handle_read_error(error);
        self.settle(state);
    }

    /// Wakes whom the last change concerns; after a loss, sends the last word and closes the socket for all.
    fn settle(&self, state: &mut State) {
        if state.core.is_lost() && !state.shut {
            state.shut = true;
            self.flush(state);
            // Best effort: a socket that is gone can't be shut down.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        state.wake();
        state.offer_slots();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a caller runs under the lock, and a core is whole between its calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Wakes whose call or channel has news.
    fn wake(&mut self) {
        while let Some(thread) = self.core.poll_woken() {
            if thread.id() != thread::current().id() {
                thread.unpark();
            }
        }
    }

    fn park(&mut self, wants: Wants) -> u64 {
        let id = self.next_parked;
        self.next_parked += 1;
        self.parked.push_back(Parked { id, thread: thread::current(), wants });
        id
    }

    /// For a thread that leaves: wakes one for each thing that nobody sees to from now on. Whoever stands in `parked` looks
    /// at everything when it wakes and before it sleeps again, so waking it once too often is harmless.
    fn nudge(&self) {
        let unread = self.buffer.is_some();
        let unwritten = self.core.has_output() && !self.writing;
        if (unread || unwritten)
            && let Some(parked) = self.parked.front()
        {
            parked.thread.unpark();
        }
        self.offer_slots();
    }

    /// Wakes one thread that waits for a slot, if there is one; it wakes the next. Wakes all if there will be none.
    fn offer_slots(&self) {
        let mut waiting = self.parked.iter().filter(|parked| parked.wants == Wants::Slot);
        if self.core.closed().is_some() {
            waiting.for_each(|parked| parked.thread.unpark());
        } else if self.core.room() > 0
            && let Some(parked) = waiting.next()
        {
            parked.thread.unpark();
        }
    }
}
