//! Depth-first through the tree of waiting prompts, the heaviest branch first (SGLang, arXiv
//! 2312.07104), with a longest wait.
//!
//! A branch weighs as many requests as have come to wait under it, and keeps its weight until the
//! last has left: a walk that turned away from a branch as it shrinks would not be depth-first.
//! With a large enough cache depth-first order is optimal for the hit rate. SGLang's tree is that
//! of the cache; this one is that of the waiting prompts, by whole blocks.
//!
//! Guarantee: who has waited `max_wait` is served before all who have not, in order of arrival.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use crate::sched::PolicyOptions;
use crate::sched::{
    Phase, Policy, PolicyContext, PolicyError, PolicyRequest, PromptNode, RERANK_WINDOW, Rank,
    Refresh, SchedEvent, View,
};
use crate::types::{Nanos, SequenceId};

/// Serves requests with a common beginning one after the other.
#[derive(Debug)]
pub struct DfsWeight {
    /// Wait after which arrival alone counts.
    pub max_wait: Nanos,
    /// Sequences that are not running, the oldest first.
    waiting: BTreeSet<SequenceId>,
    places: HashMap<SequenceId, u32>,
    /// Whether the tree has changed since the places were made.
    is_stale: bool,
}

impl Default for DfsWeight {
    fn default() -> Self {
        Self::new(Nanos(30_000_000_000))
    }
}

impl DfsWeight {
    /// A policy with this longest wait.
    #[must_use]
    pub fn new(max_wait: Nanos) -> Self {
        Self { max_wait, waiting: BTreeSet::new(), places: HashMap::new(), is_stale: true }
    }

    /// The key `max_wait`.
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        _: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        Ok(options.duration("max_wait")?.map_or_else(Self::default, Self::new))
    }

    /// Orders those that wait longest anew, if the tree has changed.
    fn arrange(&mut self, view: &View<'_>) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        let oldest = self.waiting.iter().take(RERANK_WINDOW);
        let mut requests: Vec<_> = oldest.filter_map(|&id| view.request(id)).collect();
        requests.sort_by(|&one, &other| compare(one, other, view));
        self.places = requests.iter().map(PolicyRequest::id).zip(0..).collect();
    }
}

/// The order of two requests in the walk through the tree: by the branches where they part.
fn compare(one: PolicyRequest<'_>, other: PolicyRequest<'_>, view: &View<'_>) -> Ordering {
    let (a, b) = (one.prompt_hashes(), other.prompt_hashes());
    // Hashes are chained: once they differ they differ for good.
    let mut equal = 0..a.len().min(b.len());
    while !equal.is_empty() {
        let middle = equal.start + equal.len() / 2;
        if a[middle] == b[middle] {
            equal.start = middle + 1;
        } else {
            equal.end = middle;
        }
    }
    let branch = |request| view.prompt_node(request, equal.start).map(key);
    // Who ends where the other goes on comes first: all it needs is then in the cache.
    branch(&one).cmp(&branch(&other)).then(one.id().cmp(&other.id()))
}

/// Heavier first, then who came first.
fn key(node: PromptNode) -> (std::cmp::Reverse<u32>, SequenceId) {
    (std::cmp::Reverse(node.num_entered), node.first)
}

impl Policy for DfsWeight {
    fn name(&self) -> &'static str {
        "dfs-weight"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        if request.phase() == Phase::Running {
            return Rank(0.0, 0.0);
        }
        let is_new = self.waiting.insert(request.id());
        self.is_stale |= is_new;
        if request.age(view) >= self.max_wait {
            return Rank(0.0, 0.0);
        }
        if is_new {
            return Rank(1.0, f64::INFINITY); // it is not in the tree before the next plan
        }
        self.arrange(view);
        let place = self.places.get(&request.id());
        Rank(1.0, place.map_or(f64::INFINITY, |&place| f64::from(place)))
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        if let SchedEvent::Admitted { id, .. } | SchedEvent::Finished { id, .. } = event {
            self.is_stale |= self.waiting.remove(id);
            self.places.remove(id);
        }
    }
}
