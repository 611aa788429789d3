//! The rows of a report as charts.

use std::collections::BTreeSet;

use hdrhistogram::Histogram;
use invoked::ctl::bench::{ChannelRow, HOSTED, Pin, Row, TOKIO_UDS, ThroughputRow, UDS};

use crate::chart::{Axis, Bar, Line, bars, lines};
use crate::tables::placed;

/// Curves of percentiles have so many points for each further nine.
const POINTS_PER_NINE: i32 = 10;

/// How long calls of one size took, by the share of them that took no longer; `None` if none was measured.
pub(crate) fn percentiles(rows: &[Row], pin: Pin, size: u32) -> Option<String> {
    let rows: Vec<&Row> = rows.iter().filter(|row| (row.pin, row.size) == (pin, size)).collect();
    // As far as all of them can tell.
    let nines = nines_of(rows.iter().map(|row| row.times.len()).min()?);
    let lines_of = |row: &&Row| Line {
        name: name(row.system, row.mode),
        colour: colour(row.system, row.mode),
        points: curve(&row.times, nines),
        dots: false,
    };
    let curves: Vec<Line> = rows.iter().map(lines_of).collect();
    let times = curves.iter().flat_map(|line| line.points.iter().map(|(_, time)| *time));
    let y = Axis::over("round trip", times, duration);
    let ticks = (0..=nines).map(|nines| (10_f64.powi(nines), share(nines))).collect();
    let x = Axis {
        label: "share of the round trips that took no longer".to_owned(),
        low: 1.0,
        high: 10_f64.powi(nines),
        ticks,
    };
    let title = format!("Round trips of {} replies", bytes(f64::from(size)));
    Some(lines(&title, placed(pin), &x, &y, &curves))
}

/// Small calls a second by how many are in flight, on each number of connections.
pub(crate) fn in_flight(rows: &[ThroughputRow], pin: Pin, size: u32) -> Option<String> {
    let rows: Vec<&ThroughputRow> = rows.iter().filter(|row| (row.pin, row.size) == (pin, size)).collect();
    let kinds: BTreeSet<(&str, u32)> = rows.iter().map(|row| (row.system, row.connections)).collect();
    let curves: Vec<Line> = kinds
        .iter()
        .rev()
        .zip(0..)
        .map(|((system, connections), colour)| {
            let rows = rows.iter().filter(|row| (row.system, row.connections) == (*system, *connections));
            let points = rows.map(|row| (f64::from(row.in_flight), float(row.calls_per_s))).collect();
            Line { name: format!("{system}, {connections} conn."), colour, points, dots: true }
        })
        .filter(|line| line.points.len() > 1)
        .collect();
    let mut x = Axis::over("calls in flight on each connection", first(&curves), count);
    let loads: BTreeSet<u32> = rows.iter().map(|row| row.in_flight).collect();
    x.ticks = loads.iter().map(|load| (f64::from(*load), load.to_string())).collect();
    (x.low, x.high) = (x.ticks.first()?.0, x.ticks.last()?.0);
    let y = Axis::over("calls/s", second(&curves), count);
    let title = format!("Calls a second, {} replies", bytes(f64::from(size)));
    (!curves.is_empty()).then(|| lines(&title, placed(pin), &x, &y, &curves))
}

/// Bytes a second by size: of replies with `in_flight` calls on one connection, and of items of channels.
pub(crate) fn by_size(
    calls: &[ThroughputRow],
    items: &[ChannelRow],
    pin: Pin,
    in_flight: u32,
) -> Option<String> {
    let mut curves: Vec<Line> = Vec::new();
    let mut add = |name: String, size: u32, bytes_per_s: u64| {
        let point = (f64::from(size), float(bytes_per_s));
        match curves.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => {
                let colour = curves.len();
                curves.push(Line { name, colour, points: vec![point], dots: true });
            }
        }
    };
    for row in calls.iter().filter(|row| (row.pin, row.in_flight, row.connections) == (pin, in_flight, 1)) {
        add(format!("{} calls", row.system), row.size, row.bytes_per_s);
    }
    for row in items.iter().filter(|row| row.pin == pin) {
        add(format!("{} items, {}", row.system, row.mode), row.size, row.bytes_per_s);
    }
    let mut x = Axis::over("size of a reply or an item", first(&curves), bytes);
    x.ticks = [64, 1 << 10, 64 << 10, 1 << 20].map(|size| (f64::from(size), bytes(f64::from(size)))).to_vec();
    (x.low, x.high) = (64.0, f64::from(1 << 20));
    let y = Axis::over("bytes/s", second(&curves), decimal_bytes);
    let title = format!("Bytes a second by size, {in_flight} calls in flight");
    (!curves.is_empty()).then(|| lines(&title, placed(pin), &x, &y, &curves))
}

/// The p50 of each system at each size beside that of the floor.
pub(crate) fn ratios(rows: &[Row], pin: Pin) -> Option<String> {
    let rows = rows.iter().filter(|row| row.pin == pin && row.ratio.is_finite());
    let all: Vec<Bar> = rows
        .map(|row| Bar {
            group: bytes(f64::from(row.size)),
            name: name(row.system, row.mode),
            colour: colour(row.system, row.mode),
            value: row.ratio,
        })
        .collect();
    let subtitle =
        format!("{}; p50 of a round trip beside a bare blocking socket, less is better", placed(pin));
    (!all.is_empty()).then(|| bars("Round trips beside the bare socket", &subtitle, &all))
}

