//! The message of a call, until it is whole: fragments that come, and parts that are elsewhere than in the frames, which others
//! read.

use std::time::Instant;

use bytes::Bytes;
use invoked_proto::connection::{LaneSet, More};
use invoked_proto::registry::{Delivery, ErrorCode, Lane};

use super::{Admitted, Assembly, Ending, Phase, Receiving, detached};
use crate::broker::narrowing::Early;
use crate::broker::output::Output;
use crate::broker::{Broker, CallId, PeerState};
use crate::ipc::{CallError, Fault, Outside, PeerId};

impl PeerState {
    /// The lanes on which its capabilities let it be sent, and send, bodies.
    pub(in crate::broker) fn allowed_lanes(&self) -> LaneSet {
        let all = [Lane::Pool, Lane::Sealed, Lane::File];
        LaneSet::of(
            all.into_iter().filter(|lane| self.grants.lanes().is_none_or(|lanes| lanes.allows(*lane))),
        )
    }

    /// What is elsewhere of a call's message, if it may be there.
    pub(super) fn check_outside(
        &self,
        outside: Option<Result<Outside, Fault>>,
    ) -> Result<Option<Outside>, Fault> {
        let outside = outside.transpose()?;
        outside.as_ref().map_or(Ok(()), |outside| self.check_lanes(outside)).map(|()| outside)
    }

    /// Holds what a peer sends elsewhere than in the frames against its capabilities.
    pub(in crate::broker) fn check_lanes(&self, outside: &Outside) -> Result<(), Fault> {
        let allowed = self.allowed_lanes();
        match outside.lanes().find(|lane| !allowed.contains(*lane)) {
            None => Ok(()),
            Some(lane) => {
                let text =
                    format!("no capability of this peer's allows the lane \"{}\" any more", lane.name());
                Err(Fault::refusal(ErrorCode::AttachmentRefused, text))
            }
        }
    }
}

impl Broker {
    /// More bytes of a call's message came.
    pub(crate) fn handle_continuation(
        &mut self,
        now: Instant,
        peer: PeerId,
        stream: u64,
        fragment: &[u8],
        more: More,
    ) {
        if self.is_waiting(peer) {
            let fragment = Bytes::copy_from_slice(fragment);
            return self.hold_early(peer, Early::Continuation { stream, fragment, more });
        }
        let Some(&id) = self.peers.get(&peer).and_then(|state| state.calls.get(&stream)) else { return };
        if self.revoke_if_gone(now, id) {
            return;
        }
        let Some(call) = self.calls.find_mut(id) else { return };
        let Phase::Receiving(receiving) = &mut call.phase else { return };
        if receiving.assembly.push(fragment).is_err() {
            // The connection checks lengths before it gives an event; this is a second lock on the same door.
            return self.end(
                now,
                id,
                Ending::framework(ErrorCode::Protocol, "message too long", Delivery::NotDelivered),
            );
        }
        if more == More::Whole {
            self.dispatch_whole(now, id);
        }
    }

    /// Keeps a call of whose message something is missing.
    pub(super) fn receive(
        &mut self,
        id: CallId,
        mut admitted: Admitted,
        assembly: Assembly,
        outside: Option<Outside>,
    ) {
        admitted.headers = detached(&admitted.headers);
        let Some(call) = self.calls.find_mut(id) else { return };
        if let Some(at) = call.deadline {
            self.deadlines.insert((at, id));
        }
        call.phase = Phase::Receiving(Receiving::new(assembly, admitted, outside.is_some()));
        let peer = call.peer;
        if let Some(outside) = outside {
            self.fetch(id, peer, outside);
        }
    }

    /// Has what is elsewhere of a call's message read.
    fn fetch(&mut self, call: CallId, peer: PeerId, outside: Outside) {
        let Some(uid) = self.peers.get(&peer).map(|state| state.peer.uid) else { return };
        self.outputs.push_back(Output::Fetch { call, uid, outside });
    }

    /// What is elsewhere of a call's message was read, or can't be.
    pub(crate) fn handle_fetched(&mut self, now: Instant, id: CallId, fetched: Result<Vec<Bytes>, Fault>) {
        let Some(call) = self.calls.find_mut(id) else { return };
        let Phase::Receiving(receiving) = &mut call.phase else { return };
        receiving.fetching = false;
        if call.caller.is_none() {
            // It was abandoned meanwhile; its memory was held until here.
            return self.drop_call(id);
        }
        if self.revoke_if_gone(now, id) {
            return;
        }
        let Some(Phase::Receiving(receiving)) = self.calls.find_mut(id).map(|call| &mut call.phase) else {
            return;
        };
        match fetched {
            Ok(parts) => match receiving.assembly.give_outside(parts) {
                Ok(()) => self.dispatch_whole(now, id),
                Err(error) => {
                    let ending =
                        Ending::framework(error.wire_code(), &error.to_string(), Delivery::NotDelivered);
                    self.end(now, id, ending);
                }
            },
            Err(fault) => self.end(now, id, Ending::of(Err(CallError::Framework(fault)))),
        }
    }

    /// Runs a call if its message is whole.
    pub(super) fn dispatch_whole(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.find_mut(id) else { return };
        if let Phase::Receiving(receiving) = &call.phase
            && receiving.is_whole()
            && let Phase::Receiving(receiving) = std::mem::replace(&mut call.phase, Phase::Running)
        {
            let Receiving { assembly, admitted, .. } = *receiving;
            self.dispatch(now, id, admitted, assembly);
        }
    }
}

impl Receiving {
    pub(super) fn new(assembly: Assembly, admitted: Admitted, fetching: bool) -> Box<Self> {
        Box::new(Receiving { assembly, admitted, fetching })
    }

    fn is_whole(&self) -> bool {
        !self.fetching && self.assembly.is_complete() && !self.assembly.lacks_outside()
    }
}
