//! The highest request rate at which enough requests keep their objective.
//!
//! Bisection with one seed, then a proof with all of them, as MLPerf's server scenario asks for
//! several valid runs: a rate counts only when every seed attains. Every rate tried is told, so
//! that the curve can be drawn. Attainment is taken to fall with the rate; where it does not, what
//! is found is still proven, but need not be the highest.

use crate::statistics::mean;

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// Share of requests that must keep their objective, above 0 and at most 1.
    pub attainment: f64,
    /// Where to begin, in requests a second; above 0.
    pub start: f64,
    /// How far the rate found may be below one that fails, as a share; above 0.
    pub tolerance: f64,
    /// Seeds that all must attain; the first also steers the bisection. At least one.
    pub seeds: Vec<u64>,
}

/// A rate that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Requests a second.
    pub rate: f64,
    /// Share of requests within the objective, by seed, in the order of the seeds tried.
    pub attainments: Vec<f64>,
}

impl Trial {
    /// The mean over the seeds.
    pub fn mean(&self) -> f64 {
        mean(&self.attainments).unwrap_or(0.0)
    }

    /// The worst of the seeds.
    pub fn least(&self) -> f64 {
        self.attainments.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// The rate that all seeds attain; `None` where even [`MIN_RATE_SHARE`] of the start is too
    /// much for the objective.
    pub found: Option<Trial>,
    /// Whether no rate fails: the objective is kept up to [`MAX_RATE_SHARE`] times the start.
    pub is_unbounded: bool,
    /// All rates tried, in order.
    pub trials: Vec<Trial>,
}

/// Lowest rate tried, as a share of the start.
pub const MIN_RATE_SHARE: f64 = 1.0 / 1024.0;
/// Highest rate tried, as a multiple of the start.
pub const MAX_RATE_SHARE: f64 = 16.0;
/// Lower rates tried when a seed fails at the rate that the first one attains.
const MAX_RETREATS: u32 = 40;

impl Search {
    /// Searches by `attain`, which runs several seeds at a rate and gives the share of requests
    /// within the objective for each.
    pub fn run<E>(
        &self,
        mut attain: impl FnMut(f64, &[u64]) -> Result<Vec<f64>, E>,
    ) -> Result<Capacity, E> {
        let mut trials = Vec::new();
        let mut is_kept = |rate: f64, seeds: &[u64]| -> Result<bool, E> {
            let trial = Trial { rate, attainments: attain(rate, seeds)? };
            let is_kept = trial.least() >= self.attainment;
            trials.push(trial);
            Ok(is_kept)
        };
        let first = &self.seeds[..self.seeds.len().min(1)];
        let Bracket { mut low, mut high } = self.bracket(|rate| is_kept(rate, first))?;
        while let (Some(kept), Some(failed)) = (low, high)
            && failed > kept * (1.0 + self.tolerance)
        {
            let middle = (kept * failed).sqrt();
            if is_kept(middle, first)? {
                low = Some(middle);
            } else {
                high = Some(middle);
            }
        }
        let is_unbounded = high.is_none();
        let mut candidate = low;
        for _ in 0..MAX_RETREATS {
            match candidate {
                Some(rate) if !is_kept(rate, &self.seeds)? => {
                    candidate = Some(rate / (1.0 + self.tolerance));
                }
                _ => break,
            }
        }
        // The last rate that was tried with all seeds is the one that they attain.
        let proven = trials
            .last()
            .filter(|trial| Some(trial.rate) == candidate && trial.least() >= self.attainment);
        let found = proven.cloned();
        Ok(Capacity { is_unbounded: is_unbounded && found.is_some(), found, trials })
    }

    /// Doubles or halves the start until the answer changes.
    fn bracket<E>(&self, mut is_kept: impl FnMut(f64) -> Result<bool, E>) -> Result<Bracket, E> {
        let mut rate = self.start;
        if is_kept(rate)? {
            while rate < self.start * MAX_RATE_SHARE {
                let next = rate * 2.0;
                if !is_kept(next)? {
                    return Ok(Bracket { low: Some(rate), high: Some(next) });
                }
                rate = next;
            }
            return Ok(Bracket { low: Some(rate), high: None });
        }
        while rate > self.start * MIN_RATE_SHARE {
            let next = rate / 2.0;
            if is_kept(next)? {
                return Ok(Bracket { low: Some(next), high: Some(rate) });
            }
            rate = next;
        }
        Ok(Bracket { low: None, high: Some(rate) })
    }
}

/// A rate that attains and one that does not.
struct Bracket {
    low: Option<f64>,
    high: Option<f64>,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn search(start: f64, seeds: &[u64]) -> Search {
        Search { attainment: 0.99, start, tolerance: 0.01, seeds: seeds.to_vec() }
    }

    /// Everything is kept up to `limit`, which differs by seed a little.
    fn run(search: &Search, limit: impl Fn(u64) -> f64) -> Capacity {
        let attain = |rate: f64, seeds: &[u64]| {
            let share = |seed: &u64| if rate <= limit(*seed) { 1.0 } else { 0.5 };
            Ok::<_, Infallible>(seeds.iter().map(share).collect())
        };
        search.run(attain).unwrap()
    }

    #[test]
    fn what_is_found_holds_for_every_seed() {
        let limit = |seed: u64| if seed == 3 { 6.0 } else { 7.0 };
        let found = run(&search(5.0, &[1, 2, 3, 4, 5]), limit).found.unwrap();
        assert!(found.rate <= 6.0 && found.rate > 6.0 / 1.03, "{found:?}");
        assert_eq!(found.attainments, [1.0; 5]);
    }

    #[test]
    fn an_objective_that_nothing_keeps_or_nothing_breaks_is_said() {
        let never = run(&search(5.0, &[1]), |_| 0.0);
        assert_eq!((never.found.is_none(), never.is_unbounded), (true, false));
        let always = run(&search(5.0, &[1]), |_| f64::INFINITY);
        assert_eq!((always.found.unwrap().rate, always.is_unbounded), (80.0, true));
    }

    #[test]
    fn an_error_ends_the_search() {
        let result = search(1.0, &[1]).run(|_, _| Err("no engine"));
        assert_eq!(result, Err("no engine"));
    }

    proptest! {
        #[test]
        fn the_rate_found_is_within_the_tolerance_of_the_limit(
            limit in 0.02..50.0_f64,
            start in 2.0..8.0_f64,
        ) {
            let capacity = run(&search(start, &[1, 2]), |_| limit);
            let found = capacity.found.unwrap().rate;
            prop_assert!(found <= limit && found >= (limit / 1.011).min(16.0 * start * 0.999));
            prop_assert!(capacity.trials.len() < 40);
        }
    }
}
