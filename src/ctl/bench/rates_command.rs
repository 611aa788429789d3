//! `invokectl bench throughput` and `bench channels`, and their tables.

use std::time::Duration;

use serde::Serialize;

use super::command::{Target, rounds};
use super::{
    AsyncItems, BatchedFloor, BlockingItems, ChannelRow, HostedCalls, ItemsFloor, Load, RatePlan,
    ThroughputRow, Writes, measure_rates,
};
use crate::ctl::args::{ChannelsArgs, Global, ThroughputArgs};
use crate::ctl::failure::Failure;
use crate::ctl::output::Output;
use crate::ctl::sandbox::sibling;
use crate::ctl::status::shown;

pub(in crate::ctl) fn throughput(
    global: &Global,
    args: &ThroughputArgs,
    output: &Output,
) -> Result<(), Failure> {
    let target = Target::new(global, &args.measure, output)?;
    let mut loads = Vec::new();
    for size in &args.size {
        for connections in &args.connections {
            loads.extend(args.in_flight.iter().map(|in_flight| Load {
                size: *size,
                in_flight: *in_flight,
                connections: *connections,
            }));
        }
    }
    let most = args.connections.iter().copied().max().unwrap_or(1);
    let me = sibling("invokectl")?;
    let mut floor = target.placement.on_server(|| BatchedFloor::start(&me, most))??;
    let mut hosted = HostedCalls::new(target.options.clone(), target.pid)?;
    let rates = measure_rates(&mut [&mut floor, &mut hosted], &plan(&target, loads, args.measure.pin))?;
    let rows: Vec<ThroughputRow> = rates.iter().map(ThroughputRow::from).collect();
    let header = [
        "size",
        "conns",
        "in flight",
        "system",
        "mode",
        "n",
        "calls/s",
        "MB/s",
        "cpu/call",
        "p50",
        "p99",
        "ratio",
    ];
    print(&header, &rows, output, |row| {
        vec![
            row.size.to_string(),
            row.connections.to_string(),
            row.in_flight.to_string(),
            row.system.to_owned(),
            row.mode.to_owned(),
            row.n.to_string(),
            row.calls_per_s.to_string(),
            megabytes(row.bytes_per_s),
            time(row.cpu_ns_per_call),
            time(Some(row.p50_ns)),
            time(Some(row.p99_ns)),
            format!("{:.2}x", row.ratio),
        ]
    })
}

pub(in crate::ctl) fn channels(global: &Global, args: &ChannelsArgs, output: &Output) -> Result<(), Failure> {
    let target = Target::new(global, &args.measure, output)?;
    let loads = args.size.iter().map(|size| Load { size: *size, in_flight: 1, connections: 1 }).collect();
    let me = sibling("invokectl")?;
    let mut single = target.placement.on_server(|| ItemsFloor::start(&me, Writes::Single))??;
    let mut batched = target.placement.on_server(|| ItemsFloor::start(&me, Writes::Batched))??;
    let mut blocking = BlockingItems::new(target.client.clone(), target.pid);
    let mut asynchronous = AsyncItems::connect(target.options.clone(), target.pid)?;
    let rates = measure_rates(
        &mut [&mut single, &mut batched, &mut blocking, &mut asynchronous],
        &plan(&target, loads, args.measure.pin),
    )?;
    let rows: Vec<ChannelRow> = rates.iter().map(ChannelRow::from).collect();
    let header = ["size", "system", "mode", "n", "items/s", "MB/s", "cpu/item", "ratio"];
    print(&header, &rows, output, |row| {
        vec![
            row.size.to_string(),
            row.system.to_owned(),
            row.mode.to_owned(),
            row.n.to_string(),
            row.items_per_s.to_string(),
            megabytes(row.bytes_per_s),
            time(row.cpu_ns_per_item),
            format!("{:.2}x", row.ratio),
        ]
    })
}

fn plan(target: &Target, loads: Vec<Load>, pin: super::Pin) -> RatePlan {
    RatePlan { loads, rounds: rounds(target.amount), amount: target.amount, pin }
}

fn print<R: Serialize>(
    header: &[&str],
    rows: &[R],
    output: &Output,
    cells: impl Fn(&R) -> Vec<String>,
) -> Result<(), Failure> {
    if output.is_json() {
        return rows.iter().try_for_each(|row| output.object(row));
    }
    output.table(header, rows.iter().map(cells).collect())
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| "?".to_owned(), |ns| shown(Duration::from_nanos(ns)))
}

/// Millions of bytes, with one digit after the point.
fn megabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
