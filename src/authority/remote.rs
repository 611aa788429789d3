//! Which calls a capability is for: the peer's own, or those that it passes on from elsewhere.
//!
//! Owns Tauri's `local` and `remote`. Where a bridged call comes from is the bridge's word; what is written here says
//! which of it counts.

use super::document::Node;
use super::glob::{Token, glob, tokens};
use super::peer::Remote;
use super::reader::{Table, TreeReader};
use super::scope::ScopeError;
use super::source::Findings;

/// The calls that a capability is for.
#[derive(Debug)]
pub(crate) struct CallContext {
    /// Those of the peer itself.
    local: bool,
    /// Those that come over a bridge.
    realms: Vec<RealmPattern>,
    /// Who it must be there; anybody where it is not written.
    accounts: Option<Vec<Vec<Token>>>,
}

impl CallContext {
    pub(crate) fn matches(&self, remote: Option<&Remote>) -> bool {
        let Some(remote) = remote else { return self.local };
        let account = |accounts: &Vec<Vec<Token>>| accounts.iter().any(|a| glob(a, &remote.account));
        self.realms.iter().any(|realm| realm.matches(&remote.realm))
            && self.accounts.as_ref().is_none_or(account)
    }

    /// Whether it is for calls of peers themselves.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }
}

const REMOTE_KEYS: [&str; 2] = ["accounts", "urls"];

/// Reads `local` and `remote` of a capability.
pub(crate) fn read(reader: TreeReader<'_>, capability: Table<'_>, findings: &mut Findings) -> CallContext {
    let local_node = capability.get("local");
    let local = local_node.and_then(|node| reader.boolean(node, "\"local\"", findings)).unwrap_or(true);
    let mut context = CallContext { local, realms: Vec::new(), accounts: None };
    let Some(remote) = capability.get("remote") else {
        if let (false, Some(node)) = (local, local_node) {
            let error =
                reader.at(&node.span).error("neither local calls nor remote ones: it applies to nothing");
            findings.error(error.with_help("name realms: remote = { urls = [\"https://app.example\"] }"));
        }
        return context;
    };
    let before = findings.errors.len();
    let Some(table) = reader.table(remote, "\"remote\"", &REMOTE_KEYS, findings) else { return context };
    let mut patterns = |node: &Node, what: &str, read: &mut dyn FnMut(&str) -> Result<(), ScopeError>| {
        for (text, location) in reader.strings(Some(node), what, findings) {
            if let Err(error) = read(text) {
                findings.error(location.error(format!("{text:?}: {error}")));
            }
        }
    };
    let mut realms = Vec::new();
    if let Some(node) = table.get("urls") {
        patterns(node, "\"urls\"", &mut |text| RealmPattern::parse(text).map(|realm| realms.push(realm)));
    }
    if let Some(node) = table.get("accounts") {
        let mut accounts = Vec::new();
        patterns(node, "\"accounts\"", &mut |text| tokens(text).map(|account| accounts.push(account)));
        context.accounts = Some(accounts);
    }
    if realms.is_empty() && findings.errors.len() == before {
        findings.error(reader.at(&remote.span).error("\"remote\" without \"urls\" is for no realm"));
    }
    context.realms = realms;
    context
}

/// A pattern over realms: `https://*.app.example:*`, or `*.corp.example` for a domain.
#[derive(Debug)]
struct RealmPattern {
    scheme: Option<Vec<Token>>,
    host: Vec<Token>,
    port: Option<Vec<Token>>,
}

/// The pattern that means this realm and no other, if there is one.
pub(crate) fn literal_realm(realm: &str) -> Option<&str> {
    let plain =
        !realm.contains('*') && RealmPattern::parse(realm).is_ok_and(|pattern| pattern.matches(realm));
    plain.then_some(realm)
}

/// The parts of `scheme://host:port`, of which scheme and port may be missing.
struct Realm<'t> {
    scheme: Option<&'t str>,
    host: &'t str,
    port: Option<&'t str>,
}

impl<'t> Realm<'t> {
    /// Nothing for text in which more stands, such as a path or a user: a `*` of a pattern must not reach into it.
    fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        // An address of IPv6 has its colons in brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let odd = |c: char| matches!(c, '/' | '\\' | '?' | '#' | '@') || c.is_whitespace() || c.is_control();
        let parts = [Some(host), scheme, port];
        let sound = parts.into_iter().flatten().all(|part| !part.is_empty() && !part.contains(odd));
        (sound && !scheme.is_some_and(|scheme| scheme.contains(':'))).then_some(Realm { scheme, host, port })
    }
}

