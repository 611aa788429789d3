//! The benches of calls between two processes, beside bare sockets in the same run: `latency`, `throughput`, `channels`;
//! of idle connections, `memory`; and of all of them, `report`.
//!
//! It owns what is measured together, the daemon that answers, and the printing. How times are taken and summed up is
//! the business of `invoked::ctl::bench`, which `invokectl bench` uses as well; README.md says what is timed. The package
//! `peers` beside this one, which measures other systems too, uses its daemon, tables and charts.

mod channels;
mod chart;
mod daemon;
mod echo;
mod failure;
mod folder;
mod holders;
mod lanes;
mod latency;
mod memory;
mod options;
mod placements;
mod plots;
mod programs;
mod tables;
mod target;
mod throughput;
mod waiting;

pub use channels::channels;
pub use chart::{Bar, bars};
pub use daemon::Daemon;
pub use failure::Failure;
pub use folder::report;
pub use latency::latency;
pub use memory::{MemoryRow, memory};
pub use options::{
    BenchOptions, ChannelsOptions, LatencyOptions, Measuring, MemoryOptions, ReportOptions, ThroughputOptions,
};
pub use placements::{ROUNDS, main};
pub use programs::Programs;
pub use tables::{latency as latency_table, machine, placed, throughput as rates_table, write_json};
pub use throughput::throughput;
