//! Interface files, and permissions of plugins that nobody has described yet.

use std::sync::Arc;

use serde_json::json;

use super::{ana, granted, lines, plugin, policy};
use crate::authority::{
    CompiledPolicy, Format, PolicyError, ScopeDefault, ScopeKind, ScopeSchema, Source, Verdict,
};

const CAPABILITY: &str = "
[[capabilities]]
identifier  = 'serves'
peers       = ['user:bob']
provide     = ['thumbs']
[[capabilities]]
identifier  = 'calls'
peers       = ['user:ana']
permissions = ['allow-greet', { identifier = 'thumbs:allow-resize', allow = [{ width = 200 }] }, 'thumbs:deafult']
";

fn thumbs() -> serde_json::Value {
    json!({
        "openrpc": "1.3.2",
        "info": { "title": "thumbs", "version": "1.0.0" },
        "methods": [
            { "name": "thumbs.resize", "summary": "Makes it smaller.", "params": [], "x-invoked": { "scope": true } },
            { "name": "thumbs.forget", "x-invoked": { "idempotent": true } },
        ],
        "components": { "schemas": {} },
        "x-invoked": {
            "plugin": "thumbs",
            "default": { "permissions": ["allow-resize"] },
            "permission": [{ "identifier": "small", "commands": { "allow": ["resize"] }, "scope": { "allow": [{ "width": 64 }] } }],
            "scope": {
                "type": "object",
                "properties": { "width": { "type": "integer", "minimum": 1 } },
                "required": ["width"],
                "additionalProperties": false,
            },
        },
    })
}

fn compile(interface: Option<&str>, capability: &str) -> Result<CompiledPolicy, Vec<PolicyError>> {
    let policy = policy().document(Source::new("c.toml", None, capability), Format::Toml);
    match interface {
        Some(text) => policy.interface(Source::new("thumbs.json", None, text)),
        None => policy,
    }
    .compile()
}

/// What `--dev` prints is such a file.
#[test]
fn who_may_provide_any_plugin_waits_for_any_but_not_for_a_slip() {
    let file = |permission: &str| {
        format!("identifier = 'c'\npeers = ['self']\nprovide = ['*']\npermissions = ['{permission}']\n")
    };
    let compiled = super::compiled(&file("later:default"));
    assert_eq!(
        super::lines(&compiled.warnings),
        "t.toml:4:16: \"later:default\" is pending: it grants nothing until a peer provides \"later\"\n"
    );
    assert_eq!(compiled.snapshot.pending().len(), 1);
    for (slip, error) in [
        ("fss:default", "unknown permission \"fss:default\"; did you mean \"fs:default\"?"),
        ("fs:defualt", "unknown permission \"fs:defualt\"; did you mean \"fs:default\"?"),
        ("allow-gret", "unknown permission \"allow-gret\"; did you mean \"allow-greet\"?"),
    ] {
        let errors = super::compile(&file(slip)).unwrap_err();
        assert_eq!(super::lines(&errors), format!("t.toml:4:16: {error}\n"));
    }
    // It is not for the peers of others to wait.
    let other = "[[capabilities]]\nidentifier = 'd'\npeers = ['self']\npermissions = ['later:default']\n";
    let both = format!("[[capabilities]]\n{}{other}", file("core:default"));
    assert!(
        super::lines(&super::compile(&both).unwrap_err()).contains("unknown permission \"later:default\"")
    );
}

#[test]
fn a_permission_of_a_plugin_that_may_be_provided_is_pending() {
    let compiled = compile(None, CAPABILITY).unwrap();
    assert_eq!(granted(&compiled, &ana()), ["greet"]);
    assert_eq!(
        lines(&compiled.warnings),
        "c.toml:9:46: \"thumbs:allow-resize\" is pending: it grants nothing until a peer provides \"thumbs\"\n\
         c.toml:9:98: \"thumbs:deafult\" is pending: it grants nothing until a peer provides \"thumbs\"\n"
    );
    let pending: Vec<_> =
        compiled.snapshot.pending().iter().map(|p| format!("{} {}", p.identifier, p.capability)).collect();
    assert_eq!(pending, ["thumbs:allow-resize calls", "thumbs:deafult calls"]);
    // Whom nobody may serve never comes; `*` names nobody.
    for provide in ["'other'", "'*'"] {
        let errors = compile(None, &CAPABILITY.replace("'thumbs'", provide)).unwrap_err();
        assert_eq!(errors.len(), 2, "{}", lines(&errors));
        assert!(
            lines(&errors)
                .contains("unknown permission \"thumbs:allow-resize\"; no plugin \"thumbs\" is here")
        );
    }
}

