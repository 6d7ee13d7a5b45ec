//! Outcomes as files: the JSON that vLLM's `bench serve` writes, so that scripts which read that
//! read this; and a table of the requests as CSV.
//!
//! Nothing of the wall clock is in them: the same run gives the same bytes.

use std::io::{self, Write};

use folio_engine::types::Nanos;
use serde_json::{Map, Value, json};

use crate::metrics::{Metric, Spread, TenantSummary, latency_fairness, service_fairness};
use crate::outcome::{End, Outcome, RequestOutcome};
use crate::workload::Slo;

/// The key `date` of every result: the origin of the virtual clock.
pub const VIRTUAL_DATE: &str = "19700101-000000";

/// What a result says about its run, and how much of the outcome it tells.
#[derive(Clone, Debug)]
pub struct Description {
    /// The simulated model.
    pub model: String,
    /// Where the workload is from: the name of a trace or a kind of load.
    pub workload: String,
    /// The cost model's name.
    pub cost: String,
    /// The policy as it was specified.
    pub policy: String,
    /// The router, of several engines.
    pub router: Option<String>,
    /// Key of all that was drawn.
    pub seed: u64,
    /// What the workload was made with.
    pub load: LoadDescription,
    /// What requests had to keep, where that was the same for all.
    pub slo: Slo,
    /// What is told of the latencies.
    pub selection: Selection,
    /// More to say, key by key.
    pub metadata: Vec<(String, String)>,
}

/// How requests came.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadDescription {
    /// Requests a second; infinite when all came at once; `None` where a trace says when, and the
    /// rate that comes to is told.
    pub rate: Option<f64>,
    /// Shape of the gaps between them: 1 for a Poisson process.
    pub burstiness: f64,
}

/// What a result tells of the latencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Which.
    pub metrics: Vec<Metric>,
    /// Percentiles of each, 0 to 100.
    pub percents: Vec<f64>,
    /// Whether each request is told of.
    pub requests: EachRequest,
}

impl Default for Selection {
    /// All metrics that vLLM knows, at the 99th percentile, and no single requests.
    fn default() -> Self {
        Self { metrics: Metric::ALL.to_vec(), percents: vec![99.0], requests: EachRequest::Leave }
    }
}

/// Whether single requests are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EachRequest {
    /// No.
    #[default]
    Leave,
    /// Yes, in lists as long as there are requests.
    Tell,
}

impl Default for Description {
    fn default() -> Self {
        Self {
            model: String::new(),
            workload: String::new(),
            cost: String::new(),
            policy: "fcfs".to_owned(),
            router: None,
            seed: 0,
            load: LoadDescription { rate: None, burstiness: 1.0 },
            slo: Slo::default(),
            selection: Selection::default(),
            metadata: Vec::new(),
        }
    }
}

impl Outcome {
    /// The result as vLLM's `bench serve` writes it, and what only a simulation knows after it.
    #[must_use]
    pub fn to_json(&self, description: &Description) -> Value {
        let mut result = Map::new();
        let mut put = |key: &str, value: Value| {
            result.insert(key.to_owned(), value);
        };
        put("date", json!(VIRTUAL_DATE));
        put("endpoint_type", json!("simulated"));
        put("backend", json!("folio-sim"));
        put("label", json!(description.workload));
        put("model_id", json!(description.model));
        put("tokenizer_id", json!(description.model));
        put("num_prompts", json!(self.requests.len()));
        for (key, value) in &description.metadata {
            put(key, json!(value));
        }
        let sent_at = description.load.rate.unwrap_or_else(|| self.offered_rate());
        put("request_rate", rate(sent_at));
        put("burstiness", json!(description.load.burstiness));
        put("max_concurrency", Value::Null);
        self.put_throughput(&mut put);
        if description.selection.requests == EachRequest::Tell {
            self.put_requests(&mut put);
        }
        for &metric in &description.selection.metrics {
            put_spread(metric, &self.spread(metric, &description.selection.percents), &mut put);
        }
        self.put_simulation(description, &mut put);
        Value::Object(result)
    }

