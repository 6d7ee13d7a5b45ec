//! How long an answer will be: guesses for policies that order or reserve by length.
//!
//! The scheduler never needs one, and a wrong guess costs time, never correctness. Only the oracles
//! know true lengths, through a table that nobody but a simulation can fill.

use std::collections::HashMap;
use std::sync::Arc;

use super::PolicyRequest;
use crate::types::{RequestId, TenantId};

/// How many tokens a request is expected to generate in all, those it has generated included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Expected number of output tokens; at most `max_tokens`.
    pub mean: f64,
    /// Nine of ten such requests generate at most this many.
    pub p90: f64,
}

/// Predicts lengths of answers.
pub trait LengthPredictor: Send + std::fmt::Debug {
    /// Name on the command line and in reports.
    fn name(&self) -> &str;

    /// How many tokens `request` will have generated at its end. Embeddings generate none.
    fn predict(&self, request: &PolicyRequest<'_>) -> Prediction;

    /// A request has ended: with its stop token, at its limit, or given up by its client.
    fn observe_finished(&mut self, finished: FinishedLength) {
        let _ = finished;
    }
}

/// How long the answer to a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedLength {
    /// Whose request it was.
    pub tenant: TenantId,
    /// Tokens of its prompt.
    pub prompt_len: u32,
    /// Tokens that it generated.
    pub output_len: u32,
}

/// True lengths of answers. A simulation knows them from its trace; nobody else does.
pub trait OutputLengths: Send + Sync + std::fmt::Debug {
    /// Tokens that `request` generates unless its limit ends it earlier; `None` when unknown.
    fn output_len(&self, request: RequestId) -> Option<u32>;
}

/// Knows every length. For bounds: what a policy could reach with perfect predictions.
#[derive(Clone, Debug)]
pub struct Oracle {
    lengths: Arc<dyn OutputLengths>,
}

impl Oracle {
    /// An oracle that reads `lengths`.
    #[must_use]
    pub fn new(lengths: Arc<dyn OutputLengths>) -> Self {
        Self { lengths }
    }

    fn output_len(&self, request: PolicyRequest<'_>) -> f64 {
        let most = request.max_tokens();
        let known = self.lengths.output_len(request.request_id());
        f64::from(known.map_or(most, |length| length.min(most)))
    }
}

impl LengthPredictor for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn predict(&self, request: &PolicyRequest<'_>) -> Prediction {
        let length = self.output_len(*request);
        Prediction { mean: length, p90: length }
    }
}

/// An oracle whose answers are off by a lognormal factor of median 1, the same for a request each
/// time. Shows how good a predictor must be to be worth having.
#[derive(Clone, Debug)]
pub struct NoisyOracle {
    oracle: Oracle,
    sigma: f64,
    seed: u64,
}

impl NoisyOracle {
    /// An oracle whose factor has the standard deviation `sigma` of its logarithm: 0 is exact, 0.7
    /// is off by a factor of two for one request in three.
    #[must_use]
    pub fn new(oracle: Oracle, sigma: f64, seed: u64) -> Self {
        Self { oracle, sigma, seed }
    }
}

/// Normal quantile of 0.9.
const Z90: f64 = 1.281_551_565_544_600_4;

impl LengthPredictor for NoisyOracle {
    fn name(&self) -> &'static str {
        "noisy"
    }

    fn predict(&self, request: &PolicyRequest<'_>) -> Prediction {
        let factor = (self.sigma * normal(self.seed, request.request_id())).exp();
        let most = f64::from(request.max_tokens());
        let guess = (self.oracle.output_len(*request) * factor).clamp(most.min(1.0), most);
        let p90 = (guess * (self.sigma * Z90).exp()).min(most);
        Prediction { mean: guess, p90 }
    }
}

/// A standard normal number that `seed` and `request` determine (Box and Muller).
fn normal(seed: u64, request: RequestId) -> f64 {
    let first = mixed(seed ^ mixed(request.0));
    let second = mixed(first);
    let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * unit(first).ln()).sqrt() * (std::f64::consts::TAU * unit(second)).cos()
}

/// The finalizer of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Learns from answers that have ended: the lengths of a tenant's, and of everybody's as long as
/// the tenant has few. Knows what a running answer has survived: its guess is the mean of those
/// that were longer.
#[derive(Debug, Default)]
pub struct HistogramPredictor {
    everybody: Histogram,
    by_tenant: HashMap<TenantId, Histogram>,
}

/// Tenants with a histogram of their own; later ones share that of everybody.
const MAX_TENANTS: usize = 4096;
/// Ended answers after which a histogram is believed.
const MIN_SAMPLES: u64 = 20;
/// Guess as long as nothing has ended: a usual answer of a chat.
const PRIOR_MEAN: f64 = 256.0;
const PRIOR_P90: f64 = 1024.0;
/// Buckets for each doubling of the length.
const BUCKETS_AN_OCTAVE: u32 = 4;
const NUM_BUCKETS: usize = 32 * BUCKETS_AN_OCTAVE as usize;

