//! Planning a step: who computes which positions under the token budget and the pool.
//!
//! Order: encoder texts under their share; the oldest running sequence, which is never preempted;
//! the other running ones in policy order, with one token kept for each that decodes; then waiting
//! ones in policy order; then encoder texts with what is left. When blocks run out, a sequence
//! that is not yet in the plan gives way. While a step is in flight nobody gives way: see
//! `lookahead`.

use super::decisions::{
    Check, ComputedFate, Decision, Input, Obstacle, Preemption, PreemptionCause,
};
use super::encoders::Share;
use super::queue::Position;
use super::scheduler::{End, Scheduler, State};
use super::sequence::Status;
use super::step::Step;
use super::{
    Admit, Decider, Displacement, Limits, PolicyRequest, PrefixPeek, RERANK_WINDOW, Refresh,
    SchedEvent, Victim,
};
use crate::types::{
    FinishReason, MarkKind, ModelId, ModelKind, Nanos, ScheduledSeq, SequenceId, StepPlan,
};

/// Waiting sequences looked at in one plan for cancellation and expiry, at least; running ones are
/// looked at in each. Longer queues are swept in a fixed number of plans.
const MIN_SWEEP: usize = 1024;
const PLANS_A_SWEEP: usize = 8;

/// Rows that a plan has room for beside those of running sequences before it must grow.
const SPARE_ROWS: usize = 4;

/// Whether a waiting sequence was taken in.
enum Admission {
    Admitted,
    /// Not this one; look at the next.
    Skipped,
    /// Nobody else either.
    Closed,
}

/// What taking a waiting sequence in would come to.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// Leading tokens that are cached or saved.
    from: u32,
    /// Known tokens beyond these.
    pub(super) pending: u32,
    /// Those of them to compute now.
    pub(super) num_tokens: u32,
    matched: PrefixPeek,
}

impl Start {
    /// Positions that are computed, or planned to be, afterwards.
    pub(super) fn end(&self) -> u32 {
        self.from + self.num_tokens
    }
}

/// Whether the policy is asked before a waiting sequence is taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Consent {
    Ask,
    /// Nothing else can run: progress comes before the policy's wish.
    Override,
}

/// Whether waiting sequences have got what they may take from running ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Displaced {
    Done,
    /// One is entitled to more, but what runs is in flight.
    PutOff,
}

impl Scheduler {
    /// The next step, or `None` when nothing can be computed now. Each plan must be followed by
    /// its [`commit`](Self::commit) or [`reset`](Self::reset), in the order of planning.
    ///
    /// Made while earlier plans are in flight, a plan may have
    /// [placeholders](crate::types::TokenSource::Placeholder), and `None` may also mean that the
    /// oldest plan must be committed first.
    pub fn plan(&mut self, now: Nanos) -> Option<StepPlan> {
        self.state.recorder.begin(now, || Input::Plan);
        self.state.features.start_cycle();
        self.drop_ended(now);
        self.rerank(now);
        self.compare_shadow(now);
        let limits = self.step_limits(now);
        self.state.recorder.note(|| Decision::Limits(limits));
        self.state.max_running = limits.max_running;
        let is_ahead = self.state.pipeline.is_busy();
        if self.displace(limits, now) == Displaced::PutOff {
            self.state.recorder.note(|| Decision::PutOff);
            return None;
        }
        let mut step = self.state.start_step(limits, now);
        if is_ahead && !self.state.can_plan_ahead(&step) {
            self.state.recorder.note(|| Decision::PutOff);
            return None;
        }
        self.plan_encoders(&mut step, Share::Fair, Consent::Ask);
        match self.policy {
            Decider::Ranked(_) => self.plan_ranked(&mut step),
            Decider::Joint(_) => self.plan_jointly(&mut step, is_ahead),
        }
        self.plan_encoders(&mut step, Share::Rest, Consent::Ask);
        if step.plan.seqs.is_empty() && !is_ahead {
            self.override_policy(&mut step);
        }
        State::check_plan(&step);
        if step.plan.seqs.is_empty() {
            assert!(step.plan.swap_in.is_empty(), "blocks are brought back in no step");
            return None;
        }
        step.plan.swap_out = self.state.host.take_swaps();
        assert!(step.plan.swap_out.is_empty() || !is_ahead, "blocks are saved in flight");
        self.state.pipeline.start();
        self.state.note_plan(&step.plan);
        Some(step.plan)
    }

