//! What a run prints and writes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use invoked::ctl::bench::{Pin, Row};

/// Where and when it was measured: kernel, processors, and how busy they were.
pub(crate) fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{} {}, {processors} processors, load {}", std::env::consts::OS, kernel.trim(), load.join(" "))
}

/// The rows of one placement, as a table for people.
pub(crate) fn table(pin: Pin, rows: &[Row]) -> String {
    let placed = match pin {
        Pin::None => "free: the kernel places both processes",
        Pin::One => "both processes on one processor",
        Pin::Two => "each process on a processor of its own",
    };
    let mut text = format!("{placed}; times in us, ratio to uds: median over the rounds of p50 beside p50\n");
    let header = ["size", "system", "n", "p50", "p90", "p99", "p99.9", "mean", "ratio"];
    line(&mut text, &header.map(str::to_owned));
    for row in rows {
        let times = [row.p50_ns, row.p90_ns, row.p99_ns, row.p999_ns, row.mean_ns].map(microseconds);
        let [p50, p90, p99, p999, mean] = times;
        let (size, n, ratio) = (row.size.to_string(), row.n.to_string(), format!("{:.2}x", row.ratio));
        line(&mut text, &[size, row.system.to_owned(), n, p50, p90, p99, p999, mean, ratio]);
    }
    text
}

/// Writes rows as JSON, one a line.
pub(crate) fn write_json(path: &Path, rows: &[Row]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for row in rows {
        serde_json::to_writer(&mut file, row)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

fn line(text: &mut String, [size, system, n, p50, p90, p99, p999, mean, ratio]: &[String; 9]) {
    writeln!(text, "{size:>8}  {system:<12}{n:>8}{p50:>10}{p90:>10}{p99:>10}{p999:>10}{mean:>10}{ratio:>8}")
        .expect("a string takes everything");
}

fn microseconds(ns: u64) -> String {
    format!("{}.{:02}", ns / 1000, ns % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use invoked::ctl::bench::{Pin, Row};

    use super::{table, write_json};

    fn row() -> Row {
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
        }
    }

    #[test]
    fn a_row_prints_in_microseconds_below_its_heading() {
        let text = table(Pin::One, &[row()]);
        let lines: Vec<&str> = text.lines().collect();
        let cells: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(cells, ["64", "hosted", "1000", "12.34", "13.00", "20.00", "1000.00", "0.99", "1.25x"]);
        assert_eq!(lines[1].len(), lines[2].len());
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
