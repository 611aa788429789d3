//! How much gets through in a time: calls that are pipelined, items of channels.
//!
//! As with round trips, subjects take turns, and only ratios within one run are compared.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::rounds::{LONGEST_NS, nanoseconds, share};
use super::{Amount, BenchError, Pin, cpu};

/// Units before anything is measured, of each subject and load.
const WARM_UP: u64 = 200;

/// What is to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes of a unit: of a call's reply, of an item.
    pub size: u32,
    /// Calls that are open at once on a connection.
    pub in_flight: u32,
    /// Connections at once.
    pub connections: u32,
}

/// What a subject did in its turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// How many units were carried.
    pub units: u64,
    /// How long some of them took, in nanoseconds.
    pub times: Vec<u64>,
}

impl Done {
    /// Adds what another part of the subject did meanwhile.
    pub(super) fn add(&mut self, other: Self) {
        self.units += other.units;
        self.times.extend(other.times);
    }
}

/// Something that carries units of a given size.
pub trait Carrier {
    /// Its name in rows.
    fn system(&self) -> &'static str;

    /// How the other end works, or how what is carried goes, in rows.
    fn mode(&self, load: Load) -> &'static str;

    /// The processes at the other end, whose processor time counts; `None` if they aren't known.
    fn servers(&self) -> Option<Vec<u32>>;

    /// Carries as much as `amount` says, and checks that it arrived.
    ///
    /// # Errors
    /// Whatever keeps it from being done; the measurement ends then.
    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError>;
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct RatePlan {
    /// What is carried, by each subject.
    pub loads: Vec<Load>,
    /// How often every subject gets its turn.
    pub rounds: u32,
    /// How much to measure: units of each subject and load, or a time for all.
    pub amount: Amount,
    /// Where the processes run; it is for the rows, and moves nothing.
    pub pin: Pin,
}

/// One subject under one load, measured.
#[derive(Debug, Clone)]
pub struct Rate {
    /// What was measured.
    pub system: &'static str,
    /// How the other end works.
    pub mode: &'static str,
    /// What was carried.
    pub load: Load,
    /// How many units.
    pub n: u64,
    /// Units a second, over all rounds.
    pub per_s: u64,
    /// Bytes of units a second, over all rounds.
    pub bytes_per_s: u64,
    /// Processor time of both ends for a unit, in nanoseconds; `None` if the kernel doesn't tell.
    pub cpu_ns: Option<u64>,
    /// The median, over the rounds, of this rate beside that of the first subject in the same round: more is better.
    pub ratio: f64,
    /// Where the processes ran.
    pub pin: Pin,
    /// Times of units, as far as they were taken.
    pub(super) times: Histogram<u64>,
}

impl Rate {
    /// The time within which this share of the units was done, in nanoseconds.
    pub(super) fn at(&self, quantile: f64) -> u64 {
        self.times.value_at_quantile(quantile)
    }

    pub(super) fn mean(&self) -> u64 {
        nanoseconds(self.times.mean())
    }
}

/// One subject under one load, while it is measured.
struct Cell {
    units: u64,
    spent: Duration,
    cpu_ns: Option<u64>,
    times: Histogram<u64>,
    /// Units a second in each round.
    rates: Vec<f64>,
}

/// Measures every subject under every load, in turns that begin with another subject each round. The first subject is the
/// floor of the ratios.
///
/// # Errors
/// The first error of a subject.
pub fn measure_rates(subjects: &mut [&mut dyn Carrier], plan: &RatePlan) -> Result<Vec<Rate>, BenchError> {
    let rounds = plan.rounds.max(1);
    let mut cells: Vec<Vec<Cell>> = Vec::new();
    for load in &plan.loads {
        for subject in subjects.iter_mut() {
            subject.carry(*load, Amount::Count(WARM_UP))?;
        }
        cells.push(subjects.iter().map(|_| Cell::new()).collect());
    }
    for round in 0..rounds {
        for (load, cells) in plan.loads.iter().zip(&mut cells) {
            for turn in 0..subjects.len() {
                let index = (turn + round as usize) % subjects.len();
                let share = share(plan.amount, round, rounds, plan.loads.len() * subjects.len());
                cells[index].round(subjects[index], *load, share)?;
            }
        }
    }
    let mut rates = Vec::new();
    for (load, cells) in plan.loads.iter().zip(&cells) {
        for (subject, cell) in subjects.iter().zip(cells) {
            rates.push(cell.rate(&**subject, *load, plan.pin, &cells[0]));
        }
    }
    Ok(rates)
}

impl Cell {
    fn new() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are legal");
        Cell { units: 0, spent: Duration::ZERO, cpu_ns: Some(0), times, rates: Vec::new() }
    }

