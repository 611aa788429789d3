//! The life of a call: received, authorized, run, answered once.
//!
//! A call has two legs. The caller's ends with one RESULT or ERROR. The callee's ends when the handler does. Cancel,
//! deadline and loss of the caller end the first at once; what the call was charged stays until the second ends, so
//! that opening and cancelling gains nothing.

mod fetching;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::body::{Assembly, Message, whole_len};
use invoked_proto::connection::More;
use invoked_proto::metadata::{Call, Extensions, Failure, HeaderField};
use invoked_proto::registry::{Delivery, ErrorCode, limits};

use super::decisions::DecisionId;
use super::local::is_local;
use super::monitor::Noted;
use super::narrowing::Early;
use super::nested::Nested;
use super::output::{Observed, Output, Place, Run};
use super::quota::{Charge, Resource};
use super::routes::{Callee, Provided, Routed, Routing, Unanswered};
use super::slots::CallId;
use super::sweep::Epoch;
use super::{Broker, PeerState, Standing};
use crate::authority::{Grant, Verdict};
use crate::commands::RegisteredCommand;
use crate::ipc::{CallError, DeclaredChannels, Fault, Outcome, Outside, PeerId, Response, WireCall};

/// A call that holds a slot.
#[derive(Debug)]
pub(super) struct CallState {
    /// The caller and its stream, until it is answered.
    caller: Option<(PeerId, u64)>,
    /// The caller, also after it was answered.
    peer: PeerId,
    /// What allowed it.
    pub(super) grant: Arc<Grant>,
    /// The policy by which it was last found allowed.
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    /// When its caller's leg ends at the latest; once that has, when its callee's has taken too long.
    pub(super) deadline: Option<Instant>,
    started: Instant,
    /// How many calls stand above it.
    pub(super) depth: u8,
    /// For whom it is made, besides its caller.
    pub(super) nested: Option<Box<Nested>>,
    /// What is to be told of it, where somebody monitors.
    noted: Option<Box<Noted>>,
    _slot: Charge,
    /// The memory of its message.
    pub(super) memory: Option<Charge>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Bytes of its message are missing.
    Receiving(Box<Receiving>),
    /// The handler has it.
    Running,
    /// A provider has it.
    Routed(Box<Routed>),
}

#[derive(Debug)]
pub(super) struct Receiving {
    assembly: Assembly,
    admitted: Admitted,
    /// What is elsewhere of its message is being read: its memory is in use until that has ended.
    fetching: bool,
}

/// What a call brings with its first frame, besides its record.
#[derive(Debug)]
pub(crate) struct FirstOfCall {
    /// IDEMPOTENT, SENSITIVE.
    pub(crate) flags: u16,
    /// The first fragment of its message.
    pub(crate) payload: Bytes,
    pub(crate) more: More,
    /// The parts of its message that are elsewhere than in the frames, or why they are not taken.
    pub(crate) outside: Option<Result<Outside, Fault>>,
}

/// A call that was authorized, without its message.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) target: Target,
    pub(super) grant: Arc<Grant>,
    pub(super) headers: Vec<HeaderField>,
    pub(super) deadline: Option<Instant>,
    /// How many calls stand above it.
    pub(super) depth: u8,
    /// For whom it is made, besides its caller; the call has it from when it begins.
    nested: Option<Box<Nested>>,
    /// The same peers, the outermost first.
    behalf: Arc<[PeerId]>,
    /// What of its message is to be read first.
    outside: Option<Outside>,
}

/// Who runs a command.
#[derive(Debug)]
pub(super) enum Target {
    /// A handler of the daemon's, which gets the channels.
    Hosted(Arc<RegisteredCommand>, DeclaredChannels),
    /// A provider.
    Provided(Box<Provided>),
}

impl CallState {
    /// Whom its end is told, until it is.
    pub(super) fn caller(&self) -> Option<(PeerId, u64)> {
        self.caller
    }

    /// Whose it is, also after it was answered.
    pub(super) fn peer(&self) -> PeerId {
        self.peer
    }

