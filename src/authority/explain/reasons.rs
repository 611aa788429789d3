//! Finding the reasons: the same snapshot is asked as for a verdict, and what comes near is named.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use invoked_proto::name::CommandName;
use serde_json::{Value, json};

use super::argument::{Judged, ScopeRefusal, shown, shown_value};
use super::proposal::never_judged;
use super::{Asking, Explanation, Refusal, RefusalCode, Remedy};
use crate::authority::grants::{Denial, Grant, PeerGrants, Verdict};
use crate::authority::matcher::Matcher;
use crate::authority::path::PathScope;
use crate::authority::peer::PeerFacts;
use crate::authority::registry::Resolved;
use crate::authority::resolve::CapabilityRules;
use crate::authority::scope::{
    CompiledScope, GlobScope, GrantScope, InputError, PrefixScope, ScopeDefault, ScopeDenial, ScopeError,
    ScopeItem, ScopeKind, ScopeObject, ScopeObjectMatch, ScopeRole, ScopeVerdict,
};
use crate::authority::snapshot::PolicySnapshot;

/// Capabilities, values and peers that one explanation names of each kind; the rest is a number.
const NAMED: usize = 2;

/// Advice where something denies an argument.
const DENY_WINS: &str = "would be allowed by nothing that is added: a deny wins over every allow";

