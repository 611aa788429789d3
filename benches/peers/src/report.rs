//! What a run prints and writes: tables, who is ahead of whom, rows, charts.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use invoked::ctl::bench::{Pin, Row, ThroughputRow};
use invoked_benches::{Bar, bars, latency_table, machine, placed as words, rates_table, write_json};

use crate::peers::{ENTRIES, Family, Work, entry};
use crate::request::Fault;
use crate::run::{Absent, Placed, SMALL, work_of};

/// A ratio beside the floor, of any row.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    system: &'static str,
    work: Work,
    ratio: f64,
}

impl Ratio {
    /// Whether this is better than that, in the same work.
    fn beats(self, other: f64) -> bool {
        match self.work {
            Work::Trip(_) => self.ratio < other,
            Work::InFlight | Work::Connections => self.ratio > other,
        }
    }
}

fn ratios(placed: &Placed) -> Vec<Ratio> {
    let trip = |row: &Row| Ratio { system: row.system, work: Work::Trip(row.size), ratio: row.ratio };
    let rate = |row: &ThroughputRow| Ratio { system: row.system, work: work_of(row), ratio: row.ratio };
    placed.trips.iter().map(trip).chain(placed.rates.iter().map(rate)).collect()
}

/// The works of these ratios, each once, as they were done.
fn works(ratios: &[Ratio]) -> Vec<Work> {
    let mut works: Vec<Work> = Vec::new();
    for ratio in ratios {
        if !works.contains(&ratio.work) {
            works.push(ratio.work);
        }
    }
    works
}

/// Everything of one placement, for people.
pub(crate) fn text(pin: Pin, placed: &Placed) -> String {
    let mut text = String::new();
    if !placed.trips.is_empty() {
        writeln!(text, "{}", latency_table(pin, &placed.trips)).expect("a string takes everything");
    }
    if !placed.rates.is_empty() {
        writeln!(text, "{}", rates_table(pin, &placed.rates)).expect("a string takes everything");
    }
    for Absent { system, work, not_run, .. } in &placed.absent {
        writeln!(text, "not run: {system}, {work}: {not_run}").expect("a string takes everything");
    }
    writeln!(text, "\n{}\n{}", matrix(pin, &ratios(placed)), standing(&ratios(placed)))
        .expect("a string takes everything");
    text
}

/// The ratios alone, a row for each peer, in Markdown.
fn matrix(pin: Pin, ratios: &[Ratio]) -> String {
    let works = works(ratios);
    let mut text = format!("| {} |", words(pin));
    works.iter().for_each(|work| write!(text, " {work} |").expect("a string takes everything"));
    text += "\n|---|";
    works.iter().for_each(|_| text += "---|");
    text.push('\n');
    for entry in ENTRIES.iter().filter(|entry| ratios.iter().any(|ratio| ratio.system == entry.name)) {
        write!(text, "| `{}` |", entry.name).expect("a string takes everything");
        for work in &works {
            let ratio = ratios.iter().find(|ratio| (ratio.system, ratio.work) == (entry.name, *work));
            let cell = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.2}x", ratio.ratio));
            write!(text, " {cell} |").expect("a string takes everything");
        }
        text.push('\n');
    }
    text
}

/// Whether the better of the own clients has to be ahead of this peer in this work.
fn is_rival(system: &str, work: Work) -> bool {
    match entry(system).map(|entry| entry.family) {
        Some(Family::Rpc) => true,
        Some(Family::Shared(waits)) => waits && work == Work::Trip(SMALL),
        _ => false,
    }
}

/// Of which rivals invoked is not ahead, by the better of its clients.
fn standing(ratios: &[Ratio]) -> String {
    let is_own = |ratio: &&Ratio| entry(ratio.system).is_some_and(|entry| entry.family == Family::Own);
    let (mut ahead, mut behind) = (0, String::new());
    for work in works(ratios) {
        let of_work = || ratios.iter().filter(move |ratio| ratio.work == work);
        let better = |best: Ratio, other: &Ratio| if other.beats(best.ratio) { *other } else { best };
        let Some(own) = of_work().filter(is_own).copied().reduce(|best, other| better(best, &other)) else {
            continue;
        };
        for rival in of_work().filter(|ratio| is_rival(ratio.system, work)) {
            if own.beats(rival.ratio) {
                ahead += 1;
            } else {
                let (name, rival_ratio) = (rival.system, rival.ratio);
                writeln!(
                    behind,
                    "behind {name} at {work}: {} {:.2}x, {name} {rival_ratio:.2}x",
                    own.system, own.ratio
                )
                .expect("a string takes everything");
            }
        }
    }
    match (ahead, behind.is_empty()) {
        (0, true) => String::new(),
        (ahead, true) => {
            format!("ahead of each RPC peer, and of iceoryx2's events at 64 B: {ahead} of {ahead}\n")
        }
        (ahead, false) => format!("ahead in {ahead} of {}\n{behind}", ahead + behind.lines().count()),
    }
}

/// One chart of bars.
fn chart(pin: Pin, work: Work, ratios: &[Ratio]) -> String {
    let of_work = ratios.iter().filter(|ratio| ratio.work == work);
    let all: Vec<Bar> = of_work
        .map(|ratio| Bar {
            group: String::new(),
            name: ratio.system.to_owned(),
            colour: colour(ratio.system),
            value: ratio.ratio,
        })
        .collect();
    let (what, better) = match work {
        Work::Trip(_) => {
            (format!("Round trips, {work} replies"), "p50 beside a bare blocking socket, less is better")
        }
        _ => (format!("Calls a second, 64 B, {work}"), "rate beside bare blocking sockets, more is better"),
    };
    bars(&what, &format!("{}; {better}", words(pin)), &all)
}

