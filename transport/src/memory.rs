//! A duplex stream inside the process, for tests of what sits above a socket.
//!
//! Owns an imitation of a Unix stream socket that has no kernel in it: bounded, so that writes come up short, and with the
//! kernel's rule on where descriptors end a read. It has no credentials, because nobody has connected.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::attachment::Attachment;
use crate::stream::{Interest, MAX_FDS_PER_SEND, Readiness, Received};

/// One end of a duplex stream inside the process.
///
/// Reads and writes have the shape and the meaning of [`Stream`](crate::Stream)'s `try_read` and `try_write`. Dropping an end
/// gives the other the end of the stream after what was written before, and `BrokenPipe` on writing.
#[derive(Debug)]
pub struct MemoryStream {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
}

impl MemoryStream {
    /// Makes two ends that are connected to each other; each direction holds up to `capacity` bytes.
    #[must_use]
    pub fn pair(capacity: usize) -> (Self, Self) {
        let one = Arc::new(Mutex::new(Pipe::new(capacity)));
        let other = Arc::new(Mutex::new(Pipe::new(capacity)));
        (
            Self { incoming: Arc::clone(&one), outgoing: Arc::clone(&other) },
            Self { incoming: other, outgoing: one },
        )
    }

    /// Reads once, without waiting, into the spare capacity of `buf`; descriptors go to the end of `fds`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is nothing to read, `InvalidInput` when `buf` has no spare capacity.
    pub fn try_read(&self, buf: &mut BytesMut, fds: &mut VecDeque<Attachment>) -> io::Result<Received> {
        lock(&self.incoming).read(buf, fds)
    }

    /// Writes once, without waiting, and gives the number of bytes taken; duplicates of `fds` ride the first of them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is no room, `BrokenPipe` when nobody will read, `InvalidInput` for descriptors without a byte or
    /// more than [`MAX_FDS_PER_SEND`], and the errors of duplicating a descriptor.
    pub fn try_write(&self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        lock(&self.outgoing).write(bufs, fds)
    }

    /// Polls for something of `interest`; the task is woken when it may have come. One task at a time may wait at each end.
    pub fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<Readiness> {
        let reads = matches!(interest, Interest::Read | Interest::ReadWrite);
        let writes = matches!(interest, Interest::Write | Interest::ReadWrite);
        let readable = reads && lock(&self.incoming).is_readable_or_wakes(context.waker());
        let writable = writes && lock(&self.outgoing).is_writable_or_wakes(context.waker());
        if readable || writable { Poll::Ready(Readiness { readable, writable }) } else { Poll::Pending }
    }

    /// Ends one direction or both.
    pub fn shutdown(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            lock(&self.incoming).stop_reading();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            lock(&self.outgoing).stop_writing();
        }
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.shutdown(Shutdown::Both);
    }
}

