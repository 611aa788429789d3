//! Matchers: how capability files say whom they mean.
//!
//! Owns their grammar and the matching of one peer's facts. Names are resolved when a file is read.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document::{Entry, Node, NodeValue};
use super::path::PathScope;
use super::peer::{NeededFacts, Subject, UserDirectory, is_id};
use super::scope::{GlobScope, ScopeContext, ScopeObject, ScopeObjectMatch, ScopeRole};
use super::source::{Findings, Location, Source, nearest};

/// One matcher of a capability, with its names resolved.
#[derive(Clone, Debug)]
pub struct Matcher {
    written: String,
    location: Location,
    uid: Option<u32>,
    /// Each must be among the peer's groups.
    gids: Vec<u32>,
    executable: Option<PathScope>,
    unit: Option<GlobScope>,
}

impl Matcher {
    /// One that matches every peer, to which conditions are added.
    fn everyone(written: impl Into<String>, location: Location) -> Self {
        let written = written.into();
        Matcher { written, location, uid: None, gids: Vec::new(), executable: None, unit: None }
    }

    /// The matcher as its file writes it.
    #[must_use]
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Where it is written.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The uid that a peer must have.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// The groups that a peer must be in, all of them.
    #[must_use]
    pub fn gids(&self) -> &[u32] {
        &self.gids
    }

    /// The facts of a peer's process that it looks at.
    #[must_use]
    pub fn needs(&self) -> NeededFacts {
        NeededFacts { executable: self.executable.is_some(), unit: self.unit.is_some() }
    }

    /// The same, where a capability names it.
    pub(crate) fn standing_at(&self, name: &str, location: &Location) -> Self {
        Matcher { written: format!("@{name}"), location: location.clone(), ..self.clone() }
    }

    /// Whether a peer matches. The caller has refused peers that no rule may match.
    pub(crate) fn matches(&self, peer: &Subject) -> bool {
        self.uid.is_none_or(|own| own == peer.uid)
            && self.gids.iter().all(|gid| peer.groups.binary_search(gid).is_ok())
            && met(self.executable.as_ref(), peer.executable.as_ref().map(std::path::Path::new))
            && met(self.unit.as_ref(), peer.unit.as_deref())
    }
}

/// A condition on a fact that isn't known is not met.
fn met<S: ScopeObjectMatch>(pattern: Option<&S>, fact: Option<&S::Input>) -> bool {
    pattern.is_none_or(|pattern| fact.is_some_and(|fact| pattern.matches(fact)))
}

/// Matchers by the name that `[peers]` gives them.
pub(crate) type NamedPeers = BTreeMap<String, Vec<Matcher>>;

/// What the reading of matchers depends on, the same for all files of a policy.
#[derive(Clone, Copy)]
pub(crate) struct MatcherContext<'a> {
    pub(crate) users: &'a dyn UserDirectory,
    pub(crate) own_uid: u32,
    pub(crate) process_facts: ProcessFacts,
}

/// Whether the kernel can confirm that what it says of a process is about the one that connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessFacts {
    /// It can't: files that look at executables and units are refused.
    #[default]
    Unconfirmed,
    /// It gives a hold on the process with the connection (`SO_PEERPIDFD`, Linux 6.5).
    Confirmed,
}

/// Reads matchers of one file.
pub(crate) struct MatcherReader<'a> {
    pub(crate) source: &'a Source,
    pub(crate) context: MatcherContext<'a>,
    /// `None` while the named peers themselves are read: they don't refer to each other.
    pub(crate) named: Option<&'a NamedPeers>,
}

/// Kinds of matcher that other systems have and this one can't check; never to be taken for one that matches.
const UNSUPPORTED: [&str; 2] = ["lsm", "sid"];
/// Those that this one checks.
pub(crate) const SUPPORTED: [&str; 6] = ["user", "uid", "group", "gid", "exe", "unit"];

