//! Experiments: policies × loads × seeds, compared in pairs, with what got worse.
//!
//! [`Experiment`] reads the file, [`Job`]s are its runs, [`in_parallel`] carries them out,
//! [`Digest`] is what is kept of each, [`Analysis`] compares them and makes the report. How a job
//! becomes a simulation is the caller's affair: this module knows no command line.

mod analysis;
mod digest;
mod figures;
mod file;
mod page;
mod results;
mod runs;
mod simulated;

#[cfg(test)]
mod tests;

pub use analysis::{Analysis, Finding, Setting};
pub use digest::{Digest, Facts, Moment, NUM_TIMES, Objective, Served, TenantDigest};
pub use file::{Arrivals, Experiment, ExperimentError, JudgeFile, MAX_RUNS, Seeds, Sweep};
pub use results::{MEASURES, Measure, ResultError, Role, RunResult};
pub use runs::{Flags, Job, Rate, in_parallel};
pub use simulated::Alone;

use crate::statistics::Comparison;

/// A comparison in a few letters, for the console: `-12 % (-15 % to -9 %)`.
pub fn change(comparison: &Comparison) -> String {
    page::change(comparison)
}
