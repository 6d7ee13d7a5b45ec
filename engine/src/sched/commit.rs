//! Entering what came of a step: tokens, full blocks, ends.
//!
//! Steps end in the order of their plans. A sequence that ended while later steps with it were in
//! flight is gone from the books; those steps' results for it are dropped and counted.

use std::ops::Range;

use super::SchedEvent;
use super::decisions::{self, Check};
use super::scheduler::{End, Scheduler, State};
use super::sequence::Sequence;
use crate::types::{
    Continuation, Delivery, Event, FinishReason, MarkKind, Nanos, PromptLogprob, SampledToken,
    ScheduledSeq, SeqResult, SequenceId, StepOutput, StepPlan, StepReport, TokenId,
};

impl Scheduler {
    /// Enters the results of `plan`, the oldest in flight: tokens are appended and delivered, full
    /// blocks published, ended sequences leave.
    pub fn commit(&mut self, plan: &StepPlan, output: StepOutput, now: Nanos) -> StepReport {
        assert_eq!(plan.seqs.len(), output.results.len(), "one result a scheduled sequence");
        self.state.recorder.begin(now, || decisions::commit(&output));
        self.state.pipeline.finish(&mut self.state.allocator);
        self.state.features.start_cycle();
        let mut report = StepReport { device_time: output.device_time, ..StepReport::default() };
        for scores in output.prompt_scores {
            self.state.enter_prompt_scores(&plan.seqs[scores.index], scores.logprobs);
        }
        for (scheduled, result) in plan.seqs.iter().zip(output.results) {
            if !self.state.enter_computed(scheduled, now, &mut report) {
                report.num_wasted_tokens += scheduled.positions.len() as u32;
                continue;
            }
            if let Some(end) = self.enter_result(scheduled, result, now, &mut report) {
                report.num_finished += 1;
                self.end(scheduled.id, end, now);
            }
        }
        report.num_seqs = plan.seqs.len() as u32;
        let totals = &mut self.state.totals;
        totals.num_steps += 1;
        totals.num_prefill_tokens += u64::from(report.num_prefill_tokens);
        totals.num_generated_tokens += u64::from(report.num_sampled_tokens);
        totals.num_wasted_tokens += u64::from(report.num_wasted_tokens);
        let step = self.state.pipeline.last_ended();
        self.observe(&SchedEvent::Stepped { step, device_time: output.device_time }, now);
        report
    }

    /// What becomes of a sequence after its result: nothing more, or its end.
    fn enter_result(
        &mut self,
        scheduled: &ScheduledSeq,
        result: SeqResult,
        now: Nanos,
        report: &mut StepReport,
    ) -> Option<End> {
        let id = scheduled.id;
        match result {
            SeqResult::Computed => {
                assert!(!scheduled.emits, "sequence {id} was to emit");
                None
            }
            SeqResult::Token(token) => {
                assert!(scheduled.emits, "sequence {id} was not to emit");
                self.state.mark_result(id, now);
                self.state.append(id, token, report)
            }
            SeqResult::Embedding(vector) => {
                self.state.mark_result(id, now);
                let _ = self.state.sequences.get(id).events().send(Event::Embedding(vector));
                Some(End::Reported(FinishReason::Embedded))
            }
            SeqResult::Failed(message) => {
                let state = &mut self.state;
                state.allocator.withdraw(&state.sequences.get(id).table);
                Some(End::Reported(FinishReason::Failed(message)))
            }
        }
        .or_else(|| {
            if !self.state.followers.is_empty() {
                self.fork_followers(id, now);
            }
            None
        })
    }
}

impl State {
    /// Moves `num_computed` and publishes the blocks that became full: the tokens in them are all
    /// known, since a step's placeholders are filled before it ends. False when the sequence has
    /// ended.
    fn enter_computed(
        &mut self,
        scheduled: &ScheduledSeq,
        now: Nanos,
        report: &mut StepReport,
    ) -> bool {
        let Some(sequence) = self.sequences.find_mut(scheduled.id) else { return false };
        let num_tokens = scheduled.positions.end - scheduled.positions.start;
        if num_tokens == 1 && sequence.num_generated() > 0 {
            report.num_decode_tokens += 1;
        } else {
            report.num_prefill_tokens += num_tokens;
        }
        let progress = &mut sequence.progress;
        let Range { start, end } = scheduled.positions;
        assert_eq!(start, progress.num_computed, "steps end out of order: {scheduled:?}");
        progress.num_computed = end;
        progress.num_placeholders -= u32::from(scheduled.emits);
        if !sequence.table.is_empty() {
            let salt = sequence.request.cache_salt;
            let computed = &sequence.tokens[..end as usize];
            if self.allocator.publish(&mut sequence.table, computed, salt) > 0 {
                self.watch.advance(scheduled.id, sequence.table.nodes.len());
            }
        }
        if sequence.is_chunk(&scheduled.positions) {
            sequence.events().mark(now, MarkKind::ChunkComputed(num_tokens));
        }
        true
    }

