//! Providers that the daemon starts itself, of its configuration file.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::world::{Daemon, INVOKECTL};

/// Longer than anything takes that does not hang.
const HANG: Duration = Duration::from_secs(30);

/// A daemon whose configuration has these tables of providers, and interfaces with one command `run` of these plugins. `SERVE`
/// stands for the tool's `serve`, as words of a list.
fn daemon(providers: &str, interfaces: &[&str]) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config/invoked");
    std::fs::create_dir_all(config.join("interfaces.d")).unwrap();
    let serve = format!("\"{INVOKECTL}\", \"-q\", \"serve\"");
    std::fs::write(config.join("invoked.toml"), providers.replace("SERVE", &serve)).unwrap();
    for plugin in interfaces {
        let method = json!({
            "name": format!("{plugin}.run"), "params": [], "result": { "name": "result", "schema": true },
        });
        let interface = json!({
            "openrpc": "1.3.2", "info": { "title": plugin, "version": "1.0.0" }, "methods": [method],
            "x-invoked": { "plugin": plugin },
        });
        let file = config.join(format!("interfaces.d/{plugin}.json"));
        std::fs::write(file, interface.to_string()).unwrap();
    }
    Daemon::start_in(directory)
}

fn await_file(path: &Path) -> String {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') {
            return text.trim().to_owned();
        }
        assert!(start.elapsed() < HANG, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn await_end(pid: &str) {
    let start = Instant::now();
    while PathBuf::from(format!("/proc/{pid}")).exists() {
        assert!(start.elapsed() < HANG, "{pid} goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(pid: &str) {
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Notes its own number, and serves.
const NOTED: &str = r#"
[providers.text]
command = ["sh", "-c", "echo $$ >> starts; exec \"$0\" \"$@\"", SERVE, "text.upper", "--raw", "--", "tr", "a-z", "A-Z"]
idle_timeout_ms = IDLE
"#;

fn starts(daemon: &Daemon) -> Vec<String> {
    let text = std::fs::read_to_string(daemon.shared().join("starts")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn upper(daemon: &Daemon) {
    let ended = daemon.ctl_with(&["call", "text.upper", "--raw", "-"], b"hi\n").expect(0);
    assert_eq!(ended.stdout, b"HI\n");
}

/// Waits until the provider has registered for the first time, which makes its commands known.
fn await_registration(daemon: &Daemon) {
    let start = Instant::now();
    while daemon.ctl(&["describe", "text.upper"]).code != Some(0) {
        assert!(start.elapsed() < HANG, "it does not register");
    }
}

#[test]
fn one_that_is_killed_is_back_at_the_next_call() {
    let daemon = daemon(&NOTED.replace("IDLE", "0"), &[]);
    // Nobody knows its commands yet, so it is started for that once.
    await_registration(&daemon);
    upper(&daemon);
    assert_eq!(starts(&daemon).len(), 1);
    for round in 1..=3 {
        let pid = starts(&daemon).pop().unwrap();
        kill(&pid);
        await_end(&pid);
        // Whoever calls waits for it, several at once for one start.
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| upper(&daemon))).collect();
            calls.into_iter().for_each(|call| call.join().unwrap());
        });
        assert_eq!(starts(&daemon).len(), 1 + round);
    }
}

#[test]
fn one_that_nobody_calls_is_stopped_and_started_again() {
    let daemon = daemon(&NOTED.replace("IDLE", "200"), &[]);
    await_registration(&daemon);
    let first = starts(&daemon).pop().unwrap();
    await_end(&first);
    upper(&daemon);
    let second = starts(&daemon).pop().unwrap();
    assert_ne!(first, second);
    await_end(&second);
    upper(&daemon);
    assert_eq!(starts(&daemon).len(), 3);
}

#[test]
fn one_that_crashes_at_once_is_tried_ever_more_seldom_and_harms_nobody_else() {
    let daemon = daemon(
        r#"
        [providers.broken]
        command = ["sh", "-c", "echo try >> tries; exit 1"]

        [providers.absent]
        command = ["/nowhere/to/be/found"]

        [providers.mute]
        command = ["sleep", "1000"]
        start_timeout_ms = 100
        "#,
        &["broken", "absent", "mute"],
    );
    let start = Instant::now();
    for plugin in ["broken", "absent", "mute"] {
        let name = format!("{plugin}.run");
        daemon.ctl(&["call", &name, "--timeout", "20s"]).expect(5);
        daemon.ctl(&["ping", "-n", "1"]).expect(0);
    }
    assert!(start.elapsed() < HANG);
    await_file(&daemon.shared().join("tries"));
    let tries = std::fs::read_to_string(daemon.shared().join("tries")).unwrap().lines().count();
    assert!(tries < 20, "{tries} tries");
}
