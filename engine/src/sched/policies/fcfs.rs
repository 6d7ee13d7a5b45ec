//! First come, first served.

use crate::sched::{Policy, PolicyRequest, Rank, View};

/// Serves in order of arrival; when blocks run out, the latest arrival gives way.
#[derive(Clone, Copy, Debug)]
pub struct Fcfs;

impl Policy for Fcfs {
    fn name(&self) -> &'static str {
        "fcfs"
    }

    fn rank(&mut self, _: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank::default()
    }
}
