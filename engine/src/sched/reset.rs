//! Starting anew after a failure: who ends with it, and who is put back.
//!
//! All blocks and all that was computed are gone, in host memory too. What is put back keeps its
//! known tokens and is computed again, which by the determinism contract changes nothing of what
//! follows. Whoever had been computed is put back once; a second failure ends it.

use std::collections::HashSet;
use std::ops::Range;

use super::SchedEvent;
use super::scheduler::{Scheduler, State};
use super::sequence::{Sequence, Status};
use crate::types::{FinishReason, MarkKind, Nanos, RequestId, SequenceId, StepPlan};

/// What a failure is blamed on.
#[derive(Clone, Copy, Debug)]
pub enum Blame<'a> {
    /// This step: the executor failed at it.
    Step(&'a StepPlan),
    /// Whatever ran: the scheduler itself failed.
    Running,
    /// The request of these sequences: the scheduler failed to take it in.
    Arrival(&'a Range<SequenceId>),
}

/// Who was affected by a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Casualties {
    /// Requests that ended with it, in the order of their ids.
    pub failed: Vec<RequestId>,
    /// Sequences that are computed again.
    pub num_retried: u32,
}

/// What becomes of a sequence.
enum Fate {
    Fails(&'static str),
    IsRetried,
    /// Nothing was computed for it, so nothing is lost.
    WaitsOn,
}

impl Scheduler {
    /// Starts anew with empty blocks and no step in flight. Sequences that are to `blame` end with
    /// [`FinishReason::StepFailed`] and `message`, and so do those that failed before; all others
    /// are put back into the queue.
    pub fn reset(&mut self, blame: Blame<'_>, message: &str, now: Nanos) -> Casualties {
        let blamed = self.state.blamed(blame);
        let mut casualties = Casualties::default();
        let (mut kept, mut events) = (Vec::new(), Vec::new());
        let in_flight = self.state.in_flight();
        for mut sequence in self.state.take_all() {
            let is_in_flight = in_flight.contains(&sequence.id);
            match fate(&sequence, blame, (blamed.contains(&sequence.id), is_in_flight)) {
                Fate::Fails(why) => {
                    casualties.failed.push(sequence.request.id);
                    events.push(sequence.finished());
                    let reason = FinishReason::StepFailed(format!("{message}{why}"));
                    sequence.report(reason);
                    continue;
                }
                Fate::IsRetried => {
                    casualties.num_retried += 1;
                    sequence.stats.num_retries += 1;
                }
                Fate::WaitsOn => {}
            }
            if sequence.status == Status::Running {
                events.push(SchedEvent::Preempted(sequence.id));
                sequence.events().mark(now, MarkKind::Preempted);
                sequence.status = Status::Waiting;
            }
            self.state.totals.num_dropped_tokens += u64::from(sequence.num_computed());
            sequence.rewind();
            kept.push(sequence.id);
            self.state.tally(sequence.request.model).num_live += 1;
            self.state.sequences.insert(sequence);
        }
        self.state.follow_survivors();
        for event in events {
            self.observe(&event, now);
        }
        for id in kept {
            if self.state.sequences.get(id).status == Status::Waiting {
                self.enqueue(id, now);
            }
        }
        casualties.failed.sort_unstable();
        casualties.failed.dedup();
        casualties
    }

    /// Ends everything with [`FinishReason::StepFailed`]. The policy is not asked and not told: it
    /// may be what failed.
    pub fn fail_all(&mut self, message: &str) -> Casualties {
        let mut failed = Vec::new();
        for sequence in self.state.take_all() {
            failed.push(sequence.request.id);
            sequence.report(FinishReason::StepFailed(message.to_owned()));
        }
        self.state.followers.clear();
        failed.sort_unstable();
        failed.dedup();
        Casualties { failed, num_retried: 0 }
    }

    /// The id that the next sequence gets.
    #[must_use]
    pub fn next_sequence(&self) -> SequenceId {
        SequenceId(self.state.next_sequence)
    }
}

/// What becomes of `sequence`. One whose logits processors have seen a step that is lost cannot go
/// back: they have gone on from there.
fn fate(sequence: &Sequence, blame: Blame<'_>, (is_blamed, is_in_flight): (bool, bool)) -> Fate {
    let was_computed = sequence.stats.first_scheduled.is_some();
    match blame {
        _ if is_blamed => Fate::Fails(""),
        Blame::Step(_) if !was_computed => Fate::WaitsOn,
        _ if sequence.stats.num_retries > 0 => Fate::Fails("; it had been retried once already"),
        _ if is_in_flight && sequence.has_processors() => {
            Fate::Fails("; it has logits processors, which cannot be put back")
        }
        _ => Fate::IsRetried,
    }
}

impl State {
    /// Sequences that `blame` falls on.
    fn blamed(&self, blame: Blame<'_>) -> HashSet<SequenceId> {
        let all = self.sequences.iter();
        match blame {
            Blame::Step(plan) => plan.seqs.iter().map(|scheduled| scheduled.id).collect(),
            Blame::Running => all.filter(|s| s.status == Status::Running).map(|s| s.id).collect(),
            Blame::Arrival(arrived) => {
                all.map(|s| s.id).filter(|id| arrived.contains(id)).collect()
            }
        }
    }

    /// Sequences that a step in flight computes.
    fn in_flight(&self) -> HashSet<SequenceId> {
        let all = self.sequences.iter();
        all.filter(|sequence| self.pipeline.computes(sequence))
            .map(|sequence| sequence.id)
            .collect()
    }

    /// Takes all sequences out, the oldest first, and forgets everything about them but who
    /// follows whom.
    fn take_all(&mut self) -> Vec<Sequence> {
        let sequences = self.sequences.take_all();
        self.allocator.clear();
        let fresh = Self::new(self.config.clone());
        let Self { queue, running, host, watch, pipeline, sweep, num_following, .. } = fresh;
        self.queue = queue;
        self.running = running;
        self.host = host;
        self.watch = watch;
        self.pipeline = pipeline;
        self.sweep = sweep;
        self.num_following = num_following;
        self.encoder_credit = 0;
        self.tallies.iter_mut().for_each(|tally| tally.num_live = 0);
        sequences
    }

    /// Lets those that followed a sibling follow it still, or the first of them that is left.
    fn follow_survivors(&mut self) {
        for (leader, mut followers) in std::mem::take(&mut self.followers) {
            followers.retain(|&id| self.sequences.contains(id));
            let leader = if self.sequences.contains(leader) {
                leader
            } else if followers.is_empty() {
                continue;
            } else {
                let next = followers.remove(0);
                self.sequences.get_mut(next).status = Status::Waiting;
                next
            };
            for &follower in &followers {
                self.sequences.get_mut(follower).status = Status::Following(leader);
            }
            self.num_following += followers.len() as u32;
            if !followers.is_empty() {
                self.followers.insert(leader, followers);
            }
        }
    }
}
