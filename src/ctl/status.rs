//! `whoami`, `ping`, `limits`, `stats`: what the daemon says of itself and of the caller.

use std::time::{Duration, Instant};

use invoked_proto::registry::QUOTAS;
use serde_json::{Value, json};

use super::args::{Global, PingArgs};
use super::connection::connect;
use super::failure::Failure;
use super::output::Output;

pub(super) fn whoami(global: &Global, output: &Output) -> Result<(), Failure> {
    let me = connect(global)?.whoami()?;
    if output.is_json() {
        return output.object(&me);
    }
    let text = |key: &str| match &me[key] {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let groups = me["groups"].as_array().map_or(0, Vec::len);
    output.text(&format!(
        "uid {} ({}), gid {}, {groups} more groups, pid {}, connection {}",
        text("uid"),
        text("user"),
        text("gid"),
        text("pid"),
        text("peer")
    ))
}

pub(super) fn ping(global: &Global, args: &PingArgs, output: &Output) -> Result<(), Failure> {
    let start = Instant::now();
    let client = connect(global)?;
    let info = client.info();
    let connected = start.elapsed();
    if !output.is_json() {
        output.text(&format!("{}: connected in {}", info.address, shown(connected)))?;
    }
    let mut times = Vec::new();
    for seq in 1..=args.count {
        if seq > 1 {
            std::thread::sleep(args.interval);
        }
        let time = client.ping()?;
        times.push(time);
        if output.is_json() {
            output.object(&json!({ "seq": seq, "ns": nanoseconds(time) }))?;
        } else if !output.is_quiet() {
            output.text(&format!("{seq}: {}", shown(time)))?;
        }
    }
    times.sort_unstable();
    if let ([first, .., last], false) = (times.as_slice(), output.is_json()) {
        let median = times[times.len() / 2];
        output.text(&format!("min {}, median {}, max {}", shown(*first), shown(median), shown(*last)))?;
    }
    Ok(())
}

pub(super) fn limits(global: &Global, output: &Output) -> Result<(), Failure> {
    let answer: Value = connect(global)?.call("core.limits").idempotent().send()?.json()?;
    let mut rows = Vec::new();
    for limit in answer["limits"].as_array().into_iter().flatten() {
        if output.is_json() {
            output.object(&json!({
                "kind": "limit", "name": limit["name"], "value": limit["value"], "unit": limit["unit"],
                "doc": limit["doc"],
            }))?;
        }
        rows.push(["name", "value", "unit", "doc"].map(|key| cell(&limit[key])).to_vec());
    }
    for (name, value) in answer["quotas"].as_object().into_iter().flatten() {
        if output.is_json() {
            output.object(&json!({ "kind": "quota", "name": name, "value": value }))?;
        }
        rows.push(vec![name.clone(), cell(value), "quota".to_owned(), meaning(name).to_owned()]);
    }
    if output.is_json() { Ok(()) } else { output.table(&["name", "value", "unit", "meaning"], rows) }
}

/// What a quota bounds; nothing for one that this tool does not know.
fn meaning(quota: &str) -> &'static str {
    let listed = QUOTAS.iter().find(|known| known.name == quota).map(|known| known.doc);
    listed.unwrap_or(match quota {
        "calls_per_connection" => "Calls in flight of one connection.",
        "max_message" => "Bytes of one message.",
        _ => "",
    })
}

pub(super) fn stats(global: &Global, output: &Output) -> Result<(), Failure> {
    let answer: Value = connect(global)?.call("core.stats").idempotent().send()?.json()?;
    if output.is_json() {
        return output.object(&answer);
    }
    let mut rows = Vec::new();
    for (name, value) in answer.as_object().into_iter().flatten() {
        match value.as_object() {
            None => rows.push(vec![name.clone(), cell(value)]),
            Some(inner) => {
                rows.extend(inner.iter().map(|(key, value)| vec![format!("{name}.{key}"), cell(value)]));
            }
        }
    }
    output.table(&["counter", "value"], rows)
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A time as people read it: three digits and a unit.
pub(super) fn shown(time: Duration) -> String {
    let ns = time.as_secs_f64() * 1e9;
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::shown;

    #[test]
    fn times_have_the_unit_that_fits() {
        let of = |ns| shown(Duration::from_nanos(ns));
        assert_eq!(
            [of(999), of(12_345), of(1_500_000), of(2_500_000_000)],
            ["999 ns", "12.3 µs", "1.5 ms", "2.50 s"]
        );
    }
}
