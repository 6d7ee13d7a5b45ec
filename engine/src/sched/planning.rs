//! Planning a step: who computes which positions under the token budget and the pool.
//!
//! Order: encoder texts under their share; the oldest running sequence, which is never preempted;
//! other running sequences that decode, then those amid their prompt; then waiting ones in policy
//! order. When blocks run out, a sequence not yet in the plan gives way.

use super::queue::Position;
use super::scheduler::{End, Scheduler, State};
use super::sequence::Status;
use super::{Admit, Displacement, Limits, PolicyRequest, RERANK_WINDOW, Refresh, SchedEvent};
use crate::types::{
    FinishReason, ModelId, ModelKind, Nanos, ScheduledSeq, SequenceId, StepPlan, TenantId,
};

/// Cancelled requests that wait are looked for every so many plans; running ones in each.
const PLANS_BETWEEN_QUEUE_SWEEPS: u64 = 16;

/// A plan in the making.
struct Step {
    plan: StepPlan,
    limits: Limits,
    now: Nanos,
    /// Sequences that may still take their one decode token.
    decodes_left: u32,
    /// Tokens left for prompts.
    prefill_left: u32,
    num_partial: u32,
    preempted: bool,
}

/// Whether a waiting sequence was taken in.
enum Admission {
    Admitted,
    /// Not this one; look at the next.
    Skipped,
    /// Nobody else either.
    Closed,
}

/// Whether the policy is asked before a waiting sequence is taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consent {
    Ask,
    /// Nothing else can run: progress comes before the policy's wish.
    Override,
}

impl Scheduler {
    /// The next step, or `None` when nothing can be computed now. A plan must be followed by its
    /// [`commit`](Self::commit) or [`abort`](Self::abort) before the next is made.
    pub fn plan(&mut self, now: Nanos) -> Option<StepPlan> {
        self.state.num_plans += 1;
        self.drop_ended(now);
        self.rerank(now);
        let limits = self.step_limits(now);
        self.displace(limits, now);
        let mut step = self.state.start_step(limits, now);
        self.plan_encoders(&mut step, Consent::Ask);
        self.plan_running(&mut step);
        if !step.preempted {
            self.plan_waiting(&mut step, Consent::Ask);
        }
        if step.plan.seqs.is_empty() {
            self.plan_encoders(&mut step, Consent::Override);
        }
        if step.plan.seqs.is_empty() {
            self.plan_waiting(&mut step, Consent::Override);
        }
        self.state.check_plan(&step);
        (!step.plan.seqs.is_empty()).then_some(step.plan)
    }

    /// Ends what was cancelled or has waited past its deadline.
    fn drop_ended(&mut self, now: Nanos) {
        let sweep = self.state.num_plans % PLANS_BETWEEN_QUEUE_SWEEPS == 1;
        let state = &self.state;
        let running = state.running.iter().map(|&(_, id)| id);
        let cancelled: Vec<SequenceId> = if sweep {
            let ids = state
                .sequences
                .iter()
                .filter(|s| s.events().is_closed())
                .map(|s| s.id);
            let mut ids: Vec<_> = ids.collect();
            ids.sort_unstable();
            ids
        } else {
            running
                .filter(|&id| state.sequences.get(id).events().is_closed())
                .collect()
        };
        for id in cancelled {
            self.end(id, End::Cancelled, now);
        }
        if sweep {
            let expired: Vec<_> = self
                .state
                .queue
                .iter()
                .filter(|&id| self.state.is_expired(id, now))
                .collect();
            for id in expired {
                self.end(id, End::Reported(FinishReason::DeadlineExceeded), now);
            }
        }
    }

    fn rerank(&mut self, now: Nanos) {
        if self.policy.refresh() != Refresh::EveryStep {
            return;
        }
        let waiting: Vec<_> = self.state.queue.iter().take(RERANK_WINDOW).collect();
        self.rank_again(&waiting, now);
        for index in 0..self.state.running.len() {
            let id = self.state.running[index].1;
            let view = self.state.view(now);
            let sequence = self.state.sequences.get(id);
            self.state.running[index].0 = self.policy.rank(&PolicyRequest(sequence), &view);
        }
        self.state.running.sort_unstable();
    }

