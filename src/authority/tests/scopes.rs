//! Which arguments a grant allows.

use std::path::Path;

use serde_json::Value;

use super::{ana, bob, compiled, lines, plugin};
use crate::authority::{
    CompiledPolicy, Format, Grant, InputError, Instance, PathScope, PeerFacts, Policy, ScopeContext,
    ScopeDefault, ScopeDenial, ScopeError, ScopeKind, ScopeObject, ScopeObjectMatch, ScopeRole,
    ScopeVariable, ScopeVerdict, Source, Verdict,
};

/// Whether the peer may call fs.read_file with `path`.
fn reads(policy: &CompiledPolicy, facts: &PeerFacts, path: &str) -> bool {
    let grants = policy.snapshot.peer(facts);
    match grants.authorize("fs.read_file") {
        Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(path)).is_allowed(),
        Verdict::Deny(_) => false,
    }
}

fn reading(entries: &str) -> CompiledPolicy {
    compiled(&format!("identifier = 'c'\npeers = ['everyone']\npermissions = [{entries}]"))
}

#[test]
fn a_scope_has_three_states() {
    // Absent: the plugin's default, which for fs is nothing.
    assert!(!reads(&reading("'fs:allow-read-file'"), &ana(), "/a"));
    assert!(!reads(&reading("{ identifier = 'fs:allow-read-file', allow = [] }"), &ana(), "/a"));
    let list = reading("{ identifier = 'fs:allow-read-file', allow = ['/a', '/b'] }");
    assert!(reads(&list, &ana(), "/a") && reads(&list, &ana(), "/b") && !reads(&list, &ana(), "/c"));
    // The default where it is everything: absent allows, empty does not.
    for (entry, allowed) in [
        ("'allow-fetch'", true),
        ("{ identifier = 'allow-fetch', allow = [] }", false),
        ("{ identifier = 'allow-fetch', allow = ['x'] }", false),
    ] {
        let policy = reading(entry);
        let grants = policy.snapshot.peer(&ana());
        let Verdict::Allow(grant) = grants.authorize("fetch") else { panic!("fetch is granted") };
        assert_eq!(grant.check::<Exactly>("y").is_allowed(), allowed, "{entry}");
    }
}

#[test]
fn the_declared_default_may_be_a_list() {
    let manifest = plugin("p")
        .scoped_command("x")
        .scope(ScopeKind::Path, ScopeDefault::Items(vec!["$PEER_HOME/**".into()]));
    let text = "identifier = 'c'\npeers = ['everyone']\npermissions = ['p:allow-x']";
    let policy = Policy::new(5, &super::Users)
        .manifest(manifest)
        .document(Source::new("t.toml", None, text), Format::Toml)
        .compile()
        .unwrap();
    let grants = policy.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("p.x") else { panic!("p.x is granted") };
    assert!(grant.check::<PathScope>(Path::new("/home/ana/a")).is_allowed());
    assert!(!grant.check::<PathScope>(Path::new("/home/bob/a")).is_allowed());
}

#[test]
fn grants_do_not_narrow_one_another() {
    let policy = reading(
        "{ identifier = 'fs:allow-read-file', allow = ['/a/**'] }, { identifier = 'fs:default', allow = ['/b/**'] }, \
         { identifier = 'fs:read', allow = [] }, 'fs:allow-read-file'",
    );
    assert!(
        reads(&policy, &ana(), "/a/x") && reads(&policy, &ana(), "/b/x") && !reads(&policy, &ana(), "/c/x")
    );
}

#[test]
fn a_deny_value_holds_against_every_grant_of_its_peers_and_no_other() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'all'\npeers = ['everyone']\n\
         permissions = [{ identifier = 'fs:allow-read-file', allow = [{ path = '/a/**', dotfiles = true }] }]\n\
         [[capabilities]]\nidentifier = 'bob'\npeers = ['user:bob']\n\
         permissions = [{ identifier = 'fs:allow-read-file', allow = ['/b/**'], deny = ['/a/private/**'] }]\n",
    );
    assert!(reads(&policy, &ana(), "/a/private/x"));
    assert!(reads(&policy, &bob(), "/a/x") && reads(&policy, &bob(), "/b/x"));
    assert!(!reads(&policy, &bob(), "/a/private/x"));
    // Denied below a denied folder is denied, hidden or not.
    assert!(reads(&policy, &bob(), "/a/.x") && !reads(&policy, &bob(), "/a/private/.x"));
}

