//! Which package may depend on which, and what deny.toml says of bans, licences and advisories.
//!
//! deny.toml is cargo-deny's, and cargo-deny can be run on it. Its bans and licences are checked here too, over
//! `cargo metadata`, so that the gate needs nothing but cargo.

use std::process::Command;

use serde_json::Value;

use crate::licence::is_allowed;
use crate::{none_of, root};

/// A package of the workspace, and the packages of the workspace that it may use.
struct Layer {
    package: &'static str,
    /// In shipped code.
    normal: &'static [&'static str],
    /// Behind a feature only.
    optional: &'static [&'static str],
    /// In tests, benches and examples, above `normal` and `optional`.
    dev: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { package: "invoked-proto", normal: &[], optional: &[], dev: &[] },
    Layer { package: "invoked-transport", normal: &[], optional: &[], dev: &[] },
    Layer { package: "invoked-macros", normal: &[], optional: &[], dev: &["invoked"] },
    Layer { package: "invoked-codegen", normal: &[], optional: &[], dev: &[] },
    Layer {
        package: "invoked-client",
        normal: &["invoked-proto", "invoked-transport"],
        optional: &[],
        dev: &["invoked"],
    },
    Layer {
        package: "invoked",
        normal: &["invoked-proto", "invoked-transport", "invoked-macros"],
        optional: &["invoked-client"],
        dev: &["invoked-client"],
    },
    // A program of somebody's: it uses what programs use.
    Layer { package: "gallery", normal: &["invoked"], optional: &[], dev: &["invoked-client"] },
    // A provider and its caller.
    Layer { package: "thumbnails", normal: &["invoked", "invoked-client"], optional: &[], dev: &[] },
    Layer {
        package: "invoked-benches",
        normal: &["invoked", "invoked-proto", "invoked-transport", "invoked-client", "invoked-macros"],
        optional: &[],
        dev: &[],
    },
];

/// Packages that shipped code of one package must not use.
const FOREIGN: &[(&str, &[&str], &str)] = &[(
    "invoked-proto",
    &["tokio", "libc", "rustix", "interprocess", "memmap2", "crossbeam-channel"],
    "the protocol does no I/O and has no threads",
)];

/// Packages that stay out until a measurement asks for one, and those that don't work.
const OUT: &[&str] =
    &["bincode", "openssl", "openssl-sys", "simd-json", "sonic-rs", "io-uring", "dashmap", "figment"];

#[test]
fn packages_depend_only_downwards() {
    none_of("dependencies between packages", &check_layers(&metadata()));
}

/// Packages that a program takes in by embedding a daemon, those of the workspace included. Raise it with the reason in
/// the commit.
const EMBEDDED_PACKAGES: usize = 56;

#[test]
fn embedding_a_daemon_takes_in_few_packages() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--package", "invoked", "--no-default-features", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).expect("names are text");
    let packages: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.split(" (").next()).filter(|line| !line.is_empty()).collect();
    assert!(packages.iter().any(|package| package.starts_with("tokio v")), "{packages:?}");
    assert!(packages.len() <= EMBEDDED_PACKAGES, "{} packages: {packages:?}", packages.len());
}

#[test]
fn the_check_of_layers_fails_on_a_bad_sample() {
    let dependency = |name: &str, kind: Value, optional: bool| serde_json::json!({ "name": name, "kind": kind, "optional": optional, "path": "somewhere" });
    for (package, dependency) in [
        ("invoked-proto", dependency("invoked-transport", Value::Null, false)),
        ("invoked-proto", dependency("invoked-transport", "dev".into(), false)),
        ("invoked-transport", dependency("invoked-proto", "build".into(), false)),
        ("invoked", dependency("invoked-client", Value::Null, false)),
        ("invoked-proto", serde_json::json!({ "name": "tokio", "kind": null, "optional": true })),
        ("invoked-new", dependency("invoked-proto", Value::Null, false)),
    ] {
        let package = serde_json::json!({ "name": package, "id": "it", "dependencies": [dependency] });
        let metadata = serde_json::json!({ "workspace_members": ["it"], "packages": [package] });
        assert_eq!(check_layers(&metadata).len(), 1, "{metadata}");
    }
}

#[test]
fn every_package_has_an_allowed_licence() {
    none_of("licences", &check_licences(&metadata(), &deny()));
}

#[test]
fn the_check_of_licences_fails_on_a_bad_sample() {
    for licence in [Value::Null, "GPL-3.0-only".into(), "MIT AND LicenseRef-Own".into(), "MIT OR".into()] {
        let package = serde_json::json!({ "name": "a", "version": "1.0.0", "license": licence });
        assert_eq!(
            check_licences(&serde_json::json!({ "packages": [package] }), &deny()).len(),
            1,
            "{licence}"
        );
    }
}

#[test]
fn banned_packages_are_absent() {
    none_of("bans", &check_bans(&metadata(), &deny()));
}