/// Bytes of one write, and the descriptors that ride the first of them.
#[derive(Debug)]
struct Segment {
    bytes: BytesMut,
    fds: Vec<Attachment>,
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    segments: VecDeque<Segment>,
    held: usize,
    capacity: usize,
    writer_gone: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            held: 0,
            capacity,
            writer_gone: false,
            reader_gone: false,
            reader: None,
            writer: None,
        }
    }

    fn read(&mut self, buf: &mut BytesMut, fds: &mut VecDeque<Attachment>) -> io::Result<Received> {
        let room = buf.capacity() - buf.len();
        if room == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no room to receive into"));
        }
        if self.segments.is_empty() && !self.writer_gone && !self.reader_gone {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (mut bytes, mut control) = (0, false);
        // As in the kernel: what came before descriptors is read along with them, what comes behind them is not.
        while bytes < room && !control {
            let Some(segment) = self.segments.front_mut() else { break };
            control = !segment.fds.is_empty();
            fds.extend(segment.fds.drain(..));
            let taken = segment.bytes.split_to(segment.bytes.len().min(room - bytes));
            buf.extend_from_slice(&taken);
            bytes += taken.len();
            if segment.bytes.is_empty() {
                self.segments.pop_front();
            }
        }
        self.held -= bytes;
        wake(&mut self.writer);
        Ok(Received { bytes, control, full: bytes == room })
    }

    fn write(&mut self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        if !fds.is_empty() && (offered == 0 || fds.len() > MAX_FDS_PER_SEND) {
            let text = "file descriptors need a byte to ride on, and at most 253 go at once";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if self.reader_gone || self.writer_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = offered.min(self.capacity - self.held);
        if taken == 0 {
            return if offered == 0 { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let fds =
            fds.iter().map(|fd| fd.try_clone_to_owned().map(Attachment::from)).collect::<io::Result<_>>()?;
        let mut bytes = BytesMut::with_capacity(taken);
        for buf in bufs {
            let left = taken - bytes.len();
            bytes.extend_from_slice(&buf[..buf.len().min(left)]);
        }
        self.held += taken;
        self.segments.push_back(Segment { bytes, fds });
        wake(&mut self.reader);
        Ok(taken)
    }

    fn is_readable_or_wakes(&mut self, waker: &Waker) -> bool {
        let readable = !self.segments.is_empty() || self.writer_gone || self.reader_gone;
        if !readable {
            self.reader = Some(waker.clone());
        }
        readable
    }

    fn is_writable_or_wakes(&mut self, waker: &Waker) -> bool {
        let writable = self.held < self.capacity || self.reader_gone || self.writer_gone;
        if !writable {
            self.writer = Some(waker.clone());
        }
        writable
    }

    fn stop_reading(&mut self) {
        self.reader_gone = true;
        self.segments.clear();
        self.held = 0;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    fn stop_writing(&mut self) {
        self.writer_gone = true;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waiter: &mut Option<Waker>) {
    if let Some(waker) = waiter.take() {
        waker.wake();
    }
}

/// A test that panicked while it held the lock has failed already; its peer's clean-up must not panic on top of it.
fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{self, IoSlice};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use bytes::BytesMut;

    use super::MemoryStream;
    use crate::stream::{Interest, Readiness};

    fn read(stream: &MemoryStream, room: usize) -> (Vec<u8>, usize) {
        let (mut buf, mut fds) = (BytesMut::with_capacity(room), VecDeque::new());
        let got = stream.try_read(&mut buf, &mut fds).expect("read");
        assert_eq!((got.bytes, got.control), (buf.len(), !fds.is_empty()));
        (buf.to_vec(), fds.len())
    }

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.expect_err("an error").kind()
    }

    #[test]
    fn writes_come_up_short_at_the_capacity_and_reads_make_room() {
        let (near, far) = MemoryStream::pair(4);
        assert_eq!(near.try_write(&[IoSlice::new(b"ab"), IoSlice::new(b"cdef")], &[]).expect("some"), 4);
        assert_eq!(kind(near.try_write(&[IoSlice::new(b"e")], &[])), io::ErrorKind::WouldBlock);
        assert_eq!(read(&far, 3), (b"abc".to_vec(), 0));
        assert_eq!(near.try_write(&[IoSlice::new(b"efgh")], &[]).expect("some"), 3);
        assert_eq!(read(&far, 64), (b"defg".to_vec(), 0));
        assert_eq!(
            kind(far.try_read(&mut BytesMut::with_capacity(1), &mut VecDeque::new())),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(
            kind(far.try_read(&mut BytesMut::new(), &mut VecDeque::new())),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn descriptors_end_a_read_behind_what_they_came_with() {
        let (near, far) = MemoryStream::pair(64);
        let fd = io::stdin();
        near.try_write(&[IoSlice::new(b"before ")], &[]).expect("sent");
        near.try_write(&[IoSlice::new(b"with")], &[fd.as_fd(), fd.as_fd()]).expect("sent");
        near.try_write(&[IoSlice::new(b"after")], &[]).expect("sent");
        assert_eq!(read(&far, 64), (b"before with".to_vec(), 2));
        assert_eq!(read(&far, 64), (b"after".to_vec(), 0));
        assert_eq!(kind(near.try_write(&[IoSlice::new(b"")], &[fd.as_fd()])), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_end_comes_after_the_last_bytes() {
        let (near, far) = MemoryStream::pair(64);
        near.try_write(&[IoSlice::new(b"last")], &[]).expect("sent");
        near.shutdown(Shutdown::Write);
        assert_eq!(kind(near.try_write(&[IoSlice::new(b"x")], &[])), io::ErrorKind::BrokenPipe);
        assert_eq!(far.try_write(&[IoSlice::new(b"still")], &[]).expect("the other way is open"), 5);
        assert_eq!(read(&far, 64), (b"last".to_vec(), 0));
        assert_eq!(read(&far, 64), (Vec::new(), 0));
        drop(near);
        assert_eq!(kind(far.try_write(&[IoSlice::new(b"x")], &[])), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn waiting_tasks_are_woken() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (near, far) = MemoryStream::pair(1);

        assert_eq!(far.poll_ready(&mut context, Interest::Read), Poll::Pending);
        near.try_write(&[IoSlice::new(b"x")], &[]).expect("sent");
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let ready = Readiness { readable: true, writable: true };
        assert_eq!(far.poll_ready(&mut context, Interest::ReadWrite), Poll::Ready(ready));
        assert_eq!(near.poll_ready(&mut context, Interest::Write), Poll::Pending);
        read(&far, 1);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert_eq!(near.poll_ready(&mut context, Interest::Read), Poll::Pending);
        drop(far);
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
    }
}
