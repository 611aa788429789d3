//! The 32 bytes that each side sends first, frozen for all versions (SPEC.md, "Preface").

use bytes::{Buf, BufMut, BytesMut};

use crate::error::{DecodeError, PeerError};
use crate::registry::{ErrorCode, MAGIC, PREFACE_LEN, WIRE_VERSION, limits};

/// A preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preface {
    /// Oldest wire version of the sender; in the daemon's answer, the chosen one.
    pub version_min: u16,
    /// Newest wire version of the sender; in the daemon's answer, the chosen one. 0 and 0 refuse.
    pub version_max: u16,
    /// Largest frame, without its header, that the sender takes.
    pub max_frame: u32,
    /// Features of the sender; those in force are what both have.
    pub features: u64,
    /// From the daemon: a number that changes with each start. From a client: any number.
    pub instance: u64,
}

impl Preface {
    /// Checks as much of the magic number as has come, so that a text peer is turned away at its first byte.
    ///
    /// # Errors
    /// [`DecodeError::BadMagic`] if `bytes` can't become a preface.
    pub fn check_magic(bytes: &[u8]) -> Result<(), DecodeError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] == MAGIC[..seen] { Ok(()) } else { Err(DecodeError::BadMagic) }
    }

    /// Reads a preface.
    ///
    /// # Errors
    /// [`DecodeError::BadMagic`] if it does not begin with the magic number.
    pub fn decode(bytes: &[u8; PREFACE_LEN]) -> Result<Self, DecodeError> {
        Self::check_magic(bytes)?;
        let mut rest = &bytes[MAGIC.len()..];
        Ok(Preface {
            version_min: rest.get_u16_le(),
            version_max: rest.get_u16_le(),
            max_frame: rest.get_u32_le(),
            features: rest.get_u64_le(),
            instance: rest.get_u64_le(),
        })
    }

    /// Appends the 32 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&MAGIC);
        out.put_u16_le(self.version_min);
        out.put_u16_le(self.version_max);
        out.put_u32_le(self.max_frame);
        out.put_u64_le(self.features);
        out.put_u64_le(self.instance);
    }

    /// The newest version that both this preface and this library have.
    ///
    /// # Errors
    /// [`PeerError::Version`] if there is none.
    pub fn choose(&self) -> Result<u16, PeerError> {
        if self.version_min <= WIRE_VERSION && WIRE_VERSION <= self.version_max {
            Ok(WIRE_VERSION)
        } else {
            Err(PeerError::Version { min: self.version_min, max: self.version_max })
        }
    }

    /// The frame size to keep to when sending to whoever wrote this preface.
    ///
    /// # Errors
    /// [`PeerError::BadPreface`] below the floor.
    pub fn usable_max_frame(&self) -> Result<u32, PeerError> {
        const FLOOR: u32 = narrow(limits::MAX_FRAME_FLOOR);
        const CEILING: u32 = narrow(limits::MAX_FRAME_CEILING);
        if self.max_frame < FLOOR { Err(PeerError::BadPreface) } else { Ok(self.max_frame.min(CEILING)) }
    }
}

/// Appends what follows a refusing preface: the code, the length of the reason, the reason (UTF-8).
pub fn encode_refusal(code: ErrorCode, reason: &str, out: &mut BytesMut) {
    let mut end = reason.len().min(limits::REFUSAL_REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u32_le(code.as_u32());
    out.put_u32_le(u32::try_from(end).expect("a reason is at most 1 KiB"));
    out.put_slice(&reason.as_bytes()[..end]);
}

/// Narrows a constant of the registry at compile time.
#[allow(clippy::cast_possible_truncation)] // the assertion is evaluated by the compiler
pub(crate) const fn narrow(value: usize) -> u32 {
    assert!(value <= u32::MAX as usize);
    value as u32
}
