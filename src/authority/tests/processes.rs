//! Matchers that look at a peer's process.

use super::{OWN, Users, lines, manifests};
use crate::authority::{
    CompiledPolicy, Format, NeededFacts, PeerFacts, Policy, PolicyError, ProcessFact, ProcessFacts, Source,
};

/// A policy of a root daemon on a kernel that confirms its facts.
fn policy(own_uid: u32) -> Policy<'static> {
    let policy = Policy::new(own_uid, &Users).process_facts(ProcessFacts::Confirmed);
    manifests().into_iter().fold(policy, Policy::manifest)
}

fn compile_as(own_uid: u32, text: &str) -> Result<CompiledPolicy, Vec<PolicyError>> {
    policy(own_uid).document(Source::new("t.toml", None, text), Format::Toml).compile()
}

fn for_peers(peers: &str) -> CompiledPolicy {
    let text = format!("identifier = 'c'\npeers = [{peers}]\npermissions = ['allow-greet']");
    compile_as(0, &text).unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

fn running(uid: u32, path: &str) -> PeerFacts {
    PeerFacts::new(uid, uid, []).with_executable(ProcessFact::Known(path.into()))
}

fn in_unit(uid: u32, unit: &str) -> PeerFacts {
    PeerFacts::new(uid, uid, []).with_unit(ProcessFact::Known(unit.to_owned()))
}

#[test]
fn an_executable_and_a_unit_are_matched_beside_the_uid() {
    let unread = PeerFacts::new(1000, 1000, []);
    let unknown = unread.clone().with_executable(ProcessFact::Unknown("gone".to_owned()));
    let both =
        |path, unit| in_unit(1000, unit).with_executable(ProcessFact::Known(std::path::PathBuf::from(path)));
    for (peers, yes, no) in [
        (
            "{ user = 'ana', exe = '/usr/lib/app/gallery' }",
            vec![running(1000, "/usr/lib/app/gallery")],
            vec![
                running(1001, "/usr/lib/app/gallery"),
                running(1000, "/usr/lib/app/gallery2"),
                running(1000, "/usr/lib/app/Gallery"),
                unread.clone(),
                unknown.clone(),
            ],
        ),
        (
            "{ uid = 1000, exe = '/usr/lib/app/*' }",
            vec![running(1000, "/usr/lib/app/a"), running(1000, "/usr/lib/app/b")],
            vec![running(1000, "/usr/lib/app/x/a"), running(1000, "/usr/lib/app/.a"), unknown],
        ),
        (
            "{ user = 'ana', unit = 'gallery.service' }",
            vec![in_unit(1000, "gallery.service")],
            vec![in_unit(1001, "gallery.service"), in_unit(1000, "gallery.service.x"), unread.clone()],
        ),
        (
            "{ user = 'ana', unit = 'gallery@*.service' }",
            vec![in_unit(1000, "gallery@1.service")],
            vec![in_unit(1000, "gallery.service")],
        ),
        (
            "{ user = 'ana', exe = '/a', unit = 'b.service' }",
            vec![both("/a", "b.service")],
            vec![
                both("/a", "c.service"),
                both("/b", "b.service"),
                running(1000, "/a"),
                in_unit(1000, "b.service"),
            ],
        ),
    ] {
        let policy = for_peers(peers);
        for facts in yes {
            assert!(super::may(&policy, &facts, "greet"), "{peers} must match {facts}");
        }
        for facts in no {
            assert!(!super::may(&policy, &facts, "greet"), "{peers} must not match {facts}");
        }
    }
}

#[test]
fn peers_of_one_uid_do_not_share_what_their_executables_are_granted() {
    let policy = for_peers("{ user = 'ana', exe = '/a' }");
    for _ in 0..2 {
        assert!(super::may(&policy, &running(1000, "/a"), "greet"));
        assert!(!super::may(&policy, &running(1000, "/b"), "greet"));
        assert!(!super::may(&policy, &PeerFacts::new(1000, 1000, []), "greet"));
    }
    // Where no rule looks at it, they share.
    let (a, b) = (running(1001, "/a"), running(1001, "/b"));
    assert!(std::sync::Arc::ptr_eq(&policy.snapshot.peer(&a), &policy.snapshot.peer(&b)));
}

#[test]
fn a_snapshot_says_of_which_peers_it_needs_which_facts() {
    let policy = for_peers("'uid:7', { user = 'ana', exe = '/a' }, { user = 'bob', unit = 'b.service' }");
    let needed = |uid| policy.snapshot.needed_facts(uid);
    assert_eq!(needed(1000), NeededFacts { executable: true, unit: false });
    assert_eq!(needed(1001), NeededFacts { executable: false, unit: true });
    assert!(!needed(7).any() && !needed(0).any());
}

#[test]
fn a_snapshot_says_which_facts_of_a_peer_something_hangs_on() {
    let rules =
        "{ user = 'ana', exe = '/a' }, { user = 'bob', exe = '/b' }, { user = 'bob', unit = 'b.service' }";
    let policy = for_peers(rules);
    let relied = |facts: &PeerFacts| policy.snapshot.relied_facts(facts);
    let (executable, unit) =
        (NeededFacts { executable: true, unit: false }, NeededFacts { executable: false, unit: true });
    assert_eq!(relied(&running(1000, "/a")), executable);
    assert_eq!(relied(&running(1001, "/b")), executable);
    assert_eq!(relied(&in_unit(1001, "b.service")), unit);
    for facts in [
        running(1000, "/other"),
        in_unit(1000, "b.service"),
        in_unit(1001, "c.service"),
        PeerFacts::new(1000, 1000, []),
        running(7, "/a"),
        running(1000, "/a").reaped(),
    ] {
        assert!(!relied(&facts).any(), "{facts}");
    }
    // Either would do, so one that is dropped is not missed; both must not be.
    let both = running(1001, "/b").with_unit(ProcessFact::Known("b.service".to_owned()));
    assert_eq!(relied(&both), NeededFacts { executable: true, unit: true });
    // What the uid has anyhow hangs on no program.
    let policy = for_peers(&format!("'uid:1000', {rules}"));
    assert!(!policy.snapshot.relied_facts(&running(1000, "/a")).any());
}

#[test]
fn without_the_facts_that_nothing_hangs_on_the_same_capabilities_match() {
    let matchers = ["exe = '/b'", "unit = 'b.service'", "exe = '/b', unit = 'b.service'", "exe = '/c'"];
    let peers = |bits: usize| -> String {
        let chosen = matchers.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0);
        chosen.map(|(_, conditions)| format!("{{ user = 'bob', {conditions} }}, ")).collect()
    };
    for bits in 1..1 << matchers.len() {
        for more in 1..1 << matchers.len() {
            let text = format!(
                "[[capabilities]]\nidentifier = 'a'\npeers = [{}]\npermissions = ['allow-greet']\n\
                 [[capabilities]]\nidentifier = 'd'\npeers = [{}]\npermissions = ['core:deny-ping']\n",
                peers(bits),
                peers(more)
            );
            let policy = compile_as(0, &text).unwrap_or_else(|errors| panic!("{}", lines(&errors)));
            for facts in [
                running(1001, "/b").with_unit(ProcessFact::Known("b.service".to_owned())),
                running(1001, "/c").with_unit(ProcessFact::Known("b.service".to_owned())),
                running(1001, "/b"),
                in_unit(1001, "b.service"),
            ] {
                let relied = policy.snapshot.relied_facts(&facts);
                let mut kept = facts.clone();
                kept.executable = if relied.executable { kept.executable } else { ProcessFact::NotRead };
                kept.unit = if relied.unit { kept.unit } else { ProcessFact::NotRead };
                let matching = |facts: &PeerFacts| -> Vec<String> {
                    policy.snapshot.matching(facts).iter().map(|c| c.identifier.to_string()).collect()
                };
                assert_eq!(matching(&kept), matching(&facts), "{facts} {relied:?}\n{text}");
            }
        }
    }
}

