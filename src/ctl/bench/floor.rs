//! The floors: bare Unix sockets, without any protocol.
//!
//! It owns the round trips; `bulk` has the floors of throughput. A floor's server is this program in a second process, with its end of a socket pair as standard input. A request is 64
//! bytes, as a small call is, of which the first four are the length of the reply.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bulk::{serve_batched, serve_items};
use super::{BenchError, Subject, TOKIO_UDS, UDS};
use crate::ctl::args::FloorKind;
use crate::ctl::failure::Failure;

/// Bytes of a request.
pub(super) const REQUEST: usize = 64;

/// The longest reply: what the daemon gives in one message.
pub(super) const LONGEST: usize = invoked_proto::registry::limits::MAX_MESSAGE;

/// A bare socket with its server in another process.
#[derive(Debug)]
pub struct Floor {
    system: &'static str,
    served: Served,
    reply: Vec<u8>,
}

/// A socket, and the process that serves its other end as long as this lives.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) socket: UnixStream,
    server: Child,
}

impl Floor {
    /// Starts the server of the blocking floor, [`UDS`]. `invokectl` is the program to start it with.
    ///
    /// # Errors
    /// [`BenchError::Io`] if the process can't be started.
    pub fn blocking(invokectl: &std::path::Path) -> Result<Self, BenchError> {
        Self::start(UDS, invokectl)
    }

    /// Starts the server of the tokio floor, [`TOKIO_UDS`].
    ///
    /// # Errors
    /// As [`blocking`](Self::blocking).
    pub fn tokio(invokectl: &std::path::Path) -> Result<Self, BenchError> {
        Self::start(TOKIO_UDS, invokectl)
    }

    fn start(system: &'static str, invokectl: &std::path::Path) -> Result<Self, BenchError> {
        Ok(Floor { system, served: Served::start(system, invokectl)?, reply: Vec::new() })
    }

    /// The process of its server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.served.pid()
    }

    /// The buffer that replies are read into: it begins with the last one.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.reply
    }
}

impl Served {
    /// Starts `invokectl bench-floor KIND`.
    pub(super) fn start(kind: &str, invokectl: &std::path::Path) -> Result<Self, BenchError> {
        let failed = || BenchError::io(format!("can't start {} bench-floor {kind}", invokectl.display()));
        let (socket, theirs) = UnixStream::pair().map_err(failed())?;
        let server = Command::new(invokectl)
            .args(["bench-floor", kind])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed())?;
        Ok(Served { socket, server })
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Subject for Floor {
    fn system(&self) -> &'static str {
        self.system
    }

    fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
        let len = usize::try_from(size).unwrap_or(usize::MAX).min(LONGEST);
        if self.reply.len() < len {
            self.reply.resize(len, 0);
        }
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&size.to_le_bytes());
        let socket = &mut self.served.socket;
        let trip = socket.write_all(&request).and_then(|()| socket.read_exact(&mut self.reply[..len]));
        trip.map_err(BenchError::io(self.system))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// Serves the socket on standard input until its other end is closed.
pub(in crate::ctl) fn serve(kind: FloorKind) -> Result<(), Failure> {
    let served = io::stdin().as_fd().try_clone_to_owned().and_then(|socket| {
        let socket = UnixStream::from(socket);
        match kind {
            FloorKind::Uds => serve_blocking(socket),
            FloorKind::TokioUds => serve_tokio(socket),
            FloorKind::UdsBatched => serve_batched(socket),
            FloorKind::UdsItems => serve_items(socket),
        }
    });
    match served {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        other => other.map_err(Failure::local("serving the socket on standard input")),
    }
}

fn serve_blocking(mut socket: UnixStream) -> io::Result<()> {
    let mut reply = Vec::new();
    loop {
        let mut request = [0; REQUEST];
        socket.read_exact(&mut request)?;
        socket.write_all(fill(&mut reply, &request)?)?;
    }
}

fn serve_tokio(socket: UnixStream) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        socket.set_nonblocking(true)?;
        let mut socket = tokio::net::UnixStream::from_std(socket)?;
        let mut reply = Vec::new();
        loop {
            let mut request = [0; REQUEST];
            socket.read_exact(&mut request).await?;
            socket.write_all(fill(&mut reply, &request)?).await?;
        }
    })
}

/// The reply that `request` asks for, in a buffer that is used again.
fn fill<'a>(reply: &'a mut Vec<u8>, request: &[u8; REQUEST]) -> io::Result<&'a [u8]> {
    let len = reply_len(request)?;
    if reply.len() < len {
        reply.resize(len, 0);
    }
    Ok(&reply[..len])
}

/// The size that `request` asks for.
pub(super) fn reply_len(request: &[u8]) -> io::Result<usize> {
    let size = request.first_chunk::<4>().map(|size| u32::from_le_bytes(*size));
    let len = size.and_then(|size| usize::try_from(size).ok()).filter(|len| *len <= LONGEST);
    len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a reply of that length is not given"))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    use super::{REQUEST, serve_blocking, serve_tokio};

    #[test]
    fn both_floors_answer_as_asked_and_end_with_the_socket() {
        for serve in [serve_blocking, serve_tokio] {
            let (mut ours, theirs) = UnixStream::pair().expect("a pair");
            let server = std::thread::spawn(move || serve(theirs));
            for len in [0_u32, 1, 100_000, 64] {
                let mut request = [7; REQUEST];
                request[..4].copy_from_slice(&len.to_le_bytes());
                ours.write_all(&request).expect("sent");
                let mut reply = vec![1; len as usize];
                ours.read_exact(&mut reply).expect("answered");
                assert!(reply.iter().all(|byte| *byte == 0));
            }
            drop(ours);
            let end = server.join().expect("no panic").expect_err("it serves until the end");
            assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_floor_refuses_an_absurd_length() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        ours.write_all(&[0xff; REQUEST]).expect("sent");
        assert_eq!(serve_blocking(theirs).expect_err("refused").kind(), ErrorKind::InvalidData);
    }
}
