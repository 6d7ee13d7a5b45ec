//! What a report needs of a run: measures, distributions, courses over time. Small, whatever the
//! length of the run, and kept in the run's result file.
//!
//! Made of plain rows of requests, so that a benchmark of a real server can make the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plot::{cumulative, tail};
use crate::statistics::{jain_index, mean, percentile};

/// How one request fared. Times are seconds from the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Whose it was.
    pub tenant: u32,
    /// It was sent.
    pub arrival: f64,
    /// It was first worked on.
    pub started: Option<f64>,
    /// Its first token came.
    pub first_token: Option<f64>,
    /// Its last token came; `None` where it was not answered to the end.
    pub last_token: Option<f64>,
    /// Tokens of the prompt.
    pub input: u32,
    /// Tokens of the answer.
    pub output: u32,
    /// Longest time between two of its tokens.
    pub longest_gap: f64,
    /// What it would have taken alone on the machine; `None` where nobody knows.
    pub alone: Option<f64>,
    /// Whether it kept its objective; `None` without one.
    pub met: Option<bool>,
}

impl Served {
    fn ttft(&self) -> Option<f64> {
        Some(self.first_token? - self.arrival)
    }

    fn tpot(&self) -> Option<f64> {
        let span = self.last_token? - self.first_token?;
        (self.output > 1).then(|| span / f64::from(self.output - 1))
    }

    fn e2el(&self) -> Option<f64> {
        Some(self.last_token? - self.arrival)
    }

    fn slowdown(&self) -> Option<f64> {
        Some(self.e2el()? / self.alone.filter(|alone| *alone > 0.0)?)
    }
}

/// What is known of a run beside its requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Limits of TTFT, TPOT and E2E latency in seconds, where there are any.
    pub objective: Objective,
    /// Tokens computed again, of all computed.
    pub recompute_tax: Option<f64>,
    /// Prompt tokens found in the prefix cache, of all asked for.
    pub prefix_hit_rate: Option<f64>,
    /// The state over time.
    pub moments: Vec<Moment>,
    /// Times between tokens: milliseconds, and how many there were.
    pub gaps: Vec<(f64, u64)>,
}

/// Limits in seconds; `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objective {
    /// Time to the first token.
    pub ttft: Option<f64>,
    /// Mean time between tokens.
    pub tpot: Option<f64>,
    /// Time to the last token.
    pub e2el: Option<f64>,
}

impl Objective {
    /// Whether it asks for anything.
    pub fn is_some(&self) -> bool {
        *self != Self::default()
    }

    /// Whether `request` keeps limits `scale` times these.
    fn is_met(&self, request: &Served, scale: f64) -> bool {
        let within = |time: Option<f64>, limit: Option<f64>| {
            limit.is_none_or(|limit| time.is_some_and(|time| time <= scale * limit))
        };
        let tpot = Some(request.tpot().unwrap_or(0.0));
        request.last_token.is_some()
            && within(request.ttft(), self.ttft)
            && within(tpot, self.tpot)
            && within(request.e2el(), self.e2el)
    }
}

/// The state at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds from the start.
    pub at: f64,
    /// Share of the KV cache in use.
    pub kv_use: f64,
    /// Requests that are worked on.
    pub running: f64,
    /// Requests that wait.
    pub waiting: f64,
    /// Preemptions so far.
    pub preemptions: f64,
    /// Prompt tokens a step, since the moment before.
    pub prefill: f64,
    /// Tokens of answers a step, since the moment before.
    pub decode: f64,
    /// Milliseconds a step, since the moment before.
    pub step_ms: f64,
}

