//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use invoked::ctl::bench::Pin;

use crate::peers::{ENTRIES, entry};

/// The same calls through invoked and through other systems, interleaved in one run
#[derive(Debug, Parser)]
#[command(name = "invoked-peers", after_help = after_help())]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Round trips: 64 B there, and replies of 64 B, 64 KiB, 1 MiB and 16 MiB
    Latency(Measuring),
    /// Calls a second of 64 B, with 64 open on one connection
    InFlight(Measuring),
    /// Calls a second of 64 B, with one open on each of eight connections
    Connections(Measuring),
    /// All of these
    All(Measuring),
    /// Serves a peer, until the measuring process ends
    #[command(hide = true)]
    Serve { peer: String, address: PathBuf },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Measuring {
    /// Less of everything: a third of the time
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only these peers, and uds, which ratios are beside
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = known)]
    pub(crate) only: Vec<String>,

    /// Where processes run: as the kernel likes, all on one processor, the client and its servers on one each
    #[arg(long, value_enum, value_delimiter = ',', default_value = "free,one,two")]
    pub(crate) placement: Vec<Placed>,

    /// Write the tables, rows as JSON, and charts there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Placed {
    Free,
    One,
    Two,
}

impl From<Placed> for Pin {
    fn from(placed: Placed) -> Self {
        match placed {
            Placed::Free => Pin::None,
            Placed::One => Pin::One,
            Placed::Two => Pin::Two,
        }
    }
}

fn names() -> String {
    ENTRIES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

fn after_help() -> String {
    format!("Peers: {}.\nWhat is timed, and how each is set up: benches/peers/README.md.", names())
}

fn known(name: &str) -> Result<String, String> {
    entry(name).map(|entry| entry.name.to_owned()).ok_or_else(|| format!("peers are {}", names()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Command, Options, Placed};

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        let all = Options::try_parse_from(["invoked-peers", "all"]).expect("legal");
        let Command::All(measuring) = all.command else { panic!("{all:?}") };
        assert_eq!(measuring.placement, [Placed::Free, Placed::One, Placed::Two]);
        assert!(measuring.only.is_empty() && !measuring.quick);
        let line = ["invoked-peers", "latency", "--quick", "--only", "zmq,tonic", "--placement", "one"];
        let Command::Latency(measuring) = Options::try_parse_from(line).expect("legal").command else {
            panic!()
        };
        assert_eq!(
            (measuring.only, measuring.placement),
            (vec!["zmq".to_owned(), "tonic".to_owned()], vec![Placed::One])
        );
        let unknown =
            Options::try_parse_from(["invoked-peers", "latency", "--only", "corba"]).expect_err("unknown");
        assert!(unknown.to_string().contains("peers are uds, tokio, invoked"), "{unknown}");
        assert!(Options::try_parse_from(["invoked-peers"]).is_err());
    }
}