impl RealmPattern {
    /// Of Tauri's URL patterns, those that are about an origin: `?` is no pattern there, and a path may follow that
    /// matches all.
    fn parse(text: &str) -> Result<Self, ScopeError> {
        let start = text.find("://").map_or(0, |at| at + 3);
        let origin = match text[start..].split_once('/') {
            Some((host, "" | "*" | "**")) => &text[..start + host.len()],
            Some(_) => return Err(ScopeError::new("a realm has no path")),
            None => text,
        };
        let wanted =
            || ScopeError::new("a realm is an origin, such as https://app.example, or the name of a domain");
        let Realm { scheme, host, port } = Realm::parse(origin).ok_or_else(wanted)?;
        let part = |text: Option<&str>| text.map(tokens).transpose();
        Ok(RealmPattern { scheme: part(scheme)?, host: host_tokens(host)?, port: part(port)? })
    }

    fn matches(&self, realm: &str) -> bool {
        let Some(Realm { scheme, host, port }) = Realm::parse(realm) else { return false };
        part_matches(self.scheme.as_deref(), scheme)
            && glob(&self.host, &host.to_ascii_lowercase())
            && part_matches(self.port.as_deref(), port)
    }
}

/// Names of hosts are the same in any case; brackets of IPv6 are themselves.
fn host_tokens(host: &str) -> Result<Vec<Token>, ScopeError> {
    let host = host.to_ascii_lowercase();
    if host.starts_with('[') && host.ends_with(']') {
        return Ok(host.chars().map(Token::Char).collect());
    }
    tokens(&host)
}

/// A part that isn't written is matched by its absence alone: the port is then the scheme's own.
fn part_matches(pattern: Option<&[Token]>, part: Option<&str>) -> bool {
    match (pattern, part) {
        (Some(pattern), part) => glob(pattern, part.unwrap_or("")),
        (None, part) => part.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::{RealmPattern, literal_realm};

    fn matches(pattern: &str, realm: &str) -> bool {
        RealmPattern::parse(pattern).unwrap().matches(realm)
    }

    #[test]
    fn a_realm_is_matched_part_by_part() {
        for (pattern, yes, no) in [
            (
                "https://app.example",
                &["https://app.example", "https://APP.example"][..],
                &["http://app.example", "https://app.example:8443", "app.example", "https://xapp.example"][..],
            ),
            ("https://app.example/*", &["https://app.example"], &["https://app.example/x"]),
            (
                "https://*.app.example",
                &["https://a.app.example", "https://a.b.app.example"],
                &[
                    "https://app.example",
                    "https://evil.example/.app.example",
                    "https://evil.example#.app.example",
                ],
            ),
            (
                "https://app.example:*",
                &["https://app.example:8443", "https://app.example"],
                &["http://app.example:1"],
            ),
            ("http*://app.example", &["http://app.example", "https://app.example"], &["ftp://app.example"]),
            (
                "https://*",
                &["https://a", "https://a.b"],
                &["https://", "https://u@a", "https://a b", "http://a"],
            ),
            ("corp.example", &["corp.example", "CORP.EXAMPLE"], &["https://corp.example", "corp.example:1"]),
            ("https://[::1]:80", &["https://[::1]:80"], &["https://[::1]", "https://:", "https://1:80"]),
        ] {
            for realm in yes {
                assert!(matches(pattern, realm), "{pattern} must match {realm}");
            }
            for realm in no {
                assert!(!matches(pattern, realm), "{pattern} must not match {realm}");
            }
        }
    }

    #[test]
    fn a_realm_is_its_own_pattern_unless_it_holds_a_star() {
        for realm in ["https://app.example", "https://[::1]:80", "corp.example"] {
            assert_eq!(literal_realm(realm), Some(realm));
        }
        for realm in ["https://*.example", "*", "https://a/b", "", "https://[a-z].example"] {
            assert_eq!(literal_realm(realm), None, "{realm}");
        }
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        let wanted = "a realm is an origin, such as https://app.example, or the name of a domain";
        for (pattern, message) in [
            ("", wanted),
            ("https://", wanted),
            ("https://user@app.example", wanted),
            ("https://app.example/path", "a realm has no path"),
            ("https://app.example?x", wanted),
            ("https://[app", "`[` without `]`; `[[]` is a literal `[`"),
        ] {
            let error = RealmPattern::parse(pattern).map(|_| ()).unwrap_err();
            assert_eq!(error.message(), message, "{pattern:?}");
        }
    }
}