    /// Plans the decoder's sequences in the policy's order.
    fn plan_ranked(&mut self, step: &mut Step) {
        self.plan_running(step);
        if !step.preempted {
            self.plan_waiting(step, Consent::Ask);
        }
    }

    /// Plans something, if anything can run, when the policy would plan nothing.
    fn override_policy(&mut self, step: &mut Step) {
        step.budget.lift(self.state.view(step.now).defaults());
        self.plan_encoders(step, Share::Rest, Consent::Override);
        if step.plan.seqs.is_empty() {
            self.plan_waiting(step, Consent::Override);
        }
        let is_overridden = !step.plan.seqs.is_empty();
        if is_overridden {
            self.state.recorder.note(|| Decision::Overridden);
        }
        self.state.totals.num_overridden_plans += u64::from(is_overridden);
    }

    /// Ends what was cancelled or whose deadline has passed, running or not.
    fn drop_ended(&mut self, now: Nanos) {
        let sequences = &self.state.sequences;
        let can_end = sequences.has_fleeting() || self.state.recorder.is_dictating();
        if !can_end && !sequences.is_empty() {
            return;
        }
        let running = self.state.running.iter().map(|&(_, id)| id);
        let ended: Vec<_> = running
            .filter_map(|id| Some((id, self.state.end_of(id, Check::Running, now)?)))
            .collect();
        for (id, end) in ended {
            self.end(id, end, now);
        }
        if self.state.sweep.is_empty() {
            let waiting = self.state.sequences.iter().filter(|s| s.status != Status::Running);
            self.state.sweep.extend(waiting.map(|sequence| sequence.id));
            self.state.sweep.reverse(); // oldest last: popped first
        }
        let num_now = MIN_SWEEP.max(self.state.sequences.len() / PLANS_A_SWEEP);
        for _ in 0..num_now {
            let Some(id) = self.state.sweep.pop() else { return };
            if !self.state.sequences.contains(id) {
                continue;
            }
            if let Some(end) = self.state.end_of(id, Check::Waiting, now) {
                self.end(id, end, now);
            }
        }
    }

    /// Lets the policy rank again what it says has become stale.
    fn rerank(&mut self, now: Nanos) {
        match self.policy.refresh() {
            Refresh::OnArrival => {}
            Refresh::OnTenantEvent => {
                let stale = std::mem::take(&mut self.state.stale_tenants);
                let sequences = &self.state.sequences;
                let is_stale = |id: &SequenceId| stale.contains(&sequences.get(*id).request.tenant);
                let waiting: Vec<_> = self.state.queue.iter().filter(is_stale).collect();
                self.rank_again(&waiting, now);
            }
            Refresh::EveryStep => {
                let waiting: Vec<_> = self.state.queue.oldest(RERANK_WINDOW).collect();
                self.rank_again(&waiting, now);
                self.rank_running_again(now);
            }
        }
    }

    pub(super) fn rank_running_again(&mut self, now: Nanos) {
        for index in 0..self.state.running.len() {
            let id = self.state.running[index].1;
            let view = self.state.view(now);
            let sequence = self.state.sequences.get(id);
            self.state.running[index].0 = self.policy.rank(PolicyRequest(sequence), &view);
        }
        self.state.running.sort_unstable();
    }

    pub(super) fn rank_again(&mut self, waiting: &[SequenceId], now: Nanos) {
        let view = self.state.view(now);
        let rank = |&id| {
            let sequence = self.state.sequences.get(id);
            (self.policy.rank(PolicyRequest(sequence), &view), id)
        };
        let ranks: Vec<Position> = waiting.iter().map(rank).collect();
        self.state.queue.rank_again(&ranks);
    }