impl MatcherReader<'_> {
    /// The matchers of one node; more than one for an `@name`. Nothing when it is wrong, which `findings` then says.
    pub(crate) fn read(&self, node: &Node, findings: &mut Findings) -> Vec<Matcher> {
        match &node.value {
            NodeValue::String(text) => self.word(text, node, findings),
            NodeValue::Table(entries) => self.table(entries, node, findings).into_iter().collect(),
            _ => {
                let message = format!("a matcher is a string or a table, this is {}", node.kind());
                findings.error(self.source.at(node.span.clone()).error(message));
                Vec::new()
            }
        }
    }

    fn word(&self, text: &str, node: &Node, findings: &mut Findings) -> Vec<Matcher> {
        let location = self.source.at(node.span.clone());
        if let Some(name) = text.strip_prefix('@') {
            return self.named(name, &location, findings);
        }
        let mut matcher = Matcher::everyone(text, location.clone());
        match text.split_once(':') {
            None if text == "everyone" => return vec![matcher],
            None if text == "self" => {
                matcher.uid = Some(self.context.own_uid);
                return vec![matcher];
            }
            Some((kind, value)) if SUPPORTED.contains(&kind) => {
                let read = self.condition(kind, value, &mut matcher);
                return match read.and_then(|()| self.check_process(&matcher)) {
                    Ok(()) => vec![matcher],
                    Err(wrong) => {
                        findings.error(wrong.at(&location));
                        Vec::new()
                    }
                };
            }
            Some((kind, _)) if UNSUPPORTED.contains(&kind) => {
                findings.error(unsupported(&location, &format!("\"{kind}:\" matchers are")));
            }
            _ => {
                let words = ["everyone", "self", "user:", "uid:", "group:", "gid:", "exe:", "unit:"];
                let near = nearest(text.split_inclusive(':').next().unwrap_or(text), words);
                let help = match near {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "write \"user:NAME\", \"uid:N\", \"group:NAME\", \"gid:N\", \"self\", \"everyone\" or \"@name\"".to_owned(),
                };
                findings.error(location.error(format!("unknown matcher \"{text}\"")).with_help(help));
            }
        }
        Vec::new()
    }

    fn named(&self, name: &str, location: &Location, findings: &mut Findings) -> Vec<Matcher> {
        let Some(named) = self.named else {
            findings.error(location.error("a named peer can't stand for another one"));
            return Vec::new();
        };
        let Some(matchers) = named.get(name) else {
            let error = location.error(format!("no [peers] table names \"@{name}\""));
            findings.error(error.did_you_mean(name, named.keys().map(String::as_str)));
            return Vec::new();
        };
        matchers.iter().map(|matcher| matcher.standing_at(name, location)).collect()
    }

    fn table(&self, entries: &[Entry], node: &Node, findings: &mut Findings) -> Option<Matcher> {
        let location = self.source.at(node.span.clone());
        if entries.is_empty() {
            findings.error(
                location.error("an empty matcher would match every peer").with_help("write \"everyone\""),
            );
            return None;
        }
        let mut matcher = Matcher::everyone("", location);
        let before = findings.errors.len();
        let mut fields = Vec::with_capacity(entries.len());
        for entry in entries {
            let at_key = self.source.at(entry.key_span.clone());
            let value = match &entry.node.value {
                _ if UNSUPPORTED.contains(&entry.key.as_str()) => {
                    findings.error(unsupported(&at_key, &format!("the matcher \"{}\" is", entry.key)));
                    continue;
                }
                _ if !SUPPORTED.contains(&entry.key.as_str()) => {
                    let error = at_key.error(format!("unknown matcher \"{}\"", entry.key));
                    findings.error(error.did_you_mean(&entry.key, SUPPORTED));
                    continue;
                }
                NodeValue::String(text) => text.clone(),
                NodeValue::Number(number) if entry.key.ends_with("id") => number.to_string(),
                _ => {
                    let message = format!("\"{}\" can't be {}", entry.key, entry.node.kind());
                    findings.error(self.source.at(entry.node.span.clone()).error(message));
                    continue;
                }
            };
            let at_value = self.source.at(entry.node.span.clone());
            if let Err(wrong) = self.condition(&entry.key, &value, &mut matcher) {
                findings.error(wrong.at(&at_value));
            } else if entry.key == "exe" {
                warn_of_executable(&value, &at_value, findings);
            }
            fields.push(format!("{} = {}", entry.key, entry.node.to_json()));
        }
        matcher.written = format!("{{ {} }}", fields.join(", "));
        if findings.errors.len() == before
            && let Err(wrong) = self.check_process(&matcher)
        {
            findings.error(wrong.at(&matcher.location));
        }
        (findings.errors.len() == before).then_some(matcher)
    }

    /// Adds one condition.
    fn condition(&self, kind: &str, value: &str, matcher: &mut Matcher) -> Result<(), Wrong> {
        let users = self.context.users;
        let id = match kind {
            "exe" => {
                matcher.executable = Some(executable(value)?);
                return Ok(());
            }
            "unit" => {
                matcher.unit = Some(unit(value)?);
                return Ok(());
            }
            "user" => users.uid_of(value).ok_or_else(|| Wrong::new(format!("unknown user \"{value}\"")))?,
            "group" => users.gid_of(value).ok_or_else(|| Wrong::new(format!("unknown group \"{value}\"")))?,
            // Digits only: `parse` would take "+5".
            kind => Some(value)
                .filter(|v| v.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| Wrong::new(format!("\"{value}\" is not a {kind}")))?,
        };
        let what = if matches!(kind, "user" | "uid") { "uid" } else { "gid" };
        if !is_id(id) {
            return Err(Wrong::new(format!("no rule may name the {what} {id}: it may be anybody's")));
        }
        if what == "gid" {
            matcher.gids.push(id);
        } else if let Some(other) = matcher.uid.replace(id).filter(|other| *other != id) {
            return Err(Wrong::new(format!("no peer has both uid {other} and uid {id}")));
        }
        Ok(())
    }

    /// Whether this daemon can tell what a matcher asks of a process.
    fn check_process(&self, matcher: &Matcher) -> Result<(), Wrong> {
        let what = match matcher.needs() {
            NeededFacts { executable: true, .. } => "exe",
            NeededFacts { unit: true, .. } => "unit",
            NeededFacts { .. } => return Ok(()),
        };
        let own = self.context.own_uid;
        match matcher.uid {
            _ if self.context.process_facts == ProcessFacts::Unconfirmed => Err(Wrong::new(format!(
                "\"{what}\" can't be told on this kernel: it gives no hold on a peer's process (SO_PEERPIDFD, Linux 6.5)"
            ))),
            None => Err(Wrong {
                message: format!("\"{what}\" needs a user or a uid beside it"),
                help: Some(format!("write {{ user = \"NAME\", {what} = \"…\" }}")),
            }),
            Some(uid) if own != 0 && own != uid => Err(Wrong::new(format!(
                "\"{what}\" of uid {uid} can't be told by a daemon of uid {own}: it must be root's, or of that uid"
            ))),
            Some(_) => Ok(()),
        }
    }
}

