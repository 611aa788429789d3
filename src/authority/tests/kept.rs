//! What a change of the policy takes from a grant.

use proptest::prelude::{Strategy, any, prop_assert, proptest};
use proptest::test_runner::Config;

use super::scopes::Exactly;
use super::{ana, compiled};
use crate::authority::{Grant, Verdict};

/// The grant of a command whose default scope is everything, by the entries of one capability.
fn grant(entries: &str) -> std::sync::Arc<Grant> {
    let policy = compiled(&format!("identifier = 'c'\npeers = ['everyone']\npermissions = [{entries}]"));
    match policy.snapshot.peer(&ana()).authorize("fetch") {
        Verdict::Allow(grant) => std::sync::Arc::clone(grant),
        Verdict::Deny(_) => panic!("{entries} grants nothing"),
    }
}

fn scoped(lists: &str) -> String {
    format!("{{ identifier = 'allow-fetch', {lists} }}")
}

#[test]
fn a_grant_keeps_what_no_change_took_from_it() {
    let all = "'allow-fetch'".to_owned();
    let (a, ab, none) = (scoped("allow = ['a']"), scoped("allow = ['a', 'b']"), scoped("allow = []"));
    let not_a = scoped("deny = ['a']");
    for (before, now, kept) in [
        (&all, &all, true),
        (&a, &a, true),
        (&a, &ab, true),
        (&a, &all, true),
        (&none, &a, true),
        (&ab, &format!("{a}, {}", scoped("allow = ['b']")), true),
        (&not_a, &all, true),
        (&not_a, &not_a, true),
        (&ab, &a, false),
        (&all, &a, false),
        (&all, &none, false),
        (&a, &none, false),
        (&all, &not_a, false),
        (&a, &format!("{a}, {not_a}"), false),
    ] {
        assert_eq!(grant(now).keeps(&grant(before)), kept, "from {before} to {now}");
    }
}

#[test]
fn a_command_that_looks_at_no_scope_keeps_everything() {
    let policy = compiled("identifier = 'c'\npeers = ['everyone']\npermissions = ['allow-greet']");
    let grants = policy.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("greet") else { panic!("greet is granted") };
    assert!(grant.keeps(grant));
}

fn entry() -> impl Strategy<Value = String> {
    let values = || proptest::collection::vec(0..3_u8, 0..3);
    (proptest::option::of(values()), values()).prop_map(|(allow, deny)| {
        let list = |values: Vec<u8>| format!("{:?}", values.iter().map(u8::to_string).collect::<Vec<_>>());
        let allow = allow.map_or(String::new(), |values| format!("allow = {}, ", list(values)));
        scoped(&format!("{allow}deny = {}", list(deny)))
    })
}

proptest! {
    #![proptest_config(Config::with_cases(400))]

    /// What is said to be kept is allowed before and after, whatever the argument.
    #[test]
    fn what_is_kept_is_still_allowed(
        before in proptest::collection::vec(entry(), 1..4),
        now in proptest::collection::vec(entry(), 1..4),
        adds in any::<bool>(),
    ) {
        let now = if adds { [before.clone(), now].concat() } else { now };
        let (before, now) = (grant(&before.join(", ")), grant(&now.join(", ")));
        if now.keeps(&before) {
            for input in ["0", "1", "2", "other"] {
                let was_allowed = before.check::<Exactly>(input).is_allowed();
                prop_assert!(!was_allowed || now.check::<Exactly>(input).is_allowed(), "{input}");
            }
        }
    }
}
