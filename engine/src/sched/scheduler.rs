//! The scheduler's state, and how requests enter and leave it. Planning is in `planning`, entering
//! the results of a step in `commit`.
//!
//! Invariants, asserted: a sequence is in exactly one place (queue, running list, following a
//! sibling, or an encoder text in flight); it gets exactly one end; a request that can never fit
//! is refused at admission, so the oldest running sequence always progresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::decisions::{self, Check, Decision, Ending, Recorder};
use super::features::Features;
use super::lookahead::Pipeline;
use super::queue::{Position, Queue};
use super::sequence::{Progress, Status};
use super::shadow::Shadow;
use super::swap::HostPool;
use super::tally::Tally;
use super::watch::{PrefixWatch, chain_hashes};
use super::{
    BlockAllocator, Decider, Limits, PolicyRequest, PrefixCounters, Refresh, RequestInfo,
    SchedEvent, Sequence, Sequences, View,
};
use crate::types::{
    EngineConfig, Event, FinishReason, LatencySum, ModelId, ModelKind, Nanos, PrefixCaching,
    Refusal, Request, RequestStats, SamplingParams, SequenceId, Task, TenantId,
};

/// Decides every step of the engine. Deterministic: equal calls give equal plans.
pub struct Scheduler {
    pub(super) policy: Decider,
    /// Asked what it would do, and never followed.
    pub(super) shadow: Option<Shadow>,
    /// What a planner that is being asked will be told afterwards.
    pub(super) untold: Option<Vec<SchedEvent>>,
    pub(super) state: State,
}

/// Everything but the policy, which is shown it read-only.
pub(super) struct State {
    pub(super) config: EngineConfig,
    pub(super) sequences: Sequences,
    pub(super) queue: Queue,
    /// Running decoder sequences, best rank first.
    pub(super) running: Vec<Position>,
    /// The oldest of them.
    pub(super) oldest: Option<SequenceId>,
    /// Room for the list of a plan, empty between plans.
    pub(super) in_turn: Vec<SequenceId>,
    pub(super) allocator: BlockAllocator,
    /// What preempted sequences have computed and saved.
    pub(super) host: HostPool,
    pub(super) watch: PrefixWatch,
    /// What the policy has asked about.
    pub(super) features: Features,
    /// Siblings that wait for the key to compute the prompt they share.
    pub(super) followers: HashMap<SequenceId, Vec<SequenceId>>,
    pub(super) num_following: u32,
    /// Tokens that encoders may take beyond their share of the next step.
    pub(super) encoder_credit: u32,
    /// The encoder model whose turn it is.
    pub(super) encoder_turn: usize,
    /// Sequences to look at for cancellation and expiry, in this and coming plans.
    pub(super) sweep: Vec<SequenceId>,
    /// Tenants whose waiting requests the policy wants to rank anew.
    pub(super) stale_tenants: BTreeSet<TenantId>,
    /// Sequences that may run, by the limits of the latest plan.
    pub(super) max_running: u32,
    /// Steps between their plan and their end.
    pub(super) pipeline: Pipeline,
    pub(super) next_sequence: u64,
    pub(super) recorder: Recorder,
    pub(super) totals: Totals,
    /// Counts by model.
    pub(super) tallies: Vec<Tally>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sequences that lost their blocks.
    pub num_preemptions: u64,
    /// Tokens that had been computed and were dropped by preemption.
    pub num_dropped_tokens: u64,
    /// Tokens that preemption saved in host memory.
    pub num_swapped_out_tokens: u64,
    /// Tokens that were brought back from there.
    pub num_swapped_in_tokens: u64,
    /// Steps committed.
    pub num_steps: u64,
    /// Positions computed for prompts, recomputation included.
    pub num_prefill_tokens: u64,
    /// Prompt tokens of requests whose prompt was finished, once whatever the number of choices.
    pub num_prompt_tokens: u64,
    /// Tokens sampled.
    pub num_generated_tokens: u64,
    /// Positions computed for sequences that had ended while the step was in flight.
    pub num_wasted_tokens: u64,
    /// Steps in which the policy or planner would have computed nothing although something could
    /// be, and the core planned in its place.
    pub num_overridden_plans: u64,
    /// From the arrival of a choice to its first result.
    pub time_to_first_token: LatencySum,
    /// Of the queue.
    pub queue: QueueTotals,
}

