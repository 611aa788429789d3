//! The whole bus as a state machine: peers, calls, quotas, deadlines.
//!
//! Events go in by `handle_*`, what is to be done comes out of [`Broker::poll_output`], and the time is an argument. The
//! broker does no I/O, reads no clock and starts nothing; so a daemon with any number of peers runs in one thread
//! inside a unit test.

mod activation;
mod calls;
mod channels;
mod decisions;
mod denials;
mod excerpts;
mod given;
mod lanes;
mod local;
mod monitor;
mod narrowing;
mod nested;
mod origins;
mod output;
mod providers;
mod quota;
mod relays;
mod routes;
mod slots;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use invoked_proto::registry::{Delivery, LIMITS, limits, quotas};

use calls::CallState;
pub(crate) use calls::FirstOfCall;
use channels::{Channels, PeerChannels};
pub(crate) use channels::{Served, serve};
pub(crate) use decisions::{Decision, DecisionId, Decisions};
pub(crate) use excerpts::{Bodies, Excerpt};
pub(crate) use given::Held;
pub(crate) use local::{LocalCall, is_local};
pub(crate) use monitor::{CallRecord, Timing};
use narrowing::Waiting;
pub(crate) use narrowing::{Holder, Narrowing};
use nested::Nestings;
pub(crate) use output::{ItemOf, Observed, Output, Place, Run, held_to};
pub(crate) use providers::{Listed, ProviderBounds, Registering};
use providers::{Providers, Serving};
use quota::{Account, Allowance, Charge, Ledger, Resource};
pub(crate) use quota::{Bound, Bounds};
use relays::{PeerRelays, Relays};
pub(crate) use routes::{AnswerHead, CancelRouted, Forward, forward};
pub(crate) use slots::CallId;
use slots::Slots;
pub(crate) use stats::Stats;
pub(crate) use sweep::Swept;
use sweep::{Epoch, Sweep};
pub(crate) use uploads::FirstOfItem;

use crate::authority::{PeerFacts, PeerGrants, PolicySnapshot};
use crate::commands::CommandTable;
use crate::ipc::{FdCharge, LaneCounters, Peer, PeerId, ReplyLanes};
use crate::log_limit::LogLimit;

/// What the broker keeps to.
#[derive(Debug, Clone)]
pub(crate) struct BrokerSettings {
    pub(crate) bounds: Bounds,
    /// Of a call that names none.
    pub(crate) default_deadline: Duration,
    /// The longest that a call may have; a longer one, and none, is cut to it.
    pub(crate) max_deadline: Duration,
    /// Limits that WELCOME tells, by their id in the registry.
    pub(crate) announced: Vec<(u16, u64)>,
    /// Size of the buffer that received bytes share.
    pub(crate) read_buffer: usize,
    /// Chance, of which the ids of denials are made.
    pub(crate) seed: u64,
    /// What providers are held to.
    pub(crate) providers: ProviderBounds,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        BrokerSettings {
            bounds: Bounds::default(),
            default_deadline: Duration::from_millis(limits::DEFAULT_DEADLINE_MS),
            max_deadline: Duration::from_secs(3600),
            announced: LIMITS.iter().filter_map(|limit| Some((limit.id?, limit.value))).collect(),
            read_buffer: 256 * 1024,
            seed: 0,
            providers: ProviderBounds::default(),
        }
    }
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Broker {
    settings: BrokerSettings,
    policy: Arc<PolicySnapshot>,
    /// Counts the policies that were in force.
    epoch: Epoch,
    sweep: Option<Sweep>,
    commands: Arc<CommandTable>,
    peers: HashMap<PeerId, PeerState>,
    /// The same peers in an order that a sweep can go on in.
    order: BTreeSet<PeerId>,
    next_peer: u64,
    /// Peers that are none of the processes outside.
    local_peers: usize,
    next_local: u64,
    calls: Slots<CallState>,
    channels: Channels,
    providers: Providers,
    relays: Relays,
    nestings: Nestings,
    deadlines: BTreeSet<(Instant, CallId)>,
    ledger: Ledger,
    /// The most bytes that were held since memory was last asked back.
    most_held: u64,
    outputs: VecDeque<Output>,
    stats: Stats,
    denial_log: LogLimit,
    decisions: Decisions,
    watching: bool,
    /// Who is charged for the bodies that are recorded, if any are.
    bodies: Option<Rc<Account>>,
    lane_counters: Arc<LaneCounters>,
    draining: bool,
    /// What a provider knows of those for whom its daemon calls; `None` in a daemon.
    origins: Option<origins::Origins>,
}

