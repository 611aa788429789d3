//! How other threads, and commands, ask the daemon's loop for something.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use invoked_proto::registry::quotas;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::authority::{InForce, RETRY, RuntimeAuthority};
use super::policy_source::{PolicySource, Proposal};
use crate::authority::{CompiledPolicy, PeerGrants, PolicyError, PolicySnapshot};
use crate::ipc::PeerId;
use crate::session::Hub;

/// Something that the loop does for somebody else.
pub(crate) type Ask = Box<dyn FnOnce(&Rc<Hub>) + Send>;

/// Questions that wait for the loop, at most.
const ASKS_MAX: usize = 256;

/// How long somebody waits whose reload comes too soon after another one before it is tried again.
#[cfg(feature = "watch")]
const TURN_PAUSE: Duration = Duration::from_millis(200);

/// A handle of a running daemon; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct DaemonHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asks: mpsc::Sender<Ask>,
    /// True once the daemon is to stop.
    stop: watch::Sender<bool>,
    source: Arc<PolicySource>,
    in_force: InForce,
    /// Held by whoever changes the policy.
    turn: Semaphore,
    last_reload: Mutex<Option<Instant>>,
}

/// A reload that took effect.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// Revision of the policy now in force.
    pub revision: u64,
    /// Capabilities in force.
    pub capabilities: usize,
    /// What may not be what its author meant.
    pub warnings: Vec<PolicyError>,
}

impl Reloaded {
    fn new(policy: &PolicySnapshot, warnings: Vec<PolicyError>) -> Self {
        Reloaded { revision: policy.revision(), capabilities: policy.capability_count(), warnings }
    }
}

/// A reload that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files are not sound; the old policy stays.
    #[error("the policy has errors; the old one stays in force")]
    Policy(Vec<PolicyError>),
    /// A reload is running, or one began a moment ago.
    #[error("a reload is running or has just run; there may be one again in {} ms", .retry_after.as_millis())]
    TooOften {
        /// How long to wait, if no other comes first.
        retry_after: Duration,
    },
    /// The daemon has stopped.
    #[error("the daemon has stopped")]
    Stopped,
}