#[test]
fn a_permission_ships_scopes_that_an_entry_extends_but_never_reopens() {
    let shipped = reading("'fs:read-public'");
    assert!(reads(&shipped, &ana(), "/srv/public/x") && !reads(&shipped, &ana(), "/srv/public/draft"));
    let more = reading("{ identifier = 'fs:read-public', allow = ['/more/*'], deny = ['/srv/public/y'] }");
    for (path, allowed) in
        [("/srv/public/x", true), ("/more/x", true), ("/srv/public/draft", false), ("/srv/public/y", false)]
    {
        assert_eq!(reads(&more, &ana(), path), allowed, "{path}");
    }
    let nothing = reading("{ identifier = 'fs:read-public', allow = [] }");
    assert!(!reads(&nothing, &ana(), "/srv/public/x"));
}

#[test]
fn a_scope_without_commands_adds_to_its_plugin_for_its_peers() {
    let alone = reading("{ identifier = 'fs:scope', allow = ['/a/**'] }");
    assert!(!reads(&alone, &ana(), "/a/x"), "a scope alone grants no command");
    let both =
        reading("{ identifier = 'fs:scope', allow = ['/a/**'] }, 'fs:allow-read-file', 'fs:hide-keys'");
    assert!(reads(&both, &ana(), "/a/x") && !reads(&both, &ana(), "/b"));
    assert!(!reads(&both, &ana(), "/a/x.key") && !reads(&both, &ana(), "/a/.ssh/id.key"));
    let per_peer = compiled(
        "[[capabilities]]\nidentifier = 'all'\npeers = ['everyone']\npermissions = ['fs:allow-read-file']\n\
         [[capabilities]]\nidentifier = 'bob'\npeers = ['user:bob']\n\
         permissions = [{ identifier = 'fs:scope', allow = ['/a/**'] }]\n",
    );
    assert!(reads(&per_peer, &bob(), "/a/x") && !reads(&per_peer, &ana(), "/a/x"));
    assert_eq!(per_peer.snapshot.peer(&bob()).global_scopes("fs").len(), 1);
}

#[test]
fn a_scope_in_a_set_beside_commands_is_the_scope_of_these() {
    let docs = crate::authority::Permission {
        identifier: "docs".to_owned(),
        scope_allow: Some(vec!["/docs/**".into()]),
        scope_deny: vec!["/docs/draft".into()],
        ..Default::default()
    };
    let manifest = |default| {
        plugin("p")
            .scoped_command("x")
            .scoped_command("y")
            .permission(docs.clone())
            .set("read-docs", "", ["allow-x", "docs"])
            .scope(ScopeKind::Path, default)
    };
    for default in [ScopeDefault::Everything, ScopeDefault::Nothing] {
        let text = "identifier = 'c'\npeers = ['everyone']\npermissions = [\n\
                    { identifier = 'p:read-docs', allow = ['/more'] }, { identifier = 'p:allow-y', allow = ['/y'] }]";
        let policy = Policy::new(5, &super::Users)
            .manifest(manifest(default))
            .document(Source::new("t.toml", None, text), Format::Toml)
            .compile()
            .unwrap();
        let grants = policy.snapshot.peer(&ana());
        let may = |command: &str, path: &str| match grants.authorize(command) {
            Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(path)).is_allowed(),
            Verdict::Deny(_) => false,
        };
        assert!(
            may("p.x", "/docs/a") && may("p.x", "/more") && !may("p.x", "/docs/draft") && !may("p.x", "/b")
        );
        // Of the other command, granted elsewhere, it is not.
        assert!(may("p.y", "/y") && !may("p.y", "/docs/a"));
        assert!(grants.global_scopes("p").is_empty());
    }
}

