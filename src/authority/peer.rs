//! Who a peer is, and the matchers by which capability files say whom they mean.
//!
//! Owns facts and matching. Takes facts as the kernel gave them; it asks neither the kernel nor the user database.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use super::document::{Node, NodeValue};
use super::source::{Findings, Location, Source, nearest};

/// The id that the kernel shows for every user or group without a mapping: it may be anybody, so it is nobody.
pub const OVERFLOW_ID: u32 = 65_534;

/// The id that system calls read as "leave it as it is"; no process has it.
const NO_ID: u32 = u32::MAX;

/// Whether the peer's credentials were read while it was known to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// They were.
    Live,
    /// It was gone before they could be confirmed: it matches no rule.
    Reaped,
}

/// What the kernel says about a peer, and what the user database says about its uid.
///
/// Verdicts depend on state, uid, gid, groups and home; pid and user name are for messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerFacts {
    /// Effective uid when it connected.
    pub uid: u32,
    /// Effective gid when it connected.
    pub gid: u32,
    /// Supplementary groups when it connected, in any order.
    pub groups: Vec<u32>,
    /// Its process, where the kernel tells.
    pub pid: Option<u32>,
    /// The name of the uid, if the user database has one.
    pub user_name: Option<String>,
    /// The uid's home, with links resolved; `None` leaves `$PEER_HOME` without a value.
    pub home: Option<PathBuf>,
    /// Whether the credentials can be trusted to be those of a living process.
    pub state: PeerState,
}

impl PeerFacts {
    /// A living peer with these credentials.
    #[must_use]
    pub fn new(uid: u32, gid: u32, groups: impl Into<Vec<u32>>) -> Self {
        PeerFacts {
            uid,
            gid,
            groups: groups.into(),
            pid: None,
            user_name: None,
            home: None,
            state: PeerState::Live,
        }
    }

    /// The same peer with its process id.
    #[must_use]
    pub fn with_pid(mut self, pid: u32) -> Self {
        self.pid = Some(pid);
        self
    }

    /// The same peer with what `users` says about its uid.
    #[must_use]
    pub fn with_names(mut self, users: &dyn UserDirectory) -> Self {
        self.user_name = users.name_of(self.uid);
        self.home = users.home_of(self.uid);
        self
    }

    /// The same peer, gone before its credentials could be confirmed.
    #[must_use]
    pub fn reaped(mut self) -> Self {
        self.state = PeerState::Reaped;
        self
    }

    /// Why no rule may match this peer, not even `everyone`; `None` for an ordinary peer.
    #[must_use]
    pub fn unmatchable(&self) -> Option<&'static str> {
        match (self.state, self.uid) {
            (PeerState::Reaped, _) => Some("its process was gone before its identity was confirmed"),
            (_, OVERFLOW_ID) => Some("its uid has no mapping here (the overflow uid): it may be anybody"),
            (_, NO_ID) => Some("its uid is not an id"),
            _ => None,
        }
    }

    /// The groups that a rule may match: gid and supplementary groups, sorted, without ids that may be anybody's.
    pub(crate) fn matchable_groups(&self) -> Vec<u32> {
        let mut groups: Vec<u32> =
            self.groups.iter().chain([&self.gid]).copied().filter(|g| is_id(*g)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

impl fmt::Display for PeerFacts {
    /// `uid=1000(ana) pid=4242`, as logs name a peer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid={}", self.uid)?;
        if let Some(name) = &self.user_name {
            write!(f, "({})", name.escape_debug())?;
        }
        match self.pid {
            Some(pid) => write!(f, " pid={pid}"),
            None => Ok(()),
        }
    }
}

/// The user database, as far as policies need it.
pub trait UserDirectory {
    /// The uid of a user name.
    fn uid_of(&self, name: &str) -> Option<u32>;
    /// The gid of a group name.
    fn gid_of(&self, name: &str) -> Option<u32>;
    /// The name of a uid.
    fn name_of(&self, uid: u32) -> Option<String>;
    /// The home of a uid, with links resolved, as path scopes are compared with resolved paths.
    fn home_of(&self, uid: u32) -> Option<PathBuf>;
}

/// One matcher of a capability, with its names resolved.
#[derive(Clone, Debug)]
pub struct Matcher {
    written: String,
    location: Location,
    uid: Option<u32>,
    /// Each must be among the peer's groups.
    gids: Vec<u32>,
}

impl Matcher {
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

    /// Whether a peer of this uid and these sorted groups matches. The caller has refused peers that no rule may
    /// match.
    pub(crate) fn matches(&self, uid: u32, groups: &[u32]) -> bool {
        self.uid.is_none_or(|own| own == uid) && self.gids.iter().all(|gid| groups.binary_search(gid).is_ok())
    }
}

/// Matchers by the name that `[peers]` gives them.
pub(crate) type NamedPeers = HashMap<String, Vec<Matcher>>;

/// Reads matchers of one file.
pub(crate) struct MatcherReader<'a> {
    pub(crate) source: &'a Source,
    pub(crate) users: &'a dyn UserDirectory,
    pub(crate) own_uid: u32,
    /// `None` while the named peers themselves are read: they don't refer to each other.
    pub(crate) named: Option<&'a NamedPeers>,
}

/// Kinds of matcher that authority.md has and this version can't check; never to be taken for one that matches.
const UNSUPPORTED: [&str; 4] = ["exe", "unit", "lsm", "sid"];
const SUPPORTED: [&str; 4] = ["user", "uid", "group", "gid"];