/// Counts of what became of waiting sequences, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueTotals {
    /// Sequences that started to run; coming back after a preemption does not count.
    pub num_started: u64,
    /// Tokens of those among them that had waited for a turn, not for a sibling.
    pub num_started_tokens: u64,
    /// Sequences whose deadline passed before they ran: nothing was computed for them.
    pub num_expired_waiting: u64,
    /// Sequences whose deadline passed after something was.
    pub num_expired_running: u64,
}

/// The state in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Sequences that take part in steps.
    pub num_running: u32,
    /// Sequences that wait, for a turn or for a sibling.
    pub num_waiting: u32,
    /// Tokens known of those that wait for a turn.
    pub num_waiting_tokens: u64,
    /// Blocks that can be handed out in all.
    pub num_blocks: u32,
    /// Blocks held by sequences, and by steps in flight for sequences that have ended.
    pub num_used_blocks: u32,
    /// Blocks of host memory for preempted sequences.
    pub num_host_blocks: u32,
    /// Those among them in which something is saved.
    pub num_used_host_blocks: u32,
    /// Counts since the start.
    pub totals: Totals,
    /// Totals of the prefix index.
    pub prefix: PrefixCounters,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gauges = self.gauges();
        f.debug_struct("Scheduler")
            .field("policy", &self.policy.name())
            .field("gauges", &gauges)
            .finish_non_exhaustive()
    }
}

/// Whether the engine could ever compute `request`, with the numbers if not.
pub fn check_request(request: &Request, config: &EngineConfig) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::Invalid(message));
    let Some(model) = config.models.get(request.model.index()) else {
        return invalid(format!("model {} of {}", request.model, config.models.len()));
    };
    if request.prompt.is_empty() || request.choices.is_empty() {
        return invalid("the prompt and the list of choices must not be empty".into());
    }
    if let Some(token) = request.prompt.iter().find(|&&token| token >= model.vocab_size) {
        return invalid(format!("token {token}: the vocabulary has {}", model.vocab_size));
    }
    let num_choices = request.choices.len();
    let max_tokens = match (&request.task, model.kind) {
        (Task::Generate(params), ModelKind::Decoder) => params.stop.max_tokens,
        (Task::Embed, ModelKind::Encoder) | (Task::Score { .. }, ModelKind::CrossEncoder) => {
            if num_choices != 1 {
                return invalid(format!("{num_choices} choices of a vector or score: must be 1"));
            }
            0
        }
        (Task::Generate(_), _) => return invalid("an encoder model cannot generate".into()),
        (Task::Embed, ModelKind::CrossEncoder) => {
            return invalid("a cross-encoder scores pairs and cannot embed".into());
        }
        (Task::Embed, ModelKind::Decoder) => {
            return invalid("a decoder model cannot embed".into());
        }
        (Task::Score { .. }, _) => {
            return invalid("only a cross-encoder scores pairs".into());
        }
    };
    let scores_prompt = |params: &SamplingParams| params.prompt_logprobs.is_some();
    let may_be_zero = matches!(&request.task, Task::Generate(params) if scores_prompt(params));
    if model.kind == ModelKind::Decoder && max_tokens == 0 && !may_be_zero {
        return invalid("max_tokens = 0: must be at least 1".into());
    }
    let prompt = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
    let max_model_len = model.max_model_len;
    if prompt.saturating_add(max_tokens) > max_model_len {
        return Err(Refusal::ContextLength { prompt, max_tokens, max_model_len });
    }
    let capacity = config.kv_capacity_tokens();
    if model.kind == ModelKind::Decoder && prompt + max_tokens > capacity {
        return Err(Refusal::KvCapacity { prompt, max_tokens, capacity });
    }
    Ok(())
}

