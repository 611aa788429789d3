//! `invokectl serve`: programs as commands.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::world::{Daemon, INVOKECTL, ctl};

/// Longer than anything takes that does not hang.
const HANG: Duration = Duration::from_secs(30);

/// `invokectl -j serve`, ready; it ends with the test.
struct Serving {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Serving {
    fn start(daemon: &Daemon, words: &[&str]) -> Self {
        let mut serving = Self::spawn(daemon, words);
        let ready = serving.line();
        assert_eq!(ready["serving"], words[0], "{ready}");
        assert_eq!(ready["address"], daemon.address());
        serving
    }

    fn spawn(daemon: &Daemon, words: &[&str]) -> Self {
        let mut child = Command::new(INVOKECTL)
            .args(["-j", "-a", &daemon.address(), "serve"])
            .args(words)
            .current_dir(daemon.shared())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Serving { child, lines }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} {}", self.errors()))
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        drop(self.child.kill());
        self.child.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn shell<'a>(name: &'a str, script: &'a str) -> [&'a str; 5] {
    [name, "--", "sh", "-c", script]
}

#[test]
fn a_raw_command_is_a_program_between_two_pipes() {
    let daemon = Daemon::start();
    let mut serving = Serving::start(&daemon, &["text.upper", "--raw", "--", "tr", "a-z", "A-Z"]);
    let ended = daemon.ctl_with(&["call", "text.upper", "--raw", "-"], b"hi\n").expect(0);
    assert_eq!(ended.stdout, b"HI\n");
    let told = serving.line();
    assert_eq!(
        (&told["outcome"], &told["bytes_in"], &told["bytes_out"]),
        (&json!("ok"), &json!(3), &json!(3))
    );
    // More than any pipe or frame holds, both ways at once.
    let large: Vec<u8> = b"abcdefg\n".iter().copied().cycle().take(3_000_000).collect();
    let ended = daemon.ctl_with(&["call", "text.upper", "--raw", "-"], &large).expect(0);
    assert_eq!(ended.stdout, large.to_ascii_uppercase());
    let described = daemon.ctl(&["describe", "text.upper"]).expect(0).text();
    assert!(described.contains("Runs tr.") && described.contains("text:allow-upper"), "{described}");
}

#[test]
fn arguments_are_json_on_standard_input_and_the_result_is_what_is_printed() {
    let daemon = Daemon::start();
    let _cat = Serving::start(&daemon, &["text.same", "--", "cat"]);
    let ended = daemon.ctl(&["call", "text.same", "a=; rm -rf /", "b:=[1,2]"]).expect(0);
    assert_eq!(ended.objects(), [json!({ "a": "; rm -rf /", "b": [1, 2] })]);
    let _nothing = Serving::start(&daemon, &["other.nothing", "--", "true"]);
    assert_eq!(daemon.ctl(&["call", "other.nothing"]).expect(0).stdout, b"null\n");
    let _words = Serving::start(&daemon, &["words.say", "--", "echo", "HELLO"]);
    let ended = daemon.ctl(&["call", "words.say"]).expect(10);
    assert!(ended.stderr.contains("serve it with --raw"), "{}", ended.stderr);
    let who = "printf '[%s,%s,\"%s\"]' $INVOKED_PEER_UID $INVOKED_PEER_PID $INVOKED_PEER_USER";
    let _who = Serving::start(&daemon, &shell("who.calls", who));
    let seen: Value = serde_json::from_slice(&daemon.ctl(&["call", "who.calls"]).expect(0).stdout).unwrap();
    assert_eq!(seen[0], rustix::process::geteuid().as_raw());
    assert!(seen[1].as_u64().is_some_and(|pid| pid > 1), "{seen}");
}

#[test]
fn a_program_that_fails_is_the_command_s_own_error() {
    let daemon = Daemon::start();
    let _fails = Serving::start(&daemon, &shell("text.fails", "echo no such text >&2; exit 3"));
    let ended = daemon.ctl(&["-j", "call", "text.fails"]).expect(1);
    assert_eq!(ended.error()["body"], json!({ "exit": 3, "stderr": "no such text\n" }));
    let _dies = Serving::start(&daemon, &shell("other.dies", "kill -9 $$"));
    let ended = daemon.ctl(&["-j", "call", "other.dies"]).expect(1);
    assert_eq!(ended.error()["body"], json!({ "signal": 9, "stderr": "" }));
    let _loud =
        Serving::start(&daemon, &["loud.zeros", "--raw", "--", "head", "-c", "68000000", "/dev/zero"]);
    let ended = daemon.ctl(&["-j", "call", "loud.zeros"]).expect(27);
    assert_eq!(ended.error()["code"], "too_large");
}

#[test]
fn lines_are_items_as_they_come() {
    let daemon = Daemon::start();
    let script = "echo one; echo two; printf 'no end'";
    let _lines = Serving::start(&daemon, &["log.tail", "--lines", "--", "sh", "-c", script]);
    let ended = daemon.ctl(&["-j", "call", "log.tail", "--channel", "lines"]).expect(0);
    let items: Vec<Value> =
        ended.objects().into_iter().filter(|object| object.get("item").is_some()).collect();
    let texts: Vec<&Value> = items.iter().map(|object| &object["item"]).collect();
    assert_eq!(texts, [&json!("one"), &json!("two"), &json!("no end")], "{}", ended.text());
}

#[test]
fn a_call_that_ends_takes_the_program_and_its_children_with_it() {
    let daemon = Daemon::start();
    // The first does as it is asked to, the second doesn't.
    for (name, trap) in [("slow.kind", ""), ("deaf.kind", "trap '' TERM; ")] {
        let script = format!("{trap}sleep 1000 & echo $! > child; echo $$ > own; wait; sleep 1000");
        let _serving = Serving::start(&daemon, &shell(name, &script));
        daemon.ctl(&["call", name, "--timeout", "300ms"]).expect(6);
        for file in ["own", "child"] {
            let pid = std::fs::read_to_string(daemon.shared().join(file)).unwrap();
            let process = format!("/proc/{}", pid.trim());
            let start = Instant::now();
            while is_alive(Path::new(&process)) {
                assert!(start.elapsed() < HANG, "{name}: {file} {pid} goes on");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Whether a process runs; one that nobody has waited for does not.
fn is_alive(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn so_many_run_at_once_and_no_more() {
    let daemon = Daemon::start();
    let script = "mkdir place || exit 7; sleep 0.05; rmdir place";
    let words = ["one.at_a_time", "--jobs", "1", "--", "sh", "-c", script];
    let _serving = Serving::start(&daemon, &words);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| daemon.ctl(&["call", "one.at_a_time"]))).collect();
        calls.into_iter().for_each(|call| drop(call.join().unwrap().expect(0)));
    });
}

#[test]
fn a_signal_ends_it_in_good_order() {
    let daemon = Daemon::start();
    let mut serving = Serving::start(&daemon, &shell("slow.answer", "touch began; sleep 0.3; echo 1"));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| daemon.ctl(&["call", "slow.answer"]));
        let start = Instant::now();
        while !daemon.shared().join("began").exists() {
            assert!(start.elapsed() < HANG);
            std::thread::sleep(Duration::from_millis(2));
        }
        serving.signal(Signal::TERM);
        assert_eq!(call.join().unwrap().expect(0).stdout, b"1\n", "what is open is answered");
    });
    assert_eq!(serving.exit_code(), Some(143));
    daemon.ctl(&["call", "slow.answer"]).expect(5);
}