    /// The policy's limits, none above the configured ones and none that stops everything.
    fn step_limits(&mut self, now: Nanos) -> Limits {
        let view = self.state.view(now);
        let most = view.defaults();
        let wanted = self.policy.limits(&view);
        Limits {
            token_budget: wanted.token_budget.clamp(1, most.token_budget),
            chunk: wanted.chunk.clamp(1, most.chunk),
            max_partial_prefills: wanted.max_partial_prefills.clamp(1, most.max_partial_prefills),
            max_running: wanted.max_running.clamp(1, most.max_running),
            watermark_blocks: wanted.watermark_blocks,
        }
    }

    /// Lets better-ranked waiting sequences push out worse-ranked running ones, if the policy
    /// works that way: as many as cannot run beside those that stay. The oldest always stays.
    fn displace(&mut self, limits: Limits, now: Nanos) -> Displaced {
        if self.policy.displacement() == Displacement::Never {
            return Displaced::Done;
        }
        let Some(model) = self.state.decoder() else { return Displaced::Done };
        let (mut num_promised, mut promised_blocks) = (0, 0);
        let mut cursor: Option<Position> = None;
        while let Some(waiting) = self.state.queue.next(model, cursor) {
            cursor = Some(waiting);
            let blocks = promised_blocks + self.state.blocks_to_start(waiting.1, limits);
            while !self.state.has_room(num_promised + 1, blocks, limits) {
                match self.state.displaceable() {
                    Some(worst) if waiting >= worst => return Displaced::Done,
                    Some(_) if self.state.pipeline.is_busy() => return Displaced::PutOff,
                    Some(worst) => {
                        let mode = self.state.view(now).preemption();
                        let victim = Victim { id: worst.1, mode };
                        self.preempt(victim, (waiting.1, PreemptionCause::Displaced), now);
                    }
                    None => return Displaced::Done,
                }
            }
            num_promised += 1;
            promised_blocks = blocks;
        }
        Displaced::Done
    }

    pub(super) fn plan_running(&mut self, step: &mut Step) {
        let mut in_turn = std::mem::take(&mut self.state.in_turn);
        let oldest = self.state.oldest_running();
        in_turn.extend(oldest);
        in_turn.extend(self.state.running.iter().map(|&(_, id)| id));
        step.plan.seqs.reserve(in_turn.len() + SPARE_ROWS);
        for (index, &id) in in_turn.iter().enumerate() {
            if index > 0 && Some(id) == oldest {
                continue; // it was first
            }
            let sequence = self.state.sequences.get(id);
            if sequence.status != Status::Running {
                continue; // preempted by one before it
            }
            let start = sequence.num_scheduled();
            let end = start + step.budget.share_of(self.state.num_ready(id));
            if end > start && self.secure_blocks(id, end, step) {
                self.grant(id, end, step);
            }
        }
        in_turn.clear();
        self.state.in_turn = in_turn;
    }

    /// Makes positions up to `end` of a running sequence writable, preempting others not yet in
    /// the plan if need be. False when it was itself preempted.
    #[inline]
    fn secure_blocks(&mut self, id: SequenceId, end: u32, step: &mut Step) -> bool {
        self.state.allocate(id, end, &mut step.plan) || self.secure_by_force(id, end, step)
    }

    /// The same where blocks are missing.
    fn secure_by_force(&mut self, id: SequenceId, end: u32, step: &mut Step) -> bool {
        while !self.state.allocate(id, end, &mut step.plan) {
            step.preempted = true;
            let victim = self.choose_victim(step.now);
            self.preempt(victim, (id, PreemptionCause::OutOfBlocks), step.now);
            if victim.id == id {
                return false;
            }
        }
        true
    }

    fn choose_victim(&mut self, now: Nanos) -> Victim {
        let oldest = self.state.oldest_running();
        let candidates: Vec<SequenceId> = self
            .state
            .running
            .iter()
            .map(|&(_, id)| id)
            .filter(|&id| Some(id) != oldest && !self.state.contains(id))
            .collect();
        let Some(&last) = candidates.last() else {
            panic!("the oldest sequence does not fit into an otherwise empty pool");
        };
        let view = self.state.view(now);
        let choice = self.policy.victim(&candidates, &view);
        choice
            .filter(|victim| candidates.contains(&victim.id))
            .unwrap_or(Victim { id: last, mode: view.preemption() })
    }

