//! Parts of a call that are elsewhere than in the frames: read by others, and then part of its message.

use std::time::Instant;

use bytes::Bytes;
use invoked_proto::connection::LaneSet;
use invoked_proto::registry::{Delivery, ErrorCode, Lane};

use super::{Admitted, Assembly, Ending, Phase, Receiving};
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
    /// Has what is elsewhere of a call's message read.
    pub(super) fn fetch(&mut self, call: CallId, peer: PeerId, outside: Outside) {
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
