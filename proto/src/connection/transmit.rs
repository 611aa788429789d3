//! A batch of output on its way to the socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads up to this size are copied behind their header: one memcpy of a cache line or sixteen costs less than
/// another entry in the kernel's scatter list.
const COPY_MAX: usize = 1024;

/// A batch is closed once it has this many bytes, so that one write can not hold the loop for long.
const BATCH_BYTES: usize = 256 * 1024;

/// Pieces of one batch: half of what the kernel takes in one call (IOV_MAX is 1024), and enough.
const BATCH_PIECES: usize = 64;

/// A buffer larger than this is not kept for the next batch.
const KEEP_CAPACITY: usize = 64 * 1024;

/// Bytes and file descriptors for one or more writes. It is reused: in the steady state nothing is allocated.
///
/// The file descriptors belong to the first byte; they are sent with the first write that takes a byte, once.
#[derive(Debug)]
pub struct Transmit<A> {
    /// Headers, metadata and small payloads, one after the other.
    copied: BytesMut,
    pieces: VecDeque<Piece>,
    fds: Vec<A>,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    /// The next so many bytes of `copied`.
    Copied(usize),
    Shared(Bytes),
}

impl<A> Default for Transmit<A> {
    fn default() -> Self {
        Transmit { copied: BytesMut::new(), pieces: VecDeque::new(), fds: Vec::new(), len: 0 }
    }
}

impl<A> Transmit<A> {
    /// Bytes not yet written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file descriptors to send with the next write; empty after the first [`advance`](Self::advance).
    #[must_use]
    pub fn fds(&self) -> &[A] {
        &self.fds
    }

    /// Takes the file descriptors that are to be sent with the next write, for a transport that gives them away.
    pub fn take_fds(&mut self) -> Vec<A> {
        std::mem::take(&mut self.fds)
    }

    /// Fills `slices` with what is to be written next and returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut copied: &'a [u8] = &self.copied;
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            *slot = match piece {
                Piece::Copied(len) => {
                    let (now, later) = copied.split_at(*len);
                    copied = later;
                    IoSlice::new(now)
                }
                Piece::Shared(bytes) => IoSlice::new(bytes),
            };
            filled += 1;
        }
        filled
    }

    /// Notes that `written` bytes went out, and drops what they were; the file descriptors went with the first.
    pub fn advance(&mut self, written: usize) {
        if written == 0 {
            return;
        }
        self.fds.clear();
        let mut left = written.min(self.len);
        self.len -= left;
        while left > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let (size, whole) = match piece {
                Piece::Copied(len) => {
                    let size = left.min(*len);
                    self.copied.advance(size);
                    *len -= size;
                    (size, *len == 0)
                }
                Piece::Shared(bytes) => {
                    let size = left.min(bytes.len());
                    bytes.advance(size);
                    (size, bytes.is_empty())
                }
            };
            left -= size;
            if whole {
                self.pieces.pop_front();
            }
        }
        if self.is_empty() {
            self.reset();
        }
    }

    /// Drops everything, written or not.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.fds.clear();
        self.len = 0;
        self.reset();
    }

    fn reset(&mut self) {
        self.copied.clear();
        if self.copied.capacity() > KEEP_CAPACITY {
            self.copied = BytesMut::new();
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.len >= BATCH_BYTES || self.pieces.len() >= BATCH_PIECES
    }

    pub(super) fn push_fds(&mut self, fds: Vec<A>) {
        debug_assert!(self.is_empty() && self.fds.is_empty(), "file descriptors begin a batch");
        self.fds = fds;
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() > COPY_MAX {
            self.len += bytes.len();
            self.pieces.push_back(Piece::Shared(bytes));
        } else if !bytes.is_empty() {
            self.append(|copied| copied.extend_from_slice(&bytes));
        }
    }

    /// Adds what `write` appends to the buffer of small pieces.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.copied.is_empty() {
            // Takes back the memory in front of what was written, so the buffer does not wander.
            self.copied.reserve(COPY_MAX);
        }
        let before = self.copied.len();
        write(&mut self.copied);
        let len = self.copied.len() - before;
        self.len += len;
        match self.pieces.back_mut() {
            Some(Piece::Copied(last)) => *last += len,
            _ => self.pieces.push_back(Piece::Copied(len)),
        }
    }
}
