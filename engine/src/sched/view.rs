//! What a policy may see: requests, queues and the pool, read-only.

use super::features::Features;
use super::scheduler::State;
use super::sequence::Status;
use super::{Limits, PreemptionMode, PromptNode, Sequence};
use crate::types::{ModelId, Nanos, RequestId, SequenceId, Slo, TenantId};

/// One sequence as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a>(pub(super) &'a Sequence);

impl<'a> PolicyRequest<'a> {
    /// The sequence's id; smaller ids arrived earlier.
    #[must_use]
    pub fn id(&self) -> SequenceId {
        self.0.id
    }

    /// The client's request; its choices share it.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.0.request.id
    }

    /// Whether it waits, runs, or waits for a sibling.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.status {
            Status::Following(_) => Phase::Following,
            Status::Waiting => Phase::Waiting,
            Status::Running => Phase::Running,
        }
    }

    /// Which model computes it.
    #[must_use]
    pub fn model(&self) -> ModelId {
        self.0.request.model
    }

    /// When it arrived.
    #[must_use]
    pub fn arrival(&self) -> Nanos {
        self.0.stats.arrival
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.0.request.tenant
    }

    /// What the client asked for; smaller is more urgent.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.0.request.priority
    }

    /// When waiting becomes pointless.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        self.0.request.deadline
    }

    /// The times its client expects.
    #[must_use]
    pub fn slo(&self) -> Slo {
        self.0.request.slo
    }

    /// When its first token was known, if it is.
    #[must_use]
    pub fn first_token(&self) -> Option<Nanos> {
        self.0.stats.first_token
    }

    /// When it last got a place in a step, if it ever did.
    #[must_use]
    pub fn last_scheduled(&self) -> Option<Nanos> {
        self.0.progress.last_granted
    }

    /// Time since it arrived.
    #[must_use]
    pub fn age(&self, view: &View<'_>) -> Nanos {
        view.now().since(self.arrival())
    }

    /// Time since it last got a place in a step, or since it arrived if it never did.
    #[must_use]
    pub fn waited(&self, view: &View<'_>) -> Nanos {
        view.now().since(self.last_scheduled().unwrap_or(self.arrival()))
    }

    /// Chained hashes of the full blocks of its prompt that can be shared, the one with its last
    /// token left out: entry `i` stands for blocks `0..=i`. Empty without a prefix cache.
    #[must_use]
    pub fn prompt_hashes(&self) -> &'a [u64] {
        &self.0.request.prompt_hashes
    }

    /// Tokens known: prompt and generated.
    #[must_use]
    pub fn num_known(&self) -> u32 {
        self.0.num_known()
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn prompt_len(&self) -> u32 {
        self.0.request.prompt_len
    }

    /// Tokens computed, those that a preemption saved included; those of steps in flight are not.
    #[must_use]
    pub fn num_computed(&self) -> u32 {
        self.0.num_computed()
    }

    /// Tokens, known or about to be sampled, that have not been granted yet.
    #[must_use]
    pub fn num_pending(&self) -> u32 {
        self.0.num_pending()
    }

    /// Tokens generated; those of steps in flight are not.
    #[must_use]
    pub fn num_generated(&self) -> u32 {
        self.0.num_generated()
    }

    /// Most tokens it may generate; 0 for an embedding.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        self.0.sampling().map_or(0, |params| params.stop.max_tokens)
    }

    /// Blocks it holds.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        self.0.table.num_blocks()
    }

    /// How often it lost its blocks.
    #[must_use]
    pub fn num_preemptions(&self) -> u32 {
        self.0.stats.num_preemptions
    }
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Shares its prompt with a sibling that computes it first; not in the queue.
    Following,
    /// In the queue.
    Waiting,
    /// Takes part in steps.
    Running,
}

/// The pool in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvView {
    /// Blocks in all.
    pub num_blocks: u32,
    /// Blocks that nobody holds.
    pub num_free: u32,
    /// Blocks with content that can be found again, held or not.
    pub num_cached: u32,
    /// Tokens in a block.
    pub block_size: u32,
    /// Blocks of host memory that nobody's computed tokens are saved in.
    pub num_free_host_blocks: u32,
}

