//! The variables of scope values, and what they are for one peer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::ScopeError;

/// A variable of path patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScopeVariable {
    /// `$PEER_HOME`: the calling uid's home.
    PeerHome,
    /// `$HOME`: the daemon's own home, kept for files written for Tauri.
    Home,
    /// `$TEMP`: the directory for temporary files.
    Temp,
    /// `$RUNTIME`: the directory for sockets and other run-time files.
    Runtime,
    /// `$DIR`, also `$CWD`: the directory that `--dev` shares.
    Dir,
}

impl ScopeVariable {
    /// Every spelling, without the dollar sign.
    pub(crate) const NAMES: [&'static str; 6] = ["PEER_HOME", "HOME", "TEMP", "RUNTIME", "DIR", "CWD"];

    /// The variable of this name, which is written without its dollar sign.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "PEER_HOME" => ScopeVariable::PeerHome,
            "HOME" => ScopeVariable::Home,
            "TEMP" => ScopeVariable::Temp,
            "RUNTIME" => ScopeVariable::Runtime,
            "DIR" | "CWD" => ScopeVariable::Dir,
            _ => return None,
        })
    }

    /// Its name with the dollar sign.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScopeVariable::PeerHome => "$PEER_HOME",
            ScopeVariable::Home => "$HOME",
            ScopeVariable::Temp => "$TEMP",
            ScopeVariable::Runtime => "$RUNTIME",
            ScopeVariable::Dir => "$DIR",
        }
    }
}

/// The values that variables have for one peer, taken literally by every scope type.
#[derive(Clone, Debug, Default)]
pub struct ScopeContext {
    shared: Arc<BTreeMap<ScopeVariable, String>>,
    peer_home: Option<String>,
}

impl ScopeContext {
    pub(crate) fn new(shared: Arc<BTreeMap<ScopeVariable, String>>, peer_home: Option<&Path>) -> Self {
        let peer_home = peer_home.and_then(Path::to_str).filter(|home| is_plain(home)).map(str::to_owned);
        ScopeContext { shared, peer_home }
    }

    /// A context in which the peer's home is known, to check values before there is a peer.
    pub(crate) fn for_checking(shared: &Arc<BTreeMap<ScopeVariable, String>>) -> Self {
        ScopeContext { shared: Arc::clone(shared), peer_home: Some("/home/peer".to_owned()) }
    }

    /// A context in which every variable is known, to check what a plugin ships.
    pub(crate) fn for_shipped() -> Self {
        let all = ScopeVariable::NAMES.iter().filter_map(|name| ScopeVariable::parse(name));
        Self::for_checking(&Arc::new(all.map(|variable| (variable, "/variable".to_owned())).collect()))
    }

    /// The value of a variable, an absolute path.
    ///
    /// # Errors
    /// The variable has no value here.
    pub fn value(&self, variable: ScopeVariable) -> Result<&str, ScopeError> {
        let value = match variable {
            ScopeVariable::PeerHome => self.peer_home.as_ref(),
            other => self.shared.get(&other),
        };
        value.map(String::as_str).ok_or_else(|| {
            ScopeError::new(match variable {
                ScopeVariable::PeerHome => "$PEER_HOME is not known for this peer".to_owned(),
                ScopeVariable::Dir => "$DIR is known under --dev only".to_owned(),
                other => format!("{} has no value in this daemon", other.as_str()),
            })
        })
    }
}

/// Whether a variable's value may stand in a pattern: absolute, without `.`, `..` and NUL, and not the root, of which
/// `$PEER_HOME/**` would be everything.
pub(crate) fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().any(|b| b != b'/')
        && !path.contains('\0')
        && !path.split('/').any(|c| c == "." || c == "..")
}
