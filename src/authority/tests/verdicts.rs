//! Which commands a peer may call.

use std::sync::Arc;

use super::{OWN, Users, ana, bob, compile, compiled, granted, lines, may, policy};
use crate::authority::{
    Denial, DevOptions, Format, OVERFLOW_ID, PeerFacts, Platform, ScopeVariable, Source, Verdict,
};

const OPERATE: [&str; 7] = [
    "core.describe",
    "core.discover",
    "core.echo",
    "core.ping",
    "core.reload",
    "core.shutdown",
    "core.whoami",
];

#[test]
fn without_files_root_and_the_own_uid_operate_and_nobody_else_may_anything() {
    let policy = policy().compile().unwrap();
    for uid in [0, OWN] {
        assert_eq!(granted(&policy, &PeerFacts::new(uid, 5, [])), OPERATE);
        assert!(policy.snapshot.peer(&PeerFacts::new(uid, 5, [])).is_operator());
    }
    for facts in [ana(), PeerFacts::new(1, 0, [0])] {
        assert!(granted(&policy, &facts).is_empty());
        assert!(!policy.snapshot.peer(&facts).is_operator());
    }
}

#[test]
fn matchers_match_whom_they_name() {
    let in_dev = PeerFacts::new(5, 100, []);
    let also_in_dev = PeerFacts::new(5, 5, [7, 100]);
    let own = PeerFacts::new(OWN, 5, []);
    for (peers, yes, no) in [
        ("'user:ana'", vec![ana()], vec![bob(), own.clone()]),
        ("'uid:1000'", vec![ana()], vec![bob()]),
        ("'group:dev'", vec![bob(), in_dev.clone(), also_in_dev.clone()], vec![ana()]),
        ("'gid:100'", vec![bob(), in_dev.clone(), also_in_dev.clone()], vec![ana()]),
        ("'self'", vec![own.clone()], vec![ana(), PeerFacts::new(0, 0, [])]),
        ("'everyone'", vec![ana(), bob(), own.clone(), PeerFacts::new(4242, 1, [])], vec![]),
        (
            "{ user = 'bob', group = 'dev' }",
            vec![bob()],
            vec![ana(), in_dev.clone(), PeerFacts::new(1001, 1001, [])],
        ),
        ("{ uid = 1001, gid = 100 }", vec![bob()], vec![in_dev.clone()]),
        ("{ uid = '1001' }", vec![bob()], vec![ana()]),
        ("{ group = 'dev', gid = 7 }", vec![also_in_dev.clone()], vec![bob(), in_dev.clone()]),
        ("'user:ana', 'user:bob'", vec![ana(), bob()], vec![own.clone()]),
    ] {
        let text = format!("identifier = 'c'\npeers = [{peers}]\npermissions = ['allow-greet']");
        let policy = compiled(&text);
        for facts in yes {
            assert!(may(&policy, &facts, "greet"), "{peers} must match {facts}");
        }
        for facts in no {
            assert!(!may(&policy, &facts, "greet"), "{peers} must not match {facts}");
        }
    }
}

#[test]
fn a_named_peer_is_any_of_its_matchers_and_may_stand_in_another_file() {
    let named = "[peers]\nteam = ['user:ana', { group = 'dev' }]\nroot = 'uid:0'";
    let policy = policy()
        .document(
            Source::new("a.toml", None, "identifier = 'c'\npeers = ['@team']\npermissions = ['allow-greet']"),
            Format::Toml,
        )
        .document(Source::new("peers.toml", None, named), Format::Toml)
        .compile()
        .unwrap();
    assert!(may(&policy, &ana(), "greet") && may(&policy, &bob(), "greet"));
    assert!(!may(&policy, &PeerFacts::new(0, 0, []), "greet"));
}

