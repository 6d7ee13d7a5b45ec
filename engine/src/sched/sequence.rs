//! A token sequence and all that is known about it: one for each choice of a request.
//!
//! Fields are visible inside `sched` only; executors read through accessors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::window::Window;
use super::{BlockTable, SchedEvent};
use crate::panics::caught;
use crate::types::{
    CacheSalt, Choice, Continuation, Event, EventSender, FinishReason, ModelId, Nanos,
    PromptLogprob, RequestId, RequestStats, SamplingParams, SequenceId, Slo, Task, TenantId,
    TokenId, TokenSource,
};

/// What the choices of one request have in common.
#[derive(Debug)]
pub struct RequestInfo {
    /// The request.
    pub id: RequestId,
    /// The model that computes it.
    pub model: ModelId,
    /// Generate or embed.
    pub task: Task,
    /// Tokens of the prompt, special tokens counted.
    pub prompt_len: u32,
    /// Smaller is more urgent.
    pub priority: i32,
    /// Whose request it is.
    pub tenant: TenantId,
    /// When waiting becomes pointless.
    pub deadline: Option<Nanos>,
    /// What the client expects.
    pub slo: Slo,
    /// Who may share its prefix blocks.
    pub cache_salt: Option<CacheSalt>,
    /// Chained hashes of the prompt's shareable blocks; empty without a prefix cache.
    pub(super) prompt_hashes: Arc<[u64]>,
}

/// Known tokens, how far they are computed, and where their keys and values lie.
#[derive(Debug)]
pub struct Sequence {
    pub(super) id: SequenceId,
    pub(super) request: Arc<RequestInfo>,
    pub(super) choice_index: u32,
    pub(super) choice: Choice,
    pub(super) tokens: Vec<TokenId>,
    pub(super) progress: Progress,
    pub(super) table: BlockTable,
    pub(super) counts: Option<TokenCounts>,
    pub(super) stats: RequestStats,
    pub(super) status: Status,
}

/// How far a sequence is computed, and what the steps in flight will add to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Leading positions computed by steps that were committed.
    pub(super) num_computed: u32,
    /// Leading positions computed by these and by steps in flight.
    pub(super) num_scheduled: u32,
    /// Results that steps in flight will yield: tokens to be sampled, or one embedding.
    pub(super) num_placeholders: u32,
    /// The latest step that computes it, by the scheduler's count of steps.
    pub(super) last_step: u64,
    /// When that step was planned.
    pub(super) last_granted: Option<Nanos>,
    /// Leading positions of the prompt whose logits were looked at, where that is wanted.
    pub(super) num_scored: u32,
    /// What was seen there, until it is delivered.
    pub(super) prompt_logprobs: Vec<PromptLogprob>,
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Waits for this sibling to compute the prompt that both share.
    Following(SequenceId),
    /// In the waiting queue: holds no blocks of the device.
    Waiting,
    /// Takes part in steps.
    Running,
}

impl Sequence {
    pub(super) fn new(
        id: SequenceId,
        request: Arc<RequestInfo>,
        choice_index: u32,
        choice: Choice,
        prompt: Vec<TokenId>,
    ) -> Self {
        let counts = match &request.task {
            Task::Generate(params) => TokenCounts::of_prompt(params, &prompt),
            Task::Embed | Task::Score { .. } => None,
        };
        Self {
            id,
            request,
            choice_index,
            choice,
            tokens: prompt,
            progress: Progress::default(),
            table: BlockTable::default(),
            counts,
            stats: RequestStats::default(),
            status: Status::Waiting,
        }
    }

    /// The sequence's id.
    #[must_use]
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// What it shares with the other choices of its request.
    #[must_use]
    pub fn request(&self) -> &RequestInfo {
        &self.request
    }

    /// Which choice of its request it is; also the index of its random stream.
    #[must_use]
    pub fn choice_index(&self) -> u32 {
        self.choice_index
    }

