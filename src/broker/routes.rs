//! Calls on their way to providers and back.
//!
//! The bodies are handed on as they came; what the daemon knows of the call is written anew: who calls under which grant, the
//! time that is left, how deep it is nested. The caller's leg ends at once when it is cancelled, past its deadline or revoked;
//! the provider's slot, and what the caller was charged, stay until the provider's leg ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::HashMap;
use invoked_proto::Text;
use invoked_proto::body::{Assembly, Message, inline_len};
use invoked_proto::connection::{Connection, More, Request, Withdrawal};
use invoked_proto::error::MisuseError;
use invoked_proto::metadata::{
    Call, ChannelDeclaration, Extensions, Failure, Grant as GivenGrant, HeaderField, MAJOR_HEADER,
    OriginStamp, Part, Reply,
};
use invoked_proto::registry::{Delivery, ErrorCode, limits, tags};

use super::calls::{Ending, Phase, Relayed};
use super::output::{Observed, Output, Place};
use super::providers::Serving;
use super::quota::{Charge, Resource};
use super::slots::CallId;
use super::{Broker, PeerState};
use crate::authority::{Grant, ProvidedCommand};
use crate::commands::RegisteredCommand;
use crate::ipc::PeerId;

/// A provider that goes on with a call for so long after it was cancelled has it counted against it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// What a GRANT has beside its scopes, at most.
const GRANT_HEAD: usize = 64;

/// Grants that a provider keeps at most; over it, those that no call names are taken back.
const GIVEN_MAX: usize = 4096;

/// Extensions of a caller that are forwarded; the others are for the daemon, or for nobody that it knows.
const FORWARDED: [u16; 4] = [tags::IDEMPOTENCY_KEY, tags::TRACEPARENT, tags::PRIORITY, tags::OVERFLOW];

/// Who is to run a call.
#[derive(Debug)]
pub(super) enum Callee {
    /// A handler of the daemon's.
    Hosted(Arc<RegisteredCommand>),
    /// A provider.
    Provided(PeerId, Arc<ProvidedCommand>),
}

/// What of a call to a provider is known before its message is whole.
#[derive(Debug)]
pub(super) struct Provided {
    provider: PeerId,
    command: Arc<ProvidedCommand>,
    flags: u16,
    channels: Vec<ChannelDeclaration>,
    extensions: Extensions,
}

impl Provided {
    pub(super) fn new(provider: PeerId, command: Arc<ProvidedCommand>, flags: u16, call: &mut Call) -> Self {
        let mut extensions = Extensions::none();
        for (tag, value) in call.extensions.iter().filter(|(tag, _)| FORWARDED.contains(tag)) {
            // It may wait for the rest of its message, and must not keep the loop's read buffer for a few bytes.
            extensions.insert(tag, Bytes::copy_from_slice(value));
        }
        Provided { provider, command, flags, channels: std::mem::take(&mut call.channels), extensions }
    }
}

/// A call that is whole and goes to its provider.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) provided: Provided,
    pub(super) grant: Arc<Grant>,
    pub(super) headers: Vec<HeaderField>,
    pub(super) deadline: Option<Instant>,
    pub(super) depth: u8,
    /// For whom it is made besides its caller, the outermost first.
    pub(super) behalf: Arc<[PeerId]>,
}

/// The provider's leg of a call.
#[derive(Debug)]
pub(super) struct Routed {
    provider: PeerId,
    /// The daemon's stream, once the call is forwarded.
    pub(super) stream: Option<u64>,
    /// The grant that it names.
    grant: u64,
    channels: Vec<ChannelDeclaration>,
    /// The answer, while bytes of it are missing.
    answer: Option<Box<Answer>>,
    /// Whether it goes on long after it was cancelled.
    is_overdue: bool,
}

/// An answer that is on its way.
#[derive(Debug)]
struct Answer {
    head: AnswerHead,
    assembly: Assembly,
    _memory: Charge,
}

/// What an answer of a provider says besides its message.
#[derive(Debug)]
pub(crate) enum AnswerHead {
    /// RESULT.
    Reply(Reply),
    /// ERROR.
    Fail(ErrorCode, Failure),
}

impl AnswerHead {
    fn take_parts(&mut self) -> Vec<Part> {
        match self {
            AnswerHead::Reply(reply) => std::mem::take(&mut reply.parts),
            AnswerHead::Fail(_, failure) => std::mem::take(&mut failure.parts),
        }
    }

