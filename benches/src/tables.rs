//! What a run prints and writes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use invoked::ctl::bench::{ChannelRow, Pin, Row, ThroughputRow};
use serde::Serialize;

use crate::memory::MemoryRow;

/// Where and when it was measured: kernel, processors, and how busy they were.
#[must_use]
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, name)| name);
    let (kernel, load) = (kernel.trim(), load.join(" "));
    format!("{} {kernel}, {processors} processors ({model}), load {load}", std::env::consts::OS)
}

/// The round trips of one placement, as a table for people.
#[must_use]
pub fn latency(pin: Pin, rows: &[Row]) -> String {
    let heading =
        format!("{}; times in us, ratio to uds: median over the rounds of p50 beside p50", placed(pin));
    let header = ["size", "system", "mode", "n", "p50", "p90", "p99", "p99.9", "mean", "ratio"];
    let cells = rows.iter().map(|row| {
        let times = [row.p50_ns, row.p90_ns, row.p99_ns, row.p999_ns, row.mean_ns].map(microseconds);
        let [p50, p90, p99, p999, mean] = times;
        let (system, mode) = (row.system.to_owned(), row.mode.to_owned());
        let (size, n, ratio) = (row.size.to_string(), row.n.to_string(), times_of(row.ratio));
        [size, system, mode, n, p50, p90, p99, p999, mean, ratio]
    });
    table(&heading, &header.map(str::to_owned), cells)
}

/// The rates of calls of one placement, as a table for people.
#[must_use]
pub fn throughput(pin: Pin, rows: &[ThroughputRow]) -> String {
    let heading = format!(
        "{}; times in us, CPU of both ends, ratio to uds: median over the rounds of rate beside rate",
        placed(pin)
    );
    let header = [
        "size", "conns", "flight", "system", "mode", "n", "calls/s", "MiB/s", "CPU/call", "p50", "p99",
        "ratio",
    ];
    let cells = rows.iter().map(|row| {
        [
            row.size.to_string(),
            row.connections.to_string(),
            row.in_flight.to_string(),
            row.system.to_owned(),
            row.mode.to_owned(),
            row.n.to_string(),
            row.calls_per_s.to_string(),
            mebibytes(row.bytes_per_s),
            cpu(row.cpu_ns_per_call),
            microseconds(row.p50_ns),
            microseconds(row.p99_ns),
            times_of(row.ratio),
        ]
    });
    table(&heading, &header.map(str::to_owned), cells)
}

/// The rates of items of one placement, as a table for people.
pub(crate) fn channels(pin: Pin, rows: &[ChannelRow]) -> String {
    let heading = format!(
        "{}; CPU of both ends in us, ratio to uds single: median over the rounds of rate beside rate",
        placed(pin)
    );
    let header = ["size", "system", "mode", "n", "items/s", "MiB/s", "CPU/item", "ratio"];
    let cells = rows.iter().map(|row| {
        [
            row.size.to_string(),
            row.system.to_owned(),
            row.mode.to_owned(),
            row.n.to_string(),
            row.items_per_s.to_string(),
            mebibytes(row.bytes_per_s),
            cpu(row.cpu_ns_per_item),
            times_of(row.ratio),
        ]
    });
    table(&heading, &header.map(str::to_owned), cells)
}

/// What idle connections cost, as a table for people.
pub(crate) fn memory(rows: &[MemoryRow]) -> String {
    let heading = "memory of the daemon's own, by its share of what is resident (Pss)";
    let header = ["connections", "mode", "before, KiB", "with, KiB", "B/connection", "CPU, us", "idle, s"];
    let cells = rows.iter().map(|row| {
        [
            row.connections.to_string(),
            row.mode.to_owned(),
            (row.before_bytes >> 10).to_string(),
            (row.with_bytes >> 10).to_string(),
            row.bytes_per_connection.to_string(),
            cpu(row.idle_cpu_ns),
            format!("{:.2}", Duration::from_nanos(row.idle_ns).as_secs_f64()),
        ]
    });
    table(heading, &header.map(str::to_owned), cells)
}

/// Writes rows as JSON, one a line.
///
/// # Errors
/// Whatever keeps the file from being written.
pub fn write_json<R: Serialize>(path: &Path, rows: &[R]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for row in rows {
        serde_json::to_writer(&mut file, row)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// Rows below their heading, each column as wide as its widest cell.
fn table<const N: usize>(
    heading: &str,
    header: &[String; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.clone()).chain(rows).collect();
    let mut text = format!("{heading}\n");
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            let gap = if column == 0 { "" } else { "  " };
            write!(text, "{gap}{cell:>width$}").expect("a string takes everything");
        }
        text.push('\n');
    }
    text
}

