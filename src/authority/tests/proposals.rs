//! What explanations propose, applied: it allows exactly the argument that was asked about, to exactly this peer.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{OWN, Users, lines, manifests, plugin};
use crate::authority::{
    Asking, CompiledPolicy, Explanation, Format, GlobScope, PathScope, PeerFacts, Policy, PolicySnapshot,
    PrefixScope, ProcessFact, ProcessFacts, Remote, ScopeDefault, ScopeKind, ScopeSchema, Source, Verdict,
};

/// Who asks for what: each command that looks at scopes, of each kind of scope, and one that doesn't.
const COMMANDS: [(&str, &str); 5] = [
    ("fs.read_file", "path"),
    ("fs.write_file", "path"),
    ("mail.send", "glob"),
    ("dial.open", "prefix"),
    ("greet", "none"),
];

/// The daemon is root's, so that it may look at the processes of all.
fn compile(file: Option<&str>) -> CompiledPolicy {
    let policy = Policy::new(0, &Users).process_facts(ProcessFacts::Confirmed);
    let policy = manifests().into_iter().fold(policy, Policy::manifest);
    let mail = plugin("mail").scoped_command("send").scope(ScopeKind::Glob, ScopeDefault::Nothing);
    let dial = plugin("dial").scoped_command("open").scope(ScopeKind::Prefix, ScopeDefault::Nothing);
    let mut policy = policy.manifest(mail).manifest(dial);
    if let Some(text) = file {
        policy = policy.document(Source::new("proposed.toml", None, text), Format::Toml);
    }
    policy.compile().unwrap_or_else(|errors| panic!("{}\n{file:?}", lines(&errors)))
}

fn peers() -> Vec<PeerFacts> {
    let ana = || PeerFacts::new(1000, 1000, [100]);
    let running = |path: &str| ana().with_executable(ProcessFact::Known(path.into()));
    let unit = |facts: PeerFacts, unit: &str| facts.with_unit(ProcessFact::Known(unit.to_owned()));
    let remote = |account: &str| {
        ana().on_behalf_of(Remote {
            realm: "https://app.example:8443".to_owned(),
            account: account.to_owned(),
        })
    };
    vec![
        ana(),
        PeerFacts::new(1001, 1001, [100]),
        PeerFacts::new(1000, 7, []),
        running("/usr/bin/gallery"),
        running("/usr/bin/gallery2"),
        running("/usr/bin/ga[l]*"),
        unit(ana(), "gallery.service"),
        unit(ana(), "gallery@*.service"),
        unit(running("/usr/bin/gallery"), "gallery.service"),
        remote("ana"),
        remote("ana*"),
        PeerFacts::new(OWN, OWN, []),
    ]
}

/// Arguments, and those that a careless pattern for one of them would match too.
fn arguments() -> Vec<&'static str> {
    vec![
        "/srv/a",
        "/srv/a/b",
        "/srv/ab",
        "/srv/A",
        "/srv/.a",
        "/srv/*",
        "/srv/**",
        "/srv/[ab]",
        "/srv/?",
        "/srv",
        "/",
        "$HOME/a",
        "é",
        "e\u{301}",
        "a",
        "ab",
        "*",
        "a*",
        "?",
        "[a]",
    ]
}

/// Whether a call would be allowed; of a command without a scope, whatever its argument.
fn allowed(
    policy: &PolicySnapshot,
    facts: &PeerFacts,
    (command, kind): (&str, &str),
    argument: &str,
) -> bool {
    match (policy.peer(facts).authorize(command), kind) {
        (Verdict::Deny(_), _) => false,
        (Verdict::Allow(grant), "path") => grant.check::<PathScope>(Path::new(argument)).is_allowed(),
        (Verdict::Allow(grant), "glob") => grant.check::<GlobScope>(argument).is_allowed(),
        (Verdict::Allow(grant), "prefix") => grant.check::<PrefixScope>(argument).is_allowed(),
        (Verdict::Allow(_), _) => true,
    }
}

fn explain(policy: &PolicySnapshot, facts: &PeerFacts, command: &str, argument: &str) -> Explanation {
    policy.explain(facts, command, Some(&Value::from(argument)))
}

#[test]
fn a_proposal_allows_exactly_the_argument_and_nothing_near_it() {
    let before = compile(None).snapshot;
    let (mut exact, mut unwritten) = (0, 0);
    for facts in peers() {
        for command in COMMANDS {
            for argument in arguments() {
                let explanation = explain(&before, &facts, command.0, argument);
                let may_help = match command.1 {
                    "path" => argument.starts_with('/'),
                    // What begins with a text is more than the text.
                    "prefix" => false,
                    _ => true,
                };
                let proposed = explanation.would_be_allowed_by();
                assert_eq!(proposed.is_some(), may_help, "{facts}: {command:?} {argument}\n{explanation}");
                assert_eq!(explanation.advice().is_none(), may_help, "{explanation}");
                let Some((file, toml)) = proposed else {
                    unwritten += 1;
                    continue;
                };
                assert!(file.ends_with(".toml"), "{file}");
                let after = compile(Some(toml)).snapshot;
                assert!(
                    allowed(&after, &facts, command, argument),
                    "{facts}: {command:?} {argument}\n{toml}"
                );
                exact += 1;
                for other in arguments().into_iter().filter(|other| command.1 != "none" && *other != argument)
                {
                    assert!(!allowed(&after, &facts, command, other), "{toml} allows {other}");
                }
                for other in COMMANDS.iter().filter(|other| other.0 != command.0) {
                    assert!(!allowed(&after, &facts, *other, argument), "{toml} allows {other:?}");
                }
            }
        }
    }
    assert!(exact > 300 && unwritten > 200, "{exact} exact, {unwritten} that can't be");
}