    /// What is to be told of it.
    pub(super) fn noted_mut(&mut self) -> Option<&mut Noted> {
        self.noted.as_deref_mut()
    }

    /// From its first byte to now.
    pub(super) fn received_in(&self, now: Instant) -> Duration {
        now.duration_since(self.started)
    }
}

/// How a call ended at its caller.
pub(super) enum Ending {
    Reply(Response),
    /// The result that a provider gave.
    Relayed(Box<Relayed>),
    Fail(Box<Failed>),
}

/// A provider's result on its way to the caller.
pub(super) struct Relayed {
    pub(super) headers: Vec<HeaderField>,
    pub(super) extensions: Extensions,
    pub(super) message: Message,
}

/// An error on its way to the caller.
pub(super) struct Failed {
    code: ErrorCode,
    failure: Failure,
    message: Message,
}

impl Ending {
    pub(super) fn framework(code: ErrorCode, message: &str, delivery: Delivery) -> Self {
        Ending::fail(code, Failure::framework(code, message, delivery), Message::default())
    }

    /// A denial under its id.
    pub(super) fn denied(code: ErrorCode, message: &str, decision: Option<DecisionId>) -> Self {
        let mut failure = Failure::framework(code, message, Delivery::NotDelivered);
        failure.decision = decision.map(|id| Text::from(id.to_string().as_str()));
        Ending::fail(code, failure, Message::default())
    }

    /// The code of an error.
    fn code(&self) -> Option<ErrorCode> {
        match self {
            Ending::Reply(_) | Ending::Relayed(_) => None,
            Ending::Fail(failed) => Some(failed.code),
        }
    }

    fn message(&self) -> &Message {
        match self {
            Ending::Reply(response) => &response.message,
            Ending::Relayed(relayed) => &relayed.message,
            Ending::Fail(failed) => &failed.message,
        }
    }

    pub(super) fn fail(code: ErrorCode, failure: Failure, message: Message) -> Self {
        Ending::Fail(Box::new(Failed { code, failure, message }))
    }

    fn of(outcome: Outcome) -> Self {
        match outcome {
            Ok(response) => Ending::Reply(response),
            Err(CallError::Application(error)) => {
                let failure = Failure::framework(ErrorCode::Application, "", Delivery::Completed);
                Ending::fail(ErrorCode::Application, failure, error.into_message())
            }
            Err(CallError::Framework(fault)) => {
                let mut failure = Failure::framework(fault.code, &fault.message, fault.delivery);
                failure.decision = fault.decision.as_deref().map(Text::from);
                failure.retry_after_ms = fault.retry_after.map(whole_millis);
                Ending::fail(fault.code, failure, Message::default())
            }
        }
    }
}

