//! Why a verdict is as it is: in full for the operator, in short for the peer.
//!
//! Owns the words. It asks the same snapshot as a verdict does and decides nothing itself.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use invoked_proto::name::CommandName;
use serde_json::Value;

use super::embedded::quoted;
use super::grants::{Denial, Grant, PeerGrants, Verdict};
use super::path::PathScope;
use super::peer::PeerFacts;
use super::remote::literal_realm;
use super::resolve::CapabilityRules;
use super::scope::{
    GlobScope, GrantScope, ScopeDefault, ScopeDenial, ScopeItem, ScopeKind, ScopeObjectMatch, ScopeVerdict,
};
use super::snapshot::PolicySnapshot;

/// Capabilities that one explanation names of each kind; the rest is a number.
const NAMED: usize = 2;

/// The longest text of a peer's that a message repeats, in characters.
const QUOTED: usize = 256;

/// What a peer is told about a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of answer it is.
    pub code: RefusalCode,
    /// One line. For a peer that doesn't hold `core:operate` it is the same for a command that doesn't exist.
    pub message: String,
}

/// The kinds of answer to a call that isn't allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// `permission_denied`
    PermissionDenied,
    /// `not_found`, for those who operate the daemon.
    NotFound,
}

/// A verdict with its reasons, for the operator. Displays as the lines of a log.
#[derive(Clone, Debug)]
pub struct Explanation {
    command: String,
    peer: String,
    allowed: bool,
    reasons: Vec<String>,
    remedy: Remedy,
    revision: u64,
    decision: Option<String>,
}

#[derive(Clone, Debug)]
enum Remedy {
    None,
    Advice(String),
    /// A capability file to save.
    File {
        name: String,
        text: String,
    },
}

impl Explanation {
    /// Whether the call is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// The reasons, one line each; the nearest capability first.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// A capability file that would allow exactly this call, as a name and TOML; `None` when no addition would.
    #[must_use]
    pub fn would_be_allowed_by(&self) -> Option<(&str, &str)> {
        match &self.remedy {
            Remedy::File { name, text } => Some((name, text)),
            _ => None,
        }
    }

    /// The revision of the policy that was asked.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The same explanation under the number by which `invokectl explain` finds it.
    #[must_use]
    pub fn with_decision(mut self, decision: impl Into<String>) -> Self {
        self.decision = Some(decision.into());
        self
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        write!(f, "{verdict}: {} for {}", self.command, self.peer)?;
        for reason in &self.reasons {
            write!(f, "\n  {reason}")?;
        }
        match &self.remedy {
            Remedy::None => {}
            Remedy::Advice(advice) => write!(f, "\n  {advice}")?,
            Remedy::File { name, text } => {
                write!(f, "\n  would be allowed by: {name} in a capability directory")?;
                for line in text.lines() {
                    write!(f, "\n    {line}")?;
                }
            }
        }
        match &self.decision {
            Some(decision) => write!(f, "\n  decision {decision}, invokectl explain {decision}"),
            None => Ok(()),
        }
    }
}

impl PolicySnapshot {
    /// What to answer a peer whose call of `command` was denied.
    #[must_use]
    pub fn refusal(&self, grants: &PeerGrants, command: &str) -> Refusal {
        let shown = shown(command);
        if grants.is_operator() && !self.registry.has_command(command) {
            let near = self.registry.nearest_command(command);
            let help = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            return Refusal { code: RefusalCode::NotFound, message: format!("no command \"{shown}\"{help}") };
        }
        Refusal {
            code: RefusalCode::PermissionDenied,
            message: format!("this peer may not call \"{shown}\""),
        }
    }

    /// What to answer a peer whose argument the grant's scopes refused.
    #[must_use]
    pub fn scope_refusal(&self, grant: &Grant) -> Refusal {
        Refusal {
            code: RefusalCode::PermissionDenied,
            message: format!("this peer may not call \"{}\" with this argument", grant.command()),
        }
    }