impl Scheduler {
    /// A scheduler for a validated `config` under a policy or a planner.
    #[must_use]
    pub fn new(config: EngineConfig, policy: impl Into<Decider>) -> Self {
        Self { policy: policy.into(), shadow: None, untold: None, state: State::new(config) }
    }

    /// Takes a request in. One that can never be computed ends at once as refused.
    pub fn admit(&mut self, request: Request, now: Nanos) {
        self.admit_expecting(request, Nanos(0), now);
    }

    /// Takes a request in that was told how long it is expected to wait.
    pub fn admit_expecting(&mut self, request: Request, expected_wait: Nanos, now: Nanos) {
        let next_sequence = self.state.next_sequence;
        self.state.recorder.begin(now, || decisions::arrival(&request, next_sequence));
        if let Err(refusal) = check_request(&request, &self.state.config) {
            self.state.recorder.note(|| Decision::Refused(refusal.to_string()));
            for choice in request.choices {
                let reason = FinishReason::Refused(refusal.to_string());
                let _ =
                    choice.events.send(Event::Finished { reason, stats: RequestStats::default() });
            }
            return;
        }
        let leader = SequenceId(self.state.next_sequence);
        let followers = self.state.insert_choices(request, expected_wait, now);
        self.observe(&SchedEvent::Arrived(leader), now);
        for &follower in &followers {
            self.observe(&SchedEvent::Arrived(follower), now);
        }
        if !followers.is_empty() {
            self.state.followers.insert(leader, followers);
        }
        self.enqueue(leader, now);
    }

    /// Sequences, for the executor.
    pub fn sequences_mut(&mut self) -> &mut Sequences {
        &mut self.state.sequences
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state.sequences.is_empty()
    }

