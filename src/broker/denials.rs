//! Denials: what a peer is told, what the log has, what is kept for whoever asks later.

use std::sync::Arc;
use std::time::Instant;

use invoked_proto::Text;
use invoked_proto::registry::ErrorCode;

use super::decisions::{Decision, DecisionId, Question};
use super::output::{Observed, Output};
use super::{Broker, Holder, PeerState};
use crate::authority::{PolicySnapshot, RefusalCode, ScopeRefusal};
use crate::ipc::PeerId;

impl Broker {
    /// Denials that are kept.
    pub(crate) fn decisions(&self) -> &super::Decisions {
        &self.decisions
    }

    /// A denial by its id, if it is kept still.
    pub(crate) fn decision(&mut self, id: DecisionId) -> Option<&mut Decision> {
        self.decisions.find(id)
    }

    /// A connected peer, as its grants are compiled from it.
    pub(crate) fn holder(&self, id: PeerId) -> Option<Holder> {
        self.peers.get(&id).map(PeerState::holder)
    }

    /// The connected peers of a process.
    pub(crate) fn peers_of_process(&self, pid: u32) -> Vec<PeerId> {
        let of_it = self.peers.iter().filter(|(_, state)| state.facts.pid == Some(pid));
        let mut ids: Vec<PeerId> = of_it.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// A call of `peer` was denied; `refusal` says why if it is for its argument. Counts it, keeps it, logs it where that is
    /// due. `None` if the peer is gone.
    pub(super) fn deny(
        &mut self,
        now: Instant,
        peer: PeerId,
        command: &Text,
        refusal: Option<&Arc<ScopeRefusal>>,
    ) -> Option<DecisionId> {
        self.stats.denied += 1;
        if self.origins.is_some() {
            // The policy is the daemon's, and so is the word on why.
            return None;
        }
        let state = self.peers.get(&peer)?;
        // Names that no command has share one kind, so that making up names does not make lines.
        let kind = self.commands.find(command).map_or(String::new(), |command| command.name().to_owned());
        let due = self.denial_log.due(now, state.peer.uid, kind);
        let command = command.detach();
        let decision = self.decisions.keep(Question {
            at: now,
            peer,
            holder: state.holder(),
            command: command.clone(),
            refusal: refusal.map(Arc::clone),
            policy: Arc::clone(&self.policy),
        });
        if let Some(suppressed) = due
            && let Some(kept) = self.decisions.find(decision)
        {
            let (peer, explanation) = (Arc::clone(&state.peer), kept.explanation().to_string());
            let denied = Observed::Denied { decision, peer, command, explanation, suppressed };
            self.outputs.push_back(Output::Observed(denied));
        }
        Some(decision)
    }
}

impl PeerState {
    /// What a refused peer is told.
    pub(super) fn refusal(&self, policy: &PolicySnapshot, command: &str) -> (ErrorCode, String) {
        let refusal = policy.refusal(&self.grants, command);
        let code = match refusal.code {
            RefusalCode::PermissionDenied => ErrorCode::PermissionDenied,
            RefusalCode::NotFound => ErrorCode::NotFound,
        };
        (code, refusal.message)
    }
}
