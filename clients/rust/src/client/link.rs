//! One connection of the async client, and the task that serves it.
//!
//! A caller's own task writes its call to the socket at once, so that a single caller waits for no other task. What more
//! is to be written before the driver has looked goes with the driver's next look, all in one write: where many tasks call,
//! as many calls share a system call. Answers are read by the driver, one task per connection that ends with it: unlike a
//! thread, a future that has been polled once may never be polled again, so no caller can be trusted to read for the others.
//! A caller that is alone looks for its answer itself for a while, between the turns of other tasks, before it leaves that
//! to the driver: then no task hands anything to another, and where the answer is quick nobody sleeps.
//!
//! The lock is held for moments and never across an await. Whoever is woken is woken outside of it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use invoked_proto::body::Message;
use invoked_proto::metadata::Welcome;
use invoked_proto::registry::Delivery;
use invoked_transport::{AsyncStream, Attachment, BusyPoll, Interest, Look, Stream};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep_until, timeout_at};

use crate::channel::Farewell;
use crate::core::{ChannelKey, Core, Loss, Next, Outcome, StreamId};
use crate::dial::{ConnectionInfo, Dialled, dial};
use crate::error::{Error, Retry};
use crate::options::Options;
use crate::outgoing::Outgoing;
use crate::request::{Channels, Prepared};
use crate::traffic::{ReadBuffer, files, flush, is_passing};

/// A connection that tasks share. Dropping it ends the driver.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
    info: ConnectionInfo,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A permit for each call that may still be opened; closed when no call can be.
    slots: Semaphore,
    outgoing: Outgoing,
}

#[derive(Debug)]
struct State {
    core: Core<Attachment, Waker>,
    stream: AsyncStream,
    buffer: ReadBuffer,
    /// Whether a caller that is alone looks.
    busy: BusyPoll,
    /// When the driver will look at the clock.
    armed: Option<Instant>,
    /// So many calls go without a look, as another task may be about to call too.
    crowded: u32,
    /// The driver, while it waits.
    driver: Option<Waker>,
    /// Whoever waits for the end of the handshake.
    greeter: Option<Waker>,
    /// Calls whose permits are taken for good until they end.
    open: usize,
    /// Since the driver last looked, a caller has written: what others have to write goes together.
    gathers: bool,
    /// Of that there is something, and the driver lets the other tasks add to it first.
    gathered: bool,
}

/// So much is gathered before it is written: about ten small calls, which the daemon serves while the next are gathered.
/// With 64 calls of 64 bytes in flight and a processor for each side, 1 KiB gave 500 000 calls a second, 2 KiB 440 000,
/// 4 KiB 220 000 (then each side waits for the other's whole batch), and no gathering 280 000; on one processor 280 000,
/// 290 000, 290 000, and 180 000 without.
const GATHERED_MAX: usize = 1024;