/// What is asked about a command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'a> {
    /// Only whether it may be called: the argument is not known.
    Command,
    /// Also whether its scopes allow this.
    Argument(&'a Value),
    /// Its argument, of which it is known that no scope may judge it.
    Unjudgeable(&'a Value, InputError),
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
    /// where it is of a kind that only the command knows, only the command itself is judged.
    #[must_use]
    pub fn explain<'a>(
        &self,
        who: impl Into<Asking<'a>>,
        command: &str,
        argument: Option<&Value>,
    ) -> Explanation {
        self.explain_about(who, command, argument.map_or(About::Command, About::Argument))
    }

    /// The same, for an argument of which more is known.
    pub(crate) fn explain_about<'a>(
        &self,
        who: impl Into<Asking<'a>>,
        command: &str,
        about: About<'_>,
    ) -> Explanation {
        let who: Asking<'_> = who.into();
        if let Some(why) = who.facts.unmatchable() {
            let reason = format!("no rule may match this peer, not even everyone: {why}");
            return self.denial(&who, command, vec![reason], Remedy::None);
        }
        let Some(name) = self.registry.command(command) else {
            let near = self.registry.nearest_command(command);
            let help = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            let reason = format!("no manifest has a command of this name{help}");
            return self.denial(&who, command, vec![reason], Remedy::None);
        };
        let grants = self.asked(&who);
        match grants.authorize(command) {
            Verdict::Allow(grant) => self.explain_grant(who, grant, about),
            Verdict::Deny(Denial::Denied(by)) => {
                let reason = format!(
                    "capability \"{}\" matches this peer and denies it with \"{}\" ({}); a deny wins over every allow",
                    by.capability, by.permission, by.location
                );
                let advice = "would be allowed by nothing that is added: take that line away, or this peer out of that capability";
                self.denial(&who, command, vec![reason], Remedy::Advice(advice.to_owned()))
            }
            Verdict::Deny(Denial::NoRule) => self.explain_unlisted(&who, &grants, name, about),
        }
    }

    /// What a grant says of an argument.
    fn explain_grant(&self, who: Asking<'_>, grant: &Arc<Grant>, about: About<'_>) -> Explanation {
        let (argument, verdict) = match about {
            About::Command => return self.allowance(&who, grant, None),
            About::Argument(argument) => (argument, self.judge(grant, argument)),
            About::Unjudgeable(argument, error) => {
                (argument, Some(ScopeVerdict::Denied(ScopeDenial::Input(error))))
            }
        };
        match verdict {
            None => self.allowance(&who, grant, None),
            Some(ScopeVerdict::Allowed) => self.allowance(&who, grant, Some(Judged::new(argument))),
            Some(ScopeVerdict::Denied(denial)) => {
                let (grant, argument) = (Arc::clone(grant), Judged::new(argument));
                self.explain_scope(who, &ScopeRefusal { grant, denial, argument })
            }
        }
    }

    /// Why nothing that the peer holds allows a command.
    fn explain_unlisted(
        &self,
        who: &Asking<'_>,
        grants: &PeerGrants,
        command: &CommandName,
        about: About<'_>,
    ) -> Explanation {
        let (argument, error) = match about {
            About::Command => (None, None),
            About::Argument(argument) => (Some(Judged::new(argument)), None),
            About::Unjudgeable(argument, error) => (Some(Judged::new(argument)), Some(error)),
        };
        let mut reasons = match who.kept {
            Some(kept) => self.given_up(who.facts, command, kept),
            None => self.nearest(who.facts, command),
        };
        let remedy = match (who.kept, &argument, error) {
            (Some(kept), ..) => only_kept(kept),
            (None, Some(argument), Some(error)) => {
                Remedy::Advice(never_judged(&self.what(command, argument), error))
            }
            (None, argument, _) => {
                match argument.as_ref().and_then(|a| self.shared_denial(grants, command, a)) {
                    Some(reason) => {
                        reasons.push(reason);
                        Remedy::Advice(DENY_WINS.to_owned())
                    }
                    None => self.addition(who.facts, grants, command, argument.as_ref()),
                }
            }
        };
        Explanation { argument, ..self.denial(who, command.as_str(), reasons, remedy) }
    }

    /// What to add for a peer that nothing allows `command`.
    fn addition(
        &self,
        facts: &PeerFacts,
        grants: &PeerGrants,
        command: &CommandName,
        argument: Option<&Judged>,
    ) -> Remedy {
        match self.waiting_scope(grants, command) {
            Some(scope) => Remedy::Advice(format!(
                "no entry would allow this call alone: with the command, the peer would get all that \"{}\" ({}) allows",
                scope.permission(),
                scope.location()
            )),
            None => self.remedy(facts, command, argument),
        }
    }

    /// Why the scopes that the peer holds for all commands of a plugin would refuse an argument, were the command allowed.
    fn shared_denial(&self, grants: &PeerGrants, command: &CommandName, argument: &Judged) -> Option<String> {
        let plugin = command.plugin().unwrap_or("");
        let text = argument.whole()?.as_str().filter(|_| self.registry.is_scoped(command.as_str()))?;
        let denial = match self.registry.scope_kind(command.plugin()) {
            ScopeKind::Path => grants.shared_denial::<PathScope>(plugin, Path::new(text)),
            ScopeKind::Glob => grants.shared_denial::<GlobScope>(plugin, text),
            ScopeKind::Prefix => grants.shared_denial::<PrefixScope>(plugin, text),
            ScopeKind::Opaque | ScopeKind::Checked(_) | ScopeKind::Schema(_) => None,
        };
        match denial? {
            ScopeDenial::DeniedBy { scope, item, invalid } => {
                Some(denied_by(&scope, item, invalid.as_ref(), &self.what(command, argument)))
            }
            ScopeDenial::Input(_) | ScopeDenial::NoneMatches => None,
        }
    }

    /// What the scopes of `grant` say of an argument, where their values are of a kind that is known here and not to the
    /// command alone.
    fn judge(&self, grant: &Grant, argument: &Value) -> Option<ScopeVerdict> {
        let text = argument.as_str().filter(|_| grant.is_scoped())?;
        match self.registry.scope_kind(grant.command().plugin()) {
            ScopeKind::Path => Some(grant.check::<PathScope>(Path::new(text))),
            ScopeKind::Glob => Some(grant.check::<GlobScope>(text)),
            ScopeKind::Prefix => Some(grant.check::<PrefixScope>(text)),
            ScopeKind::Opaque | ScopeKind::Checked(_) | ScopeKind::Schema(_) => None,
        }
    }

    /// Why the scopes of a grant refused an argument.
    #[must_use]
    pub fn explain_scope<'a>(&self, who: impl Into<Asking<'a>>, refusal: &ScopeRefusal) -> Explanation {
        let who: Asking<'_> = who.into();
        let ScopeRefusal { grant, denial, argument } = refusal;
        let command = grant.command();
        let what = self.what(command, argument);
        let (reasons, remedy) = match denial {
            ScopeDenial::Input(error) => {
                (vec![format!("no scope may judge {what}: it {error}")], Remedy::None)
            }
            ScopeDenial::DeniedBy { scope, item, invalid } => {
                let reason = denied_by(scope, *item, invalid.as_ref(), &what);
                (vec![reason], Remedy::Advice(DENY_WINS.to_owned()))
            }
            ScopeDenial::NoneMatches => {
                let mut reasons = self.unmatched(grant, argument, &what);
                match who.kept {
                    None => (reasons, self.remedy(who.facts, command, Some(argument))),
                    Some(kept) => {
                        reasons.push(keeps_only(kept));
                        (reasons, only_kept(kept))
                    }
                }
            }
        };
        let denial = self.denial(&who, command.as_str(), reasons, remedy);
        Explanation { argument: Some(argument.clone()), ..denial }
    }

    /// Why each scope of `grant` doesn't match `argument`, which messages call `what`.
    fn unmatched(&self, grant: &Grant, argument: &Judged, what: &str) -> Vec<String> {
        let command = grant.command();
        let default = self.registry.default_scope(command.plugin());
        let scopes = grant.scopes().iter().take(NAMED);
        let mut reasons: Vec<String> = scopes
            .map(|scope| format!("{} refuses {what}: {}", holder(scope), unmatched(scope, &default)))
            .collect();
        more(&mut reasons, grant.scopes().len(), "scopes");
        let path = argument.whole().and_then(Value::as_str).filter(|_| self.is_path_scoped(command));
        if path.is_some_and(|path| would_match_with_dotfiles(grant, Path::new(path))) {
            let rule =
                "a component with a leading dot is matched where it is written out, or with dotfiles = true";
            reasons.push(rule.to_owned());
        }
        reasons
    }

    /// A scope of the command's plugin that the peer holds, and that would allow arguments once it held the command.
    fn waiting_scope<'g>(&self, grants: &'g PeerGrants, command: &CommandName) -> Option<&'g GrantScope> {
        let allows =
            |scope: &&Arc<GrantScope>| scope.lists().allow.as_ref().is_some_and(|items| !items.is_empty());
        let scopes = grants.global_scopes(command.plugin().unwrap_or(""));
        let scope = scopes.iter().find(allows).filter(|_| self.registry.is_scoped(command.as_str()))?;
        Some(scope)
    }

    pub(super) fn is_path_scoped(&self, command: &CommandName) -> bool {
        matches!(self.registry.scope_kind(command.plugin()), ScopeKind::Path)
            && self.registry.is_scoped(command.as_str())
    }

    fn denial(&self, who: &Asking<'_>, command: &str, reasons: Vec<String>, remedy: Remedy) -> Explanation {
        Explanation {
            command: shown(command),
            facts: who.facts.clone(),
            kept: who.kept.map(<[String]>::to_vec),
            argument: None,
            allowed: false,
            reasons,
            remedy,
            revision: self.revision(),
            decision: None,
        }
    }

    fn allowance(&self, who: &Asking<'_>, grant: &Grant, argument: Option<Judged>) -> Explanation {
        let text = argument.as_ref().and_then(Judged::whole).and_then(Value::as_str);
        let mut reasons = match text.and_then(|text| self.allowing_argument(grant, text)) {
            Some(reasons) => reasons,
            None => allowing(grant),
        };
        if grant.is_scoped() && argument.is_none() {
            reasons.push("its scope decides on the arguments, of which none was judged here".to_owned());
        }
        let denial = self.denial(who, grant.command().as_str(), reasons, Remedy::None);
        Explanation { allowed: true, argument, ..denial }
    }

    /// Those scopes of a grant that allow an argument, as one of them is enough; of a command's own first.
    fn allowing_argument(&self, grant: &Grant, text: &str) -> Option<Vec<String>> {
        let default = self.registry.default_scope(grant.command().plugin());
        let (own, shared) = match self.registry.scope_kind(grant.command().plugin()) {
            ScopeKind::Path => matching::<PathScope>(grant, &default, Path::new(text)),
            ScopeKind::Glob => matching::<GlobScope>(grant, &default, text),
            ScopeKind::Prefix => matching::<PrefixScope>(grant, &default, text),
            ScopeKind::Opaque | ScopeKind::Checked(_) | ScopeKind::Schema(_) => return None,
        };
        if !own.is_empty() {
            return Some(by("it", &own));
        }
        let mut reasons = allowing(grant);
        reasons.extend(by("the argument", &shared));
        Some(reasons)
    }

    /// What a policy gives whoever is asked about.
    pub(crate) fn asked(&self, who: &Asking<'_>) -> Arc<PeerGrants> {
        match who.kept {
            None => self.peer(who.facts),
            Some(kept) => self.peer_narrowed(who.facts, kept).grants,
        }
    }

    /// Why a peer that keeps some capabilities may not call `command`: because it gave up the others, or it never could.
    fn given_up(&self, facts: &PeerFacts, command: &CommandName, kept: &[String]) -> Vec<String> {
        let mut reasons = match self.peer(facts).authorize(command.as_str()) {
            Verdict::Allow(grant) => allowing(grant),
            Verdict::Deny(_) => self.nearest(facts, command),
        };
        reasons.push(keeps_only(kept));
        reasons
    }

    /// The capabilities that come nearest to allowing `command`: those that allow it to others, and those that match
    /// this peer without allowing it.
    fn nearest(&self, facts: &PeerFacts, command: &CommandName) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut known = HashMap::new();
        let allowing: Vec<_> =
            self.capabilities.iter().filter_map(|c| entry_allowing(c, command, &mut known)).collect();
        for (capability, scope) in allowing.iter().take(NAMED) {
            reasons.push(format!(
                "capability \"{}\" allows it with \"{}\" ({}), but its peers do not match this one: {}",
                capability.identifier,
                scope.permission(),
                scope.location(),
                some_of(capability.peers.iter().map(Matcher::written))
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
}

/// What allows a command.
fn allowing(grant: &Grant) -> Vec<String> {
    // Of what a narrowed peer gave up, only denials are there.
    let scopes: Vec<_> = grant.scopes().iter().filter(|scope| !scope.is_given_up()).collect();
    by("it", &scopes)
}

fn by(what: &str, scopes: &[&Arc<GrantScope>]) -> Vec<String> {
    let line = |scope: &&Arc<GrantScope>| {
        let (capability, permission) = (scope.capability(), scope.permission());
        format!("capability \"{capability}\" allows {what} with \"{permission}\" ({})", scope.location())
    };
    let mut reasons: Vec<String> = scopes.iter().take(NAMED).map(line).collect();
    more(&mut reasons, scopes.len(), "capabilities");
    reasons
}

/// The scopes that allow `input` alone: the command's own, and those that it shares with its plugin's other commands.
fn matching<'g, S: ScopeObjectMatch>(
    grant: &'g Grant,
    default: &ScopeDefault,
    input: &S::Input,
) -> (Vec<&'g Arc<GrantScope>>, Vec<&'g Arc<GrantScope>>) {
    let (own, shared) = (grant.scopes().iter(), grant.global_scopes().iter());
    let allows = |compiled: CompiledScope<S>| compiled.check(input).is_allowed();
    let own = own.filter(|scope| {
        allows(CompiledScope::of_command(std::slice::from_ref(scope), default, grant.context()))
    });
    let shared =
        shared.filter(|scope| allows(CompiledScope::of_plugin(std::slice::from_ref(scope), grant.context())));
    (own.collect(), shared.collect())
}

fn keeps_only(kept: &[String]) -> String {
    match kept {
        [] => "this peer gave up all capabilities when it connected".to_owned(),
        kept => {
            let names = kept.iter().map(|name| format!("\"{}\"", shown(name)));
            format!("this peer gave up all capabilities but {} when it connected", some_of(names))
        }
    }
}

/// A file that is added would give a narrowed peer nothing.
fn only_kept(kept: &[String]) -> Remedy {
    let what = if kept.is_empty() { "nothing" } else { "no others" };
    Remedy::Advice(format!(
        "would be allowed by nothing that is added: the peer keeps {what} for as long as it is connected"
    ))
}

/// The first entry of a capability that allows `command`. Many capabilities hold the same permission, so what one of them
/// resolves to is looked through once.
fn entry_allowing<'c>(
    capability: &'c CapabilityRules,
    command: &CommandName,
    known: &mut HashMap<*const Resolved, bool>,
) -> Option<(&'c CapabilityRules, &'c GrantScope)> {
    let mut allows = |resolved: &Arc<Resolved>| {
        let look = || resolved.parts.iter().any(|part| part.allow.contains(command));
        *known.entry(Arc::as_ptr(resolved)).or_insert_with(look)
    };
    let entry = capability.entries.iter().find(|entry| allows(&entry.resolved))?;
    Some((capability, &entry.scope))
}

