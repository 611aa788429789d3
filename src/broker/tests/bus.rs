//! The simulated bus: any number of clients, one broker, virtual time, handlers that end when the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, Event, Placement, Request, Role, Settings};
use invoked_proto::metadata::{ChannelDeclaration, Hello, Part, Place};
use invoked_proto::registry::{Codec, Direction, LIMITS, Overflow, features};
use invoked_proto::testing::{Token, output};

pub(super) use super::client::{Came, End, Peer};
use super::wire::Wire;
use crate::authority::{
    Format, PeerFacts, Policy, PolicySnapshot, ProcessFacts, ProvidedInterface, Source, UserDirectory,
};
use crate::broker::{
    AnswerHead, Bounds, Broker, BrokerSettings, CallId, CallRecord, FirstOfItem, Narrowing, Observed, Output,
    Run, Served, Swept, forward, held_to, is_local, serve,
};
use crate::commands::CommandTable;
use crate::ipc::{Channel, Command, Outcome, Outside, PeerId, Response};
use crate::plugin::{self, Assembled, TauriPlugin};

/// The bus.
pub(super) struct Bus {
    pub(super) broker: Broker,
    pub(super) now: Instant,
    pub(super) peers: Vec<Peer>,
    /// Calls at their handlers, in the order in which they came.
    pub(super) running: VecDeque<Run>,
    /// What the body of the next call that comes is in.
    pub(super) next_outside: Option<Outside>,
    /// What is to be read.
    pub(super) fetches: VecDeque<(CallId, Outside)>,
    /// Handlers that were told that nobody waits.
    pub(super) cancelled: Vec<CallId>,
    /// Denials, as the operator's log has them.
    pub(super) denials: Vec<String>,
    /// How many were left out before each of them.
    pub(super) suppressed: Vec<u64>,
    /// Answers of calls that came from no connection, by stream.
    pub(super) local_ends: BTreeMap<u64, Vec<End>>,
    /// What was let be observed of calls.
    pub(super) observed: Vec<String>,
    /// What a monitor was told.
    pub(super) records: Vec<CallRecord>,
    /// Bytes that each peer leaves unread.
    pub(super) unread: usize,
    /// Peers that wait for what is left to them; [`narrow`](Bus::narrow) finds it.
    narrowing: VecDeque<Narrowing>,
    /// What connections are made with, where no capability says otherwise.
    settings: Settings,
}

struct NoUsers;

impl UserDirectory for NoUsers {
    fn uid_of(&self, _: &str) -> Option<u32> {
        None
    }
    fn gid_of(&self, _: &str) -> Option<u32> {
        None
    }
    fn name_of(&self, _: u32) -> Option<String> {
        None
    }
    fn home_of(&self, _: u32) -> Option<PathBuf> {
        None
    }
}

fn nothing(_: &crate::ipc::InvokeMessage) -> Outcome {
    Ok(Response::default())
}

fn plugins() -> Vec<Assembled> {
    let commands = vec![Command::blocking("slow", nothing), Command::inline("quick", nothing)];
    let plugin: TauriPlugin = plugin::Builder::new("t").invoke_handler(commands).build();
    vec![plugin.assemble().unwrap()]
}

/// A policy whose only capability is `permissions` for uid 1000.
pub(in crate::broker) fn policy(permissions: &str) -> Arc<PolicySnapshot> {
    written(&format!("identifier = \"x\"\npeers = [\"uid:1000\"]\npermissions = {permissions}\n"))
}

/// The policy of one file.
pub(super) fn written(text: &str) -> Arc<PolicySnapshot> {
    written_with(text, &[])
}

/// The same with what peers have registered.
pub(super) fn written_with(text: &str, interfaces: &[Arc<ProvidedInterface>]) -> Arc<PolicySnapshot> {
    // As in the daemon, grants of one policy have not the numbers of those of another.
    static REVISION: AtomicU64 = AtomicU64::new(1);
    let mut policy = Policy::new(0, &NoUsers)
        .revision(REVISION.fetch_add(1, Ordering::Relaxed))
        .process_facts(ProcessFacts::Confirmed)
        .document(Source::new("x.toml", None, text), Format::Toml);
    for interface in interfaces {
        policy = policy.provided(Arc::clone(interface), 0);
    }
    for plugin in plugins() {
        policy = policy.manifest(plugin.manifest().clone());
    }
    Arc::new(policy.compile().unwrap().snapshot)
}

fn settings() -> Settings {
    Settings { features: features::CHANNELS | features::PROVIDE, ..Settings::default() }
}

