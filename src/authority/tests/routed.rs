//! What providers are told of grants, and what several peers may do together.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{ana, bob, compile, compiled, lines, policy};
use crate::authority::{
    CompiledPolicy, Format, Grant, PathScope, PeerFacts, ProvidedInterface, ScopeVerdict, Source, Verdict,
};

fn grant(policy: &CompiledPolicy, facts: &PeerFacts, command: &str) -> Arc<Grant> {
    match policy.snapshot.peer(facts).authorize(command) {
        Verdict::Allow(grant) => Arc::clone(grant),
        Verdict::Deny(denial) => panic!("{denial:?}"),
    }
}

fn told(policy: &CompiledPolicy, facts: &PeerFacts, command: &str) -> serde_json::Value {
    let grant = grant(policy, facts, command);
    grant.scopes_for_provider(policy.snapshot.registry().scope_kind(grant.command().plugin()))
}

#[test]
fn a_provider_is_told_scopes_without_variables() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'one'\npeers = ['everyone']\npermissions = [\
         { identifier = 'fs:allow-read-file', allow = ['$PEER_HOME/*', { path = '$PEER_HOME/.x/**', dotfiles = true }], \
         deny = ['$PEER_HOME/no'] }, { identifier = 'fs:scope', allow = ['/srv'] }]\n\
         [[capabilities]]\nidentifier = 'two'\npeers = ['everyone']\npermissions = [\
         { identifier = 'fs:allow-read-file', allow = ['/b'] }, 'allow-fetch', 'allow-greet']",
    );
    assert_eq!(
        told(&policy, &ana(), "fs.read_file"),
        json!({
            "command": "fs.read_file",
            "allow": ["/home/ana/*", { "path": "/home/ana/.x/**", "dotfiles": true }, "/b"],
            "deny": ["/home/ana/no"],
            "global": { "allow": ["/srv"], "deny": [] },
            "capabilities": ["one", "two"],
        })
    );
    // Whose home is not known: that allows nothing, and denies everything, as no provider can read it.
    let stranger = PeerFacts::new(4711, 4711, []);
    let of_stranger = told(&policy, &stranger, "fs.read_file");
    assert_eq!(of_stranger["allow"], json!(["/b"]));
    assert_eq!(of_stranger["deny"], json!(["$PEER_HOME/no"]));
    assert_eq!(told(&policy, &ana(), "fetch")["allow"], json!(null), "the default is everything");
    assert_eq!(told(&policy, &ana(), "greet")["allow"], json!(null), "it looks at none");
}

#[test]
fn what_several_may_do_together_is_what_each_may() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'a'\npeers = ['user:ana']\npermissions = [\
         { identifier = 'fs:allow-read-file', allow = ['$PEER_HOME/**', '/both'], deny = ['$PEER_HOME/no'] }]\n\
         [[capabilities]]\nidentifier = 'b'\npeers = ['user:bob']\npermissions = [\
         { identifier = 'fs:allow-read-file', allow = ['/home/ana/x', '/home/ana/no', '/both', '/only'] }]",
    );
    let (of_ana, of_bob) = (grant(&policy, &ana(), "fs.read_file"), grant(&policy, &bob(), "fs.read_file"));
    let joined = policy.snapshot.join([&of_bob, &of_ana].into_iter());
    for path in ["/home/ana/x", "/home/ana/y", "/home/ana/no", "/both", "/only", "/other"] {
        let may = |grant: &Grant| matches!(grant.check::<PathScope>(Path::new(path)), ScopeVerdict::Allowed);
        assert_eq!(may(&joined), may(&of_ana) && may(&of_bob), "{path}");
    }
    // Who looks through the lists sees what all have.
    let scope = joined.command_scope::<PathScope>().unwrap();
    let sees = |path: &str| scope.check(Path::new(path)).is_allowed();
    assert_eq!(["/both", "/home/ana/x", "/only"].map(sees), [true, false, false]);
    assert_ne!(joined.id(), of_bob.id());
    // Where one is limited by nothing, the other's limits are those of both.
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'a'\npeers = ['user:ana']\npermissions = ['allow-fetch']\n\
         [[capabilities]]\nidentifier = 'b'\npeers = ['user:bob']\npermissions = [\
         { identifier = 'allow-fetch', allow = ['x'] }]",
    );
    let (of_ana, of_bob) = (grant(&policy, &ana(), "fetch"), grant(&policy, &bob(), "fetch"));
    let joined = policy.snapshot.join([&of_ana, &of_bob].into_iter());
    let scope = joined.command_scope::<String>().unwrap();
    assert!(!scope.allows_everything());
    assert_eq!(scope.allows().iter().map(|value| value.as_str()).collect::<Vec<_>>(), ["x"]);
}

