//! `invokectl check` and `doctor`: files and machines that are not as they should be.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::world::{Daemon, Ended, INVOKECTL, ctl, run};

const SOUND: &str = "identifier = \"a\"\npeers = [\"uid:1000\"]\npermissions = [\"core:default\"]\n";

fn check(name: &str, text: &str, words: &[&str]) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join(name), text).expect("written");
    let path = directory.path().to_str().expect("text").to_owned();
    ctl(&[words, &["check", &path]].concat())
}

#[test]
fn a_sound_directory_is_said_to_be_sound() {
    let text = check("a.toml", SOUND, &[]).expect(0).text();
    assert!(text.starts_with("sound: 2 capabilities in force"), "the built-in one counts: {text}");
    let lines = check("a.toml", SOUND, &["-j"]).expect(0).objects();
    assert_eq!(lines, [json!({ "level": "ok", "capabilities": 2, "warnings": 0 })]);
}

#[test]
fn a_mistake_is_shown_in_its_line_with_a_caret() {
    let text = SOUND.replace("core:default", "core:defualt");
    let ended = check("a.toml", &text, &[]).expect(1);
    for part in ["core:defualt", "a.toml:3:16", "did you mean \"core:default\"?", "permissions ="] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
    let lines = check("a.toml", &text, &["-j"]).expect(1).objects();
    assert_eq!(
        (&lines[0]["level"], &lines[0]["line"], &lines[0]["column"]),
        (&json!("error"), &json!(3), &json!(16))
    );
    assert!(lines[0]["file"].as_str().expect("text").ends_with("/a.toml"));
}

#[test]
fn every_kind_of_bad_file_is_an_error() {
    for (name, text) in [
        ("a.toml", "identifier = \"a\"\npeers = [\n"),
        ("a.toml", "identifier = \"a\"\npeers = [\"everyone\"]\npermissions = []\nunknown = 1\n"),
        ("a.toml", "identifier = \"a\"\npeers = []\npermissions = [\"core:default\"]\n"),
        ("a.json", "{\"identifier\": \"a\","),
    ] {
        let ended = check(name, text, &[]).expect(1);
        assert!(ended.stderr.contains(name), "{text}: {}", ended.stderr);
    }
    ctl(&["check", "/no/such/directory"]).expect(1);
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.toml");
    std::fs::write(&file, SOUND).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect("changed");
    let ended = ctl(&["check", directory.path().to_str().expect("text")]).expect(1);
    assert!(ended.stderr.contains("everyone may write it"), "{}", ended.stderr);
}

#[test]
fn warnings_fail_when_strict() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a.toml"), SOUND).expect("written");
    std::fs::write(directory.path().join("notes.txt"), "").expect("written");
    let path = directory.path().to_str().expect("text");
    let ended = ctl(&["check", path]).expect(0);
    assert!(ended.stderr.contains("notes.txt") && ended.text().contains("1 warning"), "{}", ended.stderr);
    ctl(&["check", "--strict", path]).expect(1);
}

#[test]
fn the_plugins_of_dev_are_known_when_asked_for() {
    let text = SOUND.replace("core:default", "bench:default");
    check("a.toml", &text, &[]).expect(1);
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a.toml"), text).expect("written");
    let path = directory.path().to_str().expect("text");
    ctl(&["check", "--dev", path]).expect(0);
    // Its directory has a name there only.
    let scope = "{ identifier = \"fs:allow-read-file\", allow = [\"$DIR/**\"] }";
    std::fs::write(directory.path().join("a.toml"), SOUND.replace("\"core:default\"", scope))
        .expect("written");
    assert!(ctl(&["check", path]).expect(1).stderr.contains("$DIR is known under --dev only"));
    assert!(ctl(&["check", "--dev", path]).expect(0).text().contains("sound: 3 capabilities"));
}

#[test]
fn the_files_that_a_daemon_would_read_are_found_without_being_named() {
    let config = tempfile::tempdir().expect("a directory");
    let find = |config: &Path| {
        run(Command::new(INVOKECTL).args(["--user", "check"]).env("XDG_CONFIG_HOME", config), b"")
    };
    let ended = find(config.path()).expect(0);
    assert!(ended.stderr.contains("is not there: no files"), "{}", ended.stderr);
    let directory = config.path().join("invoked/capabilities.d");
    std::fs::create_dir_all(&directory).expect("made");
    std::fs::write(directory.join("a.toml"), "x").expect("written");
    find(config.path()).expect(1);
    std::fs::write(config.path().join("invoked/invoked.toml"), "[policy]\ncapabilities = [\"/no/such\"]\n")
        .expect("written");
    let ended = find(config.path()).expect(1);
    assert!(ended.stderr.contains("/no/such"), "{}", ended.stderr);
}

