//! What the broker wants done, and what it lets be observed.

use std::sync::Arc;
use std::time::Duration;

use invoked_proto::Text;
use invoked_proto::body::Message;
use invoked_proto::connection::Settings;
use invoked_proto::metadata::{Extensions, Failure, Grant, HeaderField, Welcome};
use invoked_proto::registry::ErrorCode;

use super::decisions::DecisionId;
use super::monitor::{CallRecord, Timing};
use super::narrowing::Narrowing;
use super::relays::RelayId;
use super::routes::{CancelRouted, Forward};
use super::slots::CallId;
use crate::authority::PeerLimits;
use crate::commands::RegisteredCommand;
use crate::ipc::{Execution, FileBody, Outside, Peer, PeerId, Pipe, PipeId, WireCall};

/// What the connection of a peer is held to whose capabilities say `limits`, where `own` are the daemon's settings.
pub(crate) fn held_to(own: Settings, limits: &PeerLimits) -> Settings {
    let count = |name| limits.get(name).map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    Settings {
        max_message: limits.get("max_message").unwrap_or(own.max_message),
        open_calls: count("open_calls").unwrap_or(own.open_calls),
        open_channels: count("open_channels").unwrap_or(own.open_channels),
        ..own
    }
}

/// The channel that an item came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemOf {
    /// To a handler.
    Upload(PipeId),
    /// Between a caller and a provider.
    Relay(RelayId),
}

/// Something to do, in order.
#[derive(Debug)]
pub(crate) enum Output {
    /// Answer the peer's HELLO.
    Welcome {
        /// The peer.
        peer: PeerId,
        /// The answer.
        welcome: Welcome,
    },
    /// Find what is left to a peer that keeps only some capabilities, off the loop; it goes to
    /// [`Broker::handle_narrowed`](super::Broker::handle_narrowed).
    Narrow(Narrowing),
    /// Hold the peer's connection to what its capabilities say from now on.
    Bound {
        /// The peer.
        peer: PeerId,
        /// What they say.
        limits: PeerLimits,
    },
    /// Turn the peer away.
    Refuse {
        /// The peer.
        peer: PeerId,
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        message: String,
    },
    /// Answer a call with its result.
    Reply {
        /// The caller.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// Headers.
        headers: Vec<HeaderField>,
        /// Extensions, of a provider's result.
        extensions: Extensions,
        /// Body and attachments.
        message: Message,
        /// In the place of the body, which is raw and empty then.
        file: Option<FileBody>,
    },
    /// Answer a call with an error.
    Fail {
        /// The caller.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// The code.
        code: ErrorCode,
        /// The record.
        failure: Failure,
        /// Body and attachments of an application's error.
        message: Message,
    },
    /// Read what is elsewhere of a call's message than in the frames; it goes to
    /// [`Broker::handle_fetched`](super::Broker::handle_fetched), once.
    Fetch {
        /// The call.
        call: CallId,
        /// Whose it is.
        uid: u32,
        /// Where the parts are.
        outside: Outside,
    },
    /// Tell the peer again which lanes are taken from it.
    TellLanes(PeerId),
    /// Read the same of an item of a channel, at once; it goes to
    /// [`Broker::handle_item_fetched`](super::Broker::handle_item_fetched).
    FetchItem {
        /// The channel.
        item: ItemOf,
        /// Where the parts are.
        outside: Outside,
    },
    /// Run a hosted command.
    Run(Run),
    /// Send what waits in a pipe, as far as the connection takes it.
    ServeChannel {
        /// The receiver.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// What waits.
        pipe: Arc<Pipe>,
    },
    /// Ask the sender of a channel to send no more.
    StopChannel {
        /// The sender.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// The channel.
        channel: u32,
    },
    /// Give credit back to the sender of a channel.
    GiveCredit {
        /// The sender.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// How much.
        credit: u64,
    },
    /// End a channel at once; its call has ended before.
    CutChannel {
        /// The receiver.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        message: &'static str,
    },
    /// Call a provider, with [`forward`](super::forward); what comes of it goes to
    /// [`Broker::handle_forwarded`](super::Broker::handle_forwarded).
    Forward(Box<Forward>),
    /// Cancel a call to a provider; what comes of it goes to
    /// [`Broker::handle_withdrawn`](super::Broker::handle_withdrawn).
    CancelRouted(Box<CancelRouted>),
    /// Give a provider a grant.
    Grant {
        /// The provider.
        peer: PeerId,
        /// The grant, whose scopes fit a frame.
        grant: Grant,
    },
    /// Take a grant back.
    Ungrant {
        /// The provider.
        peer: PeerId,
        /// Its number.
        grant: u64,
    },
    /// Tell of the credit that comes for the channels of a stream on which the daemon sends.
    RelayChannels {
        /// The caller.
        peer: PeerId,
        /// Its stream.
        stream: u64,
    },
    /// Send what waits of a channel between a caller and a provider, by
    /// [`Broker::serve_relay`](super::Broker::serve_relay).
    ServeRelay {
        /// The receiver.
        peer: PeerId,
        /// Which channel.
        relay: RelayId,
    },
    /// Give the sender of a channel credit that its final receiver gave.
    PassCredit {
        /// The sender.
        peer: PeerId,
        /// Its stream.
        stream: u64,
        /// The channel.
        channel: u32,
        /// How much.
        credit: u64,
    },
    /// Nobody waits for this call any more.
    CancelHandler(CallId),
    /// Tell the peer to go.
    Drain(PeerId),
    /// Something to observe.
    Observed(Observed),
}

