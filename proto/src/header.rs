//! The 24 bytes that open each frame (SPEC.md, "Frame header").

use bytes::{BufMut, BytesMut};

use crate::error::DecodeError;
use crate::registry::{Codec, FrameKind, HEADER_LEN, is_ignorable, limits};

/// Largest stream id: what a double holds exactly, so that every language can count streams.
pub const STREAM_MAX: u64 = (1 << 53) - 1;

/// A frame header, as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes after the header: metadata and payload.
    pub len: u32,
    /// The frame kind, not yet known to be one of ours.
    pub kind: u8,
    /// Codec of part 0.
    pub codec: Codec,
    /// Flags; unknown bits are ignored.
    pub flags: u16,
    /// The stream, 0 for the connection.
    pub stream: u64,
    /// Bytes of metadata right after the header.
    pub meta_len: u16,
    /// File descriptors that ride the frame's first byte.
    pub nfds: u8,
    /// By kind: an error code, a channel, a nonce.
    pub arg: u32,
}

impl Header {
    /// A header of `kind` for `stream` with nothing behind it.
    #[must_use]
    pub const fn new(kind: FrameKind, stream: u64) -> Self {
        Header {
            len: 0,
            kind: kind.as_u8(),
            codec: Codec::None,
            flags: 0,
            stream,
            meta_len: 0,
            nfds: 0,
            arg: 0,
        }
    }

    /// Reads a header and checks what can be checked before a byte of the frame is kept.
    ///
    /// # Errors
    /// The first rule of SPEC.md, "Frame header", that the bytes break.
    pub fn decode(bytes: &[u8; HEADER_LEN], max_frame: u32) -> Result<Self, DecodeError> {
        let [l0, l1, l2, l3, kind, codec, f0, f1, rest @ ..] = *bytes;
        let [s0, s1, s2, s3, s4, s5, s6, s7, m0, m1, nfds, reserved, a0, a1, a2, a3] = rest;
        let header = Header {
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            kind,
            codec: Codec::from_u8(codec).ok_or(DecodeError::UnknownCodec(codec))?,
            flags: u16::from_le_bytes([f0, f1]),
            stream: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            meta_len: u16::from_le_bytes([m0, m1]),
            nfds,
            arg: u32::from_le_bytes([a0, a1, a2, a3]),
        };
        if reserved != 0 {
            return Err(DecodeError::ReservedByte(reserved));
        }
        header.check(max_frame)?;
        Ok(header)
    }

    fn check(&self, max_frame: u32) -> Result<(), DecodeError> {
        if !is_ignorable(self.kind) && self.known_kind().is_none() {
            return Err(DecodeError::UnknownKind(self.kind));
        }
        if self.len > max_frame {
            return Err(DecodeError::FrameTooLarge { len: self.len, max: max_frame });
        }
        if usize::from(self.meta_len) > limits::MAX_METADATA {
            return Err(DecodeError::MetadataTooLarge(self.meta_len));
        }
        if u32::from(self.meta_len) > self.len {
            return Err(DecodeError::MetadataBeyondFrame { meta_len: self.meta_len, len: self.len });
        }
        if self.stream > STREAM_MAX {
            return Err(DecodeError::StreamTooLarge(self.stream));
        }
        if usize::from(self.nfds) > limits::MAX_FDS_PER_FRAME {
            return Err(DecodeError::TooManyFds(self.nfds));
        }
        Ok(())
    }

    /// The kind, if this version uses it; a reserved one is unknown.
    #[must_use]
    pub fn known_kind(&self) -> Option<FrameKind> {
        FrameKind::from_u8(self.kind).filter(|kind| !kind.is_reserved())
    }

    /// True if `flag` of [`crate::registry::flags`] is set.
    #[must_use]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Appends the 24 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut bytes = [0; HEADER_LEN];
        self.write(&mut bytes);
        out.put_slice(&bytes);
    }

    /// Writes the 24 bytes.
    pub fn write(&self, bytes: &mut [u8; HEADER_LEN]) {
        bytes[0..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.codec.as_u8();
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.stream.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[18] = self.nfds;
        bytes[19] = 0;
        bytes[20..24].copy_from_slice(&self.arg.to_le_bytes());
    }
}
