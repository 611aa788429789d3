//! The command lines of the benches.

use std::path::PathBuf;

use clap::{Args, Parser};
use invoked::ctl::bench::Pin;

/// What every bench takes: where to measure, how long, and what to do with it.
#[derive(Debug, Clone, Args)]
pub struct Measuring {
    /// Less of everything: a third of the time
    #[arg(long)]
    pub quick: bool,

    /// Placements: as the kernel likes, both processes on one processor, each on its own
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,one,two")]
    pub pin: Vec<Pin>,

    /// Write the rows there too, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// How often a target may be tried, as other programs disturb
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: u32,

    /// Given by `cargo bench`; without it, as under `cargo test`, nothing is measured
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// The command line of a bench.
pub trait BenchOptions: Parser {
    /// Whether it is `cargo bench` that asks.
    fn is_bench(&self) -> bool;
}

/// Round trips.
#[derive(Debug, Parser)]
#[command(name = "latency", about = "Measures the round trip of a call beside bare sockets")]
pub struct LatencyOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub measuring: Measuring,

    /// Fail unless a call of 64 B, both on one processor, has at most this p50 beside uds
    #[arg(long, value_name = "RATIO")]
    pub at_most: Option<f64>,
}

/// Calls a second.
#[derive(Debug, Parser)]
#[command(name = "throughput", about = "Measures calls a second, pipelined, beside bare sockets")]
pub struct ThroughputOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub measuring: Measuring,

    /// Fail unless 64 calls of 64 B in flight, free, have at least so many times the rate of one
    #[arg(long, value_name = "RATIO")]
    pub at_least: Option<f64>,
}

/// Items a second.
#[derive(Debug, Parser)]
#[command(name = "channels", about = "Measures the items of a channel beside bare sockets")]
pub struct ChannelsOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub measuring: Measuring,

    /// Fail unless items of 64 B, both on one processor, have at least this rate beside a bare socket that writes each
    #[arg(long, value_name = "RATIO")]
    pub at_least: Option<f64>,
}

/// Memory of idle connections.
#[derive(Debug, Parser)]
#[command(name = "memory", about = "Measures what idle connections cost the daemon")]
pub struct MemoryOptions {
    /// Connections that are open at once; fewer if open files don't allow as many
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = connections())]
    pub connections: u32,

    /// Write the rows there too, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Fail unless each takes at most so much of the daemon's own memory
    #[arg(long, value_name = "BYTES")]
    pub at_most: Option<u32>,

    /// Given by `cargo bench`; without it, as under `cargo test`, nothing is measured
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// Everything, into a folder.
#[derive(Debug, Parser)]
#[command(
    name = "report",
    about = "Measures everything and writes a folder: tables, rows, histograms, charts"
)]
pub struct ReportOptions {
    /// The folder, made if it isn't there
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-report"))]
    pub out: PathBuf,

    /// Less of everything: a third of the time
    #[arg(long)]
    pub quick: bool,

    /// Placements, as the other benches have them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,one,two")]
    pub pin: Vec<Pin>,

    /// Connections that are open at once where memory is measured
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = connections())]
    pub connections: u32,

    /// Given by `cargo bench`; without it, as under `cargo test`, nothing is measured
    #[arg(long, hide = true)]
    pub bench: bool,
}

fn connections() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
}

impl BenchOptions for MemoryOptions {
    fn is_bench(&self) -> bool {
        self.bench
    }
}

impl BenchOptions for ReportOptions {
    fn is_bench(&self) -> bool {
        self.bench
    }
}

impl BenchOptions for LatencyOptions {
    fn is_bench(&self) -> bool {
        self.measuring.bench
    }
}

impl BenchOptions for ThroughputOptions {
    fn is_bench(&self) -> bool {
        self.measuring.bench
    }
}

impl BenchOptions for ChannelsOptions {
    fn is_bench(&self) -> bool {
        self.measuring.bench
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use invoked::ctl::bench::Pin;

    use super::{ChannelsOptions, LatencyOptions, MemoryOptions, ReportOptions, ThroughputOptions};

    #[test]
    fn the_command_lines_are_sound() {
        LatencyOptions::command().debug_assert();
        ThroughputOptions::command().debug_assert();
        ChannelsOptions::command().debug_assert();
        MemoryOptions::command().debug_assert();
        ReportOptions::command().debug_assert();
        let options = LatencyOptions::try_parse_from(["latency", "--bench"]).expect("legal").measuring;
        assert_eq!((options.pin, options.bench), (vec![Pin::None, Pin::One, Pin::Two], true));
        let one = LatencyOptions::try_parse_from(["latency", "--quick", "--pin", "one", "--at-most", "1.6"])
            .expect("legal");
        let measuring = one.measuring;
        assert_eq!((measuring.pin, one.at_most, measuring.bench), (vec![Pin::One], Some(1.6), false));
        assert!(LatencyOptions::try_parse_from(["latency", "--attempts", "0"]).is_err());
        assert!(LatencyOptions::try_parse_from(["latency", "--at-least", "1"]).is_err());
    }

    #[test]
    fn a_rate_has_a_lower_bound() {
        let line = ["throughput", "--at-least", "5", "--json", "rows", "--attempts", "2", "--bench"];
        let options = ThroughputOptions::try_parse_from(line).expect("legal");
        assert_eq!((options.at_least, options.measuring.attempts), (Some(5.0), 2));
        assert!(ThroughputOptions::try_parse_from(["throughput", "--at-most", "5"]).is_err());
        let options = ChannelsOptions::try_parse_from(["channels", "--at-least", "0.35"]).expect("legal");
        assert_eq!((options.at_least, options.measuring.quick), (Some(0.35), false));
    }

    #[test]
    fn memory_and_reports_are_of_ten_thousand_connections() {
        let memory = MemoryOptions::try_parse_from(["memory", "--at-most", "8192"]).expect("legal");
        assert_eq!((memory.connections, memory.at_most, memory.bench), (10_000, Some(8192), false));
        assert!(MemoryOptions::try_parse_from(["memory", "--connections", "0"]).is_err());
        let line = ["report", "--bench", "--out", "there", "--quick", "--pin", "one,two"];
        let report = ReportOptions::try_parse_from(line).expect("legal");
        assert_eq!((report.out.to_str(), report.quick, report.connections), (Some("there"), true, 10_000));
        assert_eq!(report.pin, [Pin::One, Pin::Two]);
    }
}
