//! Streams and listeners under tokio.
//!
//! Owns the reactor's view of a socket: when it counts as ready, and when no longer. The rule on the latter is what makes a
//! call cost one `epoll_wait`, one read and one write. No bytes are kept here, and no task is spawned.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::Interest as TokioInterest;
use tokio::io::unix::AsyncFd;

use crate::address::Address;
use crate::attachment::Attachment;
use crate::busy_poll::BusyPoll;
use crate::connect::{ConnectError, ConnectFault};
use crate::credentials::Credentials;
use crate::listener::Listener;
use crate::stream::{FdRefusalState, Interest, Readiness, Received, Stream};
use crate::sys;

/// So many writes that fitted at once make a stream forget that it was full.
const CALM_WRITES: u32 = 64;

/// A connected stream that waits by tokio.
///
/// The socket is watched for room to write only from when a write did not fit until writes fit again: a socket watched all the
/// time wakes its reactor each time that the peer reads. All methods need the runtime that the stream was made in, with I/O
/// enabled.
#[derive(Debug)]
pub struct AsyncStream {
    /// `None` after the reactor refused to take the socket back, which ends the stream.
    io: Option<AsyncFd<Stream>>,
    watch: Watch,
}

/// What the reactor watches the socket for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// Something to read.
    Reads,
    /// Something to read, and room to write; with the number of writes that fitted since the last that did not.
    Both(u32),
}

impl AsyncStream {
    /// Registers a stream with the reactor of the current runtime.
    ///
    /// # Errors
    ///
    /// `Other` outside of a runtime; the errors of `epoll_ctl(2)`.
    ///
    /// # Panics
    ///
    /// In a runtime whose I/O is not enabled.
    pub fn new(stream: Stream) -> io::Result<Self> {
        require_runtime()?;
        let io = sys::register(stream, TokioInterest::READABLE)?;
        Ok(Self { io: Some(io), watch: Watch::Reads })
    }