    /// Why `command` is, or would be, allowed or denied. `argument` is what the command's scope judges; without it, or
    /// where it isn't a path, only the command itself is judged.
    #[must_use]
    pub fn explain(&self, facts: &PeerFacts, command: &str, argument: Option<&Value>) -> Explanation {
        if let Some(why) = facts.unmatchable() {
            let reason = format!("no rule may match this peer, not even everyone: {why}");
            return self.denial(facts, command, vec![reason], Remedy::None);
        }
        let Some(name) = self.registry.command(command) else {
            let near = self.registry.nearest_command(command);
            let help = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            let reason = format!("no manifest has a command of this name{help}");
            return self.denial(facts, command, vec![reason], Remedy::None);
        };
        let grants = self.peer(facts);
        match grants.authorize(command) {
            Verdict::Allow(grant) => {
                let path = argument.and_then(Value::as_str).filter(|_| self.is_path_scoped(name));
                let verdict = path.map(|path| grant.check::<PathScope>(Path::new(path)));
                match (verdict, argument) {
                    (Some(ScopeVerdict::Denied(denial)), Some(argument)) => {
                        self.explain_scope(facts, grant, &denial, argument)
                    }
                    _ => self.allowance(facts, grant),
                }
            }
            Verdict::Deny(Denial::Denied(by)) => {
                let reason = format!(
                    "capability \"{}\" matches this peer and denies it with \"{}\" ({}); a deny wins over every allow",
                    by.capability, by.permission, by.location
                );
                let advice = "would be allowed by nothing that is added: take that line away, or this peer out of that capability";
                self.denial(facts, command, vec![reason], Remedy::Advice(advice.to_owned()))
            }
            Verdict::Deny(Denial::NoRule) => {
                let remedy = match self.waiting_scope(&grants, name) {
                    Some(scope) => Remedy::Advice(format!(
                        "no entry would allow this call alone: with the command, the peer would get all that \"{}\" ({}) \
                         allows",
                        scope.permission(),
                        scope.location()
                    )),
                    None => self.remedy(facts, name, argument),
                };
                self.denial(facts, command, self.nearest(facts, name), remedy)
            }
        }
    }

    /// Why the scopes of `grant` refused `argument`, which is what they were asked about.
    #[must_use]
    pub fn explain_scope(
        &self,
        facts: &PeerFacts,
        grant: &Grant,
        denial: &ScopeDenial,
        argument: &Value,
    ) -> Explanation {
        let command = grant.command();
        let what =
            format!("{}{}", if self.is_path_scoped(command) { "path " } else { "" }, shown_value(argument));
        match denial {
            ScopeDenial::Input(error) => {
                let reason = format!("no scope may judge {what}: it {error}");
                self.denial(facts, command.as_str(), vec![reason], Remedy::None)
            }
            ScopeDenial::DeniedBy { scope, item, invalid } => {
                let item = &scope.lists().deny[*item];
                let why = match invalid {
                    Some(error) => format!(", which denies everything because {error}"),
                    None => String::new(),
                };
                let reason = format!("{} refuses {what}: denied by {}{why}", holder(scope), shown_item(item));
                let advice = "would be allowed by nothing that is added: a deny wins over every allow";
                self.denial(facts, command.as_str(), vec![reason], Remedy::Advice(advice.to_owned()))
            }
            ScopeDenial::NoneMatches => {
                let default = self.registry.default_scope(command.plugin());
                let mut reasons: Vec<String> = grant
                    .scopes()
                    .iter()
                    .take(NAMED)
                    .map(|scope| format!("{} refuses {what}: {}", holder(scope), unmatched(scope, &default)))
                    .collect();
                more(&mut reasons, grant.scopes().len(), "scopes");
                if self.is_path_scoped(command) && argument.as_str().is_some_and(|path| path.contains("/.")) {
                    reasons.push(
                        "a component with a leading dot is matched where it is written out, or with dotfiles = true"
                            .to_owned(),
                    );
                }
                let remedy = self.remedy(facts, command, Some(argument));
                self.denial(facts, command.as_str(), reasons, remedy)
            }
        }
    }

