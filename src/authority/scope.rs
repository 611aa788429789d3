//! Scopes: which arguments a grant allows, and the three states of "no scope", "nothing" and "any of these".
//!
//! Owns the rules; what one scope value means is a [`ScopeObject`]'s business. Reads no files and no arguments: the
//! command's own code hands over what it is about to touch.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::source::Location;

/// One value of a scope, and where it is written.
#[derive(Clone, Debug)]
pub struct ScopeItem {
    value: Value,
    location: Option<Location>,
}

impl ScopeItem {
    /// A value that a policy file writes at `location`, or that a plugin ships.
    #[must_use]
    pub fn new(value: Value, location: Option<Location>) -> Self {
        ScopeItem { value, location }
    }

    /// The value as written.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Where it is written; `None` for what a plugin ships.
    #[must_use]
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }
}

/// The scope of one grant. `allow` has three states that are never confused.
#[derive(Clone, Debug, Default)]
pub struct ScopeLists {
    /// `None`: the plugin's declared default. Empty: nothing. Otherwise: any of these.
    pub allow: Option<Vec<ScopeItem>>,
    /// None of these, whatever any grant of the same peer allows.
    pub deny: Vec<ScopeItem>,
}

impl ScopeLists {
    /// Whether neither list is written.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}

/// What a plugin's scoped commands may touch under a grant that has no scope.
#[derive(Clone, Debug, Default)]
pub enum ScopeDefault {
    /// Every argument.
    #[default]
    Everything,
    /// No argument: a grant needs a scope to be of use.
    Nothing,
    /// Any of these values.
    Items(Vec<Value>),
}

/// The kind of a plugin's scope values, by which they are checked when a policy loads.
#[derive(Clone, Copy, Debug, Default)]
pub enum ScopeKind {
    /// Not checked at load; the command's own scope type judges them.
    #[default]
    Opaque,
    /// [`PathScope`](super::PathScope) values.
    Path,
    /// Values that this function accepts; its error is shown at the value's place.
    Checked(fn(&Value) -> Result<(), String>),
}

/// Whether a value allows or denies what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeRole {
    /// It stands in `allow`.
    Allow,
    /// It stands in `deny`.
    Deny,
}

/// A type that gives scope values their meaning.
pub trait ScopeObject: Sized + Send + Sync + 'static {
    /// What a command is about to touch.
    type Input: ?Sized;

    /// Reads one value. Called once per grant and value, not per call.
    ///
    /// # Errors
    /// [`ScopeError`] says what is wrong with the value. Then, in `allow`, it matches nothing, and in `deny`,
    /// everything.
    fn parse(value: &Value, role: ScopeRole, context: &ScopeContext) -> Result<Self, ScopeError>;

    /// Whether the input may be judged at all; an input that is refused here is denied under every scope.
    ///
    /// # Errors
    /// [`InputError`] completes the sentence "the argument …".
    fn admit(_input: &Self::Input) -> Result<(), InputError> {
        Ok(())
    }

    /// Whether this value matches the input.
    fn matches(&self, input: &Self::Input) -> bool;
}

/// What is wrong with a scope value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScopeError {
    message: String,
    help: Option<String>,
}

impl ScopeError {
    /// An error that says `message`.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        ScopeError { message: message.into(), help: None }
    }

    /// What is wrong, without advice.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub(crate) fn did_you_mean(mut self, near: Option<&str>) -> Self {
        self.help = near.map(|near| format!("did you mean \"{near}\"?"));
        self
    }
}

/// Why no scope may judge an input. Completes the sentence "the argument …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(pub &'static str);

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

/// The scope that one entry of one capability gives a command.
#[derive(Debug)]
pub struct GrantScope {
    pub(crate) capability: Arc<str>,
    pub(crate) permission: Arc<str>,
    pub(crate) location: Location,
    pub(crate) lists: ScopeLists,
}

