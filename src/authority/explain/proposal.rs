//! What would allow a call: the smallest capability file, or why none can be written.
//!
//! Owns what is proposed. A proposal allows the argument in question to the peer in question and nothing else; where the
//! argument isn't known, or no value means it alone, it is said in words what to write, and no file is made of it.

use std::path::Path;

use invoked_proto::name::CommandName;
use serde_json::Value;

use super::Remedy;
use super::argument::Judged;
use crate::authority::embedded::quoted;
use crate::authority::path::PathScope;
use crate::authority::peer::PeerFacts;
use crate::authority::remote::literal_realm;
use crate::authority::scope::{GlobScope, InputError, ScopeContext, ScopeKind, ScopeObjectMatch, ScopeRole};
use crate::authority::snapshot::PolicySnapshot;

impl PolicySnapshot {
    /// A capability of this uid, this command, and, where the command is scoped, this argument alone.
    pub(super) fn remedy(
        &self,
        facts: &PeerFacts,
        command: &CommandName,
        argument: Option<&Judged>,
    ) -> Remedy {
        let Some(permission) = self.registry.narrowest(command) else {
            return Remedy::Advice(format!(
                "no permission allows {command} alone, so there is nothing narrow to add"
            ));
        };
        let mut permission = quoted(permission.as_str());
        if self.registry.is_scoped(command.as_str()) {
            let value = match argument.map(|argument| self.narrowest_value(command, argument)) {
                Some(Ok(value)) => value,
                Some(Err(why)) => return Remedy::Advice(self.unwritten(command, &permission, &why)),
                None => {
                    let why = "the argument that its scope judges is not known here";
                    return Remedy::Advice(self.unwritten(
                        command,
                        &permission,
                        &Unwritten::Told(why.into()),
                    ));
                }
            };
            permission = format!("{{ identifier = {permission}, allow = [{}] }}", quoted(value));
        }
        let mut calls = String::new();
        if let Some(remote) = &facts.remote {
            let Some(realm) = literal_realm(&remote.realm) else {
                return Remedy::Advice(
                    "no pattern means this realm alone, so there is nothing narrow to add".to_owned(),
                );
            };
            let account = quoted(GlobScope::escape(&remote.account));
            calls =
                format!("local = false\nremote = {{ urls = [{}], accounts = [{account}] }}\n", quoted(realm));
        }
        let stem = format!("uid-{}-{command}", facts.uid);
        let taken = |id: &str| self.capabilities.iter().any(|c| &*c.identifier == id);
        let identifier = std::iter::once(stem.clone())
            .chain((2..).map(|n: u32| format!("{stem}-{n}")))
            .find(|id| !taken(id))
            .unwrap_or(stem);
        Remedy::File {
            name: format!("{identifier}.toml"),
            text: format!(
                "identifier = \"{identifier}\"\npeers = [{}]\n{calls}permissions = [{permission}]\n",
                matcher(facts)
            ),
        }
    }

    /// An argument as reasons call it.
    pub(super) fn what(&self, command: &CommandName, argument: &Judged) -> String {
        match argument.whole() {
            // A denial that hangs on no argument: a value in `deny` that can't be read.
            Some(Value::Null) => "every argument".to_owned(),
            _ if self.is_path_scoped(command) => format!("path {}", argument.shown()),
            _ => argument.shown(),
        }
    }

    /// The scope value that matches `argument` and nothing else.
    fn narrowest_value(&self, command: &CommandName, argument: &Judged) -> Result<String, Unwritten> {
        let kind = self.registry.scope_kind(command.plugin());
        let what = self.what(command, argument);
        let told = |why: String| Err(Unwritten::Told(why));
        let text = match kind {
            ScopeKind::Prefix => return told(format!("no prefix means {what} alone, as more begins so")),
            ScopeKind::Opaque | ScopeKind::Checked(_) | ScopeKind::Schema(_) => {
                return told(format!("the command alone knows which values mean {what}"));
            }
            ScopeKind::Path | ScopeKind::Glob => match argument.whole() {
                Some(Value::String(text)) => text,
                Some(_) => return told(format!("{what} is no text, of which a scope could have a pattern")),
                None => return told(format!("{what} is too long for a pattern")),
            },
        };
        let value = match kind {
            ScopeKind::Path => match PathScope::admit(Path::new(text)) {
                Ok(()) => PathScope::escape(text),
                Err(error) => {
                    return Err(Unwritten::Never(never_judged(&what, error)));
                }
            },
            _ => GlobScope::escape(text),
        };
        // Some are too long to be written, and an empty text has no pattern.
        match kind.check(&Value::from(value.as_str()), ScopeRole::Allow, &ScopeContext::for_shipped()) {
            Ok(()) => Ok(value),
            Err(error) => told(format!("no pattern means {what} alone: {error}")),
        }
    }

    /// Advice in place of a scope value that can't be told.
    fn unwritten(&self, command: &CommandName, permission: &str, why: &Unwritten) -> String {
        let why = match why {
            Unwritten::Never(advice) => return advice.clone(),
            Unwritten::Told(why) => why,
        };
        let value = match self.registry.scope_kind(command.plugin()) {
            ScopeKind::Path => "the path of the file, absolute and with its links resolved",
            ScopeKind::Glob => "a pattern over the argument",
            ScopeKind::Prefix => "what the argument begins with",
            ScopeKind::Schema(_) => "a value of the form that its plugin's schema describes",
            ScopeKind::Opaque | ScopeKind::Checked(_) => "a value as the command's author describes it",
        };
        format!(
            "would be allowed by {{ identifier = {permission}, allow = […] }}, where to put {value}; which one can't be \
             told: {why}"
        )
    }
}

/// Why no scope value is proposed.
enum Unwritten {
    /// There is one, or one that means more; the reason stands in the advice.
    Told(String),
    /// None would help; this is the advice.
    Never(String),
}

/// Advice where no scope may judge what messages call `what`.
pub(super) fn never_judged(what: &str, error: InputError) -> String {
    format!("would be allowed by nothing that is added: no scope may judge {what}: it {error}")
}

/// The narrowest matcher of a peer that can be written. What is known of its process was asked by a rule, so that rules may
/// ask it here.
fn matcher(facts: &PeerFacts) -> String {
    let exe = facts.executable.known().and_then(|path| path.to_str()).map(PathScope::escape);
    let unit = facts.unit.known().map(|unit| GlobScope::escape(unit));
    if exe.is_none() && unit.is_none() {
        return format!("\"uid:{}\"", facts.uid);
    }
    let mut text = format!("{{ uid = {}", facts.uid);
    for (key, value) in [("exe", exe), ("unit", unit)] {
        text.extend(value.map(|value| format!(", {key} = {}", quoted(value))));
    }
    text + " }"
}
