//! A run: which peers meet in which work, in each placement.
//!
//! A peer that can't be built here, doesn't start, fails or can't do what is asked for is a line of its own, and the others
//! go on without it.

use std::time::Duration;

use invoked::ctl::bench::{
    Amount, BenchError, Carrier, Load, Pin, Placement, Plan, RatePlan, Row, Subject, ThroughputRow, measure,
    measure_rates,
};
use invoked_benches::{Programs, ROUNDS};
use serde::Serialize;

use crate::peer::{Running, Turn, with_sources};
use crate::peers::{CONNECTIONS, ENTRIES, Entry, Work, entry};
use crate::request::Fault;
use crate::server::Place;

/// Bytes of a small reply.
pub(crate) const SMALL: u32 = 64;

/// The sizes of replies, and how long one peer's turn of a round is with `--quick`.
const TRIPS: [(u32, Duration); 4] = [
    (SMALL, Duration::from_millis(30)),
    (64 << 10, Duration::from_millis(30)),
    (1 << 20, Duration::from_millis(50)),
    (16 << 20, Duration::from_millis(120)),
];

/// The same where many calls are open.
const RATES: Duration = Duration::from_millis(40);

/// Calls open on one connection.
const IN_FLIGHT: u32 = 64;

/// How many times as long without `--quick`.
const LONGER: u32 = 3;

/// What is to be run.
pub(crate) struct Wanted {
    pub(crate) trips: bool,
    pub(crate) in_flight: bool,
    pub(crate) connections: bool,
    pub(crate) quick: bool,
    /// The names of peers, or none for all.
    pub(crate) only: Vec<String>,
}

/// A peer that was not measured, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Absent {
    pub(crate) system: &'static str,
    pub(crate) work: String,
    pub(crate) pin: Pin,
    pub(crate) not_run: String,
}

/// What one placement came to.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub(crate) trips: Vec<Row>,
    pub(crate) rates: Vec<ThroughputRow>,
    pub(crate) absent: Vec<Absent>,
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Trip(size @ 0..1024) => write!(f, "{size} B"),
            Work::Trip(size @ 1024..0x10_0000) => write!(f, "{} KiB", size >> 10),
            Work::Trip(size) => write!(f, "{} MiB", size >> 20),
            Work::InFlight => write!(f, "{IN_FLIGHT} in flight"),
            Work::Connections => write!(f, "{CONNECTIONS} connections"),
        }
    }
}

/// Measures in one placement.
///
/// # Errors
/// What keeps everything from being measured: the floor fails, or the placement can't be had.
pub(crate) fn placed(programs: &Programs, pin: Pin, wanted: &Wanted) -> Result<Placed, Fault> {
    let placement = Placement::new(pin)?;
    let place = Place { programs, placement: &placement };
    let turn = Turn::default();
    let mut out = Placed::default();
    let mut peers = Vec::new();
    for entry in ENTRIES.iter().filter(|entry| is_wanted(entry, &wanted.only)) {
        match entry.start(&place) {
            Ok(peer) => peers.push(Running::new(entry.name, entry.mode, peer, turn.clone())),
            Err(fault) => {
                out.absent.push(absent(entry.name, "everything", pin, with_sources(fault.as_ref())))
            }
        }
    }
    for work in works(wanted) {
        eprintln!("measuring: {work}, {}", invoked_benches::placed(pin));
        let mut doing = able(&mut peers, work, pin, &mut out.absent);
        let time = |turn: Duration, peers: usize| {
            let turns = ROUNDS * u32::try_from(peers).unwrap_or(u32::MAX);
            Amount::Time(turn * turns * if wanted.quick { 1 } else { LONGER })
        };
        match work {
            Work::Trip(size) => {
                let turn = TRIPS.iter().find(|trip| trip.0 == size).map_or(RATES, |trip| trip.1);
                out.trips.extend(tried(&mut doing, work, pin, &mut out.absent, |peers| {
                    let plan =
                        Plan { sizes: vec![size], rounds: ROUNDS, amount: time(turn, peers.len()), pin };
                    let mut peers: Vec<&mut dyn Subject> =
                        peers.iter_mut().map(|peer| &mut **peer as _).collect();
                    measure(&mut peers, &plan)
                })?);
            }
            Work::InFlight | Work::Connections => {
                out.rates.extend(tried(&mut doing, work, pin, &mut out.absent, |peers| {
                    let amount = time(RATES, peers.len());
                    let plan = RatePlan { loads: vec![load(work)], rounds: ROUNDS, amount, pin };
                    let mut peers: Vec<&mut dyn Carrier> =
                        peers.iter_mut().map(|peer| &mut **peer as _).collect();
                    Ok(measure_rates(&mut peers, &plan)?.iter().map(ThroughputRow::from).collect())
                })?);
            }
        }
    }
    Ok(out)
}

/// The floor is there always: ratios are beside it.
fn is_wanted(entry: &Entry, only: &[String]) -> bool {
    only.is_empty() || entry.name == ENTRIES[0].name || only.iter().any(|name| name == entry.name)
}

