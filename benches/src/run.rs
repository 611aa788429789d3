//! The measurement: which subjects meet at which sizes, and the check of the target.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use invoked::ctl::bench::{Amount, BenchError, Floor, HOSTED, Hosted, Pin, Placement, Plan, Row, measure};
use invoked_client::AddressError;

use crate::daemon::Daemon;
use crate::echo::Echo;
use crate::options::Options;
use crate::programs::Programs;
use crate::report;

/// Rounds of each measurement; each begins with another subject.
const ROUNDS: u32 = 20;

/// The size of a small call, which has a target.
const SMALL: u32 = 64;

/// The other sizes of replies.
const LARGE: [u32; 3] = [1 << 10, 64 << 10, 1 << 20];

/// Why there are no figures, or why they fail.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The programs could not be built.
    #[error("cargo build --release failed with {0}")]
    Build(ExitStatus),
    /// A program is not where it is built.
    #[error("{} is not there: cargo build --release --bin invoked --bin invokectl", .0.display())]
    Missing(PathBuf),
    /// The temporary directory has too long a name.
    #[error("{0}; set TMPDIR to a shorter path")]
    Address(#[from] AddressError),
    /// The daemon ended before it could be measured.
    #[error("the daemon ended with {status}: {log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said.
        log: String,
    },
    /// The daemon does not answer.
    #[error("{0}")]
    Connect(#[from] invoked_client::Error),
    /// A measurement failed.
    #[error("{0}")]
    Bench(#[from] BenchError),
    /// The target is missed.
    #[error(
        "a call of {SMALL} B takes {ratio:.2}x of uds, above {at_most:.2}x, in each of {attempts} attempts"
    )]
    TooSlow {
        /// The best of the attempts.
        ratio: f64,
        /// The target.
        at_most: f64,
        /// How many there were.
        attempts: u32,
    },
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Failure::Io { what, source }
    }
}

/// Measures and prints as the options say.
///
/// # Errors
/// What kept it from measuring, or [`Failure::TooSlow`] if `--at-most` is missed.
pub fn run(options: &Options) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let mut rows = Vec::new();
    for pin in &options.pin {
        println!("\n{}", report::machine());
        let measured = placed(&programs, *pin, options.quick)?;
        print!("{}", report::table(*pin, &measured));
        rows.extend(measured);
    }
    if let Some(path) = &options.json {
        let written = report::write_json(path, &rows);
        written.map_err(Failure::io(format!("can't write {}", path.display())))?;
        println!("\n{} rows in {}", rows.len(), path.display());
    }
    match options.at_most {
        Some(at_most) => check(&programs, options, at_most, &rows),
        None => Ok(()),
    }
}

/// Measures every size in one placement.
fn placed(programs: &Programs, pin: Pin, quick: bool) -> Result<Vec<Row>, Failure> {
    let seconds = if quick { [4, 4] } else { [12, 18] };
    let [small, large] = seconds.map(|seconds| Amount::Time(Duration::from_secs(seconds)));
    let mut bench = Bench::start(programs, pin)?;
    let mut rows = bench.small(small)?;
    rows.extend(bench.large(large)?);
    Ok(rows)
}

/// Holds the small call to its target. Other programs disturb both sides of a ratio, but not evenly, so a miss is
/// measured again.
fn check(programs: &Programs, options: &Options, at_most: f64, rows: &[Row]) -> Result<(), Failure> {
    let mut best = f64::INFINITY;
    for attempt in 1..=options.attempts {
        let ratio = match hosted_ratio(rows).filter(|_| attempt == 1) {
            Some(ratio) => ratio,
            None => {
                let again = Bench::start(programs, Pin::One)?.small(Amount::Time(Duration::from_secs(6)))?;
                println!("\n{}", report::machine());
                print!("{}", report::table(Pin::One, &again));
                hosted_ratio(&again).unwrap_or(f64::INFINITY)
            }
        };
        best = best.min(ratio);
        let what = format!("hosted call of {SMALL} B on one processor: {ratio:.2}x of uds");
        let attempts = options.attempts;
        if ratio <= at_most {
            println!("\nattempt {attempt} of {attempts}: {what}, at most {at_most:.2}x: ok");
            return Ok(());
        }
        println!("\nattempt {attempt} of {attempts}: {what}, above {at_most:.2}x");
    }
    Err(Failure::TooSlow { ratio: best, at_most, attempts: options.attempts })
}

/// The ratio that has a target, if it was measured.
fn hosted_ratio(rows: &[Row]) -> Option<f64> {
    let row = rows.iter().find(|row| row.system == HOSTED && row.size == SMALL && row.pin == Pin::One);
    row.map(|row| row.ratio)
}

/// The two floors and a daemon, placed.
struct Bench {
    uds: Floor,
    tokio_uds: Floor,
    hosted: Hosted,
    echo: Echo,
    pin: Pin,
    _daemon: Daemon,
    // The last, as the processors are given back when nothing runs any more.
    _placement: Placement,
}

impl Bench {
    fn start(programs: &Programs, pin: Pin) -> Result<Self, Failure> {
        let placement = Placement::new(pin)?;
        let uds = placement.on_server(|| Floor::blocking(&programs.invokectl))??;
        let tokio_uds = placement.on_server(|| Floor::tokio(&programs.invokectl))??;
        let mut daemon = placement.on_server(|| Daemon::start(&programs.invoked))??;
        let client = daemon.connect()?;
        let (hosted, echo) = (Hosted::new(client.clone()), Echo::new(client));
        Ok(Bench { uds, tokio_uds, hosted, echo, pin, _daemon: daemon, _placement: placement })
    }

    /// A small reply; and a small body there and back, for which a request of the floors is as long.
    fn small(&mut self, amount: Amount) -> Result<Vec<Row>, Failure> {
        let plan = Plan { sizes: vec![SMALL], rounds: ROUNDS, amount, pin: self.pin };
        let rows =
            measure(&mut [&mut self.uds, &mut self.tokio_uds, &mut self.hosted, &mut self.echo], &plan)?;
        Ok(rows)
    }

    fn large(&mut self, amount: Amount) -> Result<Vec<Row>, Failure> {
        let plan = Plan { sizes: LARGE.to_vec(), rounds: ROUNDS, amount, pin: self.pin };
        Ok(measure(&mut [&mut self.uds, &mut self.tokio_uds, &mut self.hosted], &plan)?)
    }
}
