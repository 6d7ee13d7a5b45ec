//! What remains of a run: the block on the terminal and the result file, both as vLLM's users
//! know them, with what they lack behind.

mod console;
mod json;

pub use console::block;
pub use json::{Head, file_name, lines, result};

use super::metrics::{Metric, Summary};
use super::slo::Objective;
use super::timing::Timing;
use super::verify::Verification;

/// Everything that is known about a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The figures: of generation first, where there are both classes.
    pub summaries: Vec<Summary>,
    /// Whether the load was what it claims to be.
    pub timing: Timing,
    /// What the terminal's first block shows; the other metrics come behind it.
    pub shown: Vec<Metric>,
    /// What makes a request good, and what it is called.
    pub objective: (Objective, Option<String>),
    /// Why not all requests were sent, if so.
    pub stopped: Option<String>,
    /// Whether answers under load were those that requests get alone.
    pub verification: Option<Verification>,
}
