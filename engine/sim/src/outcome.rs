//! What came of a simulation: how each request fared, and what the engines did.
//!
//! Exact where it says nothing else; how it is summed up is in `metrics`, how it is written down
//! in `result`.

use folio_engine::sched::{Gauges, PrefixCounters, Totals};
use folio_engine::types::Nanos;

use crate::gaps::Gaps;
use crate::workload::{ReadTally, Slo};

/// What came of a simulation.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Outcome {
    /// How each request fared, in the order of the workload.
    pub requests: Vec<RequestOutcome>,
    /// When each token of each request was known, in the same order; empty without
    /// [`Detail::Tokens`](crate::options::Detail::Tokens).
    pub tokens: Vec<Vec<Nanos>>,
    /// Times between two tokens of a request, those of all requests together.
    pub gaps: Gaps,
    /// What the engines did, summed up.
    pub work: Work,
    /// How things stood, at regular times; at most [`MAX_SAMPLES`](crate::series::MAX_SAMPLES).
    pub series: Vec<Sample>,
    /// Most tokens that were known within a second, counted from the first arrival.
    pub max_tokens_per_s: u64,
    /// What was read and left out of the workload.
    pub read: ReadTally,
    /// Arrivals in each second from the first arrival on.
    pub arrivals_per_s: Burstiness,
}

/// How one request fared. Times count from the start of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOutcome {
    /// Its number in the workload, from 0 on.
    pub record: u64,
    /// Whose it is.
    pub tenant: u32,
    /// When what happened.
    pub times: Times,
    /// Tokens of its prompt.
    pub input: u32,
    /// Tokens that it was answered with.
    pub output: u32,
    /// Tokens of the prompt that the prefix cache had when it first ran.
    pub num_cached: u32,
    /// How often it lost its blocks.
    pub num_preemptions: u32,
    /// The longest time between two of its tokens.
    pub max_gap: Nanos,
    /// Why it ended.
    pub end: End,
    /// Whether it kept what it was to keep.
    pub verdict: Verdict,
}

/// When what happened to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// It was sent, and known to the scheduler at once.
    pub arrival: Nanos,
    /// It was first part of a step, if it ever was.
    pub first_scheduled: Option<Nanos>,
    /// Its first token was known, if there was one.
    pub first_token: Option<Nanos>,
    /// Its latest token was known.
    pub last_token: Option<Nanos>,
    /// It was over.
    pub ended: Nanos,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer was complete.
    Complete,
    /// The answer was cut: by the most tokens that may be asked for, the model's length or the
    /// size of the KV cache.
    Cut,
    /// Its time was up.
    TimedOut,
    /// Turned away on arrival: longer than the model's length or than the KV cache.
    TooLong,
    /// Turned away on arrival: as many requests waited as may.
    QueueFull,
    /// Turned away by the policy or the router.
    Rejected,
}

impl End {
    /// Whether the client got an answer.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Complete | Self::Cut)
    }

    /// A word for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cut => "cut",
            Self::TimedOut => "timed-out",
            Self::TooLong => "too-long",
            Self::QueueFull => "queue-full",
            Self::Rejected => "rejected",
        }
    }
}

/// Whether a request kept its service-level objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was asked of it.
    #[default]
    NotAsked,
    /// It kept all that was asked.
    Met,
    /// It did not, or it was not answered.
    Missed,
}

impl Verdict {
    /// A word for tables; empty when nothing was asked.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAsked => "",
            Self::Met => "met",
            Self::Missed => "missed",
        }
    }
}

impl RequestOutcome {
    /// From the arrival until the first token; `None` without one.
    #[must_use]
    pub fn ttft(&self) -> Option<Nanos> {
        Some(self.times.first_token?.since(self.times.arrival))
    }

    /// Mean time between tokens in nanoseconds; `None` with fewer than two.
    #[must_use]
    pub fn tpot_ns(&self) -> Option<f64> {
        let span = self.times.last_token?.since(self.times.first_token?);
        (self.output > 1).then(|| span.0 as f64 / f64::from(self.output - 1))
    }

