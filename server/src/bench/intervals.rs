//! How far figures may be off: bootstrap intervals of means and percentiles.
//!
//! What is drawn again is requests: gaps of one answer are alike, so they are drawn together. An
//! interval says what other requests of this run would have given, not what another run would.

use folio_sim::statistics::{Interval, percentile};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Share of intervals that shall contain the truth, in percent.
const CONFIDENCE: f64 = 95.0;
/// Values looked at in all resamples together, about.
const EFFORT: usize = 4_000_000;

/// A value and the request that it is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// In the unit of whoever asks.
    pub value: f64,
    /// Number of its request, below the number of requests.
    pub request: u32,
}

/// Intervals of one set of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// Of the mean.
    pub mean: Interval,
    /// Of each percentile that was asked for.
    pub percentiles: Vec<Interval>,
}

/// Intervals for the mean and the percentiles `percents` (0 to 100) of `sorted`, which ascends and
/// belongs to `num_requests` requests; `None` for fewer than two of them.
pub fn bootstrap(
    sorted: &[Value],
    num_requests: usize,
    percents: &[f64],
    seed: u64,
) -> Option<Intervals> {
    if num_requests < 2 || sorted.len() < 2 {
        return None;
    }
    let num_resamples = (EFFORT / sorted.len()).clamp(100, 1000);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = vec![0u32; num_requests];
    let mut means = Vec::with_capacity(num_resamples);
    let mut found = vec![Vec::with_capacity(num_resamples); percents.len()];
    for _ in 0..num_resamples {
        weights.fill(0);
        for _ in 0..num_requests {
            weights[random.random_range(0..num_requests)] += 1;
        }
        let weigh = |value: &Value| f64::from(weights[value.request as usize]);
        let total: f64 = sorted.iter().map(weigh).sum();
        if total == 0.0 {
            continue;
        }
        means.push(sorted.iter().map(|value| value.value * weigh(value)).sum::<f64>() / total);
        for (percent, found) in percents.iter().zip(&mut found) {
            found.extend(weighted_percentile(sorted, &weights, total, *percent));
        }
    }
    let percentiles = found.into_iter().map(middle).collect::<Option<_>>()?;
    Some(Intervals { mean: middle(means)?, percentiles })
}

/// Type 7, of `sorted` with each value as often as its request was drawn.
fn weighted_percentile(sorted: &[Value], weights: &[u32], total: f64, percent: f64) -> Option<f64> {
    let rank = percent.clamp(0.0, 100.0) / 100.0 * (total - 1.0);
    let (below, part) = (rank.floor(), rank.fract());
    let (mut passed, mut low) = (0.0, None);
    for value in sorted {
        passed += f64::from(weights[value.request as usize]);
        if low.is_none() && passed > below {
            low = Some(value.value);
        }
        if let Some(low) = low
            && (passed > below + 1.0 || part == 0.0)
        {
            return Some(low + (value.value - low) * part);
        }
    }
    low
}

/// Where the middle of the resampled figures lies.
fn middle(mut figures: Vec<f64>) -> Option<Interval> {
    figures.sort_by(f64::total_cmp);
    let outside = (100.0 - CONFIDENCE) / 2.0;
    let low = percentile(&figures, outside)?;
    Some(Interval { low, high: percentile(&figures, 100.0 - outside)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(values: &[f64]) -> Vec<Value> {
        let values = values.iter().zip(0..);
        values.map(|(&value, request)| Value { value, request }).collect()
    }

    #[test]
    fn weights_of_one_give_the_plain_percentile() {
        let values: Vec<f64> = (0..37).map(|index| f64::from(index * index)).collect();
        let sorted = single(&values);
        let weights = vec![1; 37];
        for percent in [0.0, 1.0, 25.0, 50.0, 77.7, 99.0, 100.0] {
            let plain = percentile(&values, percent).unwrap();
            let found = weighted_percentile(&sorted, &weights, 37.0, percent).unwrap();
            assert!((found - plain).abs() < 1e-9, "{percent}: {found} {plain}");
        }
    }

    #[test]
    fn intervals_contain_the_truth_about_as_often_as_they_say() {
        let (mut num_mean, mut num_median) = (0, 0);
        for seed in 0..100 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut values: Vec<f64> = (0..200).map(|_| random.random::<f64>()).collect();
            values.sort_by(f64::total_cmp);
            let found = bootstrap(&single(&values), 200, &[50.0], seed).unwrap();
            num_mean += u32::from(found.mean.contains(0.5));
            num_median += u32::from(found.percentiles[0].contains(0.5));
        }
        // 95 expected; five standard deviations of a count of 100.
        assert!((84..=100).contains(&num_mean), "{num_mean}");
        assert!((84..=100).contains(&num_median), "{num_median}");
    }

    #[test]
    fn gaps_of_one_answer_count_as_one_observation() {
        // Ten answers of a hundred equal gaps each: ten observations, not a thousand.
        let alike: Vec<Value> = (0..1000u32)
            .map(|index| Value { value: f64::from(index / 100), request: index / 100 })
            .collect();
        let alone = bootstrap(&single(&(0..10).map(f64::from).collect::<Vec<_>>()), 10, &[], 1);
        let width = |found: Intervals| found.mean.high - found.mean.low;
        let ratio = width(bootstrap(&alike, 10, &[], 1).unwrap()) / width(alone.unwrap());
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
    }
}
