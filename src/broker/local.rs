//! Calls that come from no connection: of a handler, as the daemon or for its own caller, and of tests.
//!
//! They are authorized, charged, run and ended as any other call. Only their stream tells them apart, and their answer
//! goes to whoever started them instead of a connection.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use invoked_proto::Text;
use invoked_proto::body::Message;
use invoked_proto::connection::More;
use invoked_proto::metadata::{Call, Extensions, HeaderField};
use invoked_proto::registry::{Delivery, ErrorCode, limits, tags};

use super::calls::{Ending, FirstOfCall};
use super::nested::on_behalf;
use super::quota::Resource;
use super::{Broker, PeerState, Standing};
use crate::authority::PeerFacts;
use crate::ipc::PeerId;

/// Streams of connections are smaller; so are those of any peer that lives for less than a million years.
const FIRST: u64 = 1 << 63;

/// Whether a stream is that of a call that comes from no connection.
pub(crate) fn is_local(stream: u64) -> bool {
    stream >= FIRST
}

/// A call that comes from no connection.
#[derive(Debug, Default)]
pub(crate) struct LocalCall {
    /// The canonical name of the command, or Tauri's.
    pub(crate) command: Text,
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) message: Message,
    /// The daemon's default if there is none.
    pub(crate) deadline: Option<Instant>,
    /// How many calls stand above this one.
    pub(crate) depth: u8,
    /// For whom it is made, besides the peer whose rights it has.
    pub(crate) behalf: Arc<[PeerId]>,
}

impl Broker {
    /// Somebody inside of the daemon calls with the rights of `facts`. That is no connection, and is charged for none; `None`
    /// if the daemon is stopping.
    pub(crate) fn handle_local_peer(&mut self, facts: PeerFacts) -> Option<PeerId> {
        if self.draining {
            return None;
        }
        let account = self.ledger.account(facts.uid);
        let grants = self.policy.peer(&facts);
        let allowance = account.allow(grants.limits());
        let nothing = account.charge_nothing(Resource::Connections);
        let id = self.add_peer(facts, grants, account, allowance, nothing);
        self.local_peers += 1;
        let state = self.peers.get_mut(&id).expect("it was added just now");
        state.standing = Standing::Welcomed;
        state.is_local = true;
        Some(id)
    }

    /// A call with the rights of `peer`, which may have a connection or not; the stream by which it is cancelled and
    /// under which its one answer comes out.
    pub(crate) fn handle_local_call(&mut self, now: Instant, peer: PeerId, call: LocalCall) -> u64 {
        let stream = FIRST + self.next_local;
        self.next_local += 1;
        if let Err(text) = check(&call) {
            let ending = Ending::framework(ErrorCode::ResourceExhausted, &text, Delivery::NotDelivered);
            self.answer(peer, stream, ending);
            return stream;
        }
        let mut extensions = Extensions::none();
        extensions.insert(tags::DEPTH, Bytes::copy_from_slice(&[call.depth]));
        on_behalf(&mut extensions, &call.behalf);
        let micros =
            |at: Instant| u64::try_from(at.saturating_duration_since(now).as_micros()).unwrap_or(u64::MAX);
        let record = Call {
            command: call.command,
            headers: call.headers,
            deadline_us: call.deadline.map(micros),
            channels: Vec::new(),
            parts: call.message.parts(),
            extensions,
        };
        let first =
            FirstOfCall { flags: 0, payload: payload(call.message), more: More::Whole, outside: None };
        self.handle_call(now, peer, stream, record, first);
        stream
    }
}

/// What a connection would have refused.
fn check(call: &LocalCall) -> Result<(), String> {
    let (depth, parts, len) = (call.depth, call.message.attachments.len() + 1, call.message.len());
    if usize::from(depth) > limits::MAX_DEPTH {
        return Err(format!("calls would be nested {depth} deep, above the limit of {}", limits::MAX_DEPTH));
    }
    if parts > limits::MAX_PARTS {
        return Err(format!("a call has at most {} attachments", limits::MAX_PARTS - 1));
    }
    if len > limits::MAX_MESSAGE {
        return Err(format!("a message of {len} bytes is above the limit of {}", limits::MAX_MESSAGE));
    }
    Ok(())
}

/// The bytes of all parts, one after the other. Those of a body alone are not copied.
fn payload(message: Message) -> Bytes {
    if message.attachments.is_empty() {
        return message.body.into_bytes();
    }
    let mut all = BytesMut::with_capacity(message.len());
    all.extend_from_slice(message.body.bytes());
    message.attachments.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

impl PeerState {
    /// Streams of its calls that come from no connection.
    pub(super) fn local_streams(&self) -> Vec<u64> {
        self.calls.keys().copied().filter(|stream| is_local(*stream)).collect()
    }
}
