//! The clients of the simulated bus, callers and providers, and what they saw.

use std::collections::{BTreeMap, VecDeque};

use invoked_proto::body::Body;
use invoked_proto::connection::{Connection, Event, More};
use invoked_proto::metadata::{Call, Welcome};
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_proto::testing::Token;

use super::bus::Bus;
use super::wire::Wire;
use crate::ipc::PeerId;

/// How a call ended at its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Reply(Body),
    Fail(ErrorCode, Delivery),
}

/// One client and the daemon's side of its connection.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) uid: u32,
    pub(super) client: Connection<Token>,
    pub(super) daemon: Connection<Token>,
    /// What is on its way between them.
    pub(super) wire: Wire,
    /// The decisions that came with errors, by stream.
    pub(super) decisions: BTreeMap<u64, String>,
    /// Terminal events by stream; more than one for a stream is a bug.
    pub(super) ends: BTreeMap<u64, Vec<End>>,
    /// How it was welcomed.
    pub(super) welcome: Option<Welcome>,
    /// What came on each channel.
    pub(super) channels: BTreeMap<(u64, u32), Came>,
    /// Whether items are consumed as they come.
    pub(super) consumes: bool,
    /// How often it was told that a channel on which it sends has ended.
    pub(super) stops: BTreeMap<(u64, u32), usize>,
    /// Channels that take items of its again.
    pub(super) credited: Vec<(u64, u32)>,
    /// Calls of the daemon's that it has, in the order in which they came.
    pub(super) called: VecDeque<Called>,
    /// Those of them that were cancelled.
    pub(super) withdrawn: Vec<u64>,
    /// Grants that it has: their scopes.
    pub(super) granted: BTreeMap<u64, serde_json::Value>,
}

/// A call at a provider.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) stream: u64,
    pub(super) flags: u16,
    pub(super) call: Call,
    /// What of its message has come.
    pub(super) body: Vec<u8>,
    pub(super) is_whole: bool,
}

/// What a client saw of a channel.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Came {
    /// Lengths of its items.
    pub(super) items: Vec<usize>,
    /// Credit of items that are not consumed.
    pub(super) held: u64,
    growing: usize,
    /// How many were left out before each of the items, and before its end.
    pub(super) lagged: Vec<u64>,
    /// How it ended; more than one is a bug.
    pub(super) ends: Vec<Option<ErrorCode>>,
}

impl Came {
    /// Notes bytes of an item; whether it is whole.
    pub(super) fn advance(&mut self, bytes: usize, more: More, credit: u64) -> bool {
        assert!(self.ends.is_empty(), "an item after the end");
        self.growing += bytes;
        self.held += credit;
        if more == More::Whole {
            self.items.push(std::mem::take(&mut self.growing));
        }
        more == More::Whole
    }
}

impl Bus {
    pub(super) fn take_replies(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        while let Some(event) = peer.client.poll_event() {
            peer.client.release(event.payload_len());
            let (stream, end) = match event {
                Event::Called { stream, flags, call, payload, more, .. } => {
                    let (body, is_whole) = (payload.to_vec(), more == More::Whole);
                    peer.called.push_back(Called { stream, flags, call, body, is_whole });
                    continue;
                }
                Event::Continued { stream, payload, more } if stream.is_multiple_of(2) => {
                    if let Some(called) = peer.called.iter_mut().find(|called| called.stream == stream) {
                        called.body.extend_from_slice(&payload);
                        called.is_whole = more == More::Whole;
                    }
                    continue;
                }
                Event::Cancelled { stream } => {
                    peer.withdrawn.push(stream);
                    continue;
                }
                Event::Granted(grant) => {
                    let scopes = serde_json::from_slice(grant.scopes()).unwrap();
                    peer.granted.insert(grant.grant, scopes);
                    continue;
                }
                Event::Ungranted(ungrant) => {
                    assert!(peer.granted.remove(&ungrant.grant).is_some(), "it had no such grant");
                    continue;
                }
                Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                    let came = peer.channels.entry((stream, channel)).or_default();
                    came.lagged.push(item.lagged());
                    if came.advance(payload.len(), more, credit) && peer.consumes {
                        peer.client.give_credit(stream, channel, std::mem::take(&mut came.held));
                    }
                    continue;
                }
                Event::ItemContinued { stream, channel, payload, more, credit } => {
                    let came = peer.channels.entry((stream, channel)).or_default();
                    if came.advance(payload.len(), more, credit) && peer.consumes {
                        peer.client.give_credit(stream, channel, std::mem::take(&mut came.held));
                    }
                    continue;
                }
                Event::ChannelEnded { stream, channel, code, lagged, .. } => {
                    let came = peer.channels.entry((stream, channel)).or_default();
                    came.ends.push(code);
                    came.lagged.push(lagged);
                    continue;
                }
                Event::ChannelStopped { stream, channel } => {
                    *peer.stops.entry((stream, channel)).or_default() += 1;
                    continue;
                }
                Event::ChannelCredited { stream, channel } => {
                    peer.credited.push((stream, channel));
                    continue;
                }
                Event::Replied { stream, reply, payload, .. } => {
                    let body = invoked_proto::body::Assembly::begin(reply.parts, payload).unwrap();
                    // Long replies are only counted here; their bytes are tested in proto.
                    let body = if body.is_complete() { body.finish().unwrap().body } else { Body::None };
                    (stream, End::Reply(body))
                }
                Event::Failed { stream, code, failure, .. } => {
                    let decision = failure.decision.map(|id| (stream, id.as_str().to_owned()));
                    peer.decisions.extend(decision);
                    (stream, End::Fail(code, failure.delivery))
                }
                _ => continue,
            };
            peer.ends.entry(stream).or_default().push(end);
        }
    }
}