    /// Back to the queue without blocks, for the sake of another.
    pub(super) fn preempt(
        &mut self,
        Victim { id, mode }: Victim,
        (beneficiary, cause): (SequenceId, PreemptionCause),
        now: Nanos,
    ) {
        assert!(!self.state.pipeline.is_busy(), "sequence {id} gives way in flight");
        let num_computed = self.state.sequences.get(id).num_computed();
        self.state.take_blocks(id, mode);
        let is_saved = !self.state.host.blocks_of(id).is_empty();
        self.state.recorder.note(|| {
            let fate = if is_saved { ComputedFate::Saved } else { ComputedFate::Dropped };
            Decision::Preempted(Preemption { id, beneficiary, cause, num_computed, fate })
        });
        self.state.sequences.get(id).events().mark(now, MarkKind::Preempted);
        self.observe(&SchedEvent::Preempted(id), now);
        self.enqueue(id, now);
    }

    fn plan_waiting(&mut self, step: &mut Step, consent: Consent) {
        let Some(model) = self.state.decoder() else {
            return;
        };
        let mut cursor = None;
        while let Some(position) = self.state.queue.next(model, cursor) {
            cursor = Some(position);
            let is_full = self.state.running.len() >= step.budget.limits.max_running as usize;
            let id = position.1;
            if is_full || step.budget.prefill_left == 0 {
                let max_running = step.budget.limits.max_running;
                return self.state.note_blocked(id, || {
                    if is_full {
                        Obstacle::MaxRunning { max_running }
                    } else {
                        Obstacle::TokenBudget
                    }
                });
            }
            let is_gone = || {
                let sequence = self.state.sequences.get(id);
                self.state.recorder.is_gone(sequence, Check::Turn)
            };
            if self.state.watch.is_held(id) && !is_gone() {
                continue;
            }
            let reserve_tokens = match self.ask(id, consent, step.now) {
                Admit::Now { reserve_tokens } => reserve_tokens,
                Admit::Skip | Admit::Reject => continue,
                Admit::Stop => return self.state.note_blocked(id, || Obstacle::Policy),
            };
            match self.admit_waiting(id, reserve_tokens, step) {
                Admission::Admitted if consent == Consent::Override => return,
                Admission::Admitted | Admission::Skipped => {}
                Admission::Closed => return,
            }
        }
    }

    /// Asks the policy about a waiting sequence; ends it here if it is cancelled or rejected.
    pub(super) fn ask(&mut self, id: SequenceId, consent: Consent, now: Nanos) -> Admit {
        if let Some(end) = self.state.end_of(id, Check::Turn, now) {
            self.end(id, end, now);
            return Admit::Skip;
        }
        if consent == Consent::Override {
            return Admit::Now { reserve_tokens: 0 };
        }
        let sequence = self.state.sequences.get(id);
        let answer = self.policy.admit(PolicyRequest(sequence), &self.state.view(now));
        if answer == Admit::Reject {
            let reason = format!("the {} policy rejected it", self.policy.name());
            self.end(id, End::Reported(FinishReason::Refused(reason)), now);
        } else if answer == Admit::Skip {
            self.state.recorder.note_once(id, || Decision::Skipped(id));
        }
        answer
    }

    /// Takes a waiting sequence in and grants it its share, if blocks suffice.
    fn admit_waiting(&mut self, id: SequenceId, reserve: u32, step: &mut Step) -> Admission {
        let Some(mut start) = self.state.start_of(id) else { return Admission::Skipped };
        start.num_tokens = step.budget.prefill_share(start.pending);
        if start.num_tokens < start.pending
            && step.budget.num_partial >= step.budget.limits.max_partial_prefills
        {
            self.state.note_blocked(id, || Obstacle::PartialPrefills);
            return Admission::Closed;
        }
        let has_company = !self.state.running.is_empty();
        let watermark = if has_company { step.budget.limits.watermark_blocks } else { 0 };
        let (needed, free) = self.state.blocks_for(start, reserve);
        let needed = needed.saturating_add(watermark);
        if needed > free {
            self.state.note_blocked(id, || Obstacle::Blocks { needed, free });
            return Admission::Closed;
        }
        self.take_in(id, start, step);
        self.grant(id, start.end(), step);
        Admission::Admitted
    }

