//! A connected Unix socket that carries bytes and file descriptors.
//!
//! Owns one socket and moves bytes through it, one system call per call. It keeps no bytes, knows no frames and waits only
//! where its name says so; how a socket comes to be connected is in [`connect`](crate::connect) and
//! [`Listener`](crate::Listener).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use thiserror::Error;

use crate::attachment::{Attachment, Closer};
use crate::busy_poll::BusyPoll;
use crate::credentials::Credentials;
use crate::sys::{self, Blocking};

/// The most file descriptors that one [`Stream::try_write`] may carry: the kernel's own bound (`SCM_MAX_FD`).
///
/// Reads always have room for as many, so no peer can make a read lose any.
pub const MAX_FDS_PER_SEND: usize = 253;

/// A connected Unix stream socket.
///
/// The socket itself is in blocking mode; the calls named `try_…` never wait, the others say how long they do. All take
/// `&self`, and one thread may write while another reads; two readers at once would tear the stream apart.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    /// `SO_RCVTIMEO` as last set, in milliseconds; 0 is none. Kept to set it only when it must change.
    receive_timeout: AtomicU64,
    /// A [`Rights`], as a number.
    rights: AtomicU8,
    /// Who closes what comes; without one, whoever drops it.
    closer: Option<Arc<dyn Closer>>,
}

/// Whether descriptors may come with the next bytes.
///
/// What was sent before they were refused still carries them, so only a read that found the socket empty after the refusal
/// shows that none can come any more. Then reads need no room for them, which makes each cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Rights {
    Possible,
    Refused,
    Impossible,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// Bytes added to the buffer; 0 is the end of the stream.
    pub bytes: usize,
    /// Whether file descriptors came with them.
    pub control: bool,
    /// Whether the buffer's spare capacity was filled.
    pub full: bool,
}

impl Received {
    /// Whether the socket was certainly empty right after this read.
    ///
    /// A read that was short for another reason than emptiness is one that brought descriptors: the kernel ends a read behind
    /// them, whatever follows. After such a one, and after a full one, there may be more.
    #[must_use]
    pub fn emptied(self) -> bool {
        !self.full && !self.control
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, or the end of the stream.
    Read,
    /// Room to write.
    Write,
    /// Either.
    ReadWrite,
}

/// What a wait found; nothing is set when the time ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A read will not block: bytes, the end of the stream or an error wait.
    pub readable: bool,
    /// A write will not block: there is room, or an error waits.
    pub writable: bool,
}

/// The kernel had to cut off a control message, and with it file descriptors of the peer.
///
/// It comes as the inner error of an [`io::Error`] of kind `InvalidData`. Since every read has room for as many descriptors as
/// can come at once, it means that this process has no free descriptors left. Which frames lost theirs can't be known, so the
/// connection has to be closed; what did arrive is closed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("file descriptors of the peer were lost on the way: this process can't open more (see `ulimit -n`)")]
pub struct ControlTruncated;

/// Whether the kernel keeps descriptors away from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FdRefusalState {
    /// A peer that sends descriptors gets an error.
    InForce,
    /// This kernel can't (before 6.16): they will arrive, and the reader must close them.
    Unsupported,
}

