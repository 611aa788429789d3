//! What a call costs in system calls, counted by strace in a process of its own.

mod daemon;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use daemon::Daemon;
use invoked_client::Options;
use invoked_client::blocking::Client;

const ADDRESS: &str = "INVOKED_TEST_ADDRESS";
const CALLS: &str = "INVOKED_TEST_CALLS";

/// Longer than the default, as each system call of a traced process takes long.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// The name of the test as which the traced process runs, for each way to wait.
const WAITING: &str = "a_small_call_of_one_thread_is_one_write_and_one_read";
const LOOKING: &str = "a_look_saves_the_waiting_read";
const ONE_TASK: &str = "a_task_that_is_alone_looks_for_its_answer";
const GATHERING: &str = "calls_of_many_tasks_share_writes_and_reads";

#[test]
fn a_small_call_of_one_thread_is_one_write_and_one_read() {
    let Some(cost) = cost(WAITING, |calls| one_thread(calls, Duration::ZERO)) else { return };
    assert_eq!((cost.writes, cost.reads), (1000, 1000), "{cost:?}");
    // The harness and the allocator may differ by a few between runs, whatever the number of calls.
    assert!((2000 - 20..2000 + 20).contains(&cost.total), "{cost:?}");
}

#[test]
fn a_look_saves_the_waiting_read() {
    let Some(cost) = cost(LOOKING, |calls| one_thread(calls, BUSY_POLL)) else { return };
    assert_eq!(cost.writes, 1000, "{cost:?}");
    assert!((-20..20).contains(&(cost.total - cost.writes - cost.reads - cost.yields)), "{cost:?}");
    // How often it looks hangs on what else runs, so this is of one run and not a difference. The first wait looks.
    let Run { calls, reads, yields } = cost.many;
    assert!(yields > 0, "it never looked: {cost:?}");
    // Each time that the processor is given away there is one read; those beyond are the reads that wait.
    assert!(reads - yields <= calls + 20, "{cost:?}");
}

#[test]
fn a_task_that_is_alone_looks_for_its_answer() {
    let Some(cost) = cost(ONE_TASK, |calls| tasks(1, calls, BUSY_POLL)) else { return };
    assert_eq!(cost.writes, 1000, "each call goes at once: {cost:?}");
    assert!(cost.many.yields > 0, "it never looked: {cost:?}");
}

#[test]
fn calls_of_many_tasks_share_writes_and_reads() {
    let Some(cost) = cost(GATHERING, |calls| tasks(20, calls / 20, Duration::ZERO)) else { return };
    // About ten of these calls fill a write. Those that find the driver awake, or are alone for once, go by themselves.
    assert!(cost.writes <= 250, "{cost:?}");
    assert!(cost.reads <= 500, "each read finds an answer, and the one after it none: {cost:?}");
}

/// One traced process.
#[derive(Debug)]
struct Run {
    calls: i64,
    reads: i64,
    yields: i64,
}

// `sendto` and `recvfrom` are how strace calls `send` and `recv`.
const WRITES: &[&str] = &["sendmsg", "sendto"];
const READS: &[&str] = &["recvmsg", "recvfrom"];
const YIELDS: &[&str] = &["sched_yield"];

/// System calls of 1000 calls.
#[derive(Debug)]
struct Cost {
    writes: i64,
    reads: i64,
    yields: i64,
    total: i64,
    /// The run with more of them.
    many: Run,
}

/// The difference between two runs is what the calls between them cost; connecting, and the test harness, cancel out. `None` in
/// the traced process, after its calls.
fn cost(test: &str, caller: impl FnOnce(usize)) -> Option<Cost> {
    if let Ok(calls) = std::env::var(CALLS) {
        caller(calls.parse().expect("a number"));
        return None;
    }
    let daemon = Daemon::start();
    let few = count(&daemon, test, 100);
    let many = count(&daemon, test, 1100);
    let cost = |names: &[&str]| -> i64 {
        names.iter().map(|name| many.get(*name).unwrap_or(&0) - few.get(*name).unwrap_or(&0)).sum()
    };
    let of_many = |names: &[&str]| names.iter().filter_map(|name| many.get(*name)).sum();
    Some(Cost {
        writes: cost(WRITES),
        reads: cost(READS),
        yields: cost(YIELDS),
        total: many.values().sum::<i64>() - few.values().sum::<i64>(),
        many: Run { calls: 1100, reads: of_many(READS), yields: of_many(YIELDS) },
    })
}

fn options() -> Options {
    daemon::options(std::env::var_os(ADDRESS).expect("given together").as_ref())
}

fn one_thread(calls: usize, busy_poll: Duration) {
    let options = options().busy_poll(busy_poll);
    let client = Client::connect(options).expect("there");
    for _ in 0..calls {
        let reply = client.call("test.echo").raw(vec![7; 64]).send().expect("echoed");
        assert_eq!(reply.bytes().len(), 64);
    }
}

/// Tasks on one thread, each with a call in flight.
fn tasks(count: usize, calls_each: usize, busy_poll: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = invoked_client::Client::connect(options().busy_poll(busy_poll)).await.expect("there");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            let client = client.clone();
            tasks.spawn(async move {
                for _ in 0..calls_each {
                    let reply = client.call("test.echo").raw(vec![7; 64]).send().await.expect("echoed");
                    assert_eq!(reply.bytes().len(), 64);
                }
            });
        }
        tasks.join_all().await;
    });
}

/// System calls of a process that makes so many calls, by name.
fn count(daemon: &Daemon, test: &str, calls: usize) -> BTreeMap<String, i64> {
    let output = tempfile::NamedTempFile::new().expect("a file");
    let status = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(output.path())
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", test])
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
