//! Calls a second: which loads are measured.

use std::time::Duration;

use invoked::ctl::bench::{
    Amount, BatchedFloor, HOSTED, HostedCalls, Load, Pin, Placement, RatePlan, ThroughputRow, measure_rates,
};

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::options::ThroughputOptions;
use crate::placements::{ROUNDS, in_each, show};
use crate::programs::Programs;
use crate::tables;
use crate::target::{Bound, hold};

/// Bytes of a small reply, which every load is measured with.
const SMALL: u32 = 64;

/// Calls in flight on each connection.
const IN_FLIGHT: [u32; 5] = [1, 4, 16, 64, 256];

/// Connections.
const CONNECTIONS: [u32; 3] = [1, 8, 64];

/// The other sizes of replies, on one connection.
const LARGE: [u32; 3] = [1 << 10, 64 << 10, 1 << 20];

/// Calls in flight with these: what waits to be read stays below what one uid may have.
const LARGE_IN_FLIGHT: [u32; 2] = [1, 16];

/// Calls in flight that have a target beside one.
const PIPELINED: u32 = 64;

/// Measures and prints as the options say.
///
/// # Errors
/// What kept it from measuring, or [`Failure::Missed`] if `--at-least` is missed.
pub fn throughput(options: &ThroughputOptions) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let measuring = &options.measuring;
    let rows = in_each(measuring, tables::throughput, |pin| placed(&programs, pin, measuring.quick))?;
    let Some(at_least) = options.at_least else { return Ok(()) };
    let what = format!("hosted rate of {PIPELINED} calls of {SMALL} B in flight beside one, free");
    hold(&what, Bound::AtLeast(at_least), measuring.attempts, gain(&rows), || {
        let loads = [1, PIPELINED].map(|in_flight| Load { size: SMALL, in_flight, connections: 1 });
        let again = measured(&programs, Pin::None, loads.to_vec(), Duration::from_secs(6))?;
        show(&tables::throughput(Pin::None, &again));
        Ok(gain(&again))
    })
}

/// Measures every load in one placement.
pub(crate) fn placed(programs: &Programs, pin: Pin, quick: bool) -> Result<Vec<ThroughputRow>, Failure> {
    let time = Duration::from_secs(if quick { 12 } else { 36 });
    measured(programs, pin, loads(), time)
}

fn loads() -> Vec<Load> {
    let small = CONNECTIONS.iter().flat_map(|connections| {
        IN_FLIGHT.iter().map(|in_flight| Load {
            size: SMALL,
            in_flight: *in_flight,
            connections: *connections,
        })
    });
    let large = LARGE.iter().flat_map(|size| {
        LARGE_IN_FLIGHT.iter().map(|in_flight| Load { size: *size, in_flight: *in_flight, connections: 1 })
    });
    small.chain(large).collect()
}

fn measured(
    programs: &Programs,
    pin: Pin,
    loads: Vec<Load>,
    time: Duration,
) -> Result<Vec<ThroughputRow>, Failure> {
    let placement = Placement::new(pin)?;
    // The floor starts a server for each connection, at once: later they would start on the processor of the client.
    let most = loads.iter().map(|load| load.connections).max().unwrap_or(1);
    let mut floor = placement.on_server(|| BatchedFloor::start(&programs.invokectl, most))??;
    let mut daemon = placement.on_server(|| Daemon::start(&programs.invoked))??;
    drop(daemon.connect()?);
    let mut hosted = HostedCalls::new(daemon.options(), Some(daemon.pid()))?;
    let plan = RatePlan { loads, rounds: ROUNDS, amount: Amount::Time(time), pin };
    let rates = measure_rates(&mut [&mut floor, &mut hosted], &plan)?;
    Ok(rates.iter().map(ThroughputRow::from).collect())
}

/// How many times the rate of one call at a time pipelined calls have, where the kernel places both processes, if both were
/// measured. On one processor the ends take turns, and what is left to win is the system calls.
fn gain(rows: &[ThroughputRow]) -> Option<f64> {
    let rate = |in_flight: u32| {
        let mut rows =
            rows.iter().filter(|row| (row.system, row.size, row.pin) == (HOSTED, SMALL, Pin::None));
        let row = rows.find(|row| (row.in_flight, row.connections) == (in_flight, 1))?;
        #[allow(clippy::cast_precision_loss)] // calls a second have far fewer than 53 bits
        Some(row.calls_per_s as f64)
    };
    Some(rate(PIPELINED)? / rate(1)?)
}

#[cfg(test)]
mod tests {
    use invoked::ctl::bench::{HOSTED, Pin, ThroughputRow, UDS};

    use super::{gain, loads};
    use crate::tables::tests::throughput_row;

    #[test]
    fn each_load_is_measured_once() {
        let loads = loads();
        assert_eq!(loads.len(), 5 * 3 + 3 * 2);
        for load in &loads {
            assert_eq!(loads.iter().filter(|other| *other == load).count(), 1, "{load:?}");
        }
    }

    #[test]
    fn the_gain_is_of_the_hosted_calls_on_one_connection_and_one_processor() {
        let row = |system, in_flight, connections, calls_per_s, pin| ThroughputRow {
            system,
            in_flight,
            connections,
            calls_per_s,
            pin,
            ..throughput_row()
        };
        let mut rows = vec![
            row(UDS, 1, 1, 1, Pin::None),
            row(HOSTED, 1, 1, 2, Pin::Two),
            row(HOSTED, 1, 8, 3, Pin::None),
            row(HOSTED, 1, 1, 50, Pin::None),
        ];
        assert_eq!(gain(&rows), None);
        rows.push(row(HOSTED, 64, 1, 400, Pin::None));
        assert_eq!(gain(&rows), Some(8.0));
    }
}
