//! Tests of the whole: files in, verdicts and messages out.

mod added;
mod documents;
mod editors;
mod explanations;
mod files;
mod fixtures;
mod interfaces;
mod kept;
mod keys;
mod narrowing;
mod permissions;
mod processes;
mod properties;
mod proposals;
mod reference;
mod routed;
mod schemas;
mod scopes;
mod tauri_acl;
mod verdicts;

use std::path::PathBuf;
use std::sync::Arc;

use invoked_proto::name::PluginName;

use super::{
    CompiledPolicy, Format, PeerFacts, PeerGrants, Permission, PluginManifest, Policy, PolicyError,
    ProcessFacts, ScopeDefault, ScopeKind, Source, UserDirectory, Verdict,
};

/// The uid that the daemon runs as in these tests.
const OWN: u32 = 990;

/// root, ana (1000), bob (1001), nobody (the overflow uid); groups dev (100) and nogroup.
struct Users;

impl UserDirectory for Users {
    fn uid_of(&self, name: &str) -> Option<u32> {
        let known = [("root", 0), ("ana", 1000), ("bob", 1001), ("nobody", 65_534)];
        known.iter().find(|(user, _)| *user == name).map(|(_, uid)| *uid)
    }

    fn gid_of(&self, name: &str) -> Option<u32> {
        let known = [("root", 0), ("dev", 100), ("nogroup", 65_534)];
        known.iter().find(|(group, _)| *group == name).map(|(_, gid)| *gid)
    }

    fn name_of(&self, uid: u32) -> Option<String> {
        ["root", "ana", "bob"]
            .iter()
            .find(|name| self.uid_of(name) == Some(uid))
            .map(|name| (*name).to_owned())
    }

    fn home_of(&self, uid: u32) -> Option<PathBuf> {
        self.name_of(uid).map(|name| PathBuf::from(format!("/home/{name}")))
    }
}

fn plugin(name: &str) -> PluginManifest {
    PluginManifest::new(PluginName::parse(name).unwrap())
}

/// The shape of the built-in plugins, with a few permissions that only tests need.
fn manifests() -> [PluginManifest; 4] {
    let core = ["ping", "echo", "whoami", "discover", "describe", "reload", "shutdown", "provide"];
    let core = core.into_iter().fold(plugin("core"), PluginManifest::command);
    let hide_keys = Permission {
        identifier: "hide-keys".to_owned(),
        scope_deny: vec!["/**/*.key".into()],
        ..Permission::default()
    };
    let public = Permission {
        identifier: "read-public".to_owned(),
        allow: vec!["read_file".to_owned()],
        scope_allow: Some(vec!["/srv/public/**".into()]),
        scope_deny: vec!["/srv/public/draft".into()],
        ..Permission::default()
    };
    let scope = Permission { identifier: "scope".to_owned(), ..Permission::default() };
    let fs = plugin("fs")
        .scoped_command("read_file")
        .scoped_command("write_file")
        .command("flush")
        .permission(hide_keys)
        .permission(public)
        .permission(scope)
        .set("read", "Reading only.", ["allow-read-file"])
        .default_set(["read", "allow-flush"])
        .scope(ScopeKind::Path, ScopeDefault::Nothing);
    [
        core.set("operate", "Operate the daemon.", ["default", "allow-reload", "allow-shutdown"])
            .default_set(["allow-ping", "allow-echo", "allow-whoami", "allow-discover", "allow-describe"]),
        fs,
        plugin("bench").command("echo").command("sink").default_set(["allow-echo", "allow-sink"]),
        PluginManifest::application().command("greet").scoped_command("fetch"),
    ]
}

fn policy() -> Policy<'static> {
    let policy = Policy::new(OWN, &Users).process_facts(ProcessFacts::Confirmed);
    manifests().into_iter().fold(policy, Policy::manifest)
}

/// A policy of one TOML file, `t.toml`.
fn compile(text: &str) -> Result<CompiledPolicy, Vec<PolicyError>> {
    policy().document(Source::new("t.toml", None, text), Format::Toml).compile()
}

fn compiled(text: &str) -> CompiledPolicy {
    compile(text).unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

fn lines(errors: &[PolicyError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

fn ana() -> PeerFacts {
    PeerFacts::new(1000, 1000, []).with_names(&Users)
}

fn bob() -> PeerFacts {
    PeerFacts::new(1001, 1001, [100]).with_names(&Users)
}

fn may(compiled: &CompiledPolicy, facts: &PeerFacts, command: &str) -> bool {
    allows(&compiled.snapshot.peer(facts), command)
}

fn allows(grants: &Arc<PeerGrants>, command: &str) -> bool {
    matches!(grants.authorize(command), Verdict::Allow(_))
}

/// The names of what a peer may call, sorted.
fn granted(compiled: &CompiledPolicy, facts: &PeerFacts) -> Vec<String> {
    let grants = compiled.snapshot.peer(facts);
    let mut names: Vec<String> = grants.grants().map(|grant| grant.command().to_string()).collect();
    names.sort();
    names
}
