//! Capability files that change while the daemon runs: it reads them by itself, once per change, all or nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use invoked_client::blocking::Client;
use invoked_proto::header::Header;
use invoked_proto::registry::{Codec, ErrorCode, FrameKind, flags};
use invoked_proto::testing::{AnyRecord, frame};
use rustix::process::Signal;

use crate::harness::{Daemon, Start, eventually, set_mode, stats};
use crate::peer::{RawPeer, raw_call};

/// Under `--dev` the daemon's uid has all of bench; so this is what a file can change.
const DENIES: &str = r#"identifier = "no-echo"
peers = ["self"]
permissions = ["bench:deny-echo"]
"#;

fn can_echo(client: &Client) -> bool {
    match client.call("bench.echo").raw("x").send() {
        Ok(_) => true,
        Err(error) => {
            assert!(error.is_permission_denied(), "{error}");
            false
        }
    }
}

fn eventually_can(client: &Client) {
    eventually("what was removed is still in force", || can_echo(client));
}

fn eventually_can_not(client: &Client) {
    eventually("what was written is not in force", || !can_echo(client));
}

/// How often it has read its files, with or without success.
fn readings(daemon: &Daemon) -> usize {
    let log = daemon.log();
    log.matches("policy reloaded").count() + log.matches("the old one stays in force").count()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    set_mode(path, 0o644);
}

/// Puts a file there in one step, so that it is one change however slow this process is.
fn put(daemon: &Daemon, name: &str, text: &str) {
    let new = daemon.place().path("put");
    write(&new, text);
    fs::rename(new, daemon.place().path("capabilities").join(name)).unwrap();
}

#[test]
fn files_that_are_written_replaced_and_removed_come_into_force() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let file = daemon.place().path("capabilities/a.toml");
    let beside = |name: &str| daemon.place().path("capabilities").join(name);
    assert!(can_echo(&client));
    write(&file, DENIES);
    eventually_can_not(&client);
    // In place.
    write(&file, &DENIES.replace("deny-echo", "deny-sink"));
    eventually_can(&client);
    // As most editors do: a new file takes the name.
    write(&beside(".a.toml.tmp"), DENIES);
    fs::rename(beside(".a.toml.tmp"), &file).unwrap();
    eventually_can_not(&client);
    // As some do: the old file is the backup, and a new one is written.
    fs::rename(&file, beside("a.toml~")).unwrap();
    write(&file, &DENIES.replace("deny-echo", "deny-sink"));
    eventually_can(&client);
    fs::rename(beside("a.toml~"), &file).unwrap();
    eventually_can_not(&client);
    fs::remove_file(&file).unwrap();
    eventually_can(&client);
}

#[test]
fn what_is_written_bit_by_bit_is_in_force_when_it_is_whole() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let path = daemon.place().path("capabilities/a.toml");
    let mut file = fs::File::create(&path).unwrap();
    set_mode(&path, 0o644);
    // The first lines are a sound file of their own, of which only the rest takes something away.
    let whole = "identifier = \"a\"\npeers = [\"self\"]\npermissions = [\"core:default\"]\n";
    file.write_all(format!("[[capabilities]]\n{whole}").as_bytes()).unwrap();
    file.sync_all().unwrap();
    file.write_all(format!("[[capabilities]]\n{DENIES}").as_bytes()).unwrap();
    drop(file);
    eventually_can_not(&client);
}

#[test]
fn a_bad_file_changes_nothing_and_is_logged_once_with_its_place() {
    let daemon = Start::dev().capability("a.toml", DENIES).run();
    let client = daemon.client();
    let file = daemon.place().path("capabilities/a.toml");
    put(&daemon, "a.toml", &DENIES.replace("peers", "pears"));
    daemon.await_line(0, &["ERROR", "a.toml:2:1", "unknown key \"pears\"", "did you mean"]);
    daemon.await_line(0, &["the old one stays in force"]);
    assert!(!can_echo(&client), "the old policy is gone");
    // Whoever only reads the file changes nothing.
    for _ in 0..50 {
        fs::read(&file).unwrap();
    }
    // What the file is like counts, not only what it holds.
    let from = daemon.log().len();
    put(&daemon, "a.toml", DENIES);
    daemon.await_line(from, &["policy reloaded"]);
    let from = daemon.log().len();
    set_mode(&file, 0o666);
    daemon.await_line(from, &["a.toml", "may write it"]);
    assert!(!can_echo(&client));
    set_mode(&file, 0o644);
    fs::remove_file(&file).unwrap();
    eventually_can(&client);
    assert_eq!(daemon.log().matches("pears").count(), 1, "{}", daemon.log());
}

#[test]
fn warnings_are_logged() {
    let daemon = Start::dev().run();
    daemon.place().write("capabilities/README", "notes");
    daemon.await_line(0, &["WARN", "README", "skipped"]);
    daemon.await_line(0, &["policy reloaded"]);
}