    fn rank_again(&mut self, waiting: &[SequenceId], now: Nanos) {
        for &id in waiting {
            let sequence = self.state.sequences.get(id);
            let rank = self
                .policy
                .rank(&PolicyRequest(sequence), &self.state.view(now));
            self.state.queue.move_to(id, rank);
        }
    }

    /// The policy's limits, none above the configured ones and none that stops everything.
    fn step_limits(&mut self, now: Nanos) -> Limits {
        let view = self.state.view(now);
        let most = view.defaults();
        let wanted = self.policy.limits(&view);
        Limits {
            token_budget: wanted.token_budget.clamp(1, most.token_budget),
            chunk: wanted.chunk.clamp(1, most.chunk),
            max_partial_prefills: wanted
                .max_partial_prefills
                .clamp(1, most.max_partial_prefills),
            max_running: wanted.max_running.clamp(1, most.max_running),
            watermark_blocks: wanted.watermark_blocks,
        }
    }

    /// Lets better-ranked waiting sequences push out worse-ranked running ones, if the policy
    /// works that way: as many as cannot run beside those that stay.
    fn displace(&mut self, limits: Limits, now: Nanos) {
        if self.policy.displacement() == Displacement::Never {
            return;
        }
        let Some(model) = self.state.decoder() else {
            return;
        };
        let mut cursor: Option<Position> = None;
        while let Some(waiting) = self.state.queue.next(model, cursor) {
            cursor = Some(waiting);
            let Some(&worst) = self.state.running.last() else {
                return;
            };
            let is_oldest = Some(worst.1) == self.state.oldest_running();
            if waiting >= worst || is_oldest || self.state.has_room(waiting.1, limits) {
                return;
            }
            self.preempt(worst.1, now);
        }
    }

    fn plan_encoders(&mut self, step: &mut Step, consent: Consent) {
        let (allowance, models) = self.state.encoder_share(step, consent);
        let mut left = allowance;
        let mut is_blocked = false;
        for model in models {
            let mut num_seqs = 0;
            let mut cursor = None;
            while let Some(position) = self.state.queue.next(model, cursor) {
                cursor = Some(position);
                let num_tokens = self.state.sequences.get(position.1).num_known();
                if num_tokens > left || num_seqs == step.limits.max_running {
                    is_blocked |= num_tokens > left;
                    break;
                }
                match self.ask(position.1, consent, step.now) {
                    Admit::Now { .. } => {}
                    Admit::Skip | Admit::Reject => continue,
                    Admit::Stop => break,
                }
                self.state.queue.remove(position.1);
                let sequence = self.state.sequences.get_mut(position.1);
                sequence.status = Status::Running;
                sequence.stats.first_scheduled = Some(step.now);
                self.grant(position.1, num_tokens, step);
                left -= num_tokens;
                num_seqs += 1;
            }
        }
        step.prefill_left -= allowance - left;
        self.state.encoder_credit = if is_blocked { left } else { 0 };
    }

    fn plan_running(&mut self, step: &mut Step) {
        let oldest = self.state.oldest_running();
        let (decoding, prefilling): (Vec<SequenceId>, Vec<SequenceId>) = self
            .state
            .running
            .iter()
            .map(|&(_, id)| id)
            .filter(|&id| Some(id) != oldest)
            .partition(|&id| self.state.sequences.get(id).num_pending() == 1);
        for id in oldest.into_iter().chain(decoding).chain(prefilling) {
            let sequence = self.state.sequences.get(id);
            if sequence.status != Status::Running {
                continue; // preempted by one before it
            }
            let pending = sequence.num_pending();
            let end = sequence.num_computed + step.share_of(pending);
            if end > sequence.num_computed && self.secure_blocks(id, end, step) {
                self.grant(id, end, step);
            }
        }
    }

