//! Capability files that are missing, malformed or unsafe: at the start, and when they are read again.

use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_proto::header::Header;
use invoked_proto::registry::{Codec, ErrorCode, FrameKind, flags};
use invoked_proto::testing::{AnyRecord, frame};
use rustix::process::Signal;
use serde_json::Value;

use crate::child::{STRANGER, can_be_others};
use crate::harness::{Daemon, Start, eventually, set_mode, stats};
use crate::peer::{RawPeer, json_frame, raw_call};

const GOOD: &str = r#"identifier = "bench"
description = "Measures."
peers = ["self"]
permissions = ["bench:allow-echo"]
"#;

/// What the operator reads, without the marks of a terminal.
fn refused(start: Start) -> String {
    match start.try_run() {
        Ok(daemon) => panic!("it started: {}", daemon.log()),
        Err((exit, _)) => {
            assert_eq!(exit.code, Some(3), "{}", exit.stderr);
            exit.stderr
        }
    }
}

#[test]
fn a_malformed_file_keeps_the_daemon_from_starting_and_its_place_is_named() {
    for (name, text, place, what) in [
        ("a.toml", "identifier = \"a\"\npeers = [\n", "a.toml:2:10", "unclosed array"),
        ("a.toml", "identifier = \"a\"\npeers == 1\n", "a.toml:2:8", ""),
        ("a.json", "{ \"identifier\": \"a\",\n  \"peers\": nope }", "a.json:2:12", ""),
        ("a.toml", &GOOD.replace("peers", "pears"), "a.toml:3:1", "pears"),
        ("a.toml", &GOOD.replace("allow-echo", "allow-ecko"), "a.toml:4:16", "allow-echo"),
        ("a.toml", &GOOD.replace("bench:", "bank:"), "a.toml:4:16", "bank"),
        ("a.toml", &GOOD.replace("\"self\"", "\"uid:many\""), "a.toml:3:10", "uid:many"),
    ] {
        let stderr = refused(Start::dev().capability(name, text));
        assert!(stderr.contains(place), "{place} is not in:\n{stderr}");
        assert!(stderr.contains(what), "{what} is not in:\n{stderr}");
        assert!(stderr.contains("nothing was started"), "{stderr}");
    }
}