/// Whether a path is refused only because it has a component that begins with a dot.
fn would_match_with_dotfiles(grant: &Grant, path: &Path) -> bool {
    let scopes = grant.scopes().iter().chain(grant.global_scopes());
    let items = scopes.flat_map(|scope| &scope.lists().allow).flatten();
    let mut patterns =
        items.filter_map(|item| item.value().as_str().or_else(|| item.value()["path"].as_str()));
    patterns.any(|pattern| {
        let value = json!({ "path": pattern, "dotfiles": true });
        let scope = PathScope::parse(&value, ScopeRole::Allow, grant.context());
        scope.is_ok_and(|scope| scope.matches(path))
    })
}

/// That a value of a scope denies what messages call `what`.
fn denied_by(scope: &GrantScope, item: usize, invalid: Option<&ScopeError>, what: &str) -> String {
    let why = match invalid {
        Some(error) => format!(", which denies everything because {error}"),
        None => String::new(),
    };
    let item = shown_item(&scope.lists().deny[item]);
    format!("{} refuses {what}: denied by {item}{why}", holder(scope))
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
            format!("not matched by {}", some_of(items.iter().map(shown_item)))
        }
    }
}

/// The first of `all`, and how many more there are.
fn some_of<T: Into<String>>(all: impl ExactSizeIterator<Item = T>) -> String {
    let rest = all.len().saturating_sub(NAMED);
    let shown: Vec<String> = all.take(NAMED).map(Into::into).collect();
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
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
