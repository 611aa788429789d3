//! Flags of what measures.

use clap::{Args, Subcommand, ValueEnum};

use crate::ctl::bench::Pin;

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum BenchCommand {
    /// Measure the round trip of a call beside a bare socket
    Latency(LatencyArgs),
    /// Measure how many calls a second get through, pipelined and on several connections, beside bare sockets
    Throughput(ThroughputArgs),
    /// Measure how many items a second get through a channel, beside a bare socket
    Channels(ChannelsArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Two processes each: a blocking client here calls bench.bytes of the daemon, and plays ping-pong \
    with a bare blocking Unix socket (uds) and with a bare tokio loop (tokio-uds), in turns. `ratio` is the median, over \
    the rounds, of the p50 beside that of uds.\n\n\
    Measured is the daemon that answers, if it has the plugin bench (invoked --dev), else one started for the purpose. \
    --pin starts one always, as it does not move a daemon that is in use.\n\n\
    Examples:\n  invokectl bench latency --pin one\n  invokectl -j bench latency --size 64 --count 100000 > rows.jsonl"
)]
pub(in crate::ctl) struct LatencyArgs {
    /// Sizes of the reply
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = size, default_value = "64,1K,64K,1M")]
    pub(in crate::ctl) size: Vec<u32>,

    #[command(flatten)]
    pub(in crate::ctl) measure: MeasureArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Tasks of an async client here call bench.bytes of the daemon, each again as soon as it is answered: as many \
    on each connection as --in-flight says, all on one thread. In turns with them, bare Unix sockets (uds) carry as many \
    bytes: so many requests in one write, then their replies, by a thread and a process for each connection. `ratio` is the \
    median, over the rounds, of the rate beside that of uds: more is better. CPU/CALL is of both processes.\n\n\
    Measured is the daemon that answers, if it has the plugin bench (invoked --dev), else one started for the purpose. \
    --pin starts one always, as it does not move a daemon that is in use.\n\n\
    Examples:\n  invokectl bench throughput\n  invokectl bench throughput --in-flight 64 --connections 1,8 --pin two\n  \
    invokectl -j bench throughput --seconds 20 > rows.jsonl"
)]
pub(in crate::ctl) struct ThroughputArgs {
    /// Sizes of the reply
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = size, default_value = "64")]
    pub(in crate::ctl) size: Vec<u32>,

    /// Calls open at once on each connection, at most 1024
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024), default_value = "1,64")]
    pub(in crate::ctl) in_flight: Vec<u32>,

    /// Connections, at most 64
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64), default_value = "1,8")]
    pub(in crate::ctl) connections: Vec<u32>,

    #[command(flatten)]
    pub(in crate::ctl) measure: MeasureArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = "bench.count of the daemon sends raw items on a channel, to one reader here: of the blocking client, then of \
    the async one. In turns with them, the server of a bare Unix socket (uds) writes the same bytes, each item in a write of \
    its own (single), then as many as fit 64 KiB in one (batched). `ratio` is the median, over the rounds, of the rate beside \
    that of the first: more is better. CPU/ITEM is of both processes.\n\n\
    Measured is the daemon that answers, if it has the plugin bench (invoked --dev), else one started for the purpose. \
    --pin starts one always, as it does not move a daemon that is in use.\n\n\
    Examples:\n  invokectl bench channels\n  invokectl -j bench channels --size 64,1M --seconds 20 > rows.jsonl"
)]
pub(in crate::ctl) struct ChannelsArgs {
    /// Sizes of an item
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = size, default_value = "64,1K,64K")]
    pub(in crate::ctl) size: Vec<u32>,

    #[command(flatten)]
    pub(in crate::ctl) measure: MeasureArgs,
}

/// How much is measured, and where.
#[derive(Debug, Args)]
pub(in crate::ctl) struct MeasureArgs {
    /// Round trips, calls or items of each row, in place of a time
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::ctl) count: Option<u64>,

    /// How long to measure in all [default: 6]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(in crate::ctl) seconds: Option<u64>,

    /// Processors: as the kernel likes, both processes on one, or each on its own
    #[arg(long, value_enum, default_value_t = Pin::None)]
    pub(in crate::ctl) pin: Pin,

    /// Start a daemon for the purpose, also if one answers
    #[arg(long)]
    pub(in crate::ctl) self_contained: bool,
}

/// What the other end of a measurement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::ctl) enum FloorKind {
    Uds,
    TokioUds,
    UdsBatched,
    UdsItems,
}

#[derive(Debug, Args)]
pub(in crate::ctl) struct FloorArgs {
    /// How to serve the socket on standard input
    pub(in crate::ctl) kind: FloorKind,
}

fn size(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no size: write 64, 1K, 64K or 1M");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(
            (size("64"), size("1K"), size("64k"), size("1MiB")),
            (Ok(64), Ok(1024), Ok(65536), Ok(1 << 20))
        );
        for wrong in ["", "K", "-1", "5G", "4294967296", "5000M"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
