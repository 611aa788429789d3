//! Scopes: which arguments a grant allows, and the three states of "no scope", "nothing" and "any of these".
//!
//! Owns the rules; what one scope value means is a [`ScopeObject`]'s business. Reads no files and no arguments: the
//! command's own code hands over what it is about to touch.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::path::PathScope;
use super::schema::ScopeSchema;
use super::source::Location;

mod compiled;
mod context;
mod text;

pub use self::compiled::CompiledScope;
pub(crate) use self::compiled::{PluginScope, TypedScopes, judge};
pub(crate) use self::context::is_plain;
pub use self::context::{ScopeContext, ScopeVariable};
pub use self::text::{GlobScope, PrefixScope};

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
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ScopeKind {
    /// Not checked at load; the command's own scope type judges them.
    #[default]
    Opaque,
    /// [`PathScope`] values.
    Path,
    /// [`GlobScope`] values.
    Glob,
    /// [`PrefixScope`] values.
    Prefix,
    /// Values that a JSON Schema describes.
    Schema(Arc<ScopeSchema>),
    /// Values that this function accepts; its error is shown at the value's place.
    Checked(fn(&Value, ScopeRole, &ScopeContext) -> Result<(), ScopeError>),
}

impl ScopeKind {
    /// Values that `S` reads.
    #[must_use]
    pub fn of<S: ScopeObject>() -> Self {
        let known = [
            (TypeId::of::<PathScope>(), ScopeKind::Path),
            (TypeId::of::<GlobScope>(), ScopeKind::Glob),
            (TypeId::of::<PrefixScope>(), ScopeKind::Prefix),
        ];
        let own = TypeId::of::<S>();
        let read = |value: &Value, role, context: &ScopeContext| S::parse(value, role, context).map(|_| ());
        let known = known.into_iter().find(|(id, _)| *id == own).map(|(_, kind)| kind);
        known.unwrap_or(ScopeKind::Checked(read))
    }

    /// Whether a value has this form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(
        &self,
        value: &Value,
        role: ScopeRole,
        context: &ScopeContext,
    ) -> Result<(), ScopeError> {
        match self {
            ScopeKind::Opaque => Ok(()),
            ScopeKind::Path => PathScope::parse(value, role, context).map(|_| ()),
            ScopeKind::Glob => GlobScope::parse(value, role, context).map(|_| ()),
            ScopeKind::Prefix => PrefixScope::parse(value, role, context).map(|_| ()),
            ScopeKind::Schema(schema) => schema.validate(value).map_err(ScopeError::new),
            ScopeKind::Checked(check) => check(value, role, context),
        }
    }

    /// A JSON Schema of the values, for editors: `true` where only the command knows.
    pub(crate) fn schema(&self) -> Value {
        let text =
            |description: &str| json!({ "type": "string", "minLength": 1, "description": description });
        match self {
            ScopeKind::Opaque | ScopeKind::Checked(_) => Value::Bool(true),
            ScopeKind::Path => {
                let mut path =
                    text("A pattern over absolute paths: /srv/docs/**, $PEER_HOME/Pictures/*.png.");
                let variables = ScopeVariable::NAMES.join("|");
                path["pattern"] = Value::from(format!("^(/|\\$({variables})(/|$))"));
                let dotfiles = json!({
                    "type": "boolean",
                    "description": "Whether * and ** match what starts with a dot.",
                });
                json!({ "anyOf": [path.clone(), {
                    "type": "object",
                    "properties": { "path": path, "dotfiles": dotfiles },
                    "required": ["path"],
                    "additionalProperties": false,
                }] })
            }
            ScopeKind::Glob => text("A pattern over the whole text: invoice-*."),
            ScopeKind::Prefix => text("What the text begins with."),
            ScopeKind::Schema(schema) => schema.as_value().clone(),
        }
    }
}

/// Whether a value allows or denies what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeRole {
    /// It stands in `allow`.
    Allow,
    /// It stands in `deny`.
    Deny,
}

/// A type that scope values are read as.
///
/// Each type that serde can read is one: an application describes its values by a struct and looks through the lists
/// itself. A type that is read otherwise, like [`PathScope`], implements this instead of `Deserialize`. What also
/// judges arguments is a [`ScopeObjectMatch`].
pub trait ScopeObject: Sized + Send + Sync + fmt::Debug + 'static {
    /// Reads one value. Called once per grant and value, not per call; and when a policy loads, to check the values,
    /// if the plugin's [`ScopeKind`] says so.
    ///
    /// # Errors
    /// [`ScopeError`] says what is wrong with the value. Then, in `allow`, it matches nothing, and in `deny`,
    /// everything.
    fn parse(value: &Value, role: ScopeRole, context: &ScopeContext) -> Result<Self, ScopeError>;
}

impl<T: DeserializeOwned + Send + Sync + fmt::Debug + 'static> ScopeObject for T {
    fn parse(value: &Value, _: ScopeRole, _: &ScopeContext) -> Result<Self, ScopeError> {
        T::deserialize(value).map_err(|error| ScopeError::new(error.to_string()))
    }
}

/// A scope value that judges arguments itself.
pub trait ScopeObjectMatch: ScopeObject {
    /// What a command is about to touch.
    type Input: ?Sized;

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

/// The scope that one entry of one capability gives a command.
#[derive(Debug)]
pub struct GrantScope {
    pub(crate) capability: Arc<str>,
    pub(crate) permission: Arc<str>,
    pub(crate) location: Location,
    pub(crate) lists: ScopeLists,
    /// The peer gave up what it allows; what it denies stays.
    pub(crate) given_up: bool,
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

    /// Whether the peer narrowed itself to other capabilities: then `allow` is empty, and what it denies stays denied.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// What stays of it for a peer that gave up its capability.
    pub(crate) fn without_allow(&self) -> Self {
        GrantScope {
            capability: Arc::clone(&self.capability),
            permission: Arc::clone(&self.permission),
            location: self.location.clone(),
            lists: ScopeLists { allow: Some(Vec::new()), deny: self.lists.deny.clone() },
            given_up: true,
        }
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