fn works(wanted: &Wanted) -> Vec<Work> {
    let mut works: Vec<Work> = Vec::new();
    works.extend(TRIPS.iter().filter(|_| wanted.trips).map(|trip| Work::Trip(trip.0)));
    works.extend(wanted.in_flight.then_some(Work::InFlight));
    works.extend(wanted.connections.then_some(Work::Connections));
    works
}

/// The load of many calls.
fn load(work: Work) -> Load {
    let (in_flight, connections) = if work == Work::Connections { (1, CONNECTIONS) } else { (IN_FLIGHT, 1) };
    Load { size: SMALL, in_flight, connections }
}

/// The work that a row of rates is of.
pub(crate) fn work_of(row: &ThroughputRow) -> Work {
    if row.connections > 1 { Work::Connections } else { Work::InFlight }
}

fn absent(system: &'static str, work: impl ToString, pin: Pin, not_run: String) -> Absent {
    Absent { system, work: work.to_string(), pin, not_run }
}

/// Those that say they can do it.
fn able<'a>(peers: &'a mut [Running], work: Work, pin: Pin, out: &mut Vec<Absent>) -> Vec<&'a mut Running> {
    let mut able = Vec::new();
    for peer in peers {
        match entry(peer.name()).and_then(|entry| (entry.cannot)(work)) {
            Some(why) => out.push(absent(peer.name(), work, pin, why.to_owned())),
            None => able.push(peer),
        }
    }
    able
}

/// Measures, as often without another peer as one fails.
fn tried<R>(
    peers: &mut Vec<&mut Running>,
    work: Work,
    pin: Pin,
    out: &mut Vec<Absent>,
    mut measure: impl FnMut(&mut [&mut Running]) -> Result<Vec<R>, BenchError>,
) -> Result<Vec<R>, Fault> {
    loop {
        let error = match measure(peers) {
            Ok(rows) => return Ok(rows),
            Err(error) => error,
        };
        let failed = peers.iter_mut().position(|peer| peer.has_failed());
        let (Some(index @ 1..), Some(fault)) = (failed, failed.and_then(|index| peers[index].take_fault()))
        else {
            return Err(error.into());
        };
        out.push(absent(peers[index].name(), work, pin, fault));
        peers.remove(index);
    }
}

#[cfg(test)]
mod tests {
    use invoked::ctl::bench::{Amount, Done, Load, Pin, Subject};

    use super::{Wanted, Work, is_wanted, tried, works};
    use crate::peer::{Peer, Running, Turn};
    use crate::peers::ENTRIES;
    use crate::request::Fault;

    struct Fails(bool);

    impl Peer for Fails {
        fn call(&mut self, size: u32) -> Result<usize, Fault> {
            if self.0 { Err("broken".into()) } else { Ok(size as usize) }
        }

        fn carry(&mut self, _load: Load, _amount: Amount) -> Result<Done, Fault> {
            Ok(Done::default())
        }

        fn servers(&self) -> Vec<u32> {
            Vec::new()
        }
    }

    fn run(fails: [bool; 3]) -> (Result<Vec<&'static str>, Fault>, Vec<String>) {
        let turn = Turn::default();
        let mut peers: Vec<Running> = ["uds", "zmq", "tonic"]
            .into_iter()
            .zip(fails)
            .map(|(name, fails)| Running::new(name, "it", Box::new(Fails(fails)), turn.clone()))
            .collect();
        let mut absent = Vec::new();
        let rows = tried(&mut peers.iter_mut().collect(), Work::Trip(64), Pin::One, &mut absent, |peers| {
            peers.iter_mut().map(|peer| peer.round_trip(64).map(|()| peer.name())).collect()
        });
        (
            rows,
            absent
                .iter()
                .map(|absent| format!("{} {} {}", absent.system, absent.work, absent.not_run))
                .collect(),
        )
    }

    #[test]
    fn the_others_go_on_without_a_peer_that_fails() {
        let (rows, absent) = run([false, true, false]);
        assert_eq!(rows.expect("measured"), ["uds", "tonic"]);
        assert_eq!(absent, ["zmq 64 B broken"]);
        assert_eq!(run([false, true, true]).1.len(), 2);
        assert_eq!(run([false; 3]).1.len(), 0);
    }

    #[test]
    fn without_the_floor_nothing_is_measured() {
        assert!(run([true, false, false]).0.is_err());
    }

    #[test]
    fn what_is_wanted_is_run() {
        let only = ["zmq".to_owned()];
        let names: Vec<_> =
            ENTRIES.iter().filter(|entry| is_wanted(entry, &only)).map(|entry| entry.name).collect();
        assert_eq!(names, ["uds", "zmq"]);
        assert!(ENTRIES.iter().all(|entry| is_wanted(entry, &[])));
        let wanted =
            Wanted { trips: true, in_flight: false, connections: true, quick: true, only: Vec::new() };
        let works: Vec<String> = works(&wanted).iter().map(Work::to_string).collect();
        assert_eq!(works, ["64 B", "64 KiB", "1 MiB", "16 MiB", "8 connections"]);
    }
}