fn colour(system: &str) -> usize {
    match entry(system).map(|entry| entry.family) {
        Some(Family::Own) => 3,
        Some(Family::Rpc) => 2,
        Some(Family::Shared(_)) => 4,
        _ => 1,
    }
}

/// All placements of a run.
pub(crate) struct Report {
    machine: Vec<String>,
    placed: Vec<(Pin, Placed)>,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        let how = if quick { "with --quick" } else { "without --quick" };
        Report { machine: vec![how.to_owned(), format!("before: {}", machine())], placed: Vec::new() }
    }

    pub(crate) fn add(&mut self, pin: Pin, placed: Placed) {
        self.machine.push(format!("after {}: {}", words(pin), machine()));
        self.placed.push((pin, placed));
    }

    /// Writes the folder, which is made if it isn't there.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Fault> {
        fs::create_dir_all(folder.join("plots"))?;
        let trips: Vec<&Row> = self.placed.iter().flat_map(|(_, placed)| &placed.trips).collect();
        let rates: Vec<&ThroughputRow> = self.placed.iter().flat_map(|(_, placed)| &placed.rates).collect();
        let absent: Vec<&Absent> = self.placed.iter().flat_map(|(_, placed)| &placed.absent).collect();
        write_json(&folder.join("latency.jsonl"), &trips)?;
        write_json(&folder.join("rates.jsonl"), &rates)?;
        write_json(&folder.join("not-run.jsonl"), &absent)?;
        let mut text = format!("# invoked beside its peers\n\n{}\n", self.machine.join("  \n"));
        let mut names = BTreeSet::new();
        for (pin, placed) in &self.placed {
            write!(text, "\n```text\n{}```\n", self::text(*pin, placed))?;
            let ratios = ratios(placed);
            for work in works(&ratios) {
                let name = format!("plots/{}-{pin}.svg", work.to_string().to_lowercase().replace(' ', "-"));
                fs::write(folder.join(&name), chart(*pin, work, &ratios))?;
                names.insert(name);
            }
        }
        for name in names {
            write!(text, "\n![ratios]({name})\n")?;
        }
        Ok(fs::write(folder.join("report.md"), text)?)
    }
}

#[cfg(test)]
mod tests {
    use invoked::ctl::bench::Pin;

    use super::{Ratio, Report, chart, matrix, standing};
    use crate::peers::Work;
    use crate::run::{Absent, Placed};

    fn ratio(system: &'static str, work: Work, ratio: f64) -> Ratio {
        Ratio { system, work, ratio }
    }

    #[test]
    fn the_better_client_stands_for_invoked() {
        let trip = Work::Trip(64);
        let all = [ratio("invoked", trip, 1.4), ratio("invoked-async", trip, 1.2), ratio("zmq", trip, 1.3)];
        assert_eq!(standing(&all), "ahead of each RPC peer, and of iceoryx2's events at 64 B: 1 of 1\n");
        let rate = [ratio("invoked-async", Work::InFlight, 0.3), ratio("zmq", Work::InFlight, 0.2)];
        assert!(standing(&rate).ends_with("1 of 1\n"), "more is better there");
        assert_eq!(standing(&all[2..]), "", "nothing to compare with");
    }

    #[test]
    fn who_is_not_beaten_is_named_with_its_figures() {
        let trip = Work::Trip(16 << 20);
        let all = [ratio("invoked", trip, 0.9), ratio("zmq", trip, 0.9), ratio("tonic", trip, 3.0)];
        assert_eq!(standing(&all), "ahead in 1 of 2\nbehind zmq at 16 MiB: invoked 0.90x, zmq 0.90x\n");
    }

    #[test]
    fn shared_memory_is_a_rival_where_it_waits_and_the_call_is_small() {
        for (system, work, is_rival) in [
            ("iceoryx2-event", Work::Trip(64), true),
            ("iceoryx2-event", Work::Trip(65536), false),
            ("iceoryx2-busy", Work::Trip(64), false),
            ("uds", Work::Trip(64), false),
        ] {
            let all = [ratio("invoked", work, 9.0), ratio(system, work, 1.0)];
            assert_eq!(standing(&all).contains("behind"), is_rival, "{system} {work}");
        }
    }

    #[test]
    fn a_matrix_has_a_row_for_each_peer_and_a_dash_for_what_it_did_not_do() {
        let all = [
            ratio("uds", Work::Trip(64), 1.0),
            ratio("uds", Work::InFlight, 1.0),
            ratio("ttrpc", Work::InFlight, 0.1),
        ];
        let text = matrix(Pin::One, &all);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| both processes on one processor | 64 B | 64 in flight |");
        assert_eq!(lines[1..], ["|---|---|---|", "| `uds` | 1.00x | 1.00x |", "| `ttrpc` | – | 0.10x |"]);
        assert!(chart(Pin::One, Work::InFlight, &all).contains("0.10x"));
    }

    #[test]
    fn a_report_names_what_was_not_run() {
        let folder = tempfile::tempdir().expect("a directory");
        let mut report = Report::new(true);
        let absent = Absent {
            system: "zmq",
            work: "64 B".to_owned(),
            pin: Pin::Two,
            not_run: "no compiler".to_owned(),
        };
        report.add(Pin::Two, Placed { absent: vec![absent], ..Placed::default() });
        report.write(folder.path()).expect("written");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
        assert!(read("report.md").contains("not run: zmq, 64 B: no compiler"));
        assert_eq!(
            read("not-run.jsonl"),
            "{\"system\":\"zmq\",\"work\":\"64 B\",\"pin\":\"two\",\"not_run\":\"no compiler\"}\n"
        );
    }
}