fn interface(version: &str, own: serde_json::Value, methods: &[&str]) -> Arc<ProvidedInterface> {
    let methods: Vec<_> = methods.iter().map(|name| json!({ "name": name })).collect();
    let mut own = own;
    own["plugin"] = json!("text");
    let text = json!({ "info": { "version": version }, "methods": methods, "x-invoked": own });
    Arc::new(ProvidedInterface::parse(&text.to_string()).unwrap())
}

#[test]
fn what_peers_register_adds_to_the_policy_and_does_not_break_it() {
    let capability = "[[capabilities]]\nidentifier = 'c'\npeers = ['user:ana']\nprovide = ['text']\n\
                      permissions = ['text:allow-upper', 'text:gone', { identifier = 'text:allow-scoped', allow = [7] }]";
    let file = || Source::new("t.toml", None, capability);
    assert_eq!(compile(capability).unwrap().snapshot.pending().len(), 3);
    let scoped = json!({ "plugin": "text", "scope": "path" });
    let mut registered = interface("1.0", scoped, &["text.upper"]);
    let text = registered
        .source()
        .text()
        .replace("\"methods\":[", "\"methods\":[{\"name\":\"text.scoped\",\"x-invoked\":{\"scope\":true}},");
    registered = Arc::new(ProvidedInterface::parse(&text).unwrap());
    let with = |interfaces: &[Arc<ProvidedInterface>]| {
        let policy = policy().document(file(), Format::Toml);
        let registered = interfaces.iter().map(Arc::clone);
        registered.fold(policy, |policy, interface| policy.provided(interface, 1000)).compile()
    };
    let policy = with(std::slice::from_ref(&registered)).unwrap();
    assert!(super::may(&policy, &ana(), "text.upper") && policy.snapshot.pending().is_empty());
    let warnings = lines(&policy.warnings);
    assert!(
        warnings.contains("\"text:gone\" grants nothing: who provides \"text\" has no such permission"),
        "{warnings}"
    );
    assert_eq!(policy.warnings.len(), 2);

    // Two versions: each command of either is there once.
    let second = interface("2.0", json!({}), &["text.upper", "text.lower"]);
    let both = with(&[registered, second]).unwrap();
    let has = |name: &str| both.snapshot.registry().has_command(name);
    assert!(has("text.upper") && has("text.lower") && has("text.scoped"));

    // A manifest that is not sound is an error.
    let broken = interface(
        "1.0",
        json!({ "set": [{ "identifier": "s", "description": "", "permissions": ["x"] }] }),
        &[],
    );
    assert!(with(&[broken]).is_err());
}

#[test]
fn dev_gives_what_peers_of_the_same_uid_provide() {
    let upper = interface("1.0", json!({}), &["text.upper"]);
    let dev = || crate::authority::DevOptions { directory: "/srv/x".into() };
    let own = PeerFacts::new(super::OWN, 5, []);
    for (uid, is_given) in [(super::OWN, true), (1000, false)] {
        let compiled = policy().dev(dev()).provided(Arc::clone(&upper), uid).compile().unwrap();
        assert_eq!(super::may(&compiled, &own, "text.upper"), is_given, "of {uid}");
    }
}

#[test]
fn who_may_provide_holds_the_commands_for_it() {
    let text = |more: &str| {
        format!("identifier = 'c'\npeers = ['user:ana']\nprovide = ['text']\npermissions = [{more}]")
    };
    assert!(super::may(&compiled(&text("")), &ana(), "core.provide"));
    assert!(!super::may(&compiled(&text("")), &bob(), "core.provide"));
    assert!(!super::may(&compiled(&text("'core:deny-provide'")), &ana(), "core.provide"), "a denial wins");
}