/// The limits that WELCOME tells of connections with these settings.
fn announced(settings: &Settings) -> Vec<(u16, u64)> {
    let value = |name: &str, default| match name {
        "channel_window" => settings.channel_window,
        "connection_window" => settings.connection_window,
        _ => default,
    };
    LIMITS.iter().filter_map(|limit| Some((limit.id?, value(limit.name, limit.value)))).collect()
}

impl Bus {
    pub(super) fn new() -> Self {
        Self::with_bounds(Bounds::default())
    }

    pub(super) fn with_bounds(bounds: Bounds) -> Self {
        Self::with_settings(bounds, settings())
    }

    /// The same whose windows are these, in bytes.
    pub(super) fn with_windows(bounds: Bounds, channel_window: u64, connection_window: u64) -> Self {
        Self::with_settings(bounds, Settings { channel_window, connection_window, ..settings() })
    }

    fn with_settings(bounds: Bounds, connections: Settings) -> Self {
        let announced = announced(&connections);
        let settings = BrokerSettings { bounds, announced, ..BrokerSettings::default() };
        let commands = Arc::new(CommandTable::new(&plugins()).unwrap());
        let policy = policy(r#"["t:allow-slow", "t:allow-quick"]"#);
        Bus {
            broker: Broker::new(settings, policy, commands),
            now: Instant::now(),
            peers: Vec::new(),
            running: VecDeque::new(),
            next_outside: None,
            fetches: VecDeque::new(),
            cancelled: Vec::new(),
            denials: Vec::new(),
            suppressed: Vec::new(),
            local_ends: BTreeMap::new(),
            observed: Vec::new(),
            records: Vec::new(),
            unread: 0,
            narrowing: VecDeque::new(),
            settings: connections,
        }
    }

    /// Connects a client of `uid`; its index.
    pub(super) fn connect(&mut self, uid: u32) -> Option<usize> {
        let peer = self.begin(uid, &Hello::default())?;
        self.settle();
        Some(peer)
    }

    /// The same with supplementary groups.
    pub(super) fn connect_as(&mut self, uid: u32, groups: &[u32]) -> Option<usize> {
        let peer = self.admit(PeerFacts::new(uid, uid, groups), &Hello::default())?;
        self.settle();
        Some(peer)
    }

    /// A client whose HELLO is not sent yet.
    pub(super) fn begin(&mut self, uid: u32, hello: &Hello) -> Option<usize> {
        self.admit(PeerFacts::new(uid, uid, []), hello)
    }

    pub(super) fn admit(&mut self, facts: PeerFacts, hello: &Hello) -> Option<usize> {
        let uid = facts.uid;
        let id = self.broker.handle_connection(facts)?;
        let grants = self.broker.grants(id).unwrap();
        self.peers.push(Peer {
            id,
            uid,
            client: Connection::client(self.settings, hello, self.now).unwrap(),
            daemon: Connection::daemon(held_to(self.settings, grants.limits()), self.now),
            wire: Wire::default(),
            decisions: BTreeMap::new(),
            ends: BTreeMap::new(),
            welcome: None,
            channels: BTreeMap::new(),
            consumes: true,
            stops: BTreeMap::new(),
            credited: Vec::new(),
            called: VecDeque::new(),
            withdrawn: Vec::new(),
            granted: BTreeMap::new(),
        });
        Some(self.peers.len() - 1)
    }

    /// Calls and lets everything settle; the stream.
    pub(super) fn call(&mut self, peer: usize, command: &str, len: usize) -> u64 {
        let stream = self.start(peer, command, len, None);
        self.settle();
        stream
    }

    /// Calls with the flag SENSITIVE.
    pub(super) fn call_sensitive(&mut self, peer: usize, command: &str, len: usize) {
        let message = Message::from(Body::Raw(Bytes::from(vec![7; len])));
        let flags = invoked_proto::registry::flags::SENSITIVE;
        let request = Request { command: command.into(), message, flags, ..Request::default() };
        self.peers[peer].client.call(request).unwrap();
        self.settle();
    }

    pub(super) fn peer_id(&self, peer: usize) -> PeerId {
        self.peers[peer].id
    }

    /// Queues a call at the client.
    pub(super) fn start(&mut self, peer: usize, command: &str, len: usize, deadline_us: Option<u64>) -> u64 {
        let message = Message::from(Body::Raw(Bytes::from(vec![7; len])));
        let request = Request { command: command.into(), message, deadline_us, ..Request::default() };
        self.peers[peer].client.call(request).unwrap()
    }

    /// Calls with a channel of each index on which the command sends, with so much credit each; the stream.
    pub(super) fn call_with_channels(
        &mut self,
        peer: usize,
        command: &str,
        indices: &[u32],
        credit: u64,
    ) -> u64 {
        self.call_with_overflow(peer, command, indices, credit, Overflow::Block)
    }

    /// Queues a call with these channels and a message of `len` bytes at the client.
    pub(super) fn start_with_channels(
        &mut self,
        peer: usize,
        command: &str,
        indices: &[u32],
        credit: u64,
        len: usize,
    ) -> u64 {
        let declare = |index: &u32| ChannelDeclaration { index: *index, direction: Direction::Down, credit };
        let message = Message::from(Body::Raw(Bytes::from(vec![7; len])));
        let channels = indices.iter().map(declare).collect();
        let request = Request { command: command.into(), message, channels, ..Request::default() };
        self.peers[peer].client.call(request).unwrap()
    }

    /// As [`call_with_channels`](Self::call_with_channels), for channels with this overflow.
    pub(super) fn call_with_overflow(
        &mut self,
        peer: usize,
        command: &str,
        indices: &[u32],
        credit: u64,
        overflow: Overflow,
    ) -> u64 {
        let declare = |index: &u32| ChannelDeclaration { index: *index, direction: Direction::Down, credit };
        let channels = indices.iter().map(declare).collect();
        let mut request = Request { command: command.into(), channels, ..Request::default() };
        request.extensions.set_overflows(indices.iter().map(|index| (*index, overflow)));
        let stream = self.peers[peer].client.call(request).unwrap();
        self.settle();
        stream
    }

    /// Takes a channel of the oldest running call, as its handler does.
    pub(super) fn channel(&mut self, index: u32) -> Channel<Response> {
        let run = self.running.front().expect("a handler runs");
        run.wire.channels.channel(index).expect("it is declared")
    }

    /// What came on a channel.
    pub(super) fn came(&self, peer: usize, stream: u64, channel: u32) -> Came {
        self.peers[peer].channels.get(&(stream, channel)).cloned().unwrap_or_default()
    }

    /// Consumes what a client holds of a channel.
    pub(super) fn consume(&mut self, peer: usize, stream: u64, channel: u32) {
        let peer = &mut self.peers[peer];
        if let Some(came) = peer.channels.get_mut(&(stream, channel)) {
            peer.client.give_credit(stream, channel, std::mem::take(&mut came.held));
        }
        self.settle();
    }

    /// Ends the oldest running handler.
    pub(super) fn complete_oldest(&mut self, outcome: Outcome) {
        let run = self.running.pop_front().expect("a handler runs");
        self.complete(run.call, outcome);
    }

    pub(super) fn complete(&mut self, call: CallId, outcome: Outcome) {
        self.broker.handle_completion(self.now, call, outcome);
        self.settle();
    }

    pub(super) fn cancel(&mut self, peer: usize, stream: u64) {
        self.peers[peer].client.cancel(stream);
        self.settle();
    }

    /// The client's process is gone.
    pub(super) fn kill(&mut self, peer: usize) {
        self.lose(peer);
        self.settle();
    }

    /// The same, and nothing is carried yet.
    pub(super) fn lose(&mut self, peer: usize) {
        let id = self.peers[peer].id;
        let lost = self.peers[peer].daemon.abandon();
        self.broker.handle_loss(self.now, id, &lost);
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.broker.handle_timeout(self.now);
        self.settle();
    }

    /// Puts a policy in force and works the change off, all at one instant; what each slice but the last looked at.
    pub(super) fn reload(&mut self, policy: Arc<PolicySnapshot>) -> Vec<usize> {
        self.broker.handle_policy(policy, Vec::new());
        let mut slices = Vec::new();
        while let Swept::Partly { looked_at } = self.broker.sweep(self.now) {
            slices.push(looked_at);
            // As in the daemon, where sessions have their turns in between.
            self.settle();
        }
        self.settle();
        slices
    }

    /// Finds what is left to those who narrow themselves, and welcomes them; how many these were.
    pub(super) fn narrow(&mut self) -> usize {
        let mut count = 0;
        while let Some(narrowing) = self.narrowing.pop_front() {
            count += 1;
            self.broker.handle_narrowed(self.now, &narrowing, narrowing.answer());
            self.settle();
        }
        count
    }

    /// What the caller saw of a call; panics if it ended more than once.
    pub(super) fn end(&self, peer: usize, stream: u64) -> Option<&End> {
        let ends = self.peers[peer].ends.get(&stream)?;
        assert_eq!(ends.len(), 1, "a call ended {} times: {ends:?}", ends.len());
        ends.first()
    }

    /// Carries bytes both ways until nothing moves, all at one instant.
    pub(super) fn settle(&mut self) {
        loop {
            self.broker.handle_ready(self.now);
            let mut moved = self.pump_outputs();
            for at in 0..self.peers.len() {
                moved |= self.carry(at);
            }
            if !moved {
                return;
            }
        }
    }

    /// Delivers the first `bytes` of what a client has to send, and nothing else; the rest is still to be delivered.
    pub(super) fn deliver_partially(&mut self, peer: usize, bytes: usize) -> Bytes {
        let mut out = output(&mut self.peers[peer].client);
        assert!(bytes < out.len(), "the whole message fits in {bytes} bytes");
        let rest = out.split_off(bytes);
        self.deliver(peer, out);
        rest
    }

    /// Delivers bytes of a client.
    pub(super) fn deliver(&mut self, peer: usize, bytes: Bytes) {
        self.peers[peer].daemon.handle_input(self.now, bytes, []).unwrap();
        self.take_events(peer);
        self.pump_outputs();
    }

    fn carry(&mut self, at: usize) -> bool {
        self.write(at, Role::Client);
        self.write(at, Role::Daemon);
        let unread = self.unread + self.peers[at].daemon.unsent().bytes;
        self.broker.note_unread(self.peers[at].id, unread);
        let to_daemon = self.read(at, Role::Daemon, usize::MAX);
        let to_client = self.read(at, Role::Client, usize::MAX);
        self.take_replies(at);
        self.take_events(at);
        to_daemon || to_client
    }

    pub(super) fn take_events(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        while let Some(event) = peer.daemon.poll_event() {
            peer.daemon.release(event.payload_len());
            match event {
                Event::Greeted(hello) => self.broker.handle_hello(peer.id, &hello),
                Event::Called { stream, flags, mut call, payload, more, .. } => {
                    let outside = self.next_outside.take();
                    if let Some(outside) = &outside {
                        let place = Place::Pool { segment: 1, generation: 1, offset: 0 };
                        call.parts[0] = Part { codec: Codec::Raw, len: outside.len(), place };
                    }
                    let outside = outside.map(Ok);
                    let first = crate::broker::FirstOfCall { flags, payload, more, outside };
                    self.broker.handle_call(self.now, peer.id, stream, call, first);
                }
                Event::Continued { stream, payload, more } if stream.is_multiple_of(2) => {
                    let at = (peer.id, stream);
                    self.broker.handle_answer_continuation(self.now, at, &payload, more);
                }
                Event::Continued { stream, payload, more } => {
                    self.broker.handle_continuation(self.now, peer.id, stream, &payload, more);
                }
                Event::Replied { stream, reply, payload, more, .. } => {
                    let head = AnswerHead::Reply(reply);
                    self.broker.handle_answer(self.now, (peer.id, stream), head, payload, more);
                }
                Event::Failed { stream, code, failure, payload, more, .. } => {
                    let head = AnswerHead::Fail(code, failure);
                    self.broker.handle_answer(self.now, (peer.id, stream), head, payload, more);
                }
                Event::CreditCame { stream, channel, bytes } => {
                    self.broker.handle_credit(peer.id, stream, channel, bytes);
                }
                Event::Cancelled { stream } => self.broker.handle_cancel(self.now, peer.id, stream),
                Event::ChannelStopped { stream, channel } => {
                    self.broker.handle_channel_end(peer.id, stream, channel);
                }
                Event::ChannelCredited { stream, channel } => {
                    self.broker.handle_channel_credited(self.now, peer.id, stream, channel);
                }
                Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                    let lagged = item.lagged();
                    let first =
                        FirstOfItem { parts: item.parts, payload, more, credit, lagged, outside: None };
                    self.broker.handle_item(self.now, peer.id, (stream, channel), first);
                }
                Event::ItemContinued { stream, channel, payload, more, credit } => {
                    self.broker.handle_item_continuation(peer.id, (stream, channel), &payload, more, credit);
                }
                Event::ChannelEnded { stream, channel, code, message, lagged } => {
                    let key = (stream, channel);
                    self.broker.handle_upload_end(peer.id, key, code, &message, lagged);
                }
                _ => {}
            }
        }
    }

