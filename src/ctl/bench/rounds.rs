//! Rounds in turns, and what they come to.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{BenchError, Pin, Subject};

/// Round trips before anything is measured, of each subject and size.
const WARM_UP: u32 = 50;

/// The longest round trip that is told apart: a minute.
pub(super) const LONGEST_NS: u64 = 60_000_000_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sizes of the replies, in bytes.
    pub sizes: Vec<u32>,
    /// How often every subject gets its turn.
    pub rounds: u32,
    /// How much to measure.
    pub amount: Amount,
    /// Where the processes run; it is for the rows, and moves nothing. See [`Placement`](super::Placement).
    pub pin: Pin,
}

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many round trips of each subject and size, in all rounds together.
    Count(u64),
    /// So long in all, shared out evenly.
    Time(Duration),
}

/// One subject at one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub system: &'static str,
    /// How the other end answers.
    pub mode: &'static str,
    /// Bytes of the reply.
    pub size: u32,
    /// Round trips.
    pub n: u64,
    /// Half of them took no longer, in nanoseconds; the next three likewise.
    pub p50_ns: u64,
    /// Nine in ten.
    pub p90_ns: u64,
    /// 99 in a hundred.
    pub p99_ns: u64,
    /// 999 in a thousand.
    pub p999_ns: u64,
    /// Their mean, in nanoseconds.
    pub mean_ns: u64,
    /// Where the processes ran.
    pub pin: Pin,
    /// The median, over the rounds, of this p50 beside that of the first subject in the same round.
    pub ratio: f64,
    /// All its times, in nanoseconds.
    #[serde(skip)]
    pub times: Histogram<u64>,
}

/// One subject at one size, while it is measured.
struct Cell {
    all: Histogram<u64>,
    /// The p50 of each round.
    medians: Vec<u64>,
}

/// Measures every subject at every size, in turns that begin with another subject each round. The first subject is the
/// floor of the ratios.
///
/// # Errors
/// The first error of a subject.
pub fn measure(subjects: &mut [&mut dyn Subject], plan: &Plan) -> Result<Vec<Row>, BenchError> {
    let rounds = plan.rounds.max(1);
    let mut rows = Vec::new();
    let mut cells: Vec<Vec<Cell>> = Vec::new();
    for size in &plan.sizes {
        for subject in subjects.iter_mut() {
            (0..WARM_UP).try_for_each(|_| subject.round_trip(*size))?;
        }
        cells.push(subjects.iter().map(|_| Cell::new()).collect());
    }
    for round in 0..rounds {
        for (size, cells) in plan.sizes.iter().zip(&mut cells) {
            for turn in 0..subjects.len() {
                let index = (turn + round as usize) % subjects.len();
                let share = share(plan.amount, round, rounds, plan.sizes.len() * subjects.len());
                cells[index].round(subjects[index], *size, share)?;
            }
        }
    }
    for (size, cells) in plan.sizes.iter().zip(&cells) {
        for (subject, cell) in subjects.iter().zip(cells) {
            rows.push(cell.row(&**subject, *size, plan.pin, &cells[0]));
        }
    }
    Ok(rows)
}

/// What is done in one of the turns of a round, of which there are `turns`.
pub(super) fn share(amount: Amount, round: u32, rounds: u32, turns: usize) -> Amount {
    match amount {
        Amount::Count(count) => Amount::Count(portion(count, round.into(), rounds.into())),
        Amount::Time(time) => {
            let shares = (rounds as usize).saturating_mul(turns);
            Amount::Time(time / u32::try_from(shares.max(1)).unwrap_or(u32::MAX))
        }
    }
}

/// The portion of the one with this index, of so many. What can't be divided goes to the first.
pub(super) fn portion(count: u64, index: u64, of: u64) -> u64 {
    count / of + u64::from(index < count % of)
}

impl Cell {
    fn new() -> Self {
        let all = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are legal");
        Cell { all, medians: Vec::new() }
    }

