//! The schemas for editors: what they refuse is wrong, what is plainly wrong they refuse, and they tell what is for what.

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{Users, lines, manifests, plugin};
use crate::authority::{
    CompiledPolicy, Format, Platform, Policy, PolicyError, PolicySnapshot, ProcessFacts, Registry,
    ScopeDefault, ScopeKind, ScopeSchema, Source,
};

/// Plugins with scopes of each kind.
fn policy() -> Policy<'static> {
    let schema = json!({
        "$id": "urn:example", "$ref": "#/$defs/size",
        "$defs": { "size": { "type": "object", "properties": { "most": { "type": "integer" } }, "required": ["most"] } },
    });
    let kind = ScopeKind::Schema(ScopeSchema::new(&schema).unwrap().into());
    let thumbs = plugin("org.acme.thumbs").scoped_command("resize").scope(kind, ScopeDefault::Nothing);
    let mail = plugin("mail").scoped_command("send").scope(ScopeKind::Glob, ScopeDefault::Nothing);
    let policy = Policy::new(0, &Users).process_facts(ProcessFacts::Confirmed).platform(Platform::Linux);
    manifests().into_iter().fold(policy, Policy::manifest).manifest(thumbs).manifest(mail)
}

fn snapshot() -> PolicySnapshot {
    policy().compile().unwrap().snapshot
}

fn compile(text: &str) -> Result<CompiledPolicy, Vec<PolicyError>> {
    policy().document(Source::new("t.toml", None, text), Format::Toml).compile()
}

fn summary(name: &str) -> Option<String> {
    (name == "fs.read_file").then(|| "Answers with the bytes of a file.".to_owned())
}

pub(super) fn capabilities(registry: &Registry) -> Validator {
    validator(&registry.capability_schema(&summary))
}

pub(super) fn validator(schema: &Value) -> Validator {
    assert!(jsonschema::draft7::meta::is_valid(schema), "{schema}");
    jsonschema::draft7::new(schema).expect("a schema")
}

fn toml_value(text: &str) -> Value {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    serde_json::to_value(table).unwrap()
}

/// Everything that is wrong, for messages.
pub(super) fn complaints(validator: &Validator, value: &Value) -> String {
    validator.iter_errors(value).map(|error| format!("{}: {error}\n", error.instance_path())).collect()
}