#[test]
fn without_the_argument_no_file_is_proposed_and_it_is_said_what_to_write() {
    let policy = compile(None).snapshot;
    let schema = serde_json::json!({ "type": "object" });
    let sized = plugin("sized").scoped_command("fit").scope(
        ScopeKind::Schema(Arc::new(ScopeSchema::new(&schema).expect("a schema"))),
        ScopeDefault::Nothing,
    );
    let users = Policy::new(0, &Users).manifest(sized).compile().expect("it compiles").snapshot;
    let facts = PeerFacts::new(1000, 1000, []);
    let unknown = "which one can't be told: the argument that its scope judges is not known here";
    for (policy, command, permission, value) in [
        (
            &policy,
            "fs.read_file",
            "fs:allow-read-file",
            "the path of the file, absolute and with its links resolved",
        ),
        (&policy, "mail.send", "mail:allow-send", "a pattern over the argument"),
        (&policy, "dial.open", "dial:allow-open", "what the argument begins with"),
        (&policy, "fetch", "allow-fetch", "a value as the command's author describes it"),
        (&users, "sized.fit", "sized:allow-fit", "a value of the form that its plugin's schema describes"),
    ] {
        let explanation = policy.explain(&facts, command, None);
        assert_eq!(explanation.would_be_allowed_by(), None, "{command}");
        let expected = format!(
            "would be allowed by {{ identifier = \"{permission}\", allow = […] }}, where to put {value}; {unknown}"
        );
        assert_eq!(explanation.advice(), Some(&*expected));
        assert!(explanation.to_string().ends_with(&expected), "{explanation}");
    }
    // A command without a scope has no argument to tell.
    assert!(policy.explain(&facts, "greet", None).would_be_allowed_by().is_some());
}

#[test]
fn an_argument_that_no_value_means_alone_is_said_to_be_one() {
    let policy = compile(None).snapshot;
    let facts = PeerFacts::new(1000, 1000, []);
    let long = "a".repeat(5000);
    let deep = format!("/{}", "a/".repeat(3000));
    for (command, argument, why) in [
        ("dial.open", Value::from("org."), "no prefix means \"org.\" alone, as more begins so"),
        ("mail.send", Value::from(""), "no pattern means \"\" alone: a pattern can't be empty"),
        ("mail.send", Value::from(7), "7 is no text, of which a scope could have a pattern"),
        ("mail.send", Value::from(long.as_str()), "is too long for a pattern"),
        ("fs.read_file", Value::from(deep.as_str()), "is too long for a pattern"),
        // Short enough to be kept, and too long once it is escaped.
        ("mail.send", Value::from("*".repeat(4000)), "alone: a pattern longer than 4096 bytes"),
        ("fetch", Value::from("x"), "the command alone knows which values mean \"x\""),
    ] {
        let explanation = policy.explain(&facts, command, Some(&argument));
        let advice = explanation.advice().unwrap_or_else(|| panic!("{explanation}"));
        assert!(advice.starts_with("would be allowed by {") && advice.ends_with(why), "{advice}");
    }
    for path in ["/srv/../a", "relative"] {
        let advice = policy.explain(&facts, "fs.read_file", Some(&Value::from(path)));
        let expected =
            format!("would be allowed by nothing that is added: no scope may judge path \"{path}\": it ");
        assert!(advice.advice().is_some_and(|advice| advice.starts_with(&expected)), "{advice}");
    }
}

#[test]
fn what_a_shared_scope_denies_is_not_proposed() {
    let entry = "{ identifier = 'fs:scope', deny = ['/srv/keys/**'] }";
    let file = format!("identifier = 'c'\npeers = ['everyone']\npermissions = [{entry}]\n");
    let policy = compile(Some(&file)).snapshot;
    let facts = PeerFacts::new(1000, 1000, []);
    let told = |path: &str| policy.explain(&facts, "fs.read_file", Some(&Value::from(path)));
    assert!(told("/srv/a").would_be_allowed_by().is_some());
    let denied = told("/srv/keys/a");
    assert_eq!(
        denied.advice(),
        Some("would be allowed by nothing that is added: a deny wins over every allow")
    );
    let reason = "capability \"c\" matches this peer; its scope for fs:scope (proposed.toml:3) refuses path \
                  \"/srv/keys/a\": denied by \"/srv/keys/**\" (proposed.toml:3)";
    assert_eq!(denied.reasons().last().map(String::as_str), Some(reason));
    // Another plugin's commands are not judged by it.
    assert!(
        policy
            .explain(&facts, "mail.send", Some(&Value::from("/srv/keys/a")))
            .would_be_allowed_by()
            .is_some()
    );
}

