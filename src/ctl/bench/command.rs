//! Which daemon `invokectl bench` measures; and `bench latency`, with its table.

use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_client::{Address, Options};
use invoked_transport::Stream;

use super::{Amount, BenchError, Floor, Hosted, Pin, Placement, Plan, Row, measure};
use crate::ctl::args::{Global, LatencyArgs, MeasureArgs};
use crate::ctl::connection::{connect, options};
use crate::ctl::failure::Failure;
use crate::ctl::output::Output;
use crate::ctl::sandbox::{Sandbox, sibling};
use crate::ctl::status::shown;

/// Rounds of a measurement; fewer if there are fewer round trips.
const ROUNDS: u32 = 20;

/// How long to measure when nobody says.
const DEFAULT_TIME: Duration = Duration::from_secs(6);

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Call(error) => Failure::from(*error),
            BenchError::Io { what, source } => Failure::Local { what, source },
            other @ BenchError::Processors { .. } => Failure::Usage(other.to_string()),
            other @ (BenchError::WrongReply { .. } | BenchError::WrongItems { .. }) => {
                Failure::local("the measurement is void")(std::io::Error::other(other))
            }
        }
    }
}

/// The daemon that is measured.
pub(super) struct Target {
    pub(super) client: Client,
    /// How to connect to it once more.
    pub(super) options: Options,
    /// Its process, if it is known.
    pub(super) pid: Option<u32>,
    pub(super) placement: Placement,
    pub(super) amount: Amount,
    /// It lives as long as the measurement, if it is for the purpose.
    _sandbox: Option<Sandbox>,
}

impl Target {
    /// Finds or starts a daemon, as the flags say.
    pub(super) fn new(global: &Global, args: &MeasureArgs, output: &Output) -> Result<Self, Failure> {
        let amount = match (args.count, args.seconds) {
            (Some(count), _) => Amount::Count(count),
            (None, Some(seconds)) => Amount::Time(Duration::from_secs(seconds)),
            (None, None) => Amount::Time(DEFAULT_TIME),
        };
        let placement = Placement::new(args.pin)?;
        let found = if args.self_contained || args.pin != Pin::None { None } else { find(global, output)? };
        let (client, sandbox) = match found {
            Some(client) => (client, None),
            None => {
                let sandbox = placement.on_server(Sandbox::started)??;
                (sandbox.connect()?, Some(sandbox))
            }
        };
        let whose = if sandbox.is_some() { "a daemon of its own" } else { "the daemon that answers" };
        let address = client.info().address;
        output.note(&format!("measuring {whose} at {address}, pin {}", args.pin));
        if cfg!(debug_assertions) {
            output.note("this is a debug build: its ratios say little of a release build's");
        }
        let (options, pid) = match &sandbox {
            Some(sandbox) => (sandbox.options(), sandbox.pid()),
            None => (options(global), listener(&address)),
        };
        Ok(Target { client, options, pid, placement, amount, _sandbox: sandbox })
    }
}

/// The process that listens at an address; not the one that listened in its place, as systemd does.
fn listener(address: &Address) -> Option<u32> {
    let pid = Stream::try_connect(address).ok()?.credentials().ok()?.pid;
    pid.filter(|pid| *pid != 1)
}

pub(in crate::ctl) fn latency(global: &Global, args: &LatencyArgs, output: &Output) -> Result<(), Failure> {
    let target = Target::new(global, &args.measure, output)?;
    let Target { client, placement, amount, .. } = &target;
    let rows = run(client, placement, &args.size, *amount, args.measure.pin)?;
    if output.is_json() {
        return rows.iter().try_for_each(|row| output.object(row));
    }
    print(&rows, output)
}

/// Measures the daemon behind `client` beside both floors.
pub(in crate::ctl) fn run(
    client: &Client,
    placement: &Placement,
    sizes: &[u32],
    amount: Amount,
    pin: Pin,
) -> Result<Vec<Row>, Failure> {
    let me = sibling("invokectl")?;
    let mut uds = placement.on_server(|| Floor::blocking(&me))??;
    let mut tokio = placement.on_server(|| Floor::tokio(&me))??;
    let mut hosted = Hosted::new(client.clone());
    let plan = Plan { sizes: sizes.to_vec(), rounds: rounds(amount), amount, pin };
    Ok(measure(&mut [&mut uds, &mut tokio, &mut hosted], &plan)?)
}

/// How often each gets its turn.
pub(super) fn rounds(amount: Amount) -> u32 {
    match amount {
        Amount::Count(count) => u32::try_from(count).map_or(ROUNDS, |count| count.min(ROUNDS)),
        Amount::Time(_) => ROUNDS,
    }
}

pub(in crate::ctl) fn print(rows: &[Row], output: &Output) -> Result<(), Failure> {
    let time = |ns| shown(Duration::from_nanos(ns));
    let cells = rows.iter().map(|row| {
        vec![
            row.size.to_string(),
            row.system.to_owned(),
            row.mode.to_owned(),
            row.n.to_string(),
            time(row.p50_ns),
            time(row.p90_ns),
            time(row.p99_ns),
            time(row.p999_ns),
            time(row.mean_ns),
            format!("{:.2}x", row.ratio),
        ]
    });
    let header = ["size", "system", "mode", "n", "p50", "p90", "p99", "p99.9", "mean", "ratio"];
    output.table(&header, cells.collect())
}

/// A daemon that answers and has the plugin `bench`. At an address that somebody named, one has to answer.
fn find(global: &Global, output: &Output) -> Result<Option<Client>, Failure> {
    let client = match connect(global) {
        Ok(client) => client,
        Err(failure) if global.address.is_some() => return Err(failure),
        Err(_) => return Ok(None),
    };
    match client.call("bench.bytes").arg("len", 0).send() {
        Ok(_) => Ok(Some(client)),
        Err(error) if error.is_permission_denied() || error.is_not_found() => {
            let address = client.info().address;
            output.note(&format!("{address} does not let you call bench.bytes (invoked --dev does)"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
