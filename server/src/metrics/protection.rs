//! How the engine protects itself, in numbers: the queue's tokens, deadlines, failures, stalls.

use folio_engine::EngineHealth;
use folio_engine::thread::MetricsSnapshot;
use prometheus::proto::MetricFamily;

use super::engine::Names;
use super::families::{counter, gauge, pair};

/// All families of `snapshot` and `health`, labelled with `names`.
pub(super) fn families(
    snapshot: &MetricsSnapshot,
    health: EngineHealth,
    names: &Names,
) -> Vec<MetricFamily> {
    let faults = &snapshot.faults;
    let gauge = |name, help, value: f64| gauge(name, help, names.all(value));
    let counter = |name, help, value: u64| counter(name, help, names.all(value));
    vec![
        gauge(
            "folio:num_tokens_waiting",
            "Tokens of the sequences that wait.",
            snapshot.gauges.num_waiting_tokens as f64,
        ),
        gauge(
            "folio:engine_ready",
            "1 while the engine computes or could; 0 while it loads, stalls or has stopped.",
            f64::from(u8::from(health == EngineHealth::Ready)),
        ),
        deadlines(snapshot, names),
        counter(
            "folio:failed_steps_total",
            "Steps that failed, by an error of the device or a panic.",
            faults.num_failed_steps,
        ),
        counter(
            "folio:failed_step_requests_total",
            "Requests that ended with a failed step.",
            faults.num_failed_requests,
        ),
        counter(
            "folio:retried_sequences_total",
            "Sequences that were computed again after a failure.",
            faults.num_retries,
        ),
        counter(
            "folio:engine_rebuilds_total",
            "Times that the models were loaded again after a failure.",
            faults.num_rebuilds,
        ),
        counter(
            "folio:engine_failed_rebuilds_total",
            "Times that they could not be.",
            faults.num_failed_rebuilds,
        ),
        counter(
            "folio:engine_stalls_total",
            "Times that no step ended for longer than --step-timeout while there was work.",
            faults.num_stalls,
        ),
    ]
}

/// Sequences whose deadline passed, by where they were.
fn deadlines(snapshot: &MetricsSnapshot, names: &Names) -> MetricFamily {
    let queue = &snapshot.gauges.totals.queue;
    let stages = [("waiting", queue.num_expired_waiting), ("running", queue.num_expired_running)];
    let values = stages.into_iter().flat_map(|(stage, value)| {
        names.all(value).into_iter().map(move |(mut labels, value)| {
            labels.push(pair("stage", stage));
            (labels, value)
        })
    });
    let help = "Sequences whose deadline passed, before or after anything was computed for them.";
    counter("folio:deadline_exceeded_total", help, values.collect())
}
