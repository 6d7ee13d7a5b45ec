//! The encoder texts of a step: whole, in policy order, under their share of the tokens.
//!
//! Beside prompts of a decoder, encoders get half of what decoding leaves; a text too long for
//! its share banks it for the next step, and several encoder models take turns.

use super::decisions::{Decision, Obstacle};
use super::planning::Consent;
use super::scheduler::{Scheduler, State};
use super::sequence::Status;
use super::step::Step;
use super::{Admit, SchedEvent};
use crate::types::{ModelId, ModelKind};

/// How much of what decoding leaves encoder texts may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Half while the decoder has prompts, all otherwise.
    Fair,
    /// All that is left.
    Rest,
}

/// Whether an encoder's texts fitted into the tokens left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Done,
    /// The next in order needs more than is left.
    TooLong,
}

impl Scheduler {
    pub(super) fn plan_encoders(&mut self, step: &mut Step, share: Share, consent: Consent) {
        if !self.state.has_encoders() {
            return;
        }
        let allowance = self.state.encoder_share(step, share);
        let mut left = allowance;
        let mut blocked = None;
        for model in self.state.encoders_in_turn() {
            if self.plan_encoder(model, &mut left, step, consent) == Fit::TooLong {
                blocked = Some(model);
                break; // what is left is saved for this text
            }
        }
        step.budget.prefill_left -= allowance - left;
        match (share, blocked) {
            (Share::Fair, Some(model)) => {
                self.state.encoder_credit = left;
                self.state.encoder_turn = model.index();
            }
            (Share::Fair, None) => {
                self.state.encoder_credit = 0;
                self.state.encoder_turn = self.state.encoder_turn.wrapping_add(1);
            }
            (Share::Rest, _) if left < allowance => self.state.encoder_credit = 0,
            (Share::Rest, _) => {}
        }
    }

    /// Grants texts of one encoder in policy order while they fit into `left` tokens.
    fn plan_encoder(
        &mut self,
        model: ModelId,
        left: &mut u32,
        step: &mut Step,
        consent: Consent,
    ) -> Fit {
        let mut num_seqs = step.plan.seqs.iter().filter(|s| s.model == model).count() as u32;
        let mut cursor = None;
        while let Some(position) = self.state.queue.next(model, cursor) {
            cursor = Some(position);
            let id = position.1;
            let num_tokens = self.state.sequences.get(id).num_known();
            let max_running = step.budget.limits.max_running;
            if num_seqs >= max_running {
                self.state.note_blocked(id, || Obstacle::MaxRunning { max_running });
                return Fit::Done;
            }
            if num_tokens > *left {
                self.state.note_blocked(id, || Obstacle::TokenBudget);
                return Fit::TooLong;
            }
            match self.ask(id, consent, step.now) {
                Admit::Now { .. } => {}
                Admit::Skip | Admit::Reject => continue,
                Admit::Stop => {
                    self.state.note_blocked(id, || Obstacle::Policy);
                    return Fit::Done;
                }
            }
            self.state.queue.remove(id);
            let sequence = self.state.sequences.get_mut(id);
            sequence.status = Status::Running;
            if sequence.mark_started(step.now) {
                self.state.totals.queue.num_started += 1;
                self.state.totals.queue.num_started_tokens += u64::from(num_tokens);
            }
            let num_cached_tokens = 0;
            self.state.recorder.note(|| Decision::Admitted { id, num_cached_tokens });
            self.observe(&SchedEvent::Admitted { id, num_cached_tokens }, step.now);
            self.grant(id, num_tokens, step);
            *left -= num_tokens;
            num_seqs += 1;
        }
        Fit::Done
    }
}

impl State {
    /// Tokens that encoders may take now. Beside prompts of a decoder their fair share is half of
    /// what decoding leaves, plus what an earlier step saved for a text that was too long.
    fn encoder_share(&self, step: &Step, share: Share) -> u32 {
        let is_prefilling =
            || self.running.iter().any(|&(_, id)| self.sequences.get(id).num_pending() > 1);
        let has_rival =
            || self.decoder().is_some_and(|model| self.queue.len_of(model) > 0) || is_prefilling();
        let share = if share == Share::Fair && has_rival() {
            step.budget.prefill_left.div_ceil(2).saturating_add(self.encoder_credit)
        } else {
            step.budget.prefill_left
        };
        share.min(step.budget.prefill_left)
    }

    fn has_encoders(&self) -> bool {
        self.config.models.iter().any(|model| model.kind.is_encoder())
    }

    /// The encoder models, beginning with the one whose turn it is.
    fn encoders_in_turn(&self) -> Vec<ModelId> {
        let mut models: Vec<ModelId> = self.models_of(ModelKind::is_encoder).collect();
        let first = self.encoder_turn % self.config.models.len();
        let index = models.iter().position(|model| model.index() >= first).unwrap_or(0);
        models.rotate_left(index);
        models
    }
}
