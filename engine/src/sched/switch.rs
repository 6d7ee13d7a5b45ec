//! Another policy for a scheduler at work.
//!
//! Nothing that lives is lost or computed again: the new policy is told of what is there as if it
//! had just arrived, ranks everything, and decides from the next plan on.

use super::decisions::Input;
use super::sequence::Status;
use super::{Decider, SchedEvent, Scheduler};
use crate::panics::caught;
use crate::types::{Nanos, SequenceId};

impl Scheduler {
    /// The name of what decides.
    #[must_use]
    pub fn policy_name(&self) -> &str {
        self.policy.name()
    }

    /// Lets `policy` decide from now on; `spec` is how it is written. If it panics as it gets to
    /// know what is there, the one before it goes on, and what it said is returned.
    pub fn switch_policy(&mut self, policy: Decider, spec: &str, now: Nanos) -> Result<(), String> {
        let before = std::mem::replace(&mut self.policy, policy);
        let outcome = caught(|| {
            self.introduce(now);
            self.rank_all(now);
        });
        if outcome.is_err() {
            self.policy = before;
            self.rank_all(now);
        } else {
            self.state.recorder.begin(now, || Input::Policy { spec: spec.to_owned() });
        }
        outcome
    }

    /// Tells the policy of all that lives, the oldest first.
    fn introduce(&mut self, now: Nanos) {
        for (id, running_with) in self.state.living() {
            self.policy.observe(&SchedEvent::Arrived(id), &self.state.view(now));
            if let Some(num_cached_tokens) = running_with {
                let event = SchedEvent::Admitted { id, num_cached_tokens };
                self.policy.observe(&event, &self.state.view(now));
            }
        }
    }

    /// Ranks everything anew.
    fn rank_all(&mut self, now: Nanos) {
        self.state.features.start_cycle();
        self.state.stale_tenants.clear();
        let waiting: Vec<SequenceId> = self.state.queue.iter().collect();
        self.rank_again(&waiting, now);
        self.rank_running_again(now);
    }
}

impl super::scheduler::State {
    /// All that lives, the oldest first; of what runs, also how much of it is computed.
    pub(super) fn living(&self) -> Vec<(SequenceId, Option<u32>)> {
        let of = |sequence: &super::Sequence| match sequence.status {
            Status::Running => Some(sequence.num_computed()),
            Status::Waiting | Status::Following(_) => None,
        };
        let mut living: Vec<_> = self.sequences.iter().map(|one| (one.id, of(one))).collect();
        living.sort_unstable();
        living
    }
}
