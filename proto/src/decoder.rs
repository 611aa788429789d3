//! Bytes and file descriptors in, frames out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::error::DecodeError;
use crate::header::Header;
use crate::registry::HEADER_LEN;

/// A whole frame. Dropping it closes its file descriptors.
#[derive(Debug)]
pub struct Frame<A> {
    /// The header, checked.
    pub header: Header,
    /// The metadata; it shares the read buffer.
    pub metadata: Bytes,
    /// What follows the metadata; it shares the read buffer.
    pub payload: Bytes,
    /// As many as the header says.
    pub fds: Vec<A>,
}

/// Cuts a stream of bytes into frames and gives each the file descriptors that it claims.
///
/// Nothing is copied while whole frames arrive; of a frame that is split over reads, what has come is kept, at
/// most one header and `max_frame` bytes.
#[derive(Debug)]
pub struct Decoder<A> {
    max_frame: u32,
    /// Not yet looked at.
    input: Bytes,
    /// The beginning of a frame that is not whole.
    partial: BytesMut,
    fds: VecDeque<A>,
}

impl<A> Decoder<A> {
    /// A decoder that takes frames of up to `max_frame` bytes after the header.
    #[must_use]
    pub fn new(max_frame: u32) -> Self {
        Decoder { max_frame, input: Bytes::new(), partial: BytesMut::new(), fds: VecDeque::new() }
    }

    /// Changes the limit for the frames that begin from now on.
    pub fn set_max_frame(&mut self, max_frame: u32) {
        self.max_frame = max_frame;
    }

    /// Takes what one read brought. All earlier input must have been drained by [`next_frame`](Self::next_frame) or
    /// [`take_exact`](Self::take_exact).
    pub fn push(&mut self, data: Bytes, fds: impl IntoIterator<Item = A>) {
        if self.input.is_empty() {
            self.input = data;
        } else {
            // Only a caller that did not drain comes here; correct, not fast.
            let mut joined = BytesMut::with_capacity(self.input.len() + data.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&data);
            self.input = joined.freeze();
        }
        self.fds.extend(fds);
    }

    /// What has come and is not taken, without taking it: for looking at a preface before it is whole.
    #[must_use]
    pub fn peek(&self) -> (&[u8], &[u8]) {
        (&self.partial, &self.input)
    }

    /// Takes `N` bytes that are not a frame, or keeps what there is until they have come.
    pub fn take_exact<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.fill(N);
        let bytes = self.partial.first_chunk::<N>().copied()?;
        self.partial.clear();
        Some(bytes)
    }

    /// The next frame, `None` if more bytes are needed.
    ///
    /// # Errors
    /// Any rule of SPEC.md, "Frame header" or "File descriptors", that the input breaks. The decoder is of no use then.
    pub fn next_frame(&mut self) -> Result<Option<Frame<A>>, DecodeError> {
        if self.partial.is_empty() {
            // The common case: the frame begins in this read.
            let Some(bytes) = self.input.first_chunk::<HEADER_LEN>() else {
                return self.keep_rest();
            };
            let header = Header::decode(bytes, self.max_frame)?;
            let whole = HEADER_LEN + header.len as usize;
            if self.input.len() < whole {
                return self.keep_rest();
            }
            let bytes = self.input.split_to(whole);
            return self.finish(header, bytes).map(Some);
        }
        self.fill(HEADER_LEN);
        let Some(bytes) = self.partial.first_chunk::<HEADER_LEN>() else {
            return self.keep_rest();
        };
        let header = Header::decode(bytes, self.max_frame)?;
        let whole = HEADER_LEN + header.len as usize;
        self.fill(whole);
        if self.partial.len() < whole {
            return self.keep_rest();
        }
        let bytes = std::mem::take(&mut self.partial).freeze();
        self.finish(header, bytes).map(Some)
    }

    /// True between frames: nothing of a frame is kept.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.partial.is_empty() && self.input.is_empty()
    }

    /// Moves input behind the partial frame until it has `len` bytes.
    fn fill(&mut self, len: usize) {
        let missing = len.saturating_sub(self.partial.len()).min(self.input.len());
        if missing > 0 {
            // Grows with what arrives: a header alone makes us reserve nothing.
            let more = self.input.split_to(missing);
            self.partial.extend_from_slice(&more);
        }
    }

    /// Keeps the beginning of a frame and checks that the file descriptors that came can only be its own.
    fn keep_rest(&mut self) -> Result<Option<Frame<A>>, DecodeError> {
        let rest = std::mem::take(&mut self.input);
        self.partial.extend_from_slice(&rest);
        let queued = self.fds.len();
        match self.partial.first_chunk::<HEADER_LEN>() {
            Some(bytes) => {
                let header = Header::decode(bytes, self.max_frame)?;
                // They ride the frame's first byte, so they are here once its header is.
                if usize::from(header.nfds) > queued {
                    return Err(DecodeError::FdsMissing { claimed: header.nfds, queued });
                }
                if usize::from(header.nfds) < queued {
                    return Err(DecodeError::FdsUnclaimed(queued));
                }
            }
            None if self.partial.is_empty() && queued > 0 => return Err(DecodeError::FdsUnclaimed(queued)),
            None => {}
        }
        Ok(None)
    }

    fn finish(&mut self, header: Header, bytes: Bytes) -> Result<Frame<A>, DecodeError> {
        let claimed = usize::from(header.nfds);
        if claimed > self.fds.len() {
            return Err(DecodeError::FdsMissing { claimed: header.nfds, queued: self.fds.len() });
        }
        let fds = self.fds.drain(..claimed).collect();
        let metadata_end = HEADER_LEN + usize::from(header.meta_len);
        Ok(Frame {
            header,
            metadata: bytes.slice(HEADER_LEN..metadata_end),
            payload: bytes.slice(metadata_end..),
            fds,
        })
    }
}