    /// Lets a waiting sequence run, with what the prefix cache has of it, what more a preemption
    /// saved of it, and the blocks for `start`, which must be free.
    pub(super) fn take_in(&mut self, id: SequenceId, start: Start, step: &mut Step) {
        let state = &mut self.state;
        state.queue.remove(id);
        let sequence = state.sequences.get_mut(id);
        state.features.leaves(sequence);
        let salt = sequence.request.cache_salt;
        let mut table = std::mem::take(&mut sequence.table);
        let tokens = sequence.tokens_to_match();
        let matched = state.allocator.match_prefix(tokens, salt, &mut table);
        sequence.table = table;
        assert_eq!(matched, start.matched.num_tokens, "sequence {id}: matched prefix");
        sequence.start_at(matched);
        if sequence.mark_started(step.now) {
            sequence.stats.num_cached_tokens = matched;
            state.totals.queue.num_started += 1;
            state.totals.queue.num_started_tokens += u64::from(sequence.num_known());
        } else {
            sequence.events().mark(step.now, MarkKind::Resumed);
        }
        let is_secured = state.allocate(id, start.end(), &mut step.plan);
        assert!(is_secured, "sequence {id}: too few free blocks");
        state.bring_back(id, start.from, &mut step.plan);
        let num_cached_tokens = start.from;
        state.recorder.note(|| Decision::Admitted { id, num_cached_tokens });
        self.observe(&SchedEvent::Admitted { id, num_cached_tokens }, step.now);
        self.start_running(id, step.now);
    }

    /// Enters the positions of a sequence up to `end` that no step has yet into the plan, and books
    /// them.
    #[inline]
    pub(super) fn grant(&mut self, id: SequenceId, end: u32, step: &mut Step) {
        let sequence = self.state.sequences.get(id);
        let num_tokens = end - sequence.num_scheduled();
        if !self.state.is_encoder(sequence.request.model) {
            step.budget.take(sequence.num_pending(), num_tokens);
        }
        self.enter(id, end, step);
    }

    /// Enters the positions of a sequence up to `end` that no step has yet into the plan.
    #[inline]
    pub(super) fn enter(&mut self, id: SequenceId, end: u32, step: &mut Step) {
        let number = self.state.pipeline.next_step();
        let sequence = self.state.sequences.get_mut(id);
        let (model, tenant) = (sequence.request.model, sequence.request.tenant);
        let positions = sequence.num_scheduled()..end;
        let num_tokens = end - positions.start;
        if sequence.is_chunk(&positions) {
            sequence.events().mark(step.now, MarkKind::ChunkPlanned(num_tokens));
        }
        assert_ne!(sequence.progress.last_step, number, "sequence {id} is planned twice");
        let (token, emits) = sequence.schedule(end, number);
        sequence.progress.last_granted = Some(step.now);
        let scheduled = ScheduledSeq { id, model, positions, token, emits };
        self.state.check_row(&scheduled);
        step.plan.seqs.push(scheduled);
        let num_results = u32::from(emits);
        let event = SchedEvent::Granted { id, tenant, num_tokens, num_results, step: number };
        self.observe(&event, step.now);
        self.mark_stale(tenant);
    }
}

