//! What must hold after a hostile case, and the innocent callers that must not notice it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use invoked_client::Options;
use invoked_client::blocking::Client;
use serde_json::Value;

use crate::harness::{Daemon, HANG, eventually, stats};

/// How much a daemon's own memory may have grown after a case, in KiB: what its allocator keeps for the next time.
const MEMORY_SLACK: u64 = 12 * 1024;

/// A well-behaved peer that pings all along, and the state to come back to.
pub(crate) struct Watch {
    operator: Client,
    pinger: Pinger,
    pid: u32,
    fds: usize,
    resident: u64,
    gauges: [u64; 6],
}

impl Watch {
    pub(crate) fn start(daemon: &Daemon) -> Self {
        let operator = daemon.client();
        let pinger = Pinger::start(daemon.place().options());
        // So that threads, buffers and tables that come with the first calls are there.
        for _ in 0..200 {
            operator.ping().unwrap();
        }
        pinger.await_pings(200);
        let gauges = gauges(&stats(&operator));
        let (fds, resident) = (daemon.fds(), daemon.resident());
        Watch { operator, pinger, pid: daemon.pid(), fds, resident, gauges }
    }

    /// The operator's connection.
    pub(crate) fn operator(&self) -> &Client {
        &self.operator
    }

    /// Waits until nothing of the case is left: descriptors, peers, calls, bytes. The pinger must have been answered since
    /// the last time.
    pub(crate) fn check(&self, daemon: &mut Daemon, case: &str) {
        assert!(daemon.is_running(), "{case}: the daemon is gone:\n{}", daemon.log());
        assert_eq!(daemon.pid(), self.pid, "{case}: another process");
        let mut last = [0; 6];
        let start = Instant::now();
        while last != self.gauges {
            assert!(
                start.elapsed() < HANG,
                "{case}: {last:?} and not {:?}: {}",
                self.gauges,
                stats(&self.operator)
            );
            last = gauges(&stats(&self.operator));
        }
        eventually(&format!("{case}: {} descriptors and not {}", daemon.fds(), self.fds), || {
            daemon.fds() == self.fds
        });
        self.pinger.await_pings(2);
    }

    /// Also memory.
    pub(crate) fn check_memory(&self, daemon: &Daemon, case: &str) {
        let start = Instant::now();
        while daemon.resident() > self.resident + MEMORY_SLACK {
            let now = daemon.resident();
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{case}: {now} KiB after {} KiB",
                self.resident
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of the case.
    pub(crate) fn finish(self, daemon: &mut Daemon, case: &str) {
        self.check(daemon, case);
        self.check_memory(daemon, case);
        let pings = self.pinger.stop();
        assert!(pings > 0, "{case}: the innocent peer had no answer");
    }
}

/// Peers, calls in flight (that of the question included), bytes of messages, bytes unread, channels, bytes of items.
fn gauges(stats: &Value) -> [u64; 6] {
    ["peers", "calls_in_flight", "message_bytes", "unread_bytes", "channels", "item_bytes"]
        .map(|key| stats[key].as_u64().unwrap())
}

struct Pinger {
    stop: Arc<AtomicBool>,
    pings: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Pinger {
    fn start(options: Options) -> Self {
        let (stop, pings) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, pings) = (Arc::clone(&stop), Arc::clone(&pings));
            move || {
                let client = Client::connect(options).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = client.ping() {
                        // A test that fails takes its daemon with it.
                        assert!(stop.load(Ordering::Relaxed), "an innocent peer is not answered: {error}");
                        return;
                    }
                    pings.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Pinger { stop, pings, thread }
    }

    /// Waits for so many more answers.
    fn await_pings(&self, more: u64) {
        let goal = self.pings.load(Ordering::Relaxed) + more;
        eventually("the innocent peer is not answered", || {
            assert!(!self.thread.is_finished(), "the innocent peer failed");
            self.pings.load(Ordering::Relaxed) >= goal
        });
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the innocent peer failed");
        self.pings.load(Ordering::Relaxed)
    }
}

/// What became of the calls of innocent callers.
#[derive(Debug, Default)]
struct Ledger {
    sent: AtomicU64,
    ok: AtomicU64,
    errors: AtomicU64,
}

/// Innocent callers that go on until they are told to stop. They keep their connections until they are dropped.
pub(crate) struct Innocents {
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
    ledger: Arc<Ledger>,
    threads: Vec<JoinHandle<()>>,
}

impl Innocents {
    /// Connects so many; none calls yet. They share no memory, of which the daemon would hold a descriptor as long as they live.
    pub(crate) fn connect(count: usize, options: &Options) -> Self {
        let connect = || Client::connect(options.clone().shared_memory(false)).unwrap();
        let clients = (0..count).map(|_| connect()).collect();
        Innocents { clients, stop: Arc::default(), ledger: Arc::default(), threads: Vec::new() }
    }

    pub(crate) fn start(&mut self) {
        for client in &self.clients {
            let (stop, ledger, client) = (Arc::clone(&self.stop), Arc::clone(&self.ledger), client.clone());
            self.threads.push(std::thread::spawn(move || {
                let mut size = 0;
                while !stop.load(Ordering::Relaxed) {
                    call(&client, size, &ledger);
                    size = (size * 7 + 13) % 100_000;
                    std::thread::sleep(Duration::from_micros(300));
                }
            }));
        }
    }

    /// Stops them; every call has ended with its own reply or a typed error. Gives the number of errors.
    pub(crate) fn finish(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("an innocent caller failed");
        }
        let [sent, ok, errors] = [&self.ledger.sent, &self.ledger.ok, &self.ledger.errors]
            .map(|count| count.load(Ordering::Relaxed));
        assert!(sent > 0, "nothing was sent");
        assert_eq!(sent, ok + errors, "calls were lost: {:?}", self.ledger);
        errors
    }
}

fn call(client: &Client, size: usize, ledger: &Ledger) {
    let body = vec![size as u8; size];
    ledger.sent.fetch_add(1, Ordering::Relaxed);
    match client.call("bench.echo").raw(body.clone()).send() {
        Ok(reply) => {
            assert_eq!(reply.bytes(), body, "another call's answer");
            ledger.ok.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => {
            assert!(error.code().is_some(), "untyped: {error}");
            ledger.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