    fn ending(self, message: Message) -> Ending {
        match self {
            AnswerHead::Reply(Reply { headers, extensions, .. }) => {
                Ending::Relayed(Box::new(Relayed { headers, extensions, message }))
            }
            AnswerHead::Fail(code, failure) => Ending::fail(code, failure, message),
        }
    }
}

/// A grant that a provider was given.
#[derive(Debug)]
pub(super) struct Given {
    /// Open calls that name it.
    calls: usize,
    /// The policy that it is of, as its revision.
    revision: u64,
}

/// A call to be made to a provider.
#[derive(Debug)]
pub(crate) struct Forward {
    /// The call.
    pub(crate) call: CallId,
    /// Whom to call.
    pub(crate) provider: PeerId,
    request: Request,
}

/// A call to be cancelled at its provider.
#[derive(Debug)]
pub(crate) struct CancelRouted {
    /// The call.
    pub(crate) call: CallId,
    /// The provider.
    pub(crate) provider: PeerId,
    /// The daemon's stream.
    pub(crate) stream: u64,
    /// Who is to be told, once it is known whether the provider has seen the call.
    pub(crate) unanswered: Option<Unanswered>,
}

/// A caller whose call has ended and that was not told yet.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(super) peer: PeerId,
    pub(super) stream: u64,
    pub(super) code: ErrorCode,
    pub(super) text: String,
}

/// Makes a call to a provider; the daemon's stream.
pub(crate) fn forward<A>(connection: &mut Connection<A>, forward: Forward) -> Result<u64, MisuseError> {
    let has_channels = !forward.request.channels.is_empty();
    let stream = connection.call(forward.request)?;
    if has_channels {
        connection.relay_channels(stream);
    }
    Ok(stream)
}

impl Broker {
    /// A call's message is whole: hands it to its provider.
    pub(super) fn route(&mut self, now: Instant, id: CallId, routing: Routing, message: Message) {
        let Routing { provided, grant, headers, deadline, depth, behalf } = routing;
        let Provided { provider, command, flags, channels, extensions } = provided;
        let refusal = |code, text: &str| Ending::framework(code, text, Delivery::NotDelivered);
        let plugin = command.name().plugin().unwrap_or("").to_owned();
        // It may have gone, or filled up, since the call began.
        if let Err((code, text)) = self.check_provider(provider, &plugin) {
            return self.end(now, id, refusal(code, &text));
        }
        let Some(origin) = self.give_grant(provider, id, &grant) else {
            let text = "the scopes of this grant are too long to be told to a provider";
            return self.end(now, id, refusal(ErrorCode::TooLarge, text));
        };
        let mut headers = headers;
        if self.serves_several(provider, &plugin)
            && !headers.iter().any(|(key, _)| key.as_str() == MAJOR_HEADER)
            && let Some(listed) = self.provided(command.name().as_str())
        {
            headers.push((MAJOR_HEADER.into(), Text::from(listed.major.to_string().as_str())));
        }
        self.observe_start(now, id, &command, &message);
        let Some(call) = self.calls.find_mut(id) else { return };
        let routed = Routed {
            provider,
            stream: None,
            grant: grant.id().value(),
            channels: channels.clone(),
            answer: None,
            is_overdue: false,
        };
        call.phase = Phase::Routed(Box::new(routed));
        if let Some(at) = deadline {
            self.deadlines.insert((at, id));
        }
        let mut channels = channels;
        channels.iter_mut().for_each(|channel| channel.credit = self.relays.initial(channel));
        let request = Request {
            command: command.text(),
            headers,
            deadline_us: deadline.map(|at| micros(at.saturating_duration_since(now))),
            flags,
            extensions: stamped(extensions, &origin, depth, behalf.first()),
            channels,
            message,
        };
        self.stats.routed += 1;
        self.outputs.push_back(Output::Forward(Box::new(Forward { call: id, provider, request })));
    }

    /// Whether a call is still to be forwarded. To be asked right before that.
    pub(crate) fn is_to_forward(&self, id: CallId) -> bool {
        self.calls
            .find(id)
            .is_some_and(|call| matches!(&call.phase, Phase::Routed(routed) if routed.stream.is_none()))
    }

