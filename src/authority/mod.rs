//! Who may do what: manifests and capability files in, verdicts and explanations out.
//!
//! Owns the model of capabilities, permissions, sets and scopes, and the strict reading of their files. It performs
//! no I/O but in [`load`], keeps no clock, and knows nothing of connections: the daemon asks, with facts that the
//! kernel gave it.
//!
//! A [`Policy`] gathers manifests and files and compiles them into a [`PolicySnapshot`]. That gives each peer its
//! [`PeerGrants`], and these a [`Verdict`] for each command; a [`Grant`] then judges arguments. Nothing is allowed that
//! no capability allows.

mod builder;
mod capability;
mod document;
mod editor;
mod embedded;
mod explain;
mod glob;
pub(crate) mod granted;
mod grants;
mod identifier;
mod interface;
mod joined;
mod json;
mod kept;
mod limits;
pub mod load;
mod matcher;
mod path;
mod peer;
mod permission;
mod permission_file;
mod policy;
mod provided;
mod question;
mod reader;
mod register;
mod registry;
mod remote;
mod resolve;
mod routed;
mod schema;
mod scope;
mod shipped;
mod snapshot;
mod source;
#[cfg(test)]
mod tests;
mod unit;

pub use self::builder::{AddedCapability, CapabilityBuilder, RuntimeCapability};
pub use self::capability::{Platform, TauriFiles};
pub use self::document::Format;
pub use self::embedded::DevOptions;
pub(crate) use self::explain::About;
pub use self::explain::{Asking, Explanation, Judged, Refusal, RefusalCode, ScopeRefusal};
pub use self::grants::{Denial, DeniedBy, Grant, GrantId, PeerGrants, Verdict};
pub use self::identifier::{Identifier, IdentifierError};
#[cfg(test)]
pub(crate) use self::limits::names as limit_names;
pub use self::limits::{PeerLanes, PeerLimits};
pub use self::matcher::{Matcher, ProcessFacts};
pub use self::path::PathScope;
pub use self::peer::{NeededFacts, OVERFLOW_ID, PeerFacts, PeerState, ProcessFact, Remote, UserDirectory};
pub use self::permission::{CommandInfo, Permission, PermissionSet, PluginManifest};
pub use self::policy::{CompiledPolicy, Policy};
pub use self::provided::{ProvidedCommand, ProvidedInterface};
pub use self::question::{Connected, Group, PeerQuestion, QuestionError};
pub use self::registry::{PermissionInfo, PermissionKind, Registry};
pub use self::resolve::Instance;
pub use self::schema::ScopeSchema;
pub use self::scope::{
    CompiledScope, GlobScope, GrantScope, InputError, PrefixScope, ScopeContext, ScopeDefault, ScopeDenial,
    ScopeError, ScopeItem, ScopeKind, ScopeLists, ScopeObject, ScopeObjectMatch, ScopeRole, ScopeVariable,
    ScopeVerdict,
};
pub use self::snapshot::{Narrowed, PendingPermission, PolicySnapshot};
pub use self::source::{Location, PolicyError, Position, Source};
pub use self::unit::unit_of;