    /// Connects as [`Stream::connect`] does. A daemon whose queue is full is waited for on the runtime's blocking threads.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Stream::connect`] and [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub async fn connect(address: &Address) -> Result<Self, ConnectError> {
        let failed = |error| ConnectError {
            address: address.clone(),
            chosen_by: None,
            elsewhere: None,
            fault: ConnectFault::Io(error),
        };
        let stream = match Stream::try_connect(address) {
            Err(error) if matches!(error.fault, ConnectFault::Busy { .. }) => {
                require_runtime().map_err(failed)?;
                let address = address.clone();
                let waiting = tokio::task::spawn_blocking(move || Stream::connect(&address));
                waiting.await.map_err(|error| failed(io::Error::other(error)))??
            }
            result => result?,
        };
        Self::new(stream).map_err(failed)
    }

    /// Waits for something to read, and reads once as [`Stream::try_read`] does.
    ///
    /// Cancel safe: nothing is read until the future ends.
    ///
    /// # Errors
    ///
    /// As [`Stream::try_read`], without `WouldBlock`.
    pub async fn read(&mut self, buf: &mut BytesMut, fds: &mut VecDeque<Attachment>) -> io::Result<Received> {
        poll_fn(|context| self.poll_read(context, buf, fds)).await
    }

    /// Polls for something to read, and reads once as [`Stream::try_read`] does.
    ///
    /// # Errors
    ///
    /// As [`Stream::try_read`], without `WouldBlock`.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buf: &mut BytesMut,
        fds: &mut VecDeque<Attachment>,
    ) -> Poll<io::Result<Received>> {
        self.watch_for(false)?;
        loop {
            let _ = ready!(self.io()?.poll_read_ready(context)?);
            match self.try_read(buf, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Reads once as [`Stream::try_read`] does, or not at all if the reactor has seen nothing to read.
    ///
    /// After `WouldBlock`, [`ready`](Self::ready) waits.
    ///
    /// # Errors
    ///
    /// As [`Stream::try_read`].
    pub fn try_read(&mut self, buf: &mut BytesMut, fds: &mut VecDeque<Attachment>) -> io::Result<Received> {
        let io = self.io()?;
        let mut received = None;
        let result = io.try_io(TokioInterest::READABLE, |stream| {
            let got = stream.try_read(buf, fds)?;
            received = Some(got);
            // `WouldBlock` makes tokio wait for the next event. The reactor reports an arrival once, so this may be said only
            // when the socket is known to be empty: a read that descriptors cut short leaves the rest unreported. The end of
            // the stream stays readable for ever.
            if got.emptied() && got.bytes > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match received {
            Some(got) => Ok(got),
            None => Err(result.expect_err("without an error, something was received")),
        }
    }

    /// Looks for something to read, without the reactor, and reads once as [`Stream::look`] does; `None` if nothing came.
    ///
    /// The loop of the runtime stands still meanwhile, so this is for one whose other tasks have nothing to do. The reactor will
    /// report what was read here once more, which one read in vain clears.
    ///
    /// # Errors
    ///
    /// As [`Stream::try_read`].
    pub fn look(
        &mut self,
        now: Instant,
        buf: &mut BytesMut,
        fds: &mut VecDeque<Attachment>,
        busy: &mut BusyPoll,
    ) -> Option<(io::Result<Received>, Instant)> {
        match self.io() {
            Ok(io) => io.get_ref().look(now, buf, fds, busy),
            Err(error) => Some((Err(error), now)),
        }
    }

    /// Reads once as [`Stream::try_read`] does, whatever the reactor has seen: for one attempt of a look. The reactor will report
    /// what was read here once more, which one read in vain clears.
    ///
    /// # Errors
    ///
    /// As [`Stream::try_read`].
    pub fn read_now(&mut self, buf: &mut BytesMut, fds: &mut VecDeque<Attachment>) -> io::Result<Received> {
        self.io()?.get_ref().try_read(buf, fds)
    }

    /// Writes once as [`Stream::try_write`] does, without asking first whether there is room.
    ///
    /// After `WouldBlock` or a short write, [`ready`](Self::ready) waits for room; until there is some, further calls give
    /// `WouldBlock` without a system call.
    ///
    /// # Errors
    ///
    /// As [`Stream::try_write`].
    pub fn try_write(&mut self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let io = self.io()?;
        let Watch::Both(calm) = self.watch else { return io.get_ref().try_write(bufs, fds) };
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut written = None;
        let result = io.try_io(TokioInterest::WRITABLE, |stream| {
            let taken = stream.try_write(bufs, fds)?;
            written = Some(taken);
            if taken < offered { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let fitted = written == Some(offered);
        self.watch = Watch::Both(if fitted { calm.saturating_add(1) } else { 0 });
        match written {
            Some(taken) => Ok(taken),
            None => Err(result.expect_err("without an error, something was written")),
        }
    }

    /// Waits until the stream is ready for something of `interest`.
    ///
    /// The end of the stream and errors count as ready. What is said to be ready may turn out not to be: then the call that
    /// follows gives `WouldBlock`, and one waits again. Cancel safe.
    ///
    /// # Errors
    ///
    /// `NotConnected` after the reactor refused the socket; the errors of `epoll_ctl(2)`; `Other` when the runtime has ended.
    pub async fn ready(&mut self, interest: Interest) -> io::Result<Readiness> {
        poll_fn(|context| self.poll_ready(context, interest)).await
    }

    /// Polls for [`ready`](Self::ready).
    ///
    /// # Errors
    ///
    /// As [`ready`](Self::ready).
    pub fn poll_ready(
        &mut self,
        context: &mut Context<'_>,
        interest: Interest,
    ) -> Poll<io::Result<Readiness>> {
        let writes = matches!(interest, Interest::Write | Interest::ReadWrite);
        self.watch_for(writes)?;
        let io = self.io()?;
        let mut found = Readiness::default();
        if matches!(interest, Interest::Read | Interest::ReadWrite) {
            found.readable = is_ready(io.poll_read_ready(context))?;
        }
        if writes {
            found.writable = is_ready(io.poll_write_ready(context))?;
        }
        if found == Readiness::default() { Poll::Pending } else { Poll::Ready(Ok(found)) }
    }

    /// Waits until there may be room to write; as [`ready`](Self::ready) with [`Interest::Write`].
    ///
    /// # Errors
    ///
    /// As [`ready`](Self::ready).
    pub async fn writable(&mut self) -> io::Result<()> {
        self.ready(Interest::Write).await.map(|_| ())
    }

    /// Waits until there may be something to read; as [`ready`](Self::ready) with [`Interest::Read`].
    ///
    /// # Errors
    ///
    /// As [`ready`](Self::ready).
    pub async fn readable(&mut self) -> io::Result<()> {
        self.ready(Interest::Read).await.map(|_| ())
    }

    /// Reads who is at the other end.
    ///
    /// # Errors
    ///
    /// As [`Stream::credentials`].
    pub fn credentials(&self) -> io::Result<Credentials> {
        self.io()?.get_ref().credentials()
    }

    /// Turns descriptors from the peer off, as [`Stream::refuse_fds`] does.
    ///
    /// # Errors
    ///
    /// As [`Stream::refuse_fds`].
    pub fn refuse_fds(&self) -> io::Result<FdRefusalState> {
        self.io()?.get_ref().refuse_fds()
    }

    /// Lets descriptors of the peer in again, as [`Stream::accept_fds`] does.
    ///
    /// # Errors
    ///
    /// As [`Stream::accept_fds`].
    pub fn accept_fds(&self) -> io::Result<()> {
        self.io()?.get_ref().accept_fds()
    }

    /// Ends one direction or both, as [`Stream::shutdown`] does.
    ///
    /// # Errors
    ///
    /// As [`Stream::shutdown`].
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.io()?.get_ref().shutdown(how)
    }

    /// Takes the stream back from the reactor.
    ///
    /// # Errors
    ///
    /// `NotConnected` after the reactor refused the socket.
    pub fn into_stream(self) -> io::Result<Stream> {
        self.io.map(AsyncFd::into_inner).ok_or_else(ended)
    }

    fn io(&self) -> io::Result<&AsyncFd<Stream>> {
        self.io.as_ref().ok_or_else(ended)
    }

    /// Changes what the reactor watches for, if it must. A new registration reports at once what is ready by then, so that
    /// no event is lost between the two.
    fn watch_for(&mut self, writes: bool) -> io::Result<()> {
        let (watch, interest) = match self.watch {
            Watch::Reads if writes => (Watch::Both(0), TokioInterest::READABLE | TokioInterest::WRITABLE),
            Watch::Both(calm) if !writes && calm >= CALM_WRITES => (Watch::Reads, TokioInterest::READABLE),
            Watch::Reads | Watch::Both(_) => return Ok(()),
        };
        let stream = self.io.take().ok_or_else(ended)?.into_inner();
        self.io = Some(sys::register(stream, interest)?);
        self.watch = watch;
        Ok(())
    }
}

/// A listener that waits by tokio.
#[derive(Debug)]
pub struct AsyncListener(AsyncFd<Listener>);

impl AsyncListener {
    /// Registers a listener with the reactor of the current runtime.
    ///
    /// # Errors
    ///
    /// As [`AsyncStream::new`].
    ///
    /// # Panics
    ///
    /// As [`AsyncStream::new`].
    pub fn new(listener: Listener) -> io::Result<Self> {
        require_runtime()?;
        Ok(Self(sys::register(listener, TokioInterest::READABLE)?))
    }

    /// Waits for a connection and takes it.
    ///
    /// Cancel safe: a connection is either given out or left in the queue.
    ///
    /// # Errors
    ///
    /// As [`Listener::try_accept`], without `WouldBlock`. After `EMFILE` or `ENFILE` the connection is still in the queue and
    /// the next call finds it at once: pause first.
    pub async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// Polls for [`accept`](Self::accept).
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            if let Ok(result) = guard.try_io(|listener| listener.get_ref().try_accept()) {
                return Poll::Ready(result);
            }
        }
    }

    /// The listener.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        self.0.get_ref()
    }

    /// Takes the listener back from the reactor.
    #[must_use]
    pub fn into_listener(self) -> Listener {
        self.0.into_inner()
    }
}

fn is_ready<G>(polled: Poll<io::Result<G>>) -> io::Result<bool> {
    match polled {
        Poll::Ready(result) => result.map(|_| true),
        Poll::Pending => Ok(false),
    }
}

/// tokio panics outside of a runtime, and a library should not.
fn require_runtime() -> io::Result<()> {
    tokio::runtime::Handle::try_current().map(|_| ()).map_err(io::Error::other)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the reactor refused the socket earlier")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{self, IoSlice};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use bytes::BytesMut;

    use super::{AsyncListener, AsyncStream, CALM_WRITES, Watch};
    use crate::address::Address;
    use crate::listener::{Access, Listener};
    use crate::stream::{Interest, Stream};
    use crate::sys::counters;

    /// Far above anything that a wake-up takes: a test that reaches it has lost one.
    const LOST: Duration = Duration::from_secs(20);

    fn pair() -> (AsyncStream, Stream) {
        let (near, far) = Stream::pair().expect("a pair");
        (AsyncStream::new(near).expect("registered"), far)
    }

    /// Reads until there is nothing more, and gives the text, the number of descriptors and of `recvmsg` calls.
    async fn read(stream: &mut AsyncStream, wanted: usize) -> (Vec<u8>, usize, usize) {
        let (mut buf, mut fds) = (BytesMut::with_capacity(wanted + 4096), VecDeque::new());
        let before = counters::receives();
        while buf.len() < wanted {
            let got = tokio::time::timeout(LOST, stream.read(&mut buf, &mut fds)).await;
            assert_ne!(got.expect("a wake-up was lost").expect("read").bytes, 0, "the stream ended early");
        }
        (buf.to_vec(), fds.len(), counters::receives() - before)
    }

    #[tokio::test]
    async fn a_call_costs_one_recvmsg_and_one_sendmsg() {
        let (mut near, far) = pair();
        let (mut buf, mut fds) = (BytesMut::with_capacity(4096), VecDeque::new());
        for _ in 0..100 {
            far.try_write(&[IoSlice::new(b"call")], &[]).expect("written");
            let (receives, sends) = (counters::receives(), counters::sends());
            near.ready(Interest::Read).await.expect("ready");
            assert_eq!(near.try_read(&mut buf, &mut fds).expect("read").bytes, 4);
            // The loop of a session looks once more before it waits. That must not reach the kernel.
            let again = near.try_read(&mut buf, &mut fds).expect_err("nothing more");
            assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(near.try_write(&[IoSlice::new(b"reply")], &[]).expect("written"), 5);
            assert_eq!((counters::receives() - receives, counters::sends() - sends), (1, 1));
            assert_eq!(far.try_read(&mut buf, &mut fds).expect("read").bytes, 5);
            buf.clear();
        }
    }

    #[tokio::test]
    async fn descriptors_that_split_the_stream_lose_no_wake_up() {
        let (mut near, far) = pair();
        let fd = io::stdin();
        for round in 0..50 {
            // All of it is there before the first read, so the reactor reports it once; each read ends behind descriptors.
            far.try_write(&[IoSlice::new(b"before ")], &[]).expect("written");
            far.try_write(&[IoSlice::new(b"with ")], &[fd.as_fd()]).expect("written");
            far.try_write(&[IoSlice::new(b"with more ")], &[fd.as_fd(), fd.as_fd()]).expect("written");
            far.try_write(&[IoSlice::new(b"after")], &[]).expect("written");
            let (text, fds, receives) = read(&mut near, 27).await;
            assert_eq!(String::from_utf8_lossy(&text), "before with with more after", "round {round}");
            assert_eq!((fds, receives), (3, 3));
        }
    }

    #[tokio::test]
    async fn a_read_that_fills_its_room_is_followed_by_another() {
        let (mut near, far) = pair();
        far.try_write(&[IoSlice::new(&[7; 300])], &[]).expect("written");
        let mut total = 0;
        while total < 300 {
            let mut buf = BytesMut::with_capacity(100);
            let got = tokio::time::timeout(LOST, near.read(&mut buf, &mut VecDeque::new())).await;
            total += got.expect("a wake-up was lost").expect("read").bytes;
        }
        assert_eq!(total, 300);
    }

    #[tokio::test]
    async fn bytes_that_arrive_between_reads_are_reported() {
        let (mut near, far) = pair();
        for _ in 0..100 {
            far.try_write(&[IoSlice::new(b"ab")], &[]).expect("written");
            assert_eq!(read(&mut near, 2).await.0, b"ab");
            far.try_write(&[IoSlice::new(b"c")], &[]).expect("written");
            assert_eq!(read(&mut near, 1).await.0, b"c");
        }
    }

    #[tokio::test]
    async fn the_end_is_reported_again_and_again() {
        let (mut near, far) = pair();
        far.try_write(&[IoSlice::new(b"last")], &[]).expect("written");
        drop(far);
        assert_eq!(read(&mut near, 4).await.0, b"last");
        for _ in 0..3 {
            let (mut buf, mut fds) = (BytesMut::with_capacity(8), VecDeque::new());
            let got = tokio::time::timeout(LOST, near.read(&mut buf, &mut fds)).await;
            assert_eq!(got.expect("a wake-up was lost").expect("read").bytes, 0);
        }
        let gone = near.try_write(&[IoSlice::new(b"x")], &[]).expect_err("nobody reads");
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for_and_watched_only_meanwhile() {
        let (mut near, far) = pair();
        let chunk = vec![1; 64 * 1024];
        let mut sent = 0;
        let mut full = |near: &mut AsyncStream| loop {
            match near.try_write(&[IoSlice::new(&chunk)], &[]) {
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                Err(error) => panic!("{error}"),
            }
        };
        let first = full(&mut near);
        assert_eq!(near.watch, Watch::Reads);
        let waits = tokio::time::timeout(Duration::from_millis(20), near.writable()).await;
        assert!(waits.is_err(), "there is no room");
        assert_eq!(near.watch, Watch::Both(0));
        let sends = counters::sends();
        assert_eq!(full(&mut near), first);
        assert_eq!(counters::sends(), sends, "known to be full, so the kernel isn't asked");

        let (mut buf, mut fds) = (BytesMut::with_capacity(1 << 20), VecDeque::new());
        let mut drained = 0;
        while drained < first {
            drained += far.try_read(&mut buf, &mut fds).expect("read").bytes;
            buf.clear();
        }
        tokio::time::timeout(LOST, near.writable()).await.expect("a wake-up was lost").expect("room");
        for _ in 0..CALM_WRITES {
            assert_eq!(near.try_write(&[IoSlice::new(b"x")], &[]).expect("written"), 1);
        }
        far.try_write(&[IoSlice::new(b"y")], &[]).expect("written");
        tokio::time::timeout(LOST, near.readable()).await.expect("a wake-up was lost").expect("readable");
        assert_eq!(near.watch, Watch::Reads);
        assert_eq!(read(&mut near, 1).await.0, b"y");
    }

    #[tokio::test]
    async fn a_listener_hands_out_each_connection() {
        let directory = tempfile::tempdir().expect("a directory");
        let address = Address::unix(directory.path().join("s/invoked.sock")).expect("legal");
        let listener =
            AsyncListener::new(Listener::bind(&address, Access::Owner).expect("bound")).expect("registered");
        let clients = tokio::spawn(async move {
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(AsyncStream::connect(&address).await.expect("connected"));
            }
            clients
        });
        for _ in 0..20 {
            let stream = tokio::time::timeout(LOST, listener.accept()).await.expect("a wake-up was lost");
            drop(stream.expect("accepted"));
        }
        for mut client in clients.await.expect("the clients") {
            let (mut buf, mut fds) = (BytesMut::with_capacity(8), VecDeque::new());
            let got = tokio::time::timeout(LOST, client.read(&mut buf, &mut fds)).await;
            assert_eq!(got.expect("a wake-up was lost").expect("the end").bytes, 0);
        }
    }

    #[test]
    fn outside_of_a_runtime_it_is_an_error_and_no_panic() {
        let (near, _far) = Stream::pair().expect("a pair");
        assert!(AsyncStream::new(near).is_err());
    }
}