impl MatcherReader<'_> {
    /// The matchers of one node; more than one for an `@name`. Nothing when it is wrong, which `findings` then says.
    pub(crate) fn read(&self, node: &Node, findings: &mut Findings) -> Vec<Matcher> {
        match &node.value {
            NodeValue::String(text) => self.word(text, node, findings),
            NodeValue::Table(_) => self.table(node, findings).into_iter().collect(),
            _ => {
                let message = format!("a matcher is a string or a table, this is {}", node.kind());
                findings.error(self.source.at(node.span.clone()).error(message));
                Vec::new()
            }
        }
    }

    fn word(&self, text: &str, node: &Node, findings: &mut Findings) -> Vec<Matcher> {
        let location = self.source.at(node.span.clone());
        let mut matcher =
            Matcher { written: text.to_owned(), location: location.clone(), uid: None, gids: Vec::new() };
        if let Some(name) = text.strip_prefix('@') {
            return self.named(name, &location, findings);
        }
        match text.split_once(':') {
            None if text == "everyone" => return vec![matcher],
            None if text == "self" => {
                matcher.uid = Some(self.own_uid);
                return vec![matcher];
            }
            Some((kind, value)) if SUPPORTED.contains(&kind) => {
                return match self.condition(kind, value, &mut matcher) {
                    Ok(()) => vec![matcher],
                    Err(message) => {
                        findings.error(location.error(message));
                        Vec::new()
                    }
                };
            }
            Some((kind, _)) if UNSUPPORTED.contains(&kind) => {
                findings.error(unsupported(&location, &format!("\"{kind}:\" matchers are")));
            }
            _ => {
                let words = ["everyone", "self", "user:", "uid:", "group:", "gid:"];
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
        let here =
            |m: &Matcher| Matcher { written: format!("@{name}"), location: location.clone(), ..m.clone() };
        matchers.iter().map(here).collect()
    }

    fn table(&self, node: &Node, findings: &mut Findings) -> Option<Matcher> {
        let NodeValue::Table(entries) = &node.value else { return None };
        let location = self.source.at(node.span.clone());
        if entries.is_empty() {
            findings.error(
                location.error("an empty matcher would match every peer").with_help("write \"everyone\""),
            );
            return None;
        }
        let mut matcher = Matcher { written: String::new(), location, uid: None, gids: Vec::new() };
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
            if let Err(message) = self.condition(&entry.key, &value, &mut matcher) {
                findings.error(self.source.at(entry.node.span.clone()).error(message));
            }
            fields.push(format!("{} = {}", entry.key, entry.node.to_json()));
        }
        matcher.written = format!("{{ {} }}", fields.join(", "));
        (findings.errors.len() == before).then_some(matcher)
    }

    /// Adds one condition. The error is a message without its place.
    fn condition(&self, kind: &str, value: &str, matcher: &mut Matcher) -> Result<(), String> {
        let id = match kind {
            "user" => self.users.uid_of(value).ok_or_else(|| format!("unknown user \"{value}\""))?,
            "group" => self.users.gid_of(value).ok_or_else(|| format!("unknown group \"{value}\""))?,
            // Digits only: `parse` would take "+5".
            kind => Some(value)
                .filter(|v| v.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| format!("\"{value}\" is not a {kind}"))?,
        };
        let what = if matches!(kind, "user" | "uid") { "uid" } else { "gid" };
        if !is_id(id) {
            return Err(format!("no rule may name the {what} {id}: it may be anybody's"));
        }
        if what == "gid" {
            matcher.gids.push(id);
        } else if let Some(other) = matcher.uid.replace(id).filter(|other| *other != id) {
            return Err(format!("no peer has both uid {other} and uid {id}"));
        }
        Ok(())
    }
}

fn is_id(id: u32) -> bool {
    id != OVERFLOW_ID && id != NO_ID
}

fn unsupported(location: &Location, what: &str) -> super::PolicyError {
    location
        .error(format!("{what} not supported by this version"))
        .with_help("name the peer by user, uid, group or gid")
}

#[cfg(test)]
mod tests {
    use super::{NO_ID, OVERFLOW_ID, PeerFacts};

    #[test]
    fn a_peer_that_may_be_anybody_is_unmatchable() {
        assert_eq!(PeerFacts::new(0, 0, []).unmatchable(), None);
        for facts in [
            PeerFacts::new(OVERFLOW_ID, 5, []),
            PeerFacts::new(NO_ID, 5, []),
            PeerFacts::new(0, 0, []).reaped(),
        ] {
            assert!(facts.unmatchable().is_some());
        }
    }

    #[test]
    fn groups_are_a_set_without_the_overflow_gid() {
        let facts = PeerFacts::new(1, 7, [OVERFLOW_ID, 9, 7, NO_ID, 3]);
        assert_eq!(facts.matchable_groups(), [3, 7, 9]);
        assert!(PeerFacts::new(1, OVERFLOW_ID, []).matchable_groups().is_empty());
    }

    #[test]
    fn logs_name_uid_user_and_pid() {
        let mut facts = PeerFacts::new(1000, 1000, []).with_pid(4242);
        assert_eq!(facts.to_string(), "uid=1000 pid=4242");
        facts.user_name = Some("a\nb".to_owned());
        assert_eq!(facts.to_string(), "uid=1000(a\\nb) pid=4242");
    }
}
