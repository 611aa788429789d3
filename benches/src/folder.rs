//! A folder with everything that was measured: tables, rows, histograms, charts, and the machine.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use invoked::ctl::bench::{ChannelRow, Pin, Row, ThroughputRow};

use crate::failure::Failure;
use crate::memory::MemoryRow;
use crate::options::ReportOptions;
use crate::placements::show;
use crate::programs::Programs;
use crate::{channels, latency, memory, plots, tables, throughput};

/// Sizes of replies whose percentiles get a chart.
const CURVES: [u32; 3] = [64, 64 << 10, 1 << 20];

/// The size of replies, and the calls in flight, of the charts of rates.
const SMALL: u32 = 64;
const IN_FLIGHT: u32 = 16;

/// Everything that a report has.
#[derive(Debug, Default)]
struct Measured {
    /// Where and how it was measured, a line each.
    machine: Vec<String>,
    pins: Vec<Pin>,
    latency: Vec<Row>,
    throughput: Vec<ThroughputRow>,
    channels: Vec<ChannelRow>,
    memory: Vec<MemoryRow>,
}

/// Measures everything and writes the folder.
///
/// # Errors
/// What kept it from measuring or writing.
pub fn report(options: &ReportOptions) -> Result<(), Failure> {
    // Before minutes are spent.
    fs::create_dir_all(&options.out).map_err(cannot_write(&options.out))?;
    let programs = Programs::ready()?;
    let mut all = Measured { pins: options.pin.clone(), ..Measured::default() };
    all.machine.push(format!("invoked {}", env!("CARGO_PKG_VERSION")));
    all.machine.push(format!("before: {}", tables::machine()));
    all.memory = memory::measured(&programs, options.connections.into())?;
    show(&tables::memory(&all.memory));
    for pin in &options.pin {
        let rows = latency::placed(&programs, *pin, options.quick)?;
        show(&tables::latency(*pin, &rows));
        all.latency.extend(rows);
        let rows = throughput::placed(&programs, *pin, options.quick)?;
        show(&tables::throughput(*pin, &rows));
        all.throughput.extend(rows);
        let rows = channels::placed(&programs, *pin, options.quick)?;
        show(&tables::channels(*pin, &rows));
        all.channels.extend(rows);
    }
    all.machine.push(format!("after: {}", tables::machine()));
    all.machine.push(if options.quick { "with --quick" } else { "without --quick" }.to_owned());
    write(&options.out, &all)?;
    println!("\nthe report is {}", options.out.join("report.md").display());
    Ok(())
}

fn write(folder: &Path, all: &Measured) -> Result<(), Failure> {
    let file = |name: &str, contents: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, contents).map_err(cannot_write(&path))
    };
    for name in ["hdr", "plots"] {
        fs::create_dir_all(folder.join(name)).map_err(cannot_write(folder))?;
    }
    file("machine.txt", (all.machine.join("\n") + "\n").as_bytes())?;
    let json = |name: &str| folder.join(format!("{name}.jsonl"));
    tables::write_json(&json("latency"), &all.latency).map_err(cannot_write(folder))?;
    tables::write_json(&json("throughput"), &all.throughput).map_err(cannot_write(folder))?;
    tables::write_json(&json("channels"), &all.channels).map_err(cannot_write(folder))?;
    tables::write_json(&json("memory"), &all.memory).map_err(cannot_write(folder))?;
    for row in &all.latency {
        let name = format!("hdr/latency-{}-{}-{}-{}.hdr", row.pin, row.size, row.system, dashed(row.mode));
        file(&name, &serialized(&row.times)?)?;
    }
    for row in &all.throughput {
        let load = format!("{}-{}-{}", row.size, row.connections, row.in_flight);
        file(&format!("hdr/throughput-{}-{load}-{}.hdr", row.pin, row.system), &serialized(&row.times)?)?;
    }
    let charts = charts(all);
    for (name, _, svg) in &charts {
        file(name, svg.as_bytes())?;
    }
    file("report.md", text(all, &charts).as_bytes())
}

