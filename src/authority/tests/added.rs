//! Capabilities that are added at run time: read as strictly as files, with a name for a place.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::{allows, ana, bob, lines, policy};
use crate::authority::{
    CapabilityBuilder, CompiledPolicy, Format, PathScope, Platform, PolicyError, RuntimeCapability, Source,
    Verdict,
};

fn compile(capability: impl RuntimeCapability) -> Result<CompiledPolicy, Vec<PolicyError>> {
    policy().capability(capability.build()?).compile()
}

fn errors(capability: impl RuntimeCapability) -> String {
    compile(capability).map_or_else(|errors| lines(&errors), |_| "no error".to_owned())
}

fn new() -> CapabilityBuilder {
    CapabilityBuilder::new("c").peer("user:ana")
}

#[test]
fn what_is_built_grants_what_a_file_would() {
    let built = new()
        .description("For a test.")
        .peer_with([("user", "bob"), ("group", "dev")])
        .permission("allow-greet")
        .permission_scoped("fs:allow-read-file", vec!["/a/**"], vec!["/a/b/**"])
        .platform(Platform::Linux)
        .provide("thumbs")
        .limit("open_calls", 7);
    let policy = compile(built).unwrap_or_else(|errors| panic!("{}", lines(&errors)));
    let grants = policy.snapshot.peer(&ana());
    assert!(allows(&grants, "greet") && grants.may_provide("thumbs") && !allows(&grants, "fs.flush"));
    assert_eq!(grants.limits().get("open_calls"), Some(7));
    let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("granted") };
    for (path, allowed) in [("/a/x", true), ("/a/b/x", false), ("/x", false)] {
        assert_eq!(grant.check::<PathScope>(Path::new(path)).is_allowed(), allowed, "{path}");
    }
    assert!(!allows(&policy.snapshot.peer(&bob()), "greet") || bob().groups.contains(&100));
    let elsewhere = compile(new().permission("allow-greet").platform(Platform::MacOs)).unwrap();
    assert!(!allows(&elsewhere.snapshot.peer(&ana()), "greet"));
    let nothing = new().permission_scoped("fs:allow-read-file", Vec::<&str>::new(), Vec::new());
    let grants = compile(nothing).unwrap().snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("granted") };
    assert!(!grant.check::<PathScope>(Path::new("/a/x")).is_allowed(), "an empty list is nothing");
}

#[test]
fn what_is_wrong_is_told_with_its_name_in_place_of_a_line() {
    let at = "capability \"c\" (added at run time): ";
    for (built, wrong) in [
        (new(), "a capability without \"permissions\" or \"provide\" gives nothing"),
        (
            CapabilityBuilder::new("c").permission("allow-greet"),
            "a capability without \"peers\" applies to nobody",
        ),
        (
            new().permission("fs:alow-read-file"),
            "unknown permission \"fs:alow-read-file\"; did you mean \"fs:allow-read-file\"?",
        ),
        (new().permission("a b"), "permission \"a b\""),
        (new().permission("allow-greet").peer("user:eve"), "unknown user \"eve\""),
        (new().permission("allow-greet").peer("user:nobody"), "no rule may name the uid 65534"),
        (new().permission("allow-greet").peer_with([]), "an empty matcher would match every peer"),
        (
            new().permission_scoped("fs:allow-read-file", vec!["relative"], vec![]),
            "scope value \"relative\": a path pattern",
        ),
        (new().permission_scoped("fs:allow-read-file", vec![json!(7)], vec![]), "scope value 7: "),
        (
            new().permission("allow-greet").limit("open_cals", 1),
            "unknown key \"open_cals\"; did you mean \"open_calls\"?",
        ),
        (new().permission("allow-greet").limit("open_calls", 0), "\"open_calls\" is a whole number from 1"),
        (new().provide("a/b"), "plugin \"a/b\""),
    ] {
        let told = errors(built);
        assert!(told.starts_with(at) && told.contains(wrong), "{wrong:?} is not in: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert!(
        errors(CapabilityBuilder::new("").peer("self").permission("allow-greet"))
            .contains("an empty identifier")
    );
}

/// A value that has no JSON form.
struct Broken;

impl Serialize for Broken {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("broken"))
    }
}

#[test]
fn every_step_that_is_wrong_is_told_and_none_panics() {
    let built = new().permission_scoped("fs:allow-read-file", vec![Broken], vec![Broken]);
    let told = errors(built.peer_with([("uid", "1"), ("uid", "2")]));
    for wrong in
        ["a value of \"allow\" of \"fs:allow-read-file\": broken", "a value of \"deny\"", "two of \"uid\""]
    {
        assert!(told.contains(wrong), "{wrong:?} is not in: {told}");
    }
    assert_eq!(told.lines().count(), 3);
}

#[test]
fn a_text_is_one_capability_and_its_lines_are_told() {
    let toml = "identifier = 'c'\npeers = ['user:ana']\npermissions = ['allow-greet']\n";
    let json = r#"{ "identifier": "c", "peers": ["user:ana"], "permissions": ["allow-greet"] }"#;
    for text in [toml, json] {
        let policy = compile(text).unwrap_or_else(|errors| panic!("{}", lines(&errors)));
        assert!(allows(&policy.snapshot.peer(&ana()), "greet"));
    }
    for (text, wrong) in [
        (
            toml.replace("peers", "pears"),
            "capability added at run time:2:1: unknown key \"pears\"; did you mean \"peers\"?",
        ),
        (format!("[[capabilities]]\n{toml}"), "one capability is added at a time"),
        ("peers = ['self']".to_owned(), "a capability without \"identifier\""),
        ("{ \"identifier\": 1".to_owned(), "capability added at run time:1:"),
        ("identifier".to_owned(), "capability added at run time:1:"),
    ] {
        let told = errors(text.as_str());
        assert!(told.contains(wrong), "{wrong:?} is not in: {told}");
    }
}

#[test]
fn a_name_that_a_file_has_is_taken() {
    let file = "identifier = 'c'\npeers = ['user:bob']\npermissions = ['allow-greet']\n";
    let added = new().permission("allow-greet").build().unwrap();
    let both = policy().document(Source::new("c.toml", None, file), Format::Toml).capability(added);
    let told = lines(&both.compile().unwrap_err());
    assert_eq!(
        told,
        "capability \"c\" (added at run time): a second capability \"c\"; the first is at c.toml:1\n"
    );
}

#[test]
fn an_explanation_cites_it_by_its_name() {
    let policy = compile(new().permission_scoped("fs:allow-read-file", vec!["/a/**"], vec![])).unwrap();
    let told = policy.snapshot.explain(&ana(), "fs.read_file", Some(&json!("/x"))).to_string();
    assert!(told.contains("(capability \"c\" (added at run time))"), "{told}");
}
