//! What explanations propose, applied: it allows exactly the argument that was asked about, to exactly this peer.

use std::path::Path;

use serde_json::Value;

use super::{OWN, Users, lines, manifests, plugin};
use crate::authority::{
    Asking, CompiledPolicy, Explanation, Format, GlobScope, PathScope, PeerFacts, Policy, PolicySnapshot,
    PrefixScope, ProcessFact, ProcessFacts, Remote, ScopeDefault, ScopeKind, Source, Verdict,
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
    let (mut exact, mut empty) = (0, 0);
    for facts in peers() {
        for command in COMMANDS {
            for argument in arguments() {
                let explanation = explain(&before, &facts, command.0, argument);
                let (file, toml) = explanation.would_be_allowed_by().expect("nothing denies it");
                assert!(file.ends_with(".toml"), "{file}");
                let after = compile(Some(toml)).snapshot;
                let helps = allowed(&after, &facts, command, argument);
                let may_help = match command.1 {
                    "path" => argument.starts_with('/'),
                    // What begins with a text is more than the text.
                    "prefix" => false,
                    _ => true,
                };
                assert_eq!(helps, may_help, "{facts}: {command:?} {argument}\n{toml}");
                assert_eq!(toml.contains("put the argument in it"), !helps, "{toml}");
                *(if helps { &mut exact } else { &mut empty }) += 1;
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
    assert!(exact > 300 && empty > 200, "{exact} exact, {empty} to be filled in");
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
