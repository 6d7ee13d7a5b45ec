//! Measured steps, and how far predictions are from them.

use folio_engine::types::{BatchShape, Nanos};
use serde::{Deserialize, Serialize};

use super::nnls;
use crate::options::{Host, Overlap};
use crate::statistics::percentile;

/// One shape of a step, and how long steps of it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was computed.
    #[serde(with = "Shape")]
    pub shape: BatchShape,
    /// Time that the device spent, in nanoseconds: the mean of all steps of this shape but the
    /// extremes.
    pub device_ns: f64,
    /// How far these steps were apart: the distance of the quartiles over that mean.
    pub spread: f64,
    /// Time of the host beside that: planning and entering results, in nanoseconds; the
    /// same mean.
    pub host_ns: f64,
}

/// The fields of a [`BatchShape`] in files.
#[derive(Serialize, Deserialize)]
#[serde(remote = "BatchShape")]
struct Shape {
    num_seqs: u32,
    num_tokens: u32,
    num_emitting: u32,
    num_decode: u32,
    decode_context: u64,
    prefill_work: u64,
    prefill_context: u64,
    num_swapped_blocks: u32,
}

/// How far predictions are from what was measured; shares of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// Steps that were compared.
    pub num_steps: usize,
    /// Mean of the distances (MAPE).
    pub mean: f64,
    /// 95 % of the distances are below this.
    pub p95: f64,
    /// The largest distance.
    pub max: f64,
    /// Mean of the differences with their signs: above 0 where predictions are too long.
    pub bias: f64,
    /// All predicted time over all measured time, less 1.
    pub total: f64,
}

impl Error {
    /// Compares pairs of a predicted and a measured time. Pairs without a measured time are left
    /// out.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let pairs: Vec<_> = pairs.into_iter().filter(|&(_, measured)| measured > 0.0).collect();
        if pairs.is_empty() {
            return Self::default();
        }
        let num_steps = pairs.len() as f64;
        let signed = || pairs.iter().map(|(predicted, measured)| predicted / measured - 1.0);
        let mut distances: Vec<f64> = signed().map(f64::abs).collect();
        distances.sort_by(f64::total_cmp);
        let predicted: f64 = pairs.iter().map(|(predicted, _)| predicted).sum();
        let measured: f64 = pairs.iter().map(|(_, measured)| measured).sum();
        Self {
            num_steps: pairs.len(),
            mean: distances.iter().sum::<f64>() / num_steps,
            p95: percentile(&distances, 95.0).unwrap_or(0.0),
            max: distances.last().copied().unwrap_or(0.0),
            bias: signed().sum::<f64>() / num_steps,
            total: predicted / measured - 1.0,
        }
    }
}

/// The host's work on a step, fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFit {
    /// Nanoseconds for any step.
    pub step_ns: f64,
    /// Nanoseconds for each sequence in it.
    pub sequence_ns: f64,
}

impl HostFit {
    /// Fits the host's time of `samples`, by relative error.
    #[must_use]
    pub fn new(samples: &[Sample]) -> Self {
        let measured = samples.iter().filter(|sample| sample.host_ns > 0.0);
        let row = |sample: &Sample| {
            vec![1.0 / sample.host_ns, f64::from(sample.shape.num_seqs) / sample.host_ns]
        };
        let rows: Vec<_> = measured.map(row).collect();
        match nnls(&rows, &vec![1.0; rows.len()])[..] {
            [step_ns, sequence_ns] => Self { step_ns, sequence_ns },
            _ => Self::default(),
        }
    }

    /// The same for the simulator.
    #[must_use]
    pub fn host(&self, overlap: Overlap) -> Host {
        Host {
            per_step: Nanos(self.step_ns.round() as u64),
            per_sequence: Nanos(self.sequence_ns.round() as u64),
            overlap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shares_of_what_was_measured() {
        let error = Error::of([(110.0, 100.0), (90.0, 100.0), (200.0, 200.0), (1.0, 0.0)]);
        assert_eq!(error.num_steps, 3);
        assert!((error.mean - 0.2 / 3.0).abs() < 1e-12, "{error:?}");
        assert!((error.max - 0.1).abs() < 1e-12 && error.bias.abs() < 1e-12, "{error:?}");
        assert!(error.total.abs() < 1e-12, "{error:?}");
        assert_eq!(Error::of([]), Error::default());
    }

    #[test]
    fn the_host_s_time_is_taken_apart() {
        let sample = |num_seqs: u32| Sample {
            shape: BatchShape { num_seqs, ..BatchShape::default() },
            device_ns: 1.0,
            spread: 0.0,
            host_ns: 2000.0 + 300.0 * f64::from(num_seqs),
        };
        let fit = HostFit::new(&[sample(1), sample(8), sample(64)]);
        assert!((fit.step_ns - 2000.0).abs() < 1e-6, "{fit:?}");
        assert!((fit.sequence_ns - 300.0).abs() < 1e-6, "{fit:?}");
        let host = fit.host(Overlap::None);
        assert_eq!(host.time(10), Nanos(5000));
    }
}