#[test]
fn neither_its_own_reading_nor_what_lies_beside_makes_it_read() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let place = daemon.place();
    put(&daemon, "a.toml", DENIES);
    eventually_can_not(&client);
    // It is in force a moment before that is logged.
    eventually("the reading is logged", || readings(&daemon) > 0);
    let before = readings(&daemon);
    assert_eq!(before, 1, "{}", daemon.log());
    for round in 0..20 {
        place.write("capabilities/.a.toml.swp", format!("{round}"));
        place.write("capabilities/b.toml~", format!("{round}"));
        place.write("beside.toml", format!("{round}"));
        fs::read(place.path("capabilities/a.toml")).unwrap();
        fs::read_dir(place.path("capabilities")).unwrap().count();
    }
    // Told to read, it reads; and the watch has nothing to add.
    daemon.signal(Signal::HUP);
    eventually("the hangup had no effect", || readings(&daemon) == before + 1);
    put(&daemon, "z.toml", &DENIES.replace("no-echo", "no-echo-again"));
    eventually("the last change is not read", || readings(&daemon) > before + 1);
    // So it was the one after the hangup's: none came in between for what is no change.
    assert!(daemon.log().contains("revision=4") && !daemon.log().contains("revision=5"), "{}", daemon.log());
}

#[test]
fn a_directory_that_appears_later_goes_and_comes_again_is_watched() {
    let daemon = Start::dev().capabilities_by_rule().run();
    let client = daemon.client();
    let directory = daemon.place().path("capabilities.d");
    for _ in 0..2 {
        fs::create_dir(&directory).unwrap();
        set_mode(&directory, 0o755);
        write(&directory.join("a.toml"), DENIES);
        eventually_can_not(&client);
        fs::remove_file(directory.join("a.toml")).unwrap();
        eventually_can(&client);
        write(&directory.join("a.toml"), DENIES);
        eventually_can_not(&client);
        fs::remove_dir_all(&directory).unwrap();
        eventually_can(&client);
    }
}

#[test]
fn a_named_directory_that_goes_keeps_the_policy_and_is_read_when_it_is_back() {
    let daemon = Start::dev().capability("a.toml", DENIES).run();
    let client = daemon.client();
    let directory = daemon.place().path("capabilities");
    let away = daemon.place().path("away");
    fs::rename(&directory, &away).unwrap();
    daemon.await_line(0, &["ERROR", "capabilities", "No such file"]);
    assert!(!can_echo(&client), "a directory that is gone took its denials along");
    fs::remove_file(away.join("a.toml")).unwrap();
    fs::rename(&away, &directory).unwrap();
    eventually_can(&client);
}

#[test]
fn a_link_that_is_turned_to_another_directory_is_followed() {
    let start = Start::dev();
    let path = |name: &str| start.place().path(name);
    for version in ["v1", "v2"] {
        fs::create_dir(path(version)).unwrap();
        set_mode(&path(version), 0o755);
    }
    start.place().write("v1/a.toml", DENIES);
    symlink("v1", path("current")).unwrap();
    let directory = path("current");
    let daemon = start.capabilities_at(directory.clone()).run();
    let client = daemon.client();
    assert!(!can_echo(&client));
    symlink("v2", daemon.place().path("next")).unwrap();
    fs::rename(daemon.place().path("next"), &directory).unwrap();
    eventually_can(&client);
    // And what happens there from now on.
    daemon.place().write("v2/b.toml", DENIES);
    eventually_can_not(&client);
}

#[test]
fn a_change_ends_a_running_call_whose_grant_is_gone() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let mut peer = RawPeer::open(&daemon.place().socket());
    let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, 1) };
    peer.send(&frame(header, &AnyRecord::from(raw_call("bench.echo", 100)).encode(), b"half"));
    eventually("the call is not open", || stats(&client)["calls_in_flight"] == 2);
    daemon.place().write("capabilities/a.toml", DENIES);
    assert_eq!(peer.failure(1).0, ErrorCode::Revoked);
}

#[test]
fn a_watch_that_is_switched_off_reads_nothing() {
    let daemon = Start::dev().config("[policy]\nwatch = false\n").run();
    let client = daemon.client();
    daemon.place().write("capabilities/a.toml", DENIES);
    daemon.signal(Signal::HUP);
    eventually_can_not(&client);
    assert_eq!(readings(&daemon), 1);
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let names: Vec<_> =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()).collect();
    assert!(!names.iter().any(|name| name.contains("notify")), "{names:?}");
}

#[test]
fn a_machine_that_can_not_watch_is_told_of_and_served_all_the_same() {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_init1"]);
    strace.args(["-e", "inject=inotify_init1:error=EMFILE"]);
    let daemon = Start::dev().through(strace).run();
    daemon.await_line(0, &["WARN", "not watched", "SIGHUP"]);
    let client = daemon.client();
    daemon.place().write("capabilities/a.toml", DENIES);
    client.call("core.reload").send().unwrap();
    assert!(!can_echo(&client));
    // Not killed with its tracer.
    client.call("core.shutdown").send().unwrap();
    drop(client);
    assert_eq!(daemon.wait().0.code, Some(0));
}
