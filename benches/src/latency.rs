//! Round trips of a call: which subjects meet at which sizes.

use std::time::Duration;

use invoked::ctl::bench::{Amount, Floor, HOSTED, Hosted, Pin, Placement, Plan, Row, Subject, measure};

use crate::daemon::Daemon;
use crate::echo::Echo;
use crate::failure::Failure;
use crate::lanes::{Lane, Replies};
use crate::options::LatencyOptions;
use crate::placements::{ROUNDS, in_each, show};
use crate::programs::Programs;
use crate::tables;
use crate::target::{Bound, hold};
use crate::waiting::Waiting;

/// The size of a small call, which has a target.
const SMALL: u32 = 64;

/// A size that goes in the frames alone.
const MIDDLE: u32 = 1 << 10;

/// The size from which on shared memory is used.
const SHARED: u32 = 64 << 10;

/// Sizes that an open file may have too.
const LARGE: [u32; 2] = [1 << 20, 16 << 20];

/// Measures and prints as the options say.
///
/// # Errors
/// What kept it from measuring, or [`Failure::Missed`] if `--at-most` is missed.
pub fn latency(options: &LatencyOptions) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let measuring = &options.measuring;
    let rows = in_each(measuring, tables::latency, |pin| placed(&programs, pin, measuring.quick))?;
    let Some(at_most) = options.at_most else { return Ok(()) };
    let what = format!("p50 of a hosted call of {SMALL} B beside uds, on one processor");
    hold(&what, Bound::AtMost(at_most), measuring.attempts, hosted_ratio(&rows), || {
        let again = Bench::start(&programs, Pin::One)?.small(Amount::Time(Duration::from_secs(6)))?;
        show(&tables::latency(Pin::One, &again));
        Ok(hosted_ratio(&again))
    })
}

/// Measures every size in one placement.
pub(crate) fn placed(programs: &Programs, pin: Pin, quick: bool) -> Result<Vec<Row>, Failure> {
    let seconds = if quick { [4, 1, 2, 8] } else { [12, 4, 8, 24] };
    let [small, middle, shared, large] = seconds.map(|seconds| Amount::Time(Duration::from_secs(seconds)));
    let mut bench = Bench::start(programs, pin)?;
    let mut rows = bench.small(small)?;
    rows.extend(bench.middle(middle)?);
    rows.extend(bench.large(&[SHARED], shared)?);
    rows.extend(bench.large(&LARGE, large)?);
    Ok(rows)
}

/// The ratio that has a target, if it was measured.
fn hosted_ratio(rows: &[Row]) -> Option<f64> {
    let small = |row: &&Row| (row.system, row.mode, row.size, row.pin) == (HOSTED, "inline", SMALL, Pin::One);
    let row = rows.iter().find(small);
    row.map(|row| row.ratio)
}

/// The two floors and a daemon, placed.
struct Bench {
    uds: Floor,
    tokio_uds: Floor,
    hosted: Hosted,
    echo: Echo,
    waiting: Waiting,
    pin: Pin,
    daemon: Daemon,
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
        let waiting = placement.on_server(|| Waiting::start(programs))??;
        Ok(Bench { uds, tokio_uds, hosted, echo, waiting, pin, daemon, _placement: placement })
    }

    /// A small reply; a small body there and back, for which a request of the floors is as long; and a small reply where both
    /// ends wait in the kernel, as those of the floors do.
    fn small(&mut self, amount: Amount) -> Result<Vec<Row>, Failure> {
        let plan = Plan { sizes: vec![SMALL], rounds: ROUNDS, amount, pin: self.pin };
        let Bench { uds, tokio_uds, hosted, echo, waiting, .. } = self;
        Ok(measure(&mut [uds, tokio_uds, hosted, echo, waiting], &plan)?)
    }

    fn middle(&mut self, amount: Amount) -> Result<Vec<Row>, Failure> {
        let plan = Plan { sizes: vec![MIDDLE], rounds: ROUNDS, amount, pin: self.pin };
        Ok(measure(&mut [&mut self.uds, &mut self.tokio_uds, &mut self.hosted], &plan)?)
    }

    /// Replies by each lane that takes them.
    fn large(&mut self, sizes: &[u32], amount: Amount) -> Result<Vec<Row>, Failure> {
        let mut lanes = vec![Lane::Inline, Lane::Pool, Lane::InPlace];
        lanes.extend(sizes.iter().all(|size| LARGE.contains(size)).then_some(Lane::File));
        let replies = lanes.into_iter().map(|lane| Replies::connect(&self.daemon, lane, sizes));
        let mut replies = replies.collect::<Result<Vec<_>, _>>()?;
        let mut subjects: Vec<&mut dyn Subject> = vec![&mut self.uds, &mut self.tokio_uds];
        subjects.extend(replies.iter_mut().map(|replies| replies as &mut dyn Subject));
        let plan = Plan { sizes: sizes.to_vec(), rounds: ROUNDS, amount, pin: self.pin };
        Ok(measure(&mut subjects, &plan)?)
    }
}
