//! Items a second on a channel.

use std::time::Duration;

use invoked::ctl::bench::{
    Amount, AsyncItems, BlockingItems, ChannelRow, HOSTED, ItemsFloor, Load, Pin, Placement, RatePlan,
    Writes, measure_rates,
};

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::options::ChannelsOptions;
use crate::placements::{ROUNDS, in_each, show};
use crate::programs::Programs;
use crate::tables;
use crate::target::{Bound, hold};

/// Bytes of a small item, which has a target.
const SMALL: u32 = 64;

/// The other sizes of items.
const LARGE: [u32; 3] = [1 << 10, 64 << 10, 1 << 20];

/// Measures and prints as the options say.
///
/// # Errors
/// What kept it from measuring, or [`Failure::Missed`] if `--at-least` is missed.
pub fn channels(options: &ChannelsOptions) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let measuring = &options.measuring;
    let rows = in_each(measuring, tables::channels, |pin| placed(&programs, pin, measuring.quick))?;
    let Some(at_least) = options.at_least else { return Ok(()) };
    let what = format!("hosted rate of items of {SMALL} B beside uds with a write each, on one processor");
    hold(&what, Bound::AtLeast(at_least), measuring.attempts, hosted_ratio(&rows), || {
        let again = measured(&programs, Pin::One, &[SMALL], Duration::from_secs(4))?;
        show(&tables::channels(Pin::One, &again));
        Ok(hosted_ratio(&again))
    })
}

/// Measures every size in one placement.
pub(crate) fn placed(programs: &Programs, pin: Pin, quick: bool) -> Result<Vec<ChannelRow>, Failure> {
    let sizes: Vec<u32> = std::iter::once(SMALL).chain(LARGE).collect();
    measured(programs, pin, &sizes, Duration::from_secs(if quick { 8 } else { 24 }))
}

fn measured(
    programs: &Programs,
    pin: Pin,
    sizes: &[u32],
    time: Duration,
) -> Result<Vec<ChannelRow>, Failure> {
    let placement = Placement::new(pin)?;
    let mut single = placement.on_server(|| ItemsFloor::start(&programs.invokectl, Writes::Single))??;
    let mut batched = placement.on_server(|| ItemsFloor::start(&programs.invokectl, Writes::Batched))??;
    let mut daemon = placement.on_server(|| Daemon::start(&programs.invoked))??;
    let pid = Some(daemon.pid());
    let mut blocking = BlockingItems::new(daemon.connect()?, pid);
    let mut asynchronous = AsyncItems::connect(daemon.options(), pid)?;
    let loads = sizes.iter().map(|size| Load { size: *size, in_flight: 1, connections: 1 }).collect();
    let plan = RatePlan { loads, rounds: ROUNDS, amount: Amount::Time(time), pin };
    let rates = measure_rates(&mut [&mut single, &mut batched, &mut blocking, &mut asynchronous], &plan)?;
    Ok(rates.iter().map(ChannelRow::from).collect())
}

/// The ratio that has a target, of the better of both clients, if it was measured.
fn hosted_ratio(rows: &[ChannelRow]) -> Option<f64> {
    let rows = rows.iter().filter(|row| (row.system, row.size, row.pin) == (HOSTED, SMALL, Pin::One));
    rows.map(|row| row.ratio).max_by(f64::total_cmp)
}