    pub(super) fn pump_outputs(&mut self) -> bool {
        let mut moved = false;
        while let Some(output) = self.broker.poll_output() {
            moved = true;
            match output {
                Output::Fetch { call, outside, .. } => self.fetches.push_back((call, outside)),
                Output::FetchItem { item, outside } => {
                    self.broker.handle_item_fetched(item, outside.read());
                }
                Output::TellLanes(_) => {}
                Output::Run(run) => self.running.push_back(run),
                Output::CancelHandler(call) => self.cancelled.push(call),
                Output::ServeChannel { peer, stream, channel, pipe } => {
                    let served = self.daemon(peer, |c| {
                        serve(c, stream, channel, &pipe, |_, _| Placement::default(), |_| {})
                    });
                    if let Some(Served::Ended) = served {
                        self.broker.handle_channel_end(peer, stream, channel);
                    }
                }
                Output::StopChannel { peer, stream, channel } => {
                    self.daemon(peer, |c| c.stop_channel(stream, channel));
                }
                Output::GiveCredit { peer, stream, channel, credit } => {
                    self.daemon(peer, |c| c.give_credit(stream, channel, credit));
                }
                Output::CutChannel { peer, stream, channel, code, message } => {
                    self.daemon(peer, |c| c.cut_channel(stream, channel, code, message));
                }
                Output::Observed(observed) => self.note(observed),
                Output::Welcome { peer, welcome } => {
                    self.daemon(peer, |c| c.welcome(&welcome).unwrap());
                    if let Some(peer) = self.peers.iter_mut().find(|known| known.id == peer) {
                        peer.welcome = Some(welcome);
                    }
                }
                Output::Narrow(narrowing) => self.narrowing.push_back(narrowing),
                Output::Bound { peer, limits } => {
                    let settings = held_to(self.settings, &limits);
                    self.daemon(peer, |c| c.hold_to(settings));
                }
                Output::Refuse { peer, code, message } => {
                    self.daemon(peer, |c| c.refuse(code, &message));
                }
                Output::Drain(peer) => {
                    self.daemon(peer, |c| c.drain(""));
                }
                Output::Reply { stream, message, .. } if is_local(stream) => {
                    self.local_ends.entry(stream).or_default().push(End::Reply(message.body));
                }
                Output::Fail { stream, code, failure, .. } if is_local(stream) => {
                    self.local_ends.entry(stream).or_default().push(End::Fail(code, failure.delivery));
                }
                Output::Reply { peer, stream, headers, extensions, message, .. } => {
                    let none = Placement::default();
                    self.daemon(peer, |c| {
                        c.reply_extended(stream, headers, extensions, message, none).unwrap();
                    });
                }
                Output::Forward(call) => {
                    let (id, provider) = (call.call, call.provider);
                    if self.broker.is_to_forward(id) {
                        let forwarded = self.daemon(provider, |c| forward(c, *call));
                        self.broker.handle_forwarded(self.now, id, forwarded);
                    }
                }
                Output::CancelRouted(cancel) => {
                    let withdrawal = self.daemon(cancel.provider, |c| c.cancel(cancel.stream));
                    self.broker.handle_withdrawn(cancel.call, cancel.unanswered, withdrawal);
                }
                Output::Grant { peer, grant } => {
                    self.daemon(peer, |c| c.grant(&grant).unwrap());
                }
                Output::Ungrant { peer, grant } => {
                    self.daemon(peer, |c| c.ungrant(grant).unwrap());
                }
                Output::RelayChannels { peer, stream } => {
                    self.daemon(peer, |c| c.relay_channels(stream));
                }
                Output::ServeRelay { peer, relay } => {
                    if let Some(at) = self.peers.iter().position(|known| known.id == peer) {
                        self.broker.serve_relay(relay, &mut self.peers[at].daemon);
                    }
                }
                Output::PassCredit { peer, stream, channel, credit } => {
                    self.daemon(peer, |c| c.pass_credit(stream, channel, credit));
                }
                Output::Fail { peer, stream, code, failure, message } => {
                    // A connection that was turned away has no streams any more, as in the hub.
                    self.daemon(peer, |c| {
                        let failed = c.fail_call(stream, code, failure, message);
                        assert!(failed.is_ok() || c.is_closed(), "{failed:?}");
                    });
                }
            }
        }
        moved
    }

    fn note(&mut self, observed: Observed) {
        match observed {
            Observed::Denied { explanation, suppressed, .. } => {
                self.denials.push(explanation);
                self.suppressed.push(suppressed);
            }
            Observed::Called(record) => self.records.push(*record),
            Observed::Started { command, bytes, .. } => {
                self.observed.push(format!("{command} {bytes} bytes"));
            }
            Observed::Ended { code, bytes, took, .. } => {
                self.observed.push(format!("{code:?} {bytes} bytes {took:?}"));
            }
        }
    }

    fn daemon<R>(&mut self, id: PeerId, act: impl FnOnce(&mut Connection<Token>) -> R) -> Option<R> {
        self.peers.iter_mut().find(|peer| peer.id == id).map(|peer| act(&mut peer.daemon))
    }
}
