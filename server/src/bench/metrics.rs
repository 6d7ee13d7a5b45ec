//! Figures of a run, by the definitions of vLLM's benchmark, and those that it lacks.
//!
//! Percentiles interpolate linearly (type 7). TTFT, TPOT and E2EL are over requests, ITL is over
//! the gaps of all requests pooled. Only successes count, but for `failed`.

use std::collections::BTreeMap;

use folio_sim::statistics::{Interval, mean, percentile, standard_deviation};

use super::intervals::{Value, bootstrap};
use super::sample::{Class, CountedBy, Sample};
use super::slo::{From, Objective};

/// A time that is measured of each request, or of each gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// From sending to the first token.
    Ttft,
    /// A token after the first.
    Tpot,
    /// Between chunks.
    Itl,
    /// From sending to the end.
    E2el,
    /// From when it was due to the first token.
    TtftSched,
    /// From when it was due to the end.
    E2elSched,
    /// From when it was due until it was sent.
    Queue,
    /// The longest gap of a request.
    Stall,
    /// From sending to the end, a token of the answer.
    NormLatency,
    /// vLLM's name for the wait for `--max-concurrency`.
    ClientQueueTime,
    /// vLLM's name for that wait and what follows.
    E2elIncludingClientQueue,
}

impl Metric {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::Ttft,
        Self::Tpot,
        Self::Itl,
        Self::E2el,
        Self::TtftSched,
        Self::E2elSched,
        Self::Queue,
        Self::Stall,
        Self::NormLatency,
        Self::ClientQueueTime,
        Self::E2elIncludingClientQueue,
    ];

    /// Its name in keys and flags, its name on the terminal, and its heading there.
    pub fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ttft => ("ttft", "TTFT", "Time to First Token"),
            Self::Tpot => ("tpot", "TPOT", "Time per Output Token (excl. 1st token)"),
            Self::Itl => ("itl", "ITL", "Inter-token Latency"),
            Self::E2el => ("e2el", "E2EL", "End-to-end Latency"),
            Self::TtftSched => ("ttft_sched", "TTFT_SCHED", "TTFT from the Scheduled Time"),
            Self::E2elSched => ("e2el_sched", "E2EL_SCHED", "E2EL from the Scheduled Time"),
            Self::Queue => ("queue", "QUEUE", "Wait in the Client"),
            Self::Stall => ("stall", "STALL", "Longest Gap of a Request"),
            Self::NormLatency => ("norm_latency", "NORM_LATENCY", "E2EL per Output Token"),
            Self::ClientQueueTime => {
                ("client_queue_time", "Client Queue Time", "Client-side Queueing")
            }
            Self::E2elIncludingClientQueue => (
                "e2el_including_client_queue",
                "E2EL incl. Client Queue",
                "Queue-inclusive End-to-end Latency",
            ),
        }
    }

    /// The metric that is called `name` in keys and flags.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.names().0 == name)
    }

    /// Its seconds of a request: several for gaps, none where there is nothing to measure.
    fn seconds(self, sample: &Sample) -> Vec<f64> {
        let one = |seconds: Option<f64>| seconds.into_iter().collect();
        match self {
            Self::Ttft => one(sample.ttft()),
            Self::Tpot => one(sample.tpot()),
            Self::Itl => sample.gaps().collect(),
            Self::E2el => one(Some(sample.e2el())),
            Self::TtftSched => one(sample.ttft_sched()),
            Self::E2elSched | Self::E2elIncludingClientQueue => one(Some(sample.e2el_sched())),
            Self::Queue => one(Some(sample.queue())),
            Self::ClientQueueTime => one(Some(sample.times.sent - sample.times.released)),
            Self::Stall => one(sample.stall()),
            Self::NormLatency => one(sample.norm_latency()),
        }
    }
}

/// What there is to say about the values of a metric, all in milliseconds. Zeros of nothing, as in
/// vLLM's files.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Of what.
    pub metric: Metric,
    /// How many values there are.
    pub num: usize,
    /// Their mean.
    pub mean: f64,
    /// Their median.
    pub median: f64,
    /// Their standard deviation (of the population).
    pub std: f64,
    /// Percentiles: which, and the value.
    pub percentiles: Vec<(f64, f64)>,
    /// 95 % intervals of the mean, the median and the percentiles, in this order; empty for fewer
    /// than two requests.
    pub intervals: Vec<Interval>,
}

impl Distribution {
    /// Of `metric` over `samples`, with `percents` (0 to 100).
    pub fn of(metric: Metric, samples: &[&Sample], percents: &[f64], seed: u64) -> Self {
        let mut values: Vec<Value> = samples
            .iter()
            .zip(0..)
            .flat_map(|(sample, request)| {
                let seconds = metric.seconds(sample).into_iter();
                seconds.map(move |seconds| Value { value: 1e3 * seconds, request })
            })
            .collect();
        values.sort_by(|left, right| left.value.total_cmp(&right.value));
        let sorted: Vec<f64> = values.iter().map(|value| value.value).collect();
        let at = |percent| percentile(&sorted, percent).unwrap_or(0.0);
        let all: Vec<f64> = [50.0].iter().chain(percents).copied().collect();
        let intervals = bootstrap(&values, samples.len(), &all, seed)
            .map(|found| std::iter::once(found.mean).chain(found.percentiles).collect());
        Self {
            metric,
            num: sorted.len(),
            mean: mean(&sorted).unwrap_or(0.0),
            median: at(50.0),
            std: standard_deviation(&sorted).unwrap_or(0.0),
            percentiles: percents.iter().map(|&percent| (percent, at(percent))).collect(),
            intervals: intervals.unwrap_or_default(),
        }
    }
}

