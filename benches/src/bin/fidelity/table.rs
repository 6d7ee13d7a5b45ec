//! What came of the runs: a JSON line for each, and a table with the order of the policies.

use std::io::Write as _;

use anyhow::Context as _;
use folio_sim::calibrate::Calibration;
use folio_sim::statistics::kendall_tau;

/// A run beside its replay and its simulation.
pub(super) struct Run {
    pub(super) policy: String,
    pub(super) load: f64,
    pub(super) seed: u64,
    /// Steps that were replayed.
    pub(super) num_steps: u64,
    /// The first decision that differs.
    pub(super) difference: Option<String>,
    pub(super) calibration: Calibration,
}

/// Policies whose real values differ by less are not put in order.
const MIN_DIFFERENCE: f64 = 0.05;

impl Run {
    pub(super) fn to_json(&self) -> serde_json::Value {
        let calibration = &self.calibration;
        let metrics = calibration.metrics.iter().map(|one| {
            let value = serde_json::json!({
                "recorded": one.recorded, "simulated": one.simulated, "error": one.error(),
            });
            (one.name.clone(), value)
        });
        serde_json::json!({
            "policy": self.policy,
            "load": self.load,
            "seed": self.seed,
            "busy": calibration.load,
            "num_steps": self.num_steps,
            "replay": self.difference.as_deref().unwrap_or("identical"),
            "decode_steps": { "mape": calibration.decode.mean, "total": calibration.decode.total },
            "mixed_steps": { "mape": calibration.mixed.mean, "total": calibration.mixed.total },
            "host_us": [calibration.host_ns.0 * 1e-3, calibration.host_ns.1 * 1e-3],
            "metrics": metrics.collect::<serde_json::Map<_, _>>(),
        })
    }

    fn metric(&self, name: &str) -> (f64, f64, f64) {
        let found = self.calibration.metrics.iter().find(|one| one.name == name);
        found.map_or((0.0, 0.0, 0.0), |one| (one.recorded, one.simulated, one.error()))
    }
}

pub(super) fn print_line(line: &serde_json::Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("writing the result")
}

/// The table of all runs.
pub(super) fn print(runs: &[Run]) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(
        output,
        "\n| policy | load | seed | steps | decisions | throughput | TPOT | TTFT | E2E |"
    )?;
    writeln!(output, "|---|---:|---:|---:|---|---:|---:|---:|---:|")?;
    for run in runs {
        let error = |name| 100.0 * run.metric(name).2;
        let decisions = if run.difference.is_none() { "identical" } else { "DIFFER" };
        writeln!(
            output,
            "| {} | {:.2} | {} | {} | {decisions} | {:+.1} % | {:+.1} % | {:+.1} % | {:+.1} % |",
            run.policy,
            run.load,
            run.seed,
            run.num_steps,
            error("output throughput"),
            error("mean TPOT"),
            error("mean TTFT"),
            error("mean E2EL"),
        )?;
    }
    let num_steps: u64 = runs.iter().map(|run| run.num_steps).sum();
    writeln!(output, "\n{num_steps} steps replayed")?;
    let mut loads: Vec<f64> = runs.iter().map(|run| run.load).collect();
    loads.dedup();
    for load in loads {
        for name in ["mean TTFT", "mean E2EL"] {
            let (tau, num_pairs) = order(runs, load, name);
            writeln!(
                output,
                "load {load:.2}, {name}: Kendall's tau {}, {num_pairs} pairs of policies differ \
                 by more than 5 %",
                tau.map_or("none".to_owned(), |tau| format!("{tau:.2}"))
            )?;
        }
    }
    Ok(())
}

/// Kendall's tau over the pairs of policies that differ in the recorded metric: of all seeds
/// together.
fn order(runs: &[Run], load: f64, name: &str) -> (Option<f64>, usize) {
    let at_load = || runs.iter().filter(|run| (run.load - load).abs() < 1e-9);
    let mut policies: Vec<&str> = at_load().map(|run| run.policy.as_str()).collect();
    policies.sort_unstable();
    policies.dedup();
    let mean = |policy: &str, of: fn((f64, f64, f64)) -> f64| {
        let values = at_load().filter(|run| run.policy == policy).map(|run| of(run.metric(name)));
        let values: Vec<f64> = values.collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let pairs: Vec<(f64, f64)> = policies
        .iter()
        .map(|policy| (mean(policy, |one| one.0), mean(policy, |one| one.1)))
        .collect();
    let (mut agree, mut differ, mut num_pairs) = (0i64, 0i64, 0);
    for (index, one) in pairs.iter().enumerate() {
        for other in &pairs[index + 1..] {
            if (one.0 - other.0).abs() <= MIN_DIFFERENCE * one.0.min(other.0) {
                continue;
            }
            num_pairs += 1;
            let found = kendall_tau(&[one.0, other.0], &[one.1, other.1]).unwrap_or(0.0);
            agree += i64::from(found > 0.0);
            differ += i64::from(found < 0.0);
        }
    }
    let tau = (num_pairs > 0).then(|| (agree - differ) as f64 / num_pairs as f64);
    (tau, num_pairs)
}
