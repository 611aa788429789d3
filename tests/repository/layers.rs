//! The layers inside a crate: which module may name which path.
//!
//! A rule reads the code as tokens, so comments and strings are free to name anything, and follows `use` aliases and
//! groups, `self` and `super`. Items under `#[cfg(test)]` and test modules in files of their own are exempt.

use std::collections::HashMap;

use crate::lexer::{Kind, Token, shipped, tokens};
use crate::{none_of, sources};

/// Modules below `place` may not name what begins with one of `banned`.
struct Rule {
    place: &'static str,
    banned: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        place: "proto/src/",
        banned: &[
            "tokio",
            "std::fs",
            "std::io::stdin",
            "std::net",
            "std::os",
            "std::process",
            "std::thread",
            "std::time::Instant::now",
            "std::time::SystemTime",
        ],
        why: "the protocol does no I/O, has no clock and no threads",
    },
    Rule {
        place: "src/authority/",
        banned: &[
            "tokio",
            "std::fs",
            "std::net",
            "std::thread",
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "crate::broker",
            "crate::session",
            "crate::daemon",
            "crate::provider",
            "crate::plugins",
            "crate::ctl",
        ],
        why: "authority is pure: file text in, verdicts out",
    },
    Rule {
        place: "src/broker/",
        banned: &[
            "tokio",
            "std::fs",
            "std::net",
            "std::thread",
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "crate::session",
            "crate::daemon",
            "crate::provider",
            "crate::plugins",
            "crate::ctl",
        ],
        why: "the broker is a state machine: events in, outputs out, `now` is an argument",
    },
    Rule {
        place: "src/ipc/",
        banned: &[
            "crate::broker",
            "crate::session",
            "crate::daemon",
            "crate::provider",
            "crate::runner",
            "crate::plugins",
            "crate::host",
            "crate::ctl",
        ],
        why: "ipc is the vocabulary of a command author and knows nothing of who runs it",
    },
    Rule {
        place: "src/app/",
        banned: &[
            "crate::broker",
            "crate::session",
            "crate::daemon",
            "crate::provider",
            "crate::runner",
            "crate::plugins",
            "crate::host",
            "crate::ctl",
        ],
        why: "what a command holds of its application is filled in from above",
    },
    Rule {
        place: "src/runner/",
        banned: &[
            "crate::session",
            "crate::daemon",
            "crate::provider",
            "crate::plugins",
            "crate::host",
            "crate::ctl",
        ],
        why: "the runner knows handlers and calls, not peers",
    },
    Rule {
        place: "src/session/",
        banned: &["crate::daemon", "crate::provider", "crate::plugins", "crate::host", "crate::ctl"],
        why: "a session is below the daemon",
    },
    Rule {
        place: "src/daemon/",
        banned: &["crate::provider", "crate::plugins", "crate::host", "crate::ctl"],
        why: "the daemon serves whatever plugins it is given, and is not its operator's tool",
    },
    Rule {
        place: "src/provider/",
        banned: &["crate::plugins", "crate::host", "crate::ctl"],
        why: "a provider serves whatever plugins it is given, as a daemon does",
    },
    Rule {
        place: "src/plugins/",
        banned: &["crate::runner", "crate::host", "crate::ctl", "invoked_proto::connection"],
        why: "a plugin is commands like any other's",
    },
    Rule {
        place: "src/",
        banned: &["invoked_client"],
        why: "only the operator's tool is a client; the daemon is built without one",
    },
    Rule {
        place: "src/bin/",
        banned: &["crate::broker", "invoked::broker", "invoked_proto", "invoked_transport", "tokio"],
        why: "binaries hold argv, logging and the exit code, and nothing else",
    },
    Rule {
        place: "transport/src/",
        banned: &["invoked_proto", "invoked", "invoked_client"],
        why: "transport is the operating system and knows no frames",
    },
    Rule {
        place: "clients/codegen/",
        banned: &["invoked", "invoked_proto", "invoked_transport", "invoked_client"],
        why: "a broken generated file must not keep the generator from building",
    },
];

