//! Result files of runs, ours and those of other benchmarks that write vLLM's keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::digest::Digest;
use super::runs::Job;
use crate::statistics::Direction;

/// A number that runs are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Its key in result files.
    pub key: &'static str,
    /// What it is called, with its unit.
    pub label: &'static str,
    /// Which way is better.
    pub direction: Direction,
    /// Where it is looked at.
    pub role: Role,
}

/// Where a measure is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// In the first table.
    Headline,
    /// Among what may have got worse: tails, the slowest, the smallest, wasted work.
    Guard,
}

const fn lower(key: &'static str, label: &'static str, role: Role) -> Measure {
    Measure { key, label, direction: Direction::Lower, role }
}

const fn higher(key: &'static str, label: &'static str, role: Role) -> Measure {
    Measure { key, label, direction: Direction::Higher, role }
}

/// All measures, in the order of tables.
pub const MEASURES: [Measure; 21] = [
    lower("mean_ttft_ms", "TTFT mean (ms)", Role::Headline),
    lower("p50_ttft_ms", "TTFT p50 (ms)", Role::Guard),
    lower("p99_ttft_ms", "TTFT p99 (ms)", Role::Headline),
    lower("max_ttft_ms", "TTFT maximum (ms)", Role::Guard),
    lower("mean_tpot_ms", "TPOT mean (ms)", Role::Headline),
    lower("p99_tpot_ms", "TPOT p99 (ms)", Role::Guard),
    lower("p99_itl_ms", "ITL p99 (ms)", Role::Guard),
    lower("p99_stall_ms", "Longest stall of a request, p99 (ms)", Role::Guard),
    lower("mean_e2el_ms", "E2E latency mean (ms)", Role::Headline),
    lower("p99_e2el_ms", "E2E latency p99 (ms)", Role::Guard),
    lower("slowest_decile_e2el_ms", "E2E latency of the slowest tenth (ms)", Role::Guard),
    lower("mean_slowdown", "Slowdown mean", Role::Guard),
    lower("p99_slowdown", "Slowdown p99", Role::Guard),
    lower("smallest_tenant_ttft_ms", "TTFT of the smallest tenant, mean (ms)", Role::Guard),
    lower("worst_tenant_p99_ttft_ms", "TTFT p99 of the tenant worst off (ms)", Role::Guard),
    higher("jain_index_of_ttft", "Jain's index of tenants' TTFT", Role::Guard),
    higher("output_throughput", "Output throughput (tokens/s)", Role::Headline),
    higher("request_goodput", "Goodput (requests/s)", Role::Headline),
    higher("slo_attainment", "SLO attainment", Role::Guard),
    lower("recompute_tax", "Tokens computed again (share)", Role::Guard),
    higher("prefix_hit_rate", "Prefix cache hits (share)", Role::Guard),
];

/// What a report knows of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunResult {
    /// Its policy, or the label of the file.
    pub policy: String,
    /// What else is varied; empty where nothing is.
    pub variant: String,
    /// Requests a second; `None` where the file names no finite rate.
    pub rate: Option<f64>,
    /// The rate as a share of `fcfs`'s capacity, where the experiment says it so.
    pub load: Option<f64>,
    /// Its seed; 0 where the file names none.
    pub seed: u64,
    /// Whether it was simulated.
    pub is_simulated: bool,
    /// Numbers by key.
    pub measures: BTreeMap<String, f64>,
    /// Distributions and courses, where the file has them.
    pub digest: Option<Digest>,
}

/// Why a result file is not understood.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a result.
    #[error("{path} is not a result file: {reason}", path = path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl RunResult {
    /// Adds to the result of a run, as an object with vLLM's keys, what experiments and reports
    /// need: who ran it, and the digest.
    pub fn annotate(result: &mut Map<String, Value>, job: &Job, digest: &Digest) {
        result.insert(
            "experiment".to_owned(),
            json!({
                "label": job.label,
                "policy": job.policy,
                "variant": job.variant,
                "seed": job.seed,
                "rate": job.rate.map(|rate| rate.per_second),
                "load": job.rate.and_then(|rate| rate.load),
            }),
        );
        // Maps of numbers and lists of them have no value that JSON cannot hold.
        let digest = serde_json::to_value(digest).unwrap_or_default();
        result.insert("digest".to_owned(), digest);
    }

    /// Reads the result file at `path`.
    pub fn read(path: &Path) -> Result<Self, ResultError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ResultError::Read { path: path.to_owned(), source })?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let format = |reason: String| ResultError::Format { path: path.to_owned(), reason };
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format(error.to_string()))?;
        Self::from_value(&value, &stem.unwrap_or_default()).map_err(format)
    }

    /// The result that `value` holds; `name` is what it is called where it does not say itself.
    pub fn from_value(value: &Value, name: &str) -> Result<Self, String> {
        let object = value.as_object().ok_or("it is not a JSON object")?;
        let mut measures = BTreeMap::new();
        for (key, value) in object {
            if let Some(number) = value.as_f64() {
                measures.insert(key.clone(), number);
            }
        }
        if let Some(median) = measures.get("median_ttft_ms").copied() {
            measures.entry("p50_ttft_ms".to_owned()).or_insert(median);
        }
        if !measures.contains_key("mean_ttft_ms") && !object.contains_key("digest") {
            return Err("it has neither mean_ttft_ms nor a digest".to_owned());
        }
        let digest: Option<Digest> = match object.get("digest") {
            Some(digest) => {
                Some(Digest::deserialize_from(digest).map_err(|error| format!("digest: {error}"))?)
            }
            None => None,
        };
        // The digest's are exact and defined in one place.
        measures.extend(digest.iter().flat_map(|digest| digest.measures.clone()));
        let experiment = object.get("experiment").and_then(Value::as_object);
        let text = |key: &str| {
            let own = experiment.and_then(|experiment| experiment.get(key));
            own.or_else(|| object.get(key)).and_then(Value::as_str).filter(|text| !text.is_empty())
        };
        let number = |key: &str| experiment.and_then(|experiment| experiment.get(key)?.as_f64());
        let rate = object.get("request_rate").and_then(|rate| {
            rate.as_f64().or_else(|| rate.as_str()?.parse().ok()).filter(|rate| rate.is_finite())
        });
        let own = experiment.and_then(|experiment| experiment.get("label")?.as_str());
        let label =
            own.or_else(|| text("policy")).or_else(|| text("label")).or_else(|| text("backend"));
        let seed = experiment.and_then(|experiment| experiment.get("seed")).or(object.get("seed"));
        Ok(Self {
            policy: label.unwrap_or(name).to_owned(),
            variant: text("variant").unwrap_or_default().to_owned(),
            rate: number("rate").or(rate),
            load: number("load"),
            seed: seed.and_then(Value::as_u64).unwrap_or(0),
            is_simulated: object.get("simulated").and_then(Value::as_bool).unwrap_or(false),
            measures,
            digest,
        })
    }

    /// A measure's value.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.measures.get(key).copied()
    }
}

impl Digest {
    fn deserialize_from(value: &Value) -> Result<Self, serde_json::Error> {
        serde::Deserialize::deserialize(value)
    }
}
