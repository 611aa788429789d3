//! Calls on behalf of calls: what a provider calls for its own caller.
//!
//! Such a call names the open call that it is made for. It has no more time than that, is one deeper, is cancelled with it, and may
//! do what everybody may for whom it is made, its own caller included.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use foldhash::HashMap;
use invoked_proto::Text;
use invoked_proto::metadata::{Call, Extensions};
use invoked_proto::registry::{Delivery, ErrorCode, limits, tags};

use super::Broker;
use super::calls::Ending;
use super::slots::CallId;
use super::sweep::is_kept;
use crate::authority::{Grant, GrantId, Verdict};
use crate::ipc::PeerId;

/// Joined grants that are kept at most; over it all are made anew.
const JOINED_MAX: usize = 1024;

/// For whom a call is made, besides its caller.
#[derive(Debug)]
pub(super) struct Nested {
    /// The call that it is made for; `None` for one of the daemon's own commands.
    parent: Option<CallId>,
    /// The peers, the outermost first, with the grants that let each do the same.
    behalf: Vec<(PeerId, Arc<Grant>)>,
    /// The caller's own grant.
    own: Arc<Grant>,
}

/// What a call inherits of the one that it is made for.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    pub(super) depth: u8,
    pub(super) deadline: Option<Instant>,
    parent: Option<CallId>,
    behalf: Vec<PeerId>,
}

/// Which calls are made for which, and grants that several peers have together.
#[derive(Debug, Default)]
pub(super) struct Nestings {
    /// A call, and one that is made for it.
    children: BTreeSet<(CallId, CallId)>,
    joined: HashMap<Box<[GrantId]>, Arc<Grant>>,
}

impl Nestings {
    /// Another policy is in force, whose grants have other numbers.
    pub(super) fn handle_policy(&mut self) {
        self.joined.clear();
    }

    /// A call begins that is made for another.
    pub(super) fn begin(&mut self, id: CallId, nested: &Nested) {
        self.children.extend(nested.parent.map(|parent| (parent, id)));
    }

    /// It is over.
    pub(super) fn end(&mut self, id: CallId, nested: &Nested) {
        if let Some(parent) = nested.parent {
            self.children.remove(&(parent, id));
        }
    }
}

impl Nested {
    /// The peers for whom a call is made, the outermost first.
    pub(super) fn behalf(&self) -> impl Iterator<Item = PeerId> {
        self.behalf.iter().map(|(peer, _)| *peer)
    }
}

impl Broker {
    /// What a call inherits.
    pub(super) fn nesting(&self, peer: PeerId, call: &Call) -> Result<Nesting, Ending> {
        let refusal = |code, text: &str| Ending::framework(code, text, Delivery::NotDelivered);
        let Some(parent) = call.extensions.find(tags::PARENT) else {
            // A connection refuses both, so they are the daemon's own.
            let depth = call.extensions.find(tags::DEPTH).and_then(|value| value.first().copied());
            let behalf = call.extensions.find(tags::ON_BEHALF).map(peers);
            let (depth, behalf) = (depth.unwrap_or(0), behalf.unwrap_or_default());
            return Ok(Nesting { depth, behalf, ..Nesting::default() });
        };
        let stream = parent.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let parent = self.routed_call(peer, stream);
        let of_open = parent.and_then(|id| Some((id, self.calls.find(id)?)));
        let Some((id, (caller, parent))) =
            of_open.and_then(|(id, parent)| Some((id, (parent.caller()?.0, parent))))
        else {
            let text = "the call on whose behalf it is made is not open on this connection";
            return Err(refusal(ErrorCode::FailedPrecondition, text));
        };
        let depth = parent.depth.saturating_add(1);
        if usize::from(depth) > limits::MAX_DEPTH {
            let text =
                format!("calls would be nested {depth} deep, above the limit of {}", limits::MAX_DEPTH);
            return Err(refusal(ErrorCode::ResourceExhausted, &text));
        }
        let mut behalf: Vec<PeerId> = parent.nested.iter().flat_map(|nested| nested.behalf()).collect();
        if !behalf.contains(&caller) {
            behalf.push(caller);
        }
        Ok(Nesting { depth, deadline: parent.deadline, parent: Some(id), behalf })
    }

