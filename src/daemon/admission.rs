//! From an accepted socket to a session: who is it, and is there room.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use invoked_proto::preface::{Preface, encode_refusal};
use invoked_proto::registry::ErrorCode;
use invoked_transport::{AsyncStream, Credentials, FdRefusalState, PeerProcess, Stream};

use super::process;
use crate::authority::load::PasswdFiles;
use crate::authority::{PeerFacts, PeerGrants, UserDirectory};
use crate::broker::Broker;
use crate::config::Config;
use crate::log_limit::LogLimit;
use crate::session::{Ended, Hub, ProcessClaim, Session, Turns};

/// Admits connections.
///
/// A uid with too many connections is refused. One with too many that have not said who they are waits, and its
/// waiting costs others nothing: the uid's own turns are taken before the common ones.
#[derive(Debug)]
pub(super) struct Admission {
    hub: Rc<Hub>,
    turns: Turns,
    users: RefCell<HashMap<u32, UserFacts>>,
    log: RefCell<LogLimit>,
}

/// What the user database says about a uid.
#[derive(Debug, Clone, Default)]
struct UserFacts {
    name: Option<String>,
    home: Option<PathBuf>,
}

impl Admission {
    pub(super) fn new(hub: Rc<Hub>, config: &Config) -> Self {
        Admission {
            hub,
            turns: Turns::new(config.quotas.handshakes, config.quotas.handshakes_per_uid),
            users: RefCell::default(),
            log: RefCell::new(LogLimit::new()),
        }
    }

    /// Serves one connection, from its first byte to its end. What fails here concerns this connection only.
    pub(super) async fn serve(self: Rc<Self>, stream: Stream) {
        match self.admit(stream).await {
            Ok(Some((session, facts))) => {
                tracing::debug!(%facts, "connected");
                let ended = session.run().await;
                self.log_end(&facts, &ended);
            }
            Ok(None) => {}
            Err(error) => {
                if let Some(suppressed) = self.log.borrow_mut().due(Instant::now(), 0, "admission") {
                    tracing::warn!(%error, suppressed, "can not serve a connection");
                }
            }
        }
    }

    async fn admit(&self, mut stream: Stream) -> io::Result<Option<(Session, PeerFacts)>> {
        let mut credentials = stream.credentials()?;
        let process = std::mem::replace(&mut credentials.process, PeerProcess::Unsupported);
        let facts = self.facts(&credentials, &process).await;
        let (facts, claim) = self.look_at_process(process, facts).await;
        let _prepared = self.prepare(&facts).await;
        // None need come in before a peer has asked to send some: reads are cheaper without.
        match stream.refuse_fds()? {
            FdRefusalState::InForce => {}
            // The protocol connection refuses what comes all the same, one step later.
            FdRefusalState::Unsupported => tracing::trace!("the kernel lets descriptors in"),
        }
        let Some(id) = self.hub.admit(facts.clone()) else {
            if let Some(suppressed) = self.log.borrow_mut().due(Instant::now(), facts.uid, "connections") {
                let code = ErrorCode::ResourceExhausted.name();
                tracing::warn!(%facts, code, suppressed, "too many connections; one is turned away");
            }
            turn_away(&stream);
            return Ok(None);
        };
        let guard = Forget { hub: &self.hub, id: Some(id) };
        let handshake = self.turns.take(facts.uid).await;
        if self.hub.with_broker(Broker::is_draining) {
            return Ok(None);
        }
        if let Some(closer) = self.hub.closer(id) {
            stream.close_by(closer);
        }
        let stream = AsyncStream::new(stream)?;
        self.hub.attach(id, Instant::now());
        guard.keep();
        Ok(Some((Session::new(Rc::clone(&self.hub), id, stream, handshake, claim), facts)))
    }

