//! What a connection tells its owner, in past tense.

use bytes::Bytes;

use crate::metadata::{Call, Failure, GoAway, Hello, Reply, Welcome};
use crate::registry::ErrorCode;

/// Something the peer did. An event owns what came with it; dropping it closes its file descriptors.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<A> {
    /// The client said who it is; answer with [`Connection::welcome`](super::Connection::welcome) or
    /// [`Connection::refuse`](super::Connection::refuse). Calls that came with it follow.
    Greeted(Hello),
    /// The daemon took the connection.
    Welcomed(Welcome),
    /// The daemon refused the connection in its preface; nothing will follow.
    Refused {
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        reason: String,
    },
    /// The peer called.
    Called {
        /// The stream, for the answer.
        stream: u64,
        /// Flags of the frame: IDEMPOTENT, SENSITIVE.
        flags: u16,
        /// Command, headers, deadline, parts.
        call: Call,
        /// The first bytes of the message.
        payload: Bytes,
        /// Whether [`Event::Continued`] will bring the rest.
        more: More,
        /// Attached file descriptors.
        fds: Vec<A>,
    },
    /// More bytes of a call's or a reply's own message came.
    Continued {
        /// The stream.
        stream: u64,
        /// The bytes.
        payload: Bytes,
        /// Whether there are more.
        more: More,
    },
    /// Our call was answered.
    Replied {
        /// The stream.
        stream: u64,
        /// Headers and parts.
        reply: Reply,
        /// The first bytes of the message.
        payload: Bytes,
        /// Whether [`Event::Continued`] will bring the rest.
        more: More,
        /// Attached file descriptors.
        fds: Vec<A>,
    },
    /// Our call failed.
    Failed {
        /// The stream.
        stream: u64,
        /// The code; [`ErrorCode::Application`] for the command's own error.
        code: ErrorCode,
        /// Message, delivery, parts.
        failure: Failure,
        /// The first bytes of the message.
        payload: Bytes,
        /// Whether [`Event::Continued`] will bring the rest.
        more: More,
        /// Attached file descriptors.
        fds: Vec<A>,
    },
    /// The peer no longer wants the call; it has not been answered yet.
    Cancelled {
        /// The stream.
        stream: u64,
    },
    /// The peer takes no more calls.
    WentAway {
        /// Why; `None` for a drain.
        code: Option<ErrorCode>,
        /// The last stream it took, and why.
        notice: GoAway,
    },
    /// Our PING was answered.
    Ponged {
        /// Its nonce.
        nonce: u32,
    },
}

/// Whether a message is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// It is.
    Whole,
    /// Fragments follow.
    Follows,
}
