//! What can be wrong, sorted by who is to blame: bytes, the peer, or our own caller.

use thiserror::Error;

use crate::registry::{ErrorCode, FrameKind};

/// A record that does not follow SPEC.md, "Records".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The record ends before its last field.
    #[error("record ends before its last field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("bytes after the last field of a record")]
    TrailingBytes,
    /// An integer, or a length, is written longer than it needs to be.
    #[error("integer of a record is not in its shortest form")]
    NotMinimal,
    /// A length inside the record asks for more than the guard allows.
    #[error("length inside a record is above the guard")]
    LimitExceeded,
    /// A text is not UTF-8.
    #[error("text of a record is not UTF-8")]
    NotUtf8,
    /// A field has a value that it can not have.
    #[error("field of a record has a value it can not have")]
    BadValue,
    /// More headers, parts, channels, extensions or other items than allowed.
    #[error("too many {0} in a record")]
    TooMany(&'static str),
    /// A name is empty, too long or badly formed.
    #[error("{0} of a record is badly formed")]
    Malformed(&'static str),
    /// Extension tags are not strictly ascending.
    #[error("extension tags are not strictly ascending")]
    TagOrder,
    /// A critical extension that this side does not know.
    #[error("unknown critical extension {0:#06x}")]
    UnknownTag(u16),
}

/// Bytes that are not a frame of this protocol. Every one is fatal to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The first bytes are not the magic number.
    #[error("not the magic number of invoked")]
    BadMagic,
    /// The frame is larger than what the receiver takes.
    #[error("frame of {len} bytes is above the limit of {max}")]
    FrameTooLarge {
        /// Bytes after the header, as announced.
        len: u32,
        /// What the receiver takes.
        max: u32,
    },
    /// The metadata is larger than allowed.
    #[error("metadata of {0} bytes is above its limit")]
    MetadataTooLarge(u16),
    /// The metadata is said to be longer than the frame.
    #[error("metadata of {meta_len} bytes in a frame of {len}")]
    MetadataBeyondFrame {
        /// Bytes of metadata, as announced.
        meta_len: u16,
        /// Bytes after the header, as announced.
        len: u32,
    },
    /// A critical frame kind that this side does not know, or that is only reserved.
    #[error("unknown critical frame kind {0:#04x}")]
    UnknownKind(u8),
    /// A codec number that is not assigned.
    #[error("unknown codec {0}")]
    UnknownCodec(u8),
    /// The reserved byte of the header is not zero.
    #[error("reserved byte of the header is {0}, not 0")]
    ReservedByte(u8),
    /// A stream id of 2^53 or more.
    #[error("stream id {0} is not below 2^53")]
    StreamTooLarge(u64),
    /// More file descriptors than a frame may carry.
    #[error("{0} file descriptors in one frame")]
    TooManyFds(u8),
    /// A frame claims file descriptors that did not come.
    #[error("frame claims {claimed} file descriptors and {queued} came")]
    FdsMissing {
        /// As the header says.
        claimed: u8,
        /// As the socket brought.
        queued: usize,
    },
    /// File descriptors came that no frame claims.
    #[error("{0} file descriptors came that no frame claims")]
    FdsUnclaimed(usize),
    /// The metadata is not the record of its kind.
    #[error("{kind}: {error}", kind = kind.name())]
    Record {
        /// The frame.
        kind: FrameKind,
        /// What is wrong with its record.
        error: RecordError,
    },
}

impl DecodeError {
    /// The code that the peer is told.
    #[must_use]
    pub fn wire_code(self) -> ErrorCode {
        match self {
            DecodeError::FrameTooLarge { .. } | DecodeError::MetadataTooLarge(_) => ErrorCode::TooLarge,
            DecodeError::TooManyFds(_) | DecodeError::FdsMissing { .. } | DecodeError::FdsUnclaimed(_) => {
                ErrorCode::AttachmentRefused
            }
            DecodeError::BadMagic
            | DecodeError::MetadataBeyondFrame { .. }
            | DecodeError::UnknownKind(_)
            | DecodeError::UnknownCodec(_)
            | DecodeError::ReservedByte(_)
            | DecodeError::StreamTooLarge(_)
            | DecodeError::Record { .. } => ErrorCode::Protocol,
        }
    }
}