#[test]
fn in_a_set_of_several_plugins_a_scope_is_that_of_its_own() {
    let scope = |allow: &str, deny: &str| crate::authority::Permission {
        identifier: "files".to_owned(),
        scope_allow: Some(vec![allow.into()]),
        scope_deny: vec![deny.into()],
        ..Default::default()
    };
    let manifest = |name: &str, scope| {
        plugin(name).scoped_command("x").permission(scope).scope(ScopeKind::Path, ScopeDefault::Nothing)
    };
    let all = ["allow-x", "files", "q:allow-x", "q:files"];
    let policy = Policy::new(5, &super::Users)
        .manifest(manifest("p", scope("/p/**", "/**/p-keys")).set("all", "", all))
        .manifest(manifest("q", scope("/q/**", "/**/q-keys")))
        .document(
            Source::new(
                "t.toml",
                None,
                "identifier = 'c'\npeers = ['everyone']\npermissions = [{ identifier = 'p:all', allow = ['/both/**'] }]",
            ),
            Format::Toml,
        )
        .compile()
        .unwrap();
    let grants = policy.snapshot.peer(&ana());
    let may = |command: &str, path: &str| match grants.authorize(command) {
        Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(path)).is_allowed(),
        Verdict::Deny(_) => panic!("{command} is granted"),
    };
    for (command, own, others) in [("p.x", "p", "q"), ("q.x", "q", "p")] {
        assert!(may(command, &format!("/{own}/a")) && !may(command, &format!("/{others}/a")), "{command}");
        assert!(may(command, "/both/a") && may(command, &format!("/both/{others}-keys")), "{command}");
        assert!(!may(command, &format!("/both/{own}-keys")), "{command}");
    }
}

#[test]
fn a_scope_where_nothing_looks_at_one_is_refused_with_the_reason() {
    let manifest = plugin("p").command("x").command("y").set("mixed", "", ["allow-x", "deny-y"]).set(
        "denials",
        "",
        ["deny-x", "deny-y"],
    );
    let refused = |permission: &str| {
        let text = format!(
            "identifier = 'c'\npeers = ['everyone']\npermissions = [{{ identifier = '{permission}', allow = ['/a'] }}]"
        );
        let policy = Policy::new(5, &super::Users).manifest(manifest.clone());
        let policy = policy.document(Source::new("t.toml", None, text), Format::Toml);
        lines(&policy.compile().expect_err("nothing looks at it"))
    };
    let unseen = |permission: &str| format!("no command of \"{permission}\" looks at a scope\n");
    for permission in ["p:mixed", "p:allow-x"] {
        assert!(refused(permission).ends_with(&unseen(permission)), "{}", refused(permission));
    }
    let denials = "\"p:denials\" denies whole commands; a scope would change nothing\n";
    assert!(refused("p:denials").ends_with(denials), "{}", refused("p:denials"));
}

#[test]
fn the_peers_home_is_the_peers() {
    let policy = reading(
        "{ identifier = 'fs:allow-read-file', allow = ['$PEER_HOME/**', '/srv/**'], deny = ['$PEER_HOME/private/**'] }",
    );
    assert!(reads(&policy, &ana(), "/home/ana/x") && !reads(&policy, &ana(), "/home/bob/x"));
    assert!(reads(&policy, &bob(), "/home/bob/x") && !reads(&policy, &bob(), "/home/bob/private/x"));
    // Of a peer whose home is not known, nobody can say what the deny value means: it denies.
    let homeless = PeerFacts::new(1000, 1000, []);
    assert!(!reads(&policy, &homeless, "/home/ana/x") && !reads(&policy, &homeless, "/srv/x"));
    let grants = policy.snapshot.peer(&homeless);
    let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("granted") };
    let ScopeVerdict::Denied(ScopeDenial::DeniedBy { invalid: Some(error), .. }) =
        grant.check::<PathScope>(Path::new("/srv/x"))
    else {
        panic!("denied by a value that has no meaning")
    };
    assert_eq!(error.message(), "$PEER_HOME is not known for this peer");
    let mut rooted = ana();
    rooted.home = Some("/".into());
    assert!(!reads(&policy, &rooted, "/etc/shadow"), "a home of `/` is no home");
}

#[test]
fn an_input_that_is_not_resolved_is_denied_under_every_scope() {
    let policy =
        reading("{ identifier = 'fs:allow-read-file', allow = [{ path = '/**', dotfiles = true }] }");
    assert!(reads(&policy, &ana(), "/a/b"));
    for path in ["/a/../b", "a", "/a/./b", "/a\0", ""] {
        assert!(!reads(&policy, &ana(), path), "{path:?}");
    }
}

