//! The scheduling policy in numbers, made into metric families at each scrape.

use folio_engine::sched::ComplaintKind;
use folio_engine::thread::MetricsSnapshot;
use prometheus::proto::MetricFamily;

use super::ENGINE;
use super::families::{counter, gauge, pair};
use crate::policy::Seat;

/// What runs, what went wrong with it, and what its shadow would have done otherwise. Labels have
/// the names of policies without their parameters, so that there are few.
pub(super) fn families(snapshot: &MetricsSnapshot, seat: &Seat) -> Vec<MetricFamily> {
    let seated = seat.seated();
    let shadow = seated.shadow.as_deref().map_or("", name);
    let labels = vec![
        pair("engine", ENGINE),
        pair("policy", name(&seated.policy)),
        pair("shadow_policy", shadow),
    ];
    let complaints = seat.policies().complaints();
    let faults = ComplaintKind::ALL.map(|kind| {
        let labels = vec![pair("engine", ENGINE), pair("kind", kind.name())];
        (labels, complaints.num(kind))
    });
    let report = snapshot.shadow.unwrap_or_default();
    let of_shadow = |value: u64| vec![(vec![pair("engine", ENGINE)], value)];
    vec![
        gauge("folio:policy_info", "The scheduling policy that runs.", vec![(labels, 1.0)]),
        counter(
            "folio:policy_faults_total",
            "Times that a policy gave no usable answer, by kind.",
            faults.to_vec(),
        ),
        counter(
            "folio:shadow_plans_total",
            "Plans with a choice, for which the shadow policy was asked.",
            of_shadow(report.num_plans),
        ),
        counter(
            "folio:shadow_other_first_total",
            "Plans in which the shadow policy would have taken another sequence first.",
            of_shadow(report.num_other_first),
        ),
        counter(
            "folio:shadow_pairs_total",
            "Pairs at the front of the queue whose order was compared with the shadow policy's.",
            of_shadow(report.num_pairs),
        ),
        counter(
            "folio:shadow_reversed_pairs_total",
            "Those among them that the shadow policy would have taken in the reverse order.",
            of_shadow(report.num_reversed_pairs),
        ),
    ]
}

/// The name at the beginning of a spec.
fn name(spec: &str) -> &str {
    spec.split([' ', '\t', '\n', ':']).next().unwrap_or(spec)
}