/// Values at shares that come closer and closer to all, as `(1 / (1 - share), value)`.
fn curve(times: &Histogram<u64>, nines: i32) -> Vec<(f64, f64)> {
    let last = nines * POINTS_PER_NINE;
    let point = |step: i32| {
        let inverse = 10_f64.powf(f64::from(step) / f64::from(POINTS_PER_NINE));
        (inverse, float(times.value_at_quantile(1.0 - 1.0 / inverse)))
    };
    // The lowest is the first value, not none.
    let first = (1.0, float(times.min()));
    std::iter::once(first).chain((1..=last).map(point)).collect()
}

/// How many nines so many values can tell, at least one: of 999 in a thousand there are three.
fn nines_of(count: u64) -> i32 {
    i32::try_from(count.max(10).ilog10()).unwrap_or(1)
}

fn first(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x))
}

fn second(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y))
}

fn name(system: &str, mode: &str) -> String {
    if system == HOSTED { format!("{system}, {mode}") } else { system.to_owned() }
}

fn colour(system: &str, mode: &str) -> usize {
    match (system, mode) {
        (UDS, _) => 0,
        (TOKIO_UDS, _) => 1,
        (_, "pool") => 3,
        (_, "in place") => 4,
        (_, "file") => 5,
        (_, "waiting") => 7,
        (HOSTED, _) => 2,
        _ => 6,
    }
}

#[allow(clippy::cast_precision_loss)] // a place on a page has fewer digits
fn float(value: u64) -> f64 {
    value as f64
}

fn share(nines: i32) -> String {
    match nines {
        0 => "0%".to_owned(),
        1 => "90%".to_owned(),
        2 => "99%".to_owned(),
        more => format!("99.{}%", "9".repeat(usize::try_from(more - 2).unwrap_or(0))),
    }
}

fn duration(ns: f64) -> String {
    scaled(ns, 1000.0, &["ns", "µs", "ms", "s"])
}

fn bytes(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB"])
}

fn decimal_bytes(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB"])
}

fn count(count: f64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G"]).trim_end().to_owned()
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut index) = (value, 0);
    while value >= step && index + 1 < units.len() {
        (value, index) = (value / step, index + 1);
    }
    let digits = usize::from(value.fract() > 0.05 && value < 10.0);
    format!("{value:.digits$} {}", units[index])
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use invoked::ctl::bench::{HOSTED, Pin, Row, ThroughputRow, UDS};

    use super::{
        by_size, bytes, count, curve, decimal_bytes, duration, in_flight, nines_of, percentiles, ratios,
        share,
    };
    use crate::chart::tests::texts;
    use crate::tables::tests::{channel_row, row, throughput_row};

    fn names(svg: Option<String>, wanted: &[&str]) {
        let texts = texts(&svg.expect("there are rows"));
        for text in wanted {
            assert!(texts.iter().any(|found| found == text), "{text} is missing in {texts:?}");
        }
    }

    #[test]
    fn each_row_is_in_its_chart() {
        let rows = [
            Row { system: UDS, ratio: 1.0, ..row() },
            row(),
            Row { size: 1 << 20, mode: "in place", ratio: 0.11, ..row() },
        ];
        names(
            percentiles(&rows, Pin::One, 64),
            &["uds", "hosted, inline", "0%", "99.9%", "Round trips of 64 B replies"],
        );
        names(ratios(&rows, Pin::One), &["64 B", "1 MiB", "hosted, in place", "0.11x", "1.25x"]);
        let loads = [(UDS, 1), (UDS, 64), (HOSTED, 1), (HOSTED, 64)];
        let calls = loads.map(|(system, in_flight)| ThroughputRow { system, in_flight, ..throughput_row() });
        names(in_flight(&calls, Pin::One, 64), &["uds, 8 conn.", "hosted, 8 conn.", "64"]);
        let calls = [ThroughputRow { connections: 1, ..throughput_row() }];
        let items = [channel_row()];
        names(by_size(&calls, &[], Pin::One, 16), &["hosted calls", "64 B", "1 MiB"]);
        names(by_size(&[], &items, Pin::Two, 16), &["hosted items, async"]);
    }

    #[test]
    fn what_was_not_measured_has_no_chart() {
        assert_eq!(percentiles(&[row()], Pin::Two, 64), None);
        assert_eq!(ratios(&[Row { ratio: f64::NAN, ..row() }], Pin::One), None);
        assert_eq!(in_flight(&[throughput_row()], Pin::One, 64), None, "a point is no line");
        assert_eq!(by_size(&[], &[], Pin::One, 16), None);
    }

    #[test]
    fn a_curve_ends_where_the_values_end() {
        let mut times = Histogram::<u64>::new(3).expect("legal");
        (1..=1000).for_each(|time| times.record(time).expect("it resizes"));
        let curve = curve(&times, nines_of(times.len()));
        assert_eq!(curve.len(), 31);
        assert_eq!((curve[0].1, curve[10].1, curve[20].1), (1.0, 900.0, 990.0));
        assert!(curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert_eq!((nines_of(0), nines_of(999), nines_of(1_000_000)), (1, 2, 6));
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!((duration(1500.0).as_str(), duration(2e7).as_str()), ("1.5 µs", "20 ms"));
        assert_eq!((bytes(64.0).as_str(), bytes(1_048_576.0).as_str()), ("64 B", "1 MiB"));
        assert_eq!(decimal_bytes(1e10), "10 GB");
        assert_eq!((count(5.0).as_str(), count(200_000.0).as_str()), ("5", "200 k"));
        assert_eq!([0, 1, 2, 3, 4].map(share), ["0%", "90%", "99%", "99.9%", "99.99%"]);
    }
}
