//! What operators and peers read about a verdict.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{ana, bob, compiled, policy};
use crate::authority::{
    CompiledPolicy, Format, Judged, PathScope, PeerFacts, RefusalCode, ScopeRefusal, ScopeVerdict, Source,
    Verdict,
};

const GALLERY: &str = r#"identifier  = "gallery"
description = "The gallery may read ana's pictures, except the private ones."
peers       = ["user:ana"]
permissions = [
  "core:default",
  { identifier = "fs:allow-read-file", allow = ["$PEER_HOME/Pictures/**"],
    deny = ["$PEER_HOME/Pictures/private/**"] },
]
"#;

fn gallery() -> CompiledPolicy {
    policy().document(Source::new("gallery.toml", None, GALLERY), Format::Toml).compile().unwrap()
}

fn explain(policy: &CompiledPolicy, facts: &PeerFacts, command: &str, argument: Option<Value>) -> String {
    policy.snapshot.explain(facts, command, argument.as_ref()).to_string()
}

#[test]
fn an_argument_that_a_value_denies() {
    let text = policy()
        .document(Source::new("gallery.toml", None, GALLERY), Format::Toml)
        .compile()
        .unwrap()
        .snapshot
        .explain(&ana().with_pid(4242), "fs.read_file", Some(&json!("/home/ana/Pictures/private/x.png")))
        .with_decision("7f3a")
        .to_string();
    assert_eq!(
        text,
        r#"denied: fs.read_file for uid=1000(ana) pid=4242
  capability "gallery" matches this peer; its scope for fs:allow-read-file (gallery.toml:6) refuses path "/home/ana/Pictures/private/x.png": denied by "$PEER_HOME/Pictures/private/**" (gallery.toml:7)
  would be allowed by nothing that is added: a deny wins over every allow
  decision 7f3a, invokectl explain 7f3a"#
    );
}

#[test]
fn an_argument_that_no_value_matches() {
    let text = explain(&gallery(), &ana(), "fs.read_file", Some(json!("/home/ana/.ssh/id[1]")));
    assert_eq!(
        text,
        r#"denied: fs.read_file for uid=1000(ana)
  capability "gallery" matches this peer; its scope for fs:allow-read-file (gallery.toml:6) refuses path "/home/ana/.ssh/id[1]": not matched by "$PEER_HOME/Pictures/**" (gallery.toml:6)
  would be allowed by: uid-1000-fs.read_file.toml in a capability directory
    identifier = "uid-1000-fs.read_file"
    peers = ["uid:1000"]
    permissions = [{ identifier = "fs:allow-read-file", allow = ["/home/ana/.ssh/id[[]1]"] }]"#
    );
}

#[test]
fn a_leading_dot_is_named_where_it_is_the_reason() {
    let rule = "a component with a leading dot is matched where it is written out, or with dotfiles = true";
    for (path, expected) in [
        ("/home/ana/Pictures/.a/b.png", true),
        ("/home/ana/Pictures/.b.png", true),
        ("/home/ana/.ssh/id", false),
        ("/srv/.a", false),
    ] {
        let explanation = gallery().snapshot.explain(&ana(), "fs.read_file", Some(&json!(path)));
        assert!(!explanation.is_allowed());
        assert_eq!(explanation.reasons().iter().any(|reason| reason == rule), expected, "{explanation}");
    }
}

#[test]
fn a_command_that_no_capability_of_the_peer_allows() {
    let text = explain(&gallery(), &bob(), "fs.read_file", None);
    assert_eq!(
        text,
        r#"denied: fs.read_file for uid=1001(bob)
  capability "gallery" allows it with "fs:allow-read-file" (gallery.toml:6), but its peers do not match this one: user:ana
  no capability matches this peer
  would be allowed by { identifier = "fs:allow-read-file", allow = […] }, where to put the path of the file, absolute and with its links resolved; which one can't be told: the argument that its scope judges is not known here"#
    );
    let text = explain(&gallery(), &ana(), "fs.write_file", Some(json!("/a")));
    assert_eq!(
        text,
        r#"denied: fs.write_file for uid=1000(ana)
  capability "gallery" (gallery.toml:1) matches this peer, but does not allow it
  would be allowed by: uid-1000-fs.write_file.toml in a capability directory
    identifier = "uid-1000-fs.write_file"
    peers = ["uid:1000"]
    permissions = [{ identifier = "fs:allow-write-file", allow = ["/a"] }]"#
    );
    let text = explain(&gallery(), &ana(), "core.reload", None);
    assert!(text.contains(
        "capability \"operate\" allows it with \"core:operate\" (embedded policy:7), but its peers do not match this one: uid:0, self"
    ), "{text}");
}

