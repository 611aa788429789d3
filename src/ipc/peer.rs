//! Who calls.

use std::fmt;
use std::sync::Arc;

/// The number that the daemon gave a connection; never used twice while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A connected process, as the kernel described it when it connected.
///
/// Uid, gid and groups are the kernel's word (SO_PEERCRED, SO_PEERGROUPS) and do not change while the connection
/// lives. The process id may be reused after the process ends. [`program`](Self::program) is what the peer said of
/// itself; nothing may be decided by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The connection.
    pub id: PeerId,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Process id at connect, if the kernel named it.
    pub pid: Option<u32>,
    /// Name of the user, if there is one.
    pub user: Option<String>,
    /// Name and version that the peer gave in its HELLO.
    pub program: Option<String>,
}

/// Where a call comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A process of this machine.
    Local(Arc<Peer>),
    /// Somebody on another machine, for whom a bridge on this one vouches. No call comes by a bridge yet.
    Remote {
        /// Which bridge, and so who says what the account is.
        realm: String,
        /// The caller's name there.
        account: String,
    },
}

impl Origin {
    /// The process, if it is one of this machine.
    #[must_use]
    pub fn local(&self) -> Option<&Peer> {
        match self {
            Origin::Local(peer) => Some(peer),
            Origin::Remote { .. } => None,
        }
    }
}