    /// What came of forwarding a call: the daemon's stream, or why it can't be; `None` if the provider is gone.
    pub(crate) fn handle_forwarded(
        &mut self,
        now: Instant,
        id: CallId,
        forwarded: Option<Result<u64, MisuseError>>,
    ) {
        let Some(call) = self.calls.find_mut(id) else { return };
        let caller = call.caller();
        let Phase::Routed(routed) = &mut call.phase else { return };
        let (provider, channels) = (routed.provider, routed.channels.clone());
        match forwarded {
            Some(Ok(stream)) => {
                routed.stream = Some(stream);
                if let Some(state) = self.peers.get_mut(&provider) {
                    state.serving.calls.insert(stream, id);
                }
                if let Some((peer, of_caller)) = caller.filter(|_| !channels.is_empty()) {
                    self.begin_relays((peer, of_caller), (provider, stream), &channels);
                }
            }
            refused => {
                let (code, text) = match refused {
                    Some(Err(error)) => refusal_of(&error),
                    _ => (ErrorCode::Unavailable, "the provider went away".to_owned()),
                };
                self.end(now, id, Ending::framework(code, &text, Delivery::NotDelivered));
            }
        }
    }

    /// A provider answered; `more` says whether all of it is here.
    pub(crate) fn handle_answer(
        &mut self,
        now: Instant,
        (provider, stream): (PeerId, u64),
        mut head: AnswerHead,
        payload: Bytes,
        more: More,
    ) {
        let Some(id) = self.routed_call(provider, stream) else { return };
        self.revoke_if_gone(now, id);
        let parts = head.take_parts();
        if self.is_late(id) {
            // Its channels were closed when its caller's leg ended.
            self.stats.late_completions += 1;
            return self.drop_call(id);
        }
        let total = inline_len(&parts).unwrap_or(u64::MAX);
        // The connection checks lengths before it gives an event; this is a second lock on the same door.
        let Ok(assembly) = Assembly::begin(parts, payload) else {
            return self.end(
                now,
                id,
                Ending::framework(ErrorCode::Internal, "a malformed answer", Delivery::Completed),
            );
        };
        if more == More::Whole {
            return self.finish_answer(now, id, head, assembly);
        }
        let memory =
            self.peers.get(&provider).and_then(|state| state.account.charge(Resource::MessageBytes, total));
        let Some(memory) = memory else {
            // The rest of it is dropped as it comes.
            let text = "too many bytes of the provider's messages are held";
            let ending = Ending::framework(ErrorCode::ResourceExhausted, text, Delivery::Completed);
            return self.end(now, id, ending);
        };
        self.note_held(0);
        if let Some(Phase::Routed(routed)) = self.calls.find_mut(id).map(|call| &mut call.phase) {
            routed.answer = Some(Box::new(Answer { head, assembly, _memory: memory }));
        }
    }

    /// More bytes of a provider's answer came.
    pub(crate) fn handle_answer_continuation(
        &mut self,
        now: Instant,
        (provider, stream): (PeerId, u64),
        fragment: &[u8],
        more: More,
    ) {
        let Some(id) = self.routed_call(provider, stream) else { return };
        self.revoke_if_gone(now, id);
        let Some(Phase::Routed(routed)) = self.calls.find_mut(id).map(|call| &mut call.phase) else { return };
        let Some(answer) = &mut routed.answer else { return };
        let is_sound = answer.assembly.push(fragment).is_ok();
        if is_sound && more == More::Follows {
            return;
        }
        let Some(answer) = routed.answer.take() else { return };
        if self.is_late(id) {
            self.stats.late_completions += 1;
            return self.drop_call(id);
        }
        let Answer { head, assembly, .. } = *answer;
        self.finish_answer(now, id, head, assembly);
    }

    fn finish_answer(&mut self, now: Instant, id: CallId, head: AnswerHead, assembly: Assembly) {
        let ending = match assembly.finish() {
            Ok(message) => head.ending(message),
            Err(error) => Ending::framework(ErrorCode::Internal, &error.to_string(), Delivery::Completed),
        };
        self.end(now, id, ending);
    }