/// Legal bytes that are illegal now, or from this side. Every one is fatal to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerError {
    /// The bytes themselves.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No wire version in common.
    #[error("no wire version in common: the peer has {min} to {max}")]
    Version {
        /// The peer's oldest.
        min: u16,
        /// The peer's newest.
        max: u16,
    },
    /// The daemon refused the connection in its preface.
    #[error("the daemon refused the connection")]
    Refused,
    /// The preface announces a `max_frame` below the floor, or a version that was not offered.
    #[error("preface announces a value out of range")]
    BadPreface,
    /// A frame that may not come in this state or from this side.
    #[error("{} may not come now", .0.name())]
    Unexpected(FrameKind),
    /// A frame on stream 0 that needs a stream, or the other way round.
    #[error("{} on the wrong stream", .0.name())]
    WrongStream(FrameKind),
    /// A stream opened with an id that is not the opener's, or not above the last.
    #[error("stream {0} can not be opened")]
    StreamOrder(u64),
    /// A frame for a stream that was never opened.
    #[error("stream {0} was never opened")]
    UnknownStream(u64),
    /// The bytes of a message are more or fewer than its parts announced.
    #[error("message does not match its announced length")]
    MessageLength,
    /// The codec of the header and of part 0 differ, or a body of no bytes kind has bytes.
    #[error("header and parts disagree on the body")]
    BodyMismatch,
    /// An extension that only the daemon may write.
    #[error("extension {0:#06x} may only come from the daemon")]
    DaemonOnly(u16),
    /// Something that needs a feature which is not in force.
    #[error("feature is not in force")]
    Feature,
    /// A channel that the call does not declare.
    #[error("channel {channel} of stream {stream} was never declared")]
    UnknownChannel {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
    },
    /// Payload beyond the credit that the receiver gave.
    #[error("payload beyond the credit")]
    Overrun,
    /// Credit that adds up to more than can be counted.
    #[error("credit adds up to more than 2^63 - 1")]
    CreditOverflow,
    /// A part names bytes that lie in no segment of its sender's.
    #[error("a part is not in segment {0}, or not in this generation of it")]
    NoSegment(u32),
    /// A part names a file descriptor that its frame does not have.
    #[error("a part is in file descriptor {0}, which its frame does not have")]
    NoFile(u8),
    /// A segment without its one file descriptor, of no size or a too large one, one too many, or older than the last under
    /// its number.
    #[error("segment {0} can not be introduced so")]
    BadSegment(u32),
    /// RELEASE names a lease, or confirms file descriptors, that the peer does not have.
    #[error("gives back what it does not have")]
    NotLent,
    /// The handshake did not end in time.
    #[error("handshake took too long")]
    HandshakeTimeout,
    /// A frame was begun and not gone on with.
    #[error("frame was begun and not gone on with")]
    FrameTimeout,
    /// The connection ended in the middle of a frame.
    #[error("connection ended in the middle of a frame")]
    Truncated,
}

impl PeerError {
    /// The code that the peer is told.
    #[must_use]
    pub fn wire_code(self) -> ErrorCode {
        match self {
            PeerError::Decode(error) => error.wire_code(),
            PeerError::Version { .. } => ErrorCode::VersionMismatch,
            PeerError::Refused => ErrorCode::Unavailable,
            PeerError::HandshakeTimeout | PeerError::FrameTimeout => ErrorCode::DeadlineExceeded,
            PeerError::NoSegment(_) | PeerError::NoFile(_) | PeerError::BadSegment(_) => {
                ErrorCode::AttachmentRefused
            }
            PeerError::BadPreface
            | PeerError::Unexpected(_)
            | PeerError::WrongStream(_)
            | PeerError::StreamOrder(_)
            | PeerError::UnknownStream(_)
            | PeerError::MessageLength
            | PeerError::BodyMismatch
            | PeerError::DaemonOnly(_)
            | PeerError::Feature
            | PeerError::UnknownChannel { .. }
            | PeerError::Overrun
            | PeerError::CreditOverflow
            | PeerError::NotLent
            | PeerError::Truncated => ErrorCode::Protocol,
        }
    }
}

/// A request of our own caller that can not be met. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MisuseError {
    /// The connection does not take calls: it is not open yet, or no more.
    #[error("connection takes no calls")]
    NotOpen,
    /// More calls or bytes before WELCOME than allowed; try again once it is there.
    #[error("too much before the connection is welcomed")]
    TooEarly,
    /// As many calls are open as the peer allows.
    #[error("too many calls are open")]
    TooManyCalls,
    /// As many channels are open as the peer allows.
    #[error("too many channels are open")]
    TooManyChannels,
    /// The peer has no channels.
    #[error("the peer has no channels")]
    NoChannels,
    /// No such channel of this stream is open, or it goes the other way.
    #[error("channel {channel} of stream {stream} is not open")]
    NotAChannel {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
    },
    /// The message is above `max_message`.
    #[error("message of {len} bytes is above the limit of {max}")]
    MessageTooLarge {
        /// Bytes of all parts.
        len: u64,
        /// What the peer takes.
        max: u64,
    },
    /// The record is above `max_metadata` or breaks a rule of its own.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No such stream is open, or it is answered.
    #[error("stream {0} is not open")]
    NotAStream(u64),
    /// A part on a lane that is not in force.
    #[error("the lane is not in force")]
    NoLane,
    /// A part that is not where it was said to be, or that the peer has already.
    #[error("a part is not where it was put")]
    NotPlaced,
    /// No stream ids are left.
    #[error("stream ids of this connection are used up")]
    Exhausted,
}

impl MisuseError {
    /// The code under which a caller sees it.
    #[must_use]
    pub fn wire_code(self) -> ErrorCode {
        match self {
            MisuseError::NotOpen | MisuseError::Exhausted => ErrorCode::Unavailable,
            MisuseError::TooEarly | MisuseError::TooManyCalls | MisuseError::TooManyChannels => {
                ErrorCode::ResourceExhausted
            }
            MisuseError::NoChannels => ErrorCode::Unimplemented,
            MisuseError::MessageTooLarge { .. } | MisuseError::Record(RecordError::LimitExceeded) => {
                ErrorCode::TooLarge
            }
            MisuseError::Record(_) => ErrorCode::InvalidArgument,
            MisuseError::NotAStream(_)
            | MisuseError::NotAChannel { .. }
            | MisuseError::NoLane
            | MisuseError::NotPlaced => ErrorCode::Internal,
        }
    }
}