/// What a report needs of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// Numbers by name, beside those that the result file has.
    pub measures: BTreeMap<String, f64>,
    /// Distributions by name: value, share of requests at or below it.
    pub curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// Tails by name: value, share of requests above it.
    pub tails: BTreeMap<String, Vec<(f64, f64)>>,
    /// Share of requests that meet the objective when its limits are scaled: scale, share.
    pub by_scale: Vec<(f64, f64)>,
    /// By tenths of the requests, the smallest first: tokens, mean slowdown, p99 slowdown.
    pub by_size: Vec<(f64, f64, f64)>,
    /// The state over time.
    pub moments: Vec<Moment>,
    /// The tenants, the largest first.
    pub tenants: Vec<TenantDigest>,
    /// Some lives of requests: sent, started, first token, last token.
    pub lives: Vec<[f64; 4]>,
}

/// One tenant of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantDigest {
    /// Which.
    pub tenant: u32,
    /// Its requests.
    pub num_requests: u64,
    /// Its mean time to the first token in milliseconds.
    pub mean_ttft_ms: f64,
    /// Its p99 of the time to the first token in milliseconds.
    pub p99_ttft_ms: f64,
    /// Service until each of [`NUM_TIMES`] times: seconds, prompt tokens plus twice the tokens of
    /// answers, those of an answer evenly from its first to its last.
    pub service: Vec<(f64, f64)>,
}

/// Times at which the service of tenants is summed up.
pub const NUM_TIMES: usize = 120;
/// Tenants that are told apart; those with fewer requests are left out of courses and indices.
const MAX_TENANTS: usize = 20;
/// Moments kept.
const MAX_MOMENTS: usize = 300;
/// Lives kept.
const NUM_LIVES: usize = 20;
/// Scales of the objective.
const SCALES: [f64; 11] = [0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0];

impl Digest {
    /// Sums up a run.
    pub fn of(requests: &[Served], facts: &Facts) -> Self {
        let tenants = tenants(requests);
        let mut digest = Self {
            measures: measures(requests, facts, &tenants),
            by_scale: by_scale(requests, &facts.objective),
            by_size: by_size(requests),
            moments: thinned(&facts.moments),
            tenants,
            lives: lives(requests),
            ..Self::default()
        };
        for (name, values) in distributions(requests) {
            digest.curves.insert(name.to_owned(), rounded(&cumulative(&values)));
            digest.tails.insert(name.to_owned(), rounded(&tail(&values)));
        }
        if !facts.gaps.is_empty() {
            digest.curves.insert("itl_ms".to_owned(), rounded(&of_counts(&facts.gaps)));
        }
        digest
    }
}

