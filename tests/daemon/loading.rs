//! A policy of ten thousand capabilities that is read while the daemon works: its loop goes on.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::Start;

const CAPABILITIES: usize = 10_000;

/// Peers that connect to it; 4800, say, where `INVOKED_TEST_PEERS` says so and `ulimit -n` lets both processes.
fn peers() -> usize {
    let wanted = std::env::var("INVOKED_TEST_PEERS").ok();
    wanted.map_or(500, |text| text.parse().expect("INVOKED_TEST_PEERS is a number"))
}

/// Capabilities of one file.
const PER_FILE: usize = 100;

/// Lets the pinger end, also where an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn file(number: usize, limit: usize) -> String {
    let mut text = String::new();
    for index in number * PER_FILE..(number + 1) * PER_FILE {
        writeln!(
            text,
            "[[capabilities]]\nidentifier = 'c{index}'\npeers = ['uid:{}']\n\
             permissions = ['bench:default', {{ identifier = 'fs:allow-read-file', allow = ['/srv/{index}/**'] }}]\n\
             limits = {{ open_calls = {limit} }}",
            100_000 + index
        )
        .unwrap();
    }
    text
}

/// The longest that one ping waited for its answer.
struct Longest(Mutex<Duration>);

impl Longest {
    fn note(&self, waited: Duration) {
        let mut longest = self.0.lock().unwrap();
        *longest = waited.max(*longest);
    }

    fn take(&self) -> Duration {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[test]
fn a_large_policy_is_loaded_while_peers_are_answered() {
    let count = peers();
    let config = format!("[policy]\nwatch = false\n[quotas]\nconnections_per_uid = {}\n", count + 100);
    let daemon = Start::dev().config(&config).run();
    let (busy, admin) = (daemon.client(), daemon.client());
    let (longest, done) = (Longest(Mutex::default()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let asked = Instant::now();
                busy.invoke::<Value>("core.ping", &Value::Null).unwrap();
                longest.note(asked.elapsed());
            }
        });
        let _stop = Stop(&done);
        // The second one also lets go of the first.
        for limit in 1..=2 {
            for number in 0..CAPABILITIES / PER_FILE {
                daemon.place().write(&format!("capabilities/{number:04}.toml"), file(number, limit));
            }
            std::thread::sleep(Duration::from_millis(1050));
            longest.take();
            let asked = Instant::now();
            let reloaded: Value = admin.invoke("core.reload", &Value::Null).unwrap();
            let (took, longest) = (asked.elapsed(), longest.take());
            assert!(reloaded["capabilities"].as_u64().unwrap() >= CAPABILITIES as u64, "{reloaded}");
            // Were the policy read, compiled or dropped on the loop, one ping would wait for that.
            assert!(longest * 3 < took, "a ping waited {longest:?} while a policy was loaded for {took:?}");
        }
        // What it gives a peer that connects is found among all of them, and not on the loop either.
        let asked = Instant::now();
        let peers: Vec<_> = (0..count).map(|_| daemon.client()).collect();
        for peer in &peers {
            assert_eq!(peer.invoke::<Value>("core.ping", &Value::Null).unwrap(), "pong");
        }
        let (took, longest) = (asked.elapsed(), longest.take());
        assert!(longest * 3 < took, "a ping waited {longest:?} while {count} peers connected in {took:?}");
    });
}