/// How far a peer has come.
#[derive(Debug)]
enum Standing {
    /// It has not said who it is, or was turned away when it did: its calls are not served.
    Unknown,
    /// It said which capabilities it keeps, and waits for what is left.
    Waiting(Box<Waiting>),
    /// It was welcomed.
    Welcomed,
}

/// Once so many bytes were held, their memory is asked back when they are gone: allocators keep it otherwise.
const MANY_HELD: u64 = 16 << 20;

/// A connected peer.
#[derive(Debug)]
struct PeerState {
    peer: Arc<Peer>,
    facts: Arc<PeerFacts>,
    /// The capabilities that it keeps of those that match it; `None` if it keeps all.
    kept: Option<Arc<[String]>>,
    grants: Arc<PeerGrants>,
    /// The policy that gave these.
    epoch: Epoch,
    account: Rc<Account>,
    /// What its capabilities let its uid hold.
    allowance: Allowance,
    _connection: Charge,
    standing: Standing,
    /// Whether it is none of the processes outside.
    is_local: bool,
    /// Bytes that wait for the peer to read them.
    unread: Charge,
    /// File descriptors that the peer has not confirmed.
    fds: VecDeque<FdCharge>,
    /// What large replies are made of, if the peer takes them so.
    lanes: Option<Arc<ReplyLanes>>,
    calls: HashMap<u64, CallId>,
    channels: PeerChannels,
    /// Its ends of channels between callers and providers.
    relays: PeerRelays,
    /// What it does as a provider.
    serving: Serving,
}

impl Broker {
    pub(crate) fn new(
        settings: BrokerSettings,
        policy: Arc<PolicySnapshot>,
        commands: Arc<CommandTable>,
    ) -> Self {
        Broker {
            policy,
            epoch: Epoch::default(),
            sweep: None,
            commands,
            peers: HashMap::new(),
            order: BTreeSet::new(),
            next_peer: 1,
            local_peers: 0,
            next_local: 0,
            calls: Slots::new(),
            channels: Channels::new(),
            providers: Providers::default(),
            relays: Relays::default(),
            nestings: Nestings::default(),
            deadlines: BTreeSet::new(),
            ledger: Ledger::new(settings.bounds),
            most_held: 0,
            decisions: Decisions::new(
                usize::try_from(quotas::DECISIONS).unwrap_or(usize::MAX),
                settings.seed,
            ),
            settings,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            denial_log: LogLimit::new(),
            watching: false,
            bodies: None,
            lane_counters: Arc::default(),
            draining: false,
            origins: None,
        }
    }

    /// A process connected; `facts` are the kernel's word. `None` if the uid or all have too many connections, or the
    /// daemon is stopping.
    pub(crate) fn handle_connection(&mut self, facts: PeerFacts) -> Option<PeerId> {
        if self.draining {
            return None;
        }
        let account = self.ledger.account(facts.uid);
        let grants = self.policy.peer(&facts);
        let allowance = account.allow(grants.limits());
        let Some(connection) = account.charge(Resource::Connections, 1) else {
            self.stats.connections_refused += 1;
            return None;
        };
        self.stats.connections += 1;
        Some(self.add_peer(facts, grants, account, allowance, connection))
    }

    fn add_peer(
        &mut self,
        facts: PeerFacts,
        grants: Arc<PeerGrants>,
        account: Rc<Account>,
        allowance: Allowance,
        connection: Charge,
    ) -> PeerId {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        self.add_peer_as(id, facts, grants, account, allowance, connection);
        id
    }