impl GrantScope {
    /// The identifier of the capability.
    #[must_use]
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// The permission as the capability writes it.
    #[must_use]
    pub fn permission(&self) -> &str {
        &self.permission
    }

    /// Where the capability writes it.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Its values.
    #[must_use]
    pub fn lists(&self) -> &ScopeLists {
        &self.lists
    }
}

/// Whether a grant's scopes allow an argument.
#[derive(Clone, Debug)]
#[must_use]
pub enum ScopeVerdict {
    /// The argument is allowed.
    Allowed,
    /// It is not, and why.
    Denied(ScopeDenial),
}

impl ScopeVerdict {
    /// Whether the argument is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, ScopeVerdict::Allowed)
    }
}

/// Why a grant's scopes refuse an argument.
#[derive(Clone, Debug)]
pub enum ScopeDenial {
    /// No scope may judge this argument.
    Input(InputError),
    /// A deny value matches it.
    DeniedBy {
        /// The grant whose scope denies it.
        scope: Arc<GrantScope>,
        /// The index of the value in its deny list.
        item: usize,
        /// Why the value denies everything, if it could not be read.
        invalid: Option<ScopeError>,
    },
    /// No grant's scope matches it.
    NoneMatches,
}

/// A command's scopes in the form that a [`ScopeObject`] gives them.
pub(crate) struct CompiledScopes<S> {
    deny: Vec<CompiledDeny<S>>,
    allow: Vec<S>,
    everything: bool,
}

struct CompiledDeny<S> {
    scope: Arc<GrantScope>,
    item: usize,
    object: Result<S, ScopeError>,
}

impl<S: ScopeObject> CompiledScopes<S> {
    /// `own` are the scopes of this command's grants; `global` those of scope-only permissions of its plugin, which
    /// add to them: their `allow` allows, their `deny` denies, their absence means nothing.
    pub(crate) fn new(
        own: &[Arc<GrantScope>],
        global: &[Arc<GrantScope>],
        default: &ScopeDefault,
        context: &ScopeContext,
    ) -> Self {
        let mut compiled = CompiledScopes { deny: Vec::new(), allow: Vec::new(), everything: false };
        let parse = |value| S::parse(value, ScopeRole::Allow, context).ok();
        for scope in own.iter().chain(global) {
            for (item, written) in scope.lists.deny.iter().enumerate() {
                let object = S::parse(written.value(), ScopeRole::Deny, context);
                compiled.deny.push(CompiledDeny { scope: Arc::clone(scope), item, object });
            }
            compiled.allow.extend(scope.lists.allow.iter().flatten().filter_map(|item| parse(item.value())));
        }
        if own.iter().any(|scope| scope.lists.allow.is_none()) {
            match default {
                ScopeDefault::Everything => compiled.everything = true,
                ScopeDefault::Nothing => {}
                ScopeDefault::Items(items) => compiled.allow.extend(items.iter().filter_map(parse)),
            }
        }
        compiled
    }

    pub(crate) fn check(&self, input: &S::Input) -> ScopeVerdict {
        if let Err(error) = S::admit(input) {
            return ScopeVerdict::Denied(ScopeDenial::Input(error));
        }
        let denies =
            |deny: &&CompiledDeny<S>| deny.object.as_ref().map_or(true, |object| object.matches(input));
        if let Some(deny) = self.deny.iter().find(denies) {
            return ScopeVerdict::Denied(ScopeDenial::DeniedBy {
                scope: Arc::clone(&deny.scope),
                item: deny.item,
                invalid: deny.object.as_ref().err().cloned(),
            });
        }
        if self.everything || self.allow.iter().any(|object| object.matches(input)) {
            ScopeVerdict::Allowed
        } else {
            ScopeVerdict::Denied(ScopeDenial::NoneMatches)
        }
    }
}

/// Compiled scopes of a type that the grant does not know.
pub(crate) type AnyScopes = Box<dyn Any + Send + Sync>;