    /// From the arrival until the last token; `None` without one.
    #[must_use]
    pub fn e2el(&self) -> Option<Nanos> {
        Some(self.times.last_token?.since(self.times.arrival))
    }

    /// From the arrival until the first step with it; `None` without one.
    #[must_use]
    pub fn queue_time(&self) -> Option<Nanos> {
        Some(self.times.first_scheduled?.since(self.times.arrival))
    }

    /// Whether it was answered within `slo`. The time between tokens of an answer of one token
    /// counts as 0.
    #[must_use]
    pub fn keeps(&self, slo: Slo) -> bool {
        let within = |time: Option<Nanos>, limit: Option<Nanos>| {
            limit.is_none_or(|limit| time.is_some_and(|time| time <= limit))
        };
        let tpot = self.tpot_ns().unwrap_or(0.0);
        self.end.is_success()
            && within(self.ttft(), slo.ttft)
            && within(self.e2el(), slo.e2el)
            && slo.tpot.is_none_or(|limit| tpot <= limit.0 as f64)
    }

    /// What is to be said about it, given what was asked.
    #[must_use]
    pub fn judge(&self, slo: Slo) -> Verdict {
        match (slo == Slo::default(), self.keeps(slo)) {
            (true, _) => Verdict::NotAsked,
            (false, true) => Verdict::Met,
            (false, false) => Verdict::Missed,
        }
    }
}

/// What the engines did, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Counts of the schedulers.
    pub totals: Totals,
    /// Counts of the prefix indexes.
    pub prefix: PrefixCounters,
    /// Time that the devices computed.
    pub busy: Nanos,
    /// Tokens in the largest step.
    pub max_step_tokens: u32,
    /// Positions that were computed, recomputation included.
    pub num_computed_tokens: u64,
    /// Number of engines.
    pub num_instances: u32,
}

impl Work {
    /// Adds what one engine did, as its gauges tell.
    pub(crate) fn add(&mut self, gauges: &Gauges) {
        let (sum, totals) = (&mut self.totals, &gauges.totals);
        sum.num_preemptions += totals.num_preemptions;
        sum.num_dropped_tokens += totals.num_dropped_tokens;
        sum.num_swapped_out_tokens += totals.num_swapped_out_tokens;
        sum.num_swapped_in_tokens += totals.num_swapped_in_tokens;
        sum.num_steps += totals.num_steps;
        sum.num_prefill_tokens += totals.num_prefill_tokens;
        sum.num_prompt_tokens += totals.num_prompt_tokens;
        sum.num_generated_tokens += totals.num_generated_tokens;
        sum.num_wasted_tokens += totals.num_wasted_tokens;
        sum.num_overridden_plans += totals.num_overridden_plans;
        self.prefix.num_queried_tokens += gauges.prefix.num_queried_tokens;
        self.prefix.num_hit_tokens += gauges.prefix.num_hit_tokens;
        self.prefix.num_evictions += gauges.prefix.num_evictions;
    }
}

/// How things stood at one moment, all engines together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Nanos,
    /// Share of the KV blocks that sequences hold, 0 to 1.
    pub kv_use: f64,
    /// Sequences that take part in steps.
    pub num_running: u32,
    /// Sequences that wait.
    pub num_waiting: u32,
    /// Preemptions so far.
    pub num_preemptions: u64,
    /// Tokens a step since the sample before, on average.
    pub tokens_per_step: f64,
    /// Tokens generated so far.
    pub num_generated: u64,
    /// Positions of prompts computed so far.
    pub num_prefill: u64,
    /// Steps so far.
    pub num_steps: u64,
}

/// How uneven arrivals are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Burstiness {
    /// Seconds looked at.
    pub num_seconds: u64,
    /// Variance of the number of arrivals in a second over its mean: 1 of a Poisson process, more
    /// where arrivals come in bursts; 0 where nothing can be said.
    pub index_of_dispersion: f64,
}
