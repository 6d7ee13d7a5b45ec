//! By the priority of the request, then first come, first served.

use crate::sched::{Policy, PolicyRequest, Rank, View};

/// Serves smaller `priority` values first; when blocks run out, the largest value gives way.
/// A running sequence is displaced only for want of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Priority;

impl Policy for Priority {
    fn name(&self) -> &'static str {
        "priority"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(f64::from(request.priority()), 0.0)
    }
}
