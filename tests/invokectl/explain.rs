//! `invokectl explain` and `denials`: from an error to its reasons.

use serde_json::{Value, json};

use crate::world::{Daemon, INVOKECTL, ctl, run};

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Makes a denial by argument; its id.
fn denied(daemon: &Daemon, path: &str) -> String {
    let path = format!("path={path}");
    let error = daemon.ctl(&["-j", "call", "fs.read_file", &path]).expect(3).error();
    error["decision"].as_str().expect("a denial has an id").to_owned()
}

#[test]
fn the_id_of_an_error_leads_to_its_reasons_and_to_what_would_allow_it() {
    let daemon = Daemon::start();
    let ended = daemon.ctl(&["call", "fs.read_file", "path=/etc/hostname"]).expect(3);
    let (_, rest) = ended.stderr.split_once("explain ").expect("a hint");
    let id = rest.split(' ').next().expect("an id");
    assert!(ended.stderr.contains(&format!("decision: {id}")), "{}", ended.stderr);

    let text = daemon.ctl(&["explain", id]).expect(0).text();
    assert!(text.starts_with("denied: fs.read_file for uid="), "{text}");
    for part in [
        "capability \"dev\" matches this peer; its scope for fs:default",
        "refuses path \"/etc/hostname\": not matched by",
        "allow = [\"/etc/hostname\"]",
        &format!("decision {id}, 2"),
        ", policy revision 1\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let object = &daemon.ctl(&["-j", "explain", id]).expect(0).objects()[0];
    assert_eq!((&object["allowed"], &object["decision"]), (&json!(false), &json!(id)));
    assert_eq!((&object["peer"]["uid"], &object["argument"]), (&json!(uid()), &json!("/etc/hostname")));
    assert_eq!((&object["revision"], &object["revision_in_force"]), (&json!(1), &json!(1)));
    let file = &object["would_be_allowed_by"];
    assert!(file["file"].as_str().expect("text").ends_with(".toml") && file["toml"].is_string());
    assert!(object["at_ms"].is_u64() && object["connection"].is_u64() && object["reasons"].is_array());
}

#[test]
fn a_denial_that_is_not_kept_is_not_found() {
    let daemon = Daemon::start();
    for id in ["0000", "fffff", "123456789012345678901234567890"] {
        let ended = daemon.ctl(&["explain", id]).expect(4);
        assert!(ended.stderr.contains("denials lists those that are kept"), "{}", ended.stderr);
    }
}

#[test]
fn a_question_is_answered_as_the_call_would_be() {
    let daemon = Daemon::start();
    let shared = daemon.shared();
    std::fs::write(shared.join("a"), "x").expect("written");
    std::os::unix::fs::symlink("/etc/hostname", shared.join("out")).expect("linked");
    let explain = |words: &[&str]| daemon.ctl(&[&["-j", "explain"], words].concat());
    let own = format!("uid={}", uid());
    for (name, code) in [("a", 0), ("missing", 0), ("out", 3), ("../a", 3), (".hidden", 3)] {
        let path = format!("path={}/{name}", shared.display());
        let object = explain(&["--peer", &own, "fs.read_file", &path]).expect(code).objects().remove(0);
        assert_eq!(object["allowed"], json!(code == 0), "{object}");
        let called = daemon.ctl(&["call", "fs.read_file", &path]);
        assert_eq!(called.code == Some(3), code == 3, "{name}: {}", called.stderr);
        // Without --peer it is oneself, as connected.
        let object = explain(&["fs.read_file", &path]).expect(code).objects().remove(0);
        assert!(object["peer"]["pid"].is_u64(), "{object}");
    }
    let out = format!("path={}/out", shared.display());
    assert_eq!(explain(&["fs.read_file", &out]).objects()[0]["argument"], "/etc/hostname", "links resolved");
    // Without arguments the command alone is judged, and the answer says so.
    let object = explain(&["--peer", &own, "fs.read_file"]).expect(0).objects().remove(0);
    assert!(
        object["text"].as_str().expect("text").contains("its scope decides on the arguments"),
        "{object}"
    );
    let object = explain(&["--peer", "uid=4000000", "core.ping"]).expect(3).objects().remove(0);
    assert_eq!(object["would_be_allowed_by"]["file"], "uid-4000000-core.ping.toml");
    let object = explain(&["--peer", "uid=4000000", "core.pnig"]).expect(3).objects().remove(0);
    assert!(object["reasons"][0].as_str().expect("text").contains("did you mean \"core.ping\"?"), "{object}");
}

#[test]
fn questions_that_ask_nothing_are_refused() {
    let daemon = Daemon::start();
    for (words, code, part) in [
        (&["explain", "--peer", "pid=1,uid=1", "core.ping"][..], 2, "say nothing besides"),
        (&["explain", "--peer", "colour=red", "core.ping"], 2, "unknown \"colour\""),
        (&["explain", "--peer", "user=no such user", "core.ping"], 9, "unknown user"),
        (&["explain", "--peer", "pid=4194305", "core.ping"], 4, "no connected peer has the process id"),
        (&["explain", "--peer", "connection=999999", "core.ping"], 4, "no peer has the connection"),
        (&["explain", "not a name"], 2, "no command's name"),
        (&["explain", "fs.read_file", "len:=5"], 9, "`path` is missing"),
        (&["call", "core.explain"], 9, "say `decision`, or `peer` and `command`"),
        (&["call", "core.explain", "{\"decision\":\"7f3a\",\"command\":\"core.ping\"}"], 9, "say `decision`"),
        (&["call", "core.explain", "{\"peer\":{\"uid\":1,\"pids\":2},\"command\":\"core.ping\"}"], 9, "pids"),
    ] {
        let ended = daemon.ctl(words).expect(code);
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
}

#[test]
fn files_are_asked_without_a_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "identifier = \"a\"\npeers = [\"uid:1000\"]\n\
                permissions = [{ identifier = \"fs:allow-read-file\", allow = [\"/srv/**\"] }]\n";
    std::fs::write(directory.path().join("a.toml"), text).expect("written");
    let path = directory.path().to_str().expect("text");
    let explain = |words: &[&str]| ctl(&[&["-j", "explain", "--capabilities", path], words].concat());
    explain(&["--peer", "uid=1000", "fs.read_file", "path=/srv/a"]).expect(0);
    let object =
        explain(&["--peer", "uid=1000", "fs.read_file", "path=/etc/a"]).expect(3).objects().remove(0);
    assert!(object["reasons"][0].as_str().expect("text").contains("(a.toml:3)"), "{object}");
    explain(&["--peer", "uid=1001", "fs.read_file", "path=/srv/a"]).expect(3);
    explain(&["--peer", "pid=1", "fs.read_file"]).expect(2);
    std::fs::write(directory.path().join("a.toml"), "x").expect("written");
    assert!(explain(&["core.ping"]).expect(1).stderr.contains("a.toml"), "an unsound file is told");

    let config = tempfile::tempdir().expect("a directory");
    let address = format!("unix:{}/none.sock", config.path().display());
    let words = |words: &[&str]| {
        let words = [&["-a", &address, "--user"], words].concat();
        run(std::process::Command::new(INVOKECTL).args(words).env("XDG_CONFIG_HOME", config.path()), b"")
    };
    let ended = words(&["explain", "core.ping"]).expect(5);
    assert!(ended.stderr.contains("explain --offline"), "{}", ended.stderr);
    words(&["explain", "--offline", "core.ping"]).expect(0);
}

#[test]
fn denials_are_listed_the_latest_last() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ctl(&["denials"]).expect(0).text(), "");
    let ids: Vec<String> = (0..3).map(|i| denied(&daemon, &format!("/etc/{i}"))).collect();
    let lines = daemon.ctl(&["-j", "denials"]).expect(0).objects();
    let listed: Vec<&str> = lines.iter().filter_map(|line| line["decision"].as_str()).collect();
    assert_eq!(listed, ids);
    assert_eq!(lines[2]["sequence"], 3);
    assert_eq!((&lines[2]["command"], &lines[2]["argument"]), (&json!("fs.read_file"), &json!("/etc/2")));
    let text = daemon.ctl(&["denials", "-n", "1", "--since", "1h"]).expect(0).text();
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains(&ids[2]) && text.contains("fs.read_file \"/etc/2\""), "{text}");
    assert_eq!(daemon.ctl(&["denials", "--since", "0s"]).expect(0).text(), "");
}

