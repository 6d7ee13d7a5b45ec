//! A plan in the making: what is in it, and what may still be entered.

use super::Limits;
use super::queue::Position;
use super::scheduler::State;
use super::sequence::Status;
use crate::types::{Nanos, ScheduledSeq, SequenceId, StepPlan, TokenSource};

/// A plan in the making.
pub(super) struct Step {
    pub(super) plan: StepPlan,
    pub(super) budget: Budget,
    pub(super) now: Nanos,
    pub(super) preempted: bool,
}

/// What may still be entered into a plan.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub(super) limits: Limits,
    /// Sequences that may still take their one decode token.
    decodes_left: u32,
    /// Tokens left for prompts.
    pub(super) prefill_left: u32,
    pub(super) num_partial: u32,
}

impl Budget {
    /// Tokens that a running sequence with `pending` tokens may compute.
    pub(super) fn share_of(&self, pending: u32) -> u32 {
        if pending == 1 { self.decodes_left.min(1) } else { self.prefill_share(pending) }
    }

    /// Tokens of a prompt with `pending` tokens that may be computed.
    pub(super) fn prefill_share(&self, pending: u32) -> u32 {
        pending.min(self.limits.chunk).min(self.prefill_left)
    }

    /// Books `num_tokens` of a decoder sequence's `pending` tokens.
    pub(super) fn take(&mut self, pending: u32, num_tokens: u32) {
        if pending == 1 && self.decodes_left > 0 {
            self.decodes_left -= 1;
        } else {
            self.prefill_left -= num_tokens;
        }
        self.num_partial += u32::from(num_tokens < pending);
    }

    /// Tokens left.
    pub(super) fn left(&self) -> u32 {
        self.decodes_left + self.prefill_left
    }

    /// Keeps one of the tokens left for each of `num_decoding` sequences; prompts get the others.
    pub(super) fn split(&mut self, num_decoding: u32) {
        let left = self.left();
        self.decodes_left = num_decoding.min(left);
        self.prefill_left = left - self.decodes_left;
    }

    /// Books `num_tokens` of `pending` tokens wherever they are left.
    pub(super) fn take_any(&mut self, pending: u32, num_tokens: u32) {
        let of_decodes = num_tokens.saturating_sub(self.prefill_left);
        self.prefill_left -= num_tokens - of_decodes;
        self.decodes_left -= of_decodes;
        self.num_partial += u32::from(num_tokens < pending);
    }

    /// The budget of a plan that the policy's limits kept empty: the configured limits.
    pub(super) fn lift(&mut self, limits: Limits) {
        self.limits = limits;
        self.prefill_left = limits.token_budget;
    }
}

impl State {
    pub(super) fn start_step(&self, limits: Limits, now: Nanos) -> Step {
        let prefill_left = limits.token_budget;
        let mut budget = Budget { limits, decodes_left: 0, prefill_left, num_partial: 0 };
        budget.split(self.num_decoding());
        Step { plan: StepPlan::default(), budget, now, preempted: false }
    }

    /// Running sequences that are to compute one token.
    pub(super) fn num_decoding(&self) -> u32 {
        let is_decoding = |&&(_, id): &&Position| self.num_ready(id) == 1;
        self.running.iter().filter(is_decoding).count() as u32
    }

    /// Whether a live sequence is in the plan being made.
    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.sequences.get(id).progress.last_step == self.pipeline.next_step()
    }

    /// Asserts what a plan promises, once it is made.
    pub(super) fn check_plan(step: &Step) {
        let plan = &step.plan;
        let num_tokens = plan.num_tokens();
        let budget = step.budget.limits.token_budget;
        assert!(num_tokens <= budget, "{num_tokens} tokens planned, budget {budget}");
    }

    /// Asserts what a row promises, as it is entered. Whoever is in the plan stays as it is until
    /// the plan is made.
    #[inline]
    pub(super) fn check_row(&self, scheduled: &ScheduledSeq) {
        let sequence = self.sequences.get(scheduled.id);
        let range = &scheduled.positions;
        assert!(sequence.status == Status::Running, "planned but not running: {sequence:?}");
        assert!(range.end == sequence.num_scheduled() && range.end > range.start, "{range:?}");
        let num_known = sequence.num_known();
        match scheduled.token {
            TokenSource::Known => assert!(range.end <= num_known, "{range:?} of {num_known}"),
            TokenSource::Placeholder => assert!(
                range.len() == 1 && range.start >= num_known && self.pipeline.is_busy(),
                "{range:?} of {num_known} and a placeholder"
            ),
        }
        let covered = sequence.table.num_blocks() * self.config.block_size;
        let kind = self.config.models[scheduled.model.index()].kind;
        assert!(kind.is_encoder() || covered >= range.end, "{range:?} in {covered}");
    }
}