#[test]
fn the_daemons_own_home_is_a_trap_in_the_systems_daemon() {
    let text = "identifier = 'c'\npeers = ['user:ana']\npermissions = [\n  { identifier = 'fs:allow-read-file', \
                allow = ['$HOME/x', { path = '$HOME' }, '$PEER_HOME/y'] },\n]";
    let warnings = |instance| {
        let policy = super::policy().instance(instance).variable(ScopeVariable::Home, "/var/lib/invoked");
        lines(&policy.document(Source::new("t.toml", None, text), Format::Toml).compile().unwrap().warnings)
    };
    assert_eq!(warnings(Instance::User), "");
    let message = "$HOME is the daemon's own home, and this daemon serves the whole machine; $PEER_HOME is the caller's";
    assert_eq!(warnings(Instance::System), format!("t.toml:4:49: {message}\nt.toml:4:60: {message}\n"));
}

/// A scope type of an application: matches equal text, and denies what it can't read.
#[derive(Debug)]
pub(super) struct Exactly(String);

impl ScopeObject for Exactly {
    fn parse(value: &Value, _: ScopeRole, _: &ScopeContext) -> Result<Self, ScopeError> {
        value
            .as_str()
            .map(|text| Exactly(text.to_owned()))
            .ok_or_else(|| ScopeError::new("a string is wanted"))
    }
}

impl ScopeObjectMatch for Exactly {
    type Input = str;

    fn admit(input: &str) -> Result<(), InputError> {
        if input.is_empty() { Err(InputError("is empty")) } else { Ok(()) }
    }

    fn matches(&self, input: &str) -> bool {
        self.0 == input
    }
}

fn check_exactly(grant: &Grant, input: &str) -> bool {
    grant.check::<Exactly>(input).is_allowed()
}

#[test]
fn an_application_brings_its_own_scope_type() {
    let policy = reading("{ identifier = 'allow-fetch', allow = ['a', 'b', 7], deny = ['b'] }");
    let grants = policy.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("fetch") else { panic!("granted") };
    for (input, allowed) in [("a", true), ("b", false), ("7", false), ("", false)] {
        assert_eq!(check_exactly(grant, input), allowed, "{input:?}");
        // Of another type, the values are read again, by the same rules.
        assert!(!grant.check::<PathScope>(Path::new("/a")).is_allowed());
    }
    let policy = reading("'allow-fetch', { identifier = 'allow-fetch', deny = [7] }");
    let grants = policy.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("fetch") else { panic!("granted") };
    assert!(!check_exactly(grant, "a"), "a deny value that can't be read denies everything");
}

#[test]
fn a_command_that_looks_at_no_scope_has_none() {
    let policy = reading("{ identifier = 'fs:default', allow = ['/a'] }");
    let grants = policy.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("fs.flush") else { panic!("granted") };
    assert!(grant.check::<PathScope>(Path::new("/b")).is_allowed());
    assert!(!grant.is_scoped());
    let scope = grant.command_scope::<PathScope>().unwrap();
    assert!(scope.allows_everything() && scope.allows().is_empty() && scope.denies().is_empty());
}

/// A scope type as it is written for Tauri: something that serde reads, looked through by hand.
#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    #[serde(default)]
    port: u16,
}

fn fetch(policy: &CompiledPolicy, facts: &PeerFacts) -> std::sync::Arc<Grant> {
    let grants = policy.snapshot.peer(facts);
    let Verdict::Allow(grant) = grants.authorize("fetch") else { panic!("fetch is granted") };
    std::sync::Arc::clone(grant)
}

#[test]
fn whatever_serde_reads_is_a_scope_type_whose_lists_are_looked_through() {
    let policy = reading(
        "{ identifier = 'allow-fetch', allow = [{ url = 'a', port = 1 }, { url = 'b' }, { ulr = 'c' }], deny = [{ url = 'd' }] }",
    );
    let grant = fetch(&policy, &ana());
    let scope = grant.command_scope::<Entry>().unwrap();
    let urls = |entries: &[std::sync::Arc<Entry>]| -> Vec<String> {
        entries.iter().map(|entry| format!("{}:{}", entry.url, entry.port)).collect()
    };
    // What can't be read allows nothing.
    assert_eq!(
        (urls(scope.allows()), urls(scope.denies())),
        (vec!["a:1".to_owned(), "b:0".to_owned()], vec!["d:0".to_owned()])
    );
    assert!(!scope.allows_everything());
    assert!(std::sync::Arc::ptr_eq(scope, grant.command_scope::<Entry>().unwrap()), "read once");
    // Read as another type beside it, and neither is read again.
    assert_eq!(grant.command_scope::<Value>().unwrap().allows().len(), 3);
    assert!(std::sync::Arc::ptr_eq(scope, grant.command_scope::<Entry>().unwrap()));
    assert!(grant.global_scope::<Entry>().unwrap().allows().is_empty());

    let grant = fetch(&reading("'allow-fetch'"), &ana());
    assert!(grant.command_scope::<Entry>().unwrap().allows_everything());
    // A list without a value that denies everything would hide it.
    let grant = fetch(&reading("{ identifier = 'allow-fetch', deny = [7] }"), &ana());
    let Err(ScopeDenial::DeniedBy { item: 0, invalid: Some(error), .. }) = grant.command_scope::<Entry>()
    else {
        panic!("a deny value that can't be read")
    };
    assert_eq!(error.message(), "invalid type: integer `7`, expected struct Entry");
}

