//! Two sets of results side by side: faster, slower, the same, or nobody can tell.
//!
//! Runs are compared in pairs, in their order, with an interval of the mean difference. Intervals
//! hold for all rows together: two equal servers get a verdict in one of twenty tables, not in one
//! of twenty rows. Of one run each, requests are compared in pairs where the files have them, which
//! says nothing about how runs differ. Wrong answers are compared with nothing.

use std::fmt::Write as _;

use folio_sim::statistics::{Bootstrap, Comparison, Direction, Judge, Verdict};
use serde_json::{Map, Value, json};

use super::error::BenchError;
use super::report::lines;

/// Fewest pairs of runs that a verdict is made of: resampling fewer has too few outcomes.
const MIN_RUNS: usize = 5;
/// Share of tables of two equal servers that may have a verdict.
const MAX_ERROR: f64 = 0.05;
/// Measures that are compared where nothing else is asked for, as they are called in result files.
pub const HEADLINES: [&str; 8] = [
    "output_throughput",
    "input_sequence_throughput",
    "request_goodput_sched",
    "mean_ttft_sched_ms",
    "p99_ttft_sched_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "mean_e2el_sched_ms",
];
/// What two runs must share for their figures to be comparable.
const SHARED: [&str; 6] =
    ["num_prompts", "request_rate", "burstiness", "max_concurrency", "users", "dataset"];

/// Results that belong together: repetitions of one run.
#[derive(Clone, Debug)]
pub struct Side {
    /// What to call it.
    pub name: String,
    /// Its results.
    pub runs: Vec<Map<String, Value>>,
}

/// One measure of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is called in result files.
    pub key: String,
    /// What was compared.
    pub by: By,
    /// What came of it.
    pub comparison: Comparison,
}

/// What was compared in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Runs.
    Runs,
    /// Requests of one run each.
    Requests,
}

/// A comparison of two sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Their names, baseline first.
    pub names: [String; 2],
    /// The measures.
    pub rows: Vec<Row>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

impl Side {
    /// The results in a file, one or one a line.
    ///
    /// # Errors
    /// [`BenchError::File`] for what has no results, or some whose answers were found wrong.
    pub fn read(path: &std::path::Path) -> Result<Self, BenchError> {
        let fail = |error: String| BenchError::file(path, error);
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let runs = lines(&text).map_err(fail)?;
        if runs.is_empty() {
            return Err(fail("has no results".to_owned()));
        }
        Self { name: path.display().to_string(), runs }.verified()
    }

    /// Itself, unless answers of a run were found wrong.
    ///
    /// # Errors
    /// [`BenchError::Server`] then.
    pub fn verified(self) -> Result<Self, BenchError> {
        let is_wrong =
            |run: &Map<String, Value>| run.get("verify").is_some_and(|v| v["passed"] == false);
        match self.runs.iter().position(is_wrong) {
            None => Ok(self),
            Some(index) => {
                let message = format!(
                    "{}: answers of run {} are not verified: its figures are compared with nothing",
                    self.name,
                    index + 1
                );
                Err(BenchError::Server(message))
            }
        }
    }

    /// Values of `key`, one a run; `None` if a run lacks it.
    fn values(&self, key: &str) -> Option<Vec<f64>> {
        self.runs.iter().map(|run| run.get(key)?.as_f64()).collect()
    }

    /// Values of requests of the one run there is.
    fn requests(&self, key: &str) -> Option<Vec<f64>> {
        let [run] = self.runs.as_slice() else { return None };
        let list = |key: &str| run.get(key)?.as_array().cloned();
        let queue = || list("queue_times");
        let seconds = |values: Vec<Value>| values.iter().map(Value::as_f64).collect();
        let base: Option<Vec<f64>> = match key {
            "ttft" | "ttft_sched" => seconds(list("ttfts")?),
            "e2el" | "e2el_sched" => seconds(list("latencies")?),
            _ => None,
        };
        let add: Vec<f64> = if key.ends_with("_sched") {
            queue()?.iter().map(Value::as_f64).collect::<Option<_>>()?
        } else {
            vec![0.0; base.as_ref()?.len()]
        };
        Some(base?.iter().zip(add).map(|(base, add)| 1e3 * (base + add)).collect())
    }
}

/// Compares the measures `keys` of `candidate` with those of `baseline`, as far as both have them.
pub fn compare(baseline: &Side, candidate: &Side, keys: &[String], judge: &Judge) -> Table {
    let has_values = |key: &&String| {
        let sides = [baseline, candidate];
        sides.iter().all(|side| side.values(key).is_some_and(|values| !values.is_empty()))
    };
    let keys: Vec<&String> = keys.iter().filter(has_values).collect();
    // Bonferroni's bound.
    let confidence = 1.0 - MAX_ERROR / keys.len().max(1) as f64;
    let judge = Judge { bootstrap: Bootstrap { confidence, ..judge.bootstrap }, ..*judge };
    let row = |key: &&String| {
        let row = by_requests(baseline, candidate, key, &judge);
        row.or_else(|| by_runs(baseline, candidate, key, &judge))
    };
    Table {
        names: [baseline.name.clone(), candidate.name.clone()],
        rows: keys.iter().filter_map(row).collect(),
        notes: notes(baseline, candidate),
    }
}