/// A configuration directory with files of all three kinds, and what `check` says of it.
#[test]
fn permission_files_and_interfaces_are_judged_too() {
    let config = tempfile::tempdir().expect("a directory");
    let home = config.path().join("invoked");
    let write = |name: &str, text: &str| {
        let path = home.join(name);
        std::fs::create_dir_all(path.parent().expect("a name")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let check = |words: &[&str]| {
        let words = [&["--user", "check"], words].concat();
        run(Command::new(INVOKECTL).args(words).env("XDG_CONFIG_HOME", config.path()), b"")
    };
    let capability =
        SOUND.replace("\"core:default\"", "\"fs:docs\", \"thumbs:allow-resize\", \"window:default\"");
    write("capabilities.d/a.toml", &capability);
    let unknown = check(&[]).expect(1).stderr;
    for part in ["\"fs:docs\"", "\"thumbs:allow-resize\"", "\"window:default\""] {
        assert!(unknown.contains(part), "{part} in {unknown}");
    }
    write(
        "permissions.d/fs/docs.toml",
        "[[set]]\nidentifier = \"docs\"\npermissions = [\"allow-read-file\"]\n",
    );
    write(
        "interfaces.d/thumbs.json",
        r#"{"methods": [{"name": "thumbs.resize"}], "x-invoked": {"plugin": "thumbs"}}"#,
    );
    let left = check(&[]).expect(1).stderr;
    assert!(left.contains("permission \"window:default\"") && left.contains("has 1 error"), "{left}");
    let ended = check(&["--tauri-compat"]).expect(0);
    assert!(
        ended.text().contains("1 warning") && ended.stderr.contains("no plugin \"window\" is here"),
        "{}",
        ended.stderr
    );
    check(&["--tauri-compat", "--strict"]).expect(1);
    // Named, they stand in for those.
    let nowhere = config.path().to_str().expect("text").to_owned() + "/nowhere";
    for flag in ["--permissions", "--interfaces"] {
        let ended = check(&["--tauri-compat", flag, &nowhere]).expect(1);
        assert!(ended.stderr.contains(&nowhere), "{flag}: {}", ended.stderr);
    }
    write(
        "permissions.d/fs/bad.toml",
        "[[permission]]\nidentifier = \"p\"\ncommands.allow = [\"raed_file\"]\n",
    );
    let bad = check(&["--tauri-compat"]).expect(1).stderr;
    assert!(bad.contains("bad.toml:3:19") && bad.contains("did you mean \"read_file\"?"), "{bad}");
}

#[test]
fn a_permission_that_is_pending_is_listed_and_fails_when_strict() {
    let text = SOUND.replace("\"core:default\"", "\"thumbs:allow-resize\"") + "provide = [\"thumbs\"]\n";
    let ended = check("a.toml", &text, &[]).expect(0);
    assert!(ended.stderr.contains("\"thumbs:allow-resize\" is pending"), "{}", ended.stderr);
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a.toml"), text).expect("written");
    ctl(&["check", "--strict", directory.path().to_str().expect("text")]).expect(1);
}

#[test]
fn doctor_fails_where_no_daemon_answers_and_says_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("unix:{}/none.sock", directory.path().display());
    let doctor = |words: &[&str]| {
        let words = [&["-a", &address, "--user"], words].concat();
        run(Command::new(INVOKECTL).args(words).env("XDG_CONFIG_HOME", directory.path()), b"").expect(1)
    };
    let text = doctor(&["doctor"]).text();
    for part in
        ["kernel", "RLIMIT_NOFILE", &address, "from --address", "FAIL  daemon", "-> start one: invoked --dev"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let lines = doctor(&["-j", "doctor"]).objects();
    let daemon = lines.iter().find(|line| line["check"] == "daemon").expect("asked");
    assert_eq!(daemon["status"], "fail");
    assert!(daemon["next"].is_string());
}

#[test]
fn schemas_are_printed_and_saved() {
    let daemon = Daemon::start();
    let identifiers = |schema: &Value| {
        let known = schema["definitions"]["identifier"]["oneOf"].as_array().expect("a list").clone();
        known.iter().filter_map(|entry| entry["const"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("a schema");
    let live = parse(&daemon.ctl(&["schema"]).expect(0).text());
    assert!(identifiers(&live).contains(&"bench:default".to_owned()), "the daemon's own plugins");
    let config = tempfile::tempdir().expect("a directory");
    let offline = |words: &[&str]| {
        let words = [&["--user", "schema"], words].concat();
        run(Command::new(INVOKECTL).args(words).env("XDG_CONFIG_HOME", config.path()), b"")
    };
    let built_in = identifiers(&parse(&offline(&["--offline"]).expect(0).text()));
    assert!(built_in.contains(&"fs:read".to_owned()) && !built_in.contains(&"bench:default".to_owned()));
    assert!(identifiers(&parse(&offline(&["--dev"]).expect(0).text())).contains(&"bench:default".to_owned()));
    let line = offline(&["permission", "--offline"]).expect(0).text();
    assert_eq!(parse(&line)["title"], "A permission file of invoked");

    let out = config.path().join("schemas");
    let out = out.to_str().expect("text");
    let saved = offline(&["--offline", "--out", out]).expect(0).text();
    assert_eq!(saved, format!("{out}/capability.schema.json\n{out}/permission.schema.json\n"));
    let text = std::fs::read_to_string(format!("{out}/capability.schema.json")).expect("saved");
    assert_eq!(identifiers(&parse(&text)), built_in);

    // A permission file brings its own names, with what it says of them.
    let permissions = config.path().join("permissions/fs");
    std::fs::create_dir_all(&permissions).expect("made");
    let file = "[[permission]]\nidentifier = \"music\"\ndescription = \"Where the music is.\"\nscope.allow = [\"/m/**\"]\n";
    std::fs::write(permissions.join("a.toml"), file).expect("written");
    let directory = config.path().join("permissions");
    let ended = offline(&["--permissions", directory.to_str().expect("text")]).expect(0);
    assert!(ended.text().contains("Where the music is."));
    std::fs::write(permissions.join("a.toml"), "x").expect("written");
    assert!(
        offline(&["--permissions", directory.to_str().expect("text")]).expect(1).stderr.contains("a.toml")
    );

    let none = format!("unix:{}/none.sock", config.path().display());
    assert!(ctl(&["-a", &none, "schema"]).expect(5).stderr.contains("schema --offline"));
}