#[test]
fn it_is_resolved_and_checked_once_a_manifest_is_there() {
    let text = thumbs().to_string();
    let errors = lines(&compile(Some(&text), CAPABILITY).unwrap_err());
    let typo = "c.toml:9:98: unknown permission \"thumbs:deafult\"; did you mean \"thumbs:default\"?\n";
    assert_eq!(errors, typo);
    let right = CAPABILITY.replace("deafult", "default");
    let compiled = compile(Some(&text), &right).unwrap();
    assert_eq!(lines(&compiled.warnings), "");
    assert!(compiled.snapshot.pending().is_empty());
    assert_eq!(granted(&compiled, &ana()), ["greet", "thumbs.resize"]);
    let grants = compiled.snapshot.peer(&ana());
    let Verdict::Allow(grant) = grants.authorize("thumbs.resize") else { panic!("granted") };
    assert!(grant.is_scoped());
    assert_eq!(grant.command_scope::<serde_json::Value>().unwrap().allows().len(), 1);

    // The manifest of a provider that registers is judged by the same rules as the file.
    let schema = ScopeSchema::new(&thumbs()["x-invoked"]["scope"]).unwrap();
    let manifest = plugin("thumbs")
        .scoped_command("resize")
        .default_set(["allow-resize"])
        .scope(ScopeKind::Schema(Arc::new(schema)), ScopeDefault::Nothing);
    let with = |capability: &str| {
        let policy = policy().document(Source::new("c.toml", None, capability), Format::Toml);
        policy.manifest(manifest.clone()).compile()
    };
    assert_eq!(lines(&with(CAPABILITY).unwrap_err()), typo);
    assert_eq!(granted(&with(&right).unwrap(), &ana()), ["greet", "thumbs.resize"]);
    // With both, the file is one too many.
    let both = policy().manifest(manifest.clone()).interface(Source::new("thumbs.json", None, text));
    let errors = lines(&both.compile().unwrap_err());
    assert!(errors.ends_with(": the plugin \"thumbs\" is this daemon's own\n"), "{errors}");
}

#[test]
fn scope_values_are_checked_against_the_schema_where_they_stand() {
    let text = thumbs().to_string();
    let base = CAPABILITY.replace(", 'thumbs:deafult'", "");
    for (value, message) in [
        ("{ width = 0 }", "c.toml:9:78: /width: 0 is below 1"),
        ("{ width = 'a' }", "c.toml:9:78: /width: \"a\" is not of the type integer"),
        ("{ widht = 5 }", "c.toml:9:78: the field \"width\" is missing"),
        ("{ width = 5, hight = 5 }", "c.toml:9:78: /hight: unknown field"),
        ("{ width = 5, widht = 5 }", "c.toml:9:78: /widht: unknown field; did you mean \"width\"?"),
        ("200", "c.toml:9:78: 200 is not of the type object"),
    ] {
        let errors = compile(Some(&text), &base.replace("{ width = 200 }", value)).unwrap_err();
        assert_eq!(lines(&errors), format!("{message}\n"), "{value}");
    }
}

/// The errors of an interface in which one thing was changed.
fn errors(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut interface = thumbs();
    change(&mut interface);
    let text = serde_json::to_string_pretty(&interface).unwrap();
    let result = policy().interface(Source::new("t.json", None, text)).compile();
    let text = result.map_or_else(|errors| lines(&errors), |_| String::new());
    // Where each key lies is not this test's business; that there is a place is.
    let place = |line: &str| -> String {
        let mut parts = line.splitn(4, ':');
        let (file, line, column) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert!(file == "t.json" && line.parse::<u32>().is_ok() && column.parse::<u32>().is_ok(), "{line}");
        parts.next().unwrap().trim().to_owned()
    };
    text.lines().map(place).collect::<Vec<_>>().join("\n")
}

