//! A recorded run beside its simulation: how far a fitted cost model is off, and in which term.
//!
//! A decision log tells what ran and how long each step took. Each step's time is compared with
//! the prediction for its shape; then the recorded arrivals are simulated with the model, and
//! latencies are compared at the mean and at percentiles.

mod recording;
mod report;

use std::sync::Arc;

use folio_engine::decisions::{Header, LogError};
use folio_engine::sched::Decider;
use folio_engine::types::{BatchShape, CostModel, PrefixCaching};

pub use recording::{Recorded, Recording};

use crate::cost::{Error, Fitted, HostFit, NUM_TERMS, Sample, TERMS, nnls, terms};
use crate::metrics::{Metric, Spread};
use crate::options::{FrontEnd, Options, Overlap, SimError};
use crate::profile::StepTime;
use crate::run::simulate;

/// Percentiles that are compared.
const PERCENTS: [f64; 4] = [50.0, 90.0, 95.0, 99.0];

/// Why a run cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log holds nothing to compare.
    #[error("{0}")]
    Empty(&'static str),
    /// The log's policy cannot be made.
    #[error("policy {spec:?} of the log: {message}")]
    Policy {
        /// What the log says.
        spec: String,
        /// Why not.
        message: String,
    },
    /// The run cannot be simulated.
    #[error(transparent)]
    Sim(#[from] SimError),
}

/// Makes the policy of a log anew.
pub type MakePolicy<'a> = dyn FnMut(&Header, &str) -> Result<Decider, String> + 'a;

/// A recorded run beside its simulation.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// What ran, in words.
    pub run: String,
    /// Share of the recorded time in which steps ran.
    pub load: f64,
    /// Steps in which every row is one token.
    pub decode: Error,
    /// All other steps.
    pub mixed: Error,
    /// The host's time beside the steps, as recorded and as the model has it, both for the mean
    /// step, in nanoseconds. Zeros where the log cannot tell.
    pub host_ns: (f64, f64),
    /// Where predicted time goes, and where it would go with prices fitted to this run.
    pub terms: Vec<TermShare>,
    /// Latencies and throughput, recorded and simulated.
    pub metrics: Vec<Compared>,
    /// Sequences that were not compared, for they never got a token.
    pub num_left_out: u64,
}

/// A term's part of the time of all steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TermShare {
    /// Its name.
    pub name: &'static str,
    /// Predicted time of the term over all measured time.
    pub predicted: f64,
    /// The same with prices fitted to the recorded steps, as near to the model's as they can be.
    pub refitted: f64,
}

/// A number as recorded and as simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Which metric, and at which percentile.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// As recorded.
    pub recorded: f64,
    /// As simulated.
    pub simulated: f64,
}

impl Compared {
    /// The simulated over the recorded value, less 1; 0 where nothing was recorded.
    #[must_use]
    pub fn error(&self) -> f64 {
        if self.recorded > 0.0 { self.simulated / self.recorded - 1.0 } else { 0.0 }
    }
}

/// Compares `recording` with what `model` says. `host` overrides the model's host time.
pub fn calibrate(
    recording: &Recording,
    model: &Arc<Fitted>,
    host: Option<HostFit>,
    make: &mut MakePolicy<'_>,
) -> Result<Calibration, CalibrateError> {
    if recording.steps.is_empty() || recording.requests.is_empty() {
        return Err(CalibrateError::Empty(
            "the log holds no step of a decoder that was carried out",
        ));
    }
    let group = |is_decode: bool| {
        let steps = recording.steps.iter();
        let steps = steps.filter(|step| step.shape.is_pure_decode() == is_decode);
        Error::of(steps.map(|step| (model.predict(&step.shape).0 as f64, step.device.0 as f64)))
    };
    let host = host.unwrap_or(model.host());
    let metrics = compare(recording, model, host, make)?;
    Ok(Calibration {
        run: recording.describe(),
        load: recording.load(),
        decode: group(true),
        mixed: group(false),
        host_ns: host_times(recording, host),
        terms: term_shares(&recording.steps, model),
        metrics,
        num_left_out: recording.num_left_out,
    })
}

/// Mean host time of a step, as recorded and as fitted.
fn host_times(recording: &Recording, host: HostFit) -> (f64, f64) {
    let timed: Vec<_> = recording.steps.iter().filter(|step| step.host.0 > 0).collect();
    if timed.is_empty() {
        return (0.0, 0.0);
    }
    let num = timed.len() as f64;
    let predict = |shape: &BatchShape| host.step_ns + host.sequence_ns * f64::from(shape.num_seqs);
    let recorded = timed.iter().map(|step| step.host.0 as f64).sum::<f64>() / num;
    let predicted = timed.iter().map(|step| predict(&step.shape)).sum::<f64>() / num;
    (recorded, predicted)
}