/// What is wrong with a condition, without its place.
struct Wrong {
    message: String,
    help: Option<String>,
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Wrong { message: message.into(), help: None }
    }

    fn at(self, location: &Location) -> super::PolicyError {
        let error = location.error(self.message);
        match self.help {
            Some(help) => error.with_help(help),
            None => error,
        }
    }
}

/// A pattern over absolute paths. Variables are of scopes: an executable is where the administrator put it.
fn executable(text: &str) -> Result<PathScope, Wrong> {
    if !text.starts_with('/') {
        return Err(Wrong::new("\"exe\" is an absolute path, or a pattern of one"));
    }
    let read = PathScope::parse(&Value::from(text), ScopeRole::Allow, &ScopeContext::default());
    read.map_err(|error| Wrong::new(format!("\"exe\": {}", error.message())))
}

fn unit(text: &str) -> Result<GlobScope, Wrong> {
    if !text.contains('.') {
        return Err(Wrong {
            message: format!("\"{text}\" is not a unit"),
            help: Some(format!("a unit has its kind in its name, for example \"{text}.service\"")),
        });
    }
    let read = GlobScope::parse(&Value::from(text), ScopeRole::Allow, &ScopeContext::default());
    read.map_err(|error| Wrong::new(format!("\"unit\": {}", error.message())))
}

/// Programs that run other programs' text: a rule by their path means whatever they are given.
const INTERPRETERS: [&str; 37] = [
    "ash", "awk", "bash", "bun", "busybox", "csh", "dash", "deno", "dotnet", "emacs", "env", "expect",
    "fish", "gawk", "gdb", "guile", "java", "julia", "ksh", "lua", "luajit", "mono", "node", "nodejs",
    "perl", "php", "pwsh", "pypy", "python", "Rscript", "ruby", "sh", "tclsh", "tcsh", "wine", "wish", "zsh",
];

/// The dynamic loader runs whatever it is given, too.
const LOADERS: [&str; 2] = ["ld-linux", "ld-musl"];

fn warn_of_executable(text: &str, location: &Location, findings: &mut Findings) {
    findings.note(location.error(
        "an executable is no boundary within one uid: its other programs may trace this one, or run it their way",
    ));
    let last = text.rsplit('/').next().unwrap_or(text);
    let pattern = GlobScope::parse(&Value::from(last), ScopeRole::Allow, &ScopeContext::default());
    // `python3.12` and `lua5.4` are what they are without their version.
    let stem = last.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let named = INTERPRETERS.iter().find(|name| **name == stem);
    let loader = LOADERS.iter().find(|name| last.starts_with(**name));
    if let Some(name) = named.or(loader) {
        findings.warn(location.error(format!(
            "{name} runs other programs' text: this matches every script that the user runs with it"
        )));
    } else if let Some(name) =
        pattern.ok().and_then(|p| INTERPRETERS.into_iter().find(|name| p.matches(name)))
    {
        findings.warn(
            location
                .error(format!("this matches {name} as well, and with it every script that the user runs")),
        );
    }
}

fn unsupported(location: &Location, what: &str) -> super::PolicyError {
    location
        .error(format!("{what} not supported on this system"))
        .with_help("name the peer by user, uid, group or gid")
}
