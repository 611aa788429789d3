//! What programs rely on: exit codes, and one JSON object a line under `-j` (docs/invokectl.md).

use serde_json::{Value, json};

use invoked_proto::registry::ErrorCode;

use crate::world::{Daemon, ctl};

#[test]
fn exit_codes_are_those_of_the_registry() {
    let mut daemon = Daemon::start();
    daemon.ctl(&["call", "core.ping"]).expect(0);
    daemon.ctl(&["call", "fs.read_file", "path=/etc/passwd"]).expect(3);
    daemon.ctl(&["call", "no.such"]).expect(4);
    daemon.ctl(&["call", "core.ping", "--timeout", "1us"]).expect(6);
    daemon.ctl(&["call", "bench.bytes", "len:=-1"]).expect(9);
    daemon.ctl(&["call"]).expect(2);
    daemon.ctl(&["no-such-word"]).expect(2);
    let missing = format!("path={}/missing", daemon.shared().display());
    let ended = daemon.ctl(&["call", "fs.read_file", &missing]).expect(1);
    assert_eq!(ended.text(), "");
    let own: Value = serde_json::from_str(&ended.stderr).expect("the command's own JSON and nothing else");
    assert_eq!(own["kind"], "not_found");
    daemon.kill();
    let ended = daemon.ctl(&["call", "core.ping"]).expect(5);
    assert!(ended.stderr.contains(&daemon.address()), "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing listens"), "{}", ended.stderr);
}

#[test]
fn results_are_one_object_a_line() {
    let daemon = Daemon::start();
    let objects = |words: &[&str]| daemon.ctl(&[&["-j"], words].concat()).expect(0).objects();
    assert_eq!(objects(&["call", "core.ping"]), [json!({ "result": "pong" })]);
    let raw = json!({ "raw": { "bytes": 4, "base64": "AAAAAA==" } });
    assert_eq!(objects(&["call", "bench.bytes", "len:=4"]), [raw]);
    let saved = json!({ "saved": [{ "file": "out", "bytes": 4 }] });
    assert_eq!(objects(&["call", "bench.bytes", "len:=4", "-o", "out"]), [saved]);

    let listed = objects(&["list"]);
    assert!(listed.iter().any(|line| line["name"] == "fs.read_file" && line["summary"].is_string()));
    let described = &objects(&["describe", "fs.read_file"])[0];
    assert_eq!(described["permission"], "fs:allow-read-file");
    assert_eq!(described["arguments"][0], json!({ "key": "path", "type": "String", "optional": false }));
    assert_eq!(objects(&["whoami"])[0]["uid"], rustix::process::getuid().as_raw());
    let pings = objects(&["ping", "-n", "2", "--interval", "0s"]);
    assert!(pings.len() == 2 && pings[1]["seq"] == 2 && pings[1]["ns"].as_u64() > Some(0));
    assert!(objects(&["limits"]).iter().any(|line| line["name"] == "max_message" && line["kind"] == "limit"));
    assert!(objects(&["stats"])[0]["calls"].as_u64() > Some(0));
    for line in daemon.ctl(&["-j", "doctor"]).objects() {
        assert!(["ok", "warn", "fail"].contains(&line["status"].as_str().expect("text")), "{line}");
        assert!(line["check"].is_string() && line["detail"].is_string(), "{line}");
    }
}

#[test]
fn errors_are_one_object_on_standard_error() {
    let mut daemon = Daemon::start();
    let denied = daemon.ctl(&["-j", "call", "fs.read_file", "path=/etc/passwd"]).expect(3);
    assert_eq!(denied.text(), "");
    let error = denied.error();
    assert_eq!(error["code"], "permission_denied");
    assert!(error["message"].as_str().expect("text").contains("/etc/passwd"));
    assert_eq!(error["delivery"], "not_delivered");
    assert!(error.as_object().expect("an object").contains_key("decision"));

    let missing = format!("path={}/missing", daemon.shared().display());
    let error = daemon.ctl(&["-j", "call", "fs.read_file", &missing]).expect(1).error();
    assert_eq!((&error["code"], &error["body"]["kind"]), (&json!("application"), &json!("not_found")));
    assert_eq!(error["delivery"], "completed");
    assert_eq!(daemon.ctl(&["-j", "call", "a", "word"]).expect(2).error()["code"], "usage");
    assert_eq!(ctl(&["-j", "no-such-word"]).expect(2).error()["code"], "usage");
    assert_eq!(
        daemon.ctl(&["-j", "call", "core.ping", "-o", "/dev/full"]).expect(10).error()["code"],
        "local"
    );
    daemon.kill();
    let error = daemon.ctl(&["-j", "call", "core.ping"]).expect(5).error();
    assert_eq!((&error["code"], &error["delivery"]), (&json!("unavailable"), &json!("not_delivered")));
}

#[test]
fn the_documentation_lists_every_code_with_its_exit_code() {
    let text = include_str!("../../docs/invokectl.md");
    for code in (0..=u32::from(u8::MAX)).filter_map(ErrorCode::from_u32) {
        let row = format!("| {} | `{}` |", code.exit_code(), code.name());
        assert!(text.contains(&row), "docs/invokectl.md lacks {row}");
    }
}

#[test]
fn help_has_examples_and_goes_to_standard_output() {
    let commands = ["call", "explain", "denials", "monitor", "check", "schema", "tour", "completion"];
    let mut helps: Vec<Vec<&str>> = commands.map(|command| vec![command, "--help"]).to_vec();
    helps.push(vec!["--help"]);
    helps.extend(["latency", "throughput", "channels"].map(|what| vec!["bench", what, "--help"]));
    for words in &helps {
        let text = ctl(words).expect(0).text();
        assert!(text.contains("invokectl "), "{text}");
    }
    let help = ctl(&["--help"]).expect(0).text();
    assert!(!help.contains("bench-floor"), "what is for the tool itself is hidden");
    assert!(ctl(&["--version"]).expect(0).text().starts_with("invokectl "));
}
