//! Calls a second: many open at once, on one connection or several.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use invoked_client::{Client, Options};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::hosted::lane;
use super::{Amount, BenchError, Carrier, Done, HOSTED, Load, Pin, Rate};

/// One of so many calls is timed, and the clock looked at then: to do so for each small one would take a part of it.
const TIMED: u64 = 16;

/// From this size of a reply on, each call is timed.
const LARGE: u32 = 4096;

/// Calls of one system under one load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThroughputRow {
    /// What was measured.
    pub system: &'static str,
    /// How the other end answers.
    pub mode: &'static str,
    /// Bytes of the reply.
    pub size: u32,
    /// Calls.
    pub n: u64,
    /// Half of the calls took no longer, in nanoseconds; the next three likewise. One of 16 small calls is timed, and of the
    /// floor a batch.
    pub p50_ns: u64,
    /// Nine in ten.
    pub p90_ns: u64,
    /// 99 in a hundred.
    pub p99_ns: u64,
    /// 999 in a thousand.
    pub p999_ns: u64,
    /// Their mean, in nanoseconds.
    pub mean_ns: u64,
    /// Calls that were open at once on each connection.
    pub in_flight: u32,
    /// Connections.
    pub connections: u32,
    /// Calls a second, on all connections together.
    pub calls_per_s: u64,
    /// Bytes of replies a second.
    pub bytes_per_s: u64,
    /// Processor time of both ends for a call, in nanoseconds; `None` if the kernel doesn't tell.
    pub cpu_ns_per_call: Option<u64>,
    /// Where the processes ran.
    pub pin: Pin,
    /// The median, over the rounds, of this rate beside that of the floor in the same round: more is better.
    pub ratio: f64,
    /// The times that were taken, in nanoseconds.
    #[serde(skip)]
    pub times: Histogram<u64>,
}

impl From<&Rate> for ThroughputRow {
    fn from(rate: &Rate) -> Self {
        ThroughputRow {
            system: rate.system,
            mode: rate.mode,
            size: rate.load.size,
            n: rate.n,
            p50_ns: rate.at(0.5),
            p90_ns: rate.at(0.9),
            p99_ns: rate.at(0.99),
            p999_ns: rate.at(0.999),
            mean_ns: rate.mean(),
            in_flight: rate.load.in_flight,
            connections: rate.load.connections,
            calls_per_s: rate.per_s,
            bytes_per_s: rate.bytes_per_s,
            cpu_ns_per_call: rate.cpu_ns,
            pin: rate.pin,
            ratio: rate.ratio,
            times: rate.times.clone(),
        }
    }
}

/// The daemon's `bench.bytes`, called by the async Rust client: `in_flight` tasks on each connection, which call again as
/// soon as they are answered, all on one thread.
#[derive(Debug)]
pub struct HostedCalls {
    // They end before what runs their drivers.
    clients: Vec<Client>,
    runtime: Runtime,
    options: Options,
    daemon: Option<u32>,
}

impl HostedCalls {
    /// Measures a daemon that has the plugin `bench`, to which `options` connect as connections are wanted. `daemon` is its
    /// process, for the processor time.
    ///
    /// # Errors
    /// [`BenchError::Io`] if there can be no runtime.
    pub fn new(options: Options, daemon: Option<u32>) -> Result<Self, BenchError> {
        Ok(HostedCalls { clients: Vec::new(), runtime: runtime()?, options, daemon })
    }
}

/// A runtime on the calling thread.
pub(super) fn runtime() -> Result<Runtime, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(BenchError::io("can't start a runtime"))
}

/// For `map_err` of a call.
pub(super) fn call_failed(error: invoked_client::Error) -> BenchError {
    BenchError::Call(Box::new(error))
}

impl Carrier for HostedCalls {
    fn system(&self) -> &'static str {
        HOSTED
    }

    fn mode(&self, load: Load) -> &'static str {
        lane(load.size)
    }

    fn servers(&self) -> Option<Vec<u32>> {
        self.daemon.map(|daemon| vec![daemon])
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
        let HostedCalls { clients, runtime, options, .. } = self;
        let wanted = load.connections as usize;
        runtime.block_on(async {
            while clients.len() < wanted {
                clients.push(Client::connect(options.clone()).await.map_err(call_failed)?);
            }
            let mut tasks = JoinSet::new();
            let workers = u64::from(load.connections) * u64::from(load.in_flight);
            let callers =
                clients[..wanted].iter().flat_map(|client| (0..load.in_flight).map(move |_| client));
            let clock = Arc::new(Clock::new());
            for (client, index) in callers.zip(0..) {
                let caller = Worker { client: client.clone(), index, clock: Arc::clone(&clock) };
                tasks.spawn(caller.calls(load.size, amount.portion(index, workers)));
            }
            let mut sum = Done::default();
            while let Some(done) = tasks.join_next().await {
                sum.add(done.map_err(|error| BenchError::io("a task ended")(error.into()))??);
            }
            Ok(sum)
        })
    }
}

/// When it began, and whether a task has found that the time is over.
#[derive(Debug)]
struct Clock {
    begin: Instant,
    over: AtomicBool,
}

impl Clock {
    fn new() -> Self {
        Clock { begin: Instant::now(), over: AtomicBool::new(false) }
    }

    fn is_over(&self, time: Duration, looks: bool) -> bool {
        if looks && self.begin.elapsed() >= time {
            self.over.store(true, Ordering::Relaxed);
        }
        self.over.load(Ordering::Relaxed)
    }
}

/// A task that calls.
struct Worker {
    client: Client,
    index: u64,
    clock: Arc<Clock>,
}

impl Worker {
    /// One call after the other.
    async fn calls(self, size: u32, amount: Amount) -> Result<Done, BenchError> {
        let timed = if size < LARGE { TIMED } else { 1 };
        let mut done = Done::default();
        loop {
            // Each task begins elsewhere, so that one of them looks at the clock every so many calls of all.
            let is_timed = (done.units + self.index).is_multiple_of(timed);
            let ended = match amount {
                Amount::Count(count) => done.units >= count,
                // At least one, however slow.
                Amount::Time(time) => done.units > 0 && self.clock.is_over(time, is_timed),
            };
            if ended {
                return Ok(done);
            }
            let start = is_timed.then(Instant::now);
            let call = self.client.call("bench.bytes").arg("len", size);
            let got = call.send().await.map_err(call_failed)?.bytes().len();
            if u32::try_from(got) != Ok(size) {
                return Err(BenchError::WrongReply { system: HOSTED, got, expected: size });
            }
            done.times.extend(start.map(|start| nanoseconds(start.elapsed())));
            done.units += 1;
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
