//! Measuring how long steps of many shapes take on a real executor, for cost models.
//!
//! The production scheduler plans every step: sequences decode at a known context, and prompts of
//! a known length join them, so that a step has the shape that is wanted and the executor sees
//! nothing unusual. Contexts come from a pool of computed prefixes through the prefix cache.
//! Scenes are repeated in rounds, each in another order, and a mean of each shape's times without
//! the extremes counts, so that a machine that slows down for a while spoils no shape.

mod bench;
mod scenes;

use std::collections::HashMap;
use std::sync::Arc;

use folio_engine::exec::Executor;
use folio_engine::types::{BatchShape, Clock, EngineConfig, Nanos, Sampling};
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::cost::{Cells, CostError, Fitted, FittedFile, Sample, TableFile, fit};
use crate::statistics::{mean, percentile};
use bench::Bench;
use scenes::scenes;

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// The engine as it would serve; its first model must be a decoder.
    pub engine: EngineConfig,
    /// How tokens are chosen: sampling is a part of a step.
    pub sampling: Sampling,
    /// When to stop; one round is always made.
    pub max_time: Nanos,
    /// Key of prompts and of the order of scenes.
    pub seed: u64,
}

/// A single step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// What was computed.
    pub shape: BatchShape,
    /// Time that the device spent.
    pub device: Nanos,
    /// Time for planning it, entering its results and all else but the device.
    pub host: Nanos,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Each shape with the mean of its times, the extremes left out.
    pub samples: Vec<Sample>,
    /// All steps that count, in no order.
    pub steps: Vec<StepTime>,
    /// Whole rounds that were made.
    pub num_rounds: u32,
}

/// Why a measurement ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A step failed.
    #[error("a step failed: {0}")]
    Step(String),
    /// A step that was to be measured could not be planned.
    #[error("{0}")]
    Plan(String),
    /// What was measured cannot be fitted.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// Tells how far a measurement is, from 0 to 1.
pub type Tell<'a> = dyn FnMut(f64) + 'a;

/// Measures steps of `executor`. `clock` must be the one that device times are taken from, or run
/// at the same speed.
pub fn profile(
    executor: Box<dyn Executor>,
    clock: &Arc<dyn Clock>,
    options: &ProfileOptions,
    tell: &mut Tell<'_>,
) -> Result<Profile, ProfileError> {
    let begin = clock.now();
    let mut bench = Bench::new(executor, clock, options)?;
    bench.fill_pool(options.max_time, tell)?;
    let scenes = scenes(&options.engine, bench.contexts(), options.seed);
    let mut order: Vec<usize> = (0..scenes.len()).collect();
    let mut generator = ChaCha8Rng::seed_from_u64(options.seed);
    let mut times: HashMap<(usize, usize), Vec<StepTime>> = HashMap::new();
    let mut num_rounds = 0;
    'rounds: loop {
        order.shuffle(&mut generator);
        for &index in &order {
            let elapsed = clock.now().since(begin);
            if num_rounds > 0 && elapsed >= options.max_time {
                break 'rounds;
            }
            tell((elapsed.as_secs_f64() / options.max_time.as_secs_f64()).min(1.0));
            for (measure, step) in bench.play(&scenes[index])? {
                times.entry((index, measure)).or_default().push(step);
            }
        }
        num_rounds += 1;
    }
    Ok(sum_up(&times, num_rounds))
}

/// The mean of the times of each measure.
fn sum_up(times: &HashMap<(usize, usize), Vec<StepTime>>, num_rounds: u32) -> Profile {
    let mut keys: Vec<_> = times.keys().copied().collect();
    keys.sort_unstable();
    let mut profile = Profile { num_rounds, ..Profile::default() };
    for key in keys {
        let mut steps = times[&key].clone();
        steps.sort_by_key(|step| step.shape.decode_context);
        // Where a prefix was no longer cached, a step has another shape than in other rounds.
        let shape = steps[(steps.len() - 1) / 2].shape;
        let same: Vec<_> = steps.iter().filter(|step| is_near(&step.shape, &shape)).collect();
        let sorted = |of: &dyn Fn(&StepTime) -> Nanos| {
            let mut values: Vec<f64> = same.iter().map(|step| of(step).0 as f64).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let device = sorted(&|step| step.device);
        let at = |percent: f64| percentile(&device, percent).unwrap_or(0.0);
        let host = middle(&sorted(&|step| step.host));
        let device_ns = middle(&device);
        let spread = if device_ns > 0.0 { (at(75.0) - at(25.0)) / device_ns } else { 0.0 };
        profile.samples.push(Sample { shape, device_ns, spread, host_ns: host });
        profile.steps.extend(same.into_iter().copied());
    }
    profile
}

/// Of sorted times, what is left out at either end.
const TRIMMED: f64 = 0.1;

/// The mean of sorted times without the extremes: what is rare is left out, but steps that take
/// longer now and then do so in earnest.
fn middle(sorted: &[f64]) -> f64 {
    let num_trimmed = (sorted.len() as f64 * TRIMMED).ceil() as usize;
    let num_trimmed = num_trimmed.min(sorted.len().saturating_sub(1) / 2);
    mean(&sorted[num_trimmed..sorted.len() - num_trimmed]).unwrap_or(0.0)
}

/// Whether two steps of one measure are the same but for a few tokens of context.
fn is_near(one: &BatchShape, other: &BatchShape) -> bool {
    let core = |shape: &BatchShape| {
        (shape.num_seqs, shape.num_tokens, shape.num_emitting, shape.num_decode, shape.prefill_work)
    };
    let slack = u64::from(one.num_seqs) * u64::from(scenes::NUM_DECODE_STEPS);
    core(one) == core(other) && one.decode_context.abs_diff(other.decode_context) <= slack
}

impl Profile {
    /// Prices of terms, fitted to what was measured.
    pub fn fit(&self, identity: crate::cost::Identity) -> Result<FittedFile, ProfileError> {
        Ok(fit(&self.samples, identity)?)
    }

    /// A table of what was measured. Where a point of its grids was not measured, because the
    /// cache or the model is too small for it, `fitted` stands in.
    pub fn table(&self, fitted: &FittedFile) -> Result<TableFile, ProfileError> {
        let model = Fitted::new("", fitted);
        let decode = self.grid(&model, scenes::is_decode_point, |shape| shape.num_seqs)?;
        let prefill = self.grid(&model, scenes::is_prefill_point, |shape| shape.num_tokens)?;
        Ok(TableFile::new(fitted.identity.clone(), decode, prefill))
    }

    fn grid(
        &self,
        model: &Fitted,
        is_point: fn(&BatchShape) -> bool,
        size_of: fn(&BatchShape) -> u32,
    ) -> Result<Cells, ProfileError> {
        let points: Vec<Sample> =
            self.samples.iter().filter(|sample| is_point(&sample.shape)).copied().collect();
        let filled = scenes::fill_holes(&points, model, size_of);
        let mut cells = Cells::of(&filled, size_of).map_err(ProfileError::Plan)?;
        let steps = self.steps.iter().filter(|step| is_point(&step.shape));
        let steps: Vec<_> = steps.map(|step| (step.shape, step.device.0 as f64)).collect();
        cells.add_noise(&steps, size_of);
        Ok(cells)
    }
}

#[cfg(test)]
mod tests;
