//! What a set of runs supports saying: percentiles, paired differences, verdicts, fairness.
//!
//! Everything is a function of its arguments: randomness comes from the seed that is given, so the
//! same runs get the same words. Percentiles interpolate linearly (type 7 of Hyndman and Fan), as
//! numpy, vLLM's benchmark and SGLang's do.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;

/// The value below which `percent` (0 to 100) of `sorted` lie, interpolated linearly between
/// neighbours; `None` when there are none. `sorted` must be ascending.
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = percent.clamp(0.0, 100.0) / 100.0 * last as f64;
    let below = (rank.floor() as usize).min(last);
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64))
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of the values themselves (divided by their number, as numpy's default
/// is), in their unit; `None` of nothing.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Some((squares / values.len() as f64).sqrt())
}

/// How evenly `shares` are spread: 1 when all are equal, 1/n when one of n has everything
/// (Jain, Chiu and Hawe, 1984). 1 when all are zero; `None` of nothing. Shares are not negative.
pub fn jain_index(shares: &[f64]) -> Option<f64> {
    let total = shares.iter().sum::<f64>();
    let squares = shares.iter().map(|share| share * share).sum::<f64>();
    match squares {
        _ if shares.is_empty() => None,
        0.0 => Some(1.0),
        _ => Some(total * total / (shares.len() as f64 * squares)),
    }
}

/// How far two measures order the same things alike: 1 in the same order, -1 in the opposite one
/// (Kendall's tau-b, which corrects for ties). `None` for fewer than two things, different numbers
/// of them, or a measure that tells none apart.
pub fn kendall_tau(left: &[f64], right: &[f64]) -> Option<f64> {
    if left.len() != right.len() {
        return None;
    }
    let (mut balance, mut left_pairs, mut right_pairs) = (0.0, 0.0, 0.0);
    for first in 0..left.len() {
        for second in first + 1..left.len() {
            let sign = |values: &[f64]| match values[first].total_cmp(&values[second]) {
                std::cmp::Ordering::Less => -1.0,
                std::cmp::Ordering::Equal => 0.0,
                std::cmp::Ordering::Greater => 1.0,
            };
            let (by_left, by_right): (f64, f64) = (sign(left), sign(right));
            balance += by_left * by_right;
            left_pairs += by_left.abs();
            right_pairs += by_right.abs();
        }
    }
    let pairs: f64 = (left_pairs * right_pairs).sqrt();
    (pairs > 0.0).then(|| balance / pairs)
}

/// A range that a value lies in with some confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies in it, ends included.
    pub fn contains(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// How intervals of means are found: by resampling (bias-corrected and accelerated bootstrap,
/// Efron 1987).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Samples drawn; thousands for the ends of a 95 % interval to be steady.
    pub num_resamples: u32,
    /// Share of intervals that shall contain the true mean, between 0 and 1.
    pub confidence: f64,
    /// Where randomness starts.
    pub seed: u64,
    /// Whether intervals are widened for small samples.
    pub widening: Widening,
}

/// What is done about resampling's known optimism for small samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Widening {
    /// Nothing: the textbook interval, too narrow below some twenty values.
    Never,
    /// The percentiles are moved outwards as Student's t and the sample variance ask for
    /// (Hesterberg 2015, "expanded percentiles"); no difference for many values.
    SmallSample,
}

impl Default for Bootstrap {
    /// 95 % from 10,000 resamples, widened for small samples.
    fn default() -> Self {
        Self { num_resamples: 10_000, confidence: 0.95, seed: 0, widening: Widening::SmallSample }
    }
}

impl Bootstrap {
    /// An interval for the mean of what `values` were drawn from; `None` for fewer than two.
    pub fn of_mean(&self, values: &[f64]) -> Option<Interval> {
        if values.len() < 2 {
            return None;
        }
        let means = self.resampled_means(values);
        let estimate = mean(values)?;
        // The same values in another order have the same mean but for the last digits.
        let blur = 1e-9 * (means[means.len() - 1] - means[0]);
        let below = means.partition_point(|&value| value < estimate - blur);
        let up_to = means.partition_point(|&value| value <= estimate + blur);
        let share = (below + up_to) as f64 / (2 * means.len()) as f64;
        let end = |z: f64| {
            let bias = standard_normal_quantile(share);
            let shifted = bias + z;
            let corrected = bias + shifted / (1.0 - acceleration(values) * shifted);
            percentile(&means, 100.0 * standard_normal_cdf(corrected))
        };
        // Where all values are equal, so is every mean.
        if blur == 0.0 {
            return Some(Interval { low: estimate, high: estimate });
        }
        let z = self.outer_quantile(values.len());
        Some(Interval { low: end(-z)?, high: end(z)? })
    }

    fn resampled_means(&self, values: &[f64]) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut draw = || {
            let drawn = (0..values.len()).map(|_| values[random.random_range(0..values.len())]);
            drawn.sum::<f64>() / values.len() as f64
        };
        let mut means: Vec<f64> = (0..self.num_resamples.max(1)).map(|_| draw()).collect();
        means.sort_by(f64::total_cmp);
        means
    }

    /// Standard deviations from the middle at which the interval ends.
    fn outer_quantile(&self, num_values: usize) -> f64 {
        let level = 0.5 + self.confidence.clamp(0.0, 1.0) / 2.0;
        match self.widening {
            Widening::Never => standard_normal_quantile(level),
            Widening::SmallSample => {
                let freedom = num_values - 1;
                let quantile = quantile(level, |t| student_cdf(t, freedom));
                (num_values as f64 / freedom as f64).sqrt() * quantile
            }
        }
    }
}

