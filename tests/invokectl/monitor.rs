//! `invokectl monitor`: each call as it ends, to who operates the daemon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use invoked_client::Options;
use invoked_client::blocking::{Client, Running};
use serde_json::{Value, json};

use crate::world::{Daemon, Following};

/// The first line that is told while `words` are typed again and again: a monitor sees what comes after it has begun.
fn first(daemon: &Daemon, following: &mut Following, words: &[&str], code: i32) -> Value {
    let told = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !told.load(Ordering::Relaxed) {
                daemon.ctl(words).expect(code);
            }
        });
        let line = following.line();
        told.store(true, Ordering::Relaxed);
        line
    })
}

#[test]
fn a_call_is_told_with_where_its_time_went_and_without_its_arguments() {
    let daemon = Daemon::start();
    let mut following = daemon.follow(&["-j", "monitor", "--command", "core.e*"]);
    let line = first(&daemon, &mut following, &["call", "core.echo", "word=hunter2"], 0);
    let keys: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
    let documented = [
        "at_ms",
        "bytes_in",
        "bytes_out",
        "command",
        "connection",
        "handler_us",
        "lane",
        "outcome",
        "pid",
        "queue_us",
        "receive_us",
        "runs",
        "transfer_us",
        "uid",
        "user",
    ];
    assert_eq!(keys, documented, "docs/invokectl.md lists them");
    assert!(!line.to_string().contains("hunter2"), "{line}");
    let body = r#"{"word":"hunter2"}"#.len();
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(body), &json!(body)));
    assert_eq!((&line["command"], &line["outcome"]), (&json!("core.echo"), &json!("ok")));
    assert_eq!((&line["runs"], &line["lane"]), (&json!("inline"), &json!("inline")));
    assert!(line["transfer_us"].is_u64(), "the caller has its answer: {line}");
}

#[test]
fn bodies_are_shown_where_they_are_asked_for_cut_and_never_of_sensitive_calls() {
    let daemon = Daemon::start();
    let mut following = daemon.follow(&["-j", "monitor", "--command", "bench.echo", "--bodies"]);
    let line = first(&daemon, &mut following, &["call", "bench.echo", "word=hunter2"], 0);
    let shown = json!({
        "codec": "json", "bytes": 18, "text": "{\"word\":\"hunter2\"}", "cut": false, "attachments": 0,
    });
    assert_eq!((&line["request"], &line["reply"], &line["withheld"]), (&shown, &shown, &Value::Null));

    let options = Options::new().address(daemon.address().parse().expect("an address"));
    let client = Client::connect(options).expect("connected");
    client.call("bench.echo").raw(vec![0xab; 100]).send().expect("answered");
    client.call("bench.echo").raw(vec![0xcd; 100]).sensitive().send().expect("answered");
    let raw = json!({ "codec": "raw", "bytes": 100, "hex": "ab".repeat(64), "cut": true, "attachments": 0 });
    let line = told_of(&mut following, 100);
    assert_eq!((&line["request"], &line["reply"]), (&raw, &raw));
    let line = told_of(&mut following, 100);
    assert_eq!((&line["withheld"], &line["request"]), (&json!("sensitive"), &Value::Null));
    assert!(!line.to_string().contains("cdcd"), "{line}");
}

/// A call of 16 MiB whose answer waits at the daemon, as nobody reads it: in frames, as one in shared memory would not.
fn unread(daemon: &Daemon) -> (Client, Running) {
    let options = Options::new().address(daemon.address().parse().expect("an address")).shared_memory(false);
    let client = Client::connect(options).expect("connected");
    let running = client.call("bench.bytes").arg("len", 16 << 20).start().expect("sent");
    let start = Instant::now();
    while stats(daemon)["unread_bytes"] == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "the handler ends");
    }
    (client, running)
}

fn stats(daemon: &Daemon) -> Value {
    daemon.ctl(&["-j", "stats"]).expect(0).objects().remove(0)
}

/// A monitor of `bench.bytes` that has told its first call.
fn watching_bytes(daemon: &Daemon) -> Following {
    let mut following = daemon.follow(&["-j", "monitor", "--command", "bench.bytes"]);
    first(daemon, &mut following, &["call", "bench.bytes", "len:=1"], 0);
    following
}

/// The next call that gave so many bytes.
fn told_of(following: &mut Following, bytes: u64) -> Value {
    loop {
        let line = following.line();
        if line["bytes_out"] == bytes {
            return line;
        }
    }
}

