//! What an outcome comes to: latencies, throughput, goodput, fairness.
//!
//! The definitions are those of vLLM's `bench serve`: latencies count from the arrival, which a
//! simulated client never misses; percentiles are interpolated linearly (type 7); the time per
//! output token leaves out answers of one token; only answered requests count. Times between
//! tokens come from a histogram and are exact to 0.1 %.

use std::collections::BTreeMap;

use folio_engine::types::Nanos;

use crate::outcome::{Outcome, RequestOutcome, Verdict};
use crate::statistics::{jain_index, mean, percentile, standard_deviation};

/// A latency that results tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Time to the first token.
    Ttft,
    /// Time per output token after the first, of a request.
    Tpot,
    /// Time between two tokens, all requests together.
    Itl,
    /// Time to the last token.
    E2el,
    /// Time from the arrival to the first step: Folio's own.
    Queue,
}

impl Metric {
    /// Those that vLLM knows, in its order.
    pub const ALL: [Self; 4] = [Self::Ttft, Self::Tpot, Self::Itl, Self::E2el];

    /// Name in keys of results and on the command line.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2el => "e2el",
            Self::Queue => "queue",
        }
    }

    /// Title in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ttft => "Time to First Token",
            Self::Tpot => "Time per Output Token (excl. 1st token)",
            Self::Itl => "Inter-token Latency",
            Self::E2el => "End-to-end Latency",
            Self::Queue => "Time in the Queue",
        }
    }

    /// Short name in tables.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Queue => "Queue".to_owned(),
            other => other.key().to_uppercase(),
        }
    }

    /// That of one request in milliseconds, if it has one. `Itl` is none of a request.
    #[must_use]
    pub fn of_ms(self, request: &RequestOutcome) -> Option<f64> {
        let in_ms = |time: Nanos| time.0 as f64 / 1e6;
        match self {
            Self::Ttft => request.ttft().map(in_ms),
            Self::Tpot => request.tpot_ns().map(|time| time / 1e6),
            Self::Itl => None,
            Self::E2el => request.e2el().map(in_ms),
            Self::Queue => request.queue_time().map(in_ms),
        }
    }
}

/// A metric over all requests, in milliseconds; zeros where there is nothing to tell of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// Values that it is made of.
    pub num: u64,
    /// Their mean.
    pub mean: f64,
    /// Their median.
    pub median: f64,
    /// Their standard deviation (of the population).
    pub std: f64,
    /// The percentiles that were asked for, each with its value.
    pub percentiles: Vec<(f64, f64)>,
}

impl Spread {
    /// That of `values`.
    #[must_use]
    pub fn of(mut values: Vec<f64>, percents: &[f64]) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |percent| percentile(&values, percent).unwrap_or(0.0);
        Self {
            num: values.len() as u64,
            mean: mean(&values).unwrap_or(0.0),
            median: at(50.0),
            std: standard_deviation(&values).unwrap_or(0.0),
            percentiles: percents.iter().map(|&percent| (percent, at(percent))).collect(),
        }
    }

    /// The value at `percent`, if it was asked for.
    #[must_use]
    pub fn at(&self, percent: f64) -> Option<f64> {
        let found = self.percentiles.iter().find(|(known, _)| (known - percent).abs() < 1e-9);
        found.map(|&(_, value)| value)
    }
}

/// How one tenant fared.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantSummary {
    /// Which one.
    pub tenant: u32,
    /// Requests that it sent.
    pub num_requests: u64,
    /// Those that were answered.
    pub num_completed: u64,
    /// Tokens of their prompts.
    pub num_input_tokens: u64,
    /// Tokens of their answers.
    pub num_output_tokens: u64,
    /// Times to the first token.
    pub ttft: Spread,
    /// Times to the last token.
    pub e2el: Spread,
    /// Times to the last token, over the tokens of the answer.
    pub normalized: Spread,
}

impl TenantSummary {
    /// What it got: a token of a prompt counts 1 and one of an answer 2, as in VTC (OSDI 2024).
    #[must_use]
    pub fn service(&self) -> f64 {
        self.num_input_tokens as f64 + 2.0 * self.num_output_tokens as f64
    }
}

impl Outcome {
    /// Requests that were answered.
    pub fn answered(&self) -> impl Iterator<Item = &RequestOutcome> {
        self.requests.iter().filter(|request| request.end.is_success())
    }

    /// From the first arrival to the last end, in seconds.
    #[must_use]
    pub fn duration_s(&self) -> f64 {
        let first = self.requests.iter().map(|request| request.times.arrival).min();
        let last = self.requests.iter().map(|request| request.times.ended).max();
        last.unwrap_or_default().since(first.unwrap_or_default()).as_secs_f64()
    }

    /// Requests a second as they were sent: their number less one over the time from the first to
    /// the last; infinite when all came at once.
    #[must_use]
    pub fn offered_rate(&self) -> f64 {
        let arrivals = || self.requests.iter().map(|request| request.times.arrival);
        let span = arrivals().max().unwrap_or_default().since(arrivals().min().unwrap_or_default());
        (self.requests.len() as f64 - 1.0).max(0.0) / span.as_secs_f64()
    }