    /// Makes positions up to `end` of a running sequence writable, preempting others not yet in
    /// the plan if need be. False when it was itself preempted.
    fn secure_blocks(&mut self, id: SequenceId, end: u32, step: &mut Step) -> bool {
        while !self.state.allocate(id, end, &mut step.plan) {
            step.preempted = true;
            let victim = self.choose_victim(step);
            self.preempt(victim, step.now);
            if victim == id {
                return false;
            }
        }
        true
    }

    fn choose_victim(&mut self, step: &Step) -> SequenceId {
        let oldest = self.state.oldest_running();
        let candidates: Vec<SequenceId> = self
            .state
            .running
            .iter()
            .map(|&(_, id)| id)
            .filter(|&id| Some(id) != oldest && !step.contains(id))
            .collect();
        let Some(&last) = candidates.last() else {
            panic!("the oldest sequence does not fit into an otherwise empty pool");
        };
        let choice = self.policy.victim(&candidates, &self.state.view(step.now));
        choice
            .map(|victim| victim.id)
            .filter(|id| candidates.contains(id))
            .unwrap_or(last)
    }

    /// Back to the queue without blocks.
    fn preempt(&mut self, id: SequenceId, now: Nanos) {
        self.state.drop_blocks(id);
        self.enqueue(id, now);
        self.observe(&SchedEvent::Preempted(id), now);
    }

    fn plan_waiting(&mut self, step: &mut Step, consent: Consent) {
        let Some(model) = self.state.decoder() else {
            return;
        };
        let mut cursor = None;
        while let Some(position) = self.state.queue.next(model, cursor) {
            cursor = Some(position);
            let is_full = self.state.running.len() >= step.limits.max_running as usize;
            if is_full || step.prefill_left == 0 {
                return;
            }
            let id = position.1;
            let reserve_tokens = match self.ask(id, consent, step.now) {
                Admit::Now { reserve_tokens } => reserve_tokens,
                Admit::Skip | Admit::Reject => continue,
                Admit::Stop => return,
            };
            match self.admit_waiting(id, reserve_tokens, step) {
                Admission::Admitted if consent == Consent::Override => return,
                Admission::Admitted | Admission::Skipped => {}
                Admission::Closed => return,
            }
        }
    }

    /// Asks the policy about a waiting sequence; ends it here if it is cancelled or rejected.
    fn ask(&mut self, id: SequenceId, consent: Consent, now: Nanos) -> Admit {
        let sequence = self.state.sequences.get(id);
        if sequence.events().is_closed() {
            self.end(id, End::Cancelled, now);
            return Admit::Skip;
        }
        if self.state.is_expired(id, now) {
            self.end(id, End::Reported(FinishReason::DeadlineExceeded), now);
            return Admit::Skip;
        }
        if consent == Consent::Override {
            return Admit::Now { reserve_tokens: 0 };
        }
        let answer = self
            .policy
            .admit(&PolicyRequest(sequence), &self.state.view(now));
        if answer == Admit::Reject {
            let reason = format!("the {} policy rejected it", self.policy.name());
            self.end(id, End::Reported(FinishReason::Refused(reason)), now);
        }
        answer
    }

    /// Takes a waiting sequence in with what the prefix cache has of it, if blocks suffice.
    fn admit_waiting(&mut self, id: SequenceId, reserve: u32, step: &mut Step) -> Admission {
        let state = &mut self.state;
        let sequence = state.sequences.get_mut(id);
        let peek = state
            .allocator
            .peek_prefix(&sequence.tokens, sequence.request.cache_salt);
        let num_cached_blocks = peek.num_tokens / state.config.block_size;
        if state
            .watch
            .is_coming(&sequence.request.prompt_hashes, num_cached_blocks)
        {
            return Admission::Skipped;
        }
        let pending = sequence.num_known() - peek.num_tokens;
        let num_tokens = step.prefill_share(pending);
        if num_tokens < pending && step.num_partial >= step.limits.max_partial_prefills {
            return Admission::Closed;
        }
        let end = peek.num_tokens + num_tokens;
        let need = state.allocator.blocks_for(end.saturating_add(reserve)) - num_cached_blocks;
        let watermark = if state.running.is_empty() {
            0
        } else {
            step.limits.watermark_blocks
        };
        let available = state.allocator.num_free() - peek.num_idle_blocks;
        if u64::from(need) + u64::from(watermark) > u64::from(available) {
            return Admission::Closed;
        }
        state.queue.remove(id);
        let salt = sequence.request.cache_salt;
        let matched = state
            .allocator
            .match_prefix(&sequence.tokens, salt, &mut sequence.table);
        assert_eq!(matched, peek.num_tokens, "sequence {id}: matched prefix");
        sequence.num_computed = matched;
        if sequence.stats.num_preemptions == 0 {
            sequence.stats.num_cached_tokens = matched;
            sequence.stats.first_scheduled = Some(step.now);
        }
        assert!(
            state.allocate(id, end, &mut step.plan),
            "sequence {id}: {need} free blocks"
        );
        self.start_running(id, step.now);
        self.observe(
            &SchedEvent::Admitted {
                id,
                num_cached_tokens: matched,
            },
            step.now,
        );
        self.grant(id, end, step);
        Admission::Admitted
    }

