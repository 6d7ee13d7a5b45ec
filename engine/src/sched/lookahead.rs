//! Planning while steps are in flight: what may be planned, and what waits until they end.
//!
//! A step in flight has yet to sample, so the plan after it works with placeholders for its
//! tokens. Such a plan only ever adds to what runs: whatever would take blocks away (preemption,
//! displacement) is put off until nothing is in flight. Blocks of a sequence that ends while a
//! step still computes it are retired, and free once the last such step has ended.

use super::scheduler::State;
use super::sequence::Sequence;
use super::step::Step;
use super::{BlockAllocator, BlockTable};
use crate::types::SequenceId;

/// Counts steps from plan to end, and keeps blocks that those in between may still touch.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    /// Steps planned since the start; also the number of the latest.
    num_planned: u64,
    /// Steps committed or aborted since the start.
    num_ended: u64,
    retired: Vec<Retired>,
}

/// Blocks of a sequence that ended while a step was computing it.
#[derive(Debug)]
struct Retired {
    last_step: u64,
    table: BlockTable,
}

impl Pipeline {
    /// Whether a step is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.num_ended < self.num_planned
    }

    /// The number of the step that is planned next.
    pub(super) fn next_step(&self) -> u64 {
        self.num_planned + 1
    }

    /// The number of the latest step that has ended.
    pub(super) fn last_ended(&self) -> u64 {
        self.num_ended
    }

    /// The planned step goes into flight.
    pub(super) fn start(&mut self) {
        self.num_planned += 1;
    }

    /// The oldest step in flight has ended: what only it still touched is free.
    pub(super) fn finish(&mut self, allocator: &mut BlockAllocator) {
        assert!(self.is_busy(), "step {} ends before it is planned", self.next_step());
        self.num_ended += 1;
        for retired in &mut self.retired {
            if retired.last_step <= self.num_ended {
                allocator.release(&mut retired.table);
            }
        }
        self.retired.retain(|retired| retired.last_step > self.num_ended);
    }

    /// Whether a step in flight computes `sequence`.
    pub(super) fn computes(&self, sequence: &Sequence) -> bool {
        sequence.progress.last_step > self.num_ended
    }

    /// Gives up the blocks of a sequence that ends: now, or when no step touches them any more.
    pub(super) fn release(&mut self, sequence: &mut Sequence, allocator: &mut BlockAllocator) {
        let mut table = std::mem::take(&mut sequence.table);
        if self.computes(sequence) {
            self.retired.push(Retired { last_step: sequence.progress.last_step, table });
        } else {
            allocator.release(&mut table);
        }
    }

    /// Tables of sequences that ended while a step was computing them.
    pub(super) fn retired(&self) -> impl Iterator<Item = &BlockTable> {
        self.retired.iter().map(|retired| &retired.table)
    }

    /// Asserts that nothing is kept beyond its step.
    pub(super) fn assert_consistent(&self) {
        let in_flight = self.num_ended + 1..=self.num_planned;
        for Retired { last_step, table } in &self.retired {
            assert!(in_flight.contains(last_step), "{table:?} outlived step {last_step}");
        }
    }
}

impl State {
    /// Tokens of a running sequence that may be computed now: none while what it needs first, its
    /// latest token on the host, is still being sampled.
    #[inline]
    pub(super) fn num_ready(&self, id: SequenceId) -> u32 {
        let sequence = self.sequences.get(id);
        if self.awaits_token(sequence) { 0 } else { sequence.num_pending() }
    }

    /// Whether a sequence cannot go on before its latest token is known here: what samples on the
    /// host and what a grammar allows depend on it, and siblings share its blocks as they are
    /// before it.
    #[inline]
    fn awaits_token(&self, sequence: &Sequence) -> bool {
        sequence.progress.num_placeholders > 0 && self.needs_result(sequence)
    }

    /// Whether a sequence with results to come needs them first.
    fn needs_result(&self, sequence: &Sequence) -> bool {
        let has_siblings = || {
            !self.followers.is_empty()
                && self.followers.get(&sequence.id).is_some_and(|ids| !ids.is_empty())
        };
        sequence.num_pending() > 0 && (sequence.needs_latest_token() || has_siblings())
    }

    /// Whether `step`, still empty, can be planned while others are in flight: everything that
    /// runs finds its blocks with nobody giving way, and no more sequences must be left out than
    /// take part, since a step costs much the same for few as for many.
    pub(super) fn can_plan_ahead(&self, step: &Step) -> bool {
        let mut budget = step.budget;
        let (mut num_blocks, mut num_ready, mut num_left_out) = (0, 0, 0);
        for id in self.running_in_turn() {
            let sequence = self.sequences.get(id);
            if self.awaits_token(sequence) {
                num_left_out += 1;
                continue;
            }
            let pending = sequence.num_pending();
            let num_tokens = budget.share_of(pending);
            if num_tokens > 0 {
                budget.take(pending, num_tokens);
                let start = sequence.num_scheduled();
                let positions = start..start + num_tokens;
                num_blocks += self.allocator.num_missing(&sequence.table, positions);
                num_ready += 1;
            }
        }
        num_blocks <= self.allocator.num_free() && num_left_out <= num_ready
    }
}