/// A hosted command to run; it ends with [`Broker::handle_completion`](super::Broker::handle_completion), once.
#[derive(Debug)]
pub(crate) struct Run {
    /// The call.
    pub(crate) call: CallId,
    /// Where.
    pub(crate) place: Place,
    /// What.
    pub(crate) command: Arc<RegisteredCommand>,
    /// With what.
    pub(crate) wire: WireCall,
    /// To be told when it runs, where somebody wants to know.
    pub(crate) timing: Option<Arc<Timing>>,
}

/// Where a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the loop, now.
    Inline,
    /// On the loop for its first poll.
    InlineAsync,
    /// On the pool of blocking threads.
    Pool,
    /// On the worker runtime.
    Workers,
    /// In another process.
    Provider,
}

/// Largest request that an inline command runs in place for, in bytes: parsing it costs less than a hop to the pool.
const INLINE_MAX: usize = 16 * 1024;

impl Place {
    /// Where a command runs with a request of so many bytes.
    pub(super) fn of(command: &RegisteredCommand, len: usize) -> Self {
        match command.execution() {
            Execution::Inline(_) if len <= INLINE_MAX && !command.is_demoted() => Place::Inline,
            Execution::InlineAsync(_) if len <= INLINE_MAX && !command.is_demoted() => Place::InlineAsync,
            Execution::Inline(_) | Execution::Blocking(_) | Execution::Deferred(_) => Place::Pool,
            Execution::Async(_) | Execution::InlineAsync(_) => Place::Workers,
        }
    }
}

/// Something that happened to a call. Bodies are not shown.
#[derive(Debug, Clone)]
pub(crate) enum Observed {
    /// A call was denied; told whoever watches, so that the operator's log has it, but not too often.
    Denied {
        /// Its id.
        decision: DecisionId,
        /// Who.
        peer: Arc<Peer>,
        /// What.
        command: Text,
        /// The full explanation, for the operator.
        explanation: String,
        /// Denials of the same kind that were not told since the last one.
        suppressed: u64,
    },
    /// A call was allowed and its message is whole; told while somebody watches.
    Started {
        /// The call.
        call: CallId,
        /// Who.
        peer: Arc<Peer>,
        /// What.
        command: Text,
        /// Bytes of its message.
        bytes: usize,
        /// From its first byte to here.
        received_in: Duration,
    },
    /// A call ended at its caller, or was refused; told while somebody monitors.
    Called(Box<CallRecord>),
    /// A call ended at its caller; told while somebody watches.
    Ended {
        /// The call.
        call: CallId,
        /// `None` for a result.
        code: Option<ErrorCode>,
        /// Bytes of the answer.
        bytes: usize,
        /// From the start to here.
        took: Duration,
    },
}