#[test]
fn a_proposal_is_for_this_peer() {
    let before = compile(None).snapshot;
    for facts in peers() {
        let explanation = explain(&before, &facts, "fs.read_file", "/srv/a");
        let (_, toml) = explanation.would_be_allowed_by().expect("nothing denies it");
        let after = compile(Some(toml)).snapshot;
        for other in peers() {
            // A uid may join and leave groups, so groups are no part of it.
            let known = |facts: &PeerFacts| {
                (facts.uid, facts.executable.clone(), facts.unit.clone(), facts.remote.clone())
            };
            let (uid, exe, unit, remote) = known(&facts);
            let (other_uid, other_exe, other_unit, other_remote) = known(&other);
            let same = uid == other_uid
                && remote == other_remote
                && (exe == ProcessFact::NotRead || exe == other_exe)
                && (unit == ProcessFact::NotRead || unit == other_unit);
            let may = allowed(&after, &other, ("fs.read_file", "path"), "/srv/a");
            assert_eq!(may, same, "for {facts}, asked of {other}\n{toml}");
        }
    }
}

#[test]
fn the_matcher_of_a_proposal_is_what_is_known_of_the_peer() {
    let before = compile(None).snapshot;
    let line = |facts: &PeerFacts| {
        let explanation = explain(&before, facts, "greet", "");
        let (_, toml) = explanation.would_be_allowed_by().expect("nothing denies it");
        toml.lines().find(|line| line.starts_with("peers")).expect("it has peers").to_owned()
    };
    let all = peers();
    assert_eq!(line(&all[0]), r#"peers = ["uid:1000"]"#);
    assert_eq!(line(&all[3]), r#"peers = [{ uid = 1000, exe = "/usr/bin/gallery" }]"#);
    assert_eq!(line(&all[5]), r#"peers = [{ uid = 1000, exe = "/usr/bin/ga[[]l][*]" }]"#);
    assert_eq!(line(&all[7]), r#"peers = [{ uid = 1000, unit = "gallery@[*].service" }]"#);
    assert_eq!(
        line(&all[8]),
        r#"peers = [{ uid = 1000, exe = "/usr/bin/gallery", unit = "gallery.service" }]"#
    );
}

#[test]
fn to_a_narrowed_peer_nothing_is_proposed_and_what_it_gave_up_is_told() {
    let file = "[[capabilities]]\nidentifier = 'read'\npeers = ['everyone']\n\
                permissions = [{ identifier = 'fs:allow-read-file', allow = ['/a'] }]\n\
                [[capabilities]]\nidentifier = 'more'\npeers = ['everyone']\n\
                permissions = ['allow-greet', { identifier = 'fs:allow-read-file', allow = ['/b'] }]\n";
    let policy = compile(Some(file)).snapshot;
    let facts = PeerFacts::new(1000, 1000, []);
    let kept = ["read".to_owned()];
    let who = Asking { facts: &facts, kept: Some(&kept) };
    let text = |command: &str, argument: &str| {
        let explanation = policy.explain(who, command, Some(&Value::from(argument)));
        let allowed = match policy.peer_narrowed(&facts, &kept).grants.authorize(command) {
            Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(argument)).is_allowed(),
            Verdict::Deny(_) => false,
        };
        assert_eq!(explanation.is_allowed(), allowed);
        assert_eq!(explanation.would_be_allowed_by(), None);
        assert_eq!(explanation.to_json()["peer"]["keeps"], serde_json::json!(["read"]));
        explanation.to_string()
    };
    let advice =
        "would be allowed by nothing that is added: the peer keeps no others for as long as it is connected";
    assert_eq!(
        text("greet", "/"),
        format!(
            "denied: greet for uid=1000\n  capability \"more\" allows it with \"allow-greet\" (proposed.toml:8)\n  \
             this peer gave up all capabilities but \"read\" when it connected\n  {advice}"
        )
    );
    let refused = text("fs.read_file", "/b");
    assert!(refused.contains("(proposed.toml:4) refuses path \"/b\": not matched by \"/a\""), "{refused}");
    assert!(
        refused.contains("gave up all capabilities but \"read\"") && refused.ends_with(advice),
        "{refused}"
    );
    assert!(text("fs.read_file", "/a").starts_with("allowed: "));
    // It never could, narrowed or not.
    assert!(text("core.reload", "/").contains("but its peers do not match this one"));
    let nothing = Asking { facts: &facts, kept: Some(&[]) };
    let told = policy.explain(nothing, "fs.read_file", None).to_string();
    assert!(told.contains("gave up all capabilities when it connected"), "{told}");
}
