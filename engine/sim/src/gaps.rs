//! Times between tokens: too many to keep, so a histogram of three significant digits keeps them.

use folio_engine::types::Nanos;
use hdrhistogram::Histogram;

/// Longest time told apart from longer ones: a day.
const MAX_GAP: u64 = 86_400 * 1_000_000_000;

/// How many times between tokens there were, by length. Percentiles are exact to 0.1 %; the mean
/// and the largest are exact.
#[derive(Clone, Debug)]
pub struct Gaps {
    by_length: Histogram<u64>,
    sum: u128,
    sum_of_squares: f64,
    max: u64,
    /// Rows of one step mostly have the same gap: the latest, and how often it came in a row.
    run: (u64, u64),
}

impl Default for Gaps {
    fn default() -> Self {
        let by_length = Histogram::new_with_bounds(1, MAX_GAP, 3);
        let Ok(by_length) = by_length else { unreachable!("constant bounds") };
        Self { by_length, sum: 0, sum_of_squares: 0.0, max: 0, run: (0, 0) }
    }
}

impl Gaps {
    /// Counts one.
    pub fn add(&mut self, gap: Nanos) {
        if self.run.0 == gap.0 {
            self.run.1 += 1;
        } else {
            self.settle();
            self.run = (gap.0, 1);
        }
    }

    /// Enters what came in a row. To be called before anything is asked.
    pub fn settle(&mut self) {
        let (gap, num) = std::mem::take(&mut self.run);
        if num > 0 {
            self.by_length.saturating_record_n(gap, num);
            self.sum += u128::from(gap) * u128::from(num);
            self.sum_of_squares += gap as f64 * gap as f64 * num as f64;
            self.max = self.max.max(gap);
        }
    }

    /// Counts those of `other` too.
    pub fn merge(&mut self, mut other: Self) {
        self.settle();
        other.settle();
        // Equal bounds: nothing can be out of them.
        let _ = self.by_length.add(&other.by_length);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        self.max = self.max.max(other.max);
    }

    /// How many there were.
    #[must_use]
    pub fn num(&self) -> u64 {
        self.by_length.len()
    }

    /// Their mean in milliseconds; 0 of none.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        if self.num() == 0 { 0.0 } else { self.sum as f64 / self.num() as f64 * 1e-6 }
    }

    /// Their standard deviation (of the population) in milliseconds; 0 of none.
    #[must_use]
    pub fn std_ms(&self) -> f64 {
        if self.num() == 0 {
            return 0.0;
        }
        let mean = self.sum as f64 / self.num() as f64;
        (self.sum_of_squares / self.num() as f64 - mean * mean).max(0.0).sqrt() * 1e-6
    }

    /// The time in milliseconds that `percent` of them do not exceed, 0 to 100; 0 of none.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let at = self.by_length.value_at_percentile(percent).min(self.max);
        at as f64 * 1e-6
    }

    /// The longest in milliseconds.
    #[must_use]
    pub fn max_ms(&self) -> f64 {
        self.max as f64 * 1e-6
    }

    /// How many there were of each length told apart: upper bound in milliseconds, and number.
    pub fn counts(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let recorded = self.by_length.iter_recorded();
        recorded.map(|step| (step.value_iterated_to() as f64 * 1e-6, step.count_at_value()))
    }
}