    fn round(&mut self, subject: &mut dyn Carrier, load: Load, share: Amount) -> Result<(), BenchError> {
        let spent = |subject: &dyn Carrier| subject.servers().and_then(|servers| cpu::spent(&servers));
        let before = spent(subject);
        let start = Instant::now();
        let done = subject.carry(load, share)?;
        let took = start.elapsed();
        let cpu = spent(subject).zip(before).map(|(after, before)| after.saturating_sub(before));
        self.cpu_ns = self.cpu_ns.zip(cpu).map(|(sum, cpu)| sum + cpu);
        self.units += done.units;
        self.spent += took;
        self.rates.push(per_second(done.units, took));
        done.times.iter().for_each(|time| self.times.saturating_record(*time));
        Ok(())
    }

    fn rate(&self, subject: &dyn Carrier, load: Load, pin: Pin, floor: &Cell) -> Rate {
        let per_s = per_second(self.units, self.spent);
        Rate {
            system: subject.system(),
            mode: subject.mode(load),
            load,
            n: self.units,
            per_s: whole(per_s),
            bytes_per_s: whole(per_s * f64::from(load.size)),
            cpu_ns: self.cpu_ns.map(|cpu| cpu / self.units.max(1)),
            ratio: self.ratio(floor),
            pin,
            times: self.times.clone(),
        }
    }

    fn ratio(&self, floor: &Cell) -> f64 {
        let ratio = |(own, floor): (&f64, &f64)| own / floor;
        let mut ratios: Vec<f64> = self.rates.iter().zip(&floor.rates).map(ratio).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

#[allow(clippy::cast_precision_loss)] // numbers of units in a measurement are far below 2^53
fn per_second(units: u64, time: Duration) -> f64 {
    // Of a time that no clock can tell, the rate is that of a nanosecond.
    units as f64 / time.as_secs_f64().max(1e-9)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it saturates, and no rate is negative
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Carrier, Done, Load, RatePlan, WARM_UP, measure_rates};
    use crate::ctl::bench::{Amount, BenchError, Pin};

    /// Carries units that take a time, by sleeping.
    struct Sleeper {
        name: &'static str,
        each: Duration,
        carried: u64,
        fails: bool,
    }

    impl Sleeper {
        fn new(name: &'static str, each: Duration) -> Self {
            Sleeper { name, each, carried: 0, fails: false }
        }
    }

    impl Carrier for Sleeper {
        fn system(&self) -> &'static str {
            self.name
        }

        fn mode(&self, _: Load) -> &'static str {
            "asleep"
        }

        fn servers(&self) -> Option<Vec<u32>> {
            Some(Vec::new())
        }

        fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
            if self.fails {
                return Err(BenchError::WrongReply { system: self.name, got: 0, expected: load.size });
            }
            let Amount::Count(units) = amount else { panic!("the plan counts") };
            if units < WARM_UP {
                std::thread::sleep(self.each * u32::try_from(units).expect("few"));
            }
            self.carried += units;
            Ok(Done { units, times: vec![1000; 2] })
        }
    }

    fn plan() -> RatePlan {
        let load = |size| Load { size, in_flight: 1, connections: 1 };
        RatePlan { loads: vec![load(64), load(128)], rounds: 3, amount: Amount::Count(10), pin: Pin::None }
    }

    #[test]
    fn rates_and_ratios_are_of_what_was_carried() {
        let mut floor = Sleeper::new("floor", Duration::from_millis(1));
        let mut slow = Sleeper::new("slow", Duration::from_millis(20));
        let rates = measure_rates(&mut [&mut floor, &mut slow], &plan()).expect("measured");
        let shape: Vec<_> = rates.iter().map(|rate| (rate.system, rate.load.size, rate.n)).collect();
        assert_eq!(shape, [("floor", 64, 10), ("slow", 64, 10), ("floor", 128, 10), ("slow", 128, 10)]);
        assert_eq!(slow.carried, 2 * (10 + WARM_UP));
        assert!((rates[0].ratio - 1.0).abs() < 1e-9, "the floor beside itself");
        // It can't be quicker than it sleeps.
        assert!(rates[1].per_s <= 50 && rates[1].per_s > 0 && rates[1].ratio > 0.0, "{:?}", rates[1]);
        assert_eq!((rates[0].at(0.5), rates[0].mean()), (1000, 1000));
        assert!(rates.iter().all(|rate| rate.cpu_ns.is_some() && rate.bytes_per_s >= rate.per_s));
    }

    #[test]
    fn an_error_ends_the_measurement() {
        let mut floor = Sleeper { fails: true, ..Sleeper::new("floor", Duration::ZERO) };
        assert!(measure_rates(&mut [&mut floor], &plan()).is_err());
        assert_eq!(floor.carried, 0);
    }
}