/// Rounded up: who waits for so long has waited long enough.
fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Broker {
    /// A peer called.
    pub(crate) fn handle_call(
        &mut self,
        now: Instant,
        peer: PeerId,
        stream: u64,
        call: Call,
        first: FirstOfCall,
    ) {
        if self.is_waiting(peer) {
            return self.hold_early(peer, Early::Call { stream, call: Box::new(call), first });
        }
        self.begin_call(now, (peer, stream), call, first, None);
    }

    /// Begins a call, which `granted` allows where somebody else has judged it already.
    pub(super) fn begin_call(
        &mut self,
        now: Instant,
        (peer, stream): (PeerId, u64),
        call: Call,
        first: FirstOfCall,
        granted: Option<Arc<Grant>>,
    ) {
        let (flags, more) = (first.flags, first.more);
        self.stats.calls += 1;
        let command = call.command.clone();
        let bytes = whole_len(&call.parts).unwrap_or(u64::MAX);
        let noted = self.note_call(now, (peer, stream), flags, &command, bytes);
        match self.admit(now, (peer, stream), call, first, granted) {
            Ok((mut admitted, assembly, slot, memory)) => {
                let state = CallState {
                    caller: Some((peer, stream)),
                    peer,
                    grant: Arc::clone(&admitted.grant),
                    epoch: self.epoch,
                    deadline: admitted.deadline,
                    phase: Phase::Running,
                    started: now,
                    depth: admitted.depth,
                    nested: admitted.nested.take(),
                    noted,
                    _slot: slot,
                    memory,
                };
                let id = self.calls.insert(state);
                if let Some(nested) = self.calls.find(id).and_then(|call| call.nested.as_ref()) {
                    self.nestings.begin(id, nested);
                }
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.calls.insert(stream, id);
                }
                match (more, admitted.outside.take()) {
                    (More::Whole, None) => self.dispatch(now, id, admitted, assembly),
                    (_, outside) => self.receive(id, admitted, assembly, outside),
                }
            }
            Err(ending) => {
                tracing::trace!(%peer, command = command.as_str(), "call refused");
                self.tell_monitor(now, noted, ending.code(), 0);
                self.answer(peer, stream, ending);
            }
        }
    }

    /// The caller no longer wants its call.
    pub(crate) fn handle_cancel(&mut self, now: Instant, peer: PeerId, stream: u64) {
        if self.is_waiting(peer) {
            return self.hold_early(peer, Early::Cancel { stream });
        }
        if let Some(&id) = self.peers.get(&peer).and_then(|state| state.calls.get(&stream)) {
            self.abandon(now, id, ErrorCode::Cancelled, "the caller cancelled");
        }
    }

    /// A handler ended, or could not be started. Only the first completion of a call counts.
    pub(crate) fn handle_completion(&mut self, now: Instant, id: CallId, mut outcome: Outcome) {
        self.revoke_if_gone(now, id);
        let Some(call) = self.calls.find(id) else { return };
        let is_late = call.caller.is_none();
        if let Err(CallError::Framework(fault)) = &mut outcome
            && let Some(refusal) = fault.scope_refused().map(Arc::clone)
        {
            // Also where nobody waits any more: to cancel a call must not hide that it was tried.
            let (peer, command) = (call.peer, Text::from(refusal.grant.command().as_str()));
            fault.decision = self.deny(now, peer, &command, Some(&refusal)).map(|id| id.to_string());
        }
        if is_late {
            self.stats.late_completions += 1;
            self.drop_call(id);
            return;
        }
        self.end(now, id, Ending::of(outcome));
    }

    /// Ends what is past its deadline.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.remove(&(at, id));
            if self.calls.find(id).is_some_and(|call| call.caller.is_none()) {
                self.note_overdue(id);
            } else {
                self.abandon(now, id, ErrorCode::DeadlineExceeded, "the deadline passed");
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends all calls of a peer that is gone.
    pub(super) fn abandon_all(&mut self, now: Instant, peer: PeerId, state: PeerState) {
        self.abandon_channels(&state);
        for stream in state.local_streams() {
            let text = "the caller on whose behalf it was made is gone";
            self.answer(peer, stream, Ending::framework(ErrorCode::Unavailable, text, Delivery::Delivered));
        }
        for id in state.calls.into_values() {
            // Nobody is there to be answered; the handlers are told, and charged until they end.
            self.stats.abandoned += 1;
            self.release_caller(now, id, Some(ErrorCode::Unavailable), 0);
            self.let_go(now, id);
        }
    }

    /// Everything that must hold before a byte of the message is kept.
    fn admit(
        &mut self,
        now: Instant,
        (peer, stream): (PeerId, u64),
        mut call: Call,
        first: FirstOfCall,
        granted: Option<Arc<Grant>>,
    ) -> Result<(Admitted, Assembly, Charge, Option<Charge>), Ending> {
        let FirstOfCall { flags, payload, outside, .. } = first;
        let not_delivered = |code, text: &str| Ending::framework(code, text, Delivery::NotDelivered);
        let Some(state) = self.refresh(peer) else {
            return Err(not_delivered(ErrorCode::Unavailable, "the connection is going away"));
        };
        if !matches!(state.standing, Standing::Welcomed) {
            return Err(not_delivered(ErrorCode::Unavailable, "the connection was not welcomed"));
        }
        let Some(slot) = state.account.charge(Resource::Calls, 1) else {
            return Err(not_delivered(
                ErrorCode::ResourceExhausted,
                "too many calls of this uid are in flight",
            ));
        };
        let nesting = self.nesting(peer, &call)?;
        let (depth, inherited) = (nesting.depth, nesting.deadline);
        let (grant, callee, nested) = match granted {
            Some(grant) => {
                let command = self.commands.find(&call.command);
                let text = "this provider does not serve the command";
                let command = command.ok_or_else(|| not_delivered(ErrorCode::NotFound, text))?;
                (grant, Callee::Hosted(command), None)
            }
            None => {
                let (own, callee) = self.authorize(now, peer, &call)?;
                let (grant, nested) = self.join(now, own, nesting, &call.command)?;
                (grant, callee, nested)
            }
        };
        let deadline = match call.deadline_us {
            Some(0) => return Err(not_delivered(ErrorCode::DeadlineExceeded, "the deadline had passed")),
            None => now + self.settings.default_deadline,
            Some(us) => now + Duration::from_micros(us).min(self.settings.max_deadline),
        };
        let deadline = inherited.map_or(deadline, |inherited| inherited.min(deadline));
        let total = whole_len(&call.parts).unwrap_or(u64::MAX);
        let state = self.peers.get(&peer).expect("looked up above");
        let outside = match state.check_outside(outside) {
            Ok(outside) => outside,
            Err(fault) => {
                // It may not know what has changed since it was told.
                self.outputs.push_back(Output::TellLanes(peer));
                return Err(Ending::of(Err(CallError::Framework(fault))));
            }
        };
        let memory = match total {
            0 => None,
            total => Some(state.account.charge(Resource::MessageBytes, total).ok_or_else(|| {
                not_delivered(ErrorCode::ResourceExhausted, "too many bytes of this uid's messages are held")
            })?),
        };
        self.note_held(0);
        self.stats.bytes_in += total;
        let assembly = Assembly::begin(std::mem::take(&mut call.parts), payload)
            .map_err(|error| not_delivered(error.wire_code(), &error.to_string()))?;
        let behalf: Arc<[PeerId]> = nested.iter().flat_map(|nested| nested.behalf()).collect();
        let target = match callee {
            Callee::Hosted(command) => {
                Target::Hosted(command, self.open_channels(peer, stream, &call, &grant))
            }
            Callee::Provided(provider, command) => {
                self.open_relays((peer, stream), provider, &call, &grant);
                Target::Provided(Box::new(Provided::new(provider, command, flags, &mut call)))
            }
        };
        let (headers, deadline) = (call.headers, Some(deadline));
        let admitted = Admitted { target, grant, headers, deadline, depth, nested, behalf, outside };
        Ok((admitted, assembly, slot, memory))
    }

    fn authorize(&mut self, now: Instant, peer: PeerId, call: &Call) -> Result<(Arc<Grant>, Callee), Ending> {
        let name = &call.command;
        let state = self.peers.get(&peer).expect("checked by admit");
        if let Verdict::Allow(grant) = state.grants.authorize(name) {
            let grant = Arc::clone(grant);
            if let Some(command) = self.commands.find(name) {
                return Ok((grant, Callee::Hosted(command)));
            }
            if self.policy.registry().has_command(name) {
                return self.find_provider(call).map(|callee| (grant, callee));
            }
        }
        let state = self.peers.get(&peer).expect("checked by admit");
        let (code, message) = state.refusal(&self.policy, name);
        let decision = self.deny(now, peer, name, None);
        Err(Ending::denied(code, &message, decision))
    }

    fn dispatch(&mut self, now: Instant, id: CallId, admitted: Admitted, assembly: Assembly) {
        let message = match assembly.finish() {
            Ok(message) => message,
            Err(error) => {
                let ending = Ending::framework(error.wire_code(), &error.to_string(), Delivery::NotDelivered);
                return self.end(now, id, ending);
            }
        };
        let Admitted { target, grant, headers, deadline, depth, behalf, .. } = admitted;
        let (command, channels) = match target {
            Target::Hosted(command, channels) => (command, channels),
            Target::Provided(provided) => {
                let routing = Routing { provided: *provided, grant, headers, deadline, depth, behalf };
                return self.route(now, id, routing, message);
            }
        };
        let Some(call) = self.calls.find_mut(id) else { return };
        let Some((caller, stream)) = call.caller else { return };
        let Some(state) = self.peers.get(&caller) else { return };
        let place = Place::of(&command, message.len());
        // What outlives this wake-up must not keep the loop's read buffer for a few bytes.
        let (message, headers) = if place == Place::Inline {
            (message, headers)
        } else {
            (message.detach(self.settings.read_buffer), detached(&headers))
        };
        if self.watching {
            self.outputs.push_back(Output::Observed(Observed::Started {
                call: id,
                peer: Arc::clone(&state.peer),
                command: command.name().into(),
                bytes: message.len(),
                received_in: now.duration_since(call.started),
            }));
        }
        if place != Place::Inline
            && let Some(at) = call.deadline
        {
            self.deadlines.insert((at, id));
        }
        let timing = call.noted.as_mut().map(|noted| noted.dispatch(now, place, &message));
        let peer = Arc::clone(&state.peer);
        let lanes = state.call_lanes();
        let wire = WireCall {
            command: command.text(),
            headers,
            message,
            peer,
            grant,
            deadline,
            depth,
            behalf,
            stream,
            channels,
            lanes,
        };
        self.outputs.push_back(Output::Run(Run { call: id, place, command, wire, timing }));
    }

    /// Ends the caller's leg at once; the callee's goes on until its handler ends.
    pub(super) fn abandon(&mut self, now: Instant, id: CallId, code: ErrorCode, text: &str) {
        let Some(call) = self.calls.find_mut(id) else { return };
        let Some((peer, stream)) = call.caller else { return };
        self.stats.abandoned += 1;
        let delivery = match &call.phase {
            Phase::Receiving(_) => Delivery::NotDelivered,
            Phase::Running => Delivery::Delivered,
            Phase::Routed(_) => {
                self.release_caller(now, id, Some(code), 0);
                let unanswered = Unanswered { peer, stream, code, text: text.to_owned() };
                self.withdraw_routed(now, id, Some(unanswered));
                return self.cancel_nested(now, id);
            }
        };
        self.release_caller(now, id, Some(code), 0);
        self.answer(peer, stream, Ending::framework(code, text, delivery));
        self.let_go(now, id);
    }

    /// Tells the handler of a call without a caller; one that has no handler yet is dropped.
    fn let_go(&mut self, now: Instant, id: CallId) {
        match self.calls.find(id).map(|call| &call.phase) {
            Some(Phase::Running) => self.outputs.push_back(Output::CancelHandler(id)),
            // Whoever reads for it holds its memory still.
            Some(Phase::Receiving(receiving)) if receiving.fetching => {}
            Some(Phase::Receiving(_)) => self.drop_call(id),
            Some(Phase::Routed(_)) => {
                self.withdraw_routed(now, id, None);
                self.cancel_nested(now, id);
            }
            None => {}
        }
    }

    /// Ends both legs.
    pub(super) fn end(&mut self, now: Instant, id: CallId, ending: Ending) {
        let caller = self.calls.find(id).and_then(|call| call.caller);
        let (code, message) = (ending.code(), ending.message());
        let bytes = message.len();
        if let Some(noted) = self.calls.find_mut(id).and_then(|call| call.noted.as_mut()) {
            noted.answer(message);
        }
        self.release_caller(now, id, code, bytes);
        self.drop_call(id);
        if let Some((peer, stream)) = caller {
            self.answer(peer, stream, ending);
        }
    }

    fn release_caller(&mut self, now: Instant, id: CallId, code: Option<ErrorCode>, bytes: usize) {
        let Some(call) = self.calls.find_mut(id) else { return };
        let took = now.duration_since(call.started);
        let (deadline, noted) = (call.deadline.take(), call.noted.take());
        if let Some((peer, stream)) = call.caller.take()
            && let Some(state) = self.peers.get_mut(&peer)
        {
            state.calls.remove(&stream);
        }
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, id));
        }
        if self.watching {
            self.outputs.push_back(Output::Observed(Observed::Ended { call: id, code, bytes, took }));
        }
        self.tell_monitor(now, noted, code, bytes as u64);
    }

    pub(super) fn drop_call(&mut self, id: CallId) {
        if let Some(call) = self.calls.remove(id) {
            if let Some(at) = call.deadline {
                self.deadlines.remove(&(at, id));
            }
            if let Some(nested) = &call.nested {
                self.nestings.end(id, nested);
            }
            if let Phase::Routed(routed) = call.phase {
                self.forget_routed(*routed);
            }
            drop(call.memory);
        }
    }

    /// The one place from which a caller is answered.
    pub(super) fn answer(&mut self, peer: PeerId, stream: u64, ending: Ending) {
        // What goes nowhere but to the daemon's own code waits in no queue.
        let ending = if is_local(stream) { ending } else { self.bound_reply(peer, ending) };
        match ending {
            Ending::Reply(Response { headers, message, file }) => {
                self.stats.replies += 1;
                self.stats.bytes_out += message.len() as u64;
                let extensions = Extensions::none();
                self.outputs.push_back(Output::Reply { peer, stream, headers, extensions, message, file });
                if self.draining {
                    self.finish_channels_of(peer, stream);
                }
            }
            Ending::Relayed(relayed) => {
                let Relayed { headers, extensions, message } = *relayed;
                self.stats.replies += 1;
                self.stats.bytes_out += message.len() as u64;
                let file = None;
                self.outputs.push_back(Output::Reply { peer, stream, headers, extensions, message, file });
                if self.draining {
                    self.finish_relays_of(peer, stream);
                }
            }
            Ending::Fail(failed) => {
                let Failed { code, failure, message } = *failed;
                self.close_channels(peer, stream, code);
                self.stats.count_error(code);
                self.stats.bytes_out += message.len() as u64;
                self.outputs.push_back(Output::Fail { peer, stream, code, failure, message });
            }
        }
    }

    /// Charges what the caller is about to be sent. What would pass the uid's bound becomes an error without a body; its
    /// bytes are gone. The session settles the charge when it knows what the socket took.
    fn bound_reply(&mut self, peer: PeerId, ending: Ending) -> Ending {
        let message = ending.message();
        // What is in the peer's own memory is charged there.
        let lanes = self.peers.get(&peer).and_then(|state| state.lanes.as_ref());
        let len = lanes.map_or_else(|| message.len() as u64, |lanes| lanes.inline_len(message));
        self.note_held(len);
        let Some(state) = self.peers.get_mut(&peer) else { return ending };
        if len > 0 {
            self.origins.iter_mut().for_each(|origins| origins.note_answer(peer));
        }
        if len == 0 || state.unread.grow(len) {
            return ending;
        }
        // Others of its uid may have used up all; a peer that is not behind itself gets its small replies all the same.
        let unread = state.unread.amount().saturating_add(len);
        if len <= limits::FRAGMENT as u64 && unread <= limits::UNSENT_BYTES_PAUSE as u64 {
            state.unread.settle(unread);
            return ending;
        }
        let text = "too many bytes of replies wait for this uid to read them";
        Ending::framework(ErrorCode::ResourceExhausted, text, Delivery::Completed)
    }
}

/// Headers that keep no read buffer alive.
pub(super) fn detached(headers: &[HeaderField]) -> Vec<HeaderField> {
    headers.iter().map(|(key, value)| (key.detach(), value.detach())).collect()
}
