//! Carrying out a [`Planner`]'s plan: each call is checked against the core's invariants and then
//! done, or refused with nothing changed.
//!
//! Blocks move in a fixed order within a step: saved, brought back, copied. So nothing is saved
//! once something was brought back in the same plan (it could land where the other is read from),
//! and nothing is brought back once a sequence gave way after a copy was planned.

use super::decisions::{Check, Decision, PreemptionCause};
use super::planning::Start;
use super::scheduler::{End, Scheduler};
use super::sequence::Status;
use super::step::Step;
use super::{Decider, Plan, Planner, PreemptionMode, Refused, Victim, View};
use crate::types::{FinishReason, SequenceId};

/// Stands in while the planner is asked; what it would be told is kept for the planner.
struct Away;

impl Planner for Away {
    fn name(&self) -> &'static str {
        "away"
    }

    fn plan(&mut self, _: &mut dyn Plan) {}
}

/// The planner in use, out of the scheduler; put back however the asking ends.
struct Asking<'a> {
    scheduler: &'a mut Scheduler,
    planner: Option<Box<dyn Planner>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(planner) = self.planner.take() {
            self.scheduler.policy = Decider::Joint(planner);
        }
    }
}

/// A plan that the planner is working on.
struct Draft<'a> {
    scheduler: &'a mut Scheduler,
    step: &'a mut Step,
    /// A sequence gave way after a copy was planned.
    is_frozen: bool,
}

impl Scheduler {
    /// Plans the decoder's sequences: as the planner says, if there is one.
    pub(super) fn plan_jointly(&mut self, step: &mut Step, is_ahead: bool) {
        let num_before = step.plan.seqs.len();
        self.ask_planner(step);
        let is_idle = step.plan.seqs.len() == num_before && !is_ahead;
        if is_idle && step.plan.swap_in.is_empty() {
            step.budget.split(self.state.num_decoding());
            self.plan_running(step);
        }
        step.budget.split(0);
        if is_idle || !step.plan.seqs.is_empty() {
            self.advance_oldest(step);
        }
        let is_overridden = is_idle && step.plan.seqs.len() > num_before;
        if is_overridden {
            self.state.recorder.note(|| Decision::Overridden);
            self.state.totals.num_overridden_plans += 1;
        }
    }

    fn ask_planner(&mut self, step: &mut Step) {
        if !matches!(self.policy, Decider::Joint(_)) {
            return;
        }
        let away = Decider::Joint(Box::new(Away));
        let Decider::Joint(planner) = std::mem::replace(&mut self.policy, away) else { return };
        let now = step.now;
        self.untold = Some(Vec::new());
        let mut asking = Asking { scheduler: self, planner: Some(planner) };
        let Asking { scheduler, planner } = &mut asking;
        if let Some(planner) = planner {
            planner.plan(&mut Draft { scheduler, step, is_frozen: false });
        }
        drop(asking);
        for event in self.untold.take().unwrap_or_default() {
            self.observe(&event, now);
        }
    }

    /// Lets the oldest running sequence compute one token, if the planner granted it none.
    fn advance_oldest(&mut self, step: &mut Step) {
        let Some(oldest) = self.state.oldest_running() else { return };
        let is_served = self.state.contains(oldest) || self.state.num_ready(oldest) == 0;
        if is_served || step.budget.left() == 0 {
            return;
        }
        let end = self.state.sequences.get(oldest).num_scheduled() + 1;
        while !self.state.allocate(oldest, end, &mut step.plan) {
            let running = self.state.running.iter().rev().map(|&(_, id)| id);
            let mut victims = running.filter(|&id| id != oldest && !self.state.contains(id));
            let may_save = !self.state.pipeline.is_busy() && step.plan.swap_in.is_empty();
            let Some(id) = victims.next().filter(|_| may_save) else { return };
            let mode = self.state.view(step.now).preemption();
            self.preempt(Victim { id, mode }, (oldest, PreemptionCause::OutOfBlocks), step.now);
        }
        self.grant(oldest, end, step);
    }
}

