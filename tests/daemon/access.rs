//! Who gets in, who may do what, and what the log says about who may not.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use invoked_client::blocking::Client;

use crate::child::{Other, STRANGER, can_be_others, copy_of};
use crate::harness::{Place, Start, stats};

/// A file that tries to take everything from everybody.
const DENY_ALL: &str = r#"
identifier = "nobody"
description = "Nobody may do anything."
peers = ["everyone", "uid:0", "self"]
permissions = [
  "core:deny-ping", "core:deny-stats", "core:deny-reload", "core:deny-limits", "core:deny-whoami",
]
"#;

#[test]
fn an_unlisted_uid_is_denied_and_the_log_says_why() {
    if !can_be_others("that an unlisted uid is denied; the own uid without a capability is") {
        // Without another uid: the own one has no capability for `fs` unless a file or --dev gives it.
        let daemon = Start::plain().everyone().run();
        let error = daemon.client().call("fs.read_file").arg("path", "/etc/passwd").send().unwrap_err();
        assert!(error.is_permission_denied(), "{error}");
        return daemon.await_line(0, &["denied: fs.read_file"]);
    }
    let daemon = Start::dev().everyone().run();
    let mut stranger = Other::start_stranger("caller", daemon.place());
    assert_eq!(stranger.answer(), "connected");
    for command in ["core.ping", "fs.read_file", "bench.echo", "core.stats", "no.such"] {
        let from = daemon.log().len();
        let answer = stranger.ask(command);
        assert!(answer.starts_with("permission_denied "), "{command}: {answer}");
        assert!(!answer.contains("capabilit"), "the peer is told more than that it may not: {answer}");
        daemon.await_line(from, &[&format!("denied: {command}"), &format!("uid={STRANGER}")]);
        if command == "fs.read_file" {
            // It was called without the argument that its scope judges.
            daemon.await_line(from, &["would be allowed by {", "can't be told"]);
        } else if command != "no.such" {
            // What would allow it, ready to be pasted.
            daemon.await_line(from, &["would be allowed by: ", ".toml in a capability directory"]);
            daemon.await_line(from, &["peers", &format!("uid:{STRANGER}")]);
        }
    }
    daemon.client().ping().expect("the own uid is served all the same");
}

#[test]
fn owner_access_keeps_others_out_and_their_error_says_what_does() {
    if !can_be_others("that access = \"owner\" keeps other uids out") {
        return drop(Start::plain().run().client());
    }
    let daemon = Start::plain().run();
    let mut stranger = Other::start_stranger("caller", daemon.place());
    let answer = stranger.answer();
    let address = daemon.place().address().to_string();
    for part in ["not connected", &address, "owned by", "root", "mode 0700", "access"] {
        assert!(answer.contains(part), "{part:?} is not in: {answer}");
    }
    daemon.client().ping().unwrap();
}

/// Runs `invokectl call core.ping` as a stranger; gives its exit code and what it says.
fn invokectl_of_a_stranger(place: &Place) -> (Option<i32>, String) {
    let (program, _copy) = copy_of(Path::new(env!("CARGO_BIN_EXE_invokectl")));
    let mut command = Command::new(program);
    command.uid(STRANGER).gid(STRANGER).current_dir("/").env_clear();
    let output =
        command.arg("-a").arg(place.address().to_string()).args(["call", "core.ping"]).output().unwrap();
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_command_line_of_an_unlisted_uid_ends_with_the_code_of_a_denial() {
    if !can_be_others("that invokectl of an unlisted uid exits with 3, and with 5 where it may not connect") {
        return;
    }
    let daemon = Start::dev().everyone().run();
    let (code, said) = invokectl_of_a_stranger(daemon.place());
    assert_eq!(code, Some(3), "{said}");
    assert!(said.starts_with("error: permission_denied: ") && said.contains("core.ping"), "{said}");
    assert!(said.contains(" explain ") && said.contains("what would allow it"), "{said}");
    daemon.await_line(0, &["denied: core.ping", &format!("uid={STRANGER}")]);

    let daemon = Start::dev().run();
    let (code, said) = invokectl_of_a_stranger(daemon.place());
    assert_eq!(code, Some(5), "{said}");
    for part in [&daemon.place().address().to_string(), "permission denied", "(uid 0)", "mode 0700"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn a_listed_uid_may_do_what_its_capability_says_and_no_more() {
    if !can_be_others("that a capability of another uid is for that uid") {
        return;
    }
    let text = format!(
        "identifier = \"reader\"\ndescription = \"d\"\npeers = [\"uid:{STRANGER}\"]\npermissions = [\"core:allow-whoami\"]\n"
    );
    let daemon = Start::plain().everyone().capability("reader.toml", &text).run();
    let mut stranger = Other::start_stranger("caller", daemon.place());
    assert_eq!(stranger.answer(), "connected");
    let whoami = stranger.ask("core.whoami");
    assert!(whoami.starts_with("ok ") && whoami.contains(&format!("\"uid\":{STRANGER}")), "{whoami}");
    assert!(stranger.ask("core.ping").starts_with("permission_denied "));
}

#[test]
fn no_file_takes_operation_from_root_and_the_daemons_own_uid() {
    let operate = |client: &Client| {
        client.ping().unwrap();
        assert_eq!(stats(client)["calls_in_flight"], 1);
        client.call("core.limits").send().unwrap();
        client.call("core.reload").send().unwrap();
    };
    let daemon = Start::plain().capability("nobody.toml", DENY_ALL).run();
    operate(&daemon.client());
    if !can_be_others("that root operates a daemon of another uid, and that uid its own") {
        return;
    }
    let daemon = Start::plain().capability("nobody.toml", DENY_ALL).uid(STRANGER).run();
    operate(&daemon.client());
    let mut own = Other::start_stranger("caller", daemon.place());
    assert_eq!(own.answer(), "connected");
    for command in ["core.ping", "core.stats", "core.limits"] {
        let answer = own.ask(command);
        assert!(answer.starts_with("ok "), "{command}: {answer}");
    }
}

#[test]
fn a_name_made_up_by_a_peer_forges_no_line_of_the_log() {
    let daemon = Start::plain().run();
    let client = daemon.client();
    let forged = "x\n2031-01-01T00:00:00Z  WARN denied: everything\u{1b}[2J";
    client.call(forged).send().unwrap_err();
    client.call("core.describe").arg("name", forged).send().unwrap_err();
    client.call("no.such").send().unwrap_err();
    daemon.await_line(0, &["no.such"]);
    let log = daemon.log();
    assert!(!log.lines().any(|line| line.starts_with("2031")), "{log}");
    assert!(!log.contains("\u{1b}[2J"), "{log:?}");
}

#[test]
fn many_denials_of_one_uid_are_few_lines_of_the_log() {
    let daemon = Start::plain().run();
    let client = daemon.client();
    for _ in 0..2000 {
        client.call("fs.read_file").send().unwrap_err();
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    client.call("fs.read_file").send().unwrap_err();
    daemon.await_line(0, &["suppressed"]);
    let lines = daemon.log().matches("denied: fs.read_file").count();
    assert!((1..200).contains(&lines), "{lines} lines for 2001 denials");
}
