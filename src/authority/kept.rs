//! Whether a change of the policy took anything from a grant.
//!
//! A call that was allowed before the change goes on only if what allowed it is still there. Which of a command's scopes
//! allowed its arguments is known to the handler alone; so all of them must be, and no denial may have come on top.

use serde_json::Value;

use super::grants::Grant;
use super::scope::{GrantScope, ScopeDefault, ScopeItem};

impl Grant {
    /// Whether whatever `before` allowed, a grant of the same command to the same peer, is certainly allowed by this one.
    pub(crate) fn keeps(&self, before: &Grant) -> bool {
        if !self.is_scoped() {
            return true;
        }
        let all = |grant: &Grant| -> Vec<ScopeState> {
            let own = grant.scopes().iter().map(|scope| ScopeState::of(scope, grant.default_scope()));
            // A scope of the plugin that allows nothing by name adds nothing.
            let shared =
                grant.global_scopes().iter().map(|scope| ScopeState::of(scope, &ScopeDefault::Nothing));
            own.chain(shared).collect()
        };
        let (before, now) = (all(before), all(self));
        let allows = |value: &Value| now.iter().any(|scope| scope.everything || scope.allow.contains(value));
        let denied = |value: &Value| before.iter().any(|scope| scope.deny.contains(value));
        let is_kept = |scope: &ScopeState| match scope.everything {
            true => now.iter().any(|scope| scope.everything),
            false => scope.allow.iter().all(allows),
        };
        before.iter().all(is_kept) && now.iter().flat_map(|scope| &scope.deny).all(denied)
    }
}

/// One scope, with the default where it names nothing.
struct ScopeState {
    everything: bool,
    allow: Vec<Value>,
    deny: Vec<Value>,
}

impl ScopeState {
    fn of(scope: &GrantScope, default: &ScopeDefault) -> Self {
        let values = |items: &[ScopeItem]| items.iter().map(|item| item.value().clone()).collect();
        let (everything, allow) = match (&scope.lists.allow, default) {
            (Some(items), _) => (false, values(items)),
            (None, ScopeDefault::Everything) => (true, Vec::new()),
            (None, ScopeDefault::Nothing) => (false, Vec::new()),
            (None, ScopeDefault::Items(items)) => (false, items.clone()),
        };
        ScopeState { everything, allow, deny: values(&scope.lists.deny) }
    }
}