#[test]
fn the_transfer_ends_when_the_caller_has_taken_its_answer() {
    let daemon = Daemon::start();
    let mut following = watching_bytes(&daemon);
    let (_client, running) = unread(&daemon);
    std::thread::sleep(Duration::from_millis(50));
    running.wait().expect("answered");
    let line = told_of(&mut following, 16 << 20);
    assert!(line["transfer_us"].as_u64() >= Some(50_000), "it has waited for its reader: {line}");
}

#[test]
fn an_answer_in_shared_memory_is_told_by_its_lane() {
    let daemon = Daemon::start();
    let mut following = watching_bytes(&daemon);
    for (shared, lane) in [(true, "pool"), (false, "inline")] {
        let options = Options::new().address(daemon.address().parse().expect("an address"));
        let client = Client::connect(options.shared_memory(shared)).expect("connected");
        client.call("bench.bytes").arg("len", 1 << 20).send().expect("answered");
        assert_eq!(told_of(&mut following, 1 << 20)["lane"], lane);
    }
}

#[test]
fn a_caller_that_left_has_taken_no_answer() {
    let daemon = Daemon::start();
    let mut following = watching_bytes(&daemon);
    let (client, running) = unread(&daemon);
    drop((running, client));
    let line = told_of(&mut following, 16 << 20);
    assert_eq!((&line["outcome"], &line["transfer_us"]), (&json!("ok"), &Value::Null), "{line}");
}

#[test]
fn nothing_is_recorded_while_nobody_monitors_and_who_leaves_is_noticed_at_once() {
    let daemon = Daemon::start();
    let told = |stats: Value| (stats["monitors"].as_u64(), stats["calls_recorded"].as_u64());
    daemon.ctl(&["call", "bench.bytes", "len:=1"]).expect(0);
    assert_eq!(told(stats(&daemon)), (Some(0), Some(0)));
    // Not with the next call, which would be recorded. The daemon has to be quicker than this test once.
    let mut recorded = 0;
    let noticed = (0..50_u64).any(|pause| {
        drop(watching_bytes(&daemon));
        std::thread::sleep(Duration::from_millis(20 * pause));
        let (monitors, now) = told(stats(&daemon));
        let calls = now.expect("a number") - recorded;
        recorded += calls;
        let start = Instant::now();
        while told(stats(&daemon)).0 != Some(0) {
            assert!(start.elapsed() < Duration::from_secs(60), "it has left");
        }
        recorded = told(stats(&daemon)).1.expect("a number");
        assert!(calls >= 1, "the call that was monitored");
        monitors == Some(0)
    });
    assert!(noticed);
    for _ in 0..20 {
        daemon.ctl(&["call", "bench.bytes", "len:=1"]).expect(0);
    }
    assert_eq!(told(stats(&daemon)), (Some(0), Some(recorded)));
}

#[test]
fn a_handler_elsewhere_has_a_time_in_the_queue_and_one_of_its_own() {
    let daemon = Daemon::start();
    let mut following = daemon.follow(&["-j", "monitor", "--command", "bench.count", "--outcome", "ok"]);
    let call = ["call", "bench.count", "items:=2000", "size:=0", "--channel", "to", "-o", "/dev/null"];
    let line = first(&daemon, &mut following, &call, 0);
    assert_eq!((&line["command"], &line["runs"]), (&json!("bench.count"), &json!("pool")));
    assert!(line["handler_us"].as_u64() > Some(0), "2000 items take some time: {line}");
}

#[test]
fn calls_that_are_refused_are_told_and_others_are_filtered_out() {
    let daemon = Daemon::start();
    let words = ["-j", "monitor", "--outcome", "permission_denied"];
    let mut following = daemon.follow(&words);
    let line = first(&daemon, &mut following, &["call", "fs.read_file", "path=/etc/passwd"], 3);
    assert_eq!((&line["command"], &line["outcome"]), (&json!("fs.read_file"), &json!("permission_denied")));
    assert!(!line.to_string().contains("passwd"), "a path is an argument: {line}");
    daemon.ctl(&["call", "core.ping"]).expect(0);
    let next = first(&daemon, &mut following, &["call", "fs.metadata", "path=/etc/passwd"], 3);
    assert_eq!(next["outcome"], "permission_denied", "{next}");
}

#[test]
fn what_can_not_be_asked_is_refused_with_what_can() {
    let daemon = Daemon::start();
    for (words, hint) in [
        (["monitor", "--outcome", "bad"], "ok, error or the name of a code"),
        (["monitor", "--peer", "exe=/usr/bin/x"], "uid, user, pid and connection"),
        (["monitor", "--command", "fs.[a"], "`command`"),
        (["call", "core.monitor", "--channel=calls"], "drop_oldest or latest"),
    ] {
        let ended = daemon.ctl(&words).expect(9);
        assert!(ended.stderr.contains(hint), "{}", ended.stderr);
    }
}
