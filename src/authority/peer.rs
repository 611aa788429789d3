//! Who a peer is.
//!
//! Owns the facts, as the kernel gave them, and which of them a rule may look at. It asks neither the kernel nor the
//! user database, and whom a rule means is the matchers' business.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The id that the kernel shows for every user or group without a mapping: it may be anybody, so it is nobody.
pub const OVERFLOW_ID: u32 = 65_534;

/// The id that system calls read as "leave it as it is"; no process has it.
const NO_ID: u32 = u32::MAX;

/// Whether the peer's credentials were read while it was known to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// They were.
    Live,
    /// It was gone before they could be confirmed: it matches no rule.
    Reaped,
}

/// A fact about a peer's process that is read only for peers of which a rule asks it, see
/// [`PolicySnapshot::needed_facts`](super::PolicySnapshot::needed_facts).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProcessFact<T> {
    /// Nobody asked the kernel. No rule that looks at it matches.
    #[default]
    NotRead,
    /// The kernel's answer, confirmed to be about the process that connected.
    Known(T),
    /// Why it can't be told, for messages. No rule that looks at it matches.
    Unknown(String),
}

impl<T> ProcessFact<T> {
    /// The fact, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            ProcessFact::Known(fact) => Some(fact),
            ProcessFact::NotRead | ProcessFact::Unknown(_) => None,
        }
    }
}

/// Where a call comes from that reached this machine over a bridge. The bridge vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Where the account is one, as the bridge confirmed it: the origin of a web page (`https://app.example:8443`), or
    /// the name of a domain.
    pub realm: String,
    /// Who it is there.
    pub account: String,
}

/// What the kernel says about a peer, and what the user database says about its uid.
///
/// Verdicts depend on state, uid, gid, groups, home and remote, and on executable and unit where a rule looks at them;
/// pid and user name are for messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerFacts {
    /// Effective uid when it connected.
    pub uid: u32,
    /// Effective gid when it connected.
    pub gid: u32,
    /// Supplementary groups when it connected, in any order.
    pub groups: Vec<u32>,
    /// Its process, where the kernel tells.
    pub pid: Option<u32>,
    /// The name of the uid, if the user database has one.
    pub user_name: Option<String>,
    /// The uid's home, with links resolved; `None` leaves `$PEER_HOME` without a value.
    pub home: Option<PathBuf>,
    /// Whether the credentials can be trusted to be those of a living process.
    pub state: PeerState,
    /// The file that its process runs: a path of the daemon's own mount namespace at which lies, by device and inode,
    /// what the kernel says the process runs, and which none but root can change.
    pub executable: ProcessFact<PathBuf>,
    /// The unit of the service manager in whose control group its process is: `foo.service`.
    pub unit: ProcessFact<String>,
    /// For a call that came over a bridge, where from; the other facts are then the bridge's own. `None` for a call of
    /// the peer itself.
    pub remote: Option<Remote>,
}

impl PeerFacts {
    /// A living peer with these credentials.
    #[must_use]
    pub fn new(uid: u32, gid: u32, groups: impl Into<Vec<u32>>) -> Self {
        PeerFacts {
            uid,
            gid,
            groups: groups.into(),
            pid: None,
            user_name: None,
            home: None,
            state: PeerState::Live,
            executable: ProcessFact::NotRead,
            unit: ProcessFact::NotRead,
            remote: None,
        }
    }

    /// The same peer with its process id.
    #[must_use]
    pub fn with_pid(mut self, pid: u32) -> Self {
        self.pid = Some(pid);
        self
    }

    /// The same peer with what `users` says about its uid.
    #[must_use]
    pub fn with_names(mut self, users: &dyn UserDirectory) -> Self {
        self.user_name = users.name_of(self.uid);
        self.home = users.home_of(self.uid);
        self
    }

    /// The same peer, gone before its credentials could be confirmed.
    #[must_use]
    pub fn reaped(mut self) -> Self {
        self.state = PeerState::Reaped;
        self
    }

    /// The same peer, running this file.
    #[must_use]
    pub fn with_executable(mut self, executable: ProcessFact<PathBuf>) -> Self {
        self.executable = executable;
        self
    }

    /// The same peer, in this unit.
    #[must_use]
    pub fn with_unit(mut self, unit: ProcessFact<String>) -> Self {
        self.unit = unit;
        self
    }

    /// A call that this peer, a bridge, passes on.
    #[must_use]
    pub fn on_behalf_of(mut self, remote: Remote) -> Self {
        self.remote = Some(remote);
        self
    }

    /// Why no rule may match this peer, not even `everyone`; `None` for an ordinary peer.
    #[must_use]
    pub fn unmatchable(&self) -> Option<&'static str> {
        match (self.state, self.uid) {
            (PeerState::Reaped, _) => Some("its process was gone before its identity was confirmed"),
            (_, OVERFLOW_ID) => Some("its uid has no mapping here (the overflow uid): it may be anybody"),
            (_, NO_ID) => Some("its uid is not an id"),
            _ => None,
        }
    }

    /// The facts as `core.explain` and `core.denials` tell them.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "uid": self.uid,
            "user": self.user_name,
            "gid": self.gid,
            "groups": self.groups,
            "pid": self.pid,
            "exe": self.executable.known().map(|path| path.to_string_lossy()),
            "unit": self.unit.known(),
            "remote": self.remote.as_ref().map(|from| json!({ "realm": from.realm, "account": from.account })),
        })
    }

    /// The groups that a rule may match: gid and supplementary groups, sorted, without ids that may be anybody's.
    fn matchable_groups(&self) -> Vec<u32> {
        let mut groups: Vec<u32> =
            self.groups.iter().chain([&self.gid]).copied().filter(|g| is_id(*g)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// What rules look at; the facts of the process only as far as one of them asks for them.
    pub(crate) fn subject(&self, needed: NeededFacts) -> Subject {
        let text = |path: &PathBuf| Path::to_str(path).map(str::to_owned);
        Subject {
            uid: self.uid,
            groups: self.matchable_groups(),
            executable: self.executable.known().filter(|_| needed.executable).and_then(text),
            unit: self.unit.known().filter(|_| needed.unit).cloned(),
            remote: self.remote.clone(),
        }
    }
}

/// Which facts of a peer's process some rule asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeededFacts {
    /// [`PeerFacts::executable`]
    pub executable: bool,
    /// [`PeerFacts::unit`]
    pub unit: bool,
}