    fn put_throughput(&self, put: &mut impl FnMut(&str, Value)) {
        let num_completed = self.answered().count();
        let num_input: u64 = self.answered().map(|request| u64::from(request.input)).sum();
        let num_output: u64 = self.answered().map(|request| u64::from(request.output)).sum();
        put("duration", json!(self.duration_s()));
        put("completed", json!(num_completed));
        put("failed", json!(self.requests.len() - num_completed));
        put("total_input_tokens", json!(num_input));
        put("total_output_tokens", json!(num_output));
        put("request_throughput", json!(self.per_second(num_completed as f64)));
        let goodput = self.num_good().map(|num| self.per_second(num as f64));
        put("request_goodput", json!(goodput));
        put("output_throughput", json!(self.per_second(num_output as f64)));
        put("total_token_throughput", json!(self.per_second((num_input + num_output) as f64)));
        put("max_output_tokens_per_s", json!(self.max_tokens_per_s as f64));
        put("max_concurrent_requests", json!(self.max_concurrent()));
    }

    /// One list a property, as long as there are requests; times in seconds.
    fn put_requests(&self, put: &mut impl FnMut(&str, Value)) {
        let list = |of: &dyn Fn(&RequestOutcome) -> Value| {
            Value::Array(self.requests.iter().map(of).collect())
        };
        let seconds = |ms: Option<f64>| json!(ms.unwrap_or(0.0) / 1e3);
        put("input_lens", list(&|request| json!(request.input)));
        put("output_lens", list(&|request| json!(request.output)));
        put("ttfts", list(&|request| seconds(Metric::Ttft.of_ms(request))));
        let gaps = self.tokens.iter().map(|at| {
            let gaps = at.windows(2).map(|pair| json!(in_seconds(pair[1].since(pair[0]))));
            Value::Array(gaps.collect())
        });
        put("itls", Value::Array(gaps.collect()));
        put("start_times", list(&|request| json!(in_seconds(request.times.arrival))));
        put("generated_texts", list(&|_| json!("")));
        put("errors", list(&|request| json!(error_of(request.end))));
        put("queue_times", list(&|request| seconds(Metric::Queue.of_ms(request))));
    }

    fn put_simulation(&self, description: &Description, put: &mut impl FnMut(&str, Value)) {
        let percents = &description.selection.percents;
        put("simulated", json!(true));
        put("cost_model", json!(description.cost));
        put("policy", json!(description.policy));
        put("router", json!(description.router));
        put("num_instances", json!(self.work.num_instances));
        put("seed", json!(description.seed));
        put("goodput", slo(description.slo));
        put("slo_attainment", json!(self.attainment()));
        put_spread(Metric::Queue, &self.spread(Metric::Queue, percents), put);
        put("max_itl_ms", json!(self.gaps.max_ms()));
        put("ends", self.ends());
        put("num_preemptions", json!(self.work.totals.num_preemptions));
        put("recompute_tax", json!(self.recompute_tax()));
        put("prefix_hit_rate", json!(self.prefix_hit_rate()));
        put("num_steps", json!(self.work.totals.num_steps));
        put("num_computed_tokens", json!(self.work.num_computed_tokens));
        put("num_wasted_tokens", json!(self.work.totals.num_wasted_tokens));
        put("num_overridden_plans", json!(self.work.totals.num_overridden_plans));
        put("device_utilization", json!(self.utilization()));
        put("arrival_index_of_dispersion", json!(self.arrivals_per_s.index_of_dispersion));
        let dropped = self.read.dropped.iter();
        put(
            "trace",
            json!({
                "num_read": self.read.num_read,
                "num_kept": self.read.num_kept,
                "dropped": dropped.map(|&(why, num)| (why.to_owned(), json!(num)))
                    .collect::<Map<_, _>>(),
            }),
        );
        let tenants = self.tenants(percents);
        put("jain_index", json!(service_fairness(&tenants)));
        put("jain_index_latency", json!(latency_fairness(&tenants)));
        put("tenants", tenants.iter().map(tenant).collect());
    }

    /// How many requests ended in which way.
    fn ends(&self) -> Value {
        let mut counts = Map::new();
        let all =
            [End::Complete, End::Cut, End::TimedOut, End::TooLong, End::QueueFull, End::Rejected];
        for end in all {
            let num = self.requests.iter().filter(|request| request.end == end).count();
            counts.insert(end.name().to_owned(), json!(num));
        }
        Value::Object(counts)
    }

