//! The engine's own numbers, made into metric families at each scrape.
//!
//! What the engine counts by model is labelled by model, the first decoder before all others:
//! routers that read but one value of a family take the first. What models share, such as the KV
//! pool, is labelled with the model that uses it.

use folio_engine::sched::{Gauges, ModelGauges, TOKEN_GAP_BUCKETS};
use folio_engine::thread::{MetricsSnapshot, STEP_TOKEN_BUCKETS};
use folio_engine::types::{EngineConfig, ModelKind, PrefixCaching};
use prometheus::proto::{LabelPair, MetricFamily};

use super::families::{Counts, counter, gauge, histogram, pair};
use super::{ENGINE, seconds};
use crate::models::Models;
use crate::service::unix_seconds;

/// What the engine's numbers are labelled with.
#[derive(Debug)]
pub(super) struct Names {
    /// Name and index in the engine of each model, the first decoder first.
    models: Vec<(String, usize)>,
    /// Name of the model that what they share is labelled with.
    shared: String,
}

impl Names {
    pub(super) fn new(models: &Models) -> Self {
        let first = models.first_of(ModelKind::Decoder).map(|model| model.id.index());
        let mut names: Vec<_> =
            models.all().iter().map(|model| (model.name().to_owned(), model.id.index())).collect();
        names.sort_by_key(|&(_, index)| (Some(index) != first, index));
        let shared = names.first().map_or_else(String::new, |(name, _)| name.clone());
        Self { models: names, shared }
    }

    /// Labels and value of each model.
    fn each<T>(
        &self,
        snapshot: &MetricsSnapshot,
        value: impl Fn(&ModelGauges) -> T,
    ) -> Vec<(Vec<LabelPair>, T)> {
        let known = self.models.iter().filter_map(|(name, index)| {
            let gauges = snapshot.models.get(*index)?;
            Some((labels(name), value(gauges)))
        });
        known.collect()
    }

    /// Labels and value of what models share.
    pub(super) fn all<T>(&self, value: T) -> Vec<(Vec<LabelPair>, T)> {
        vec![(labels(&self.shared), value)]
    }
}

/// All families of `snapshot`.
pub(super) fn families(
    snapshot: &MetricsSnapshot,
    config: &EngineConfig,
    names: &Names,
) -> Vec<MetricFamily> {
    let mut families = queues(snapshot, names);
    families.extend(tokens(snapshot, names));
    families.extend(cache(&snapshot.gauges, config, names));
    families.extend(own(snapshot, names));
    families
}

/// Who runs and who waits.
fn queues(snapshot: &MetricsSnapshot, names: &Names) -> Vec<MetricFamily> {
    let running = names.each(snapshot, |model| f64::from(model.num_running));
    let waiting = names.each(snapshot, |model| f64::from(model.num_waiting));
    let by_reason = names.models.iter().filter_map(|(name, index)| {
        let model = snapshot.models.get(*index)?;
        let num_deferred = model.num_deferred.min(model.num_waiting);
        Some([("capacity", model.num_waiting - num_deferred), ("deferred", num_deferred)].map(
            |(reason, value)| {
                let labels =
                    vec![pair("engine", ENGINE), pair("model_name", name), pair("reason", reason)];
                (labels, f64::from(value))
            },
        ))
    });
    let awake = [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)];
    let awake = awake.map(|(state, value)| {
        let (engine, model) = (pair("engine", ENGINE), pair("model_name", &names.shared));
        (vec![engine, model, pair("sleep_state", state)], value)
    });
    vec![
        gauge("vllm:num_requests_running", "Sequences that take part in steps.", running),
        gauge("vllm:num_requests_waiting", "Sequences that wait.", waiting),
        gauge(
            "vllm:num_requests_waiting_by_reason",
            "Sequences that wait for capacity, or (deferred) for another to compute their prefix.",
            by_reason.flatten().collect(),
        ),
        gauge("vllm:engine_sleep_state", "Always awake.", awake.to_vec()),
        lora_info(),
    ]
}

/// There are no adapters; routers that look for them find an empty list.
fn lora_info() -> MetricFamily {
    let labels = vec![
        pair("max_lora", "0"),
        pair("running_lora_adapters", ""),
        pair("waiting_lora_adapters", ""),
    ];
    let now = unix_seconds() as f64;
    gauge("vllm:lora_requests_info", "No LoRA adapters; the time.", vec![(labels, now)])
}