/// The scheduler's state at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) now: Nanos,
    pub(super) state: &'a State,
    pub(super) features: &'a Features,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("now", &self.now)
            .field("kv", &self.kv())
            .field("running", &self.state.running)
            .field("num_waiting", &self.num_waiting())
            .finish_non_exhaustive()
    }
}

impl<'a> View<'a> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// A number that is larger in each later cycle: a plan is one, and what follows a step
    /// another. For policies that compute something once a plan.
    #[must_use]
    pub fn cycle(&self) -> u64 {
        self.features.cycle()
    }

    /// The configured limits.
    #[must_use]
    pub fn defaults(&self) -> Limits {
        self.state.default_limits()
    }

    /// The KV pool.
    #[must_use]
    pub fn kv(&self) -> KvView {
        KvView {
            num_blocks: self.state.allocator.num_blocks(),
            num_free: self.state.allocator.num_free(),
            num_cached: self.state.allocator.num_cached(),
            block_size: self.state.allocator.block_size(),
            num_free_host_blocks: self.state.host.num_free(),
        }
    }

    /// What the engine would rather do with the computed tokens of a preempted sequence: save them
    /// where it has host memory for that, since it is given some only where this pays.
    #[must_use]
    pub fn preemption(&self) -> PreemptionMode {
        match self.state.host.num_blocks() {
            0 => PreemptionMode::Recompute,
            _ => PreemptionMode::Swap,
        }
    }

    /// A live sequence, or `None` when `id` is not.
    #[must_use]
    pub fn request(&self, id: SequenceId) -> Option<PolicyRequest<'a>> {
        self.state.sequences.find(id).map(PolicyRequest)
    }

    /// Running decoder sequences, best rank first.
    pub fn running(&self) -> impl Iterator<Item = SequenceId> + 'a {
        self.state.running.iter().map(|&(_, id)| id)
    }

    /// Number of running decoder sequences.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.state.running.len()
    }

    /// Waiting sequences of all models; best rank first within a model.
    pub fn waiting(&self) -> impl Iterator<Item = SequenceId> + 'a {
        self.state.queue.iter()
    }

    /// Number of waiting sequences.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.state.queue.len()
    }

    /// Leading tokens of `request` that the prefix cache holds, as of the first question about it,
    /// or about another with the same beginning, in this [cycle](Self::cycle).
    #[must_use]
    pub fn num_cached_tokens(&self, request: &PolicyRequest<'_>) -> u32 {
        self.features.cached_tokens(request.0, &self.state.allocator)
    }

    /// Known tokens of `request` that must be computed before its next result: not those in the
    /// prefix cache, nor those it has computed. At least 1 while it waits.
    #[must_use]
    pub fn num_uncached_tokens(&self, request: &PolicyRequest<'_>) -> u32 {
        let cached = match request.phase() {
            Phase::Running => 0,
            Phase::Waiting | Phase::Following => self.num_cached_tokens(request),
        };
        request.num_known().saturating_sub(cached.max(request.num_computed()))
    }

    /// The waiting prompts that share the first `index + 1` blocks of `request`'s prompt. `None`
    /// where it has no such block that can be shared, or nobody with it waits. The first question
    /// counts them for all that wait; from then on counts are kept up to date.
    #[must_use]
    pub fn prompt_node(&self, request: &PolicyRequest<'_>, index: usize) -> Option<PromptNode> {
        let hash = *request.prompt_hashes().get(index)?;
        self.features.node(hash, &self.state.queue, &self.state.sequences)
    }

    /// Waiting sequences that share the next block of `request`'s prompt that is not cached, itself
    /// included if it waits: how many would profit from computing it. 0 where no block is left.
    #[must_use]
    pub fn subtree_demand(&self, request: &PolicyRequest<'_>) -> u32 {
        let num_cached = self.num_cached_tokens(request) / self.state.allocator.block_size();
        self.prompt_node(request, num_cached as usize).map_or(0, |node| node.demand)
    }
}
