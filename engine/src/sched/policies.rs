//! The policies that ship with the engine, and their names on the command line.
//!
//! All that order by size or by cache have ageing; the head of each file says what wait it bounds.

mod dfs_weight;
mod edf;
mod fcfs;
mod hrrn;
mod lpm;
mod mlfq;
mod pace;
mod prefill_first;
mod priority;
mod reserve;
mod sjf;
mod slos_serve;
mod srpt;
mod tuned;
mod victim;
mod vtc;
mod work;

pub use dfs_weight::DfsWeight;
pub use edf::Edf;
pub use fcfs::Fcfs;
pub use hrrn::Hrrn;
pub use lpm::Lpm;
pub use mlfq::{Levels, Mlfq};
pub use prefill_first::PrefillFirst;
pub use priority::Priority;
pub use reserve::Reserve;
pub use sjf::Sjf;
pub use slos_serve::{SlosServe, Targets};
pub use srpt::Srpt;
pub use tuned::Tuned;
pub use victim::VictimChoice;
pub use vtc::{Prices, Vtc};
pub use work::Work;

use super::{LengthPredictor, Policy, PolicyContext, PolicyError, PolicyOptions, Registry};

/// Those that do not look at the priority of requests.
const NEVER_BY_PRIORITY: [&str; 11] = [
    "prefill-first",
    "fcfs",
    "sjf",
    "srpt",
    "hrrn",
    "edf",
    "lpm",
    "dfs-weight",
    "mlfq",
    "vtc",
    "slos-serve",
];

/// Adds all of them.
pub(super) fn register(registry: &mut Registry) {
    registry.register("fcfs", "first come, first served", |_, _| Ok(Box::new(Fcfs)));
    registry.register("priority", "by the priority of requests, then first come", |_, _| {
        Ok(Box::new(Priority))
    });
    registry.register(
        "sjf",
        "shortest job first: ageing=200 (tokens a second), prefill=1, decode=1, predictor=none",
        |options, context| Ok(Box::new(Sjf::from_options(options, context)?)),
    );
    registry.register(
        "srpt",
        "shortest remaining time, displaces: c=0.8, ageing=50, prefill=1, decode=1, \
         predictor=histogram",
        |options, context| Ok(Box::new(Srpt::from_options(options, context)?)),
    );
    registry.register(
        "hrrn",
        "highest response ratio next: prefill=1, decode=1, predictor=none",
        |options, context| Ok(Box::new(Hrrn::from_options(options, context)?)),
    );
    registry.register(
        "edf",
        "earliest deadline first: default=10s (for requests without one)",
        |options, context| Ok(Box::new(Edf::from_options(options, context)?)),
    );
    registry.register(
        "lpm",
        "longest prefix match: ageing=200 (tokens a second), in_batch=32, max_waiting",
        |options, context| Ok(Box::new(Lpm::from_options(options, context)?)),
    );
    registry.register(
        "dfs-weight",
        "depth-first through the tree of waiting prompts: max_wait=30s",
        |options, context| Ok(Box::new(DfsWeight::from_options(options, context)?)),
    );
    registry.register(
        "mlfq",
        "skip-join multi-level feedback queue, displaces: quantum=10ms, levels=10, promote=3s",
        |options, context| Ok(Box::new(Mlfq::from_options(options, context)?)),
    );
    registry.register(
        "vtc",
        "fair shares between tenants: prefill=1, decode=2, predictor=none",
        |options, context| Ok(Box::new(Vtc::from_options(options, context)?)),
    );
    registry.register_planner(
        "prefill-first",
        "whole prompts before answers, for comparison: what chunked prefill was invented against",
        |_, _| Ok(Box::new(PrefillFirst)),
    );
    registry.register_planner(
        "slos-serve",
        "plans for objectives, best effort for those out of reach: ttft=2s, tpot=50ms, \
         max_wait=30s",
        |options, context| Ok(Box::new(SlosServe::from_options(options, context)?)),
    );
    for name in NEVER_BY_PRIORITY {
        registry.ignores_priorities(name);
    }
}

/// `policy` with what the options say that all named policies take.
pub(super) fn with_common_options(
    policy: Box<dyn Policy>,
    options: &mut PolicyOptions<'_>,
    context: &PolicyContext,
) -> Result<Box<dyn Policy>, PolicyError> {
    Tuned::from_options(policy, options, context)
}

/// The key `predictor`, for whoever needs lengths.
fn predictor(
    options: &mut PolicyOptions<'_>,
    context: &PolicyContext,
) -> Result<Option<Box<dyn LengthPredictor>>, PolicyError> {
    match options.text("predictor") {
        Some(text) => super::predictor(text, context),
        None => Ok(None),
    }
}