#[test]
fn interfaces_are_read_strictly() {
    assert_eq!(errors(|_| {}), "");
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 16] = [
        (
            |i| i["x-invoked"]["permissions"] = json!([]),
            "unknown key \"permissions\"; did you mean \"permission\"?",
        ),
        (|i| i["method"] = json!([]), "unknown key \"method\"; did you mean \"methods\"?"),
        (
            |i| drop(i.as_object_mut().unwrap().remove("x-invoked")),
            "an interface without \"x-invoked\"; it names the plugin: \"x-invoked\": { \"plugin\": \"NAME\" }",
        ),
        (
            |i| drop(i["x-invoked"].as_object_mut().unwrap().remove("plugin")),
            "\"x-invoked\" without \"plugin\"",
        ),
        (
            |i| i["x-invoked"]["plugin"] = json!("a b"),
            "plugin \"a b\": ' ' may not stand at byte 1 of a name",
        ),
        (
            |i| i["x-invoked"]["plugin"] = json!("fs"),
            "method \"thumbs.resize\" is not of plugin \"fs\": its name would be \"fs.…\"\nmethod \"thumbs.forget\" is not of plugin \"fs\": its name would be \"fs.…\"\nthe plugin \"fs\" is this daemon's own",
        ),
        (
            |i| i["methods"][1]["name"] = json!("forget"),
            "method \"forget\" is not of plugin \"thumbs\": its name would be \"thumbs.…\"",
        ),
        (|i| i["methods"][1] = json!({}), "a method without \"name\""),
        (|i| i["methods"][1] = json!(1), "a method is a table, this is a number"),
        (
            |i| i["methods"][1]["x-invoked"]["scope"] = json!("yes"),
            "\"scope\" of a method is true or false, this is a string",
        ),
        (
            |i| i["methods"][1]["name"] = json!("thumbs.resize"),
            "commands \"thumbs.resize\" and \"thumbs.resize\" map to the one permission \"thumbs:allow-resize\"",
        ),
        (
            |i| i["x-invoked"]["scope"] = json!("paht"),
            "unknown kind of scope \"paht\"; did you mean \"path\"?",
        ),
        (
            |i| i["x-invoked"]["scope"]["pattern"] = json!("a"),
            "the schema of scopes: /pattern: this keyword is not supported",
        ),
        (|i| i["x-invoked"]["scope"] = json!(1), "\"scope\" is a kind or a JSON Schema, this is a number"),
        (
            |i| i["x-invoked"]["defaultScope"] = json!("all"),
            "\"defaultScope\" is \"everything\", \"nothing\" or a list of values, this is a string",
        ),
        (
            |i| i["x-invoked"]["default"]["permissions"] = json!(["allow-resiez"]),
            "set \"thumbs:default\" contains the unknown permission \"thumbs:allow-resiez\"; did you mean \"thumbs:allow-resize\"?",
        ),
    ];
    for (change, message) in cases {
        let got = errors(change);
        assert!(
            got.lines().any(|line| message.lines().any(|wanted| wanted == line)),
            "{message}\n--- got\n{got}"
        );
    }
}

#[test]
fn an_interface_says_what_kind_its_scopes_are_and_what_stands_for_none() {
    for (scope, default, value, allowed) in [
        (json!("path"), json!("everything"), "x", true),
        (json!("glob"), json!("nothing"), "x", false),
        (json!("prefix"), json!(["x"]), "xy", true),
        (json!("prefix"), json!(["x"]), "y", false),
    ] {
        let mut interface = thumbs();
        interface["x-invoked"]["permission"] = json!([]);
        interface["x-invoked"]["scope"] = scope.clone();
        interface["x-invoked"]["defaultScope"] = default.clone();
        let text = interface.to_string();
        let capability = "identifier = 'c'\npeers = ['user:ana']\npermissions = ['thumbs:allow-resize']\n";
        let compiled = compile(Some(&text), capability).unwrap_or_else(|e| panic!("{}", lines(&e)));
        let grants = compiled.snapshot.peer(&ana());
        let Verdict::Allow(grant) = grants.authorize("thumbs.resize") else { panic!("granted") };
        let verdict = grant.check::<crate::authority::PrefixScope>(value).is_allowed();
        assert_eq!(verdict, allowed, "{scope} {default} {value}");
    }
    let mut interface = thumbs();
    interface["x-invoked"]["defaultScope"] = json!([{ "width": 0 }]);
    let errors = lines(&compile(Some(&interface.to_string()), CAPABILITY).unwrap_err());
    assert!(errors.contains("default scope value {\"width\":0}: /width: 0 is below 1"), "{errors}");
}

#[test]
fn two_interfaces_of_one_plugin_name_each_other() {
    let text = thumbs().to_string();
    let policy = policy().interface(Source::new("a.json", None, text.as_str()));
    let errors = policy.interface(Source::new("b.json", None, text)).compile().unwrap_err();
    let text = lines(&errors);
    assert!(
        text.starts_with("b.json:1:")
            && text.ends_with("a second interface of plugin \"thumbs\"; the first is at a.json:1\n"),
        "{text}"
    );
}