fn by_runs(baseline: &Side, candidate: &Side, key: &str, judge: &Judge) -> Option<Row> {
    let (mut before, mut after) = (baseline.values(key)?, candidate.values(key)?);
    let num = before.len().min(after.len());
    before.truncate(num);
    after.truncate(num);
    let is_time = key.ends_with("_ms");
    let direction = if is_time { Direction::Lower } else { Direction::Higher };
    let mut comparison = judge.compare(&before, &after, direction)?;
    if num < MIN_RUNS {
        comparison.verdict = Verdict::CannotTell;
    }
    Some(Row { key: key.to_owned(), by: By::Runs, comparison })
}

/// Means only: the difference of two percentiles is none of requests.
fn by_requests(baseline: &Side, candidate: &Side, key: &str, judge: &Judge) -> Option<Row> {
    let time = key.strip_prefix("mean_")?.strip_suffix("_ms")?;
    let (before, after) = (baseline.requests(time)?, candidate.requests(time)?);
    let comparison = judge.compare(&before, &after, Direction::Lower)?;
    Some(Row { key: key.to_owned(), by: By::Requests, comparison })
}

fn notes(baseline: &Side, candidate: &Side) -> Vec<String> {
    let mut notes = Vec::new();
    let (num_before, num_after) = (baseline.runs.len(), candidate.runs.len());
    if num_before != num_after {
        let num = num_before.min(num_after);
        notes.push(format!("{num_before} and {num_after} runs: only the first {num} are compared"));
    }
    let num = num_before.min(num_after);
    if num < MIN_RUNS {
        notes.push(format!(
            "{num} runs each: no verdict on runs from fewer than {MIN_RUNS}; repeat with \
             --append-result"
        ));
    }
    let shown = |run: &Map<String, Value>, key: &str| run.get(key).cloned().unwrap_or(Value::Null);
    let (Some(before), Some(after)) = (baseline.runs.first(), candidate.runs.first()) else {
        return notes;
    };
    for key in SHARED {
        let (before, after) = (shown(before, key), shown(after, key));
        if before != after {
            notes.push(format!("not the same load: {key} is {before} and {after}"));
        }
    }
    for side in [baseline, candidate] {
        let why = side.runs.iter().find_map(|run| run.get("load")?["why"].as_str());
        notes.extend(why.map(|why| format!("{}: {why}", side.name)));
        let num_failed: f64 = side.values("failed").unwrap_or_default().iter().sum();
        if num_failed > 0.0 {
            notes.push(format!("{}: {num_failed} requests failed", side.name));
        }
    }
    notes
}

/// The word for a verdict.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "faster",
        Verdict::Worse => "slower",
        Verdict::Same => "same",
        Verdict::CannotTell => "cannot tell",
    }
}

impl Table {
    /// For the terminal.
    pub fn text(&self) -> String {
        let [before, after] = &self.names;
        let mut out = format!("Baseline:  {before}\nCandidate: {after}\n\n");
        let _ = writeln!(
            out,
            "{:<28} {:>12} {:>12} {:>9} {:>21}  {:<12} of",
            "", "baseline", "candidate", "change", "95 % interval", "verdict"
        );
        for row in &self.rows {
            let found = &row.comparison;
            let percent = |value| {
                let share = found.relative(value);
                share.map_or_else(|| "-".to_owned(), |share| format!("{:+.1} %", 100.0 * share))
            };
            let interval = found.interval.map_or_else(
                || "-".to_owned(),
                |interval| format!("{} .. {}", percent(interval.low), percent(interval.high)),
            );
            let by = match row.by {
                By::Runs => "runs",
                By::Requests => "requests",
            };
            let _ = writeln!(
                out,
                "{:<28} {:>12.2} {:>12.2} {:>9} {:>21}  {:<12} {} {by}",
                row.key,
                found.baseline,
                found.candidate,
                percent(found.difference()),
                interval,
                word(found.verdict),
                found.num_pairs
            );
        }
        for note in &self.notes {
            let _ = writeln!(out, "Note: {note}");
        }
        out
    }

    /// For files.
    pub fn to_json(&self) -> Value {
        let row = |row: &Row| {
            let found = &row.comparison;
            json!({
                "key": row.key,
                "baseline": found.baseline,
                "candidate": found.candidate,
                "difference": found.difference(),
                "interval": found.interval.map(|interval| [interval.low, interval.high]),
                "verdict": word(found.verdict),
                "num_pairs": found.num_pairs,
                "by": match row.by { By::Runs => "runs", By::Requests => "requests" },
            })
        };
        json!({
            "baseline": self.names[0],
            "candidate": self.names[1],
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
