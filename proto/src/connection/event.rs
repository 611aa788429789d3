//! What a connection tells its owner, in past tense.

use bytes::Bytes;

use super::LaneSet;
use crate::metadata::{Call, Failure, GoAway, Grant, Hello, Item, Reply, Segment, Ungrant, Welcome};
use crate::registry::ErrorCode;
use crate::text::Text;

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
    /// An item began on a channel that we receive on.
    ItemCame {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// Its parts.
        item: Item,
        /// The first bytes of the message.
        payload: Bytes,
        /// Whether [`Event::ItemContinued`] will bring the rest.
        more: More,
        /// To be given back with [`Connection::give_credit`](super::Connection::give_credit) once the item is consumed.
        credit: u64,
        /// Attached file descriptors.
        fds: Vec<A>,
    },
    /// More bytes of a channel's item came.
    ItemContinued {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// The bytes.
        payload: Bytes,
        /// Whether there are more.
        more: More,
        /// As for [`Event::ItemCame`], to be added to it.
        credit: u64,
    },
    /// A channel that we receive on has ended; an item that is not whole is lost.
    ChannelEnded {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// Why; `None` if it ended well.
        code: Option<ErrorCode>,
        /// Why, for people.
        message: Text,
        /// How many items the sender left out since the last one.
        lagged: u64,
    },
    /// A channel that we send on has ended: its receiver wants no more, or the call failed.
    ChannelStopped {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
    },
    /// A channel takes items again after [`Sent::NeedsCredit`](super::Sent::NeedsCredit).
    ChannelCredited {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
    },
    /// The receiver of a channel that we send on gave credit, and the channel is one whose credit is passed on
    /// ([`Connection::relay_channels`](super::Connection::relay_channels)).
    CreditCame {
        /// The stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// How much.
        bytes: u64,
    },
    /// The daemon gives a grant, which calls name from now on, or gives one anew, with a larger generation.
    Granted(Grant),
    /// The daemon takes a grant back: no call names it any more.
    Ungranted(Ungrant),
    /// The peer introduced a segment; later messages have parts in it. An older one of the same number is of no use any more,
    /// save for what of it is still leased.
    SegmentCame {
        /// Its number, generation and size.
        segment: Segment,
        /// Its file, of which nothing is verified.
        file: A,
    },
    /// The peer gave a segment up: nothing of it will be named again.
    SegmentGone {
        /// Its number.
        segment: u32,
        /// Its generation.
        generation: u32,
    },
    /// The client has something to send on these lanes; answer with
    /// [`Connection::take_lanes`](super::Connection::take_lanes).
    LanesAsked(LaneSet),
    /// These are the lanes that the daemon takes from this client from now on.
    LanesTold(LaneSet),
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

impl<A> Event<A> {
    /// Bytes of payload that came with it, for [`Connection::release`](super::Connection::release).
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Event::Called { payload, .. }
            | Event::Continued { payload, .. }
            | Event::Replied { payload, .. }
            | Event::Failed { payload, .. }
            | Event::ItemCame { payload, .. }
            | Event::ItemContinued { payload, .. } => payload.len(),
            _ => 0,
        }
    }
}

/// Whether a message is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// It is.
    Whole,
    /// Fragments follow.
    Follows,
}
