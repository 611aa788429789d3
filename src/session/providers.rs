//! Calls to providers, at the hub: made, cancelled, granted.

use std::time::Instant;

use invoked_proto::metadata::Grant;

use super::Hub;
use crate::broker::{CancelRouted, Forward, forward};
use crate::ipc::PeerId;

impl Hub {
    /// Whether a peer offered to be called.
    pub(crate) fn may_be_called(&self, peer: PeerId) -> bool {
        self.with_connection(peer, |connection| connection.may_provide()).unwrap_or(false)
    }

    /// Makes a call to a provider.
    pub(super) fn forward(&self, now: Instant, call: Forward) {
        let (id, provider) = (call.call, call.provider);
        if !self.broker.borrow().is_to_forward(id) {
            return;
        }
        let forwarded = self.with_connection(provider, |connection| forward(connection, call));
        self.broker.borrow_mut().handle_forwarded(now, id, forwarded);
    }

    /// Cancels a call to a provider.
    pub(super) fn cancel_routed(&self, cancel: CancelRouted) {
        let CancelRouted { call, provider, stream, unanswered } = cancel;
        let withdrawal = self.with_connection(provider, |connection| connection.cancel(stream));
        self.broker.borrow_mut().handle_withdrawn(call, unanswered, withdrawal);
    }

    /// Gives a provider a grant.
    pub(super) fn give_grant(&self, provider: PeerId, grant: &Grant) {
        self.with_connection(provider, |connection| {
            if let Err(error) = connection.grant(grant) {
                // The call that follows finds the same, and is answered.
                tracing::debug!(%provider, %error, "a grant could not be given");
            }
        });
    }

    /// Takes a grant back from a provider.
    pub(super) fn take_grant(&self, provider: PeerId, grant: u64) {
        self.with_connection(provider, |connection| {
            if connection.ungrant(grant).is_err() {
                tracing::trace!(%provider, grant, "a provider that is leaving keeps a grant");
            }
        });
    }
}