    fn add_peer_as(
        &mut self,
        id: PeerId,
        facts: PeerFacts,
        grants: Arc<PeerGrants>,
        account: Rc<Account>,
        allowance: Allowance,
        connection: Charge,
    ) {
        let unread = account.charge_nothing(Resource::ReplyBytes);
        let peer = Arc::new(Peer {
            id,
            uid: facts.uid,
            gid: facts.gid,
            groups: facts.groups.clone(),
            pid: facts.pid,
            user: facts.user_name.clone(),
            program: None,
        });
        let state = PeerState {
            peer,
            facts: Arc::new(facts),
            kept: None,
            grants,
            epoch: self.epoch,
            account,
            allowance,
            _connection: connection,
            standing: Standing::Unknown,
            is_local: false,
            unread,
            fds: VecDeque::new(),
            lanes: None,
            calls: HashMap::new(),
            channels: PeerChannels::new(),
            relays: PeerRelays::new(),
            serving: Serving::default(),
        };
        self.peers.insert(id, state);
        self.order.insert(id);
    }

    /// The connection is gone; `lost` are the daemon's calls to it that were open, as the connection tells them.
    pub(crate) fn handle_loss(&mut self, now: Instant, id: PeerId, lost: &[(u64, Delivery)]) {
        self.order.remove(&id);
        if let Some(mut state) = self.peers.remove(&id) {
            self.local_peers -= usize::from(state.is_local);
            self.withdraw_all(id);
            self.lose_provider(now, id, std::mem::take(&mut state.serving), lost);
            self.lose_relays(id, std::mem::take(&mut state.relays));
            self.abandon_all(now, id, state);
        }
    }

    /// `bytes` wait for the peer to read them.
    pub(crate) fn note_unread(&mut self, id: PeerId, bytes: usize) {
        if let Some(state) = self.peers.get_mut(&id) {
            state.unread.settle(bytes as u64);
        }
    }

    /// Lets the start and the end of each call be observed from now on, or not any more.
    pub(crate) fn watch(&mut self, watching: bool) {
        self.watching = watching;
    }

    /// Whether the daemon is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Takes no new calls; those that are open end.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        let mut ids: Vec<_> = self.peers.keys().copied().collect();
        ids.sort_unstable();
        self.outputs.extend(ids.into_iter().map(Output::Drain));
        self.finish_channels();
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> &Arc<PolicySnapshot> {
        &self.policy
    }

    /// The commands that the daemon hosts.
    pub(crate) fn commands(&self) -> &Arc<CommandTable> {
        &self.commands
    }

    /// Whether many bytes were held a while ago and few are now, so that their memory should be given back. Tells it once.
    pub(crate) fn poll_relief(&mut self) -> bool {
        let is_over = self.most_held >= MANY_HELD && self.held() <= self.most_held / 8;
        if is_over {
            self.most_held = 0;
        }
        is_over
    }

    /// Bytes of messages that are held, in and out, segments aside.
    fn held(&self) -> u64 {
        self.ledger.total(Resource::MessageBytes).saturating_add(self.ledger.total(Resource::ReplyBytes))
    }

    /// Notes that `more` bytes are held besides those that are charged.
    fn note_held(&mut self, more: u64) {
        self.most_held = self.most_held.max(self.held().saturating_add(more));
    }

    /// Counters and gauges.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.peers = self.peers.len() - self.local_peers;
        stats.calls_in_flight = self.calls.len();
        stats.message_bytes = self.ledger.total(Resource::MessageBytes);
        stats.unread_bytes = self.ledger.total(Resource::ReplyBytes);
        stats.channels = self.channels.len() + self.relays.len();
        stats.providers = self.providers.len();
        stats.item_bytes = self.ledger.items();
        stats.segment_bytes = self.ledger.segments();
        stats.memory_file_bytes = self.ledger.memory_files();
        stats.received_fds = self.ledger.received_fds();
        let lanes = self.lane_counters.read();
        (stats.pooled, stats.pooled_bytes) = (lanes.pooled, lanes.pooled_bytes);
        (stats.pool_fallbacks, stats.files) = (lanes.fallbacks, lanes.files);
        stats
    }
}
