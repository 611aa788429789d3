//! A socket in memory that takes few bytes at a time. Time does not pass here; a wait with a limit may end without anything.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use invoked_transport::{Attachment, BusyPoll, Interest, Readiness, Received};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

/// What waits for the daemon at most: less than a call, so that writing stops in the middle.
const ROOM: usize = 100;

/// Looks of a thread at a socket that has nothing for it, on average, until its time is up.
const PATIENCE: u32 = 30;

/// The client's end.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Mutex<Wire>>);

/// The daemon's end.
#[derive(Debug)]
pub(crate) struct Far(Arc<Mutex<Wire>>);

#[derive(Debug, Default)]
struct Wire {
    to_client: BytesMut,
    to_daemon: BytesMut,
    /// The daemon is gone.
    closed: bool,
    /// The client has shut it down.
    shut: bool,
}

pub(crate) fn pair() -> (Stream, Far) {
    let wire = Arc::new(Mutex::new(Wire::default()));
    (Stream(Arc::clone(&wire)), Far(wire))
}

impl Stream {
    pub(crate) fn try_read(&self, buf: &mut BytesMut, _: &mut VecDeque<Attachment>) -> io::Result<Received> {
        let mut wire = self.0.lock().unwrap();
        if wire.to_client.is_empty() {
            let nothing = Received { bytes: 0, control: false, full: false };
            return if wire.closed || wire.shut { Ok(nothing) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let len = thread_rng().gen_range(1..=wire.to_client.len());
        buf.extend_from_slice(&wire.to_client.split_to(len));
        Ok(Received { bytes: len, control: false, full: false })
    }

    pub(crate) fn recv_wait(
        &self,
        buf: &mut BytesMut,
        fds: &mut VecDeque<Attachment>,
        _: Option<Duration>,
    ) -> io::Result<Received> {
        loop {
            match self.try_read(buf, fds) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            thread::yield_now();
            if thread_rng().gen_range(0..PATIENCE) == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    pub(crate) fn look(
        &self,
        _: Instant,
        _: &mut BytesMut,
        _: &mut VecDeque<Attachment>,
        _: &mut BusyPoll,
    ) -> Option<(io::Result<Received>, Instant)> {
        None
    }

    pub(crate) fn try_write(&self, bufs: &[IoSlice<'_>], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut wire = self.0.lock().unwrap();
        if wire.closed || wire.shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        for buf in bufs {
            let room = ROOM - wire.to_daemon.len();
            let len = buf.len().min(room);
            wire.to_daemon.extend_from_slice(&buf[..len]);
            written += len;
        }
        if written == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    pub(crate) fn wait(&self, interest: Interest, _: Option<Duration>) -> io::Result<Readiness> {
        loop {
            let wire = self.0.lock().unwrap();
            let is_over = wire.closed || wire.shut;
            let readable = interest != Interest::Write && (is_over || !wire.to_client.is_empty());
            let writable = interest != Interest::Read && (is_over || wire.to_daemon.len() < ROOM);
            drop(wire);
            if readable || writable || thread_rng().gen_range(0..PATIENCE) == 0 {
                return Ok(Readiness { readable, writable });
            }
            thread::yield_now();
        }
    }

    pub(crate) fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        self.0.lock().unwrap().shut = true;
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.lock().unwrap().shut = true;
    }
}

impl Far {
    /// Some of what has come; `None` once the client is gone.
    pub(crate) fn read(&self) -> Option<Bytes> {
        let mut wire = self.0.lock().unwrap();
        if wire.to_daemon.is_empty() {
            return (!wire.shut).then(Bytes::new);
        }
        let len = thread_rng().gen_range(1..=wire.to_daemon.len());
        Some(wire.to_daemon.split_to(len).freeze())
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().to_client.extend_from_slice(bytes);
    }

    pub(crate) fn close(&self) {
        self.0.lock().unwrap().closed = true;
    }
}
