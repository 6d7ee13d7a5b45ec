//! The result file: vLLM's keys, in its order, then Folio's own.

use folio_sim::statistics::Interval;
use serde_json::{Map, Value, json};

use super::super::metrics::{Distribution, Summary};
use super::super::sample::{Class, Sample};
use super::Report;

/// What a run was told to do.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// When it began, as `20260131-235959`.
    pub date: String,
    /// vLLM's name of the API.
    pub backend: String,
    /// What the user calls the run.
    pub label: Option<String>,
    /// Which model.
    pub model_id: String,
    /// Whose tokenizer, if any.
    pub tokenizer_id: Option<String>,
    /// Requests that were to be sent.
    pub num_prompts: usize,
    /// The user's own keys.
    pub metadata: Vec<(String, String)>,
    /// `request_rate`, `burstiness`, `max_concurrency` and whatever else says how requests came.
    pub traffic: Map<String, Value>,
    /// What the requests were made of.
    pub dataset: Value,
}

/// The result of a run; with one entry for each of `samples` where these are wanted.
pub fn result(head: &Head, report: &Report, samples: Option<&[Sample]>) -> Map<String, Value> {
    let mut result = Map::new();
    let mut put = |key: &str, value: Value| {
        result.insert(key.to_owned(), value);
    };
    put("date", head.date.as_str().into());
    put("endpoint_type", head.backend.as_str().into());
    put("backend", head.backend.as_str().into());
    put("label", head.label.as_deref().into());
    put("model_id", head.model_id.as_str().into());
    put("tokenizer_id", head.tokenizer_id.as_deref().into());
    put("num_prompts", head.num_prompts.into());
    for (key, value) in &head.metadata {
        put(key, value.as_str().into());
    }
    result.extend(head.traffic.clone());
    if let Some(first) = report.summaries.first() {
        add_summary(&mut result, first, !report.objective.0.is_empty());
    }
    if let Some(samples) = samples {
        add_samples(&mut result, samples);
    }
    result.insert("dataset".to_owned(), head.dataset.clone());
    add_own(&mut result, report);
    result
}

/// vLLM's keys of one class.
fn add_summary(result: &mut Map<String, Value>, summary: &Summary, has_objective: bool) {
    let counts = &summary.counts;
    let mut put = |key: &str, value: Value| {
        result.insert(key.to_owned(), value);
    };
    put("duration", summary.duration.into());
    put("completed", counts.completed.into());
    put("failed", counts.failed.into());
    put("total_input_tokens", counts.input_tokens.into());
    let goodput =
        |num: usize| if has_objective { summary.rate(num as u64).into() } else { Value::Null };
    match summary.class {
        Class::Generation => {
            put("total_output_tokens", counts.output_tokens.into());
            put("request_throughput", summary.rate(counts.completed as u64).into());
            put("request_goodput", goodput(counts.good));
            put("request_goodput_sched", goodput(counts.good_sched));
            put("output_throughput", summary.rate(counts.output_tokens).into());
            let total = counts.input_tokens + counts.output_tokens;
            put("total_token_throughput", summary.rate(total).into());
            put("max_output_tokens_per_s", summary.max_output_tokens_per_s.into());
        }
        Class::Embeddings => {
            put("total_input_sequences", counts.texts.into());
            put("request_throughput", summary.rate(counts.completed as u64).into());
            put("request_goodput", goodput(counts.good));
            put("request_goodput_sched", goodput(counts.good_sched));
            put("input_sequence_throughput", summary.rate(counts.texts).into());
            put("total_token_throughput", summary.rate(counts.input_tokens).into());
        }
    }
    put("max_concurrent_requests", summary.max_concurrent_requests.into());
    for found in &summary.distributions {
        let (key, ..) = found.metric.names();
        put(&format!("mean_{key}_ms"), found.mean.into());
        put(&format!("median_{key}_ms"), found.median.into());
        put(&format!("std_{key}_ms"), found.std.into());
        for &(percent, value) in &found.percentiles {
            put(&format!("p{percent}_{key}_ms"), value.into());
        }
    }
}