impl DaemonHandle {
    pub(crate) fn new(source: Arc<PolicySource>, policy: Arc<PolicySnapshot>) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        let inner = Inner {
            asks,
            stop: watch::channel(false).0,
            source,
            in_force: InForce::new(policy),
            turn: Semaphore::new(1),
            last_reload: Mutex::new(None),
        };
        (DaemonHandle(Arc::new(inner)), receiver)
    }

    /// Lets open calls end, then stops the daemon. Returns at once.
    pub fn shutdown(&self) {
        self.0.stop.send_replace(true);
    }

    /// The policy in force, to ask it and to change it.
    #[must_use]
    pub fn authority(&self) -> RuntimeAuthority {
        RuntimeAuthority::new(self.clone())
    }

    pub(super) fn in_force(&self) -> &InForce {
        &self.0.in_force
    }

    pub(super) fn source(&self) -> &Arc<PolicySource> {
        &self.0.source
    }

    /// Tells when the daemon is to stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.0.stop.subscribe()
    }

    /// Reads the policy's files again and puts them in force, all or nothing. Open calls whose grant is gone end with
    /// `revoked`. The log has what came of it as well.
    ///
    /// # Errors
    /// Everything that is wrong with the files; the old policy stays in force then.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let Some(_turn) = self.try_turn() else {
            return Err(ReloadError::TooOften { retry_after: reload_pause() });
        };
        self.begin_reload(Instant::now()).map_err(|retry_after| ReloadError::TooOften { retry_after })?;
        let result = self.read_again().await;
        log(&result);
        result
    }

    /// Reloads; where one has just run, waits for its pause to end, as the files may have changed since.
    #[cfg(feature = "watch")]
    pub(crate) async fn reload_in_turn(&self) {
        while let Err(ReloadError::TooOften { .. }) = self.reload().await {
            tokio::time::sleep(TURN_PAUSE).await;
        }
    }

    async fn read_again(&self) -> Result<Reloaded, ReloadError> {
        let source = Arc::clone(&self.0.source);
        let loaded = tokio::task::spawn_blocking(move || source.load()).await;
        let proposal = loaded.map_err(|_| ReloadError::Stopped)?.map_err(ReloadError::Policy)?;
        self.put_in_force(proposal).await.ok_or(ReloadError::Stopped)
    }

    /// Waits for the turn to change the policy; nobody else changes it while the result is held.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.turn.acquire().await.ok()
    }

    pub(super) fn try_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.turn.try_acquire().ok()
    }

    /// Puts a policy in force; `None` if the daemon has stopped. Only for who has the turn.
    pub(super) async fn put_in_force(&self, proposal: Proposal) -> Option<Reloaded> {
        let CompiledPolicy { snapshot, warnings, .. } = self.0.source.adopt(proposal);
        let policy = Arc::new(snapshot);
        let reloaded = Reloaded::new(&policy, warnings);
        if !self.0.in_force.set_before_begin(&policy) {
            let prepared = self.prepare(&policy).await?;
            self.ask(self.putting(policy, prepared)).await?;
        }
        Some(reloaded)
    }

    /// The same without a runtime. What the peers that are there are given is compiled here.
    pub(super) fn put_in_force_blocking(&self, proposal: Proposal) -> Option<Reloaded> {
        let CompiledPolicy { snapshot, warnings, .. } = self.0.source.adopt(proposal);
        let policy = Arc::new(snapshot);
        let reloaded = Reloaded::new(&policy, warnings);
        if self.0.in_force.set_before_begin(&policy) {
            return Some(reloaded);
        }
        let mut prepared = Vec::new();
        let mut last = PeerId(0);
        loop {
            let after = last;
            let peers = self.ask_blocking(move |hub| hub.with_broker(|broker| broker.peers_after(after)))?;
            let Some((id, _)) = peers.last() else { break };
            last = *id;
            prepared.extend(peers.iter().map(|(_, holder)| holder.grants(&policy)));
        }
        self.ask_blocking(self.putting(policy, prepared))?;
        Some(reloaded)
    }

    fn putting(
        &self,
        policy: Arc<PolicySnapshot>,
        prepared: Vec<Arc<PeerGrants>>,
    ) -> impl FnOnce(&Rc<Hub>) + Send + 'static {
        let handle = self.clone();
        move |hub| {
            hub.set_policy(Arc::clone(&policy), prepared);
            handle.0.in_force.set(policy);
        }
    }

    /// Compiles what `policy` gives the peers that are there. To ask who is there takes the loop a slice at a time.
    async fn prepare(&self, policy: &Arc<PolicySnapshot>) -> Option<Vec<Arc<PeerGrants>>> {
        let mut prepared = Vec::new();
        let mut last = PeerId(0);
        loop {
            let peers = self.ask(move |hub| hub.with_broker(|broker| broker.peers_after(last))).await?;
            let Some((id, _)) = peers.last() else { return Some(prepared) };
            last = *id;
            let policy = Arc::clone(policy);
            let compile = move || peers.iter().map(|(_, holder)| holder.grants(&policy)).collect::<Vec<_>>();
            prepared.append(&mut tokio::task::spawn_blocking(compile).await.ok()?);
        }
    }

    /// Notes that a reload begins; `Err` says how long it is too early.
    fn begin_reload(&self, now: Instant) -> Result<(), Duration> {
        let mut last = self.0.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
        let early = last.map(|last| reload_pause().saturating_sub(now.duration_since(last)));
        if let Some(early) = early.filter(|early| !early.is_zero()) {
            return Err(early);
        }
        *last = Some(now);
        Ok(())
    }

    /// Runs `question` on the loop; `None` if the daemon has stopped.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Rc<Hub>) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        let ask: Ask = Box::new(move |hub| {
            // The asker may have left; its question is answered all the same.
            drop(answer.send(question(hub)));
        });
        self.0.asks.send(ask).await.ok()?;
        answered.await.ok()
    }

    /// [`ask`](Self::ask) for a thread without a runtime, which must not be that of the loop.
    pub(super) fn ask_blocking<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Rc<Hub>) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let mut ask: Ask = Box::new(move |hub| {
            drop(answer.send(question(hub)));
        });
        loop {
            match self.0.asks.try_send(ask) {
                Ok(()) => return answered.recv().ok(),
                Err(TrySendError::Closed(_)) => return None,
                Err(TrySendError::Full(back)) => ask = back,
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// From the beginning of one reload to that of the next, at least.
fn reload_pause() -> Duration {
    Duration::from_secs(1) / u32::try_from(quotas::RELOADS_PER_SECOND).unwrap_or(1).max(1)
}

/// Tells the operator what came of a reload.
fn log(result: &Result<Reloaded, ReloadError>) {
    match result {
        Ok(Reloaded { revision, capabilities, warnings }) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!(revision, capabilities, "policy reloaded");
        }
        Err(ReloadError::Policy(errors)) => {
            for error in errors {
                tracing::error!("{error}");
            }
            tracing::error!("the policy has {} errors; the old one stays in force", errors.len());
        }
        Err(error) => tracing::error!("{error}"),
    }
}
