//! What is left to a peer that narrows itself.

use std::path::Path;
use std::sync::Arc;

use super::{OWN, allows, ana, bob, compiled, policy};
use crate::authority::{
    CompiledPolicy, DevOptions, Narrowed, PathScope, PeerFacts, PeerGrants, ScopeDenial, ScopeVerdict,
    Verdict,
};

const FILE: &str = "
[[capabilities]]
identifier = 'read'
peers = ['everyone']
permissions = [{ identifier = 'fs:allow-read-file', allow = ['/a/**'] }, 'fs:allow-flush']
provide = ['thumbs']
[[capabilities]]
identifier = 'more'
peers = ['user:ana']
permissions = [
  { identifier = 'fs:allow-read-file', allow = ['/b/**'], deny = ['/a/private/**'] }, 'allow-greet', 'fs:deny-flush',
  { identifier = 'fs:scope', allow = ['/c/**'], deny = ['/a/secret'] },
]
";

fn narrowed(policy: &CompiledPolicy, facts: &PeerFacts, names: &[&str]) -> Narrowed {
    policy.snapshot.peer_narrowed(facts, names)
}

fn reads(grants: &Arc<PeerGrants>, path: &str) -> ScopeVerdict {
    let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("granted") };
    grant.check::<PathScope>(Path::new(path))
}

#[test]
fn grants_of_the_named_capabilities_stay_and_the_denials_of_all() {
    let policy = compiled(FILE);
    let whole = policy.snapshot.peer(&ana());
    for path in ["/a/x", "/b/x", "/c/x"] {
        assert!(reads(&whole, path).is_allowed(), "{path}");
    }
    let Narrowed { grants, unknown } = narrowed(&policy, &ana(), &["read"]);
    assert!(unknown.is_empty());
    assert!(reads(&grants, "/a/x").is_allowed());
    for path in ["/b/x", "/c/x", "/a/private/x", "/a/secret"] {
        assert!(!reads(&grants, path).is_allowed(), "{path}");
    }
    // What denies it is told as before.
    let ScopeVerdict::Denied(ScopeDenial::DeniedBy { scope, item: 0, .. }) = reads(&grants, "/a/private/x")
    else {
        panic!("denied by a value")
    };
    assert!(scope.is_given_up() && scope.capability() == "more");
    assert!(
        !allows(&grants, "greet") && !allows(&grants, "fs.flush"),
        "flush is denied by what was given up"
    );
    assert!(grants.may_provide("thumbs"));

    let Narrowed { grants, .. } = narrowed(&policy, &ana(), &["more"]);
    assert!(reads(&grants, "/b/x").is_allowed() && !reads(&grants, "/a/x").is_allowed());
    assert!(allows(&grants, "greet") && !grants.may_provide("thumbs"));
    // Keeping all of it changes nothing; bob never had the second.
    let Narrowed { grants, .. } = narrowed(&policy, &ana(), &["more", "read"]);
    assert!(reads(&grants, "/b/x").is_allowed() && reads(&grants, "/a/x").is_allowed());
    let of_bob = narrowed(&policy, &bob(), &["read", "more"]);
    assert_eq!(of_bob.unknown, ["more"]);
    assert!(reads(&of_bob.grants, "/a/private/x").is_allowed() && !allows(&of_bob.grants, "greet"));
}

#[test]
fn unknown_names_keep_nothing_and_are_told() {
    let policy = compiled(FILE);
    let Narrowed { grants, unknown } = narrowed(&policy, &ana(), &["reed", "", "operate"]);
    assert_eq!(unknown, ["reed", "", "operate"]);
    assert_eq!(grants.grants().count(), 0);
    assert_eq!(narrowed(&policy, &ana(), &[]).grants.grants().count(), 0);
    let reaped = ana().reaped();
    assert_eq!(narrowed(&policy, &reaped, &["read"]).unknown, ["read"]);
    assert_eq!(narrowed(&policy, &reaped, &["read"]).grants.grants().count(), 0);
}

#[test]
fn the_embedded_capabilities_can_be_kept_and_given_up() {
    let dev = DevOptions { directory: "/srv/x".into() };
    let policy = policy().dev(dev).compile().unwrap();
    let own = PeerFacts::new(OWN, OWN, []);
    let operate = narrowed(&policy, &own, &["operate"]).grants;
    assert!(operate.is_operator() && allows(&operate, "core.reload") && !allows(&operate, "fs.read_file"));
    let dev = narrowed(&policy, &own, &["dev"]).grants;
    assert!(!dev.is_operator() && !allows(&dev, "core.reload") && reads(&dev, "/srv/x/a").is_allowed());
    assert!(dev.may_provide("any") && !operate.may_provide("any"));
}

#[test]
fn narrowed_peers_share_with_those_narrowed_alike_only() {
    let policy = compiled(FILE);
    let same = |a: &Narrowed, b: &Narrowed| Arc::ptr_eq(&a.grants, &b.grants);
    let read = narrowed(&policy, &ana(), &["read"]);
    assert!(same(&read, &narrowed(&policy, &ana(), &["nothing", "read", "read"])));
    assert!(!same(&read, &narrowed(&policy, &ana(), &["more"])));
    assert!(!Arc::ptr_eq(&read.grants, &policy.snapshot.peer(&ana())));
}
