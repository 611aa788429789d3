//! Bytes and file descriptors in, frames out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::error::DecodeError;
use crate::header::Header;
use crate::registry::{HEADER_LEN, limits};

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
/// Nothing is copied while whole frames arrive; of a frame that is split over reads, what has come is kept, in a
/// buffer that grows with it and is never larger than the frame: at most one header and `max_frame` bytes.
#[derive(Debug)]
pub struct Decoder<A> {
    max_frame: u32,
    /// File descriptors that one frame may carry.
    max_fds: usize,
    /// Not yet looked at.
    input: Bytes,
    /// The beginning of a frame that is not whole.
    partial: Vec<u8>,
    fds: VecDeque<A>,
}

impl<A> Decoder<A> {
    /// A decoder that takes frames of up to `max_frame` bytes after the header, each with as many file descriptors as
    /// the registry allows.
    #[must_use]
    pub fn new(max_frame: u32) -> Self {
        let (input, partial, fds) = (Bytes::new(), Vec::new(), VecDeque::new());
        Decoder { max_frame, max_fds: limits::MAX_FDS_PER_FRAME, input, partial, fds }
    }

    /// Changes the limit for the frames that begin from now on.
    pub fn set_max_frame(&mut self, max_frame: u32) {
        self.max_frame = max_frame;
    }

    /// Changes how many file descriptors a frame may carry: none may come unless both sides have the feature.
    pub fn set_max_fds(&mut self, max_fds: usize) {
        self.max_fds = max_fds.min(limits::MAX_FDS_PER_FRAME);
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

    /// File descriptors that have come and that no frame has taken.
    #[must_use]
    pub fn queued_fds(&self) -> usize {
        self.fds.len()
    }

    /// Drops everything that has come, and closes its file descriptors.
    pub fn clear(&mut self) {
        self.input = Bytes::new();
        self.partial = Vec::new();
        self.fds.clear();
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
            let header = self.check(bytes)?;
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
        let header = self.check(bytes)?;
        let whole = HEADER_LEN + header.len as usize;
        self.fill(whole);
        if self.partial.len() < whole {
            return self.keep_rest();
        }
        let bytes = Bytes::from(std::mem::take(&mut self.partial));
        self.finish(header, bytes).map(Some)
    }

    /// True between frames: nothing of a frame is kept.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.partial.is_empty() && self.input.is_empty()
    }

    fn check(&self, bytes: &[u8; HEADER_LEN]) -> Result<Header, DecodeError> {
        let header = Header::decode(bytes, self.max_frame)?;
        if usize::from(header.nfds) > self.max_fds {
            return Err(DecodeError::TooManyFds(header.nfds));
        }
        Ok(header)
    }

    /// Moves input behind the partial frame until it has `len` bytes.
    fn fill(&mut self, len: usize) {
        let missing = len.saturating_sub(self.partial.len()).min(self.input.len());
        if missing > 0 {
            let more = self.input.split_to(missing);
            append_within(&mut self.partial, &more, len);
        }
    }

    /// Keeps the beginning of a frame and checks that the file descriptors that came can only be its own.
    fn keep_rest(&mut self) -> Result<Option<Frame<A>>, DecodeError> {
        if self.partial.is_empty() && !self.input.is_empty() {
            let whole = match self.input.first_chunk::<HEADER_LEN>() {
                Some(bytes) => HEADER_LEN + self.check(bytes)?.len as usize,
                None => HEADER_LEN,
            };
            self.fill(whole);
        }
        let queued = self.fds.len();
        match self.partial.first_chunk::<HEADER_LEN>() {
            Some(bytes) => {
                let header = self.check(bytes)?;
                // They ride the frame's first byte, so they are here once its header is.
                if usize::from(header.nfds) > queued {
                    return Err(DecodeError::FdsMissing { claimed: header.nfds, queued });
                }
                if usize::from(header.nfds) < queued {
                    return Err(DecodeError::FdsUnclaimed(queued));
                }
            }
            // No header can claim more, so a peer that sends its header byte by byte can't make us hold more.
            None if queued > self.max_fds => return Err(DecodeError::FdsUnclaimed(queued)),
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
        if self.input.is_empty() && claimed < self.fds.len() {
            // Nothing is left that could claim them, so this frame is not acted on.
            return Err(DecodeError::FdsUnclaimed(self.fds.len()));
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

/// Appends `more` to a buffer that will never need more than `most` bytes: it doubles as it fills, but not past that.
pub(crate) fn append_within(buffer: &mut Vec<u8>, more: &[u8], most: usize) {
    let needed = buffer.len() + more.len();
    if needed > buffer.capacity() {
        let target = needed.max(buffer.capacity().saturating_mul(2).min(most));
        buffer.reserve_exact(target - buffer.len());
    }
    buffer.extend_from_slice(more);
}