impl Stream {
    /// Makes two streams that are connected to each other.
    ///
    /// # Errors
    ///
    /// The errors of `socketpair(2)`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self::from_checked(one), Self::from_checked(other)))
    }

    /// Takes over a connected socket, for example one that was inherited.
    ///
    /// It becomes blocking and close-on-exec.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for what is no Unix stream socket, and the errors of `getsockopt(2)`, `ioctl(2)` and `fcntl(2)`.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if socket_domain(&fd)? != AddressFamily::UNIX || socket_type(&fd)? != SocketType::STREAM {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor is no Unix stream socket",
            ));
        }
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        // Inherited options may include a timeout, which would contradict the one remembered.
        set_socket_timeout(&fd, Timeout::Recv, None)?;
        ioctl_fionbio(&fd, false)?;
        Ok(Self::from_checked(fd))
    }

    /// Wraps a socket that is known to be a connected, blocking, close-on-exec Unix stream without timeouts.
    pub(crate) fn from_checked(fd: OwnedFd) -> Self {
        let rights = AtomicU8::new(Rights::Possible as u8);
        Self { fd, receive_timeout: AtomicU64::new(0), rights, closer: None }
    }

    /// Reads once, without waiting, into the spare capacity of `buf`; descriptors go to the end of `fds`.
    ///
    /// Descriptors come with the first byte of what they were sent with, but bytes that were written before may come in the
    /// same read, so arrival does not tell which frame owns them (SPEC.md, "File descriptors"). They are close-on-exec.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is nothing to read. `InvalidData` with [`ControlTruncated`] inside, upon which all of `fds` is
    /// closed. `InvalidInput` when `buf` has no spare capacity. Else the errors of `recvmsg(2)`. `buf` is unchanged after any
    /// error.
    pub fn try_read(&self, buf: &mut BytesMut, fds: &mut VecDeque<Attachment>) -> io::Result<Received> {
        self.receive(buf, fds, Blocking::Never)
    }

    /// Reads once as [`try_read`](Self::try_read) does, but waits in the same system call until there is something.
    ///
    /// It costs one `recvmsg` or `recv`. The socket's own timeout is changed only when it can't serve, so that calls with much the same
    /// `timeout` don't pay for setting it. `None` waits without end.
    ///
    /// # Errors
    ///
    /// `TimedOut` when `timeout` passed, else as [`try_read`](Self::try_read) without `WouldBlock`.
    pub fn recv_wait(
        &self,
        buf: &mut BytesMut,
        fds: &mut VecDeque<Attachment>,
        timeout: Option<Duration>,
    ) -> io::Result<Received> {
        let deadline = Deadline::after(timeout);
        let mut left = timeout;
        loop {
            self.limit_receive(left)?;
            match self.receive(buf, fds, Blocking::Allowed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The kernel's timeout has passed. It may be shorter than ours, or one that an earlier call left behind.
                    left = deadline.left()?;
                    if left.is_none() {
                        self.set_receive_timeout(0)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => left = deadline.left()?,
                result => return result,
            }
        }
    }

    /// Looks for something to read, as far as `busy` thinks that worth it, and reads once as [`try_read`](Self::try_read) does;
    /// `None` if nothing came. Waiting is what is left to do then. `now` is when it begins, and it says when it was through.
    pub fn look(
        &self,
        now: Instant,
        buf: &mut BytesMut,
        fds: &mut VecDeque<Attachment>,
        busy: &mut BusyPoll,
    ) -> Option<(io::Result<Received>, Instant)> {
        busy.look(now, || match self.try_read(buf, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        })
    }

    /// Writes once, without waiting, and gives the number of bytes taken; `fds` ride the first of them.
    ///
    /// The descriptors are sent if and only if the call succeeds, so what is left after a short write goes without them. They
    /// stay the caller's. A peer that is gone is an error and never a signal. No more than 1024 slices are looked at.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is no room. `InvalidInput` for descriptors without a byte, or more than [`MAX_FDS_PER_SEND`].
    /// [`FdRefusal`](crate::FdRefusal) tells the kernel's refusals of descriptors. Else the errors of `sendmsg(2)`.
    pub fn try_write(&self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        sys::send(self.as_fd(), bufs, fds)
    }

    /// Waits until the stream is ready for something of `interest`, or `timeout` has passed.
    ///
    /// `None` waits without end. Signals don't end the wait. The end of the stream and errors count as ready for whatever was
    /// asked, so that the next call brings them up.
    ///
    /// # Errors
    ///
    /// The errors of `poll(2)`.
    pub fn wait(&self, interest: Interest, timeout: Option<Duration>) -> io::Result<Readiness> {
        let wanted = match interest {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
            Interest::ReadWrite => PollFlags::IN | PollFlags::OUT,
        };
        let deadline = Deadline::after(timeout);
        let mut left = timeout;
        loop {
            let mut polled = [PollFd::new(&self.fd, wanted)];
            let limit = left.map(timespec);
            match poll(&mut polled, limit.as_ref()) {
                Ok(_) => return Ok(readiness(wanted, polled[0].revents())),
                Err(Errno::INTR) => {
                    left = match deadline.left() {
                        Ok(left) => left,
                        Err(_) => return Ok(Readiness::default()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads who is at the other end.
    ///
    /// # Errors
    ///
    /// As [`Credentials::of`].
    pub fn credentials(&self) -> io::Result<Credentials> {
        Credentials::of(self.as_fd())
    }

    /// Turns descriptors from the peer off (`SO_PASSRIGHTS`).
    ///
    /// What was sent before is not called back: [`Listener::refuse_fds`](crate::Listener::refuse_fds) leaves no such moment.
    ///
    /// # Errors
    ///
    /// The errors of `setsockopt(2)`, except the one that means that the kernel is too old.
    pub fn refuse_fds(&self) -> io::Result<FdRefusalState> {
        let state = refusal_state(sys::pass_rights(self.as_fd(), false))?;
        if state == FdRefusalState::InForce {
            let possible = Rights::Possible as u8;
            // One that found the socket empty before stays as it is.
            let _ = self.rights.compare_exchange(
                possible,
                Rights::Refused as u8,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        Ok(state)
    }

    /// Lets descriptors of the peer in again, which [`refuse_fds`](Self::refuse_fds) had turned off.
    ///
    /// # Errors
    ///
    /// As [`refuse_fds`](Self::refuse_fds).
    pub fn accept_fds(&self) -> io::Result<()> {
        // First there is room for them, and then they may come.
        self.rights.store(Rights::Possible as u8, Ordering::Relaxed);
        refusal_state(sys::pass_rights(self.as_fd(), true)).map(|_| ())
    }

    /// Lets `closer` close all descriptors that come from now on, however they are dropped.
    pub fn close_by(&mut self, closer: Arc<dyn Closer>) {
        self.closer = Some(closer);
    }

    /// One read, without room for descriptors where none can come.
    fn receive(
        &self,
        buf: &mut BytesMut,
        fds: &mut VecDeque<Attachment>,
        blocking: Blocking,
    ) -> io::Result<Received> {
        let rights = self.rights.load(Ordering::Relaxed);
        if rights == Rights::Impossible as u8 {
            return sys::receive_bytes(self.as_fd(), buf, blocking);
        }
        let before = fds.len();
        let received = sys::receive(self.as_fd(), buf, fds, blocking);
        if let Some(closer) = &self.closer
            && fds.len() > before
        {
            let came = fds.split_off(before);
            fds.extend(came.into_iter().map(|fd| fd.closed_by(closer)));
        }
        if received
            .as_ref()
            .is_err_and(|error| error.get_ref().is_some_and(|why| why.is::<ControlTruncated>()))
        {
            fds.clear();
        }
        if rights == Rights::Refused as u8 {
            let empty = match &received {
                Ok(received) => received.emptied() && received.bytes > 0,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
            if empty {
                self.rights.store(Rights::Impossible as u8, Ordering::Relaxed);
            }
        }
        received
    }

    /// Ends one direction or both, for every holder of the socket; the peer reads the end of the stream.
    ///
    /// # Errors
    ///
    /// The errors of `shutdown(2)`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(&self.fd, how)?)
    }

    /// Gives up the wrapper; the socket stays blocking, and may have a receive timeout.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sees to it that a blocking read ends no later than `left` from now; it may end sooner.
    fn limit_receive(&self, left: Option<Duration>) -> io::Result<()> {
        let Some(left) = left else { return Ok(()) };
        let set = self.receive_timeout.load(Ordering::Relaxed);
        let wanted = kernel_timeout(left);
        // One that ends sooner is good enough unless much sooner: each end costs a wake-up.
        if set != 0 && set <= wanted && set >= wanted / 4 { Ok(()) } else { self.set_receive_timeout(wanted) }
    }

    fn set_receive_timeout(&self, milliseconds: u64) -> io::Result<()> {
        let timeout = (milliseconds != 0).then(|| Duration::from_millis(milliseconds));
        set_socket_timeout(&self.fd, Timeout::Recv, timeout)?;
        self.receive_timeout.store(milliseconds, Ordering::Relaxed);
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Reads the result of setting `SO_PASSRIGHTS`: a kernel that doesn't know the option can't refuse.
pub(crate) fn refusal_state(result: io::Result<()>) -> io::Result<FdRefusalState> {
    match result {
        Ok(()) => Ok(FdRefusalState::InForce),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOPROTOOPT) => {
            Ok(FdRefusalState::Unsupported)
        }
        Err(error) => Err(error),
    }
}

/// The kernel's timeout for a wait of `left`: the power of two, in milliseconds, at or below it, and at least 1.
///
/// The time that is left shrinks from read to read, and a timeout that follows it exactly would be set anew each time. A power
/// of two seldom changes. It ends early, and then the rest is waited for: at most a dozen wake-ups for a wait of a minute.
fn kernel_timeout(left: Duration) -> u64 {
    let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(1, MAX_KERNEL_TIMEOUT);
    1 << milliseconds.ilog2()
}

/// About twelve days: above, kernels of 32 bits count wrongly.
const MAX_KERNEL_TIMEOUT: u64 = 1 << 30;

/// A moment that a wait must not pass, or none.
struct Deadline(Option<Instant>);

impl Deadline {
    /// A time past what the clock can express is as good as none.
    fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(end) = self.0 else { return Ok(None) };
        match end.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // More seconds than the type holds are a wait of ages either way.
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn readiness(wanted: PollFlags, found: PollFlags) -> Readiness {
    let ended = found.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    Readiness {
        readable: found.contains(PollFlags::IN) || (ended && wanted.contains(PollFlags::IN)),
        writable: found.contains(PollFlags::OUT) || (ended && wanted.contains(PollFlags::OUT)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{self, IoSlice};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    use bytes::BytesMut;

    use super::{FdRefusalState, MAX_KERNEL_TIMEOUT, Stream, kernel_timeout, refusal_state};
    use crate::busy_poll::BusyPoll;
    use crate::sys::counters;

    #[test]
    fn the_kernel_s_timeout_never_exceeds_the_one_asked_for() {
        assert_eq!(kernel_timeout(Duration::ZERO), 1);
        assert_eq!(kernel_timeout(Duration::from_micros(900)), 1);
        assert_eq!(kernel_timeout(Duration::from_millis(29_999)), 16_384);
        assert_eq!(kernel_timeout(Duration::from_millis(30_000)), 16_384);
        assert_eq!(kernel_timeout(Duration::MAX), MAX_KERNEL_TIMEOUT);
    }

    #[test]
    fn a_waiting_read_with_a_steady_timeout_is_one_call_and_sets_nothing() {
        let (near, far) = Stream::pair().expect("a pair");
        let mut buf = BytesMut::with_capacity(64);
        let mut fds = VecDeque::new();
        let mut read = |timeout| {
            far.try_write(&[IoSlice::new(b"x")], &[]).expect("written");
            let before = counters::receives();
            let got = near.recv_wait(&mut buf, &mut fds, timeout).expect("read");
            assert_eq!((got.bytes, counters::receives() - before), (1, 1));
            near.receive_timeout.load(Ordering::Relaxed)
        };
        assert_eq!(read(Some(Duration::from_secs(30))), 16_384);
        assert_eq!(read(Some(Duration::from_secs(29))), 16_384);
        assert_eq!(read(Some(Duration::from_secs(60))), 16_384, "one that ends sooner serves too");
        assert_eq!(read(None), 16_384, "no timeout needs no change until the old one has passed");
        assert_eq!(read(Some(Duration::from_secs(1))), 512, "one that ends too late does not serve");
    }

    #[test]
    fn a_look_reads_what_is_there_and_does_not_wait() {
        let (near, far) = Stream::pair().expect("a pair");
        let (mut buf, mut fds) = (BytesMut::with_capacity(64), VecDeque::new());
        let mut busy = BusyPoll::new(BusyPoll::MAX);
        far.try_write(&[IoSlice::new(b"call")], &[]).expect("written");
        let got = near.look(Instant::now(), &mut buf, &mut fds, &mut busy).expect("there").0.expect("read");
        assert_eq!((got.bytes, &buf[..]), (4, &b"call"[..]));
        let mut busy = BusyPoll::new(BusyPoll::MAX);
        assert!(near.look(Instant::now(), &mut buf, &mut fds, &mut busy).is_none(), "nothing was sent");
        let before = counters::receives();
        assert!(near.look(Instant::now(), &mut buf, &mut fds, &mut busy).is_none());
        assert_eq!(counters::receives(), before, "the wait after a look in vain goes without");
        drop(far);
        let ended = near.look(Instant::now(), &mut buf, &mut fds, &mut BusyPoll::new(BusyPoll::MAX));
        assert_eq!(ended.expect("the end is found").0.expect("read").bytes, 0);
    }

    #[test]
    fn a_waiting_read_ends_when_its_time_has_passed_and_not_before() {
        let (near, _far) = Stream::pair().expect("a pair");
        let timeout = Duration::from_millis(37);
        let start = Instant::now();
        let error = near
            .recv_wait(&mut BytesMut::with_capacity(1), &mut VecDeque::new(), Some(timeout))
            .expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= timeout);
    }

    #[test]
    fn a_left_over_timeout_does_not_end_a_wait_without_end() {
        let (near, far) = Stream::pair().expect("a pair");
        near.set_receive_timeout(1).expect("set");
        let mut buf = BytesMut::with_capacity(1);
        let got = std::thread::scope(|scope| {
            let reader = scope.spawn(|| near.recv_wait(&mut buf, &mut VecDeque::new(), None));
            std::thread::sleep(Duration::from_millis(20));
            far.try_write(&[IoSlice::new(b"x")], &[]).expect("written");
            reader.join().expect("the reader").expect("read")
        });
        assert_eq!(got.bytes, 1);
        assert_eq!(near.receive_timeout.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_kernel_that_can_t_refuse_descriptors_says_so() {
        let outcome = |errno| refusal_state(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(refusal_state(Ok(())).expect("set"), FdRefusalState::InForce);
        assert_eq!(outcome(libc::ENOPROTOOPT).expect("an old kernel"), FdRefusalState::Unsupported);
        assert_eq!(outcome(libc::EPERM).expect_err("a fault").raw_os_error(), Some(libc::EPERM));
    }
}
