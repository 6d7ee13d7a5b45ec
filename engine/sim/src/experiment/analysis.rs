//! What the runs of an experiment say: every policy beside the baseline, load by load.

use serde::Serialize;

use super::results::{MEASURES, Measure, RunResult};
use crate::statistics::{Comparison, Judge, Verdict, mean};

/// Runs that differ only in policy and seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// What else is varied; empty where nothing is.
    pub variant: String,
    /// Requests a second.
    pub rate: Option<f64>,
    /// The rate as a share of `fcfs`'s capacity.
    pub load: Option<f64>,
}

impl Setting {
    pub(super) fn of(result: &RunResult) -> Self {
        Self { variant: result.variant.clone(), rate: result.rate, load: result.load }
    }

    /// In words.
    pub fn name(&self) -> String {
        let rate = match (self.load, self.rate) {
            (Some(load), Some(rate)) => {
                format!("{:.0} % of fcfs's capacity ({rate:.2} requests/s)", 100.0 * load)
            }
            (_, Some(rate)) => format!("{} requests/s", crate::plot::number(rate)),
            _ => "rate of the workload".to_owned(),
        };
        if self.variant.is_empty() { rate } else { format!("{}, {rate}", self.variant) }
    }
}

/// One policy beside the baseline in one setting, by one measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where.
    pub setting: Setting,
    /// Which policy.
    pub policy: String,
    /// By what.
    pub measure: Measure,
    /// What came of it.
    pub comparison: Comparison,
}

/// A row of `comparisons.csv`.
#[derive(Debug, Serialize)]
struct Row<'a> {
    variant: &'a str,
    rate: Option<f64>,
    load: Option<f64>,
    policy: &'a str,
    measure: &'a str,
    num_pairs: usize,
    baseline: f64,
    candidate: f64,
    difference: f64,
    low: Option<f64>,
    high: Option<f64>,
    verdict: &'a str,
}

/// The runs of an experiment in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// The policy that the others are compared with.
    pub baseline: String,
    /// All policies, the baseline first.
    pub policies: Vec<String>,
    /// All settings, in the order of the runs.
    pub settings: Vec<Setting>,
    /// All comparisons: settings, policies, measures.
    pub findings: Vec<Finding>,
    /// The runs.
    pub results: Vec<RunResult>,
}

impl Analysis {
    /// Compares `results` with those of `baseline`, in pairs of equal setting and seed; what has
    /// no counterpart is left out.
    pub fn new(results: Vec<RunResult>, baseline: &str, judge: &Judge) -> Self {
        let mut policies = vec![baseline.to_owned()];
        let mut settings: Vec<Setting> = Vec::new();
        for result in &results {
            if !policies.contains(&result.policy) {
                policies.push(result.policy.clone());
            }
            let setting = Setting::of(result);
            if !settings.contains(&setting) {
                settings.push(setting);
            }
        }
        let mut analysis = Self {
            baseline: baseline.to_owned(),
            policies,
            settings,
            findings: Vec::new(),
            results,
        };
        analysis.findings = analysis.compare(judge);
        analysis
    }

    fn compare(&self, judge: &Judge) -> Vec<Finding> {
        let mut findings = Vec::new();
        for setting in &self.settings {
            let before: Vec<&RunResult> = self.of(setting, &self.baseline).collect();
            for policy in &self.policies[1..] {
                let after: Vec<&RunResult> = self.of(setting, policy).collect();
                let pairs: Vec<(&RunResult, &RunResult)> = before
                    .iter()
                    .filter_map(|before| {
                        let same = after.iter().find(|after| after.seed == before.seed)?;
                        Some((*before, *same))
                    })
                    .collect();
                for measure in MEASURES {
                    let values = pairs.iter().filter_map(|(before, after)| {
                        Some((before.get(measure.key)?, after.get(measure.key)?))
                    });
                    let (before, after): (Vec<f64>, Vec<f64>) = values.unzip();
                    if let Some(comparison) = judge.compare(&before, &after, measure.direction) {
                        let (setting, policy) = (setting.clone(), policy.clone());
                        findings.push(Finding { setting, policy, measure, comparison });
                    }
                }
            }
        }
        findings
    }

    /// The runs of a policy in a setting, in the order of the seeds.
    pub fn of(&self, setting: &Setting, policy: &str) -> impl Iterator<Item = &RunResult> {
        let is_it =
            move |result: &&RunResult| result.policy == policy && Setting::of(result) == *setting;
        self.results.iter().filter(is_it)
    }

    /// The mean of a measure over the seeds.
    pub fn mean(&self, setting: &Setting, policy: &str, key: &str) -> Option<f64> {
        let values: Vec<f64> =
            self.of(setting, policy).filter_map(|result| result.get(key)).collect();
        mean(&values)
    }

    /// What got worse, the greatest relative losses first.
    pub fn worse(&self) -> Vec<&Finding> {
        let mut worse: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|finding| finding.comparison.verdict == Verdict::Worse)
            .collect();
        let loss = |finding: &Finding| {
            let comparison = &finding.comparison;
            comparison.relative(comparison.difference()).map_or(f64::INFINITY, f64::abs)
        };
        worse.sort_by(|left, right| loss(right).total_cmp(&loss(left)));
        worse
    }

    /// All comparisons as CSV.
    pub fn to_csv(&self) -> Result<String, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for Finding { setting, policy, measure, comparison } in &self.findings {
            writer.serialize(Row {
                variant: &setting.variant,
                rate: setting.rate,
                load: setting.load,
                policy,
                measure: measure.key,
                num_pairs: comparison.num_pairs,
                baseline: comparison.baseline,
                candidate: comparison.candidate,
                difference: comparison.difference(),
                low: comparison.interval.map(|interval| interval.low),
                high: comparison.interval.map(|interval| interval.high),
                verdict: comparison.verdict.as_str(),
            })?;
        }
        let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