/// Charts as (file, what it shows, SVG).
fn charts(all: &Measured) -> Vec<(String, &'static str, String)> {
    let mut charts = Vec::new();
    let mut add = |name: String, what: &'static str, svg: Option<String>| {
        charts.extend(svg.map(|svg| (format!("plots/{name}.svg"), what, svg)));
    };
    for pin in &all.pins {
        add(format!("ratios-{pin}"), "round trips beside the bare socket", plots::ratios(&all.latency, *pin));
        for size in CURVES {
            let svg = plots::percentiles(&all.latency, *pin, size);
            add(format!("percentiles-{size}-{pin}"), "percentiles of round trips", svg);
        }
        let svg = plots::in_flight(&all.throughput, *pin, SMALL);
        add(format!("in-flight-{pin}"), "calls a second by calls in flight", svg);
        let svg = plots::by_size(&all.throughput, &all.channels, *pin, IN_FLIGHT);
        add(format!("sizes-{pin}"), "bytes a second by size", svg);
    }
    charts
}

fn text(all: &Measured, charts: &[(String, &'static str, String)]) -> String {
    let mut text = format!("# What a call costs\n\n{}\n", all.machine.join("  \n"));
    let mut section = |name: &str, table: String| {
        write!(text, "\n## {name}\n\n```text\n{table}```\n").expect("a string takes everything");
    };
    for pin in &all.pins {
        let rows: Vec<Row> = all.latency.iter().filter(|row| row.pin == *pin).cloned().collect();
        section(&format!("latency, pin {pin}"), tables::latency(*pin, &rows));
        let rows: Vec<_> = all.throughput.iter().filter(|row| row.pin == *pin).cloned().collect();
        section(&format!("throughput, pin {pin}"), tables::throughput(*pin, &rows));
        let rows: Vec<_> = all.channels.iter().filter(|row| row.pin == *pin).cloned().collect();
        section(&format!("channels, pin {pin}"), tables::channels(*pin, &rows));
    }
    section("memory", tables::memory(&all.memory));
    text.push_str("\n## charts\n");
    for (name, what, _) in charts {
        write!(text, "\n![{what}]({name})\n").expect("a string takes everything");
    }
    text
}

/// As the readers of HDR histograms take it: V2, not compressed.
fn serialized(times: &Histogram<u64>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let written = V2Serializer::new().serialize(times, &mut bytes);
    written.map_err(|error| Failure::io("can't write a histogram")(std::io::Error::other(error)))?;
    bytes.flush().map_err(Failure::io("can't write a histogram"))?;
    Ok(bytes)
}

fn dashed(mode: &str) -> String {
    mode.replace(' ', "-")
}

fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + use<> {
    Failure::io(format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use invoked::ctl::bench::{HOSTED, Pin, Row, ThroughputRow, UDS};

    use super::{Measured, write};
    use crate::chart::tests::texts;
    use crate::tables::tests::{channel_row, memory_row, row, throughput_row};

    #[test]
    fn a_report_has_its_tables_rows_histograms_and_charts() {
        let folder = tempfile::tempdir().expect("a directory");
        let loads = [(UDS, 1), (UDS, 16), (HOSTED, 1), (HOSTED, 16)];
        let all = Measured {
            machine: vec!["two processors".to_owned()],
            pins: vec![Pin::One],
            latency: vec![Row { system: UDS, ..row() }, Row { mode: "in place", ..row() }],
            throughput: loads
                .map(|(system, in_flight)| ThroughputRow { system, in_flight, ..throughput_row() })
                .to_vec(),
            channels: vec![channel_row()],
            memory: vec![memory_row()],
        };
        write(folder.path(), &all).expect("written");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);

        let text = read("report.md");
        for part in
            ["two processors", "in place", "latency, pin one", "throughput", "channels", "memory", "1.25x"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        for line in text.lines().filter(|line| line.starts_with("![")) {
            let file = line.split(['(', ')']).nth(1).expect("a picture has a file");
            assert!(!texts(&read(file)).is_empty());
        }
        assert_eq!(
            text.matches("![").count(),
            fs::read_dir(folder.path().join("plots")).expect("it is there").count()
        );
        assert_eq!(read("machine.txt"), "two processors\n");
        for (name, rows) in [("latency", 2), ("throughput", 4), ("channels", 1), ("memory", 1)] {
            assert_eq!(read(&format!("{name}.jsonl")).lines().count(), rows, "{name}");
        }

        let bytes =
            fs::read(folder.path().join("hdr/latency-one-64-hosted-in-place.hdr")).expect("it is there");
        let times: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).expect("legal");
        assert_eq!(times, all.latency[1].times);
        assert_eq!(fs::read_dir(folder.path().join("hdr")).expect("it is there").count(), 2 + 4);
    }
}