/// vLLM's lists, in seconds; failed requests have zeros and the text of the error.
fn add_samples(result: &mut Map<String, Value>, samples: &[Sample]) {
    let mut put = |key: &str, of: &dyn Fn(&Sample) -> Value| {
        result.insert(key.to_owned(), samples.iter().map(of).collect());
    };
    put("input_lens", &|sample| sample.tokens.input.into());
    put("output_lens", &|sample| {
        if sample.is_success() { sample.tokens.output.into() } else { 0.into() }
    });
    put("ttfts", &|sample| sample.ttft().unwrap_or(0.0).into());
    put("itls", &|sample| sample.gaps().collect());
    put("latencies", &|sample| sample.e2el().into());
    put("start_times", &|sample| sample.times.sent.into());
    put("queue_times", &|sample| sample.queue().into());
    put("generated_texts", &|sample| sample.text.as_str().into());
    put("errors", &|sample| match &sample.failure {
        Some(failure) => failure.text.as_str().into(),
        None => "".into(),
    });
    put("scheduled_times", &|sample| sample.times.scheduled.into());
    put("classes", &|sample| sample.class.as_str().into());
}

/// What vLLM's files do not have.
fn add_own(result: &mut Map<String, Value>, report: &Report) {
    let mut put = |key: &str, value: Value| {
        result.insert(key.to_owned(), value);
    };
    put("client", json!({ "name": "folio bench", "version": env!("CARGO_PKG_VERSION") }));
    put("load", report.timing.to_json());
    put("stopped", report.stopped.as_deref().into());
    let (objective, name) = &report.objective;
    if !objective.is_empty() {
        let limits = json!({
            "ttft_ms": objective.ttft, "tpot_ms": objective.tpot, "e2el_ms": objective.e2el,
        });
        put("slo", json!({ "name": name, "limits": limits }));
    }
    let Some(first) = report.summaries.first() else { return };
    put("cached_input_tokens", first.counts.cached_tokens.into());
    put("uncounted_answers", first.counts.uncounted.into());
    put("chunks", first.counts.chunks.into());
    let errors = first
        .errors
        .iter()
        .map(|(kind, (num, text))| (kind.clone(), json!({ "num": num, "first": text })));
    put("errors_by_kind", Value::Object(errors.collect()));
    put("intervals", first.distributions.iter().map(intervals).collect::<Map<_, _>>().into());
    if report.summaries.len() > 1 {
        let classes = report.summaries.iter().map(|summary| {
            let mut class = Map::new();
            add_summary(&mut class, summary, !objective.is_empty());
            (summary.class.as_str().to_owned(), Value::Object(class))
        });
        put("by_class", Value::Object(classes.collect()));
    }
    if let Some(verification) = &report.verification {
        put("verify", verification.to_json());
    }
}

/// 95 % intervals of a distribution, by what they are of.
fn intervals(found: &Distribution) -> (String, Value) {
    let (key, ..) = found.metric.names();
    let mut entry = Map::new();
    entry.insert("num_samples".to_owned(), found.num.into());
    let percents = found.percentiles.iter().map(|(percent, _)| format!("p{percent}"));
    let names = ["mean".to_owned(), "median".to_owned()].into_iter().chain(percents);
    for (name, &Interval { low, high }) in names.zip(&found.intervals) {
        entry.insert(name, json!([low, high]));
    }
    (key.to_owned(), entry.into())
}

/// The name that vLLM would give the result file.
pub fn file_name(head: &Head) -> String {
    let get = |key: &str| head.traffic.get(key).filter(|value| !value.is_null());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let label = head.label.as_deref().unwrap_or(&head.backend);
    let rate = match (get("ramp_up_strategy"), get("ramp_up_start_rps"), get("ramp_up_end_rps")) {
        (Some(strategy), Some(start), Some(end)) => {
            format!("ramp-up-{}-{}qps-{}qps", text(strategy), text(start), text(end))
        }
        _ => format!("{}qps", get("request_rate").map_or_else(|| "inf".to_owned(), text)),
    };
    let bound = get("max_concurrency").map(|max| format!("-concurrency{max}")).unwrap_or_default();
    let model = head.model_id.rsplit('/').next().unwrap_or_default();
    format!("{label}-{rate}{bound}-{model}-{}.json", head.date)
}

/// The results in a file: one, or one a line as `--append-result` leaves them.
///
/// # Errors
/// What is wrong, with the line.
pub fn lines(text: &str) -> Result<Vec<Map<String, Value>>, String> {
    if let Ok(one) = serde_json::from_str(text) {
        return Ok(vec![one]);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))
        })
        .collect()
}