/// What is computed.
fn tokens(snapshot: &MetricsSnapshot, names: &Names) -> Vec<MetricFamily> {
    let gap_bounds = TOKEN_GAP_BUCKETS.map(seconds);
    let step_bounds = STEP_TOKEN_BUCKETS.map(f64::from);
    let gaps = names.models.iter().filter_map(|(name, index)| {
        let gaps = &snapshot.models.get(*index)?.token_gaps;
        let (buckets, sum) = (&gaps.counts[..], seconds(gaps.total));
        Some((labels(name), Counts { bounds: &gap_bounds, buckets, sum }))
    });
    let steps = Counts {
        bounds: &step_bounds,
        buckets: &snapshot.step_token_counts,
        sum: snapshot.num_step_tokens as f64,
    };
    vec![
        counter(
            "vllm:prompt_tokens_total",
            "Tokens of prompts that were finished, cached ones included.",
            names.each(snapshot, |model| model.num_prompt_tokens),
        ),
        counter(
            "vllm:prompt_tokens_cached_total",
            "Those among them that were taken from the prefix cache.",
            names.each(snapshot, |model| model.num_cached_tokens),
        ),
        counter(
            "vllm:generation_tokens_total",
            "Tokens generated.",
            names.each(snapshot, |model| model.num_generated_tokens),
        ),
        histogram(
            "vllm:inter_token_latency_seconds",
            "Time between two tokens of a choice, when the engine has them.",
            gaps.collect(),
        ),
        histogram("vllm:iteration_tokens_total", "Tokens computed by a step.", names.all(steps)),
    ]
}

/// The KV pool and what is found again in it.
fn cache(gauges: &Gauges, config: &EngineConfig, names: &Names) -> Vec<MetricFamily> {
    let usage = f64::from(gauges.num_used_blocks) / f64::from(gauges.num_blocks.max(1));
    vec![
        gauge(
            "vllm:kv_cache_usage_perc",
            "Share of the KV blocks in use; 1 is all.",
            names.all(usage),
        ),
        counter(
            "vllm:num_preemptions_total",
            "Sequences that lost their blocks.",
            names.all(gauges.totals.num_preemptions),
        ),
        counter(
            "vllm:prefix_cache_queries_total",
            "Tokens looked up in the prefix cache.",
            names.all(gauges.prefix.num_queried_tokens),
        ),
        counter(
            "vllm:prefix_cache_hits_total",
            "Tokens found in the prefix cache.",
            names.all(gauges.prefix.num_hit_tokens),
        ),
        cache_config(config, names),
    ]
}

/// Settings as labels of a constant, where routers look for the size of the cache.
fn cache_config(config: &EngineConfig, names: &Names) -> MetricFamily {
    let caching = match config.prefix_caching {
        PrefixCaching::On => "True",
        PrefixCaching::Off => "False",
    };
    let blocks = config.num_blocks.saturating_sub(1);
    let labels = vec![
        pair("block_size", &config.block_size.to_string()),
        pair("enable_prefix_caching", caching),
        pair("engine", ENGINE),
        pair("model_name", &names.shared),
        pair("num_cpu_blocks", &config.num_host_blocks.to_string()),
        pair("num_gpu_blocks", &blocks.to_string()),
    ];
    gauge("vllm:cache_config_info", "Settings of the KV cache.", vec![(labels, 1.0)])
}

/// What vLLM has no name for.
fn own(snapshot: &MetricsSnapshot, names: &Names) -> Vec<MetricFamily> {
    let gauges = &snapshot.gauges;
    let totals = &gauges.totals;
    let mut families: Vec<_> = [
        ("folio:steps_total", "Steps computed.", totals.num_steps),
        (
            "folio:prefill_tokens_total",
            "Positions computed of prompts and of what preemption dropped, embeddings included.",
            totals.num_prefill_tokens,
        ),
        (
            "folio:wasted_tokens_total",
            "Positions computed for sequences that had ended while the step was in flight.",
            totals.num_wasted_tokens,
        ),
        (
            "folio:overridden_plans_total",
            "Steps that the policy left empty although something could be computed.",
            totals.num_overridden_plans,
        ),
        (
            "folio:dropped_tokens_total",
            "Computed tokens that preemption dropped.",
            totals.num_dropped_tokens,
        ),
        (
            "folio:swapped_out_tokens_total",
            "Computed tokens that preemption saved in host memory.",
            totals.num_swapped_out_tokens,
        ),
        (
            "folio:swapped_in_tokens_total",
            "Computed tokens that were brought back from host memory.",
            totals.num_swapped_in_tokens,
        ),
    ]
    .into_iter()
    .map(|(name, help, value)| counter(name, help, names.all(value)))
    .collect();
    let usage = f64::from(gauges.num_used_host_blocks) / f64::from(gauges.num_host_blocks.max(1));
    families.push(gauge(
        "folio:host_cache_usage_ratio",
        "Share of the blocks of host memory in use; 1 is all.",
        names.all(usage),
    ));
    families
}

fn labels(model: &str) -> Vec<LabelPair> {
    vec![pair("engine", ENGINE), pair("model_name", model)]
}
