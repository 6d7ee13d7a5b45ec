//! A policy that is asked and never followed: what it would have done otherwise is counted.
//!
//! It is told of everything that happens, and before each plan it ranks the sequences that wait
//! at the front of the queue and those that wait longest, so its cost is bounded. It sees prefix
//! hits through a cache of its own, so that its questions change nothing. One that panics is
//! left out from then on.

use super::features::Features;
use super::queue::Position;
use super::scheduler::{Scheduler, State};
use super::{Policy, PolicyRequest, SchedEvent};
use crate::panics::caught;
use crate::types::{ModelId, Nanos, RequestId, SequenceId};

/// Waiting sequences of each kind that are ranked before a plan: those that the running policy
/// would take next, and those that wait longest.
const WINDOW: usize = 64;
/// Sequences at the front whose order is compared pair by pair.
const NUM_COMPARED: usize = 32;

/// The policy, and what came of asking it.
pub(super) struct Shadow {
    policy: Box<dyn Policy>,
    features: Features,
    report: ShadowReport,
}

/// What a shadow policy would have done otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowReport {
    /// Plans with two sequences or more waiting, for which it was asked.
    pub num_plans: u64,
    /// Plans in which it would have taken another sequence first.
    pub num_other_first: u64,
    /// Pairs of waiting sequences that were compared.
    pub num_pairs: u64,
    /// Pairs that it would have taken in the reverse order.
    pub num_reversed_pairs: u64,
    /// The latest difference: the request at the front of the queue, and the one that it would
    /// have taken.
    pub latest: Option<(RequestId, RequestId)>,
    /// Whether it has panicked, and is no longer asked.
    pub has_failed: bool,
}

impl Scheduler {
    /// Asks `policy` from now on what it would do, or nobody. Counts start again.
    pub fn set_shadow(&mut self, policy: Option<Box<dyn Policy>>, now: Nanos) {
        self.shadow = policy.map(|policy| Shadow {
            policy,
            features: Features::default(),
            report: ShadowReport::default(),
        });
        for (id, running_with) in self.state.living() {
            self.tell_shadow(&SchedEvent::Arrived(id), now);
            if let Some(num_cached_tokens) = running_with {
                self.tell_shadow(&SchedEvent::Admitted { id, num_cached_tokens }, now);
            }
        }
    }

    /// What the shadow policy would have done otherwise, where there is one.
    #[must_use]
    pub fn shadow(&self) -> Option<ShadowReport> {
        self.shadow.as_ref().map(|shadow| shadow.report)
    }

    /// Tells the shadow policy what happened.
    pub(super) fn tell_shadow(&mut self, event: &SchedEvent, now: Nanos) {
        if let Some(shadow) = &mut self.shadow {
            let state = &self.state;
            shadow.ask(|policy, features| policy.observe(event, &state.view_with(features, now)));
        }
    }

    /// Compares the order of the queue with that of the shadow policy.
    pub(super) fn compare_shadow(&mut self, now: Nanos) {
        let Some(shadow) = &mut self.shadow else { return };
        shadow.features.clear();
        let state = &self.state;
        for model in 0..state.config.models.len() {
            let model = ModelId(model as u32);
            if state.queue.len_of(model) >= 2 {
                shadow.compare(state, model, now);
            }
        }
    }
}

impl Shadow {
    /// Asks the policy something, unless it has panicked.
    fn ask<T>(&mut self, question: impl FnOnce(&mut dyn Policy, &Features) -> T) -> Option<T> {
        if self.report.has_failed {
            return None;
        }
        let answer = caught(|| question(&mut *self.policy, &self.features));
        self.report.has_failed = answer.is_err();
        answer.ok()
    }

    fn compare(&mut self, state: &State, model: ModelId, now: Nanos) {
        let Some(order) = self.ask(|policy, features| order(policy, features, (state, model), now))
        else {
            return;
        };
        let Some(best) = order.iter().min() else { return };
        let front = &order[..order.len().min(WINDOW)];
        let (real_first, shadow_first) = (front[0].1, best.1);
        self.report.num_plans += 1;
        if shadow_first != real_first {
            self.report.num_other_first += 1;
            let request = |id| state.sequences.get(id).request.id;
            self.report.latest = Some((request(real_first), request(shadow_first)));
        }
        let compared = &front[..front.len().min(NUM_COMPARED)];
        for (index, ahead) in compared.iter().enumerate() {
            let behind = &compared[index + 1..];
            self.report.num_pairs += behind.len() as u64;
            self.report.num_reversed_pairs +=
                behind.iter().filter(|other| *other < ahead).count() as u64;
        }
    }
}

/// The front of the queue in its order, then those that wait longest, with the ranks that `policy`
/// would give them.
fn order(
    policy: &mut dyn Policy,
    features: &Features,
    (state, model): (&State, ModelId),
    now: Nanos,
) -> Vec<Position> {
    let next = |previous: &Position| state.queue.next(model, Some(*previous));
    let front = std::iter::successors(state.queue.next(model, None), next).take(WINDOW);
    let mut ids: Vec<SequenceId> = front.map(|(_, id)| id).collect();
    let in_front: std::collections::HashSet<SequenceId> = ids.iter().copied().collect();
    let oldest = state.queue.oldest(WINDOW);
    let oldest = oldest.filter(|&id| state.sequences.get(id).request.model == model);
    ids.extend(oldest.filter(|id| !in_front.contains(id)));
    let view = state.view_with(features, now);
    let ranked = ids.into_iter().map(|id| {
        let request = PolicyRequest(state.sequences.get(id));
        (policy.rank(&request, &view), id)
    });
    ranked.collect()
}
