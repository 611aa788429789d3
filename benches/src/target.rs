//! Targets, which a run holds its own figures to.
//!
//! Other programs disturb both sides of a ratio, but not evenly, so a miss is measured again.

use crate::failure::Failure;

/// Which side of a number is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }

    fn better(self, one: f64, other: f64) -> f64 {
        match self {
            Bound::AtMost(_) => one.min(other),
            Bound::AtLeast(_) => one.max(other),
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::AtMost(most) => write!(f, "at most {most:.2}"),
            Bound::AtLeast(least) => write!(f, "at least {least:.2}"),
        }
    }
}

/// Holds `what` to its bound: `first` if it was measured already, else what `again` measures, up to so many attempts.
///
/// # Errors
/// [`Failure::Missed`], or the first error of `again`.
pub(crate) fn hold(
    what: &str,
    bound: Bound,
    attempts: u32,
    first: Option<f64>,
    mut again: impl FnMut() -> Result<Option<f64>, Failure>,
) -> Result<(), Failure> {
    let mut best = f64::NAN;
    for attempt in 1..=attempts {
        let measured = match first.filter(|_| attempt == 1) {
            Some(value) => Some(value),
            None => again()?,
        };
        let value = measured.unwrap_or(f64::NAN);
        // NaN is neither: the other one is taken, and no bound holds.
        best = bound.better(best, value);
        let verdict = if bound.holds(value) { "ok" } else { "missed" };
        println!("\nattempt {attempt} of {attempts}: {what}: {value:.2}, {bound}: {verdict}");
        if bound.holds(value) {
            return Ok(());
        }
    }
    Err(Failure::Missed { what: what.to_owned(), best, bound: bound.to_string(), attempts })
}

#[cfg(test)]
mod tests {
    use super::{Bound, hold};
    use crate::failure::Failure;

    fn tried(bound: Bound, first: Option<f64>, again: &[f64]) -> (Result<(), Failure>, usize) {
        let mut left = again.iter();
        let result = hold("it", bound, 3, first, || Ok(left.next().copied()));
        (result, again.len() - left.len())
    }

    #[test]
    fn a_miss_is_measured_again_until_it_holds() {
        assert!(matches!(tried(Bound::AtMost(1.6), Some(1.5), &[9.0]), (Ok(()), 0)));
        assert!(matches!(tried(Bound::AtMost(1.6), Some(1.7), &[1.6, 9.0]), (Ok(()), 1)));
        assert!(matches!(tried(Bound::AtLeast(5.0), None, &[4.9, 4.8, 5.0]), (Ok(()), 3)));
    }

    #[test]
    fn what_misses_each_time_fails_with_its_best() {
        let (missed, again) = tried(Bound::AtLeast(5.0), Some(4.0), &[4.9, 4.8, 6.0]);
        assert_eq!(again, 2, "three attempts in all");
        let text = missed.expect_err("missed").to_string();
        assert_eq!(text, "it is 4.90, not at least 5.00, in each of 3 attempts");
        let (missed, _) = tried(Bound::AtMost(1.0), None, &[2.0]);
        assert!(missed.expect_err("nothing holds what is not measured").to_string().contains("2.00"));
    }
}