#[test]
fn a_named_directory_that_is_missing_keeps_the_daemon_from_starting() {
    let start = Start::plain();
    std::fs::remove_dir(start.place().path("capabilities")).unwrap();
    let path = start.place().path("capabilities").display().to_string();
    let stderr = refused(start);
    assert!(stderr.contains(&path) && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn files_that_others_may_write_keep_the_daemon_from_starting() {
    for (name, mode) in
        [("capabilities/a.toml", 0o664), ("capabilities/a.toml", 0o646), ("capabilities", 0o775)]
    {
        let start = Start::dev().capability("a.toml", GOOD);
        let path = start.place().path(name);
        set_mode(&path, mode);
        let stderr = refused(start);
        let path = path.display().to_string();
        assert!(stderr.contains(&path) && stderr.contains("may write it"), "{name} {mode:o}: {stderr}");
    }
    if can_be_others("that files of another owner are refused") {
        for name in ["capabilities/a.toml", "capabilities"] {
            let start = Start::dev().capability("a.toml", GOOD);
            let path = start.place().path(name);
            std::os::unix::fs::chown(&path, Some(STRANGER), None).unwrap();
            let stderr = refused(start);
            let owner = STRANGER.to_string();
            assert!(
                stderr.contains(&path.display().to_string()) && stderr.contains(&owner),
                "{name}: {stderr}"
            );
        }
    }
}

/// A set that only a permission file knows, and whose file changes.
#[test]
fn permission_files_are_read_at_the_start_and_again() {
    let set = |member: &str| format!("[[set]]\nidentifier = \"few\"\npermissions = [\"{member}\"]\n");
    let few = GOOD.replace("bench:allow-echo", "bench:few");
    let start = Start::dev().config(UNWATCHED).capability("a.toml", &few);
    let stderr = refused(start);
    assert!(stderr.contains("unknown permission \"bench:few\""), "{stderr}");

    let start = Start::dev().config(UNWATCHED).capability("a.toml", &few);
    let directory = start.place().path("permissions");
    std::fs::create_dir_all(directory.join("bench")).unwrap();
    start.place().write("permissions/bench/few.toml", set("allow-echo"));
    let daemon = start.flag("--permissions").flag(directory.to_str().unwrap()).run();
    let client = daemon.client();
    assert!(can_echo(&client));
    daemon.place().write("permissions/bench/few.toml", set("deny-echo"));
    reload(&client).unwrap();
    assert!(!can_echo(&client));
    daemon.place().write("permissions/bench/few.toml", set("deny-ecko"));
    let told: Value = reload(&client).unwrap_err().json().unwrap();
    assert!(told["errors"][0].as_str().unwrap().contains("few.toml:3:16"), "{told}");
}

#[test]
fn files_of_tauri_load_when_asked_for() {
    let file = GOOD.replace("peers = [\"self\"]", "peers = [\"self\"]\nwindows = [\"main\"]");
    let file = file.replace("bench:allow-echo", "bench:allow-echo\", \"dialog:default");
    let stderr = refused(Start::dev().capability("a.toml", &file));
    assert!(stderr.contains("--tauri-compat") && stderr.contains("dialog:default"), "{stderr}");
    let daemon = Start::dev().capability("a.toml", &file).flag("--tauri-compat").run();
    assert!(can_echo(&daemon.client()));
    daemon.await_line(0, &["no plugin \"dialog\" is here"]);
    let told = Start::dev().config("[policy]\ntauri_compat = true\n").capability("a.toml", &file).run();
    told.await_line(0, &["grants nothing"]);
}

#[test]
fn a_malformed_configuration_keeps_the_daemon_from_starting_and_its_place_is_named() {
    for (text, place) in [
        ("[quotas]\nconnections = \"many\"\n", "invoked.toml:2:15"),
        ("[quotas]\nconections = 1\n", "invoked.toml:2:1"),
        ("[quotas\n", "invoked.toml:1:8"),
    ] {
        let stderr = refused(Start::plain().config(text));
        assert!(stderr.contains(place), "{place} is not in:\n{stderr}");
    }
}

fn reload(client: &Client) -> Result<Value, invoked_client::Error> {
    // More than one a second is refused.
    std::thread::sleep(Duration::from_millis(1050));
    client.invoke("core.reload", &Value::Null)
}

fn can_echo(client: &Client) -> bool {
    match client.call("bench.echo").raw("x").send() {
        Ok(_) => true,
        Err(error) => {
            assert!(error.is_permission_denied(), "{error}");
            false
        }
    }
}

/// A daemon whose capability file `a.toml` alone decides on `bench.echo`.
fn with_file() -> Daemon {
    // Under --dev the daemon's uid has all of bench; so a denial is what the file can change.
    // And these tests say themselves when it is read again.
    Start::dev().config(UNWATCHED).capability("a.toml", DENIES).run()
}

const UNWATCHED: &str = "[policy]\nwatch = false\n";

const DENIES: &str = r#"identifier = "no-echo"
description = "No echo."
peers = ["self"]
permissions = ["bench:deny-echo"]
"#;

#[test]
fn a_reload_with_a_bad_file_changes_nothing_and_the_caller_is_told() {
    let daemon = with_file();
    let client = daemon.client();
    assert!(!can_echo(&client));
    daemon.place().write("capabilities/a.toml", DENIES.replace("peers", "pears"));
    let error = reload(&client).unwrap_err();
    assert!(error.is_application(), "{error}");
    let told: Value = error.json().unwrap();
    let errors = told["errors"].as_array().unwrap();
    assert!(errors.iter().any(|error| error.as_str().unwrap().contains("a.toml:3:1")), "{told}");
    assert!(!can_echo(&client), "the old set is gone");

    let unsafe_file = daemon.place().write("capabilities/a.toml", "");
    set_mode(&unsafe_file, 0o666);
    let error = reload(&client).unwrap_err();
    assert!(error.is_application() && error.to_string().contains("may write it"), "{error}");
    assert!(!can_echo(&client), "the old set is gone");

    std::fs::remove_file(unsafe_file).unwrap();
    let reloaded = reload(&client).unwrap();
    assert!(reloaded["revision"].as_u64().unwrap() > 1, "{reloaded}");
    assert!(can_echo(&client), "the new set is not in force");
}

#[test]
fn a_hangup_reads_the_files_again_all_or_nothing() {
    let daemon = with_file();
    let client = daemon.client();
    daemon.place().write("capabilities/b.toml", "identifier = 7\n");
    std::fs::remove_file(daemon.place().path("capabilities/a.toml")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_line(0, &["b.toml:1:14"]);
    daemon.await_line(0, &["the old one stays in force"]);
    assert!(!can_echo(&client));
    std::fs::remove_file(daemon.place().path("capabilities/b.toml")).unwrap();
    std::thread::sleep(Duration::from_millis(1050));
    daemon.signal(Signal::HUP);
    daemon.await_line(0, &["policy reloaded"]);
    assert!(can_echo(&client));
}

#[test]
fn a_second_hangup_within_a_second_is_not_forgotten() {
    let daemon = with_file();
    let client = daemon.client();
    daemon.signal(Signal::HUP);
    daemon.await_line(0, &["policy reloaded"]);
    std::fs::remove_file(daemon.place().path("capabilities/a.toml")).unwrap();
    daemon.signal(Signal::HUP);
    eventually("the second hangup had no effect", || can_echo(&client));
}

#[test]
fn a_reload_that_comes_too_soon_is_told_when_to_come_again() {
    let daemon = with_file();
    let client = daemon.client();
    reload(&client).unwrap();
    let again = |client: &Client| client.invoke::<Value>("core.reload", &Value::Null);
    let error = again(&client).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ResourceExhausted), "{error}");
    let limits: Value = client.invoke("core.limits", &Value::Null).unwrap();
    let per_second = limits["quotas"]["reloads_per_second"].as_u64().expect("it is listed");
    let wait = error.retry_after().expect("it is known");
    assert!(
        !wait.is_zero() && wait <= Duration::from_secs(1) / u32::try_from(per_second).unwrap(),
        "{wait:?}"
    );
    std::thread::sleep(wait);
    again(&client).unwrap();
}

#[test]
fn a_reload_ends_a_running_call_whose_grant_is_gone() {
    let daemon = Start::dev().config(UNWATCHED).run();
    let client = daemon.client();
    let mut peer = RawPeer::open(&daemon.place().socket());
    // A call whose message is not whole yet: it is open, and authorized.
    let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, 1) };
    peer.send(&frame(header, &AnyRecord::from(raw_call("bench.echo", 100)).encode(), b"half"));
    eventually("the call is not open", || stats(&client)["calls_in_flight"] == 2);
    daemon.place().write("capabilities/a.toml", DENIES);
    client.call("core.reload").send().unwrap();
    assert_eq!(peer.failure(1).0, ErrorCode::Revoked);
    // What it still sends of the message is dropped; the connection lives on.
    let header = Header { flags: flags::CONT, ..Header::new(FrameKind::Data, 1) };
    peer.send(&frame(header, &[], &[7; 96]));
    peer.send(&json_frame(3, "core.ping", b"{}"));
    let answer = peer.next_frame().unwrap();
    assert_eq!((answer.header.stream, answer.header.known_kind()), (3, Some(FrameKind::Result)));
}

