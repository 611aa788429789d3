//! Between a socket and the core: one read into it, and all that it wants written.
//!
//! It moves bytes once, without waiting; when to do so is the clients' to know.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use bytes::BytesMut;
use invoked_transport::{Attachment, Received, SharedSegment};

use crate::core::{Core, Files, Memory};
use crate::file::OpenFile;

/// Room for what one read brings: a frame and what follows it. More after a read that filled it.
const USUAL_READ: usize = 64 * 1024;
const LARGE_READ: usize = 256 * 1024;

/// Pieces of one write: as many as the protocol puts into a batch.
const SLICES: usize = 64;

/// What was read and not yet given to the core. Its memory is used again once nothing shares it.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    bytes: BytesMut,
    fds: VecDeque<Attachment>,
    filled: bool,
}

impl ReadBuffer {
    /// Reads once; what came stays here for [`drain`](Self::drain).
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut BytesMut, &mut VecDeque<Attachment>) -> io::Result<Received>,
    ) -> io::Result<()> {
        self.bytes.reserve(if self.filled { LARGE_READ } else { USUAL_READ });
        let received = read(&mut self.bytes, &mut self.fds)?;
        self.filled = received.full;
        Ok(())
    }

    /// Tells the core how a read went that was through at `now`, and gives it what it brought.
    pub(crate) fn drain<W>(&mut self, now: Instant, result: io::Result<()>, core: &mut Core<Attachment, W>) {
        match result {
            Ok(()) => {
                let capacity = self.bytes.capacity();
                let bytes = self.bytes.split().freeze();
                core.handle_input(now, bytes, self.fds.drain(..), capacity);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => core.handle_read_error(error),
        }
    }
}

/// Writes what waits, as far as the socket takes it.
pub(crate) fn flush<W>(
    core: &mut Core<Attachment, W>,
    mut write: impl FnMut(&[IoSlice<'_>], &[BorrowedFd<'_>]) -> io::Result<usize>,
) {
    while let Some(transmit) = core.poll_transmit() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = transmit.slices(&mut slices);
        let written = if transmit.fds().is_empty() {
            write(&slices[..filled], &[])
        } else {
            let fds: Vec<BorrowedFd<'_>> = transmit.fds().iter().map(AsFd::as_fd).collect();
            write(&slices[..filled], &fds)
        };
        match written {
            Ok(written) => core.handle_written(written),
            Err(error) if is_passing(&error) => return,
            Err(error) => return core.handle_write_error(error),
        }
    }
}

/// A segment of the daemon's, to be read.
struct Shared(SharedSegment);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Maps a segment of the daemon's; `None` if it is none.
fn map(file: Attachment, len: u64) -> Option<Memory> {
    let segment = SharedSegment::map(&file, len).ok()?;
    Some(std::sync::Arc::new(Shared(segment)))
}

/// An open regular file of the daemon's.
fn open(file: Attachment, offset: u64, len: u64) -> Option<OpenFile> {
    OpenFile::new(file.into_fd().into(), offset, len)
}

/// What is made of file descriptors.
pub(crate) fn files() -> Files<Attachment> {
    Files { map, open, own: |file| file }
}

/// Errors that mean "not now".
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