#[test]
fn what_this_daemon_can_not_tell_is_refused_at_load() {
    let error = |own, facts, matcher: &str| {
        let text = format!("identifier = 'c'\npeers = [{matcher}]\npermissions = ['allow-greet']");
        let policy = policy(own).process_facts(facts);
        let result = policy.document(Source::new("t.toml", None, text), Format::Toml).compile();
        result.map_or_else(|errors| lines(&errors), |_| String::new())
    };
    let (yes, no) = (ProcessFacts::Confirmed, ProcessFacts::Unconfirmed);
    let kernel =
        "can't be told on this kernel: it gives no hold on a peer's process (SO_PEERPIDFD, Linux 6.5)";
    let ana = "{ user = 'ana', exe = '/usr/lib/x' }";
    for (own, facts, matcher, message) in [
        (0, yes, ana, String::new()),
        (1000, yes, ana, String::new()),
        (0, no, ana, format!("\"exe\" {kernel}")),
        (0, no, "{ user = 'ana', unit = 'x.service' }", format!("\"unit\" {kernel}")),
        (0, no, "'exe:/usr/lib/x'", format!("\"exe\" {kernel}")),
        (
            OWN,
            yes,
            ana,
            "\"exe\" of uid 1000 can't be told by a daemon of uid 990: it must be root's, or of that uid"
                .to_owned(),
        ),
        (
            OWN,
            yes,
            "{ user = 'ana', unit = 'x.service' }",
            "\"unit\" of uid 1000 can't be told by a daemon of uid 990: it must be root's, or of that uid"
                .to_owned(),
        ),
        (
            0,
            yes,
            "'exe:/usr/lib/x'",
            "\"exe\" needs a user or a uid beside it; write { user = \"NAME\", exe = \"…\" }".to_owned(),
        ),
        (
            0,
            yes,
            "{ group = 'dev', unit = 'x.service' }",
            "\"unit\" needs a user or a uid beside it; write { user = \"NAME\", unit = \"…\" }".to_owned(),
        ),
    ] {
        let expected = if message.is_empty() { message } else { format!("t.toml:2:10: {message}\n") };
        assert_eq!(error(own, facts, matcher), expected, "{matcher}");
    }
    for (matcher, column, message) in [
        ("{ uid = 5, exe = 'gallery' }", 27, "\"exe\" is an absolute path, or a pattern of one"),
        ("{ uid = 5, exe = '$HOME/x' }", 27, "\"exe\" is an absolute path, or a pattern of one"),
        ("{ uid = 5, exe = '/a/../b' }", 27, "\"exe\": `.` and `..` match no resolved path"),
        ("{ uid = 5, exe = 7 }", 27, "\"exe\" can't be a number"),
        (
            "{ uid = 5, unit = 'gallery' }",
            28,
            "\"gallery\" is not a unit; a unit has its kind in its name, for example \"gallery.service\"",
        ),
        ("{ uid = 5, unit = '[.service' }", 28, "\"unit\": `[` without `]`; `[[]` is a literal `[`"),
    ] {
        assert_eq!(error(0, yes, matcher), format!("t.toml:2:{column}: {message}\n"), "{matcher}");
    }
}