/// What is to be found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Metrics, in the order of the terminal's block.
    pub metrics: Vec<Metric>,
    /// Percentiles, 0 to 100.
    pub percents: Vec<f64>,
    /// What makes a request good.
    pub objective: Objective,
    /// Where the randomness of intervals starts.
    pub seed: u64,
}

/// The figures of one class of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Which class.
    pub class: Class,
    /// How many, of what.
    pub counts: Counts,
    /// Seconds from the first request sent to the last answer, of all classes.
    pub duration: f64,
    /// Distributions, those wanted first.
    pub distributions: Vec<Distribution>,
    /// Most chunks with tokens in a second of the run.
    pub max_output_tokens_per_s: f64,
    /// Most requests in flight.
    pub max_concurrent_requests: usize,
    /// Failures by kind: how many, and what the first said.
    pub errors: BTreeMap<String, (usize, String)>,
}

/// Counts of one class of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered to the end.
    pub completed: usize,
    /// Not.
    pub failed: usize,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Of them, those that the server had cached, as far as it says.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Texts embedded.
    pub texts: u64,
    /// Chunks with tokens.
    pub chunks: u64,
    /// Within the objective, from sending.
    pub good: usize,
    /// Within the objective, from the scheduled time.
    pub good_sched: usize,
    /// Answers whose tokens the server did not count.
    pub uncounted: usize,
}

impl Summary {
    /// The figures of the requests of `class` among `samples`; `None` if there are none.
    pub fn of(samples: &[Sample], class: Class, wanted: &Wanted) -> Option<Self> {
        let all: Vec<&Sample> = samples.iter().filter(|sample| sample.class == class).collect();
        if all.is_empty() {
            return None;
        }
        let good: Vec<&Sample> = all.iter().copied().filter(|sample| sample.is_success()).collect();
        let of = |metric: Metric| Distribution::of(metric, &good, &wanted.percents, wanted.seed);
        let mut errors: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for failure in all.iter().filter_map(|sample| sample.failure.as_ref()) {
            let entry = errors.entry(failure.kind.clone());
            entry.or_insert_with(|| (0, failure.text.clone())).0 += 1;
        }
        Some(Self {
            class,
            counts: Counts::of(&all, &wanted.objective),
            duration: duration(samples),
            distributions: wanted.metrics.iter().copied().map(of).collect(),
            max_output_tokens_per_s: busiest_second(&good),
            max_concurrent_requests: most_in_flight(&good),
            errors,
        })
    }

    /// `amount` a second of the run.
    pub fn rate(&self, amount: u64) -> f64 {
        if self.duration > 0.0 { amount as f64 / self.duration } else { 0.0 }
    }

    /// The distribution of `metric`, if it was wanted.
    pub fn distribution(&self, metric: Metric) -> Option<&Distribution> {
        self.distributions.iter().find(|found| found.metric == metric)
    }
}

impl Counts {
    fn of(samples: &[&Sample], objective: &Objective) -> Self {
        let mut counts = Self::default();
        for sample in samples {
            if !sample.is_success() {
                counts.failed += 1;
                continue;
            }
            counts.completed += 1;
            counts.input_tokens += u64::from(sample.tokens.input);
            counts.cached_tokens += u64::from(sample.tokens.cached);
            counts.output_tokens += u64::from(sample.tokens.output);
            counts.texts += u64::from(sample.tokens.num_texts);
            counts.chunks += sample.chunks.len() as u64;
            counts.good += usize::from(objective.is_kept_by(sample, From::Sent));
            counts.good_sched += usize::from(objective.is_kept_by(sample, From::Scheduled));
            counts.uncounted += usize::from(sample.tokens.counted_by == CountedBy::Client);
        }
        counts
    }
}

/// Seconds from the first request sent to the last answer.
fn duration(samples: &[Sample]) -> f64 {
    let first = samples.iter().map(|sample| sample.times.sent).fold(f64::INFINITY, f64::min);
    let last = samples.iter().map(|sample| sample.times.last).fold(0.0, f64::max);
    (last - first).max(0.0)
}

/// Most chunks in one of the seconds that follow the first request sent.
fn busiest_second(samples: &[&Sample]) -> f64 {
    let first = samples.iter().map(|sample| sample.times.sent).fold(f64::INFINITY, f64::min);
    let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
    for chunk in samples.iter().flat_map(|sample| &sample.chunks) {
        *seconds.entry((chunk - first).max(0.0) as u64).or_default() += 1;
    }
    seconds.into_values().max().unwrap_or(0) as f64
}

/// Most intervals from sending to the end, the end not included, that share a moment.
fn most_in_flight(samples: &[&Sample]) -> usize {
    let mut events: Vec<(f64, i32)> = samples
        .iter()
        .flat_map(|sample| [(sample.times.sent, 1), (sample.times.last, -1)])
        .collect();
    // Departures first, as the intervals are half open.
    events.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
    let (mut now, mut most) = (0i32, 0);
    for (_, change) in events {
        now += change;
        most = most.max(now);
    }
    most.max(0) as usize
}