    /// Keeps what a step found about a prompt. Steps end in order, so it comes in order.
    fn enter_prompt_scores(&mut self, scheduled: &ScheduledSeq, scores: Vec<PromptLogprob>) {
        if !self.sequences.contains(scheduled.id) {
            return;
        }
        let sequence = self.sequences.get_mut(scheduled.id);
        let expected = sequence.positions_to_score(&scheduled.positions);
        assert_eq!(scores.len(), expected.len(), "log-probabilities of positions {expected:?}");
        assert_eq!(expected.start, sequence.progress.num_scored, "scores out of order");
        sequence.progress.num_scored = expected.end;
        sequence.progress.prompt_logprobs.extend(scores);
    }

    /// Remembers when a result was known. Before the first, tells the receiver how its choice
    /// fared so far, and how likely its prompt was where that is wanted.
    #[inline]
    fn mark_result(&mut self, id: SequenceId, now: Nanos) {
        let sequence = self.sequences.get_mut(id);
        if let Some(first) = sequence.stats.first_token {
            let last = sequence.stats.last_token.replace(now).unwrap_or(first);
            self.tallies[sequence.request.model.index()].add_gap(now.since(last));
        } else {
            self.mark_first_result(id, now);
        }
    }

    fn mark_first_result(&mut self, id: SequenceId, now: Nanos) {
        let sequence = self.sequences.get_mut(id);
        sequence.stats.first_token = Some(now);
        self.totals.time_to_first_token.add(now.since(sequence.stats.arrival));
        let _ = sequence.events().send(Event::Started(sequence.stats));
        if sequence.wants_prompt_logprobs() {
            let logprobs = std::mem::take(&mut sequence.progress.prompt_logprobs);
            let _ = sequence.events().send(Event::PromptLogprobs(logprobs));
        }
        if sequence.choice_index == 0 {
            let (num_tokens, num_cached) =
                (sequence.request.prompt_len, sequence.stats.num_cached_tokens);
            let model = sequence.request.model;
            self.totals.num_prompt_tokens += u64::from(num_tokens);
            let tally = self.tally(model);
            tally.num_prompt_tokens += u64::from(num_tokens);
            tally.num_cached_tokens += u64::from(num_cached);
        }
    }

    /// Appends and delivers a token; tells whether the sequence ends with it. Where only the prompt
    /// was to be looked at, the token is nobody's.
    fn append(
        &mut self,
        id: SequenceId,
        token: SampledToken,
        report: &mut StepReport,
    ) -> Option<End> {
        let sequence = self.sequences.get_mut(id);
        if sequence.max_results() == 0 {
            return Some(End::Reported(FinishReason::Length));
        }
        report.num_sampled_tokens += 1;
        let token_id = token.id;
        sequence.append(token_id);
        self.tallies[sequence.request.model.index()].num_generated_tokens += 1;
        if self.recorder.deliver(sequence, token) == Delivery::Gone {
            return Some(End::Cancelled(Check::Delivery));
        }
        let stop = &sequence.sampling()?.stop;
        if stop.token_ids.contains(&token_id) {
            return Some(End::Reported(FinishReason::Stop(token_id)));
        }
        let is_last = sequence.num_generated() >= stop.max_tokens;
        if sequence.has_grammar()
            && let Some(reason) = end_by_grammar(sequence, token_id)
        {
            return Some(End::Reported(reason));
        }
        is_last.then_some(End::Reported(FinishReason::Length))
    }
}

/// Enters a token into the sequence's grammar, if it has one; tells whether the text ends with it.
fn end_by_grammar(sequence: &mut Sequence, token: TokenId) -> Option<FinishReason> {
    match sequence.accept(token)? {
        Ok(Continuation::Open) => None,
        Ok(Continuation::Complete) => Some(FinishReason::Complete),
        Err(message) => Some(FinishReason::Failed(message)),
    }
}