/// Places inside a rule's that the rule leaves out, each with its reason.
const EXEMPT: &[(&str, &str)] = &[
    // The vocabulary has all of Tauri's names, whoever owns what they name.
    ("src/ipc/mod.rs", "crate::daemon::RuntimeAuthority"),
    // An application is told why the policy was not changed.
    ("src/app/manager.rs", "crate::daemon::ChangeError"),
    // The tool's own modules and its binary are what the rule is about.
    ("src/ctl/", "invoked_client"),
    ("src/bin/invokectl.rs", "invoked_client"),
    // Descriptors are a type parameter; production names the owned one.
    ("proto/src/", "std::os::fd"),
    // A virtual clock starts somewhere, and an `Instant` can only be had from the machine.
    ("proto/src/testing/", "std::time::Instant::now"),
    ("proto/src/fuzzing.rs", "std::time::Instant::now"),
    // The one part of the authority that reads files.
    ("src/authority/load.rs", "std::fs"),
    ("src/authority/load/", "std::fs"),
];

#[test]
fn each_module_names_only_what_is_below_it() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        violations.extend(check(&path, &text));
    }
    none_of("modules name what is above or beside them (see ARCHITECTURE.md)", &violations);
}

#[test]
fn a_rule_fails_on_a_bad_sample() {
    for (path, text) in [
        ("src/authority/resolve.rs", "use tokio::sync::Mutex;"),
        ("src/authority/resolve.rs", "use std::{collections::HashMap, fs};"),
        ("src/authority/resolve.rs", "fn f() { let now = ::std::time::Instant::now(); }"),
        ("src/authority/resolve.rs", "use std::time::Instant; fn f() { Instant::now(); }"),
        ("src/authority/resolve.rs", "use std::time::{self as t}; fn f() { t::Instant::now(); }"),
        ("src/authority/mod.rs", "use super::session::Session;"),
        ("src/broker/calls.rs", "use super::super::{daemon::Daemon as D};"),
        ("src/broker/mod.rs", "fn f() { std::thread::spawn(|| {}); }"),
        ("src/ipc/request.rs", "pub(crate) use crate::{state, broker::{self, Peer}};"),
        ("src/plugins/core.rs", "use invoked_client::Client;"),
        ("src/bin/invoked.rs", "#[tokio::main] async fn main() {}"),
        ("transport/src/stream.rs", "use invoked_proto::header::Header;"),
        ("proto/src/decoder.rs", "use std::time::Instant; const NOW: fn() -> Instant = Instant::now;"),
        ("clients/codegen/src/registry.rs", "use invoked_proto::registry;"),
    ] {
        assert_eq!(check(path, text).len(), 1, "{path}: {text}: {:?}", check(path, text));
    }
}

#[test]
fn a_rule_passes_what_only_looks_bad() {
    for (path, text) in [
        ("src/authority/resolve.rs", "// use tokio::fs\nconst A: &str = \"std::fs::read\";"),
        ("src/authority/resolve.rs", "use std::time::Instant; fn f(now: Instant) -> Instant { now }"),
        ("src/authority/resolve.rs", "#[cfg(test)] mod tests { use std::fs; }"),
        ("src/authority/tests.rs", "use std::fs;"),
        ("src/broker/mod.rs", "mod session; use self::session::Slot; use crate::broker::daemon::X;"),
        ("src/session.rs", "use tokio::io::unix::AsyncFd; use crate::broker::Broker;"),
        ("src/ctl/call.rs", "use invoked_client::Client;"),
        ("transport/src/lib.rs", "use invoked_transport_names::X;"),
    ] {
        none_of(path, &check(path, text));
    }
}