/// What `invoked --print-policy` prints with these flags, in the directory that `place` shares.
fn printed(place: &crate::harness::Place, flags: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_invoked"))
        .args(["--user", "--print-policy", "--config"])
        .arg(place.write("print.toml", ""))
        .args(flags)
        .current_dir(place.path("files"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_printed_policy_is_what_is_in_force_and_loads_as_a_file() {
    let start = Start::plain();
    let always = printed(start.place(), &[]);
    assert!(
        always.contains("identifier = \"operate\"") && !always.contains("identifier = \"dev\""),
        "{always}"
    );
    // Other files change nothing about it.
    std::fs::create_dir_all(start.place().path("permissions/fs")).unwrap();
    start
        .place()
        .write("permissions/fs/a.toml", "[[set]]\nidentifier = \"more\"\npermissions = [\"read\"]\n");
    let permissions = start.place().path("permissions").display().to_string();
    assert_eq!(printed(start.place(), &["--permissions", &permissions]), always);
    let dev = printed(start.place(), &["--dev"]);
    assert!(dev.starts_with(&always), "{dev}");

    // Where --dev is in force, what allows a call stands at the line that is printed.
    let daemon = Start::dev().run();
    let readable = daemon.place().write("files/a", "x").display().to_string();
    let explain = |daemon: &Daemon| {
        let own = rustix::process::geteuid().as_raw();
        let question = serde_json::json!({
            "peer": { "uid": own }, "command": "fs.read_file", "arguments": { "path": &readable },
        });
        daemon.client().invoke::<Value>("core.explain", &question).unwrap()
    };
    let reason = explain(&daemon)["reasons"][0].as_str().unwrap().to_owned();
    let (_, line) = reason.split_once("(--dev policy:").expect("it names the policy");
    let line: usize = line.trim_end_matches(')').parse().unwrap();
    let part = printed(daemon.place(), &["--dev"]).replacen(&always, "", 1);
    assert!(part.trim_start().lines().nth(line - 1).unwrap().contains("fs:default"), "{part}");

    // Saved as a file, it gives a daemon without the flag the same; the plugin of --dev is pending there.
    let saved = printed(daemon.place(), &["--dev"]);
    let place = daemon.kill();
    place.write("capabilities/dev.toml", saved);
    let daemon = Start::plain().at(place).run();
    assert_eq!(explain(&daemon)["allowed"], true);
    daemon.await_line(0, &["\"bench:default\" is pending"]);
}
