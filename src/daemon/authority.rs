//! The policy of a running daemon, as its own program asks and changes it.
//!
//! Owns what is added at run time and how a change comes into force: compiled elsewhere, then swapped, one change after
//! the other. Files are not read again for it: they stay as they were when they were last found sound.

use std::cell::Cell;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;

use super::handle::{DaemonHandle, ReloadError, Reloaded};
use super::policy_source::{Parts, PolicySource, Proposal};
use crate::authority::{
    Denial, Explanation, Grant, PeerFacts, PolicyError, PolicySnapshot, RuntimeCapability, Verdict,
};

/// How long a thread that may not wait otherwise sleeps before it tries again.
pub(super) const RETRY: Duration = Duration::from_millis(1);

thread_local! {
    /// Whether this thread runs a daemon's loop.
    static ON_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// Notes that this thread runs a daemon's loop, for as long as the result lives.
pub(super) fn enter_loop() -> impl Drop {
    struct Left(bool);
    impl Drop for Left {
        fn drop(&mut self) {
            ON_LOOP.set(self.0);
        }
    }
    Left(ON_LOOP.replace(true))
}

/// The policy of a daemon: asks it, adds capabilities to it and takes them away again.
///
/// Cheap to clone, usable from any thread; [`DaemonHandle::authority`] gives it, to commands as `State<DaemonHandle>`.
/// What is added stays until it is removed or the daemon ends, whatever the files say meanwhile; it is judged by the same
/// rules as a file, and again at each reload.
///
/// ```
/// use invoked::authority::{CapabilityBuilder, PeerFacts};
/// use invoked::ipc::{Command, Response};
/// use invoked::transport::{Access, Listener};
///
/// # let directory = tempfile::tempdir()?;
/// # let address = format!("unix:{}/run/app.sock", directory.path().display()).parse()?;
/// let listener = Listener::bind(&address, Access::Owner)?;
/// let daemon = invoked::Builder::default()
///     .invoke_handler(vec![Command::inline("greet", |_| Ok(Response::json("hello")?))])
///     .serve(listener)?;
/// let authority = daemon.handle().authority();
/// let ana = PeerFacts::new(1000, 1000, []);
/// assert!(authority.authorize(&ana, "greet").is_err());
/// let greeting = CapabilityBuilder::new("greeting").peer("uid:1000").permission("allow-greet");
/// authority.add_capability_blocking(greeting)?;
/// assert!(authority.authorize(&ana, "greet").is_ok());
/// authority.remove_capability_blocking("greeting")?;
/// assert!(authority.authorize(&ana, "greet").is_err());
/// # daemon.shutdown()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RuntimeAuthority(DaemonHandle);

/// Why a change of the policy at run time was refused; the policy is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The capability is not sound, or there is one of its name already.
    #[error("{}", lines(.0))]
    Policy(Vec<PolicyError>),
    /// No capability of this name was added at run time.
    #[error("no capability {0:?} was added at run time")]
    NotAdded(String),
    /// The caller is on the daemon's own thread, which would wait for itself. Await the async method, or make the command one
    /// that is not inline.
    #[error("an inline command can not wait for the policy to change")]
    OnTheLoop,
    /// The daemon has stopped.
    #[error("the daemon has stopped")]
    Stopped,
}

fn lines(errors: &[PolicyError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What is in force, for whoever asks from another thread.
#[derive(Debug)]
pub(super) struct InForce(RwLock<State>);

#[derive(Debug)]
struct State {
    policy: Arc<PolicySnapshot>,
    /// Whether the loop has taken it, so that changes must go through the loop.
    is_running: bool,
}

impl InForce {
    pub(super) fn new(policy: Arc<PolicySnapshot>) -> Self {
        InForce(RwLock::new(State { policy, is_running: false }))
    }

    pub(super) fn policy(&self) -> Arc<PolicySnapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).policy)
    }

    /// The policy that the loop begins with.
    pub(super) fn begin(&self) -> Arc<PolicySnapshot> {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.is_running = true;
        Arc::clone(&state.policy)
    }

    /// Notes what the loop has put in force.
    pub(super) fn set(&self, policy: Arc<PolicySnapshot>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).policy = policy;
    }

    /// Puts a policy in force before the loop has begun; false if it has.
    pub(super) fn set_before_begin(&self, policy: &Arc<PolicySnapshot>) -> bool {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !state.is_running {
            state.policy = Arc::clone(policy);
        }
        !state.is_running
    }
}

/// A change of what was added at run time, to be made of the parts that there are then.
type Change = Box<dyn FnOnce(&Parts) -> Result<Parts, ChangeError> + Send>;

impl RuntimeAuthority {
    pub(super) fn new(handle: DaemonHandle) -> Self {
        RuntimeAuthority(handle)
    }

