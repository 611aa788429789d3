//! The command line of the bench.

use std::path::PathBuf;

use clap::Parser;
use invoked::ctl::bench::Pin;

/// What to measure, and what to do with it.
#[derive(Debug, Parser)]
#[command(name = "latency", about = "Measures the round trip of a call beside bare sockets")]
pub struct Options {
    /// Less of everything: 8 s instead of 30 s for each placement
    #[arg(long)]
    pub quick: bool,

    /// Placements: as the kernel likes, both processes on one processor, each on its own
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,one,two")]
    pub pin: Vec<Pin>,

    /// Write the rows there too, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Fail unless a call of 64 B, both on one processor, has at most this p50 beside uds
    #[arg(long, value_name = "RATIO")]
    pub at_most: Option<f64>,

    /// How often --at-most may be tried, as other programs disturb
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: u32,

    /// Given by `cargo bench`; without it, as under `cargo test`, nothing is measured
    #[arg(long, hide = true)]
    pub bench: bool,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use invoked::ctl::bench::Pin;

    use super::Options;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        let options = Options::try_parse_from(["latency", "--bench"]).expect("legal");
        assert_eq!(options.pin, [Pin::None, Pin::One, Pin::Two]);
        let one = Options::try_parse_from(["latency", "--quick", "--pin", "one", "--at-most", "1.6"])
            .expect("legal");
        assert_eq!((one.pin, one.at_most, one.bench), (vec![Pin::One], Some(1.6), false));
        assert!(Options::try_parse_from(["latency", "--attempts", "0"]).is_err());
    }
}
