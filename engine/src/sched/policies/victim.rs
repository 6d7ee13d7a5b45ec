//! Who loses its blocks when they run out.
//!
//! The choice is worth half of what preemption wastes: computed tokens that are computed again are
//! 10 to 23 % of all in measured loads of vLLM, and least-computed victims save about half of them
//! (vLLM RFC 54644).

use std::collections::HashMap;

use crate::sched::PolicyOptions;
use crate::sched::{PolicyError, PolicyRequest, SchedEvent, Victim, View};
use crate::types::SequenceId;

/// Which running sequence gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VictimChoice {
    /// The one that was taken in last, as in vLLM under `fcfs`.
    Last,
    /// The one that the policy ranks worst, as in vLLM under `priority`.
    WorstRank,
    /// The one with the fewest computed tokens: least is lost.
    LeastComputed,
    /// The one with the fewest generated tokens, then with the longest prompt, as in SGLang.
    FewestOutputs,
}

impl VictimChoice {
    /// The key `victim`.
    pub(super) fn from_options(
        options: &mut PolicyOptions<'_>,
    ) -> Result<Option<Self>, PolicyError> {
        let choices = [
            ("last", Some(Self::Last)),
            ("worst-rank", Some(Self::WorstRank)),
            ("least-computed", Some(Self::LeastComputed)),
            ("fewest-outputs", Some(Self::FewestOutputs)),
        ];
        options.choice("victim", &choices, None)
    }
}

/// Chooses victims, and remembers who was taken in when.
#[derive(Debug)]
pub(super) struct Victims {
    choice: VictimChoice,
    /// Number of each live sequence's latest admission.
    admissions: HashMap<SequenceId, u64>,
    num_admissions: u64,
}

impl Victims {
    pub(super) fn new(choice: VictimChoice) -> Self {
        Self { choice, admissions: HashMap::new(), num_admissions: 0 }
    }

    /// The one to give way among `candidates`, which are in rank order.
    pub(super) fn choose(&self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        let mut live = candidates.iter().filter_map(|&id| view.request(id));
        // Of equals the worst-ranked: `max_by_key` takes the last, so least means most of the rest.
        let rest = |count: u32| u32::MAX - count;
        let admission = |id| self.admissions.get(&id).copied().unwrap_or(0);
        let chosen: Option<PolicyRequest<'_>> = match self.choice {
            VictimChoice::WorstRank => live.next_back(),
            VictimChoice::Last => live.max_by_key(|one| admission(one.id())),
            VictimChoice::LeastComputed => live.max_by_key(|one| rest(one.num_computed())),
            VictimChoice::FewestOutputs => {
                live.max_by_key(|one| (rest(one.num_generated()), one.prompt_len()))
            }
        };
        chosen.map(|one| Victim { id: one.id(), mode: view.preemption() })
    }

    pub(super) fn observe(&mut self, event: &SchedEvent) {
        match *event {
            SchedEvent::Admitted { id, .. } => {
                self.num_admissions += 1;
                self.admissions.insert(id, self.num_admissions);
            }
            SchedEvent::Finished { id, .. } => {
                self.admissions.remove(&id);
            }
            _ => {}
        }
    }
}