/// Where the time goes, by the model's prices and by prices fitted to these steps.
fn term_shares(steps: &[StepTime], model: &Fitted) -> Vec<TermShare> {
    let measured: f64 = steps.iter().map(|step| step.device.0 as f64).sum();
    let mut predicted = [0.0; NUM_TERMS];
    let mut refitted = [0.0; NUM_TERMS];
    for is_decode in [true, false] {
        let group = steps.iter().filter(|step| step.shape.is_pure_decode() == is_decode);
        let group: Vec<_> = group.filter(|step| step.device.0 > 0).collect();
        let row = |step: &&StepTime| -> Vec<f64> {
            terms(&step.shape).iter().map(|term| term / step.device.0 as f64).collect()
        };
        let rows: Vec<_> = group.iter().map(row).collect();
        let prices = prices_near(rows, group.first().map(|step| model.prices(&step.shape)));
        for step in &group {
            let amounts = terms(&step.shape);
            let ours = model.breakdown(&step.shape);
            for term in 0..NUM_TERMS {
                predicted[term] += ours[term];
                refitted[term] += amounts[term] * prices[term];
            }
        }
    }
    let share = |term: usize| TermShare {
        name: TERMS[term].0,
        predicted: predicted[term] / measured,
        refitted: refitted[term] / measured,
    };
    let mut shares: Vec<_> = (0..NUM_TERMS).map(share).collect();
    shares.retain(|share| share.predicted > 0.0005 || share.refitted > 0.0005);
    let distance = |share: &TermShare| (share.predicted - share.refitted).abs();
    shares.sort_by(|a, b| distance(b).total_cmp(&distance(a)));
    shares
}

/// How hard a refitted price is drawn to the model's, relative to how hard the steps draw it.
const PULL: f64 = 0.03;

/// The prices that fit rows of terms over measured times, and among those that fit alike the
/// nearest to `known`: a run often cannot tell terms apart that rise together.
fn prices_near(mut rows: Vec<Vec<f64>>, known: Option<&[f64; NUM_TERMS]>) -> Vec<f64> {
    let Some(known) = known else { return vec![0.0; NUM_TERMS] };
    let mut targets = vec![1.0; rows.len()];
    let length = |term: usize| rows.iter().map(|row| row[term].powi(2)).sum::<f64>().sqrt();
    let pulls: Vec<f64> = (0..NUM_TERMS).map(|term| PULL * length(term)).collect();
    for (term, pull) in pulls.into_iter().enumerate() {
        let mut row = vec![0.0; NUM_TERMS];
        row[term] = pull;
        rows.push(row);
        targets.push(pull * known[term]);
    }
    nnls(&rows, &targets)
}

/// Simulates the recorded arrivals and compares what came of them.
fn compare(
    recording: &Recording,
    model: &Arc<Fitted>,
    host: HostFit,
    make: &mut MakePolicy<'_>,
) -> Result<Vec<Compared>, CalibrateError> {
    let header = &recording.header;
    let spec = header.policy.clone();
    let policy = make(header, &spec)
        .map_err(|message| CalibrateError::Policy { spec: spec.clone(), message })?;
    let mut engine = header.engine.clone();
    // Encoders are left out, and tokens are made up.
    engine.models.truncate(1);
    engine.models.iter_mut().for_each(|one| one.vocab_size = crate::prompt::VOCAB_SIZE);
    let overlap = if recording.is_ahead { Overlap::Ahead } else { Overlap::None };
    let cost: Arc<dyn CostModel> = Arc::clone(model) as _;
    let mut options = Options::new(engine, policy, cost);
    options.host = host.host(overlap);
    options.front = FrontEnd { max_tokens: recording.max_tokens, ..FrontEnd::default() };
    let with_prefixes = header.engine.prefix_caching == PrefixCaching::On;
    let outcome = simulate(options, &mut recording.workload(with_prefixes).into_iter())?;

    let mut compared = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot, Metric::E2el] {
        let ours = outcome.requests.iter().filter_map(|request| metric.of_ms(request)).collect();
        let theirs = recording.requests.iter().filter_map(|one| one.of_ms(metric)).collect();
        let (ours, theirs) = (Spread::of(ours, &PERCENTS), Spread::of(theirs, &PERCENTS));
        let mut enter = |stat: &str, recorded: f64, simulated: f64| {
            let name = format!("{stat} {}", metric.label());
            compared.push(Compared { name, unit: "ms", recorded, simulated });
        };
        enter("mean", theirs.mean, ours.mean);
        for ((percent, recorded), (_, simulated)) in
            theirs.percentiles.iter().zip(&ours.percentiles)
        {
            enter(&format!("p{percent}"), *recorded, *simulated);
        }
    }
    let ends = outcome.requests.iter().filter_map(|request| request.times.last_token);
    let begins = outcome.requests.iter().map(|request| request.times.arrival);
    let span = ends.max().unwrap_or_default().since(begins.min().unwrap_or_default());
    let num_tokens: u64 = outcome.requests.iter().map(|one| u64::from(one.output)).sum();
    let simulated = num_tokens as f64 / span.as_secs_f64().max(1e-9);
    let recorded = recording.tokens_per_s();
    compared.insert(
        0,
        Compared { name: "output throughput".into(), unit: "tok/s", recorded, simulated },
    );
    Ok(compared)
}

/// Samples of the recorded steps, one for each, for a fit to the run itself.
#[must_use]
pub fn samples(recording: &Recording) -> Vec<Sample> {
    let sample = |step: &StepTime| Sample {
        shape: step.shape,
        device_ns: step.device.0 as f64,
        spread: 0.0,
        host_ns: step.host.0 as f64,
    };
    recording.steps.iter().map(sample).collect()
}

#[cfg(test)]
mod tests;