#[test]
fn a_global_scope_is_that_of_one_plugin_and_one_peer_whatever_its_type() {
    let scope = |name: &str| {
        let permission =
            crate::authority::Permission { identifier: "scope".to_owned(), ..Default::default() };
        plugin(name).scoped_command("x").permission(permission)
    };
    let text = "[[capabilities]]\nidentifier = 'all'\npeers = ['everyone']\npermissions = ['p:allow-x', 'q:allow-x']\n\
                [[capabilities]]\nidentifier = 'ana'\npeers = ['user:ana']\n\
                permissions = [{ identifier = 'p:scope', allow = ['ana'] }, { identifier = 'q:scope', deny = ['no'] }]\n\
                [[capabilities]]\nidentifier = 'bob'\npeers = ['user:bob']\n\
                permissions = [{ identifier = 'p:scope', allow = ['bob'] }]\n";
    let policy = Policy::new(5, &super::Users)
        .manifest(scope("p"))
        .manifest(scope("q"))
        .document(Source::new("t.toml", None, text), Format::Toml)
        .compile()
        .unwrap();
    let lists = |facts: &PeerFacts, command: &str| {
        let grants = policy.snapshot.peer(facts);
        let Verdict::Allow(grant) = grants.authorize(command) else { panic!("{command} is granted") };
        let scope = grant.global_scope::<String>().unwrap();
        let own = grant.command_scope::<String>().unwrap();
        assert!(own.allows().is_empty() && own.denies().is_empty(), "a command's scope is its own");
        let text = |values: &[std::sync::Arc<String>]| {
            values.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(",")
        };
        (text(scope.allows()), text(scope.denies()), scope.allows_everything())
    };
    let found = |allow: &str, deny: &str| (allow.to_owned(), deny.to_owned(), false);
    assert_eq!(lists(&ana(), "p.x"), found("ana", ""));
    assert_eq!(lists(&ana(), "q.x"), found("", "no"));
    assert_eq!(lists(&bob(), "p.x"), found("bob", ""));
    assert_eq!(lists(&bob(), "q.x"), found("", ""));
}

#[test]
fn values_are_checked_at_load_by_the_type_that_reads_them() {
    for (kind, value, error) in [
        (
            ScopeKind::of::<PathScope>(),
            "'relative'",
            Some("a path pattern starts with `/` or a variable such as $PEER_HOME"),
        ),
        (
            ScopeKind::of::<crate::authority::GlobScope>(),
            "'[a'",
            Some("`[` without `]`; `[[]` is a literal `[`"),
        ),
        (ScopeKind::of::<crate::authority::PrefixScope>(), "''", Some("a prefix can't be empty")),
        (ScopeKind::of::<Entry>(), "{ ulr = 'a' }", Some("unknown field `ulr`, expected `url` or `port`")),
        (ScopeKind::of::<Entry>(), "{ url = 'a' }", None),
        (ScopeKind::Opaque, "{ ulr = 'a' }", None),
    ] {
        let text = format!(
            "identifier = 'c'\npeers = ['everyone']\npermissions = [{{ identifier = 'p:allow-x', allow = [{value}] }}]"
        );
        let result = Policy::new(5, &super::Users)
            .manifest(plugin("p").scoped_command("x").scope(kind, ScopeDefault::Nothing))
            .document(Source::new("t.toml", None, text), Format::Toml)
            .compile();
        let errors = result.map_or_else(|errors| lines(&errors), |_| String::new());
        let expected = error.map(|error| format!("t.toml:3:53: {error}\n")).unwrap_or_default();
        assert_eq!(errors, expected, "{value}");
    }
    assert!(matches!(ScopeKind::of::<PathScope>(), ScopeKind::Path));
}
