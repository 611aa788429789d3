//! What becomes of a call with channels when the tool is interrupted, or nobody reads what it prints.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::world::{Daemon, INVOKECTL};

/// A call that sends more than anybody will take.
const ENDLESS: [&str; 7] =
    ["-j", "call", "bench.count", "items:=1000000000000", "size:=1", "--channel=to", "--timeout=10m"];

/// `invokectl -a ADDRESS`, in the middle of printing.
struct Printing {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Printing {
    fn start(daemon: &Daemon, words: &[&str]) -> Self {
        let mut child = Command::new(INVOKECTL)
            .args(["-a", &daemon.address()])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("invokectl starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Printing { child, lines }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("readable");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    /// Reads what is left, and gives it with the exit code and standard error.
    fn end(mut self) -> (Vec<Value>, Option<i32>, String) {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).expect("text");
        assert!(text.is_empty() || text.ends_with('\n'), "no line is cut");
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        let (code, stderr) = self.wait();
        (lines, code, stderr)
    }

    /// Waits for its end; nobody reads its output any more.
    fn wait(self) -> (Option<i32>, String) {
        let Printing { mut child, lines } = self;
        drop(lines);
        let mut stderr = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        (child.wait().expect("it ends").code(), stderr)
    }
}

/// Waits until the daemon holds nothing for anybody but who asks.
fn await_nothing_left(daemon: &Daemon) -> Value {
    let start = Instant::now();
    loop {
        let stats = daemon.ctl(&["-j", "stats"]).expect(0).objects().remove(0);
        let nothing = ["channels", "item_bytes", "unread_bytes"].iter().all(|key| stats[*key] == 0);
        // The question itself is a call.
        if nothing && stats["calls_in_flight"] == 1 && stats["peers"] == 1 {
            return stats;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{stats}");
    }
}

#[test]
fn a_signal_cancels_the_call_and_what_came_so_far_is_printed() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let daemon = Daemon::start();
        let mut printing = Printing::start(&daemon, &ENDLESS);
        let item = json!({ "channel": "to", "raw": { "base64": "AA==", "bytes": 1 } });
        assert_eq!(printing.line(), item);
        printing.signal(signal);
        let (lines, ended, stderr) = printing.end();
        assert_eq!(ended, Some(code), "{stderr}");
        assert!(lines.iter().all(|line| *line == item), "items, and no result");
        let told: Value = serde_json::from_str(&stderr).expect("one object");
        assert_eq!(told["error"]["code"], "cancelled", "the daemon has answered the cancel: {told}");
        let stats = await_nothing_left(&daemon);
        assert_eq!(stats["abandoned"], 1, "{stats}");
        assert_eq!(stats["late_completions"], 1, "the handler saw that nobody takes its items: {stats}");
    }
}

#[test]
fn people_who_interrupt_are_told_nothing_that_they_know() {
    let daemon = Daemon::start();
    let words: Vec<&str> = ENDLESS.into_iter().skip(1).collect();
    let mut printing = Printing::start(&daemon, &words);
    printing.lines.read_exact(&mut [0; 100]).expect("items");
    printing.signal(Signal::INT);
    let (_, stderr) = {
        std::io::copy(&mut printing.lines, &mut std::io::sink()).expect("the rest");
        printing.wait()
    };
    assert_eq!(stderr, "");
    await_nothing_left(&daemon);
}

#[test]
fn channels_that_outlive_their_call_are_stopped_by_a_signal() {
    let daemon = Daemon::start();
    let path = format!("path={}", daemon.shared().display());
    let watch = ["-j", "call", "fs.watch", &path, "--channel", "events=drop_oldest"];
    let mut printing = Printing::start(&daemon, &watch);
    // It is watched from some time on.
    let printed = std::thread::scope(|scope| {
        let line = scope.spawn(|| printing.line());
        let mut index = 0;
        while !line.is_finished() {
            std::fs::write(daemon.shared().join(format!("{index}")), b"").expect("written");
            index += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        line.join().expect("no panic")
    });
    assert_eq!(printed["channel"], "events", "as it comes, into a pipe: {printed}");
    printing.signal(Signal::INT);
    let (lines, code, stderr) = printing.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""), "{lines:?}");
    assert_eq!(lines.last(), Some(&json!({ "result": null })), "the call's result came long before");
    let stats = await_nothing_left(&daemon);
    assert_eq!(stats["abandoned"], 0, "the call had ended: {stats}");
}

#[test]
fn an_interrupt_ends_the_lines_of_standard_input_too() {
    let daemon = Daemon::start();
    let words = ["-j", "call", "bench.collect", "--lines", "from", "--timeout", "10m"];
    let printing = Printing::start(&daemon, &words);
    let start = Instant::now();
    while daemon.ctl(&["-j", "stats"]).expect(0).objects()[0]["channels"] != 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "the call is open");
    }
    printing.signal(Signal::INT);
    let (lines, code, stderr) = printing.end();
    assert_eq!((lines.len(), code), (0, Some(130)), "{stderr}");
    await_nothing_left(&daemon);
}

#[test]
fn a_reader_that_left_ends_the_call_in_good_order() {
    let daemon = Daemon::start();
    let mut printing = Printing::start(&daemon, &ENDLESS);
    printing.line();
    // As `head -n 1` does.
    let (code, stderr) = printing.wait();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let stats = await_nothing_left(&daemon);
    assert_eq!(stats["abandoned"], 1, "the call was cancelled: {stats}");
}

#[test]
fn output_that_can_not_be_written_cancels_the_call_and_is_the_error() {
    let daemon = Daemon::start();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let ended = Command::new(INVOKECTL)
        .args(["-a", &daemon.address()])
        .args(ENDLESS)
        .stdout(full)
        .output()
        .expect("it ends");
    let told: Value = serde_json::from_slice(&ended.stderr).expect("one object");
    assert_eq!((ended.status.code(), &told["error"]["code"]), (Some(10), &json!("local")));
    await_nothing_left(&daemon);
}

#[test]
fn a_daemon_that_hangs_does_not_keep_an_interrupted_call() {
    let daemon = Daemon::start();
    let mut printing = Printing::start(&daemon, &ENDLESS);
    printing.line();
    daemon.signal(Signal::STOP);
    printing.signal(Signal::INT);
    // It waits for an answer, but not for the ten minutes of the call.
    let (_, code, stderr) = printing.end();
    daemon.signal(Signal::CONT);
    assert_eq!(code, Some(130), "{stderr}");
    await_nothing_left(&daemon);
}