/// A placement in words.
#[must_use]
pub fn placed(pin: Pin) -> &'static str {
    match pin {
        Pin::None => "free: the kernel places both processes",
        Pin::One => "both processes on one processor",
        Pin::Two => "each process on a processor of its own",
    }
}

fn microseconds(ns: u64) -> String {
    format!("{}.{:02}", ns / 1000, ns % 1000 / 10)
}

fn cpu(ns: Option<u64>) -> String {
    ns.map_or_else(|| "?".to_owned(), microseconds)
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{}", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}

fn times_of(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

#[cfg(test)]
pub(crate) mod tests {
    use hdrhistogram::Histogram;
    use invoked::ctl::bench::{ChannelRow, Pin, Row, ThroughputRow};

    use super::{channels, latency, memory, throughput, write_json};
    use crate::memory::MemoryRow;

    fn times() -> Histogram<u64> {
        let mut times = Histogram::new(3).expect("three digits are legal");
        (1..=1000).for_each(|time| times += time * 25);
        times
    }

    pub(crate) fn row() -> Row {
        Row {
            system: "hosted",
            mode: "inline",
            size: 64,
            n: 1000,
            p50_ns: 12_345,
            p90_ns: 13_000,
            p99_ns: 20_009,
            p999_ns: 1_000_000,
            mean_ns: 999,
            pin: Pin::One,
            ratio: 1.254,
            times: times(),
        }
    }

    pub(crate) fn throughput_row() -> ThroughputRow {
        ThroughputRow {
            system: "hosted",
            mode: "inline",
            size: 64,
            n: 1000,
            p50_ns: 12_345,
            p90_ns: 13_000,
            p99_ns: 20_009,
            p999_ns: 1_000_000,
            mean_ns: 999,
            in_flight: 16,
            connections: 8,
            calls_per_s: 250_000,
            bytes_per_s: 16_000_000,
            cpu_ns_per_call: Some(4_500),
            pin: Pin::One,
            ratio: 0.254,
            times: times(),
        }
    }

    pub(crate) fn channel_row() -> ChannelRow {
        ChannelRow {
            system: "hosted",
            mode: "async",
            size: 64,
            n: 10_000,
            items_per_s: 1_000_000,
            bytes_per_s: 64_000_000,
            cpu_ns_per_item: None,
            pin: Pin::Two,
            ratio: 0.5,
        }
    }

    pub(crate) fn memory_row() -> MemoryRow {
        MemoryRow {
            system: "hosted",
            connections: 1000,
            mode: "connected",
            before_bytes: 4 << 20,
            with_bytes: 6 << 20,
            bytes_per_connection: 2098,
            idle_cpu_ns: Some(12_340),
            idle_ns: 2_001_000_000,
        }
    }

    fn last_line(text: &str) -> Vec<&str> {
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].len(), lines[2].len(), "{text}");
        lines[2].split_whitespace().collect()
    }

    #[test]
    fn a_row_prints_below_its_heading() {
        assert_eq!(
            last_line(&latency(Pin::One, &[row()])),
            ["64", "hosted", "inline", "1000", "12.34", "13.00", "20.00", "1000.00", "0.99", "1.25x"]
        );
        assert_eq!(
            last_line(&throughput(Pin::One, &[throughput_row()])),
            [
                "64", "8", "16", "hosted", "inline", "1000", "250000", "15.2", "4.50", "12.34", "20.00",
                "0.25x"
            ]
        );
        assert_eq!(
            last_line(&channels(Pin::Two, &[channel_row()])),
            ["64", "hosted", "async", "10000", "1000000", "61.0", "?", "0.50x"]
        );
        assert_eq!(
            last_line(&memory(&[memory_row()])),
            ["1000", "connected", "4096", "6144", "2098", "12.34", "2.00"]
        );
    }

    #[test]
    fn json_is_one_object_a_line_with_the_promised_keys() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        write_json(file.path(), &[row(), row()]).expect("written");
        let text = std::fs::read_to_string(file.path()).expect("readable");
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).expect("json");
            for key in ["system", "mode", "size", "n", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "mean_ns"] {
                assert!(!object[key].is_null(), "{key} is missing in {line}");
            }
            assert_eq!((&object["pin"], &object["p50_ns"]), (&"one".into(), &12_345.into()));
        }
    }
}