#[test]
fn the_check_of_bans_fails_on_a_bad_sample() {
    for (name, version, violations) in
        [("bincode", "3.0.0", 1), ("bincode", "2.0.1", 0), ("openssl", "0.10.0", 1)]
    {
        let package = serde_json::json!({ "name": name, "version": version });
        let found = check_bans(&serde_json::json!({ "packages": [package] }), &deny());
        assert_eq!(found.len(), violations, "{found:?}");
    }
}

#[test]
fn deny_toml_bans_what_the_design_keeps_out_and_says_why() {
    let bans = bans(&deny());
    for name in OUT {
        assert!(bans.iter().any(|ban| ban.name == *name), "deny.toml does not ban {name}");
    }
    for ban in &bans {
        assert!(!ban.reason.is_empty(), "the ban of {} has no reason", ban.name);
    }
}

#[test]
fn each_ignored_advisory_has_its_reason() {
    let deny = deny();
    let ignored = deny["advisories"]["ignore"].as_array().expect("deny.toml has advisories.ignore");
    for entry in ignored {
        let reason = entry.get("reason").and_then(toml::Value::as_str).unwrap_or_default();
        assert!(reason.len() > 20, "no reason is given for ignoring {entry}");
    }
    let ids: Vec<_> =
        ignored.iter().filter_map(|entry| entry.get("id").and_then(toml::Value::as_str)).collect();
    assert_eq!(ids, ["RUSTSEC-2025-0141"], "an advisory more is a decision: say it here too");
}

/// What cargo knows of the workspace and all it depends on, on every platform.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

fn deny() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("the repository holds deny.toml");
    text.parse().expect("deny.toml is TOML")
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn check_layers(metadata: &Value) -> Vec<String> {
    let members = array(metadata, "workspace_members");
    let mut violations = Vec::new();
    for package in array(metadata, "packages").iter().filter(|package| members.contains(&package["id"])) {
        let name = text(package, "name");
        let Some(layer) = LAYERS.iter().find(|layer| layer.package == name) else {
            violations.push(format!("{name} has no row in the table of layers"));
            continue;
        };
        for dependency in array(package, "dependencies") {
            let to = text(dependency, "name");
            let is_dev = text(dependency, "kind") == "dev";
            if dependency["path"].is_string() {
                let is_optional = dependency["optional"] == true;
                let allowed = layer.normal.contains(&to)
                    || (is_optional && layer.optional.contains(&to))
                    || (is_dev && (layer.dev.contains(&to) || to == name));
                if !allowed {
                    violations.push(format!("{name} depends on {to}, which is not below it"));
                }
            } else if let Some((_, _, why)) =
                FOREIGN.iter().find(|(from, banned, _)| *from == name && !is_dev && banned.contains(&to))
            {
                violations.push(format!("{name} depends on {to}: {why}"));
            }
        }
    }
    violations
}

fn check_licences(metadata: &Value, deny: &toml::Table) -> Vec<String> {
    let allowed: Vec<String> = deny["licenses"]["allow"]
        .as_array()
        .expect("deny.toml has licenses.allow")
        .iter()
        .filter_map(|entry| entry.as_str().map(str::to_owned))
        .collect();
    let mut violations = Vec::new();
    for package in array(metadata, "packages") {
        let licence = text(package, "license");
        let what = format!("{} {}: `{licence}`", text(package, "name"), text(package, "version"));
        match is_allowed(licence, &allowed) {
            Ok(true) => {}
            Ok(false) => violations.push(format!("{what} is not allowed by deny.toml")),
            Err(error) => violations.push(format!("{what}: {error}")),
        }
    }
    violations
}

/// A row of `bans.deny`.
struct Ban {
    name: String,
    /// The first major version that is banned; all are without it.
    from_major: Option<u64>,
    reason: String,
}

/// The bans of deny.toml, written as `name` or `name:>=MAJOR`.
fn bans(deny: &toml::Table) -> Vec<Ban> {
    let rows = deny["bans"]["deny"].as_array().expect("deny.toml has bans.deny");
    rows.iter()
        .map(|row| {
            let spec = row.get("crate").and_then(toml::Value::as_str).expect("a ban has `crate`");
            let reason = row.get("reason").and_then(toml::Value::as_str).unwrap_or_default();
            let (name, from) = spec.split_once(":>=").map_or((spec, None), |(name, from)| (name, Some(from)));
            let from_major = from.map(|from| from.parse().expect("a ban's version is a major version"));
            assert!(!name.contains([':', '@']), "this test reads `name` and `name:>=MAJOR`, not `{spec}`");
            Ban { name: name.to_owned(), from_major, reason: reason.to_owned() }
        })
        .collect()
}

fn check_bans(metadata: &Value, deny: &toml::Table) -> Vec<String> {
    let bans = bans(deny);
    let mut violations = Vec::new();
    for package in array(metadata, "packages") {
        let (name, version) = (text(package, "name"), text(package, "version"));
        let major = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(u64::MAX);
        for ban in bans.iter().filter(|ban| ban.name == name) {
            if ban.from_major.is_none_or(|from| major >= from) {
                violations.push(format!("{name} {version}: {}", ban.reason));
            }
        }
    }
    violations
}
