//! The engine's own numbers, made into metric families at each scrape.

use folio_engine::thread::{MetricsSnapshot, STEP_TOKEN_BUCKETS};
use folio_engine::types::{EngineConfig, PrefixCaching};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// All families of `snapshot`, labelled with `model`.
pub(super) fn families(
    snapshot: &MetricsSnapshot,
    config: &EngineConfig,
    model: &str,
) -> Vec<MetricFamily> {
    let gauges = &snapshot.gauges;
    let usage = f64::from(gauges.num_used_blocks) / f64::from(gauges.num_blocks.max(1));
    let gauge =
        |name, help, value| family(name, help, vec![gauge_metric(vec![label(model)], value)]);
    let counter = |name, help, value| counter_family(name, help, (model, value));
    vec![
        gauge(
            "vllm:num_requests_running",
            "Sequences that take part in steps.",
            f64::from(gauges.num_running),
        ),
        gauge(
            "vllm:num_requests_waiting",
            "Sequences that wait.",
            f64::from(gauges.num_waiting),
        ),
        gauge(
            "vllm:kv_cache_usage_perc",
            "Share of the KV blocks in use; 1 is all.",
            usage,
        ),
        counter(
            "vllm:num_preemptions_total",
            "Sequences that lost their blocks.",
            gauges.totals.num_preemptions,
        ),
        counter(
            "vllm:prompt_tokens_total",
            "Prompt tokens processed.",
            gauges.totals.num_prompt_tokens,
        ),
        counter(
            "vllm:generation_tokens_total",
            "Tokens generated.",
            gauges.totals.num_generated_tokens,
        ),
        counter(
            "vllm:prefix_cache_queries_total",
            "Tokens looked up in the prefix cache.",
            gauges.prefix.num_queried_tokens,
        ),
        counter(
            "vllm:prefix_cache_hits_total",
            "Tokens found in the prefix cache.",
            gauges.prefix.num_hit_tokens,
        ),
        counter(
            "folio:failed_steps_total",
            "Steps that failed on the device.",
            snapshot.num_failed_steps,
        ),
        step_tokens(snapshot, model),
        cache_config(config, model),
    ]
}

fn step_tokens(snapshot: &MetricsSnapshot, model: &str) -> MetricFamily {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::new();
    for (bound, count) in STEP_TOKEN_BUCKETS.iter().zip(snapshot.step_token_counts) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::from(*bound));
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    histogram.set_sample_count(snapshot.step_token_counts.iter().sum());
    histogram.set_sample_sum(snapshot.num_step_tokens as f64);
    let mut metric = Metric::from_label(vec![label(model)]);
    metric.set_histogram(histogram);
    let help = "Tokens computed by a step.";
    let mut family = family("vllm:iteration_tokens_total", help, vec![metric]);
    family.set_field_type(MetricType::HISTOGRAM);
    family
}

/// Settings as labels of a constant, where routers look for the size of the cache.
fn cache_config(config: &EngineConfig, model: &str) -> MetricFamily {
    let caching = match config.prefix_caching {
        PrefixCaching::On => "True",
        PrefixCaching::Off => "False",
    };
    let blocks = config.num_blocks.saturating_sub(1);
    let labels = vec![
        pair("block_size", &config.block_size.to_string()),
        pair("enable_prefix_caching", caching),
        label(model),
        pair("num_gpu_blocks", &blocks.to_string()),
    ];
    let help = "Settings of the KV cache.";
    family(
        "vllm:cache_config_info",
        help,
        vec![gauge_metric(labels, 1.0)],
    )
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.set_metric(metrics);
    family
}

fn counter_family(name: &str, help: &str, (model, value): (&str, u64)) -> MetricFamily {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(vec![label(model)]);
    metric.set_counter(counter);
    let mut family = family(name, help, vec![metric]);
    family.set_field_type(MetricType::COUNTER);
    family
}

fn gauge_metric(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn label(model: &str) -> LabelPair {
    pair("model_name", model)
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
