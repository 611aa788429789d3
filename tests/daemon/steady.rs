//! What one small call costs the daemon once everything is warm: system calls, locks, threads.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use invoked_client::Address;
use invoked_client::blocking::Client;

use crate::child::{Other, options, say};
use crate::harness::{Daemon, Start, eventually};

const CALLS: u64 = 100_000;

/// Calls as often as each line of its input says, on one connection.
pub(crate) fn caller(address: &Address) {
    let client = Client::connect(options(address)).unwrap();
    say("connected");
    let mut order = String::new();
    while std::io::stdin().read_line(&mut order).unwrap() > 0 {
        let calls: u64 = order.trim_end().parse().unwrap();
        for _ in 0..calls {
            let reply = client.call("core.echo").raw(vec![7; 64]).send().unwrap();
            assert_eq!(reply.bytes().len(), 64);
        }
        say("done");
        order.clear();
    }
}

/// System calls of the daemon by name, by thread, while the caller makes its calls.
fn trace(daemon: &Daemon, caller: &mut Other) -> BTreeMap<String, u64> {
    let output = daemon.place().path("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&output)
        .args(["-p", &daemon.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is installed: this test counts system calls with it");
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
        tracer.trim() != "0"
    };
    eventually(
        "strace can't attach to the daemon: it needs ptrace (kernel.yama.ptrace_scope, CAP_SYS_PTRACE)",
        || {
            assert!(strace.try_wait().unwrap().is_none(), "strace can't attach to the daemon and has ended");
            traced()
        },
    );
    assert_eq!(caller.ask(&CALLS.to_string()), "done");
    let pid = rustix::process::Pid::from_raw(strace.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    strace.wait().unwrap();
    let table = std::fs::read_to_string(output).unwrap();
    let rows = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        // "% time, seconds, usecs/call, calls, errors?, syscall"
        let calls = columns.get(3)?.parse().ok()?;
        let name = (*columns.last()?).to_owned();
        (name != "total").then_some((name, calls))
    });
    rows.collect()
}

#[test]
fn one_inline_call_is_three_system_calls_no_lock_and_no_other_thread() {
    let daemon = Start::dev().run();
    let mut caller = Other::start("steady", daemon.place());
    assert_eq!(caller.answer(), "connected");
    assert_eq!(caller.ask("2000"), "done");
    let switches = thread_switches(&daemon);
    let counts = trace(&daemon, &mut caller);
    let total: u64 = counts.values().sum();
    let per_call = total as f64 / CALLS as f64;
    assert!(per_call <= 3.05, "{per_call} system calls a call: {counts:?}");
    // `sendto` and `recvfrom` are how strace calls `send` and `recv`.
    let seen = |names: [&str; 2]| -> u64 { names.iter().filter_map(|name| counts.get(*name)).sum() };
    let (reads, writes) = (seen(["recvmsg", "recvfrom"]), seen(["sendmsg", "sendto"]));
    assert!(reads >= CALLS && writes >= CALLS, "not all were seen: {counts:?}");
    // A lock that is never waited for makes no system call; one that hands work to another thread does.
    let locks = counts.get("futex").copied().unwrap_or(0);
    // An idle thread that happens to end meanwhile wakes another once or twice.
    assert!(locks < 5, "{locks} futex calls: {counts:?}");
    for (thread, now) in thread_switches(&daemon) {
        let before = switches.get(&thread).copied().unwrap_or(0);
        let is_loop = thread == daemon.pid();
        assert!(is_loop || now - before < 50, "thread {thread} ran {} times for {CALLS} calls", now - before);
    }
}

/// How often each thread of the daemon gave the processor back.
fn thread_switches(daemon: &Daemon) -> BTreeMap<u32, u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let counted = tasks.map(|task| {
        let task = task.unwrap();
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        (task.file_name().to_str().unwrap().parse().unwrap(), line.trim().parse().unwrap())
    });
    counted.collect()
}