    /// What rules ask of the process, for the peers of whose uid one asks. Reading it may take long, so that is done off the
    /// loop; the pidfd goes with it.
    async fn look_at_process(
        &self,
        process: PeerProcess,
        facts: PeerFacts,
    ) -> (PeerFacts, Option<ProcessClaim>) {
        let policy = self.hub.with_broker(|broker| Arc::clone(broker.policy()));
        let PeerProcess::Held(pidfd) = process else { return (facts, None) };
        if !policy.needed_facts(facts.uid).any() {
            return (facts, None);
        }
        let known = facts.clone();
        let looking = tokio::task::spawn_blocking(move || process::gather(&pidfd, &policy, facts));
        looking.await.unwrap_or((known, None))
    }

    /// What the policy gives a peer with these facts. To compile it takes long where many capabilities match, so that is
    /// done off the loop, once for all peers that are alike; while the result is kept, the broker finds it ready.
    async fn prepare(&self, facts: &PeerFacts) -> Option<Arc<PeerGrants>> {
        let policy = self.hub.with_broker(|broker| Arc::clone(broker.policy()));
        if policy.is_prepared_for(facts) {
            return Some(policy.peer(facts));
        }
        let facts = facts.clone();
        tokio::task::spawn_blocking(move || policy.peer(&facts)).await.ok()
    }

    /// One line for a connection that ended badly, but not too often.
    fn log_end(&self, facts: &PeerFacts, ended: &Ended) {
        let kind = match ended {
            Ended::Closed | Ended::Refused => return tracing::debug!(%facts, "disconnected"),
            Ended::Io(error) => return tracing::debug!(%facts, %error, "connection lost"),
            Ended::Protocol(_) => "protocol",
            Ended::SlowConsumer => "slow consumer",
        };
        let Some(suppressed) = self.log.borrow_mut().due(Instant::now(), facts.uid, kind) else { return };
        match ended {
            Ended::Protocol(error) => {
                let code = error.wire_code().name();
                tracing::warn!(%facts, code, suppressed, "peer broke the protocol: {error}");
            }
            _ => tracing::warn!(%facts, suppressed, "peer left its bytes unread for too long; disconnected"),
        }
    }

    /// What the kernel and the user database say. The database may be slow, so it is asked off the loop, once a uid.
    async fn facts(&self, credentials: &Credentials, process: &PeerProcess) -> PeerFacts {
        let uid = credentials.uid;
        let known = self.users.borrow().get(&uid).cloned();
        let user = match known {
            Some(user) => user,
            None => {
                let found = tokio::task::spawn_blocking(move || look_up(uid)).await.ok().flatten();
                // A failure is not kept: the next connection of the uid asks again.
                if let Some(user) = &found {
                    self.users.borrow_mut().insert(uid, user.clone());
                }
                found.unwrap_or_default()
            }
        };
        let mut facts = PeerFacts::new(uid, credentials.gid, credentials.groups.clone());
        facts.pid = credentials.pid;
        facts.user_name = user.name;
        facts.home = user.home;
        if matches!(process, PeerProcess::Ended) { facts.reaped() } else { facts }
    }
}

/// Takes an admitted peer back if its session never begins.
struct Forget<'a> {
    hub: &'a Hub,
    id: Option<crate::ipc::PeerId>,
}

impl Forget<'_> {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.hub.forget(id, Instant::now());
        }
    }
}

fn look_up(uid: u32) -> Option<UserFacts> {
    match PasswdFiles::system() {
        Ok(users) => Some(UserFacts { name: users.name_of(uid), home: users.home_of(uid) }),
        Err(error) => {
            tracing::warn!(%error, "can not read the user database; rules by user name and $PEER_HOME do not match");
            None
        }
    }
}

/// Tells a peer for which there is no room, as far as its socket takes it, and closes.
fn turn_away(stream: &Stream) {
    let preface = Preface { version_min: 0, version_max: 0, max_frame: 0, features: 0, instance: 0 };
    let mut bytes = BytesMut::new();
    preface.encode(&mut bytes);
    encode_refusal(ErrorCode::ResourceExhausted, "too many connections", &mut bytes);
    drop(stream.try_write(&[IoSlice::new(&bytes)], &[]));
}