#[test]
fn a_peer_that_may_be_anybody_matches_no_rule() {
    let policy =
        compiled("identifier = 'c'\npeers = ['everyone']\npermissions = ['allow-greet']\nprovide = ['*']");
    for facts in [
        PeerFacts::new(OVERFLOW_ID, 1, []),
        PeerFacts::new(u32::MAX, 1, []),
        ana().reaped(),
        PeerFacts::new(0, 0, []).reaped(),
        PeerFacts::new(OWN, 0, []).reaped(),
    ] {
        let grants = policy.snapshot.peer(&facts);
        assert_eq!(grants.grants().count(), 0);
        assert!(!grants.is_operator() && !grants.may_provide("x"));
    }
    // The overflow gid gives nothing, but its bearer may still be known by uid.
    let facts = PeerFacts::new(1000, OVERFLOW_ID, [OVERFLOW_ID]);
    assert!(may(&policy, &facts, "greet"));
}

#[test]
fn a_deny_wins_for_the_peers_of_its_own_capability() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'all'\npeers = ['everyone']\npermissions = ['fs:default', 'allow-greet']\n\
         [[capabilities]]\nidentifier = 'not-bob'\npeers = ['user:bob']\npermissions = ['fs:deny-flush']\n",
    );
    assert_eq!(granted(&policy, &ana()), ["fs.flush", "fs.read_file", "greet"]);
    assert_eq!(granted(&policy, &bob()), ["fs.read_file", "greet"]);
    let grants = policy.snapshot.peer(&bob());
    let Verdict::Deny(Denial::Denied(by)) = grants.authorize("fs.flush") else { panic!("bob may flush") };
    assert_eq!((by.capability(), by.permission()), ("not-bob", "fs:deny-flush"));
    assert_eq!(by.location().to_string(), "t.toml:8");
}

#[test]
fn only_canonical_names_are_names() {
    let policy =
        compiled("identifier = 'c'\npeers = ['user:ana']\npermissions = ['fs:default', 'allow-greet']");
    assert!(may(&policy, &ana(), "fs.flush"));
    for name in ["plugin:fs|flush", "fs:flush", "flush", "FS.flush", "fs.flush ", "fs..flush", "", "fs."] {
        assert!(!may(&policy, &ana(), name), "{name:?}");
    }
}

#[test]
fn nobody_who_operates_the_daemon_is_locked_out() {
    let text = "identifier = 'lockout'\npeers = ['everyone']\npermissions = [\n  'core:deny-shutdown',\n  \
                'core:deny-provide',\n  'allow-greet',\n  'deny-greet',\n]";
    let policy = compiled(text);
    for uid in [0, OWN] {
        assert_eq!(granted(&policy, &PeerFacts::new(uid, 5, [])), OPERATE);
    }
    assert!(granted(&policy, &ana()).is_empty());
    assert_eq!(
        lines(&policy.warnings),
        "t.toml:4:3: \"core:deny-shutdown\" has no effect on \"core.shutdown\" for root and the daemon's own uid: they \
         are never locked out\n"
    );
    let own = compiled("identifier = 'c'\npeers = ['self']\npermissions = ['core:deny-ping']");
    assert_eq!(own.warnings.len(), 1);
    // The same denial for others is in order.
    let others =
        compiled("identifier = 'c'\npeers = ['user:ana', 'group:dev']\npermissions = ['core:deny-shutdown']");
    assert!(others.warnings.is_empty());
}

#[test]
fn operating_the_daemon_can_be_given_to_others() {
    let policy = compiled("identifier = 'ops'\npeers = ['group:dev']\npermissions = ['core:operate']");
    assert_eq!(granted(&policy, &bob()), OPERATE);
    assert!(policy.snapshot.peer(&bob()).is_operator());
    // Every command of the set is not the set: its holder alone learns which commands exist.
    let policy = compiled(
        "identifier = 'ops'\npeers = ['group:dev']\npermissions = ['core:default', 'core:allow-reload', 'core:allow-shutdown']",
    );
    assert_eq!(granted(&policy, &bob()), OPERATE);
    assert!(!policy.snapshot.peer(&bob()).is_operator());
}

#[test]
fn provide_names_plugins() {
    let policy = compiled("identifier = 'c'\npeers = ['user:ana']\nprovide = ['thumbs', 'org.acme.x']");
    let grants = policy.snapshot.peer(&ana());
    assert!(grants.may_provide("thumbs") && grants.may_provide("org.acme.x"));
    assert!(!grants.may_provide("org.acme") && !grants.may_provide("*") && !grants.may_provide("fs"));
    assert!(!policy.snapshot.peer(&bob()).may_provide("thumbs"));
}

