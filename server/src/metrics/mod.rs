//! Prometheus metrics under vLLM's names, so that existing dashboards and routers read them.
//!
//! What the engine counts is copied from its snapshot at each scrape; what a request experiences
//! is observed as its events are read.

mod choices;
mod engine;

pub use choices::{Meters, Outcome};

use folio_engine::EngineHandle;
use folio_engine::types::ModelKind;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

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
    /// What the engine's own numbers are labelled with.
    engine_label: String,
}

impl Metrics {
    /// Metrics of a server of `models`. The engine's own numbers are labelled with the name of
    /// the first decoder (or encoder, if there is none).
    pub fn new(models: &Models) -> Result<Self, prometheus::Error> {
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
            engine_label: engine_label(models),
            registry,
        })
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, engine: &EngineHandle) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        let mut families = self.registry.gather();
        let snapshot = engine.metrics();
        families.extend(engine::families(
            &snapshot,
            engine.config(),
            &self.engine_label,
        ));
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

fn observe(histogram: &HistogramVec, model: &str, value: f64) {
    histogram.with_label_values(&[model]).observe(value);
}