fn milliseconds(requests: &[Served], of: impl Fn(&Served) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> =
        requests.iter().filter_map(of).map(|seconds| 1e3 * seconds).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn distributions(requests: &[Served]) -> Vec<(&'static str, Vec<f64>)> {
    let slowdowns = requests.iter().filter_map(Served::slowdown).collect();
    vec![
        ("ttft_ms", milliseconds(requests, Served::ttft)),
        ("tpot_ms", milliseconds(requests, Served::tpot)),
        ("e2el_ms", milliseconds(requests, Served::e2el)),
        ("stall_ms", milliseconds(requests, |r| (r.output > 1).then_some(r.longest_gap))),
        ("slowdown", slowdowns),
    ]
}

fn measures(requests: &[Served], facts: &Facts, tenants: &[TenantDigest]) -> BTreeMap<String, f64> {
    let mut measures = BTreeMap::new();
    let mut set = |name: &str, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            measures.insert(name.to_owned(), value);
        }
    };
    for (name, mut values) in distributions(requests) {
        values.sort_by(f64::total_cmp);
        let (stem, unit) = name.strip_suffix("_ms").map_or((name, ""), |stem| (stem, "_ms"));
        set(&format!("mean_{stem}{unit}"), mean(&values));
        for percent in [50, 90, 99] {
            set(&format!("p{percent}_{stem}{unit}"), percentile(&values, f64::from(percent)));
        }
        if name == "e2el_ms" {
            let slowest = &values[values.len() - values.len().div_ceil(10)..];
            set("slowest_decile_e2el_ms", mean(slowest));
        }
        if name == "ttft_ms" {
            set("max_ttft_ms", values.last().copied());
        }
    }
    set("recompute_tax", facts.recompute_tax);
    set("prefix_hit_rate", facts.prefix_hit_rate);
    let answered = requests.iter().filter(|request| request.last_token.is_some());
    let first = requests.iter().map(|request| request.arrival).fold(f64::INFINITY, f64::min);
    let last = answered.clone().filter_map(|request| request.last_token).fold(first, f64::max);
    set("request_throughput", Some(answered.clone().count() as f64 / (last - first)));
    let tokens: u64 = answered.map(|request| u64::from(request.output)).sum();
    set("output_throughput", Some(tokens as f64 / (last - first)));
    if requests.iter().any(|request| request.met.is_some()) && !requests.is_empty() {
        let met = requests.iter().filter(|request| request.met == Some(true)).count() as f64;
        set("slo_attainment", Some(met / requests.len() as f64));
        set("request_goodput", Some(met / (last - first)));
    }
    if tenants.len() > 1 {
        let ttfts: Vec<f64> = tenants.iter().map(|tenant| tenant.mean_ttft_ms).collect();
        set("jain_index_of_ttft", jain_index(&ttfts));
        set("smallest_tenant_ttft_ms", ttfts.last().copied());
        set("worst_tenant_p99_ttft_ms", tenants.iter().map(|t| t.p99_ttft_ms).reduce(f64::max));
        set("max_service_difference", max_service_difference(tenants));
    }
    measures
}

/// The most that the service of two tenants ever differed by.
fn max_service_difference(tenants: &[TenantDigest]) -> Option<f64> {
    let at = |index: usize| {
        let service = tenants.iter().filter_map(|tenant| Some(tenant.service.get(index)?.1));
        let range = service
            .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        range.1 - range.0
    };
    (0..NUM_TIMES).map(at).reduce(f64::max)
}

fn by_scale(requests: &[Served], objective: &Objective) -> Vec<(f64, f64)> {
    if !objective.is_some() || requests.is_empty() {
        return Vec::new();
    }
    let share = |scale: f64| {
        let met = requests.iter().filter(|request| objective.is_met(request, scale)).count();
        (scale, met as f64 / requests.len() as f64)
    };
    SCALES.into_iter().map(share).collect()
}

fn by_size(requests: &[Served]) -> Vec<(f64, f64, f64)> {
    let mut sized: Vec<(f64, f64)> = requests
        .iter()
        .filter_map(|r| Some((f64::from(r.input) + f64::from(r.output), r.slowdown()?)))
        .collect();
    sized.sort_by(|left, right| left.0.total_cmp(&right.0));
    let class = |tenth: usize| {
        let class = &sized[tenth * sized.len() / 10..(tenth + 1) * sized.len() / 10];
        let sizes: Vec<f64> = class.iter().map(|(size, _)| *size).collect();
        let mut slowdowns: Vec<f64> = class.iter().map(|(_, slowdown)| *slowdown).collect();
        slowdowns.sort_by(f64::total_cmp);
        Some((mean(&sizes)?, mean(&slowdowns)?, percentile(&slowdowns, 99.0)?))
    };
    (0..10).filter_map(class).collect()
}