#[test]
fn a_permission_of_a_plugin_to_come_is_pending_and_grants_nothing() {
    let text = "[[capabilities]]\nidentifier = 'p'\npeers = ['user:bob']\nprovide = ['thumbs']\n\
                [[capabilities]]\nidentifier = 'c'\npeers = ['user:ana']\npermissions = ['thumbs:allow-resize']";
    let policy = compiled(text);
    assert!(granted(&policy, &ana()).is_empty());
    assert_eq!(
        lines(&policy.warnings),
        "t.toml:8:16: \"thumbs:allow-resize\" is pending: it grants nothing until a peer provides \"thumbs\"\n"
    );
    // `*` is no promise of a certain plugin: a slip of the hand must stay an error.
    let text = text.replace("['thumbs']", "['*']");
    assert_eq!(
        lines(&compile(&text).unwrap_err()),
        "t.toml:8:16: unknown permission \"thumbs:allow-resize\"; no plugin \"thumbs\" is here\n"
    );
}

#[test]
fn a_capability_for_another_platform_is_checked_and_grants_nothing() {
    let text = "identifier = 'c'\npeers = ['user:ana']\npermissions = ['allow-greet']\nplatforms = ['windows', 'macOS']";
    let source = || Source::new("t.toml", None, text);
    let here = |platform| policy().platform(platform).document(source(), Format::Toml).compile().unwrap();
    assert!(!may(&here(Platform::Linux), &ana(), "greet"));
    assert!(may(&here(Platform::MacOs), &ana(), "greet"));
    assert!(compile(&text.replace("allow-greet", "allow-nothing")).is_err());
}

#[test]
fn grant_ids_are_not_used_again_after_a_reload() {
    let id = |revision| {
        let policy = policy().revision(revision).compile().unwrap();
        let grants = policy.snapshot.peer(&PeerFacts::new(0, 0, []));
        let ids: Vec<_> = grants.grants().map(|grant| grant.id()).collect();
        ids
    };
    let mut ids = [id(1), id(2)].concat();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2 * OPERATE.len());
}

#[test]
fn dev_gives_the_own_uid_what_it_prints() {
    let dev = || DevOptions { directory: "/srv/a b/[x]/.hidden".into() };
    let policy = policy().dev(dev()).compile().unwrap();
    let own = PeerFacts::new(OWN, 5, []);
    let mut expected: Vec<&str> = OPERATE.to_vec();
    expected.extend(["bench.echo", "bench.sink", "fetch", "fs.flush", "fs.read_file", "greet"]);
    // It may provide plugins, and says so by this.
    expected.push("core.provide");
    expected.sort_unstable();
    assert_eq!(granted(&policy, &own), expected);
    assert!(policy.snapshot.peer(&own).may_provide("anything"));
    assert_eq!(granted(&policy, &PeerFacts::new(0, 0, [])), OPERATE);
    assert!(granted(&policy, &ana()).is_empty());

    // What is printed is a file that gives the same without --dev, and does not stand in the way of --dev.
    let printed = policy.snapshot.embedded_policy();
    assert!(printed.ends_with(policy.snapshot.dev_policy().unwrap()));
    let file = || Source::new("dev.toml", None, printed.clone());
    let saved = super::policy().document(file(), Format::Toml).compile().unwrap();
    let both = super::policy().dev(dev()).document(file(), Format::Toml).compile().unwrap();
    for policy in [&saved, &both] {
        assert_eq!(granted(policy, &own), expected);
        assert!(policy.snapshot.peer(&own).may_provide("anything"));
    }
    let read = |policy: &crate::authority::CompiledPolicy, path: &str| {
        let grants = policy.snapshot.peer(&own);
        let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("not granted") };
        grant.check::<crate::authority::PathScope>(std::path::Path::new(path)).is_allowed()
    };
    for (path, allowed) in [
        ("/srv/a b/[x]/.hidden", true),
        ("/srv/a b/[x]/.hidden/f", true),
        ("/srv/a b/[x]/.hidden/.f", false),
        ("/srv/a b/x/.hidden/f", false),
        ("/srv/a b/[x]", false),
    ] {
        for policy in [&policy, &saved, &both] {
            assert_eq!(read(policy, path), allowed, "{path}");
        }
    }
}