    /// Enters positions from `num_computed` to `end` of a sequence into the plan.
    fn grant(&mut self, id: SequenceId, end: u32, step: &mut Step) {
        let sequence = self.state.sequences.get(id);
        let positions = sequence.num_computed..end;
        let num_tokens = end - positions.start;
        let emits = end == sequence.num_known();
        let (model, tenant) = (sequence.request.model, sequence.request.tenant);
        let is_encoder = self.state.config.models[model.index()].kind == ModelKind::Encoder;
        if !is_encoder {
            step.take(sequence.num_pending(), num_tokens);
        }
        step.plan.seqs.push(ScheduledSeq {
            id,
            model,
            positions,
            emits,
        });
        self.observe(
            &SchedEvent::Granted {
                id,
                tenant,
                num_tokens,
            },
            step.now,
        );
        if self.policy.refresh() == Refresh::OnTenantEvent {
            self.rerank_tenant(tenant, step.now);
        }
    }

    fn rerank_tenant(&mut self, tenant: TenantId, now: Nanos) {
        let of_tenant = |id: &SequenceId| self.state.sequences.get(*id).request.tenant == tenant;
        let waiting: Vec<_> = self.state.queue.iter().filter(of_tenant).collect();
        self.rank_again(&waiting, now);
    }
}

impl Step {
    fn contains(&self, id: SequenceId) -> bool {
        self.plan.seqs.iter().any(|scheduled| scheduled.id == id)
    }

    /// Tokens that a running sequence with `pending` tokens may compute.
    fn share_of(&self, pending: u32) -> u32 {
        if pending == 1 {
            self.decodes_left.min(1)
        } else {
            self.prefill_share(pending)
        }
    }

    fn prefill_share(&self, pending: u32) -> u32 {
        pending.min(self.limits.chunk).min(self.prefill_left)
    }

    /// Books `num_tokens` of a decoder sequence's `pending` tokens.
    fn take(&mut self, pending: u32, num_tokens: u32) {
        if pending == 1 && self.decodes_left > 0 {
            self.decodes_left -= 1;
        } else {
            self.prefill_left -= num_tokens;
        }
        self.num_partial += u32::from(num_tokens < pending);
    }
}

impl State {
    fn start_step(&self, limits: Limits, now: Nanos) -> Step {
        let is_decoding = |&&(_, id): &&Position| self.sequences.get(id).num_pending() == 1;
        let num_decoding = self.running.iter().filter(is_decoding).count() as u32;
        let decodes_left = num_decoding.min(limits.token_budget);
        Step {
            plan: StepPlan::default(),
            limits,
            now,
            decodes_left,
            prefill_left: limits.token_budget - decodes_left,
            num_partial: 0,
            preempted: false,
        }
    }

