//! At the hub: peers that have the daemon's connection in common.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use invoked_proto::connection::More;
use invoked_proto::metadata::Call;

use super::super::{Hub, Link};
use crate::authority::{Grant, PeerFacts};
use crate::broker::FirstOfCall;
use crate::ipc::PeerId;

impl Hub {
    /// The daemon will call for a process of which it says this; false if the provider is stopping.
    pub(super) fn admit_origin(&self, id: PeerId, facts: PeerFacts) -> bool {
        let is_admitted = self.broker.borrow_mut().handle_origin(id, facts);
        if is_admitted {
            self.runner.open_resources(id);
        }
        is_admitted
    }

    /// What goes to this peer goes by this connection.
    pub(super) fn share_link(&self, id: PeerId, link: &Rc<Link>) {
        self.links.borrow_mut().insert(id, Rc::clone(link));
    }

    /// No call is for this process any more. The connection stays.
    pub(super) fn forget_origin(&self, now: Instant, id: PeerId) {
        self.links.borrow_mut().remove(&id);
        self.broker.borrow_mut().handle_loss(now, id, &[]);
        self.pump(now);
        self.runner.close_resources(id);
    }

    pub(super) fn handle_granted_call(
        &self,
        now: Instant,
        (peer, stream): (PeerId, u64),
        call: Call,
        first: FirstOfCall,
        grant: Arc<Grant>,
    ) {
        self.broker.borrow_mut().handle_granted_call(now, (peer, stream), call, first, grant);
    }

    /// More of a call's message came. Not by [`handle_event`](Self::handle_event), to which even streams are calls of its own.
    pub(super) fn handle_continuation(
        &self,
        now: Instant,
        (peer, stream): (PeerId, u64),
        fragment: &[u8],
        more: More,
    ) {
        self.broker.borrow_mut().handle_continuation(now, peer, stream, fragment, more);
    }

    /// `bytes` wait for the daemon to read them.
    pub(super) fn note_unread_of_origins(&self, bytes: usize) {
        self.broker.borrow_mut().note_unread_of_origins(bytes);
    }
}