/// A capability with this in place of what is sound.
fn capability(key: &str, value: &str) -> String {
    let mut fields =
        vec![("identifier", "'c'"), ("peers", "['everyone']"), ("permissions", "['allow-greet']")];
    fields.retain(|(known, _)| *known != key);
    let mut text: String = fields.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    if !value.is_empty() {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}

#[test]
fn sound_capabilities_validate() {
    let snapshot = snapshot();
    let validator = capabilities(snapshot.registry());
    for (key, value) in [
        ("", ""),
        ("description", "'for people'"),
        (
            "peers",
            "['self', 'user:ana', 'uid:7', 'group:dev', 'gid:100', { user = 'ana', group = 'dev' }, { uid = 7, gid = '5' }]",
        ),
        ("peers", "[{ uid = 1000, exe = '/usr/bin/*', unit = 'a*.service' }]"),
        ("permissions", "['core:default', 'fs:default', 'fs:deny-read-file', 'deny-greet']"),
        (
            "permissions",
            "[{ identifier = 'fs:allow-read-file', allow = ['/a/**', '$PEER_HOME/x'], deny = [{ path = '/b', dotfiles = true }] }]",
        ),
        ("permissions", "[{ identifier = 'fs:default', allow = [] }, { identifier = 'fs:allow-flush' }]"),
        ("permissions", "[{ identifier = 'mail:allow-send', allow = ['ana@*'] }]"),
        ("permissions", "[{ identifier = 'org.acme.thumbs:allow-resize', allow = [{ most = 5 }] }]"),
        ("permissions", "[{ identifier = 'allow-fetch', allow = [{ any = 'thing' }, 7] }]"),
        (
            "provide",
            "['*', 'later']\npermissions = ['later:allow-x', { identifier = 'later:allow-y', allow = [1] }]",
        ),
        ("platforms", "['linux', 'macOS']"),
        ("limits", "{ open_calls = 5 }"),
        ("lanes", "['sealed', 'file']"),
        ("local", "true"),
        ("remote", "{ urls = ['https://*.app.example'], accounts = ['ana'] }"),
        ("\"$schema\"", "'https://schema.example'"),
    ] {
        // `provide` brings permissions of its own.
        let text = capability(key, value);
        let text =
            if key == "provide" { text.replacen("permissions = ['allow-greet']\n", "", 1) } else { text };
        if let Err(errors) = compile(&text) {
            panic!("{text}{}", lines(&errors));
        }
        let value = toml_value(&text);
        assert!(validator.is_valid(&value), "{text}{}", complaints(&validator, &value));
    }
    let several = "[peers]\nteam = ['user:ana', { user = 'bob' }]\none = 'self'\n[[capabilities]]\nidentifier = 'a'\n\
                   peers = ['@team']\npermissions = ['allow-greet']\n[[capabilities]]\nidentifier = 'b'\n\
                   windows = ['on*']\npermissions = ['allow-greet']";
    compile(several).unwrap_or_else(|errors| panic!("{}", lines(&errors)));
    let value = toml_value(several);
    assert!(validator.is_valid(&value), "{}", complaints(&validator, &value));
    let list = Value::Array(value["capabilities"].as_array().unwrap().clone());
    assert!(validator.is_valid(&list), "a bare list, as JSON has it");
}

#[test]
fn wrong_capabilities_do_not_validate() {
    let snapshot = snapshot();
    let validator = capabilities(snapshot.registry());
    for (key, value) in [
        ("identifier", ""),
        ("identifier", "''"),
        ("identifier", "'a b'"),
        ("peers", ""),
        ("peers", "[]"),
        ("peers", "['ana']"),
        ("peers", "['usr:ana']"),
        ("peers", "['uid:ana']"),
        ("peers", "['exe:/usr/bin/x']"),
        ("peers", "[{}]"),
        ("peers", "[{ usr = 'ana' }]"),
        ("peers", "[{ uid = -1 }]"),
        ("peers", "[{ exe = '/usr/bin/x' }]"),
        ("peers", "[{ group = 'dev', unit = 'a.service' }]"),
        ("peers", "{ team = 'self' }"),
        ("permissions", ""),
        ("permissions", "'allow-greet'"),
        ("permissions", "['fs:alow-read-file']"),
        ("permissions", "['alow-greet']"),
        ("permissions", "['core:']"),
        ("permissions", "[{ allow = ['/a'] }]"),
        ("permissions", "[{ identifier = 'fs:allow-read-file', alow = ['/a'] }]"),
        ("permissions", "[{ identifier = 'fs:allow-read-file', allow = ['relative'] }]"),
        ("permissions", "[{ identifier = 'fs:allow-read-file', allow = ['$HOEM/x'] }]"),
        ("permissions", "[{ identifier = 'fs:allow-read-file', deny = [{ path = '/a', dotfile = true }] }]"),
        ("permissions", "[{ identifier = 'fs:allow-read-file', allow = '/a' }]"),
        ("permissions", "[{ identifier = 'core:allow-ping', allow = ['/a'] }]"),
        ("permissions", "[{ identifier = 'fs:deny-read-file', deny = ['/a'] }]"),
        ("permissions", "[{ identifier = 'mail:allow-send', allow = [''] }]"),
        ("permissions", "[{ identifier = 'org.acme.thumbs:allow-resize', allow = [{ most = 'x' }] }]"),
        ("permissions", "[{ identifier = 'org.acme.thumbs:allow-resize', allow = [{}] }]"),
        ("permissions", "['org.acme.thumbs:allow-rezise']"),
        ("platforms", "['linx']"),
        ("limits", "{ open_cals = 5 }"),
        ("limits", "{ open_calls = 0 }"),
        ("lanes", "['seeled']"),
        ("local", "'yes'"),
        ("remote", "{ accounts = ['ana'] }"),
        ("permission", "['allow-greet']"),
    ] {
        let text = capability(key, value);
        assert!(compile(&text).is_err(), "the loader takes it:\n{text}");
        assert!(!validator.is_valid(&toml_value(&text)), "the schema takes it:\n{text}");
    }
}

/// Files of the fixtures: those that load validate, and those that don't validate don't load.
#[test]
fn what_a_schema_refuses_the_loader_refuses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let registry = super::policy().compile().unwrap().snapshot;
    let validator = capabilities(registry.registry());
    let (mut sound, mut refused, mut seen) = (0, 0, 0);
    for folder in ["tests/fixtures/capabilities/good", "tests/fixtures/capabilities/bad"] {
        for path in files(&root.join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let (value, format) = match path.extension().and_then(|e| e.to_str()) {
                Some("json") => (serde_json::from_str(&text).ok(), Format::Json),
                Some("toml") => {
                    let table = text.parse::<toml::Table>().ok();
                    (table.map(|table| serde_json::to_value(table).unwrap()), Format::Toml)
                }
                _ => continue,
            };
            let Some(value): Option<Value> = value else { continue };
            seen += 1;
            let name = path.display().to_string();
            let loads = super::policy().document(Source::new("t", None, text), format).compile();
            let validates = validator.is_valid(&value);
            assert!(loads.is_err() || validates, "{name}: {}", complaints(&validator, &value));
            sound += u32::from(loads.is_ok());
            refused += u32::from(!validates);
        }
    }
    assert!(sound >= 5 && refused >= 20, "{seen} files: {sound} sound, {refused} refused by the schema");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn each_identifier_has_a_description() {
    let snapshot = snapshot();
    let schema = snapshot.registry().capability_schema(&summary);
    let known = schema["definitions"]["identifier"]["oneOf"].as_array().unwrap();
    let described = |identifier: &str| {
        let entry = known.iter().find(|entry| entry["const"] == identifier);
        entry.unwrap_or_else(|| panic!("{identifier}"))["description"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        described("fs:allow-read-file"),
        "Allows fs.read_file, for the arguments that its scope allows. Answers with the bytes of a file."
    );
    assert_eq!(described("deny-greet"), "Denies greet, whatever else allows it.");
    assert_eq!(described("core:operate"), "Operate the daemon.");
    assert_eq!(described("bench:default"), "Allows bench.echo, bench.sink.");
    let all = snapshot.registry().permissions().count();
    assert_eq!(known.len(), all + 1, "and those that are pending");
    assert!(known.iter().all(|entry| entry["description"].as_str().is_some_and(|text| !text.is_empty())));
}

#[test]
fn permission_files_are_judged_as_they_are_read() {
    let snapshot = snapshot();
    let validator = validator(&snapshot.registry().permission_schema(&summary));
    let load = |text: &str| {
        let source = Source::new("p.toml", None, text);
        policy().permission_file(source, Format::Toml, None).compile().map(drop)
    };
    for text in [
        "plugin = 'mail'\n[default]\npermissions = ['allow-send']",
        "plugin = 'fs'\n\"$schema\" = 'x'\n[[set]]\nidentifier = 'more'\ndescription = 'x'\npermissions = ['allow-read-file', 'core:default', 'read']",
        "plugin = 'fs'\n[[permission]]\nidentifier = 'pictures'\nversion = 1\ncommands.allow = ['read_file']\nscope.allow = ['$PEER_HOME/Pictures/**']\nplatforms = ['linux']",
    ] {
        load(text).unwrap_or_else(|errors| panic!("{text}\n{}", lines(&errors)));
        let value = toml_value(text);
        assert!(validator.is_valid(&value), "{text}\n{}", complaints(&validator, &value));
    }
    for text in [
        "plugin = 'fs'",
        "plugin = 'fs'\n[[set]]\nidentifier = 'more'",
        "plugin = 'fs'\n[[set]]\npermissions = []",
        "plugin = 'fs'\n[[set]]\nidentifier = 'more'\npermissions = ['core:alow-ping']",
        "plugin = 'fs'\n[[permission]]\ncommands.allow = ['read_file']",
        "plugin = 'fs'\n[[permission]]\nidentifier = 'p'\ncommands.alow = ['read_file']",
        "plugin = 'fs'\n[[permission]]\nidentifier = 'p'\ncommands.allow = ['raed_file']",
        "plugin = 'fs'\n[[permission]]\nidentifier = 'p'\nscope.allow = ['relative']",
        "plugin = 'fs'\n[[permission]]\nidentifier = 'p'\nscopes.allow = ['/a']",
        "plugin = 'fs'\n[permissions]\nidentifier = 'p'",
    ] {
        assert!(load(text).is_err(), "the loader takes it:\n{text}");
        assert!(!validator.is_valid(&toml_value(text)), "the schema takes it:\n{text}");
    }
}