/// How fast the standard error changes with the mean, from leaving each value out in turn.
fn acceleration(values: &[f64]) -> f64 {
    let Some(mean) = mean(values) else { return 0.0 };
    let moment = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>();
    let spread = moment(2).powf(1.5);
    if spread > 0.0 { moment(3) / (6.0 * spread) } else { 0.0 }
}

fn standard_normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

fn standard_normal_quantile(probability: f64) -> f64 {
    quantile(probability, standard_normal_cdf)
}

/// Student's distribution of `freedom` (at least 1) degrees: the finite series 26.7.3 and 26.7.4
/// of Abramowitz and Stegun.
fn student_cdf(t: f64, freedom: usize) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    // Factors 1/2, 3/4, … for even degrees; 2/3, 4/5, … for odd ones.
    let odd = freedom % 2;
    let (mut term, mut sum) = (if odd == 1 { cosine } else { 1.0 }, 0.0);
    for index in (odd..freedom.saturating_sub(1)).step_by(2) {
        sum += term;
        term *= (index + 1) as f64 / (index + 2) as f64 * cosine * cosine;
    }
    let between = match odd {
        1 => (angle + sine * sum) * std::f64::consts::FRAC_2_PI,
        _ => sine * sum,
    };
    0.5 + 0.5 * between
}

/// The point at which a symmetric distribution reaches `probability`, by bisection.
fn quantile(probability: f64, cdf: impl Fn(f64) -> f64) -> f64 {
    /// Beyond it only the tail of one degree of freedom, that of two values, is of note.
    const FURTHEST: f64 = 1e4;
    /// From there to a double's resolution.
    const NUM_HALVINGS: u32 = 80;
    let (mut low, mut high) = (-FURTHEST, FURTHEST);
    for _ in 0..NUM_HALVINGS {
        let middle = f64::midpoint(low, high);
        if cdf(middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Which way a measure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Less is better, as of latencies.
    Lower,
    /// More is better, as of throughput.
    Higher,
}

/// What may be said of a candidate beside a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval lies on the better side of zero, and not wholly within the margin.
    Better,
    /// The whole interval lies on the worse side of zero, and not wholly within the margin.
    Worse,
    /// The whole interval lies within the margin: no difference that matters.
    Same,
    /// The interval allows for more than one of these: more runs are needed.
    CannotTell,
}

impl Verdict {
    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
            Self::CannotTell => "cannot tell",
        }
    }

    fn of(interval: Interval, margin: f64, direction: Direction) -> Self {
        let (gain, loss) = match direction {
            Direction::Lower => (Self::Better, Self::Worse),
            Direction::Higher => (Self::Worse, Self::Better),
        };
        match interval {
            Interval { low, high } if low >= -margin && high <= margin => Self::Same,
            Interval { high, .. } if high < 0.0 => gain,
            Interval { low, .. } if low > 0.0 => loss,
            _ => Self::CannotTell,
        }
    }
}

/// A candidate beside a baseline, over runs that were alike but for that (same load, same seed).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Pairs of runs.
    pub num_pairs: usize,
    /// Mean of the baseline's runs.
    pub baseline: f64,
    /// Mean of the candidate's runs.
    pub candidate: f64,
    /// Interval of the mean difference, candidate less baseline; `None` for fewer than two pairs.
    pub interval: Option<Interval>,
    /// What may be said.
    pub verdict: Verdict,
}

/// How [`Comparison`]s are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judge {
    /// How the interval is found.
    pub bootstrap: Bootstrap,
    /// Differences below this share of the baseline's mean do not matter, as 0.02 for 2 %.
    pub margin: f64,
}

impl Default for Judge {
    /// Differences under 1 % do not matter.
    fn default() -> Self {
        Self { bootstrap: Bootstrap::default(), margin: 0.01 }
    }
}

impl Judge {
    /// Compares runs in pairs: the first of one with the first of the other, and so on. `None`
    /// where there are none, their numbers differ, or a value is not finite.
    pub fn compare(
        &self,
        baseline: &[f64],
        candidate: &[f64],
        direction: Direction,
    ) -> Option<Comparison> {
        let is_finite = baseline.iter().chain(candidate).all(|value| value.is_finite());
        if baseline.len() != candidate.len() || !is_finite {
            return None;
        }
        let differences: Vec<f64> =
            baseline.iter().zip(candidate).map(|(before, after)| after - before).collect();
        let (before, after) = (mean(baseline)?, mean(candidate)?);
        let interval = self.bootstrap.of_mean(&differences);
        let margin = self.margin.abs() * before.abs();
        let verdict = match interval {
            Some(interval) => Verdict::of(interval, margin, direction),
            // Equal runs of one seed are no news; anything else of one seed is no evidence.
            None if before.total_cmp(&after).is_eq() => Verdict::Same,
            None => Verdict::CannotTell,
        };
        let num_pairs = differences.len();
        Some(Comparison { num_pairs, baseline: before, candidate: after, interval, verdict })
    }
}

impl Comparison {
    /// Mean difference, candidate less baseline.
    pub fn difference(&self) -> f64 {
        self.candidate - self.baseline
    }

    /// `value`, a difference, as a share of the baseline's mean; `None` where that is zero.
    pub fn relative(&self, value: f64) -> Option<f64> {
        (self.baseline != 0.0).then(|| value / self.baseline.abs())
    }
}