fn tenants(requests: &[Served]) -> Vec<TenantDigest> {
    let mut by_tenant: BTreeMap<u32, Vec<&Served>> = BTreeMap::new();
    for request in requests {
        by_tenant.entry(request.tenant).or_default().push(request);
    }
    if by_tenant.len() < 2 {
        return Vec::new();
    }
    let end = requests.iter().filter_map(|request| request.last_token).fold(0.0, f64::max);
    let mut largest: Vec<(u32, Vec<&Served>)> = by_tenant.into_iter().collect();
    largest.sort_by_key(|(tenant, requests)| (std::cmp::Reverse(requests.len()), *tenant));
    largest.truncate(MAX_TENANTS);
    let digest = |(tenant, requests): (u32, Vec<&Served>)| {
        let mut ttfts: Vec<f64> =
            requests.iter().filter_map(|request| request.ttft()).map(|ttft| 1e3 * ttft).collect();
        ttfts.sort_by(f64::total_cmp);
        TenantDigest {
            tenant,
            num_requests: requests.len() as u64,
            mean_ttft_ms: mean(&ttfts).unwrap_or(0.0),
            p99_ttft_ms: percentile(&ttfts, 99.0).unwrap_or(0.0),
            service: rounded(&service(&requests, end)),
        }
    };
    largest.into_iter().map(digest).collect()
}

/// Service so far at [`NUM_TIMES`] times up to `end`.
fn service(requests: &[&Served], end: f64) -> Vec<(f64, f64)> {
    /// Weights of a token of a prompt and of an answer, as VTC's authors have them.
    const WEIGHTS: (f64, f64) = (1.0, 2.0);
    let step = end / NUM_TIMES as f64;
    let mut service = vec![0.0; NUM_TIMES + 1];
    let mut rates = vec![0.0; NUM_TIMES + 1];
    let bin = |time: f64| ((time / step).max(0.0) as usize).min(NUM_TIMES);
    for request in requests {
        let Some(first) = request.first_token else { continue };
        service[bin(first)] += WEIGHTS.0 * f64::from(request.input);
        let last = request.last_token.unwrap_or(first);
        let (from, to) = (bin(first), bin(last));
        let share = WEIGHTS.1 * f64::from(request.output) / (to - from + 1) as f64;
        rates[from] += share;
        if to < NUM_TIMES {
            rates[to + 1] -= share;
        }
    }
    let (mut total, mut rate) = (0.0, 0.0);
    (0..NUM_TIMES)
        .map(|index| {
            rate += rates[index];
            total += service[index] + rate;
            ((index + 1) as f64 * step, total)
        })
        .collect()
}

fn thinned(moments: &[Moment]) -> Vec<Moment> {
    let stride = moments.len().div_ceil(MAX_MOMENTS).max(1);
    let short = |moment: &Moment| Moment {
        at: short(moment.at),
        kv_use: short(moment.kv_use),
        prefill: short(moment.prefill),
        decode: short(moment.decode),
        step_ms: short(moment.step_ms),
        ..*moment
    };
    moments.iter().step_by(stride).map(short).collect()
}

/// Requests one after the other around the one that waited longest.
fn lives(requests: &[Served]) -> Vec<[f64; 4]> {
    let waited = |request: &Served| request.started.map_or(0.0, |start| start - request.arrival);
    let by_wait = |left: &usize, right: &usize| {
        waited(&requests[*left]).total_cmp(&waited(&requests[*right])).then(right.cmp(left))
    };
    let middle = (0..requests.len()).max_by(by_wait).unwrap_or(0);
    let from = middle.saturating_sub(NUM_LIVES / 2);
    let life = |request: &Served| {
        let started = request.started?;
        Some([request.arrival, started, request.first_token?, request.last_token?])
    };
    requests[from..].iter().filter_map(life).take(NUM_LIVES).collect()
}

/// A distribution from counts of values in ascending order.
fn of_counts(counts: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let total = counts.iter().map(|(_, count)| count).sum::<u64>().max(1) as f64;
    let stride = counts.len().div_ceil(200).max(1);
    let mut so_far = 0;
    let curve = counts.iter().enumerate().filter_map(|(index, (value, count))| {
        so_far += count;
        let is_kept = index % stride == 0 || index + 1 == counts.len();
        is_kept.then_some((*value, so_far as f64 / total))
    });
    curve.collect()
}

/// Six significant digits, which are plenty for a picture.
fn short(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

fn rounded(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().map(|&(x, y)| (short(x), short(y))).collect()
}
