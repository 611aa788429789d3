//! What several peers may do together: the grant of a call that one makes for others.
//!
//! An argument is allowed if the grant of each allows it. Who looks through the lists of a scope itself sees of `allow` the values
//! that all have, and of `deny` those that any has: never more than all may.

use std::sync::Arc;

use serde_json::Value;

use super::grants::Grant;
use super::registry::Registry;
use super::scope::{GrantScope, ScopeContext, ScopeDefault, ScopeItem, ScopeLists};
use super::snapshot::PolicySnapshot;
use super::source::Source;

impl PolicySnapshot {
    /// The grant under which a command may do what each of these lets it do; they are of one command.
    pub(crate) fn join<'g>(&self, grants: impl Iterator<Item = &'g Arc<Grant>>) -> Grant {
        let parts: Vec<Arc<Grant>> = grants.map(Arc::clone).collect();
        let scope = joined_scope(&self.registry, &parts);
        Grant::joined(self.grant_id(), parts, Arc::new(scope), Arc::new(ScopeContext::default()))
    }
}

/// One scope whose lists are no wider than any of these.
fn joined_scope(registry: &Registry, parts: &[Arc<Grant>]) -> GrantScope {
    let first = parts.iter().flat_map(|grant| grant.scopes()).next();
    let lists: Vec<Lists> = parts.iter().map(|grant| Lists::of(registry, grant)).collect();
    let limited = lists.iter().filter_map(|lists| lists.allow.as_ref());
    let allow = limited.fold(None, |common: Option<Vec<Value>>, allow| match common {
        None => Some(allow.clone()),
        Some(common) => Some(common.into_iter().filter(|value| allow.contains(value)).collect()),
    });
    let items = |values: Vec<Value>| values.into_iter().map(|value| ScopeItem::new(value, None)).collect();
    GrantScope {
        capability: first.map_or_else(|| "joined".into(), |scope| Arc::clone(&scope.capability)),
        permission: first.map_or_else(|| "joined".into(), |scope| Arc::clone(&scope.permission)),
        location: first.map_or_else(|| Source::named("joined").at(0..0), |scope| scope.location.clone()),
        lists: ScopeLists {
            allow: allow.map(items),
            deny: items(lists.into_iter().flat_map(|lists| lists.deny).collect()),
        },
        given_up: false,
    }
}

/// What one grant allows and denies, variables replaced.
struct Lists {
    /// `None` is everything.
    allow: Option<Vec<Value>>,
    deny: Vec<Value>,
}

impl Lists {
    fn of(registry: &Registry, grant: &Grant) -> Self {
        let told = grant.scopes_for_provider(registry.scope_kind(grant.command().plugin()));
        let values = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let shared = &told["global"];
        let allow = match &told["allow"] {
            Value::Null => None,
            own => Some([values(own), values(&shared["allow"])].concat()),
        };
        Lists { allow, deny: [values(&told["deny"]), values(&shared["deny"])].concat() }
    }
}

/// Where no list is, everything is allowed.
pub(super) fn default_of_joined() -> Arc<ScopeDefault> {
    Arc::new(ScopeDefault::Everything)
}