impl Draft<'_> {
    /// Tokens and blocks held back for the oldest running sequence while a grant is made to `id`.
    fn held_back(&self, id: Option<SequenceId>) -> (u32, u32) {
        let state = &self.scheduler.state;
        match state.oldest_running() {
            Some(oldest)
                if Some(oldest) != id && !state.contains(oldest) && state.num_ready(oldest) > 0 =>
            {
                let sequence = state.sequences.get(oldest);
                let start = sequence.num_scheduled();
                (1, state.allocator.num_missing(&sequence.table, start..start + 1))
            }
            _ => (0, 0),
        }
    }

    /// Tokens that may be granted to `id` of its `pending` ones.
    fn share_of(&self, id: SequenceId, pending: u32, max_tokens: u32) -> Result<u32, Refused> {
        let budget = &self.step.budget;
        let left = budget.left().saturating_sub(self.held_back(Some(id)).0);
        let share = pending.min(max_tokens).min(budget.limits.chunk).min(left);
        match (share, pending, max_tokens) {
            (1.., _, _) => Ok(share),
            (0, 1.., 1..) => Err(Refused::NoBudget),
            _ => Err(Refused::NotPlannable),
        }
    }

    fn grant_running(&mut self, id: SequenceId, max_tokens: u32) -> Result<u32, Refused> {
        let share = self.share_of(id, self.scheduler.state.num_ready(id), max_tokens)?;
        let held_back = self.held_back(Some(id)).1;
        let state = &self.scheduler.state;
        let sequence = state.sequences.get(id);
        let start = sequence.num_scheduled();
        let need = state.allocator.num_missing(&sequence.table, start..start + share);
        let available = state.allocator.num_free();
        // What takes no block takes none from the oldest.
        if need > 0 && need + held_back > available {
            return Err(Refused::NoBlocks { short: need + held_back - available });
        }
        let end = start + share;
        let is_secured = self.scheduler.state.allocate(id, end, &mut self.step.plan);
        assert!(is_secured, "sequence {id}: {need} free blocks");
        self.step.budget.take_any(self.scheduler.state.num_ready(id), share);
        self.scheduler.enter(id, end, self.step);
        Ok(share)
    }

    /// What taking a waiting sequence in for `max_tokens` would come to.
    fn start_of(&mut self, id: SequenceId, max_tokens: u32) -> Result<Start, Refused> {
        let (limits, now) = (self.step.budget.limits, self.step.now);
        if let Some(end) = self.scheduler.state.end_of(id, Check::Turn, now) {
            self.scheduler.end(id, end, now);
            return Err(Refused::NotPlannable);
        }
        let state = &self.scheduler.state;
        if state.running.len() >= limits.max_running as usize {
            return Err(Refused::NoBudget);
        }
        let is_saved = !state.host.blocks_of(id).is_empty();
        if is_saved && self.is_frozen {
            return Err(Refused::NotPlannable);
        }
        let Some(mut start) = self.scheduler.state.start_of(id) else {
            return Err(Refused::NotPlannable); // a running one computes its prefix
        };
        let share = self.share_of(id, start.pending, max_tokens)?;
        let num_partial = self.step.budget.num_partial + self.num_partial_left_out();
        if share < start.pending && num_partial >= limits.max_partial_prefills {
            return Err(Refused::NoBudget);
        }
        start.num_tokens = share;
        Ok(start)
    }

    /// Running sequences, not in the plan so far, whose prompts are partly computed.
    fn num_partial_left_out(&self) -> u32 {
        let state = &self.scheduler.state;
        let running = state.running.iter().map(|&(_, id)| id);
        let is_partial = |id| !state.contains(id) && state.num_ready(id) > 1;
        running.filter(|&id| is_partial(id)).count() as u32
    }

    /// Takes a waiting sequence in, if the blocks for `start` suffice.
    fn take_in(&mut self, id: SequenceId, start: Start) -> Result<(), Refused> {
        let held_back = self.held_back(None).1;
        let (needed, free) = self.scheduler.state.blocks_for(start, 0);
        if needed + held_back > free {
            return Err(Refused::NoBlocks { short: needed + held_back - free });
        }
        self.scheduler.take_in(id, start, self.step);
        Ok(())
    }

    fn grant_waiting(&mut self, id: SequenceId, max_tokens: u32) -> Result<u32, Refused> {
        let start = self.start_of(id, max_tokens)?;
        self.take_in(id, start)?;
        self.step.budget.take_any(start.pending, start.num_tokens);
        self.scheduler.enter(id, start.end(), self.step);
        Ok(start.num_tokens)
    }

    /// Whether `id` is a sequence of the decoder, and where it stands.
    fn status_of(&self, id: SequenceId) -> Option<Status> {
        let state = &self.scheduler.state;
        let sequence = state.sequences.find(id)?;
        (!state.is_encoder(sequence.request.model)).then_some(sequence.status)
    }
}

impl Plan for Draft<'_> {
    fn view(&self) -> View<'_> {
        self.scheduler.state.view(self.step.now)
    }

    fn grant(&mut self, id: SequenceId, max_tokens: u32) -> Result<u32, Refused> {
        match self.status_of(id) {
            Some(Status::Running) if !self.scheduler.state.contains(id) => {
                self.grant_running(id, max_tokens)
            }
            Some(Status::Waiting) => self.grant_waiting(id, max_tokens),
            _ => Err(Refused::NotPlannable),
        }
    }

    fn preempt(&mut self, id: SequenceId, mode: PreemptionMode) -> Result<(), Refused> {
        let state = &self.scheduler.state;
        let may_give_way = self.status_of(id) == Some(Status::Running)
            && state.oldest_running() != Some(id)
            && !state.contains(id);
        let is_quiet = !state.pipeline.is_busy() && self.step.plan.swap_in.is_empty();
        if !may_give_way || !is_quiet {
            return Err(Refused::NotPlannable);
        }
        self.is_frozen |= !self.step.plan.copies.is_empty();
        self.scheduler.preempt(Victim { id, mode }, (id, PreemptionCause::Planned), self.step.now);
        Ok(())
    }

    fn prefetch(&mut self, id: SequenceId) -> bool {
        let state = &self.scheduler.state;
        let is_saved = !state.host.blocks_of(id).is_empty();
        if !is_saved || state.pipeline.is_busy() || self.status_of(id) != Some(Status::Waiting) {
            return false;
        }
        // With the block for its next token: it may be the oldest now.
        let start = self.start_of(id, 1);
        start.and_then(|start| self.take_in(id, start)).is_ok()
    }

    fn reject(&mut self, id: SequenceId) -> Result<(), Refused> {
        if self.status_of(id) != Some(Status::Waiting) {
            return Err(Refused::NotPlannable);
        }
        let reason = FinishReason::Refused("the planner rejected it".to_owned());
        self.scheduler.end(id, End::Reported(reason), self.step.now);
        Ok(())
    }

    fn budget_left(&self) -> u32 {
        self.step.budget.left().saturating_sub(self.held_back(None).0)
    }

    fn free_blocks(&self) -> u32 {
        let free = self.scheduler.state.allocator.num_free();
        free.saturating_sub(self.held_back(None).1)
    }
}