    /// Prompt and generated tokens.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens known: prompt and generated.
    #[must_use]
    #[inline]
    pub fn num_known(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Leading tokens whose keys and values are in the cache, or saved in host memory.
    #[must_use]
    #[inline]
    pub fn num_computed(&self) -> u32 {
        self.progress.num_computed
    }

    /// Leading positions that are computed or that a step in flight computes, the one being
    /// submitted included. At least [`num_computed`](Self::num_computed).
    #[must_use]
    #[inline]
    pub fn num_scheduled(&self) -> u32 {
        self.progress.num_scheduled
    }

    /// Results that steps in flight will yield, the one being submitted included: tokens that are
    /// not among [`tokens`](Self::tokens) yet, or the embedding.
    #[must_use]
    #[inline]
    pub fn num_placeholders(&self) -> u32 {
        self.progress.num_placeholders
    }

    /// Tokens generated so far.
    #[must_use]
    #[inline]
    pub fn num_generated(&self) -> u32 {
        self.num_known() - self.request.prompt_len
    }

    /// Its blocks, in position order.
    #[must_use]
    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// How its next token is chosen; `None` for an embedding.
    #[must_use]
    #[inline]
    pub fn sampling(&self) -> Option<&SamplingParams> {
        match &self.request.task {
            Task::Generate(params) => Some(params),
            Task::Embed | Task::Score { .. } => None,
        }
    }

    /// Whether the log-probabilities of its prompt are wanted; those of a request are delivered to
    /// its first choice.
    #[must_use]
    pub fn wants_prompt_logprobs(&self) -> bool {
        let is_wanted = |params: &SamplingParams| params.prompt_logprobs.is_some();
        self.choice_index == 0 && self.sampling().is_some_and(is_wanted)
    }

    /// Those among `positions` whose logits tell how likely the next prompt token was, where that
    /// is wanted and not known yet. After a preemption they are not computed twice.
    #[must_use]
    pub fn positions_to_score(&self, positions: &Range<u32>) -> Range<u32> {
        let end = if self.wants_prompt_logprobs() { self.request.prompt_len - 1 } else { 0 };
        let start = positions.start.max(self.progress.num_scored);
        start..positions.end.min(end).max(start)
    }

    /// Tokens of which the prefix cache may supply all but the last: not those whose logits are
    /// still to be looked at, for the cache has none.
    pub(super) fn tokens_to_match(&self) -> &[TokenId] {
        let unscored = self.positions_to_score(&(0..self.num_known()));
        if unscored.is_empty() { &self.tokens } else { &self.tokens[..=unscored.start as usize] }
    }

    /// Counts of past tokens, kept only for requests with a penalty.
    #[must_use]
    pub fn counts(&self) -> Option<&TokenCounts> {
        self.counts.as_ref()
    }

    /// Whether any logits processor wants to see its logits.
    #[must_use]
    pub fn has_processors(&self) -> bool {
        !self.choice.processors.is_empty()
    }

    /// Whether a grammar says which tokens may come next.
    #[must_use]
    #[inline]
    pub fn has_grammar(&self) -> bool {
        self.choice.grammar.is_some()
    }

    /// The mask of the tokens that its grammar allows next, if it has one; or why there is none. A
    /// panic of the grammar is this sequence's failure and nobody else's.
    pub fn mask(&mut self) -> Option<Result<&[u32], String>> {
        let grammar = self.choice.grammar.as_deref_mut()?;
        Some(caught(move || grammar.mask()).and_then(|mask| mask.map_err(|e| e.to_string())))
    }

    /// Enters a token into its grammar, if it has one; as with [`mask`](Self::mask).
    pub(super) fn accept(&mut self, token: TokenId) -> Option<Result<Continuation, String>> {
        let grammar = self.choice.grammar.as_deref_mut()?;
        Some(caught(|| grammar.accept(token)).and_then(|went| went.map_err(|e| e.to_string())))
    }

    /// Whether its tokens must be chosen on the host.
    #[must_use]
    pub fn is_sampled_on_host(&self) -> bool {
        let fits = |params: &SamplingParams| params.fits_device(self.request.prompt_len);
        self.has_processors() || !self.sampling().is_none_or(fits)
    }

    /// Whether the host must know all its tokens before the next can be chosen.
    #[must_use]
    #[inline]
    pub fn needs_latest_token(&self) -> bool {
        self.has_grammar() || self.is_sampled_on_host()
    }

    /// Runs its logits processors, in order, over its row of logits `[V]`. A panic of one is this
    /// sequence's failure and nobody else's.
    pub fn process(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let (tokens, processors) = (&self.tokens, &mut self.choice.processors);
        caught(|| processors.iter_mut().for_each(|processor| processor.process(tokens, logits)))
    }

    /// How it fared so far.
    #[must_use]
    pub fn stats(&self) -> &RequestStats {
        &self.stats
    }

    /// What the policy is told when it ends.
    pub(super) fn finished(&self) -> SchedEvent {
        SchedEvent::Finished {
            id: self.id,
            request: self.request.id,
            tenant: self.request.tenant,
            prompt_len: self.request.prompt_len,
            num_generated: self.num_generated(),
        }
    }

    #[inline]
    pub(super) fn events(&self) -> &EventSender {
        &self.choice.events
    }

    /// Whether it may end without a step: its client may leave, or its deadline pass.
    fn is_fleeting(&self) -> bool {
        self.request.deadline.is_some() || self.events().can_close()
    }

    /// Tokens, known or about to be sampled, that no step was given to compute. The last token
    /// that a sequence may generate is never computed.
    #[inline]
    pub(super) fn num_pending(&self) -> u32 {
        match self.progress.num_placeholders {
            0 => self.num_known() - self.progress.num_scheduled,
            _ => self.num_pending_ahead(),
        }
    }

    /// The same while results are to come.
    fn num_pending_ahead(&self) -> u32 {
        let Progress { num_scheduled, num_placeholders, .. } = self.progress;
        if self.num_generated() + num_placeholders >= self.max_results() {
            return 0;
        }
        self.num_known() + num_placeholders - num_scheduled
    }

    /// Results after which it ends, at the latest.
    #[inline]
    pub(super) fn max_results(&self) -> u32 {
        self.sampling().map_or(1, |params| params.stop.max_tokens)
    }

    /// Whether computing `positions` is work on its prompt, or on what a preemption dropped, and
    /// not the one token of decoding.
    #[inline]
    pub(super) fn is_chunk(&self, positions: &Range<u32>) -> bool {
        positions.start < self.request.prompt_len || positions.len() > 1
    }

    /// Positions up to `end` go into the step number `step`: tells where the first one's token
    /// comes from, and whether the last one yields a result.
    #[inline]
    pub(super) fn schedule(&mut self, end: u32, step: u64) -> (TokenSource, bool) {
        let num_known = self.num_known();
        let progress = &mut self.progress;
        let is_known = progress.num_scheduled < num_known;
        let emits = end == num_known + progress.num_placeholders;
        progress.num_scheduled = end;
        progress.num_placeholders += u32::from(emits);
        progress.last_step = step;
        (if is_known { TokenSource::Known } else { TokenSource::Placeholder }, emits)
    }

    /// The first `num_tokens` tokens are computed, and no step is in flight.
    pub(super) fn start_at(&mut self, num_tokens: u32) {
        self.progress.num_computed = num_tokens;
        self.progress.num_scheduled = num_tokens;
    }

    /// It takes part in a step; whether for the first time.
    pub(super) fn mark_started(&mut self, now: Nanos) -> bool {
        let is_first = self.stats.first_scheduled.is_none();
        self.stats.first_scheduled.get_or_insert(now);
        is_first
    }

    /// Tells its receiver that it ended.
    pub(super) fn report(&self, reason: FinishReason) {
        let _ = self.events().send(Event::Finished { reason, stats: self.stats });
    }

    /// Nothing of it is computed, and it holds no blocks: what it held is gone with its pool.
    pub(super) fn rewind(&mut self) {
        self.start_at(0);
        self.progress.num_placeholders = 0;
        self.progress.last_step = 0;
        self.table = BlockTable::default();
    }

    #[inline]
    pub(super) fn append(&mut self, token: TokenId) {
        self.tokens.push(token);
        if let Some(counts) = &mut self.counts {
            counts.add_generated(token);
        }
    }
}

/// How often tokens occurred, sparse: only tokens that occurred have an entry.
#[derive(Clone, Debug, Default)]
pub struct TokenCounts {
    generated: HashMap<TokenId, u32>,
}

impl TokenCounts {
    /// Counts for a new prompt, or `None` when no penalty asks for them. Prompt tokens are
    /// entered only for the repetition penalty, the only one that looks at them.
    fn of_prompt(params: &SamplingParams, prompt: &[TokenId]) -> Option<Self> {
        if !params.penalties.use_counts() {
            return None;
        }
        let mut generated = HashMap::new();
        if params.penalties.repetition_is_on() {
            generated.extend(prompt.iter().map(|&token| (token, 0)));
        }
        Some(Self { generated })
    }