    /// A scope of the command's plugin that the peer holds, and that would allow arguments once it held the command.
    fn waiting_scope<'g>(&self, grants: &'g PeerGrants, command: &CommandName) -> Option<&'g GrantScope> {
        let allows =
            |scope: &&Arc<GrantScope>| scope.lists().allow.as_ref().is_some_and(|items| !items.is_empty());
        let scopes = grants.global_scopes(command.plugin().unwrap_or(""));
        let scope = scopes.iter().find(allows).filter(|_| self.registry.is_scoped(command.as_str()))?;
        Some(scope)
    }

    fn is_path_scoped(&self, command: &CommandName) -> bool {
        matches!(self.registry.scope_kind(command.plugin()), ScopeKind::Path)
            && self.registry.is_scoped(command.as_str())
    }

    fn denial(&self, facts: &PeerFacts, command: &str, reasons: Vec<String>, remedy: Remedy) -> Explanation {
        Explanation {
            command: shown(command),
            peer: facts.to_string(),
            allowed: false,
            reasons,
            remedy,
            revision: self.revision(),
            decision: None,
        }
    }

    fn allowance(&self, facts: &PeerFacts, grant: &Grant) -> Explanation {
        let by = |scope: &Arc<GrantScope>| {
            format!(
                "capability \"{}\" allows it with \"{}\" ({})",
                scope.capability(),
                scope.permission(),
                scope.location()
            )
        };
        let mut reasons: Vec<String> = grant.scopes().iter().take(NAMED).map(by).collect();
        more(&mut reasons, grant.scopes().len(), "capabilities");
        let denial = self.denial(facts, grant.command().as_str(), reasons, Remedy::None);
        Explanation { allowed: true, ..denial }
    }

    /// The capabilities that come nearest to allowing `command`: those that allow it to others, and those that match
    /// this peer without allowing it.
    fn nearest(&self, facts: &PeerFacts, command: &CommandName) -> Vec<String> {
        let mut reasons = Vec::new();
        let allowing: Vec<_> = self.capabilities.iter().filter_map(|c| entry_allowing(c, command)).collect();
        for (capability, scope) in allowing.iter().take(NAMED) {
            let peers: Vec<_> = capability.peers.iter().map(|peer| peer.written()).collect();
            reasons.push(format!(
                "capability \"{}\" allows it with \"{}\" ({}), but its peers do not match this one: {}",
                capability.identifier,
                scope.permission(),
                scope.location(),
                peers.join(", ")
            ));
        }
        more(&mut reasons, allowing.len(), "capabilities");
        let mut matching = self.matching(facts);
        if matching.is_empty() {
            reasons.push("no capability matches this peer".to_owned());
        }
        let plugin = command.plugin();
        matching.sort_by_key(|c| {
            !c.entries.iter().flat_map(|e| &e.resolved.parts).any(|p| p.identifier.plugin() == plugin)
        });
        let mut silent: Vec<String> = matching
            .iter()
            .take(NAMED)
            .map(|c| {
                format!(
                    "capability \"{}\" ({}) matches this peer, but does not allow it",
                    c.identifier, c.location
                )
            })
            .collect();
        more(&mut silent, matching.len(), "capabilities");
        reasons.extend(silent);
        reasons
    }

    /// A capability of this uid, this command, and, where the command is scoped, this argument alone.
    fn remedy(&self, facts: &PeerFacts, command: &CommandName, argument: Option<&Value>) -> Remedy {
        let Some(permission) = self.registry.narrowest(command) else {
            return Remedy::Advice(format!(
                "no permission allows {command} alone, so there is nothing narrow to add"
            ));
        };
        let mut permission = quoted(permission.as_str());
        let mut note = "";
        if self.registry.is_scoped(command.as_str()) {
            let path = argument.and_then(Value::as_str).filter(|_| self.is_path_scoped(command));
            let value = path.filter(|path| PathScope::admit(Path::new(path)).is_ok()).map(PathScope::escape);
            if value.is_none() {
                note = " # an empty list allows nothing: put the argument in it";
            }
            let allow = value.map(quoted).unwrap_or_default();
            permission = format!("{{ identifier = {permission}, allow = [{allow}] }}");
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
                "identifier = \"{identifier}\"\npeers = [\"uid:{}\"]\n{calls}permissions = [{permission}]{note}\n",
                facts.uid
            ),
        }
    }
}

/// The first entry of a capability that allows `command`.
fn entry_allowing<'c>(
    capability: &'c CapabilityRules,
    command: &CommandName,
) -> Option<(&'c CapabilityRules, &'c GrantScope)> {
    let mut entries = capability.entries.iter();
    let entry = entries.find(|entry| entry.resolved.parts.iter().any(|part| part.allow.contains(command)))?;
    Some((capability, &entry.scope))
}

fn holder(scope: &GrantScope) -> String {
    format!(
        "capability \"{}\" matches this peer; its scope for {} ({})",
        scope.capability(),
        scope.permission(),
        scope.location()
    )
}

fn unmatched(scope: &GrantScope, default: &ScopeDefault) -> String {
    match (&scope.lists().allow, default) {
        _ if scope.is_given_up() => "this peer gave up what it allows".to_owned(),
        (None, ScopeDefault::Items(_)) => {
            "it is not written, and the plugin's default does not match".to_owned()
        }
        (None, _) => "it is not written, and without one the plugin allows nothing".to_owned(),
        (Some(items), _) if items.is_empty() => "`allow = []` allows nothing".to_owned(),
        (Some(items), _) => {
            let shown: Vec<_> = items.iter().take(NAMED).map(shown_item).collect();
            let rest = items.len().saturating_sub(NAMED);
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("not matched by {}{rest}", shown.join(", "))
        }
    }
}

fn more(reasons: &mut Vec<String>, count: usize, what: &str) {
    if count > NAMED {
        reasons.push(format!("and {} more {what}", count - NAMED));
    }
}

fn shown_item(item: &ScopeItem) -> String {
    let value = shown_value(item.value());
    match item.location() {
        Some(location) => format!("{value} ({location})"),
        None => format!("{value} (shipped with the plugin)"),
    }
}

fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", shown(text)),
        value => shown(&value.to_string()),
    }
}

/// Text that may be a peer's: cut, and without anything that would break a line of a log.
fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTED).flat_map(clean).collect();
    if text.chars().nth(QUOTED).is_some() {
        out.push('…');
    }
    out
}

/// Quotes stay as they are: paths are read by people.
fn clean(c: char) -> impl Iterator<Item = char> {
    let plain = matches!(c, '"' | '\'').then_some(c);
    let escaped = plain.is_none().then(|| c.escape_debug());
    plain.into_iter().chain(escaped.into_iter().flatten())
}