impl NeededFacts {
    /// Whether any is asked for.
    #[must_use]
    pub fn any(self) -> bool {
        self.executable || self.unit
    }
}

/// A peer as matchers see it: peers with equal subjects match the same capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    pub(crate) uid: u32,
    /// Sorted.
    pub(crate) groups: Vec<u32>,
    pub(crate) executable: Option<String>,
    pub(crate) unit: Option<String>,
    pub(crate) remote: Option<Remote>,
}

impl fmt::Display for PeerFacts {
    /// `uid=1000(ana) pid=4242 exe=/usr/bin/gallery`, as logs name a peer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid={}", self.uid)?;
        if let Some(name) = &self.user_name {
            write!(f, "({})", name.escape_debug())?;
        }
        if let Some(pid) = self.pid {
            write!(f, " pid={pid}")?;
        }
        if let Some(path) = self.executable.known() {
            write!(f, " exe={}", path.to_string_lossy().escape_debug())?;
        }
        if let Some(unit) = self.unit.known() {
            write!(f, " unit={}", unit.escape_debug())?;
        }
        match &self.remote {
            Some(Remote { realm, account }) => {
                write!(f, " for={}@{}", account.escape_debug(), realm.escape_debug())
            }
            None => Ok(()),
        }
    }
}

/// The user database, as far as policies need it.
pub trait UserDirectory {
    /// The uid of a user name.
    fn uid_of(&self, name: &str) -> Option<u32>;
    /// The gid of a group name.
    fn gid_of(&self, name: &str) -> Option<u32>;
    /// The name of a uid.
    fn name_of(&self, uid: u32) -> Option<String>;
    /// The home of a uid, with links resolved, as path scopes are compared with resolved paths.
    fn home_of(&self, uid: u32) -> Option<PathBuf>;
    /// The groups that a process of a uid has after login, the primary one first. Nothing is decided by it: a peer's groups
    /// are the kernel's word, and this is for asking what a peer would be allowed. Without it, only groups that the question
    /// names.
    fn groups_of(&self, _uid: u32) -> Vec<u32> {
        Vec::new()
    }
}

/// Whether a rule may look at this uid or gid.
pub(crate) fn is_id(id: u32) -> bool {
    id != OVERFLOW_ID && id != NO_ID
}

#[cfg(test)]
mod tests {
    use super::{NO_ID, NeededFacts, OVERFLOW_ID, PeerFacts, ProcessFact, Remote};

    #[test]
    fn a_peer_that_may_be_anybody_is_unmatchable() {
        assert_eq!(PeerFacts::new(0, 0, []).unmatchable(), None);
        for facts in [
            PeerFacts::new(OVERFLOW_ID, 5, []),
            PeerFacts::new(NO_ID, 5, []),
            PeerFacts::new(0, 0, []).reaped(),
        ] {
            assert!(facts.unmatchable().is_some());
        }
    }

    #[test]
    fn groups_are_a_set_without_the_overflow_gid() {
        let facts = PeerFacts::new(1, 7, [OVERFLOW_ID, 9, 7, NO_ID, 3]);
        assert_eq!(facts.matchable_groups(), [3, 7, 9]);
        assert!(PeerFacts::new(1, OVERFLOW_ID, []).matchable_groups().is_empty());
    }

    #[test]
    fn logs_name_uid_user_and_pid() {
        let mut facts = PeerFacts::new(1000, 1000, []).with_pid(4242);
        assert_eq!(facts.to_string(), "uid=1000 pid=4242");
        facts.user_name = Some("a\nb".to_owned());
        assert_eq!(facts.to_string(), "uid=1000(a\\nb) pid=4242");
        facts = facts.with_executable(ProcessFact::Known("/usr/bin/x\ny".into()));
        facts = facts.with_unit(ProcessFact::Known("x.service".to_owned()));
        facts =
            facts.on_behalf_of(Remote { realm: "https://a.example".to_owned(), account: "eve".to_owned() });
        assert_eq!(
            facts.to_string(),
            "uid=1000(a\\nb) pid=4242 exe=/usr/bin/x\\ny unit=x.service for=eve@https://a.example"
        );
    }

    #[test]
    fn facts_that_no_rule_asks_for_make_no_difference() {
        let facts = PeerFacts::new(1, 1, []);
        let other = facts.clone().with_pid(7).with_executable(ProcessFact::Known("/a".into()));
        let other = other.with_unit(ProcessFact::Known("b.service".to_owned()));
        assert_eq!(facts.subject(NeededFacts::default()), other.subject(NeededFacts::default()));
        let needed = NeededFacts { executable: true, unit: false };
        let subject = other.subject(needed);
        assert_eq!((subject.executable.as_deref(), subject.unit), (Some("/a"), None));
        let unknown = facts.clone().with_executable(ProcessFact::Unknown("no access".to_owned()));
        assert_eq!(unknown.subject(needed), facts.subject(needed));
    }
}