#[test]
fn a_named_peer_is_told_by_its_name_where_a_capability_names_it() {
    let policy = compiled(
        "[peers]\nteam = 'user:ana'\n[[capabilities]]\nidentifier = 'c'\npeers = ['@team']\npermissions = ['allow-greet']",
    );
    let text = explain(&policy, &bob(), "greet", None);
    assert!(text.contains("but its peers do not match this one: @team\n"), "{text}");
    let capability = policy.snapshot.capabilities.iter().find(|c| &*c.identifier == "c").unwrap();
    assert_eq!(capability.peers[0].location().to_string(), "t.toml:5");
}

#[test]
fn a_command_that_is_denied_is_not_proposed() {
    let policy = compiled(
        "identifier = 'c'\npeers = ['everyone']\npermissions = [\n  'allow-greet',\n  'deny-greet' ]",
    );
    assert_eq!(
        explain(&policy, &ana(), "greet", None),
        "denied: greet for uid=1000(ana)\n  capability \"c\" matches this peer and denies it with \"deny-greet\" \
         (t.toml:5); a deny wins over every allow\n  would be allowed by nothing that is added: take that line away, \
         or this peer out of that capability"
    );
}

#[test]
fn peers_and_commands_that_no_rule_can_help() {
    let policy = gallery();
    assert_eq!(
        explain(&policy, &ana().reaped(), "fs.read_file", None),
        "denied: fs.read_file for uid=1000(ana)\n  no rule may match this peer, not even everyone: its process was gone \
         before its identity was confirmed"
    );
    assert_eq!(
        explain(&policy, &ana(), "fs.raed_file", None),
        "denied: fs.raed_file for uid=1000(ana)\n  no manifest has a command of this name; did you mean \"fs.read_file\"?"
    );
    assert_eq!(
        explain(&policy, &ana(), "fs.read_file", Some(json!("/a/../b"))),
        "denied: fs.read_file for uid=1000(ana)\n  no scope may judge path \"/a/../b\": it contains `.` or `..`"
    );
}

#[test]
fn an_allowed_call_names_what_allows_it() {
    assert_eq!(
        explain(&gallery(), &ana(), "fs.read_file", Some(json!("/home/ana/Pictures/x.png"))),
        "allowed: fs.read_file for uid=1000(ana)\n  capability \"gallery\" allows it with \"fs:allow-read-file\" \
         (gallery.toml:6)"
    );
}

#[test]
fn of_several_scopes_those_are_named_that_allow_the_argument() {
    let read = |allow: &str| format!("{{ identifier = 'fs:allow-read-file', allow = ['{allow}'] }}");
    let entries = [
        read("/a/**"),
        read("/b/**"),
        "'fs:hide-keys'".to_owned(),
        "{ identifier = 'fs:scope', allow = ['/c'] }".to_owned(),
    ];
    let text = format!("identifier = 'c'\npeers = ['user:ana']\npermissions = [\n{}\n]", entries.join(",\n"));
    let policy = compiled(&text);
    let told = |path: &str| {
        let explanation = policy.snapshot.explain(&ana(), "fs.read_file", Some(&json!(path)));
        assert!(explanation.is_allowed(), "{explanation}");
        explanation.reasons().to_vec()
    };
    let own = |line: u32| format!("capability \"c\" allows it with \"fs:allow-read-file\" (t.toml:{line})");
    assert_eq!(told("/a/x"), [own(4)]);
    assert_eq!(told("/b/x"), [own(5)]);
    let shared = "capability \"c\" allows the argument with \"fs:scope\" (t.toml:7)".to_owned();
    assert_eq!(told("/c"), [own(4), own(5), shared]);
}

#[test]
fn each_state_of_a_scope_is_told_apart() {
    let why = |entry: &str| {
        let policy = compiled(&format!("identifier = 'c'\npeers = ['user:ana']\npermissions = [{entry}]"));
        policy.snapshot.explain(&ana(), "fs.read_file", Some(&json!("/q"))).reasons()[0].clone()
    };
    let head = "capability \"c\" matches this peer; its scope for";
    for (entry, expected) in [
        (
            "'fs:allow-read-file'",
            "fs:allow-read-file (t.toml:3) refuses path \"/q\": it is not written, and without one the plugin allows nothing",
        ),
        (
            "{ identifier = 'fs:default', allow = [] }",
            "fs:default (t.toml:3) refuses path \"/q\": `allow = []` allows nothing",
        ),
        (
            "{ identifier = 'fs:read-public', allow = ['/a', '/b', '/c'] }",
            "fs:read-public (t.toml:3) refuses path \"/q\": not matched by \"/a\" (t.toml:3), \"/b\" (t.toml:3) and 2 more",
        ),
        (
            "{ identifier = 'fs:read-public', deny = ['/q'] }",
            "fs:read-public (t.toml:3) refuses path \"/q\": denied by \"/q\" (t.toml:3)",
        ),
    ] {
        assert_eq!(why(entry), format!("{head} {expected}"));
    }
}