    /// Cancels a call at its provider; its caller's leg has ended. `unanswered` is told when it is known whether the provider
    /// has seen it.
    pub(super) fn withdraw_routed(&mut self, now: Instant, id: CallId, unanswered: Option<Unanswered>) {
        let Some(Phase::Routed(routed)) = self.calls.find(id).map(|call| &call.phase) else { return };
        let (provider, stream) = (routed.provider, routed.stream);
        let Some(stream) = stream else {
            // It was not forwarded yet, and will not be.
            return self.handle_withdrawn(id, unanswered, Some(Withdrawal::NeverSent));
        };
        let overdue = now + CANCEL_PATIENCE;
        if let Some(call) = self.calls.find_mut(id) {
            call.deadline = Some(overdue);
            self.deadlines.insert((overdue, id));
        }
        let cancel = CancelRouted { call: id, provider, stream, unanswered };
        self.outputs.push_back(Output::CancelRouted(Box::new(cancel)));
    }

    /// What came of cancelling a call at its provider; `None` if that is gone.
    pub(crate) fn handle_withdrawn(
        &mut self,
        id: CallId,
        unanswered: Option<Unanswered>,
        withdrawal: Option<Withdrawal>,
    ) {
        let was_never_sent = withdrawal == Some(Withdrawal::NeverSent);
        if was_never_sent {
            self.drop_call(id);
        }
        if let Some(Unanswered { peer, stream, code, text }) = unanswered {
            let delivery = if was_never_sent { Delivery::NotDelivered } else { Delivery::Delivered };
            self.answer(peer, stream, Ending::framework(code, &text, delivery));
        }
    }

    /// A provider goes on with a call that was cancelled long ago.
    pub(super) fn note_overdue(&mut self, id: CallId) {
        let Some(call) = self.calls.find_mut(id) else { return };
        call.deadline = None;
        let Phase::Routed(routed) = &mut call.phase else { return };
        if std::mem::replace(&mut routed.is_overdue, true) {
            return;
        }
        self.stats.overdue += 1;
        if let Some(state) = self.peers.get_mut(&routed.provider) {
            state.serving.overdue += 1;
        }
    }

    /// A call's provider's leg has ended.
    pub(super) fn forget_routed(&mut self, routed: Routed) {
        let policy = self.policy.revision();
        let Some(state) = self.peers.get_mut(&routed.provider) else { return };
        let serving = &mut state.serving;
        serving.open -= 1;
        serving.overdue -= usize::from(routed.is_overdue);
        if let Some(stream) = routed.stream {
            serving.calls.remove(&stream);
        }
        let Some(given) = serving.given.get_mut(&routed.grant) else { return };
        given.calls -= 1;
        if given.calls == 0 && given.revision != policy {
            serving.given.remove(&routed.grant);
            self.outputs.push_back(Output::Ungrant { peer: routed.provider, grant: routed.grant });
        }
    }

    /// A provider is gone: each of its calls ends, with what is known of its delivery.
    pub(super) fn lose_provider(
        &mut self,
        now: Instant,
        provider: PeerId,
        serving: Serving,
        lost: &[(u64, Delivery)],
    ) {
        let lost: HashMap<u64, Delivery> = lost.iter().copied().collect();
        let mut calls: Vec<(u64, CallId)> = serving.calls.into_iter().collect();
        calls.sort_unstable();
        for (stream, id) in calls {
            if self.is_late(id) {
                self.drop_call(id);
                continue;
            }
            let delivery = lost.get(&stream).copied().unwrap_or(Delivery::Delivered);
            tracing::trace!(%provider, stream, ?delivery, "a call lost its provider");
            self.end(now, id, Ending::framework(ErrorCode::Unavailable, "the provider went away", delivery));
        }
    }

    /// Another policy is in force: grants of those before are taken back from a provider, as far as no call names them.
    pub(super) fn retire_grants(&mut self, provider: PeerId) {
        let policy = self.policy.revision();
        let Some(state) = self.peers.get_mut(&provider) else { return };
        state.serving.take_back(provider, &mut self.outputs, |given| given.revision != policy);
    }