    /// The grant that a call has under which it may do what all may for whom it is made; `own` is its caller's.
    pub(super) fn join(
        &mut self,
        now: Instant,
        own: Arc<Grant>,
        nesting: Nesting,
        name: &Text,
    ) -> Result<(Arc<Grant>, Option<Box<Nested>>), Ending> {
        let Nesting { parent, behalf: peers, .. } = nesting;
        if parent.is_none() && peers.is_empty() {
            return Ok((own, None));
        }
        let mut behalf = Vec::with_capacity(peers.len());
        for peer in peers {
            let grants = self.refresh(peer).map(|state| Arc::clone(&state.grants));
            let granted = grants.as_ref().map(|grants| grants.authorize(name));
            if let Some(Verdict::Allow(grant)) = granted {
                behalf.push((peer, Arc::clone(grant)));
                continue;
            }
            let text = format!("the peer on whose behalf it is made may not call {name}");
            let decision = self.deny(now, peer, name, None);
            return Err(Ending::denied(ErrorCode::PermissionDenied, &text, decision));
        }
        let grant = self.joined(&own, &behalf);
        Ok((grant, Some(Box::new(Nested { parent, behalf, own }))))
    }

    /// Cancels what is made for a call whose caller does not wait any more.
    pub(super) fn cancel_nested(&mut self, now: Instant, parent: CallId) {
        let of_parent = (parent, CallId::FIRST)..=(parent, CallId::LAST);
        let children: Vec<CallId> = self.nestings.children.range(of_parent).map(|(_, id)| *id).collect();
        for id in children {
            self.abandon(now, id, ErrorCode::Cancelled, "the call on whose behalf it was made has ended");
        }
    }

    /// Whether all that let a call begin still lets it go on.
    pub(super) fn keeps_nested(&mut self, id: CallId) -> bool {
        let Some(nested) = self.calls.find(id).and_then(|call| call.nested.as_ref()) else { return true };
        let behalf: Vec<(PeerId, Arc<Grant>)> = nested.behalf.clone();
        behalf.iter().all(|(peer, grant)| {
            let grants = self.refresh(*peer).map(|state| Arc::clone(&state.grants));
            grants.is_some_and(|grants| is_kept(&grants, grant))
        })
    }

    fn joined(&mut self, own: &Arc<Grant>, behalf: &[(PeerId, Arc<Grant>)]) -> Arc<Grant> {
        if !own.is_scoped() {
            return Arc::clone(own);
        }
        let all = || std::iter::once(own).chain(behalf.iter().map(|(_, grant)| grant));
        let mut key: Vec<GrantId> = all().map(|grant| grant.id()).collect();
        key.dedup();
        if let [_] = key[..] {
            return Arc::clone(own);
        }
        if let Some(joined) = self.nestings.joined.get(&key[..]) {
            return Arc::clone(joined);
        }
        let joined = Arc::new(self.policy.join(all()));
        if self.nestings.joined.len() >= JOINED_MAX {
            self.nestings.joined.clear();
        }
        self.nestings.joined.insert(key.into(), Arc::clone(&joined));
        joined
    }
}

impl super::calls::CallState {
    /// The grant of its caller.
    pub(super) fn own_grant(&self) -> &Arc<Grant> {
        self.nested.as_ref().map_or(&self.grant, |nested| &nested.own)
    }
}

/// Says in an extension for whom one of the daemon's own commands calls.
pub(super) fn on_behalf(extensions: &mut Extensions, peers: &[PeerId]) {
    if !peers.is_empty() {
        let bytes: Vec<u8> = peers.iter().flat_map(|peer| peer.0.to_le_bytes()).collect();
        extensions.insert(tags::ON_BEHALF, bytes.into());
    }
}

fn peers(value: &Bytes) -> Vec<PeerId> {
    value.as_chunks::<8>().0.iter().map(|bytes| PeerId(u64::from_le_bytes(*bytes))).collect()
}
