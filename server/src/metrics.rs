//! Prometheus metrics under vLLM's names, so that existing dashboards and routers read them.
//!
//! What the engine counts is copied from its snapshot at each scrape; what a request experiences
//! is observed as its events are read.

use folio_engine::thread::{EngineHandle, MetricsSnapshot, STEP_TOKEN_BUCKETS};
use folio_engine::types::{ModelKind, Nanos};
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::generate::End;
use crate::models::Models;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const SECONDS_TO_FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const SECONDS_PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const SECONDS_PER_REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const TOKENS_PER_REQUEST: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100_000.0, 200_000.0,
];

const MODEL: &[&str] = &["model_name"];

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    time_to_first_token: HistogramVec,
    inter_token_latency: HistogramVec,
    time_per_output_token: HistogramVec,
    e2e_latency: HistogramVec,
    queue_time: HistogramVec,
    prompt_tokens: HistogramVec,
    generation_tokens: HistogramVec,
    success: IntCounterVec,
    engine: EngineMetrics,
}

impl Metrics {
    /// Metrics of `engine`, whose own numbers are labelled with the name of its first decoder
    /// (or encoder, if there is none).
    pub fn new(engine: &EngineHandle, models: &Models) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, HistogramVec::new(options, MODEL)?)
        };
        let success = Opts::new(
            "vllm:request_success_total",
            "Choices that ended, by reason.",
        );
        Ok(Self {
            time_to_first_token: histogram(
                "vllm:time_to_first_token_seconds",
                "Time from arrival to the first token.",
                SECONDS_TO_FIRST_TOKEN,
            )?,
            inter_token_latency: histogram(
                "vllm:inter_token_latency_seconds",
                "Time between two tokens of a choice.",
                SECONDS_PER_TOKEN,
            )?,
            time_per_output_token: histogram(
                "vllm:request_time_per_output_token_seconds",
                "Mean time between two tokens of a choice.",
                SECONDS_PER_TOKEN,
            )?,
            e2e_latency: histogram(
                "vllm:e2e_request_latency_seconds",
                "Time from arrival to the end.",
                SECONDS_PER_REQUEST,
            )?,
            queue_time: histogram(
                "vllm:request_queue_time_seconds",
                "Time from arrival to the first step.",
                SECONDS_PER_REQUEST,
            )?,
            prompt_tokens: histogram(
                "vllm:request_prompt_tokens",
                "Tokens of a prompt.",
                TOKENS_PER_REQUEST,
            )?,
            generation_tokens: histogram(
                "vllm:request_generation_tokens",
                "Tokens generated for a choice.",
                TOKENS_PER_REQUEST,
            )?,
            success: register(
                &registry,
                IntCounterVec::new(success, &["model_name", "finished_reason"])?,
            )?,
            engine: EngineMetrics::new(&registry, engine, &engine_label(models))?,
            registry,
        })
    }

    /// Counts a prompt that was submitted.
    pub fn count_prompt(&self, model: &str, num_tokens: u64) {
        let histogram = self.prompt_tokens.with_label_values(&[model]);
        histogram.observe(num_tokens as f64);
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, engine: &EngineHandle) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        let families = self.engine.update(&engine.metrics(), || self.registry.gather());
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The name that the engine's own numbers are labelled with.
fn engine_label(models: &Models) -> String {
    models
        .first_of(ModelKind::Decoder)
        .or_else(|| models.first_of(ModelKind::Encoder))
        .map_or_else(String::new, |model| model.name().to_owned())
}

fn register<C>(registry: &Registry, collector: C) -> Result<C, prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// How a choice ended, for its metrics.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// By itself, at this time.
    Finished(End, Nanos),
    /// Its client went away.
    Aborted,
    /// The engine failed.
    Error,
}

/// Observes one choice.
#[derive(Clone, Copy, Debug)]
pub struct ChoiceMeter {
    submitted: Nanos,
    first_token: Option<Nanos>,
    last_token: Nanos,
    num_tokens: u32,
}

impl ChoiceMeter {
    /// A choice that was submitted at `submitted`.
    pub fn start(submitted: Nanos) -> Self {
        Self {
            submitted,
            first_token: None,
            last_token: submitted,
            num_tokens: 0,
        }
    }

    /// Tokens were read at `now`, all at once.
    pub fn read_tokens(&mut self, metrics: &Metrics, model: &str, num_tokens: u32, now: Nanos) {
        if num_tokens == 0 {
            return;
        }
        if self.first_token.is_some() {
            let gap = now.since(self.last_token).as_secs_f64() / f64::from(num_tokens);
            let histogram = metrics.inter_token_latency.with_label_values(&[model]);
            for _ in 0..num_tokens {
                histogram.observe(gap);
            }
        }
        self.first_token.get_or_insert(now);
        self.last_token = now;
        self.num_tokens += num_tokens;
    }

    /// The choice ended.
    pub fn end(self, metrics: &Metrics, model: &str, outcome: Outcome) {
        let reason = match outcome {
            Outcome::Finished(end, now) => {
                self.observe_times(metrics, model, (end, now));
                end.reason.as_str()
            }
            Outcome::Aborted => "abort",
            Outcome::Error => "error",
        };
        metrics
            .generation_tokens
            .with_label_values(&[model])
            .observe(f64::from(self.num_tokens));
        metrics.success.with_label_values(&[model, reason]).inc();
    }

    /// The engine's own times where there are any: they do not depend on how fast a client reads.
    fn observe_times(&self, metrics: &Metrics, model: &str, (end, now): (End, Nanos)) {
        let observe = |histogram: &HistogramVec, time: Nanos| {
            let histogram = histogram.with_label_values(&[model]);
            histogram.observe(time.as_secs_f64());
        };
        let mut first_token = self.first_token.unwrap_or(now);
        if let Some(stats) = end.stats {
            first_token = stats.first_token;
            let queued = stats.first_scheduled.since(stats.arrival);
            observe(&metrics.queue_time, queued);
        }
        observe(
            &metrics.time_to_first_token,
            first_token.since(self.submitted),
        );
        observe(&metrics.e2e_latency, now.since(self.submitted));
        if let Some(num_gaps) = self.num_tokens.checked_sub(1).filter(|&gaps| gaps > 0) {
            let mean = now.since(first_token).as_secs_f64() / f64::from(num_gaps);
            let histogram = metrics.time_per_output_token.with_label_values(&[model]);
            histogram.observe(mean);
        }
    }
}