/// Counts and sums of lengths in logarithmic buckets. Old answers fade: counts are halved whenever
/// [`MAX_WEIGHT`] have come in, so that it follows a tenant who changes his habits.
#[derive(Clone, Debug)]
struct Histogram {
    num: [u32; NUM_BUCKETS],
    sum: [u64; NUM_BUCKETS],
    total: u64,
}

const MAX_WEIGHT: u64 = 4096;

impl Default for Histogram {
    fn default() -> Self {
        Self { num: [0; NUM_BUCKETS], sum: [0; NUM_BUCKETS], total: 0 }
    }
}

fn bucket_of(length: u32) -> usize {
    let octaves = f64::from(length.max(1)).log2() * f64::from(BUCKETS_AN_OCTAVE);
    (octaves as usize).min(NUM_BUCKETS - 1)
}

impl Histogram {
    fn add(&mut self, length: u32) {
        if self.total >= MAX_WEIGHT {
            for (num, sum) in self.num.iter_mut().zip(&mut self.sum) {
                let kept = u64::from(*num / 2);
                *sum = *sum * kept / u64::from((*num).max(1)); // the mean stays
                *num /= 2;
            }
            self.total = self.num.iter().map(|&num| u64::from(num)).sum();
        }
        let bucket = bucket_of(length);
        self.num[bucket] += 1;
        self.sum[bucket] += u64::from(length);
        self.total += 1;
    }

    /// Of the answers in higher buckets than that of `survived` tokens; `None` without any.
    fn longer_than(&self, survived: u32) -> Option<Prediction> {
        let first = if survived == 0 { 0 } else { bucket_of(survived) + 1 };
        let (num, sum) = (self.num.get(first..)?, self.sum.get(first..)?);
        let total: u64 = num.iter().map(|&num| u64::from(num)).sum();
        if total == 0 {
            return None;
        }
        let mean = sum.iter().sum::<u64>() as f64 / total as f64;
        let mut seen = 0;
        let is_reached = |&num: &u32| {
            seen += u64::from(num);
            seen * 10 >= total * 9
        };
        let index = num.iter().position(is_reached).unwrap_or(0);
        let p90 = sum[index] as f64 / f64::from(num[index].max(1));
        Some(Prediction { mean, p90: p90.max(mean) })
    }
}

impl LengthPredictor for HistogramPredictor {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn predict(&self, request: &PolicyRequest<'_>) -> Prediction {
        let own = self.by_tenant.get(&request.tenant());
        let believed = own.filter(|own| own.total >= MIN_SAMPLES).unwrap_or(&self.everybody);
        let survived = request.num_generated();
        let prior = Prediction { mean: PRIOR_MEAN, p90: PRIOR_P90 };
        let guess = match believed.longer_than(survived) {
            Some(guess) => guess,
            None if believed.total == 0 => prior,
            // Longer than all before it: as long again.
            None => Prediction { mean: f64::from(survived) * 2.0, p90: f64::from(survived) * 4.0 },
        };
        let most = f64::from(request.max_tokens());
        let least = f64::from(survived + 1).min(most);
        Prediction { mean: guess.mean.clamp(least, most), p90: guess.p90.clamp(least, most) }
    }

    fn observe_finished(&mut self, finished: FinishedLength) {
        if finished.output_len == 0 {
            return; // an embedding, or nothing was computed for it
        }
        self.everybody.add(finished.output_len);
        let is_known = self.by_tenant.contains_key(&finished.tenant);
        if is_known || self.by_tenant.len() < MAX_TENANTS {
            self.by_tenant.entry(finished.tenant).or_default().add(finished.output_len);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn noise_is_lognormal_around_the_truth_and_stays_the_same() {
        let logs: Vec<f64> = (0..20_000).map(|id| normal(7, RequestId(id))).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / logs.len() as f64;
        // Four standard errors: 4 / sqrt(20000) and 4 * sqrt(2 / 20000).
        assert!(mean.abs() < 0.029 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        assert_eq!(normal(7, RequestId(3)).to_bits(), normal(7, RequestId(3)).to_bits());
        assert_ne!(normal(8, RequestId(3)).to_bits(), normal(7, RequestId(3)).to_bits());
    }

    #[test]
    fn a_histogram_knows_what_an_answer_has_survived() {
        let mut histogram = Histogram::default();
        for _ in 0..90 {
            histogram.add(10);
        }
        for _ in 0..10 {
            histogram.add(1000);
        }
        let fresh = histogram.longer_than(0).unwrap();
        assert!((fresh.mean - 109.0).abs() < 1e-9, "{fresh:?}");
        let survivor = histogram.longer_than(50).unwrap();
        assert!((survivor.mean - 1000.0).abs() < 1e-9, "{survivor:?}");
        assert_eq!(histogram.longer_than(5000), None);
    }

    #[test]
    fn old_answers_fade_and_the_mean_does_not() {
        let mut histogram = Histogram::default();
        for _ in 0..3 * MAX_WEIGHT {
            histogram.add(100);
        }
        assert!((histogram.longer_than(0).unwrap().mean - 100.0).abs() < 1e-9);
        for _ in 0..2 * MAX_WEIGHT {
            histogram.add(900);
        }
        let mean = histogram.longer_than(0).unwrap().mean;
        assert!(mean > 600.0, "still {mean} after twice as many of 900 as are remembered");
    }
}
