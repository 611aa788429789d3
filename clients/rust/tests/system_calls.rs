//! What a call costs in system calls, counted by strace in a process of its own.

mod daemon;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use daemon::Daemon;
use invoked_client::blocking::Client;

const ADDRESS: &str = "INVOKED_TEST_ADDRESS";
const CALLS: &str = "INVOKED_TEST_CALLS";

/// The difference between two runs is what the calls between them cost; connecting, and the test harness, cancel out.
#[test]
fn a_small_call_of_one_thread_is_one_write_and_one_read() {
    if let Ok(calls) = std::env::var(CALLS) {
        return caller(calls.parse().expect("a number"));
    }
    let daemon = Daemon::start();
    let few = count(&daemon, 100);
    let many = count(&daemon, 1100);
    let cost = |names: [&str; 2]| -> i64 {
        names.iter().map(|name| many.get(*name).unwrap_or(&0) - few.get(*name).unwrap_or(&0)).sum()
    };
    // `sendto` and `recvfrom` are how strace calls `send` and `recv`.
    let costs = (cost(["sendmsg", "sendto"]), cost(["recvmsg", "recvfrom"]));
    assert_eq!(costs, (1000, 1000), "{many:?}");
    let total = many.values().sum::<i64>() - few.values().sum::<i64>();
    // The harness and the allocator may differ by a few between runs, whatever the number of calls.
    assert!((2000 - 20..2000 + 20).contains(&total), "{total} for 1000 calls: {few:?} {many:?}");
}

fn caller(calls: usize) {
    let path = std::env::var_os(ADDRESS).expect("given together");
    let client = Client::connect(daemon::options(path.as_ref())).expect("there");
    for _ in 0..calls {
        let reply = client.call("test.echo").raw(vec![7; 64]).send().expect("echoed");
        assert_eq!(reply.bytes().len(), 64);
    }
}

/// System calls of a process that makes so many calls, by name.
fn count(daemon: &Daemon, calls: usize) -> BTreeMap<String, i64> {
    let output = tempfile::NamedTempFile::new().expect("a file");
    let status = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(output.path())
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_small_call_of_one_thread_is_one_write_and_one_read"])
        .env(ADDRESS, daemon.path())
        .env(CALLS, calls.to_string())
        .stdout(Stdio::null())
        .status()
        .expect("strace is installed");
    assert!(status.success(), "the traced process failed: {status}");
    let table = std::fs::read_to_string(output.path()).expect("strace wrote it");
    let rows = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        // "% time, seconds, usecs/call, calls, errors?, syscall"
        let calls = columns.get(3)?.parse().ok()?;
        let name = (*columns.last()?).to_owned();
        (name != "total").then_some((name, calls))
    });
    rows.collect()
}