impl Link {
    /// Connects and shakes hands.
    pub(super) async fn connect(options: &Options, generation: u64) -> Result<Self, Error> {
        let late = || Error::turned_away(&Loss::HandshakeTimeout);
        let Some(deadline) = Instant::now().checked_add(options.connect_timeout) else {
            return Self::connect_by(options, generation).await;
        };
        timeout_at(deadline.into(), Self::connect_by(options, generation))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn connect_by(options: &Options, generation: u64) -> Result<Self, Error> {
        let dialling = options.clone();
        let dialled = tokio::task::spawn_blocking(move || dial(&dialling)).await.map_err(|error| {
            let message = "the runtime ended while connecting".to_owned();
            Error::no_connection(message, Retry::Useless, Some(io::Error::other(error)))
        })??;
        let mut info = ConnectionInfo::new(&dialled, generation);
        let Dialled { stream, .. } = dialled;
        let outgoing = options.outgoing();
        let (settings, hello) = (options.settings(), options.hello());
        let core = Core::new(settings, &hello, Instant::now(), files(), outgoing.clone())?;
        let shared = Arc::new(Shared::new(core, stream, BusyPoll::new(options.busy_poll), outgoing)?);
        let driver = tokio::spawn(Driver::new(Arc::clone(&shared)));
        let guard = Link { shared, driver, info: info.clone() };
        let (instance, welcome) = guard.shared.welcomed().await?;
        info.complete(instance, &welcome);
        let mut link = guard;
        link.info = info;
        Ok(link)
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Whether calls can be made, as far as is known. The driver always listens, so a loss is known soon.
    pub(super) fn is_open(&self) -> bool {
        self.shared.lock().core.closed().is_none()
    }

    /// Makes a call and waits for its end. Dropping the future cancels the call.
    pub(super) async fn call(self: &Arc<Self>, call: Prepared, channels: Channels<Link>) -> Outcome {
        self.start(call, channels).await?.finish().await
    }

    /// Sends a call.
    pub(super) async fn start(
        self: &Arc<Self>,
        mut call: Prepared,
        channels: Channels<Link>,
    ) -> Result<Flight, Error> {
        if call.has_file() && !self.shared.sends_files().await {
            call = read_elsewhere(call).await?;
        }
        let permit = self.shared.slot(call.deadline).await?;
        let stream = self.shared.open(call)?;
        if let Some(permit) = permit {
            permit.forget();
        }
        let flight = Flight { link: Arc::clone(self), stream: Some(stream) };
        for channel in channels {
            let key = (stream, channel.index);
            if let Some(farewell) = channel.bind(self, key) {
                self.say(key, farewell);
            }
        }
        Ok(flight)
    }

    /// The next item of a channel, or its end.
    pub(super) fn poll_item(
        &self,
        key: ChannelKey,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Next, Error>>> {
        let taken = self.shared.update(|state| state.core.take_item(key, || context.waker().clone()));
        taken.map_or(Poll::Pending, Poll::Ready)
    }

    /// Sends the item in `message`, once there is credit for it.
    pub(super) fn poll_send(
        &self,
        key: ChannelKey,
        message: &mut Option<Message>,
        context: &Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if let Some(message) = message {
            self.shared.outgoing.move_item(message);
        }
        let sent = self.shared.update(|state| state.core.send_item(key, message, || context.waker().clone()));
        sent.map_or(Poll::Pending, Poll::Ready)
    }

    /// Whoever used a channel has left.
    pub(super) fn say(&self, key: ChannelKey, farewell: Farewell) {
        self.shared.update(|state| state.core.say(key, farewell));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads the file of a call where that may take its time.
async fn read_elsewhere(mut call: Prepared) -> Result<Prepared, Error> {
    let reading = tokio::task::spawn_blocking(move || call.read_file().map(|()| call));
    reading.await.unwrap_or_else(|error| Err(Error::bad_file(&io::Error::other(error))))
}

/// Calls that have to be alone, one after the other, before one is taken to be alone again.
const CROWDED: u32 = 64;

thread_local! {
    /// The connection of the last call that was made on this thread, by the address of its state.
    static LAST_CALLED: Cell<usize> = const { Cell::new(0) };
}

/// How often a caller looks before it lets the other tasks of its runtime run: each takes a microsecond, and another turn
/// several.
const ATTEMPTS: usize = 8;

/// Whether a caller looks for its answer.
#[derive(Debug)]
enum Looking {
    /// It has not waited yet.
    Unasked,
    Begun(Look),
    /// The driver sees to it.
    Over,
}

/// A call of one caller; dropping it before its end sends CANCEL, without waiting.
#[derive(Debug)]
pub(super) struct Flight {
    link: Arc<Link>,
    stream: Option<StreamId>,
}

impl Flight {
    /// Waits for the end of a call that was started.
    pub(super) async fn finish(&mut self) -> Outcome {
        let Some(stream) = self.stream else { return Err(Error::deadline(Delivery::NotDelivered)) };
        let shared = &self.link.shared;
        let mut looking = Looking::Unasked;
        let outcome = poll_fn(|context| shared.poll_outcome(stream, &mut looking, context.waker())).await;
        self.stream = None;
        outcome
    }

    pub(super) fn cancel(&mut self) -> Delivery {
        let Some(stream) = self.stream.take() else { return Delivery::NotDelivered };
        self.link.shared.update(|state| state.core.cancel(stream))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Shared {
    fn new(
        core: Core<Attachment, Waker>,
        stream: Stream,
        busy: BusyPoll,
        outgoing: Outgoing,
    ) -> Result<Self, Error> {
        let stream = AsyncStream::new(stream).map_err(|error| {
            let message = "the socket can't be watched by the runtime".to_owned();
            Error::no_connection(message, Retry::Useless, Some(error))
        })?;
        let state = State {
            core,
            stream,
            buffer: ReadBuffer::default(),
            busy,
            armed: None,
            crowded: 0,
            driver: None,
            greeter: None,
            open: 0,
            gathers: false,
            gathered: false,
        };
        Ok(Shared { state: Mutex::new(state), slots: Semaphore::new(0), outgoing })
    }

    /// Waits for the end of the handshake.
    async fn welcomed(&self) -> Result<(u64, Welcome), Error> {
        let welcomed = poll_fn(|context| {
            let mut state = self.lock();
            let Some(welcome) = state.core.poll_welcome() else {
                state.greeter = Some(context.waker().clone());
                return Poll::Pending;
            };
            // At least one, so that a daemon that allows no call is asked, and the caller told.
            self.slots.add_permits(state.core.room().clamp(1, Semaphore::MAX_PERMITS));
            Poll::Ready(welcome)
        });
        welcomed.await
    }

    /// Waits until a call may be opened; without a permit none can be, and the core knows why.
    async fn slot(&self, deadline: Option<Instant>) -> Result<Option<SemaphorePermit<'_>>, Error> {
        match (self.slots.try_acquire(), deadline) {
            (Ok(permit), _) => Ok(Some(permit)),
            (Err(TryAcquireError::Closed), _) => Ok(None),
            (Err(TryAcquireError::NoPermits), None) => Ok(self.slots.acquire().await.ok()),
            (Err(TryAcquireError::NoPermits), Some(deadline)) => {
                let acquired = timeout_at(deadline.into(), self.slots.acquire()).await;
                acquired.map(Result::ok).map_err(|_| Error::deadline(Delivery::NotDelivered))
            }
        }
    }

    /// Whether the daemon takes files from this client.
    async fn sends_files(&self) -> bool {
        poll_fn(|context| {
            let told = self.update(|state| state.core.poll_files(|| context.waker().clone()));
            told.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn open(&self, mut call: Prepared) -> Result<StreamId, Error> {
        self.outgoing.move_parts(call.message_mut());
        let (now, deadline) = (Instant::now(), call.deadline);
        if call.is_late(now) {
            return Err(Error::deadline(Delivery::NotDelivered));
        }
        let alone = self.calls_alone();
        self.update(|state| {
            let (request, file) = call.into_request(now);
            let stream = state.core.call(request, file)?;
            if let Some(deadline) = deadline {
                state.core.end_at(stream, deadline);
            }
            state.open += 1;
            let crowded = if alone && state.core.open_calls() == 1 { state.crowded } else { CROWDED };
            state.crowded = crowded.saturating_sub(1);
            Ok(stream)
        })
    }

    /// Whether the last call on this thread was on this connection too. Where tasks call on several in turns, one that looks
    /// for its answer keeps the others from theirs: eight connections had 95 000 calls a second with looks and 180 000 without,
    /// a processor for each side.
    fn calls_alone(&self) -> bool {
        let own = std::ptr::from_ref(self).addr();
        LAST_CALLED.replace(own) == own
    }

    fn poll_outcome(&self, stream: StreamId, looking: &mut Looking, own: &Waker) -> Poll<Outcome> {
        let take = |state: &mut State| state.core.take(stream, || own.clone());
        let mut state = self.lock();
        if let Some(outcome) = take(&mut state) {
            return Poll::Ready(outcome);
        }
        let begun = match std::mem::replace(looking, Looking::Over) {
            Looking::Unasked => state.begin_look(),
            Looking::Begun(look) => Some(look),
            Looking::Over => None,
        };
        drop(state);
        let Some(mut look) = begun else { return Poll::Pending };
        for _ in 0..ATTEMPTS {
            // Without the lock: it takes long where another process wants the processor too.
            std::thread::yield_now();
            let mut news = News::default();
            let mut state = self.lock();
            let rest = state.look(look, own, &mut news);
            let outcome = take(&mut state);
            drop(state);
            news.spread(&self.slots);
            match (outcome, rest) {
                (Some(outcome), _) => return Poll::Ready(outcome),
                (None, None) => return Poll::Pending,
                (None, Some(rest)) => look = rest,
            }
        }
        *looking = Looking::Begun(look);
        // The other tasks first.
        own.wake_by_ref();
        Poll::Pending
    }

    /// Changes the state for a caller, writes what that gives to write, and wakes whom it concerns.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut news = News::default();
        let mut state = self.lock();
        let result = change(&mut state);
        state.flush_or_gather();
        state.settle(&mut news);
        // The socket is full, or more may come; or something is to end sooner than the driver knows.
        if state.core.has_output() || state.is_sooner() {
            news.woken.extend(state.driver.take());
        }
        drop(state);
        news.spread(&self.slots);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a caller runs under the lock, and a core is whole between its calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom a change concerns. It is gathered under the lock and spread outside of it.
#[derive(Debug, Default)]
struct News {
    woken: Vec<Waker>,
    /// Slots of calls that ended.
    freed: usize,
    closed: bool,
}

impl News {
    fn spread(&mut self, slots: &Semaphore) {
        if self.closed {
            slots.close();
        }
        let freed = std::mem::take(&mut self.freed);
        if freed > 0 {
            slots.add_permits(freed);
        }
        self.woken.drain(..).for_each(Waker::wake);
    }
}

impl State {
    /// Notes whom the last change concerns.
    fn settle(&mut self, news: &mut News) {
        news.woken.extend(std::iter::from_fn(|| self.core.poll_woken()));
        let open = self.core.open_calls();
        news.freed += self.open.saturating_sub(open);
        self.open = self.open.min(open);
        news.closed |= self.core.closed().is_some();
        if self.greeter.is_some() && self.core.poll_welcome().is_some() {
            news.woken.extend(self.greeter.take());
        }
    }

    /// Whether the core wants to be told the time before the driver will.
    fn is_sooner(&self) -> bool {
        self.core.poll_timeout().is_some_and(|at| self.armed.is_none_or(|armed| at < armed))
    }

    /// Begins to look for the answer of the one call that is open, if that is worth it.
    fn begin_look(&mut self) -> Option<Look> {
        if self.crowded == 0 { self.busy.begin() } else { None }
    }

    /// One attempt of a look, for the caller whose waker is `own`; the look, if it goes on.
    fn look(&mut self, look: Look, own: &Waker, news: &mut News) -> Option<Look> {
        let State { core, stream, buffer, .. } = self;
        let result = buffer.fill(|bytes, fds| stream.read_now(bytes, fds));
        let found = !result.as_ref().is_err_and(is_passing);
        buffer.drain(Instant::now(), result, core);
        if found {
            // The driver may not look for long.
            self.gathers = false;
            self.flush();
            self.settle(news);
            // It takes what came for itself.
            news.woken.retain(|woken| !woken.will_wake(own));
            if self.core.is_lost() || self.core.has_output() {
                // That is the driver's to see to.
                news.woken.extend(self.driver.take());
            }
        }
        self.busy.go_on(look, found)
    }

    /// Writes what a caller has to say, or leaves it to the driver.
    fn flush_or_gather(&mut self) {
        if !self.core.has_output() {
            return;
        }
        if self.gathers && self.core.unsent() <= GATHERED_MAX {
            self.gathered = true;
        } else {
            self.gathers = true;
            self.flush();
        }
    }

    /// Writes what waits, as far as the socket takes it.
    fn flush(&mut self) {
        let State { core, stream, .. } = self;
        flush(core, |slices, fds| stream.try_write(slices, fds));
    }
}

/// Reads the socket, writes what callers could not, and keeps the connection's clocks, until the connection is lost.
struct Driver {
    shared: Arc<Shared>,
    timer: Option<Pin<Box<Sleep>>>,
    news: News,
}

impl Driver {
    fn new(shared: Arc<Shared>) -> Self {
        Driver { shared, timer: None, news: News::default() }
    }

    fn spread(&mut self) {
        self.news.spread(&self.shared.slots);
    }

    /// Does what can be done now; ready when the connection is lost.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if std::mem::take(&mut state.gathered) {
            // Woken by a task of its own worker, it runs before those that are ready: they come first, and then it.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.gathers = false;
        loop {
            state.flush();
            if state.core.is_lost() {
                // Best effort: a socket that is gone can't be shut down.
                let _ = state.stream.shutdown(Shutdown::Both);
                state.settle(&mut self.news);
                return Poll::Ready(());
            }
            let interest = if state.core.has_output() { Interest::ReadWrite } else { Interest::Read };
            match state.stream.poll_ready(context, interest) {
                Poll::Ready(Ok(ready)) if ready.readable => {
                    let State { core, stream, buffer, .. } = &mut *state;
                    let result = buffer.fill(|bytes, fds| stream.try_read(bytes, fds));
                    buffer.drain(Instant::now(), result, core);
                }
                // Room to write: at the top of the loop.
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => state.core.handle_read_error(error),
                Poll::Pending if self.poll_clock(&mut state, context) => {}
                Poll::Pending => {
                    state.settle(&mut self.news);
                    state.driver = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Tells the core the time when it wants to be told; true if that may have changed something.
    fn poll_clock(&mut self, state: &mut State, context: &mut Context<'_>) -> bool {
        state.armed = state.core.poll_timeout();
        let Some(at) = state.armed else {
            self.timer = None;
            return false;
        };
        let at = tokio::time::Instant::from_std(at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.timer = None;
        state.core.handle_timeout(Instant::now());
        true
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let polled = self.advance(context);
        self.spread();
        polled
    }
}

/// However the driver ends, nobody waits for what it will not read any more.
impl Drop for Driver {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        state.core.lose(Loss::RuntimeEnded);
        state.settle(&mut self.news);
        drop(state);
        self.spread();
    }
}