    fn add_generated(&mut self, token: TokenId) {
        *self.generated.entry(token).or_insert(0) += 1;
    }

    /// Each token seen, with how often it was generated (0: in the prompt only), in no order.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, u32)> + '_ {
        self.generated.iter().map(|(&token, &count)| (token, count))
    }
}

/// All live sequences, by id.
#[derive(Debug, Default)]
pub struct Sequences {
    by_id: Window<Box<Sequence>>,
    /// Those that may end without a step: clients can leave, deadlines pass.
    num_fleeting: usize,
}

impl Sequences {
    /// The sequence `id`, which must be live.
    #[must_use]
    #[inline]
    pub fn get(&self, id: SequenceId) -> &Sequence {
        self.by_id.get(id).unwrap_or_else(|| unknown(id))
    }

    /// The sequence `id`, which must be live.
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, id: SequenceId) -> &mut Sequence {
        self.by_id.get_mut(id).unwrap_or_else(|| unknown(id))
    }

    /// Number of live sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.len() == 0
    }

    /// Takes all out, the oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Sequence> {
        self.num_fleeting = 0;
        self.by_id.take().map(|sequence| *sequence).collect()
    }

    /// All live sequences, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.by_id.values().map(Box::as_ref)
    }

    pub(super) fn insert(&mut self, sequence: Sequence) {
        let id = sequence.id;
        self.num_fleeting += usize::from(sequence.is_fleeting());
        let previous = self.by_id.insert(id, Box::new(sequence));
        assert!(previous.is_none(), "sequence {id} was admitted twice");
    }

    pub(super) fn remove(&mut self, id: SequenceId) -> Sequence {
        let sequence = self.by_id.remove(id).unwrap_or_else(|| unknown(id));
        self.num_fleeting -= usize::from(sequence.is_fleeting());
        *sequence
    }

    /// Whether `id` is live: admitted and not ended.
    #[must_use]
    #[inline]
    pub fn contains(&self, id: SequenceId) -> bool {
        self.by_id.contains(id)
    }

    pub(super) fn find(&self, id: SequenceId) -> Option<&Sequence> {
        self.by_id.get(id).map(Box::as_ref)
    }

    #[inline]
    pub(super) fn find_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.by_id.get_mut(id).map(Box::as_mut)
    }

    /// Whether any may end without a step.
    pub(super) fn has_fleeting(&self) -> bool {
        self.num_fleeting > 0
    }
}

#[cold]
fn unknown(id: SequenceId) -> ! {
    panic!("sequence {id} is not live")
}
