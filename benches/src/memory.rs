//! What an idle connection costs the daemon: bytes of its own memory, and processor time.

use std::fs;
use std::time::{Duration, Instant};

use invoked::ctl::bench::processor_time;
use invoked_client::blocking::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::holders::{Holder, call, shares};
use crate::options::MemoryOptions;
use crate::placements::show;
use crate::programs::Programs;
use crate::tables;
use crate::target::{Bound, hold};

/// How long the daemon is left alone while its processor time is counted.
const IDLE: Duration = Duration::from_secs(2);

/// Descriptors of the daemon's and of this process's that are no connections, with room to spare.
const OTHER_DESCRIPTORS: u64 = 512;

/// More than that many times as many descriptors let one uid alone have all connections.
const SHARE_OF_UID: u64 = 4;

/// Connections that nobody needs to have.
const SPARE: u64 = 64;

/// Lets everybody call what is measured.
const EVERYBODY: &str = r#"
identifier = "measured"
peers = ["everyone"]
permissions = ["bench:default"]
"#;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryRow {
    /// What was measured.
    pub system: &'static str,
    /// Connections that were open at once.
    pub connections: u64,
    /// What each has done: said hello (`connected`), or had a call answered too (`called`).
    pub mode: &'static str,
    /// Memory of the daemon's own before, in bytes: what is resident, a page that others share by its share (Pss).
    pub before_bytes: u64,
    /// The same with the connections.
    pub with_bytes: u64,
    /// The difference, for each.
    pub bytes_per_connection: u64,
    /// Processor time of the daemon in two seconds of idling, in nanoseconds; `None` if the kernel doesn't tell.
    pub idle_cpu_ns: Option<u64>,
    /// How long that was, in nanoseconds.
    pub idle_ns: u64,
}

/// Measures and prints as the options say.
///
/// # Errors
/// What kept it from measuring, or [`Failure::Missed`] if `--at-most` is missed.
pub fn memory(options: &MemoryOptions) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let rows = measured(&programs, options.connections.into())?;
    show(&tables::memory(&rows));
    if let Some(path) = &options.json {
        let written = tables::write_json(path, &rows);
        written.map_err(Failure::io(format!("can't write {}", path.display())))?;
    }
    let Some(at_most) = options.at_most else { return Ok(()) };
    let what = "bytes of the daemon's own memory for an idle connection";
    #[allow(clippy::cast_precision_loss)] // a bench with more than 2^53 bytes is none
    let most = rows.iter().map(|row| row.bytes_per_connection).max().map(|bytes| bytes as f64);
    #[allow(clippy::cast_precision_loss)]
    hold(what, Bound::AtMost(at_most as f64), 1, most, || Ok(None))
}

/// Opens so many connections, or as many as this machine lets the daemon have: those that one uid may not have are other uids',
/// which takes root.
pub(crate) fn measured(programs: &Programs, wanted: u64) -> Result<Vec<MemoryRow>, Failure> {
    let room = allow(descriptors_for(wanted)).saturating_sub(OTHER_DESCRIPTORS);
    // The bench itself has one more.
    let shares = shares(wanted, room.saturating_sub(SPARE), rustix::process::geteuid().is_root());
    let connections = shares.iter().sum();
    if connections < wanted {
        println!("open files allow {connections} connections, not {wanted}; root can use several uids");
    }
    let (of_one, all) = (room / SHARE_OF_UID + 16, room);
    let config = format!("[quotas]\nconnections = {all}\nconnections_per_uid = {of_one}\n");
    let mut daemon = Daemon::start_for_all(&programs.invoked, &config, EVERYBODY)?;
    let first = daemon.connect()?;
    call(&first)?;
    let before = settled(daemon.pid())?;
    let (own, others) = shares.split_first().map_or((0, &[][..]), |(own, others)| (*own, others));
    let clients = (0..own).map(|_| Client::connect(daemon.options())).collect::<Result<Vec<_>, _>>()?;
    let mut holders = Vec::new();
    for (index, share) in (0..).zip(others) {
        holders.push(Holder::start(index, *share, daemon.address(), daemon.directory())?);
    }
    let mut rows = vec![row(&daemon, "connected", connections, before)?];
    clients.iter().try_for_each(call)?;
    holders.iter_mut().try_for_each(Holder::call)?;
    rows.push(row(&daemon, "called", connections, before)?);
    Ok(rows)
}

fn row(daemon: &Daemon, mode: &'static str, connections: u64, before: u64) -> Result<MemoryRow, Failure> {
    let with = settled(daemon.pid())?;
    let spent = || processor_time(daemon.pid());
    let (begin, spent_before) = (Instant::now(), spent());
    std::thread::sleep(IDLE);
    let idle_cpu_ns = spent().zip(spent_before).map(|(after, before)| after.saturating_sub(before));
    Ok(MemoryRow {
        system: "hosted",
        connections,
        mode,
        before_bytes: before,
        with_bytes: with,
        bytes_per_connection: each(before, with, connections),
        idle_cpu_ns,
        idle_ns: u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
    })
}

/// The memory of a process once it doesn't change any more.
fn settled(pid: u32) -> Result<u64, Failure> {
    let mut last = own_bytes(pid)?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        let now = own_bytes(pid)?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

fn own_bytes(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(Failure::io(format!("can't read {path}")))?;
    let none = || std::io::Error::new(std::io::ErrorKind::InvalidData, "it has no line `Pss:`");
    pss(&text).ok_or_else(none).map_err(Failure::io(path))
}

/// The line `Pss:`, in bytes.
fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What each of so many costs, rounded up.
fn each(before: u64, with: u64, count: u64) -> u64 {
    with.saturating_sub(before).div_ceil(count.max(1))
}

/// Descriptors with which one uid may have so many connections.
fn descriptors_for(connections: u64) -> u64 {
    (connections + OTHER_DESCRIPTORS) * SHARE_OF_UID
}

/// Lets this process, and the daemon that it starts, have so many descriptors, or as many as there may be.
fn allow(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let (Some(current), Some(maximum)) = (now.current, now.maximum) else { return wanted };
    let raise = |to: u64, maximum: u64| {
        let limit = Rlimit { current: Some(to), maximum: Some(maximum) };
        setrlimit(Resource::Nofile, limit).is_ok().then_some(to)
    };
    if current >= wanted {
        return current;
    }
    // Above the maximum it takes a privilege.
    raise(wanted, maximum.max(wanted)).or_else(|| raise(maximum, maximum)).unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::{each, own_bytes, pss};

    #[test]
    fn the_memory_of_a_process_is_its_share_of_what_is_resident() {
        let text =
            "5581-7ffe ---p 00000000 00:00 0  [rollup]\nRss:    9000 kB\nPss:    4321 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(pss(text), Some(4321 * 1024));
        for wrong in ["", "Rss: 1 kB", "Pss: many kB", "Pss: 7 MB", "Pss: 99999999999999999999 kB"] {
            assert_eq!(pss(wrong), None, "{wrong}");
        }
        let bytes = own_bytes(std::process::id()).expect("this process has some");
        assert!(bytes > 4096);
        assert!(own_bytes(u32::MAX).is_err());
    }

    #[test]
    fn the_difference_is_shared_out_and_never_rounded_down() {
        assert_eq!(each(1000, 91_000, 10), 9000);
        assert_eq!(each(1000, 91_001, 10), 9001);
        assert_eq!(each(2000, 1000, 10), 0, "it gave memory back");
        assert_eq!(each(0, 7, 0), 7);
    }
}