    /// A row a request, with a line of names before: times in seconds from the start of the
    /// workload, latencies in milliseconds, empty where there is none.
    pub fn write_requests(&self, output: impl Write) -> io::Result<()> {
        let mut table = csv::Writer::from_writer(output);
        table.write_record([
            "record",
            "tenant",
            "arrival_s",
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "num_preemptions",
            "queue_ms",
            "ttft_ms",
            "tpot_ms",
            "e2el_ms",
            "max_itl_ms",
            "end",
            "slo",
        ])?;
        for request in &self.requests {
            let ms = |metric: Metric| {
                metric.of_ms(request).map_or_else(String::new, |time| format!("{time:.6}"))
            };
            table.write_record([
                request.record.to_string(),
                request.tenant.to_string(),
                format!("{:.9}", in_seconds(request.times.arrival)),
                request.input.to_string(),
                request.output.to_string(),
                request.num_cached.to_string(),
                request.num_preemptions.to_string(),
                ms(Metric::Queue),
                ms(Metric::Ttft),
                ms(Metric::Tpot),
                ms(Metric::E2el),
                format!("{:.6}", request.max_gap.0 as f64 * 1e-6),
                request.end.name().to_owned(),
                request.verdict.name().to_owned(),
            ])?;
        }
        table.flush()
    }

    /// A row a sample of the state over time, with a line of names before.
    pub fn write_series(&self, output: impl Write) -> io::Result<()> {
        let mut table = csv::Writer::from_writer(output);
        table.write_record([
            "time_s",
            "kv_use",
            "num_running",
            "num_waiting",
            "num_preemptions",
            "tokens_per_step",
            "num_generated_tokens",
        ])?;
        for sample in &self.series {
            table.write_record([
                format!("{:.9}", in_seconds(sample.at)),
                format!("{:.6}", sample.kv_use),
                sample.num_running.to_string(),
                sample.num_waiting.to_string(),
                sample.num_preemptions.to_string(),
                format!("{:.3}", sample.tokens_per_step),
                sample.num_generated.to_string(),
            ])?;
        }
        table.flush()
    }
}

/// Rounded to the nearest number there is, so that 18 ms are 0.018 s.
fn in_seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}

/// vLLM writes an infinite rate as a word.
fn rate(rate: f64) -> Value {
    if rate.is_finite() { json!(rate) } else { json!("inf") }
}

/// Limits in milliseconds, those that are set.
fn slo(slo: Slo) -> Value {
    let mut limits = Map::new();
    for (key, limit) in [("ttft", slo.ttft), ("tpot", slo.tpot), ("e2el", slo.e2el)] {
        if let Some(limit) = limit {
            limits.insert(key.to_owned(), json!(limit.0 as f64 * 1e-6));
        }
    }
    if limits.is_empty() { Value::Null } else { Value::Object(limits) }
}

fn error_of(end: End) -> &'static str {
    if end.is_success() { "" } else { end.name() }
}

fn put_spread(metric: Metric, spread: &Spread, put: &mut impl FnMut(&str, Value)) {
    let key = metric.key();
    put(&format!("mean_{key}_ms"), json!(spread.mean));
    put(&format!("median_{key}_ms"), json!(spread.median));
    put(&format!("std_{key}_ms"), json!(spread.std));
    for &(percent, value) in &spread.percentiles {
        put(&format!("p{percent}_{key}_ms"), json!(value));
    }
}

fn tenant(tenant: &TenantSummary) -> Value {
    let mut result = Map::new();
    let mut put = |key: &str, value: Value| {
        result.insert(key.to_owned(), value);
    };
    put("tenant", json!(tenant.tenant));
    put("num_requests", json!(tenant.num_requests));
    put("completed", json!(tenant.num_completed));
    put("total_input_tokens", json!(tenant.num_input_tokens));
    put("total_output_tokens", json!(tenant.num_output_tokens));
    put("service", json!(tenant.service()));
    put_spread(Metric::Ttft, &tenant.ttft, &mut put);
    put_spread(Metric::E2el, &tenant.e2el, &mut put);
    put("mean_norm_latency_ms", json!(tenant.normalized.mean));
    Value::Object(result)
}
