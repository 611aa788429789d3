//! How other threads, and commands, ask the daemon's loop for something.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use invoked_proto::registry::quotas;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::PolicySource;
use crate::authority::{CompiledPolicy, Grant, PeerGrants, PolicyError, PolicySnapshot, ScopeDenial};
use crate::ipc::PeerId;
use crate::session::Hub;

/// Something that the loop does for somebody else.
pub(crate) type Ask = Box<dyn FnOnce(&Hub) + Send>;

/// Denials that wait to be logged, at most: they must not crowd out questions.
const DENIALS_MAX: usize = 32;

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
    reloading: Semaphore,
    last_reload: Mutex<Option<Instant>>,
    /// Denials by a scope on their way to the log.
    denials: AtomicUsize,
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

/// A reload that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files are not sound; the old policy stays.
    #[error("the policy has errors; the old one stays in force")]
    Policy(Vec<PolicyError>),
    /// A reload is running, or one ended a moment ago.
    #[error("a reload is running or has just run")]
    TooOften,
    /// The daemon has stopped.
    #[error("the daemon has stopped")]
    Stopped,
}

impl DaemonHandle {
    pub(crate) fn new(source: Arc<PolicySource>) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        let inner = Inner {
            asks,
            stop: watch::channel(false).0,
            source,
            reloading: Semaphore::new(1),
            last_reload: Mutex::new(None),
            denials: AtomicUsize::new(0),
        };
        (DaemonHandle(Arc::new(inner)), receiver)
    }

    /// Lets open calls end, then stops the daemon. Returns at once.
    pub fn shutdown(&self) {
        self.0.stop.send_replace(true);
    }

    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.0.stop.subscribe()
    }

    /// Reads the policy's files again and puts them in force, all or nothing. Open calls whose grant is gone end with
    /// `revoked`. The log has what came of it as well.
    ///
    /// # Errors
    /// Everything that is wrong with the files; the old policy stays in force then.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let Ok(_permit) = self.0.reloading.try_acquire() else { return Err(ReloadError::TooOften) };
        if !self.may_reload(Instant::now()) {
            return Err(ReloadError::TooOften);
        }
        let result = self.read_again().await;
        log(&result);
        result
    }

    /// Reloads; where one has just run, waits for its pause to end, as the files may have changed since.
    #[cfg(feature = "watch")]
    pub(crate) async fn reload_in_turn(&self) {
        while let Err(ReloadError::TooOften) = self.reload().await {
            tokio::time::sleep(TURN_PAUSE).await;
        }
    }

    async fn read_again(&self) -> Result<Reloaded, ReloadError> {
        let source = Arc::clone(&self.0.source);
        let loaded = tokio::task::spawn_blocking(move || source.load()).await;
        let CompiledPolicy { snapshot, warnings, .. } =
            loaded.map_err(|_| ReloadError::Stopped)?.map_err(ReloadError::Policy)?;
        let policy = Arc::new(snapshot);
        let prepared = self.prepare(&policy).await.ok_or(ReloadError::Stopped)?;
        let (revision, capabilities) = (policy.revision(), policy.capability_count());
        self.ask(move |hub| hub.set_policy(policy, prepared)).await.ok_or(ReloadError::Stopped)?;
        Ok(Reloaded { revision, capabilities, warnings })
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

    fn may_reload(&self, now: Instant) -> bool {
        let mut last = self.0.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = Duration::from_secs(1) / u32::try_from(quotas::RELOADS_PER_SECOND).unwrap_or(1).max(1);
        let allowed = last.is_none_or(|last| now.duration_since(last) >= pause);
        if allowed {
            *last = Some(now);
        }
        allowed
    }

    /// Runs `question` on the loop; `None` if the daemon has stopped.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Hub) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        let ask: Ask = Box::new(move |hub| {
            // The asker may have left; its question is answered all the same.
            drop(answer.send(question(hub)));
        });
        self.0.asks.send(ask).await.ok()?;
        answered.await.ok()
    }

    /// Puts a denial by a scope in the operator's log. Lossy when the loop is far behind: a log line must not stop a call.
    pub(crate) fn note_scope_denial(
        &self,
        peer: PeerId,
        grant: Arc<Grant>,
        denial: ScopeDenial,
        argument: Value,
    ) {
        if self.0.denials.fetch_add(1, Ordering::AcqRel) >= DENIALS_MAX {
            self.0.denials.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let handle = self.clone();
        let ask: Ask = Box::new(move |hub| {
            handle.0.denials.fetch_sub(1, Ordering::AcqRel);
            hub.note_scope_denial(peer, &grant, &denial, &argument);
        });
        if self.0.asks.try_send(ask).is_err() {
            self.0.denials.fetch_sub(1, Ordering::AcqRel);
        }
    }
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