    /// The state in numbers.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let state = &self.state;
        let num_waiting = state.queue.len() as u32 + state.num_following;
        Gauges {
            num_running: state.sequences.len() as u32 - num_waiting,
            num_waiting,
            num_waiting_tokens: state.queue.num_tokens(),
            num_blocks: state.allocator.num_blocks(),
            num_used_blocks: state.allocator.num_blocks() - state.allocator.num_free(),
            num_host_blocks: state.host.num_blocks(),
            num_used_host_blocks: state.host.num_blocks() - state.host.num_free(),
            totals: state.totals,
            prefix: state.allocator.counters(),
        }
    }

    /// Checks all invariants that cost more than a step may pay.
    pub fn assert_consistent(&self) {
        let state = &self.state;
        let tables = state.sequences.iter().map(Sequence::table);
        state.allocator.assert_consistent(tables.chain(state.pipeline.retired()));
        state.pipeline.assert_consistent();
        state.assert_saved();
        let mut num_following = 0;
        for sequence in state.sequences.iter() {
            let id = sequence.id;
            state.assert_progress(sequence);
            let is_running = state.running.iter().any(|&(_, other)| other == id);
            let places = (state.queue.contains(id), is_running, state.is_following(sequence));
            let expected = match sequence.status {
                Status::Waiting => (true, false, false),
                Status::Running => (false, !state.is_encoder(sequence.request.model), false),
                Status::Following(_) => (false, false, true),
            };
            assert_eq!(places, expected, "(queued, running, following) of {sequence:?}");
            assert!(
                is_running || sequence.table.is_empty(),
                "holds blocks without running: {sequence:?}"
            );
            num_following += u32::from(places.2);
        }
        assert_eq!(num_following, state.num_following, "sequences that follow");
        assert!(state.running.is_sorted(), "running sequences out of order");
        let oldest = state.running.iter().map(|&(_, id)| id).min();
        assert_eq!(oldest, state.oldest, "the oldest that runs");
    }

    #[inline]
    pub(super) fn observe(&mut self, event: &SchedEvent, now: Nanos) {
        if let Some(untold) = &mut self.untold {
            return untold.push(*event);
        }
        self.policy.observe(event, &self.state.view(now));
        self.tell_shadow(event, now);
    }

    /// Puts a sequence without blocks into the queue, at the rank the policy gives it now.
    pub(super) fn enqueue(&mut self, id: SequenceId, now: Nanos) {
        self.state.sequences.get_mut(id).status = Status::Waiting;
        let view = self.state.view(now);
        let sequence = self.state.sequences.get(id);
        let (model, num_tokens) = (sequence.request.model, sequence.num_known());
        let rank = self.policy.rank(PolicyRequest(sequence), &view);
        self.state.queue.push(id, model, rank, num_tokens);
        self.state.features.waits(sequence);
    }

    /// Ends a sequence, wherever it is: its siblings go on without it, and its blocks return, at
    /// once or when the steps in flight that compute it have ended.
    pub(super) fn end(&mut self, id: SequenceId, end: End, now: Nanos) {
        self.state.recorder.note(|| Decision::Ended { id, end: Ending::from(&end) });
        self.free_followers(id, now);
        let state = &mut self.state;
        let mut sequence = state.sequences.remove(id);
        state.tally(sequence.request.model).num_live -= 1;
        state.pipeline.release(&mut sequence, &mut state.allocator);
        state.host.release(id);
        match sequence.status {
            Status::Waiting => {
                state.queue.remove(id);
                state.features.leaves(&sequence);
            }
            Status::Running => state.stop_running(id),
            Status::Following(leader) => {
                state.num_following -= 1;
                if let Some(followers) = state.followers.get_mut(&leader) {
                    followers.retain(|&follower| follower != id);
                }
            }
        }
        state.watch.forget_held(id);
        if let End::Reported(FinishReason::DeadlineExceeded) = end {
            state.totals.queue.count_expired(&sequence);
        }
        let tenant = sequence.request.tenant;
        let event = sequence.finished();
        if let End::Reported(reason) = end {
            sequence.report(reason);
        }
        self.observe(&event, now);
        self.mark_stale(tenant);
    }

    /// Remembers that ranks of a tenant's waiting requests are out of date.
    #[inline]
    pub(super) fn mark_stale(&mut self, tenant: TenantId) {
        if self.policy.refresh() == Refresh::OnTenantEvent {
            self.state.stale_tenants.insert(tenant);
        }
    }

    /// Once a leader has emitted, its prompt is computed and its siblings can share the blocks.
    pub(super) fn fork_followers(&mut self, leader: SequenceId, now: Nanos) {
        if self.state.followers.is_empty() || self.state.sequences.get(leader).num_generated() == 0
        {
            return;
        }
        let Some(followers) = self.state.followers.remove(&leader) else {
            return;
        };
        self.state.num_following -= followers.len() as u32;
        for follower in followers {
            self.fork(leader, follower, now);
        }
    }

    /// Starts `follower` on the blocks of `leader`'s prompt, or queues it when no more sequences
    /// may run. Only the last prompt token is computed again, for its logits.
    fn fork(&mut self, leader: SequenceId, follower: SequenceId, now: Nanos) {
        let state = &mut self.state;
        if state.running.len() >= state.max_running as usize {
            return self.enqueue(follower, now);
        }
        let source = state.sequences.get(leader);
        let (prompt_len, num_cached_tokens) =
            (source.request.prompt_len, source.stats.num_cached_tokens);
        let table = state.allocator.fork(&source.table);
        let sequence = state.sequences.get_mut(follower);
        sequence.table = table;
        sequence.start_at(prompt_len - 1);
        if sequence.mark_started(now) {
            sequence.stats.num_cached_tokens = num_cached_tokens;
            state.totals.queue.num_started += 1;
        }
        let num_cached_tokens = prompt_len - 1;
        state.recorder.note(|| Decision::Admitted { id: follower, num_cached_tokens });
        let event = SchedEvent::Admitted { id: follower, num_cached_tokens };
        self.observe(&event, now);
        self.start_running(follower, now);
    }

    /// When a leader ends, its siblings share what it computed, or the next one leads.
    fn free_followers(&mut self, leader: SequenceId, now: Nanos) {
        self.fork_followers(leader, now);
        let Some(mut followers) = self.state.followers.remove(&leader) else {
            return;
        };
        if followers.is_empty() {
            return;
        }
        let next = followers.remove(0);
        self.state.num_following -= 1;
        for &follower in &followers {
            self.state.sequences.get_mut(follower).status = Status::Following(next);
        }
        if !followers.is_empty() {
            self.state.followers.insert(next, followers);
        }
        self.enqueue(next, now);
    }

    /// Adds a sequence that holds blocks to the running list.
    pub(super) fn start_running(&mut self, id: SequenceId, now: Nanos) {
        self.state.sequences.get_mut(id).status = Status::Running;
        let view = self.state.view(now);
        let rank = self.policy.rank(PolicyRequest(self.state.sequences.get(id)), &view);
        let state = &mut self.state;
        let sequence = state.sequences.get(id);
        let num_cached = sequence.table.nodes.len() as u32;
        state.watch.start(id, &sequence.request.prompt_hashes, num_cached);
        let index = state.running.partition_point(|&other| other < (rank, id));
        state.running.insert(index, (rank, id));
        state.oldest = Some(state.oldest.map_or(id, |oldest| oldest.min(id)));
    }
}

