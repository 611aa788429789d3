//! What a provider is told of a grant: the scopes that its library applies to arguments.
//!
//! Owns that form. The daemon does not look at arguments of provided commands itself, so here is all that decides about them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::grants::Grant;
use super::path::PathScope;
use super::scope::{GrantScope, ScopeContext, ScopeDefault, ScopeKind, ScopeVariable};

impl Grant {
    /// Its scopes, as GRANT carries them: lists of values with variables replaced, `null` where everything is allowed.
    pub(crate) fn scopes_for_provider(&self, kind: &ScopeKind) -> Value {
        let mut capabilities: Vec<&str> =
            self.scopes().iter().chain(self.global_scopes()).map(|scope| scope.capability()).collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        let expands = !matches!(kind, ScopeKind::Glob | ScopeKind::Prefix);
        let context = expands.then(|| self.context());
        let own = Lists { scopes: self.scopes(), default: self.default_scope(), context };
        // A scope of the plugin that allows nothing by name adds nothing.
        let shared = Lists { scopes: self.global_scopes(), default: &ScopeDefault::Nothing, context };
        let allow = if self.is_scoped() { own.allow() } else { Value::Null };
        json!({
            "command": self.command().as_str(),
            "allow": allow,
            "deny": own.deny(),
            "global": { "allow": shared.allow(), "deny": shared.deny() },
            "capabilities": capabilities,
        })
    }
}

struct Lists<'g> {
    scopes: &'g [Arc<GrantScope>],
    /// What a scope without `allow` stands for.
    default: &'g ScopeDefault,
    /// The values of variables, where values may name some.
    context: Option<&'g ScopeContext>,
}

impl Lists<'_> {
    /// Any of these, as each grant allows by itself; null is everything.
    fn allow(&self) -> Value {
        let mut values = Vec::new();
        for scope in self.scopes {
            match (&scope.lists().allow, self.default) {
                (Some(items), _) => values.extend(items.iter().filter_map(|item| self.allowed(item.value()))),
                (None, ScopeDefault::Everything) => return Value::Null,
                (None, ScopeDefault::Nothing) => {}
                (None, ScopeDefault::Items(items)) => {
                    values.extend(items.iter().filter_map(|item| self.allowed(item)));
                }
            }
        }
        Value::Array(values)
    }

    fn deny(&self) -> Value {
        let items = self.scopes.iter().flat_map(|scope| &scope.lists().deny);
        items.map(|item| self.resolved(item.value()).unwrap_or_else(|| item.value().clone())).collect()
    }

    /// A value whose variable this peer has no value of allows nothing. In `deny` it stays as it is written: the provider can't
    /// read it there, and so it denies everything, as it does in the daemon.
    fn allowed(&self, value: &Value) -> Option<Value> {
        self.resolved(value)
    }

    fn resolved(&self, value: &Value) -> Option<Value> {
        let Some(context) = self.context else { return Some(value.clone()) };
        match value {
            Value::String(text) => expanded(text, context).map(Value::String),
            Value::Object(fields) if fields.contains_key("path") => {
                let mut fields = fields.clone();
                if let Some(Value::String(text)) = fields.get("path") {
                    let text = expanded(text, context)?;
                    fields.insert("path".to_owned(), Value::String(text));
                }
                Some(Value::Object(fields))
            }
            other => Some(other.clone()),
        }
    }
}

/// `text` with the variable that it begins with replaced, if it begins with one; `None` if that has no value.
fn expanded(text: &str, context: &ScopeContext) -> Option<String> {
    let Some(rest) = text.strip_prefix('$') else { return Some(text.to_owned()) };
    let (name, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // Anything else that begins so is the provider's business.
    let Some(variable) = ScopeVariable::parse(name) else { return Some(text.to_owned()) };
    let value = context.value(variable).ok()?;
    Some(format!("{}{rest}", PathScope::escape(value)))
}