#[test]
fn the_latest_denial_needs_no_id() {
    let daemon = Daemon::start();
    assert!(daemon.ctl(&["explain", "--last"]).expect(1).stderr.contains("no denials"));
    denied(&daemon, "/etc/first");
    let id = denied(&daemon, "/etc/last");
    let object = daemon.ctl(&["-j", "explain", "--last"]).expect(0).objects().remove(0);
    assert_eq!((&object["decision"], &object["argument"]), (&json!(id), &json!("/etc/last")));
    daemon.ctl(&["explain", "--last", "7f3a"]).expect(2);
    daemon.ctl(&["explain"]).expect(2);
}

#[test]
fn denials_to_come_are_followed() {
    let daemon = Daemon::start();
    denied(&daemon, "/etc/before");
    let mut following = daemon.follow(&["-j", "denials", "--follow"]);
    assert_eq!(following.line()["argument"], "/etc/before");
    for i in 0..3 {
        let path = format!("/etc/{i}");
        let id = denied(&daemon, &path);
        let line: Value = following.line();
        assert_eq!((&line["argument"], &line["decision"]), (&json!(path), &json!(id)));
    }
}

#[test]
fn what_a_peer_gave_up_is_told() {
    let daemon = Daemon::start();
    std::fs::write(daemon.shared().join("a"), "x").expect("written");
    let path = format!("path={}/a", daemon.shared().display());
    let error = daemon.ctl(&["-j", "--narrow", "operate", "call", "fs.read_file", &path]).expect(3).error();
    let id = error["decision"].as_str().expect("a denial has an id");
    let object = daemon.ctl(&["-j", "explain", id]).expect(0).objects().remove(0);
    assert_eq!(object["peer"]["keeps"], json!(["operate"]));
    assert!(
        object["reasons"][0].as_str().expect("text").contains("capability \"dev\" allows it"),
        "{object}"
    );
    assert!(object["would_be_allowed_by"].is_null() && object["advice"].is_string(), "{object}");
    assert_eq!(daemon.ctl(&["-j", "denials"]).expect(0).objects()[0]["peer"]["keeps"], json!(["operate"]));
    let peer = format!("uid={},keeps=operate", uid());
    daemon.ctl(&["explain", "--peer", &peer, "fs.read_file", &path]).expect(3);
    daemon.ctl(&["explain", "--peer", &peer, "core.ping"]).expect(0);
    // Asked about oneself, it is the connection as it is.
    daemon.ctl(&["--narrow", "operate", "explain", "fs.read_file", &path]).expect(3);
}

#[test]
fn only_operators_ask() {
    let daemon = Daemon::start();
    let listed = daemon.ctl(&["-j", "describe", "core.explain"]).expect(0).objects();
    assert_eq!(listed[0]["permission"], "core:allow-explain");
    // Everybody holds `core:default` at most; it must not have them.
    let directory = tempfile::tempdir().expect("a directory");
    let text = "identifier = \"a\"\npeers = [\"uid:4000000\"]\npermissions = [\"core:default\"]\n";
    std::fs::write(directory.path().join("a.toml"), text).expect("written");
    let path = directory.path().to_str().expect("text");
    for (command, code) in [("core.ping", 0), ("core.explain", 3), ("core.denials", 3), ("core.monitor", 3)] {
        ctl(&["explain", "--capabilities", path, "--peer", "uid=4000000", command]).expect(code);
    }
}
