//! Permission files, in Tauri's format.

use invoked_proto::name::PluginName;

use super::{Users, ana, granted, lines, plugin, policy};
use crate::authority::{
    CompiledPolicy, Format, PathScope, PermissionKind, Platform, PluginManifest, Policy, PolicyError,
    ScopeDefault, ScopeKind, Source, TauriFiles, Verdict,
};

/// A plugin as its author writes it: commands only, and a text beside them.
fn store() -> PluginManifest {
    plugin("store")
        .scoped_command("get")
        .scoped_command("set")
        .command("clear")
        .scope(ScopeKind::Path, ScopeDefault::Nothing)
}

const CAPABILITY: &str = "identifier = 'c'\npeers = ['user:ana']\npermissions = ['store:default']\n";

fn with_file(policy: Policy<'static>, text: &str, plugin: Option<&str>) -> Policy<'static> {
    let format = if text.starts_with('{') { Format::Json } else { Format::Toml };
    let plugin = plugin.map(|name| PluginName::parse(name).unwrap());
    policy.permission_file(Source::new("p.toml", None, text), format, plugin)
}

/// A policy with the store, a permission file of it, and a capability.
fn compile(file: &str, capability: &str) -> Result<CompiledPolicy, Vec<PolicyError>> {
    with_file(policy().manifest(store()), file, Some("store"))
        .document(Source::new("c.toml", None, capability), Format::Toml)
        .compile()
}

fn compiled(file: &str, capability: &str) -> CompiledPolicy {
    compile(file, capability).unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

fn errors(file: &str) -> String {
    compile(file, "[[capabilities]]\nidentifier = 'c'\npeers = ['user:ana']\npermissions = ['allow-greet']\n")
        .map_or_else(|errors| lines(&errors), |_| String::new())
}

const FILE: &str = r#"
"$schema" = "schema.json"

[default]
description = "Reading, of what is public."
permissions = ["read", "scope-public"]
version = 1

[[set]]
identifier = "read"
description = "Reading."
permissions = ["allow-get"]

[[permission]]
version = 1
identifier = "scope-public"
description = "What is public."
[[permission.scope.allow]]
path = "/srv/public/**"
[[permission.scope.deny]]
path = "/srv/public/draft"

[[permission]]
identifier = "write"
description = "Reading and writing, never clearing."
commands.allow = ["get", "set"]
commands.deny = ["clear"]
scope.allow = ["/srv/data/*"]
"#;

#[test]
fn a_permission_file_adds_permissions_sets_and_the_default() {
    let policy = compiled(FILE, CAPABILITY);
    assert_eq!(granted(&policy, &ana()), ["store.get"]);
    let check = |policy: &CompiledPolicy, command: &str, path: &str| {
        let grants = policy.snapshot.peer(&ana());
        match grants.authorize(command) {
            Verdict::Allow(grant) => grant.check::<PathScope>(std::path::Path::new(path)).is_allowed(),
            Verdict::Deny(_) => false,
        }
    };
    assert!(
        check(&policy, "store.get", "/srv/public/a") && !check(&policy, "store.get", "/srv/public/draft")
    );
    let write = compiled(FILE, &CAPABILITY.replace("default'", "write', 'store:allow-clear'"));
    assert_eq!(granted(&write, &ana()), ["store.get", "store.set"]);
    assert!(check(&write, "store.set", "/srv/data/a") && !check(&write, "store.set", "/srv/public/a"));
}

#[test]
fn the_same_file_in_json_means_the_same() {
    let json = r#"{
        "$schema": "schema.json",
        "default": { "description": "d", "permissions": ["read"] },
        "set": [{ "identifier": "read", "description": "r", "permissions": ["allow-get", "w"] }],
        "permission": [{ "identifier": "w", "commands": { "allow": ["set"], "deny": ["clear"] } }]
    }"#;
    assert_eq!(granted(&compiled(json, CAPABILITY), &ana()), ["store.get", "store.set"]);
}

#[test]
fn a_plugin_ships_permissions_as_text_and_errors_name_it() {
    let load = |text: &str| {
        policy()
            .manifest(store().permission_text(text))
            .document(Source::new("c.toml", None, CAPABILITY), Format::Toml)
            .compile()
    };
    assert_eq!(granted(&load(FILE).unwrap(), &ana()), ["store.get"]);
    let errors = load("[default]\npermissions = ['allow-gte']").unwrap_err();
    assert_eq!(
        lines(&errors),
        "plugin store, permissions:2:16: set \"store:default\" contains the unknown permission \"store:allow-gte\"; \
         did you mean \"store:allow-get\"?\n"
    );
    let two =
        store().permission_text("[default]\npermissions = ['allow-get']").permission_text("{ \"set\": 1 }");
    let errors = policy().manifest(two).compile().unwrap_err();
    assert_eq!(lines(&errors), "plugin store, permissions 2:1:10: \"set\" is a list, this is a number\n");
}

#[test]
fn a_file_belongs_to_the_plugin_of_its_directory_or_of_its_key_or_to_the_application() {
    let text = "[default]\npermissions = ['allow-get']";
    let of = |text: &str, directory: Option<&str>, permission: &str| {
        let capability = CAPABILITY.replace("store:default", permission);
        with_file(policy().manifest(store()), text, directory)
            .document(Source::new("c.toml", None, capability), Format::Toml)
            .compile()
            .map(|policy| granted(&policy, &ana()))
            .map_err(|errors| lines(&errors))
    };
    let get = Ok(vec!["store.get".to_owned()]);
    assert_eq!(of(text, Some("store"), "store:default"), get);
    let keyed = format!("plugin = 'store'\n{text}");
    assert_eq!(of(&keyed, None, "store:default"), get);
    assert_eq!(of(&keyed, Some("store"), "store:default"), get);
    let own =
        "[default]\npermissions = ['greets']\n[[set]]\nidentifier = 'greets'\npermissions = ['allow-greet']";
    assert_eq!(of(own, None, "default"), Ok(vec!["greet".to_owned()]));
    for (text, directory, error) in [
        (&*keyed, Some("core"), "p.toml:1:10: the file is of plugin \"core\", by the directory it lies in\n"),
        (
            "plugin = 'a b'\n[default]",
            None,
            "p.toml:1:10: plugin \"a b\": ' ' may not stand at byte 1 of a name\n",
        ),
        (
            "plugin = 'stor'\n[default]",
            None,
            "p.toml:1:10: no plugin \"stor\" is here; did you mean \"store\"?\n",
        ),
        ("[default]", Some("stor"), "p.toml:1:1: no plugin \"stor\" is here; did you mean \"store\"?\n"),
    ] {
        assert_eq!(of(text, directory, "default").unwrap_err(), error, "{text}");
    }
    let none = Policy::new(5, &Users).permission_file(Source::new("p.toml", None, text), Format::Toml, None);
    assert_eq!(
        lines(&none.compile().unwrap_err()),
        "p.toml:1:1: a permission file of the application, which has no commands here; \
         name its plugin: plugin = \"NAME\", or put it into a directory of this name\n"
    );
}

#[test]
fn permission_files_are_read_strictly_where_it_stands() {
    let permission = |rest: &str| format!("[[permission]]\nidentifier = 'p'\n{rest}");
    for (file, message) in [
        ("".to_owned(), "1:1: a permission file without \"default\", \"set\" or \"permission\" adds nothing"),
        ("[[permissions]]\nidentifier = 'p'".to_owned(), "1:3: unknown key \"permissions\"; did you mean \"permission\"?"),
        ("[[permission]]\ndescription = 'x'".to_owned(), "1:1: a permission without \"identifier\""),
        ("[[permission]]\nidentifier = ''".to_owned(), "2:14: permission \"\": an empty identifier"),
        ("[[permission]]\nidentifier = 'a b'".to_owned(), "2:14: permission \"a b\": the character ' ' may not stand in an identifier"),
        ("[[permission]]\nidentifier = 'fs:p'".to_owned(), "2:14: permission \"fs:p\" belongs to another plugin"),
        (permission("comands.allow = ['get']"), "3:1: unknown key \"comands\"; did you mean \"commands\"?"),
        (permission("commands.alow = ['get']"), "3:10: unknown key \"alow\"; did you mean \"allow\"?"),
        (permission("commands.allow = 'get'"), "3:18: \"allow\" is a list, this is a string"),
        (permission("commands.allow = ['get', 7]"), "3:26: an entry of \"allow\" is a string, this is a number"),
        (
            permission("commands.allow = ['gett']"),
            "3:19: permission \"store:p\" names the unknown command \"gett\"; did you mean \"get\"?",
        ),
        (
            permission("commands.deny = ['fs.read_file']"),
            "3:18: permission \"store:p\" names the unknown command \"fs.read_file\"",
        ),
        (permission("scope.deny = 'x'"), "3:14: \"deny\" is a list, this is a string"),
        (permission("platforms = ['linus']"), "3:14: unknown platform \"linus\"; did you mean \"linux\"?"),
        (permission("platforms = []"), "3:13: no platforms: it applies nowhere"),
        (permission("version = 0"), "3:11: \"version\" is a whole number from 1"),
        (permission("description = 1"), "3:15: \"description\" is a string, this is a number"),
        (
            permission("scope.allow = ['/a', 'relative']"),
            "3:22: permission \"store:p\": scope value \"relative\": a path pattern starts with `/` or a variable \
             such as $PEER_HOME",
        ),
        (
            permission("scope.deny = ['$HOEM/x']"),
            "3:15: permission \"store:p\": scope value \"$HOEM/x\": unknown variable $HOEM; did you mean \"$HOME\"?",
        ),
        (
            permission("[[permission]]\nidentifier = 'p'"),
            "4:14: the identifier \"store:p\" is used twice; the first is at p.toml:2",
        ),
        ("[[set]]\nidentifier = 's'".to_owned(), "1:1: a set without \"permissions\" contains nothing"),
        ("[[set]]\nidentifier = 'allow-get'\npermissions = []".to_owned(), "2:14: the identifier \"store:allow-get\" is a command's own permission"),
        (
            "[[set]]\nidentifier = 's'\npermissions = ['allow-gte']".to_owned(),
            "3:16: set \"store:s\" contains the unknown permission \"store:allow-gte\"; did you mean \"store:allow-get\"?",
        ),
        (
            "[[set]]\nidentifier = 's'\npermissions = ['a b']".to_owned(),
            "3:16: set \"store:s\": member \"a b\": the character ' ' may not stand in an identifier",
        ),
        (
            "[[set]]\nidentifier = 's'\npermissions = ['t']\n[[set]]\nidentifier = 't'\npermissions = ['allow-get', 's']"
                .to_owned(),
            "6:29: sets contain each other: store:s -> store:t -> store:s",
        ),
        ("[default]\npermissions = ['default']".to_owned(), "2:16: sets contain each other: store:default -> store:default"),
        ("[default]\npermission = []".to_owned(), "2:1: unknown key \"permission\"; did you mean \"permissions\"?"),
        ("default = []".to_owned(), "1:11: \"default\" is a table, this is a list"),
    ] {
        assert_eq!(errors(&file), format!("p.toml:{message}\n"), "{file}");
    }
}

#[test]
fn sets_nest_to_a_limit_and_no_deeper() {
    let sets = |depth: usize| {
        let set =
            |i: usize, member: String| format!("[[set]]\nidentifier = 's{i}'\npermissions = ['{member}']\n");
        let chain: String = (0..depth).map(|i| set(i, format!("s{}", i + 1))).collect();
        chain + &set(depth, "allow-get".to_owned())
    };
    assert_eq!(errors(&sets(63)), "");
    let deep = errors(&sets(5000));
    assert!(deep.lines().next().unwrap().ends_with(": sets nest deeper than 64"), "{deep}");
}

#[test]
fn what_a_file_writes_twice_names_who_wrote_it_first() {
    let manifest = store().set("read", "", ["allow-get"]);
    let policy = with_file(policy().manifest(manifest), FILE, Some("store"));
    assert_eq!(
        lines(&policy.compile().unwrap_err()),
        "p.toml:10:14: the identifier \"store:read\" is used twice; plugin store ships it\n"
    );
}

#[test]
fn a_written_permission_takes_the_place_of_a_commands_own() {
    // As Tauri generates them, one file a command.
    let file = "[[permission]]\nidentifier = 'allow-get'\ndescription = 'Enables the get command.'\n\
                commands.allow = ['get']\n[[permission]]\nidentifier = 'deny-get'\ncommands.deny = ['get']\n";
    let policy = compiled(file, &CAPABILITY.replace("default", "allow-get"));
    assert_eq!(granted(&policy, &ana()), ["store.get"]);
    let info =
        policy.snapshot.registry().permission_infos().find(|info| info.identifier == "store:allow-get");
    let info = info.unwrap();
    assert_eq!((info.description, info.kind), ("Enables the get command.", PermissionKind::Permission));
}

#[test]
fn a_permission_for_another_platform_grants_and_denies_nothing() {
    let file = "[[permission]]\nidentifier = 'p'\nplatforms = ['windows', 'macOS']\ncommands.allow = ['get']\n\
                commands.deny = ['set']\n[[permission]]\nidentifier = 'q'\nplatforms = ['linux']\n\
                commands.allow = ['set']\n[default]\npermissions = ['p', 'q']\n";
    let on = |platform| {
        let policy = with_file(policy().manifest(store()).platform(platform), file, Some("store"));
        let policy = policy.document(Source::new("c.toml", None, CAPABILITY), Format::Toml);
        granted(&policy.compile().unwrap(), &ana())
    };
    assert_eq!(on(Platform::Linux), ["store.set"]);
    assert_eq!(on(Platform::Windows), ["store.get"]);
    assert!(on(Platform::Android).is_empty());
}

#[test]
fn a_file_of_a_plugin_that_may_come_is_pending_and_one_of_tauris_a_warning() {
    let file = "[default]\npermissions = ['allow-nobody-knows']";
    let capability = "identifier = 'c'\npeers = ['user:ana']\nprovide = ['thumbs']\n";
    let pending = with_file(policy(), file, Some("thumbs"))
        .document(Source::new("c.toml", None, capability), Format::Toml)
        .compile()
        .unwrap();
    assert_eq!(
        lines(&pending.warnings),
        "p.toml:1:1: pending: it adds nothing until a peer provides \"thumbs\"\n"
    );
    let lenient =
        with_file(policy().tauri_files(TauriFiles::Lenient), file, Some("dialog")).compile().unwrap();
    assert_eq!(lines(&lenient.warnings), "p.toml:1:1: adds nothing: no plugin \"dialog\" is here\n");
}

#[test]
fn a_registry_tells_what_each_permission_is_and_may_carry() {
    let policy = compiled(FILE, CAPABILITY);
    let registry = policy.snapshot.registry();
    let of_store: Vec<_> = registry
        .permission_infos()
        .filter(|info| info.plugin == Some("store"))
        .map(|info| {
            let names =
                |commands: Vec<_>| commands.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let allows = names(info.allows().collect::<Vec<_>>());
            let denies = names(info.denies().collect::<Vec<_>>());
            let scoped = !info.scoped_plugins().is_empty();
            format!(
                "{} | {} | {allows} | {denies} | {scoped} | {:?}",
                info.identifier, info.description, info.kind
            )
        })
        .collect();
    assert_eq!(
        of_store,
        [
            "store:allow-clear | Allows store.clear. | store.clear |  | false | Command",
            "store:allow-get | Allows store.get, for the arguments that its scope allows. | store.get |  | true | Command",
            "store:allow-set | Allows store.set, for the arguments that its scope allows. | store.set |  | true | Command",
            "store:default | Reading, of what is public. | store.get |  | true | Set",
            "store:deny-clear | Denies store.clear, whatever else allows it. |  | store.clear | false | Command",
            "store:deny-get | Denies store.get, whatever else allows it. |  | store.get | false | Command",
            "store:deny-set | Denies store.set, whatever else allows it. |  | store.set | false | Command",
            "store:read | Reading. | store.get |  | true | Set",
            "store:scope-public | What is public. |  |  | true | Permission",
            "store:write | Reading and writing, never clearing. | store.get,store.set | store.clear | true | Permission",
        ]
    );
    assert_eq!(registry.scope_schema(Some("store"))["anyOf"][0]["type"], "string");
    assert_eq!(registry.scope_schema(Some("core")), true);
}
