//! Starting anew after a failure: who ends with it, and who is put back.
//!
//! All blocks and all that was computed are gone, in host memory too. What is put back keeps its
//! known tokens and is computed again, which by the determinism contract changes nothing of what
//! follows. Whoever had been computed is put back once; a second failure ends it.

use std::collections::HashSet;
use std::ops::Range;

use super::SchedEvent;
use super::decisions::{self, Decision, Ending, Input};
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
    /// Requests that could not be taken in, and nobody else.
    Arrivals,
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
    /// Starts anew with empty blocks and no step in flight. Sequences that are to `blame`, and the
    /// `arrivals` that could not be taken in, end with [`FinishReason::StepFailed`] and `message`,
    /// and so do those that failed before; all others are put back into the queue.
    pub fn reset(
        &mut self,
        blame: Blame<'_>,
        arrivals: &[Range<SequenceId>],
        message: &str,
        now: Nanos,
    ) -> Casualties {
        self.state.recorder.begin(now, || decisions::reset(blame, arrivals, message));
        self.untold = None; // a planner that failed is not told what it would have done
        let blamed = self.state.blamed(blame, arrivals);
        let mut casualties = Casualties::default();
        let (mut kept, mut events) = (Vec::new(), Vec::new());
        for mut sequence in self.state.take_all() {
            match fate(&sequence, blame, blamed.contains(&sequence.id)) {
                Fate::Fails(why) => {
                    casualties.failed.push(sequence.request.id);
                    let (id, end) = (sequence.id, Ending::StepFailed);
                    self.state.recorder.note(|| Decision::Ended { id, end });
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
            }
            // Those that are known to follow somebody are told below to follow still.
            sequence.status = Status::Waiting;
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
        let now = self.state.recorder.latest();
        self.state.recorder.begin(now, || Input::FailAll { message: message.to_owned() });
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

/// What becomes of `sequence`. One whose logits processors have chosen a token that is lost cannot
/// go back: they have gone on from there.
fn fate(sequence: &Sequence, blame: Blame<'_>, is_blamed: bool) -> Fate {
    let was_computed = sequence.stats.first_scheduled.is_some();
    match blame {
        _ if is_blamed => Fate::Fails(""),
        Blame::Step(_) | Blame::Arrivals if !was_computed => Fate::WaitsOn,
        _ if sequence.stats.num_retries > 0 => Fate::Fails("; it had been retried once already"),
        _ if sequence.num_placeholders() > 0 && sequence.has_processors() => {
            Fate::Fails("; it has logits processors, which cannot be put back")
        }
        _ => Fate::IsRetried,
    }
}

impl State {
    /// Sequences that `blame` falls on. Who follows one of a step has the prompt that it failed at.
    fn blamed(&self, blame: Blame<'_>, arrivals: &[Range<SequenceId>]) -> HashSet<SequenceId> {
        let has_failed = |sequence: &Sequence| match blame {
            Blame::Step(plan) => plan.seqs.iter().any(|scheduled| match sequence.status {
                Status::Following(leader) => scheduled.id == leader,
                _ => scheduled.id == sequence.id,
            }),
            Blame::Running => sequence.status == Status::Running,
            Blame::Arrivals => false,
        };
        let is_arrival = |id: SequenceId| arrivals.iter().any(|arrived| arrived.contains(&id));
        let all = self.sequences.iter();
        all.filter(|one| has_failed(one) || is_arrival(one.id)).map(|one| one.id).collect()
    }

    /// Takes all sequences out, the oldest first, and forgets everything about them but who
    /// follows whom.
    fn take_all(&mut self) -> Vec<Sequence> {
        let sequences = self.sequences.take_all();
        self.allocator.clear();
        let fresh = Self::new(self.config.clone());
        let Self { queue, running, oldest, host, watch, pipeline, sweep, num_following, .. } =
            fresh;
        self.queue = queue;
        self.running = running;
        self.oldest = oldest;
        self.in_turn.clear();
        self.host = host;
        self.watch = watch;
        self.pipeline = pipeline;
        self.features.clear();
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
                followers.remove(0)
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