    /// The policy in force. Ask it as often as you like: it does not change, the daemon takes another one.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicySnapshot> {
        self.0.in_force().policy()
    }

    /// Whether a peer may call a command. The arguments are still to be checked with the grant.
    ///
    /// # Errors
    /// Why it may not.
    pub fn authorize(&self, peer: &PeerFacts, command: &str) -> Result<Arc<Grant>, Denial> {
        match self.policy().peer(peer).authorize(command) {
            Verdict::Allow(grant) => Ok(Arc::clone(grant)),
            Verdict::Deny(denial) => Err(denial.clone()),
        }
    }

    /// Why a peer may, or may not, call a command with this argument.
    #[must_use]
    pub fn explain(&self, peer: &PeerFacts, command: &str, argument: Option<&Value>) -> Explanation {
        self.policy().explain(peer, command, argument)
    }

    /// Reads the policy's files again, see [`DaemonHandle::reload`]. What was added at run time stays.
    ///
    /// # Errors
    /// Everything that is wrong with the files; the old policy stays in force then.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.0.reload().await
    }

    /// Adds a capability: it is in force when this returns. Asks for a tokio runtime, as it compiles the policy on another
    /// thread.
    ///
    /// # Errors
    /// What is wrong with it, also that there is one of its name, added or in a file.
    pub async fn add_capability(&self, capability: impl RuntimeCapability) -> Result<Reloaded, ChangeError> {
        self.change(add(capability)?).await
    }

    /// Takes away a capability that was added at run time, by its identifier. Open calls that it allowed end with `revoked`.
    ///
    /// # Errors
    /// [`ChangeError::NotAdded`] if none of this name was added; capabilities of files are not taken away so.
    pub async fn remove_capability(&self, identifier: &str) -> Result<Reloaded, ChangeError> {
        self.change(remove(identifier)).await
    }

    /// [`add_capability`](Self::add_capability) for code that is not async: blocks, for as long as the policy takes to be
    /// compiled. Before the daemon serves, in a setup hook, nobody has to be waited for.
    ///
    /// # Errors
    /// The same; and [`ChangeError::OnTheLoop`] in an inline command.
    pub fn add_capability_blocking(
        &self,
        capability: impl RuntimeCapability,
    ) -> Result<Reloaded, ChangeError> {
        self.change_blocking(add(capability)?)
    }

    /// [`remove_capability`](Self::remove_capability) for code that is not async.
    ///
    /// # Errors
    /// The same; and [`ChangeError::OnTheLoop`] in an inline command.
    pub fn remove_capability_blocking(&self, identifier: &str) -> Result<Reloaded, ChangeError> {
        self.change_blocking(remove(identifier))
    }

    async fn change(&self, change: Change) -> Result<Reloaded, ChangeError> {
        let _turn = self.0.turn().await.ok_or(ChangeError::Stopped)?;
        let source = Arc::clone(self.0.source());
        let proposing = tokio::task::spawn_blocking(move || propose(&source, change));
        let proposal = proposing.await.map_err(|_| ChangeError::Stopped)??;
        self.0.put_in_force(proposal).await.ok_or(ChangeError::Stopped)
    }

    fn change_blocking(&self, change: Change) -> Result<Reloaded, ChangeError> {
        if ON_LOOP.get() {
            return Err(ChangeError::OnTheLoop);
        }
        let _turn = loop {
            match self.0.try_turn() {
                Some(turn) => break turn,
                None => std::thread::sleep(RETRY),
            }
        };
        let proposal = propose(self.0.source(), change)?;
        self.0.put_in_force_blocking(proposal).ok_or(ChangeError::Stopped)
    }
}

fn add(capability: impl RuntimeCapability) -> Result<Change, ChangeError> {
    let added = capability.build().map_err(ChangeError::Policy)?;
    Ok(Box::new(move |parts| {
        let mut parts = parts.clone();
        if parts.added.iter().any(|known| known.identifier() == added.identifier()) {
            let message = format!("a second capability {:?} is added at run time", added.identifier());
            return Err(ChangeError::Policy(vec![PolicyError::unplaced("the policy", message)]));
        }
        parts.added.push(added);
        Ok(parts)
    }))
}

fn remove(identifier: &str) -> Change {
    let identifier = identifier.to_owned();
    Box::new(move |parts| {
        let mut parts = parts.clone();
        let before = parts.added.len();
        parts.added.retain(|known| known.identifier() != identifier);
        if parts.added.len() == before { Err(ChangeError::NotAdded(identifier)) } else { Ok(parts) }
    })
}

fn propose(source: &PolicySource, change: Change) -> Result<Proposal, ChangeError> {
    let parts = change(&source.parts())?;
    source.propose(parts).map_err(ChangeError::Policy)
}