#[test]
fn what_can_not_be_served_is_said_with_what_to_do() {
    let mut daemon = Daemon::start();
    let _first = Serving::start(&daemon, &["text.upper", "--raw", "--", "cat"]);
    let mut second = Serving::spawn(&daemon, &["text.lower", "--raw", "--", "cat"]);
    let errors = second.errors_at_end();
    assert!(errors.contains("already_exists") && errors.contains("--take-over"), "{errors}");
    assert_eq!(second.exit_code(), Some(20));
    let _taken = Serving::start(&daemon, &["text.lower", "--raw", "--take-over", "--", "cat"]);
    assert_eq!(daemon.ctl_with(&["call", "text.lower", "--raw", "-"], b"x").expect(0).stdout, b"x");
    let mut built_in = Serving::spawn(&daemon, &["fs.read_file", "--raw", "--", "cat"]);
    assert!(built_in.errors_at_end().contains("fs"), "a plugin of the daemon's own");
    assert!(built_in.exit_code().is_some_and(|code| code != 0));
    for (words, text) in [
        (&["serve", "upper", "--", "cat"][..], "belongs to a plugin"),
        (&["serve", "text.upper", "--", "no-such-program"], "there is no program no-such-program"),
        (&["--narrow", "dev", "serve", "text.upper", "--", "cat"], "--narrow"),
    ] {
        let ended = ctl(words).expect(2);
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    }
    daemon.kill();
    let mut alone = Serving::spawn(&daemon, &["text.upper", "--raw", "--", "cat"]);
    assert!(alone.errors_at_end().contains("unavailable"));
    assert_eq!(alone.exit_code(), Some(5));
}

impl Serving {
    /// What it says when it ends by itself.
    fn errors_at_end(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}