    /// `num` in the time of the run; 0 when it took none.
    #[must_use]
    pub fn per_second(&self, num: f64) -> f64 {
        let duration = self.duration_s();
        if duration > 0.0 { num / duration } else { 0.0 }
    }

    /// A metric over all requests that were answered.
    #[must_use]
    pub fn spread(&self, metric: Metric, percents: &[f64]) -> Spread {
        if metric != Metric::Itl {
            let values = self.answered().filter_map(|request| metric.of_ms(request));
            return Spread::of(values.collect(), percents);
        }
        let at = |percent| self.gaps.percentile_ms(percent);
        Spread {
            num: self.gaps.num(),
            mean: self.gaps.mean_ms(),
            median: at(50.0),
            std: self.gaps.std_ms(),
            percentiles: percents.iter().map(|&percent| (percent, at(percent))).collect(),
        }
    }

    /// Requests that kept their objectives; `None` when nothing was asked of any.
    #[must_use]
    pub fn num_good(&self) -> Option<u64> {
        let is = |verdict| self.requests.iter().filter(move |r| r.verdict == verdict).count();
        (is(Verdict::NotAsked) < self.requests.len()).then(|| is(Verdict::Met) as u64)
    }

    /// Share of the requests with objectives that kept them, 0 to 1.
    #[must_use]
    pub fn attainment(&self) -> Option<f64> {
        let asked = self.requests.iter().filter(|r| r.verdict != Verdict::NotAsked).count();
        (asked > 0).then(|| self.num_good().unwrap_or(0) as f64 / asked as f64)
    }

    /// Most requests that were under way at the same time.
    #[must_use]
    pub fn max_concurrent(&self) -> u64 {
        let mut changes: Vec<(Nanos, i64)> = Vec::with_capacity(self.requests.len() * 2);
        for request in &self.requests {
            changes.push((request.times.arrival, 1));
            changes.push((request.times.ended, -1));
        }
        changes.sort_unstable(); // of one time, ends first
        let mut num = 0;
        let most = changes.iter().map(|&(_, change)| {
            num += change;
            num
        });
        most.max().unwrap_or(0) as u64
    }

    /// Share of the prompts' tokens that the prefix cache had, 0 to 1.
    #[must_use]
    pub fn prefix_hit_rate(&self) -> f64 {
        let (mut num_cached, mut num_input) = (0, 0);
        for request in self.answered() {
            num_cached += u64::from(request.num_cached);
            num_input += u64::from(request.input);
        }
        num_cached as f64 / (num_input as f64).max(1.0)
    }

    /// Share of the computed positions that preemption dropped, 0 to 1: they are computed again,
    /// but for what the prefix cache gives back.
    #[must_use]
    pub fn recompute_tax(&self) -> f64 {
        let num_computed = self.work.num_computed_tokens as f64;
        self.work.totals.num_dropped_tokens as f64 / num_computed.max(1.0)
    }

    /// Share of the time in which the devices computed, 0 to 1.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        self.per_second(self.work.busy.as_secs_f64()) / f64::from(self.work.num_instances.max(1))
    }

    /// How each tenant fared, by number.
    #[must_use]
    pub fn tenants(&self, percents: &[f64]) -> Vec<TenantSummary> {
        let mut by_tenant: BTreeMap<u32, Vec<&RequestOutcome>> = BTreeMap::new();
        for request in &self.requests {
            by_tenant.entry(request.tenant).or_default().push(request);
        }
        let of = |(tenant, requests): (u32, Vec<&RequestOutcome>)| {
            let num_requests = requests.len() as u64;
            let answered: Vec<_> = requests.into_iter().filter(|r| r.end.is_success()).collect();
            let values = |of: &dyn Fn(&RequestOutcome) -> Option<f64>| {
                Spread::of(answered.iter().filter_map(|request| of(request)).collect(), percents)
            };
            TenantSummary {
                tenant,
                num_requests,
                num_completed: answered.len() as u64,
                num_input_tokens: answered.iter().map(|r| u64::from(r.input)).sum(),
                num_output_tokens: answered.iter().map(|r| u64::from(r.output)).sum(),
                ttft: values(&|request| Metric::Ttft.of_ms(request)),
                e2el: values(&|request| Metric::E2el.of_ms(request)),
                normalized: values(&|request| {
                    Some(Metric::E2el.of_ms(request)? / f64::from(request.output.max(1)))
                }),
            }
        };
        by_tenant.into_iter().map(of).collect()
    }
}

/// Jain's index of what the tenants got: 1 when all got the same, 1/n when one got all.
#[must_use]
pub fn service_fairness(tenants: &[TenantSummary]) -> Option<f64> {
    jain_index(&tenants.iter().map(TenantSummary::service).collect::<Vec<_>>())
}

/// Jain's index of the tenants' mean time per token of an answer, waiting included: 1 when all
/// were served equally fast.
#[must_use]
pub fn latency_fairness(tenants: &[TenantSummary]) -> Option<f64> {
    let answered = tenants.iter().filter(|tenant| tenant.num_completed > 0);
    jain_index(&answered.map(|tenant| tenant.normalized.mean).collect::<Vec<_>>())
}