    /// Gives the grant of a call to its provider, if it has not got it, and takes the provider's slot. The stamp that the call
    /// is to carry; `None` if the scopes don't fit a frame.
    fn give_grant(&mut self, provider: PeerId, id: CallId, grant: &Arc<Grant>) -> Option<OriginStamp> {
        let caller = self.calls.find(id)?.peer();
        let PeerState { peer, .. } = self.peers.get(&caller)?;
        let number = grant.id().value();
        let origin =
            OriginStamp { uid: peer.uid, gid: peer.gid, peer: peer.id.0, pid: peer.pid, grant: number };
        let revision = self.policy.revision();
        let state = self.peers.get_mut(&provider)?;
        state.serving.made += 1;
        if let Some(given) = state.serving.given.get_mut(&number) {
            given.calls += 1;
            state.serving.open += 1;
            return Some(origin);
        }
        let kind = self.policy.registry().scope_kind(grant.command().plugin());
        let scopes = Bytes::from(grant.scopes_for_provider(kind).to_string());
        if scopes.len() + GRANT_HEAD > limits::MAX_METADATA {
            return None;
        }
        if state.serving.given.len() >= GIVEN_MAX {
            state.serving.take_back(provider, &mut self.outputs, |_| true);
        }
        state.serving.given.insert(number, Given { calls: 1, revision });
        state.serving.open += 1;
        let grant = GivenGrant::new(number, revision, scopes);
        self.outputs.push_back(Output::Grant { peer: provider, grant });
        Some(origin)
    }

    fn observe_start(&mut self, now: Instant, id: CallId, command: &ProvidedCommand, message: &Message) {
        let Some(call) = self.calls.find_mut(id) else { return };
        let timing = call.noted_mut().map(|noted| noted.dispatch(now, Place::Provider, message));
        if let Some(timing) = timing {
            timing.begin(now);
        }
        let Some((caller, _)) = call.caller().filter(|_| self.watching) else { return };
        let received_in = call.received_in(now);
        let Some(state) = self.peers.get(&caller) else { return };
        self.outputs.push_back(Output::Observed(Observed::Started {
            call: id,
            peer: Arc::clone(&state.peer),
            command: command.text(),
            bytes: message.len(),
            received_in,
        }));
    }

    pub(super) fn routed_call(&self, provider: PeerId, stream: u64) -> Option<CallId> {
        self.peers.get(&provider)?.serving.calls.get(&stream).copied()
    }

    /// Whether nobody waits for a call any more.
    fn is_late(&self, id: CallId) -> bool {
        self.calls.find(id).is_none_or(|call| call.caller().is_none())
    }
}

impl Serving {
    /// Takes those grants back that no call names and that `retires` says so of.
    fn take_back(
        &mut self,
        peer: PeerId,
        outputs: &mut std::collections::VecDeque<Output>,
        retires: impl Fn(&Given) -> bool,
    ) {
        let mut grants: Vec<u64> = Vec::new();
        self.given.retain(|grant, given| {
            let stays = given.calls > 0 || !retires(given);
            grants.extend((!stays).then_some(*grant));
            stays
        });
        grants.sort_unstable();
        outputs.extend(grants.into_iter().map(|grant| Output::Ungrant { peer, grant }));
    }
}

#[cfg(test)]
impl super::calls::CallState {
    /// What its answer is charged while bytes of it are missing.
    pub(super) fn answer_bytes(&self) -> u64 {
        match &self.phase {
            Phase::Routed(routed) => routed.answer.as_ref().map_or(0, |answer| answer._memory.amount()),
            _ => 0,
        }
    }
}

/// What the daemon writes of a call that it forwards.
fn stamped(
    mut extensions: Extensions,
    origin: &OriginStamp,
    depth: u8,
    on_behalf: Option<&PeerId>,
) -> Extensions {
    extensions.insert(tags::ORIGIN, origin.encode());
    if let Some(peer) = on_behalf {
        extensions.insert(tags::ON_BEHALF, Bytes::copy_from_slice(&peer.0.to_le_bytes()));
    }
    if depth > 0 {
        extensions.insert(tags::DEPTH, Bytes::copy_from_slice(&[depth]));
    }
    extensions
}

/// Why a provider can't be called.
fn refusal_of(error: &MisuseError) -> (ErrorCode, String) {
    let text = |what: &str| format!("the provider can't be called: {what}");
    match error {
        MisuseError::NotOpen | MisuseError::Exhausted => {
            (ErrorCode::Unavailable, text("it takes no calls any more"))
        }
        MisuseError::NoChannels => (ErrorCode::Unimplemented, text("it takes no channels")),
        error => (error.wire_code(), text(&error.to_string())),
    }
}

/// What is left of a deadline. Never 0, which would say that it has passed.
fn micros(left: Duration) -> u64 {
    u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
}
