//! The file of an experiment: what is compared with what, under which loads, how often.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Runs of one experiment at the most; more is taken for a mistake.
pub const MAX_RUNS: usize = 10_000;

/// An experiment as its file says it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Experiment {
    /// Heading of its report.
    pub title: String,
    /// What is varied.
    pub sweep: Sweep,
    /// What all runs share: the flags of `folio sim`, by name.
    #[serde(default)]
    pub run: toml::Table,
    /// When a difference counts.
    #[serde(default)]
    pub judge: JudgeFile,
}

/// What is varied: every combination of these is run.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sweep {
    /// Policies, as `--policy` takes them.
    pub policies: Vec<String>,
    /// The one that the others are compared with; the first where it is left out. With one policy
    /// and options, values of options are compared: `max-num-seqs=64`.
    pub baseline: Option<String>,
    /// Request rates in requests a second.
    #[serde(default)]
    pub rates: Vec<f64>,
    /// Request rates as shares of what `fcfs` can do when everything waits at the start.
    #[serde(default)]
    pub loads: Vec<f64>,
    /// How requests come at these rates.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Seeds, or how many.
    #[serde(default)]
    pub seeds: Seeds,
    /// Other flags of `folio sim`, each with the values that it takes in turn.
    #[serde(default)]
    pub options: BTreeMap<String, Vec<toml::Value>>,
}

/// How requests come at a rate.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// At random, anew for each seed (`--request-rate`).
    #[default]
    Drawn,
    /// As in the trace, faster or slower (`--rate`); then the seeds change little or nothing.
    Trace,
}

impl Arrivals {
    /// The flag that says so.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Drawn => "request-rate",
            Self::Trace => "rate",
        }
    }
}

/// Which seeds.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Seeds {
    /// This many, from 1 on.
    Count(u32),
    /// These.
    Each(Vec<u64>),
}

impl Default for Seeds {
    /// Five: the fewest that an interval can be trusted from.
    fn default() -> Self {
        Self::Count(5)
    }
}

impl Seeds {
    /// The seeds.
    pub fn list(&self) -> Vec<u64> {
        match self {
            Self::Count(count) => (1..=u64::from(*count)).collect(),
            Self::Each(seeds) => seeds.clone(),
        }
    }
}

/// When a difference counts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct JudgeFile {
    /// Differences below this share of the baseline do not matter.
    pub margin: f64,
    /// Confidence of the intervals.
    pub confidence: f64,
    /// Resamplings for an interval.
    pub resamples: u32,
}

impl Default for JudgeFile {
    fn default() -> Self {
        Self { margin: 0.01, confidence: 0.95, resamples: 10_000 }
    }
}

/// What is wrong with the file of an experiment.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// It cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or says what no experiment has.
    #[error("{path}: {message}", path = path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A value is out of its range.
    #[error("{path}: {key} = {value}: {limit}", path = path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key, with its tables.
        key: String,
        /// What it says.
        value: String,
        /// What it must be.
        limit: String,
    },
}

impl Experiment {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ExperimentError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ExperimentError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads `text`, the contents of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ExperimentError> {
        let experiment: Self = toml::from_str(text).map_err(|error| ExperimentError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        experiment.check().map_err(|(key, value, limit)| ExperimentError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            value,
            limit: limit.to_owned(),
        })?;
        Ok(experiment)
    }

    /// What the others are compared with: a policy, or a variant where there is one policy only.
    pub fn baseline(&self) -> String {
        let first = || self.compared().into_iter().next().unwrap_or_default();
        self.sweep.baseline.clone().unwrap_or_else(first)
    }

    /// Whether values of options are compared with each other, under the only policy.
    pub fn compares_options(&self) -> bool {
        self.sweep.policies.len() == 1 && !self.sweep.options.is_empty()
    }

    /// What is compared with each other.
    fn compared(&self) -> Vec<String> {
        if self.compares_options() {
            self.variants().into_iter().map(|(name, _)| name).collect()
        } else {
            self.sweep.policies.clone()
        }
    }

    fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let sweep = &self.sweep;
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        if sweep.policies.is_empty() {
            return Err(("sweep.policies", "[]".to_owned(), "must name at least one policy"));
        }
        if let Some(twice) = repeated(&sweep.policies) {
            return Err(("sweep.policies", format!("{twice:?}"), "must name each policy once"));
        }
        if !sweep.rates.is_empty() && !sweep.loads.is_empty() {
            let value = format!("{:?}", sweep.loads);
            return Err(("sweep.loads", value, "cannot stand beside sweep.rates"));
        }
        if let Some(rate) = sweep.rates.iter().find(|rate| !positive(rate)) {
            return Err(("sweep.rates", rate.to_string(), "must be requests a second above 0"));
        }
        if let Some(load) = sweep.loads.iter().find(|load| !positive(load) || **load > 100.0) {
            let limit = "must be shares of fcfs's capacity, above 0 and at most 100";
            return Err(("sweep.loads", load.to_string(), limit));
        }
        let seeds = sweep.seeds.list();
        if seeds.is_empty() || repeated(&seeds).is_some() {
            let value = format!("{seeds:?}");
            return Err(("sweep.seeds", value, "must be a number from 1, or different seeds"));
        }
        self.check_flags()?;
        let baseline = self.baseline();
        if !self.compared().contains(&baseline) {
            let limit = if self.compares_options() {
                "must be a value of sweep.options, as FLAG=VALUE"
            } else {
                "must be one of sweep.policies"
            };
            return Err(("sweep.baseline", format!("{baseline:?}"), limit));
        }
        self.check_judge()?;
        let num_rates = (sweep.rates.len() + sweep.loads.len()).max(1);
        let num_variants = sweep.options.values().map(Vec::len).product::<usize>();
        let num_runs = sweep.policies.len() * num_rates * seeds.len() * num_variants;
        if num_runs > MAX_RUNS {
            return Err(("sweep", format!("{num_runs} runs"), "must be at most 10,000 runs"));
        }
        Ok(())
    }

    fn check_flags(&self) -> Result<(), (&'static str, String, &'static str)> {
        const VARIED: [&str; 3] = ["policy", "seed", "scheduling-policy"];
        const RATES: [&str; 3] = ["rate", "request-rate", "speed"];
        if let Some(key) = self.run.keys().find(|key| VARIED.contains(&key.as_str())) {
            let limit = "is varied: name it under sweep.policies or sweep.seeds";
            return Err(("run", format!("{key:?}"), limit));
        }
        let varies_rate = !(self.sweep.rates.is_empty() && self.sweep.loads.is_empty());
        let rate = RATES.into_iter().find(|rate| self.run.contains_key(*rate));
        if let (true, Some(rate)) = (varies_rate, rate) {
            let limit = "is varied by sweep.rates or sweep.loads";
            return Err(("run", format!("{rate:?}"), limit));
        }
        for (key, value) in &self.run {
            if words(value).is_none() {
                let limit = "must be text, a number, true, or a list of these";
                return Err(("run", format!("{key} = {value:?}"), limit));
            }
        }
        for (key, values) in &self.sweep.options {
            if VARIED.contains(&key.as_str())
                || RATES.contains(&key.as_str())
                || self.run.contains_key(key)
            {
                let limit = "must not be set elsewhere in the file too";
                return Err(("sweep.options", format!("{key:?}"), limit));
            }
            if values.is_empty() || values.iter().any(|value| words(value).is_none()) {
                let limit = "must be a list of texts, numbers or true";
                return Err(("sweep.options", format!("{key} = {values:?}"), limit));
            }
        }
        Ok(())
    }

    fn check_judge(&self) -> Result<(), (&'static str, String, &'static str)> {
        let JudgeFile { margin, confidence, resamples } = self.judge;
        if !(0.0..1.0).contains(&margin) {
            return Err(("judge.margin", margin.to_string(), "must be from 0 to below 1"));
        }
        if !(0.5..1.0).contains(&confidence) {
            return Err((
                "judge.confidence",
                confidence.to_string(),
                "must be from 0.5 to below 1",
            ));
        }
        if !(100..=1_000_000).contains(&resamples) {
            return Err(("judge.resamples", resamples.to_string(), "must be 100 to 1,000,000"));
        }
        Ok(())
    }
}

/// The values of a flag as words of a command line: none for `true`, which stands for the bare
/// flag; `None` for what no flag can take.
pub(super) fn words(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(true) => Some(Vec::new()),
        toml::Value::Array(values) if !values.is_empty() => {
            let words: Option<Vec<_>> = values.iter().map(words).collect();
            words.map(|words| words.into_iter().flatten().collect())
        }
        _ => None,
    }
}

fn repeated<T: PartialEq + Clone>(values: &[T]) -> Option<T> {
    let twice = values.iter().enumerate().find(|(index, value)| values[..*index].contains(value));
    twice.map(|(_, value)| value.clone())
}