    fn round(&mut self, subject: &mut dyn Subject, size: u32, share: Amount) -> Result<(), BenchError> {
        let mut samples: Vec<u64> = Vec::new();
        let begin = Instant::now();
        let mut last = begin;
        loop {
            let done = match share {
                Amount::Count(count) => samples.len() as u64 >= count,
                // At least one, however slow.
                Amount::Time(time) => !samples.is_empty() && last.duration_since(begin) >= time,
            };
            if done {
                break;
            }
            let start = Instant::now();
            subject.round_trip(size)?;
            last = Instant::now();
            let sample = u64::try_from(last.duration_since(start).as_nanos()).unwrap_or(u64::MAX);
            samples.push(sample);
        }
        samples.iter().for_each(|sample| self.all.saturating_record(*sample));
        samples.sort_unstable();
        self.medians.extend(samples.get(samples.len() / 2));
        Ok(())
    }

    fn row(&self, subject: &dyn Subject, size: u32, pin: Pin, floor: &Cell) -> Row {
        let at = |quantile| self.all.value_at_quantile(quantile);
        Row {
            system: subject.system(),
            mode: subject.mode(size),
            size,
            n: self.all.len(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            mean_ns: nanoseconds(self.all.mean()),
            pin,
            ratio: self.ratio(floor),
            times: self.all.clone(),
        }
    }

    fn ratio(&self, floor: &Cell) -> f64 {
        #[allow(clippy::cast_precision_loss)] // a time of a minute has 36 bits
        let ratio = |(own, floor): (&u64, &u64)| *own as f64 / (*floor).max(1) as f64;
        let mut ratios: Vec<f64> = self.medians.iter().zip(&floor.medians).map(ratio).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a mean of what a histogram holds, which is bounded
pub(super) fn nanoseconds(mean: f64) -> u64 {
    mean.round() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Amount, Plan, measure};
    use crate::ctl::bench::{BenchError, Pin, Subject};

    struct Counted {
        name: &'static str,
        sizes: Vec<u32>,
        fails_after: usize,
    }

    impl Counted {
        fn new(name: &'static str) -> Self {
            Counted { name, sizes: Vec::new(), fails_after: usize::MAX }
        }
    }

    impl Subject for Counted {
        fn system(&self) -> &'static str {
            self.name
        }

        fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
            self.sizes.push(size);
            if self.sizes.len() > self.fails_after {
                return Err(BenchError::WrongReply { system: self.name, got: 0, expected: size });
            }
            Ok(())
        }
    }

    fn plan(amount: Amount) -> Plan {
        Plan { sizes: vec![64, 1024], rounds: 4, amount, pin: Pin::None }
    }

    #[test]
    fn every_subject_does_every_size_as_often_as_planned() {
        let (mut floor, mut other) = (Counted::new("floor"), Counted::new("other"));
        let rows = measure(&mut [&mut floor, &mut other], &plan(Amount::Count(10))).expect("measured");
        let shape: Vec<_> = rows.iter().map(|row| (row.system, row.size, row.n)).collect();
        assert_eq!(shape, [("floor", 64, 10), ("other", 64, 10), ("floor", 1024, 10), ("other", 1024, 10)]);
        assert!(rows.iter().all(|row| row.p50_ns <= row.p90_ns && row.p99_ns <= row.p999_ns));
        assert!((rows[0].ratio - 1.0).abs() < 1e-9, "the floor beside itself");
        assert_eq!(other.sizes.iter().filter(|size| **size == 64).count(), 10 + super::WARM_UP as usize);
    }

    #[test]
    fn a_time_is_shared_out_and_gives_each_cell_something() {
        let (mut floor, mut other) = (Counted::new("floor"), Counted::new("other"));
        let time = plan(Amount::Time(Duration::ZERO));
        let rows = measure(&mut [&mut floor, &mut other], &time).expect("measured");
        assert!(rows.iter().all(|row| row.n == 4), "one a round: {rows:?}");
    }

    #[test]
    fn an_error_ends_the_measurement() {
        let mut floor = Counted { fails_after: 120, ..Counted::new("floor") };
        assert!(measure(&mut [&mut floor], &plan(Amount::Count(1000))).is_err());
        assert_eq!(floor.sizes.len(), 121);
    }
}