#[test]
fn circumstances_that_make_no_sense_are_errors() {
    let errors = policy()
        .dev(DevOptions { directory: "/".into() })
        .variable(ScopeVariable::Temp, "tmp")
        .compile()
        .unwrap_err();
    assert_eq!(
        lines(&errors),
        "$TEMP: \"tmp\" is not an absolute path below the root with its links resolved\n\
         --dev: /: --dev would share every file of the machine; start it in the directory that you want to share\n"
    );
    let twice =
        crate::authority::Policy::new(OWN, &Users).manifest(super::plugin("a")).manifest(super::plugin("a"));
    assert_eq!(lines(&twice.compile().unwrap_err()), "plugin a: registered twice\n");
}

#[test]
fn peers_share_what_the_same_capabilities_give_them_unless_a_scope_may_ask_whose_home_it_is() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'all'\npeers = ['everyone']\npermissions = ['allow-greet', 'core:default']\n\
         [[capabilities]]\nidentifier = 'dev'\npeers = ['group:dev']\npermissions = ['fs:allow-read-file']\n",
    );
    let peer = |facts: &PeerFacts| policy.snapshot.peer(facts);
    let stranger = PeerFacts::new(4242, 4242, []);
    assert!(Arc::ptr_eq(&peer(&ana()), &peer(&stranger)));
    assert!(Arc::ptr_eq(&peer(&ana()), &peer(&ana())));
    let in_groups =
        |groups: &[u32]| peer(&PeerFacts::new(1001, 7, groups).with_names(&Users).with_pid(groups[0]));
    assert!(Arc::ptr_eq(&in_groups(&[100, 1]), &in_groups(&[1, 100, 1])), "groups are a set");
    // Of the group: equal facts, and homes that differ.
    let in_dev = PeerFacts::new(4242, 100, []);
    assert!(!Arc::ptr_eq(&peer(&bob()), &peer(&ana())));
    assert!(!Arc::ptr_eq(&peer(&bob()), &peer(&in_dev)));
    assert!(Arc::ptr_eq(&peer(&in_dev), &peer(&PeerFacts::new(4243, 100, []))), "neither has a home");
    // Narrowed alike, they share, and not with those that are not.
    let narrowed = |facts: &PeerFacts| policy.snapshot.peer_narrowed(facts, &["all"]).grants;
    assert!(Arc::ptr_eq(&narrowed(&ana()), &narrowed(&stranger)));
    assert!(!Arc::ptr_eq(&narrowed(&ana()), &peer(&ana())));
    assert!(!Arc::ptr_eq(&narrowed(&bob()), &narrowed(&ana())), "what it gave up still denies");
}

#[test]
fn a_peer_is_prepared_for_while_the_grants_of_one_like_it_are_there() {
    let policy = compiled("identifier = 'c'\npeers = ['everyone']\npermissions = ['allow-greet']").snapshot;
    assert!(!policy.is_prepared_for(&ana()));
    let held = policy.peer(&ana());
    assert!(policy.is_prepared_for(&ana()) && !policy.is_prepared_for(&bob()));
    // Whom no rule may match there is nothing to compile for.
    assert!(policy.is_prepared_for(&bob().reaped()));
    drop(held);
}

#[test]
fn what_nobody_holds_is_dropped_and_what_somebody_holds_stays_shared() {
    let policy = compiled(
        "identifier = 'c'\npeers = ['everyone']\npermissions = [{ identifier = 'fs:allow-read-file', allow = ['$PEER_HOME/**'] }]",
    );
    let at_home = |uid: u32| {
        let mut facts = PeerFacts::new(uid, uid, []);
        facts.home = Some(format!("/home/{uid}").into());
        policy.snapshot.peer(&facts)
    };
    let held = at_home(7);
    let weak = Arc::downgrade(&at_home(8));
    assert!(weak.upgrade().is_some(), "kept for the next connection");
    for uid in 10_000..14_000 {
        drop(at_home(uid));
    }
    assert!(weak.upgrade().is_none(), "thousands of others came and went");
    assert!(Arc::ptr_eq(&held, &at_home(7)));
}