#[test]
fn a_proposal_takes_no_identifier_that_is_taken() {
    let policy =
        compiled("identifier = 'uid-1000-greet'\npeers = ['user:bob']\npermissions = ['allow-greet']");
    let explanation = policy.snapshot.explain(&ana(), "greet", None);
    let (name, toml) = explanation.would_be_allowed_by().unwrap();
    assert_eq!(name, "uid-1000-greet-2.toml");
    assert_eq!(
        toml,
        "identifier = \"uid-1000-greet-2\"\npeers = [\"uid:1000\"]\npermissions = [\"allow-greet\"]\n"
    );
}

#[test]
fn a_proposal_loads_whatever_the_argument_is() {
    for argument in ["/a/../b", "relative", "", "/a\0", "/q\"\\\n", "/**", "$HOME"] {
        let explanation = gallery().snapshot.explain(&bob(), "fs.read_file", Some(&json!(argument)));
        let proposed = explanation.would_be_allowed_by();
        assert_eq!(proposed.is_some(), matches!(argument, "/q\"\\\n" | "/**"), "{explanation}");
        if let Some((_, toml)) = proposed {
            assert!(super::compile(toml).is_ok(), "{toml}");
        }
    }
}

#[test]
fn nothing_is_proposed_that_a_scope_would_widen() {
    let entry = "{ identifier = 'fs:scope', allow = ['/srv/**'] }";
    let policy = compiled(&format!("identifier = 'c'\npeers = ['user:ana']\npermissions = [{entry}]"));
    let explanation = policy.snapshot.explain(&ana(), "fs.read_file", Some(&json!("/x")));
    assert!(explanation.would_be_allowed_by().is_none());
    let expected = "no entry would allow this call alone: with the command, the peer would get all that \"fs:scope\" \
                    (t.toml:3) allows";
    assert!(explanation.to_string().ends_with(expected), "{explanation}");
    // A command that looks at no scope is not widened by one.
    assert!(policy.snapshot.explain(&ana(), "fs.flush", None).would_be_allowed_by().is_some());
}

#[test]
fn a_peer_learns_no_difference_between_denied_and_unknown() {
    let policy = gallery();
    let grants = policy.snapshot.peer(&ana());
    let refusal = |name: &str| policy.snapshot.refusal(&grants, name);
    for name in ["fs.write_file", "fs.wriet_file", "core.reload", "nothing"] {
        assert_eq!(refusal(name).code, RefusalCode::PermissionDenied);
        assert_eq!(refusal(name).message, format!("this peer may not call \"{name}\""));
    }
    // Whoever operates the daemon may know.
    let root = policy.snapshot.peer(&PeerFacts::new(0, 0, []));
    let unknown = policy.snapshot.refusal(&root, "fs.wriet_file");
    assert_eq!(unknown.code, RefusalCode::NotFound);
    assert_eq!(unknown.message, "no command \"fs.wriet_file\"; did you mean \"fs.write_file\"?");
    assert_eq!(policy.snapshot.refusal(&root, "fs.write_file").code, RefusalCode::PermissionDenied);
}

#[test]
fn a_refused_argument_is_not_explained_to_the_peer() {
    let policy = gallery();
    let grants = policy.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("granted") };
    let ScopeVerdict::Denied(denial) = grant.check::<PathScope>(Path::new("/x")) else { panic!("denied") };
    assert_eq!(
        policy.snapshot.scope_refusal(grant).message,
        "this peer may not call \"fs.read_file\" with this argument"
    );
    let full = policy.snapshot.explain_scope(
        &ana(),
        &ScopeRefusal { grant: Arc::clone(grant), denial, argument: Judged::new(&json!("/x")) },
    );
    assert_eq!(full.to_string(), explain(&policy, &ana(), "fs.read_file", Some(json!("/x"))));
}

#[test]
fn a_peers_text_breaks_no_line_of_the_log() {
    let policy = gallery();
    let text = explain(&policy, &ana(), "x\n  allowed: \u{1b}[31m\u{202e}", None);
    assert_eq!(text.lines().count(), 2);
    assert!(text.starts_with("denied: x\\n  allowed: \\u{1b}[31m\\u{202e} for uid=1000"), "{text}");
    let long = policy.snapshot.refusal(&policy.snapshot.peer(&ana()), &"é".repeat(100_000));
    assert!(long.message.len() < 1000);
    let path = format!("/{}", "a\n".repeat(2000));
    let text = explain(&policy, &ana(), "fs.read_file", Some(json!(path)));
    assert!(text.lines().all(|line| !line.starts_with('a')) && text.contains('…'));
}