/// What `text`, the source of `path`, names against the rules.
fn check(path: &str, text: &str) -> Vec<String> {
    let is_test = path.ends_with("/tests.rs") || path.split('/').any(|part| part == "tests");
    let rules: Vec<_> = RULES.iter().filter(|rule| !is_test && path.starts_with(rule.place)).collect();
    if rules.is_empty() {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for (line, name) in paths(path, &shipped(&tokens(text))) {
        let exempt = EXEMPT.iter().any(|(place, prefix)| path.starts_with(place) && is_below(&name, prefix));
        for rule in rules.iter().filter(|_| !exempt) {
            if let Some(banned) = rule.banned.iter().find(|banned| is_below(&name, banned)) {
                violations.push(format!("{path}:{line}: names {banned}: {}", rule.why));
            }
        }
    }
    violations.dedup();
    violations
}

/// Whether `path` is `prefix` or something in it.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path that the code names, with its line, as absolute as `use` and the file's place make it.
fn paths(file: &str, tokens: &[Token]) -> Vec<(usize, String)> {
    let module = module_of(file);
    let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let in_use = tokens[at].is_ident("use");
        let start = if in_use { at + 1 } else { at };
        let mut leaves = Vec::new();
        let end = tree(tokens, start, &[], &mut leaves);
        at = end.max(at + 1);
        for (line, segments, alias) in leaves {
            let full = absolute(&module, &aliases, &segments);
            if in_use {
                let name = alias.or_else(|| full.last().cloned()).unwrap_or_default();
                aliases.insert(name, full.clone());
            }
            // A bare word is a name of the file's own; only `use` makes it more.
            if in_use || segments.len() > 1 {
                found.push((line, full.join("::")));
            }
        }
    }
    found
}

type Leaf = (usize, Vec<String>, Option<String>);

/// Reads a path or a tree of them (`a::{b, c as d}`) at `at`; gives the index after it.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    if tokens.get(at).is_some_and(|token| token.kind == Kind::PathSep) {
        at += 1;
    }
    loop {
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Ident(ident)) => {
                // `{self}` in a tree is the prefix itself.
                if path.is_empty() || ident != "self" {
                    path.push(ident.clone());
                }
                at += 1;
            }
            Some(Kind::Punct('{')) if at > 0 && tokens[at - 1].kind == Kind::PathSep => {
                at += 1;
                while tokens.get(at).is_some_and(|token| !token.is_punct('}')) {
                    let next = tree(tokens, at, &path, leaves);
                    at = next.max(at + 1);
                    if tokens.get(at).is_some_and(|token| token.is_punct(',')) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        if tokens.get(at).is_none_or(|token| token.kind != Kind::PathSep) {
            break;
        }
        at += 1;
    }
    let mut alias = None;
    if let [keyword, name, ..] = &tokens[at.min(tokens.len())..]
        && keyword.is_ident("as")
        && let Kind::Ident(name) = &name.kind
    {
        alias = Some(name.clone());
        at += 2;
    }
    if path.len() > prefix.len() || !prefix.is_empty() {
        leaves.push((line, path, alias));
    }
    at
}

/// The path from its crate's root, with `self`, `super` and aliases replaced.
fn absolute(module: &[String], aliases: &HashMap<String, Vec<String>>, segments: &[String]) -> Vec<String> {
    let Some(first) = segments.first() else { return Vec::new() };
    if let Some(full) = aliases.get(first) {
        return full.iter().chain(&segments[1..]).cloned().collect();
    }
    let supers = segments.iter().take_while(|segment| *segment == "super" || *segment == "self").count();
    if supers == 0 {
        return segments.to_vec();
    }
    let up = segments[..supers].iter().filter(|segment| *segment == "super").count();
    module[..module.len().saturating_sub(up).max(1)].iter().chain(&segments[supers..]).cloned().collect()
}

/// `["crate", "broker", "calls"]` for `src/broker/calls.rs`.
fn module_of(file: &str) -> Vec<String> {
    let inside = file.rsplit_once("src/").map_or(file, |(_, inside)| inside);
    let stem = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let parts = stem.split('/').filter(|part| !matches!(*part, "lib" | "main" | "mod"));
    std::iter::once("crate").chain(parts).map(str::to_owned).collect()
}
