//! From the outcome of a simulation to its digest.

use folio_engine::types::{BatchShape, CostModel, Emission, Nanos};

use super::digest::{Digest, Facts, Moment, Objective, Served};
use crate::outcome::{Outcome, RequestOutcome, Sample, Verdict};
use crate::workload::Slo;

/// The machine that a request is imagined to have for itself.
#[derive(Clone, Copy, Debug)]
pub struct Alone<'a> {
    /// How long its steps take.
    pub cost: &'a dyn CostModel,
    /// Most tokens of a step.
    pub max_num_batched_tokens: u32,
}

impl Digest {
    /// The digest of `outcome`, whose requests were to keep `slo`.
    pub fn of_simulation(outcome: &Outcome, slo: Slo, alone: Alone<'_>) -> Self {
        let requests: Vec<Served> =
            outcome.requests.iter().map(|request| served(request, alone)).collect();
        let work = &outcome.work;
        let num_dropped = work.totals.num_dropped_tokens as f64;
        let share = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
        let seconds = |limit: Option<Nanos>| limit.map(Nanos::as_secs_f64);
        let facts = Facts {
            objective: Objective {
                ttft: seconds(slo.ttft),
                tpot: seconds(slo.tpot),
                e2el: seconds(slo.e2el),
            },
            recompute_tax: share(num_dropped, work.num_computed_tokens),
            prefix_hit_rate: share(
                work.prefix.num_hit_tokens as f64,
                work.prefix.num_queried_tokens,
            ),
            moments: moments(&outcome.series),
            gaps: outcome.gaps.counts().collect(),
        };
        Self::of(&requests, &facts)
    }
}

fn served(request: &RequestOutcome, alone: Alone<'_>) -> Served {
    let times = &request.times;
    let seconds = |time: Option<Nanos>| time.map(Nanos::as_secs_f64);
    Served {
        tenant: request.tenant,
        arrival: times.arrival.as_secs_f64(),
        started: seconds(times.first_scheduled),
        first_token: seconds(times.first_token),
        last_token: seconds(times.last_token).filter(|_| request.end.is_success()),
        input: request.input,
        output: request.output,
        longest_gap: request.max_gap.as_secs_f64(),
        alone: Some(time_alone(request, alone).as_secs_f64()),
        met: match request.verdict {
            Verdict::NotAsked => None,
            Verdict::Met => Some(true),
            Verdict::Missed => Some(false),
        },
    }
}

/// The time that a request would take with the machine to itself and nothing cached: its prompt in
/// chunks of the budget, then its answer token by token, each with the mean context.
fn time_alone(request: &RequestOutcome, alone: Alone<'_>) -> Nanos {
    let (input, budget) = (request.input, alone.max_num_batched_tokens.max(1));
    let starts = (0..input).step_by(budget as usize);
    let chunks = starts.map(|start| {
        let end = input.min(start.saturating_add(budget));
        let emission = if end == input { Emission::Result } else { Emission::Nothing };
        alone.cost.predict(&BatchShape::row(start..end, emission)).0
    });
    let prompt: u64 = chunks.sum();
    let num_decodes = request.output.saturating_sub(1);
    let middle = input + num_decodes / 2;
    let decode = BatchShape::row(middle..middle + 1, Emission::Result);
    Nanos(prompt + u64::from(num_decodes) * alone.cost.predict(&decode).0)
}

fn moments(samples: &[Sample]) -> Vec<Moment> {
    let mut before = Sample::default();
    let moment = |sample: &Sample| {
        let num_steps = sample.num_steps.saturating_sub(before.num_steps).max(1) as f64;
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64 / num_steps;
        let seconds = sample.at.since(before.at).as_secs_f64();
        let moment = Moment {
            at: sample.at.as_secs_f64(),
            kv_use: sample.kv_use,
            running: f64::from(sample.num_running),
            waiting: f64::from(sample.num_waiting),
            preemptions: sample.num_preemptions as f64,
            prefill: since(sample.num_prefill, before.num_prefill),
            decode: since(sample.num_generated, before.num_generated),
            step_ms: 1e3 * seconds / num_steps,
        };
        before = *sample;
        moment
    };
    samples.iter().map(moment).collect()
}