/// How a sequence leaves.
pub(super) enum End {
    /// Its receiver learns why.
    Reported(FinishReason),
    /// Its receiver is gone, as was found there.
    Cancelled(Check),
}

impl From<&End> for Ending {
    fn from(end: &End) -> Self {
        match end {
            End::Cancelled(check) => Self::Cancelled(*check),
            End::Reported(reason) => match reason {
                FinishReason::Stop(_) => Self::Stop,
                FinishReason::Complete => Self::Complete,
                FinishReason::Length => Self::Length,
                FinishReason::Embedded => Self::Embedded,
                FinishReason::DeadlineExceeded => Self::Deadline,
                FinishReason::Refused(_) => Self::Rejected,
                FinishReason::Failed(message) => Self::Failed(message.clone()),
                FinishReason::StepFailed(_) => Self::StepFailed,
            },
        }
    }
}

impl QueueTotals {
    fn count_expired(&mut self, sequence: &Sequence) {
        match sequence.stats.first_scheduled {
            None => self.num_expired_waiting += 1,
            Some(_) => self.num_expired_running += 1,
        }
    }
}

impl State {
    /// Nothing waits, nothing runs, and all blocks are free and empty.
    pub(super) fn new(config: EngineConfig) -> Self {
        let allocator =
            BlockAllocator::new(config.num_blocks, config.block_size, config.prefix_caching);
        Self {
            queue: Queue::new(config.models.len()),
            max_running: config.max_num_seqs,
            tallies: vec![Tally::default(); config.models.len()],
            host: HostPool::new(config.num_host_blocks),
            config,
            sequences: Sequences::default(),
            running: Vec::new(),
            oldest: None,
            in_turn: Vec::new(),
            allocator,
            watch: PrefixWatch::default(),
            features: Features::default(),
            followers: HashMap::new(),
            num_following: 0,
            encoder_credit: 0,
            encoder_turn: 0,
            sweep: Vec::new(),
            stale_tenants: BTreeSet::new(),
            pipeline: Pipeline::default(),
            next_sequence: 0,
            recorder: Recorder::default(),
            totals: Totals::default(),
        }
    }