    /// Tokens that encoders may take in this step, and the encoder models in turn. Beside prompts
    /// of a decoder it is half of what decoding leaves, plus what an earlier step left over when
    /// the next text was too long for it; a whole text fits after two steps at the latest.
    fn encoder_share(&self, step: &Step, consent: Consent) -> (u32, Vec<ModelId>) {
        let mut models: Vec<ModelId> = self.models_of(ModelKind::Encoder).collect();
        if models.is_empty() {
            return (0, models);
        }
        let turn = self.num_plans as usize % models.len();
        models.rotate_left(turn);
        let is_prefilling = self
            .running
            .iter()
            .any(|&(_, id)| self.sequences.get(id).num_pending() > 1);
        let has_rival = is_prefilling
            || self
                .decoder()
                .is_some_and(|model| self.queue.len_of(model) > 0);
        let share = if has_rival && consent == Consent::Ask {
            step.prefill_left
                .div_ceil(2)
                .saturating_add(self.encoder_credit)
        } else {
            step.prefill_left
        };
        (share.min(step.prefill_left), models)
    }

    fn models_of(&self, kind: ModelKind) -> impl Iterator<Item = ModelId> + '_ {
        let models = self.config.models.iter().enumerate();
        models
            .filter(move |(_, model)| model.kind == kind)
            .map(|(i, _)| ModelId(i as u32))
    }

    fn decoder(&self) -> Option<ModelId> {
        self.models_of(ModelKind::Decoder).next()
    }

    fn oldest_running(&self) -> Option<SequenceId> {
        self.running.iter().map(|&(_, id)| id).min()
    }

    fn is_expired(&self, id: SequenceId, now: Nanos) -> bool {
        let sequence = self.sequences.get(id);
        sequence.num_generated() == 0
            && sequence
                .request
                .deadline
                .is_some_and(|deadline| deadline < now)
    }

    /// Whether a waiting sequence could run beside all running ones.
    fn has_room(&self, id: SequenceId, limits: Limits) -> bool {
        let sequence = self.sequences.get(id);
        let peek = self
            .allocator
            .peek_prefix(&sequence.tokens, sequence.request.cache_salt);
        let end = sequence
            .num_known()
            .min(peek.num_tokens.saturating_add(limits.chunk));
        let need = self.allocator.blocks_for(end) - peek.num_tokens / self.config.block_size;
        (self.running.len() as u32) < limits.max_running
            && need <= self.allocator.num_free() - peek.num_idle_blocks
    }

    /// Makes positions from `num_computed` to `end` writable; false when blocks are missing.
    fn allocate(&mut self, id: SequenceId, end: u32, plan: &mut StepPlan) -> bool {
        let sequence = self.sequences.get_mut(id);
        let covered = sequence.table.num_blocks() * self.config.block_size;
        if sequence.num_computed < covered {
            let position = sequence.num_computed;
            match self.allocator.make_writable(&mut sequence.table, position) {
                Ok(copy) => plan.copies.extend(copy),
                Err(_) => return false,
            }
        }
        self.allocator.grow(&mut sequence.table, end).is_ok()
    }

    fn check_plan(&self, step: &Step) {
        let plan = &step.plan;
        let num_tokens = plan.num_tokens();
        let budget = step.limits.token_budget;
        assert!(
            num_tokens <= budget,
            "{num_tokens} tokens planned, budget {budget}"
        );
        let mut ids: Vec<_> = plan.seqs.iter().map(|scheduled| scheduled.id).collect();
        ids.sort_unstable();
        assert!(
            ids.windows(2).all(|pair| pair[0] < pair[1]),
            "a sequence is planned twice"
        );
        for scheduled in &plan.seqs {
            let sequence = self.sequences.get(scheduled.id);
            let range = &scheduled.positions;
            assert!(
                sequence.status == Status::Running,
                "planned but not running: {sequence:?}"
            );
            assert!(
                range.start == sequence.num_computed && range.end > range.start,
                "{range:?}"
            );
            assert!(
                range.end <= sequence.num_known(),
                "{range:?} of {}",
                sequence.num_known()
            );
            let covered = sequence.table.num_blocks() * self.config.block_size;
            let kind = self.config.models[scheduled.model.index()].kind;
            assert!(
                kind == ModelKind::Encoder || covered >= range.end,
                "{range:?} in {covered}"
            );
        }
    }
}