impl State {
    pub(super) fn models_of(
        &self,
        is_wanted: impl Fn(ModelKind) -> bool + 'static,
    ) -> impl Iterator<Item = ModelId> + '_ {
        let models = self.config.models.iter().enumerate();
        models.filter(move |(_, model)| is_wanted(model.kind)).map(|(i, _)| ModelId(i as u32))
    }

    pub(super) fn decoder(&self) -> Option<ModelId> {
        self.models_of(|kind| kind == ModelKind::Decoder).next()
    }

    /// Running decoder sequences in the order of service: the oldest, then by rank.
    pub(super) fn running_in_turn(&self) -> impl Iterator<Item = SequenceId> + '_ {
        let oldest = self.oldest_running();
        let running = self.running.iter().map(|&(_, id)| id);
        oldest.into_iter().chain(running.filter(move |&id| Some(id) != oldest))
    }

    pub(super) fn oldest_running(&self) -> Option<SequenceId> {
        self.oldest
    }

    /// How a sequence ends now, if its client is gone or its deadline has passed. The deadline
    /// comes first: a client that hears of it from one choice is gone for the others at once.
    pub(super) fn end_of(&self, id: SequenceId, check: Check, now: Nanos) -> Option<End> {
        let sequence = self.sequences.get(id);
        if sequence.request.deadline.is_some_and(|deadline| deadline < now) {
            return Some(End::Reported(FinishReason::DeadlineExceeded));
        }
        self.recorder.is_gone(sequence, check).then_some(End::Cancelled(check))
    }

    /// How a waiting sequence would start, with nothing to compute yet; `None` while a running one
    /// is about to compute what both share.
    pub(super) fn start_of(&mut self, id: SequenceId) -> Option<Start> {
        let sequence = self.sequences.get(id);
        let salt = sequence.request.cache_salt;
        let matched = self.allocator.peek_prefix(sequence.tokens_to_match(), salt);
        let from = matched.num_tokens.max(sequence.num_computed());
        let num_ready_blocks = from / self.config.block_size;
        if self.watch.hold(id, &sequence.request.prompt_hashes, num_ready_blocks) {
            let watch = &self.watch;
            self.recorder.note_once(id, || Decision::Held { id, by: watch.computing_for(id) });
            return None;
        }
        let pending = sequence.num_known() - from;
        Some(Start { from, pending, num_tokens: 0, matched })
    }

    /// Free blocks that `start` and `reserve` tokens more need, and those that there are.
    pub(super) fn blocks_for(&self, start: Start, reserve: u32) -> (u32, u32) {
        let PrefixPeek { num_tokens, num_idle_blocks } = start.matched;
        let num_blocks = self.allocator.blocks_for(start.end().saturating_add(reserve));
        let needed = num_blocks - num_tokens / self.config.block_size;
        (needed, self.allocator.num_free() - num_idle_blocks)
    }

    /// Free blocks that a waiting sequence takes for its first step.
    fn blocks_to_start(&self, id: SequenceId, limits: Limits) -> u32 {
        let sequence = self.sequences.get(id);
        let peek =
            self.allocator.peek_prefix(sequence.tokens_to_match(), sequence.request.cache_salt);
        let start = peek.num_tokens.max(sequence.num_computed());
        let end = sequence.num_known().min(start.saturating_add(limits.chunk));
        let num_cached = peek.num_tokens / self.config.block_size;
        self.allocator.blocks_for(end) - num_cached + peek.num_idle_blocks
    }

    /// Whether `num_seqs` more sequences could run that need `num_blocks` free blocks together.
    fn has_room(&self, num_seqs: u32, num_blocks: u32, limits: Limits) -> bool {
        self.running.len() as u32 + num_seqs <= limits.max_running
            && num_blocks <= self.allocator.num_free()
    }

    /// The worst-ranked running sequence that may be displaced.
    fn displaceable(&self) -> Option<Position> {
        let oldest = self.oldest_running();
        self.running.iter().rev().find(|&&(_, id)| Some(id) != oldest).copied()
    }

    /// Makes the next positions up to `end` writable; false when blocks are missing.
    #[inline]
    pub(super) fn allocate(&mut self, id: SequenceId, end: u32, plan: &mut StepPlan) -> bool {
        let sequence = self.sequences.get_mut(id);
        let positions = sequence.num_scheduled()..end;
        match self.allocator.secure(&mut sequence.table, positions) {
            Ok(copy) => plan.copies.extend(copy),
            Err(_) => return false,
        }
        true
    }
}