    #[inline]
    pub(super) fn view(&self, now: Nanos) -> View<'_> {
        self.view_with(&self.features, now)
    }

    /// The same, with prefix hits that are looked up for whoever `features` belong to.
    #[inline]
    pub(super) fn view_with<'a>(&'a self, features: &'a Features, now: Nanos) -> View<'a> {
        View { now, state: self, features }
    }

    /// The configured limits.
    pub(super) fn default_limits(&self) -> Limits {
        let config = &self.config;
        Limits {
            token_budget: config.max_num_batched_tokens,
            chunk: config.long_prefill_token_threshold.unwrap_or(u32::MAX),
            max_partial_prefills: config.max_num_partial_prefills,
            max_running: config.max_num_seqs,
            watermark_blocks: 0,
        }
    }

    /// Creates a sequence for each choice; all but the first follow it. Returns the followers.
    fn insert_choices(
        &mut self,
        request: Request,
        expected_wait: Nanos,
        now: Nanos,
    ) -> Vec<SequenceId> {
        let prompt_hashes = match (self.config.prefix_caching, &request.task) {
            // Who looks at the whole prompt waits for nobody to compute its beginning.
            (PrefixCaching::On, Task::Generate(params)) if params.prompt_logprobs.is_none() => {
                chain_hashes(&request.prompt, self.config.block_size, request.cache_salt)
            }
            _ => Arc::from([]),
        };
        let info = Arc::new(RequestInfo {
            id: request.id,
            model: request.model,
            task: request.task,
            prompt_len: request.prompt.len() as u32,
            priority: request.priority,
            tenant: request.tenant,
            deadline: request.deadline,
            slo: request.slo,
            cache_salt: request.cache_salt,
            prompt_hashes,
        });
        self.tally(request.model).num_live += request.choices.len() as u32;
        let mut followers = Vec::new();
        let leader = SequenceId(self.next_sequence);
        for (index, choice) in request.choices.into_iter().enumerate() {
            let id = SequenceId(self.next_sequence);
            self.next_sequence += 1;
            let prompt = request.prompt.clone();
            let mut sequence = Sequence::new(id, Arc::clone(&info), index as u32, choice, prompt);
            sequence.stats.arrival = now;
            sequence.stats.expected_wait = expected_wait;
            if index > 0 {
                sequence.status = Status::Following(leader);
                self.num_following += 1;
                followers.push(id);
            }
            self.sequences.insert(sequence);
        }
        followers
    }

    #[inline]
    pub(super) fn is_encoder(&self, model: ModelId) -> bool {
        self.config.models[model.index()].kind.is_encoder()
    }

    /// Checks how far `sequence` is against its tokens, its blocks and the steps in flight.
    fn assert_progress(&self, sequence: &Sequence) {
        let Progress { num_computed, num_scheduled, num_placeholders, .. } = sequence.progress;
        let num_tokens = sequence.num_known() + num_placeholders;
        let is_ordered = num_computed <= num_scheduled && num_scheduled <= num_tokens;
        assert!(is_ordered, "computed, scheduled, known out of order: {sequence:?}");
        let num_saved_blocks = self.host.blocks_of(sequence.id).len() as u32;
        let num_blocks = sequence.table.num_blocks().max(num_saved_blocks);
        let covered = num_blocks * self.config.block_size;
        let is_covered = self.is_encoder(sequence.request.model) || num_scheduled <= covered;
        assert!(is_covered, "computed beyond its blocks: {sequence:?}");
        let is_settled = num_computed == num_scheduled && num_placeholders == 0;
        assert_eq!(is_settled, !self.pipeline.computes(sequence), "in flight: {sequence:?}");
    }

    fn is_following(&self, sequence: &Sequence) -> bool {
        let Status::Following(leader) = sequence.status else {
            return false;
        };
        self.followers.get(&leader).is_some_and(|followers| followers.contains(&sequence.id))
    }

    /// Takes a sequence off the running list; an encoder text in flight is not on it.
    pub(super) fn stop_running(&mut self, id: SequenceId) {
        self.watch.stop(id);
        self.running.retain(|&(_, other)| other != id);
        if self.oldest == Some(id) {
            self.oldest = self.running.iter().map(|&(_, id)| id).min();
        }
    }
}