#[test]
fn an_interpreter_is_warned_of_and_each_executable_noted() {
    let said = |exe: &str| {
        let policy = for_peers(&format!("{{ uid = 5, exe = '{exe}' }}"));
        assert_eq!(lines(policy.snapshot.notes()).lines().count(), 1, "{}", lines(policy.snapshot.notes()));
        assert!(
            lines(policy.snapshot.notes()).contains(":2:27: an executable is no boundary within one uid")
        );
        lines(&policy.warnings)
    };
    for exe in ["/usr/lib/app/gallery", "/usr/lib/app/*", "/usr/lib/shell"] {
        let warnings = said(exe);
        assert_eq!(warnings.is_empty(), !exe.contains('*'), "{exe}: {warnings}");
    }
    for (exe, name) in [
        ("/usr/bin/python3.12", "python"),
        ("/bin/sh", "sh"),
        ("/usr/bin/perl5.36", "perl"),
        ("/opt/node/bin/node", "node"),
        ("/usr/bin/ruby", "ruby"),
        ("/usr/lib/jvm/bin/java", "java"),
        ("/lib64/ld-linux-x86-64.so.2", "ld-linux"),
    ] {
        let text =
            format!("{name} runs other programs' text: this matches every script that the user runs with it");
        assert_eq!(said(exe), format!("t.toml:2:27: {text}\n"));
    }
    let text = "this matches python as well, and with it every script that the user runs";
    assert_eq!(said("/usr/bin/pyth*"), format!("t.toml:2:27: {text}\n"));
}

#[test]
fn a_denial_by_executable_is_warned_of() {
    let text = "identifier = 'c'\npeers = [{ uid = 5, exe = '/a' }]\npermissions = ['deny-greet', 'core:allow-ping']";
    let compiled = compile_as(0, text).unwrap();
    assert_eq!(
        lines(&compiled.warnings),
        "t.toml:3:16: what \"deny-greet\" denies here is denied to no other program of the uid; \
         deny it to the user, or to everyone\n"
    );
}
