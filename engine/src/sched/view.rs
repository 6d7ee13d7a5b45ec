//! What a policy may see: requests, queues and the pool, read-only.

use super::queue::{Position, Queue};
use super::swap::HostPool;
use super::{BlockAllocator, Limits, PreemptionMode, Sequence, Sequences};
use crate::types::{ModelId, Nanos, SequenceId, TenantId};

/// One sequence as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a>(pub(super) &'a Sequence);

impl PolicyRequest<'_> {
    /// The sequence's id; smaller ids arrived earlier.
    #[must_use]
    pub fn id(&self) -> SequenceId {
        self.0.id
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
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) now: Nanos,
    pub(super) defaults: Limits,
    pub(super) sequences: &'a Sequences,
    pub(super) running: &'a [Position],
    pub(super) queue: &'a Queue,
    pub(super) allocator: &'a BlockAllocator,
    pub(super) host: &'a HostPool,
}

impl<'a> View<'a> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The configured limits.
    #[must_use]
    pub fn defaults(&self) -> Limits {
        self.defaults
    }

    /// The KV pool.
    #[must_use]
    pub fn kv(&self) -> KvView {
        KvView {
            num_blocks: self.allocator.num_blocks(),
            num_free: self.allocator.num_free(),
            num_cached: self.allocator.num_cached(),
            block_size: self.allocator.block_size(),
            num_free_host_blocks: self.host.num_free(),
        }
    }

    /// What the engine would rather do with the computed tokens of a preempted sequence: save them
    /// where it has host memory for that, since it is given some only where this pays.
    #[must_use]
    pub fn preemption(&self) -> PreemptionMode {
        match self.host.num_blocks() {
            0 => PreemptionMode::Recompute,
            _ => PreemptionMode::Swap,
        }
    }

    /// A live sequence, or `None` when `id` is not.
    #[must_use]
    pub fn request(&self, id: SequenceId) -> Option<PolicyRequest<'a>> {
        self.sequences.find(id).map(PolicyRequest)
    }

    /// Running decoder sequences, best rank first.
    pub fn running(&self) -> impl Iterator<Item = SequenceId> + 'a {
        self.running.iter().map(|&(_, id)| id)
    }

    /// Waiting sequences of all models; best rank first within a model.
    pub fn waiting(&self) -> impl Iterator<Item = SequenceId> + 'a {
        self.queue.iter()
    }

    /// Number of waiting sequences.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.queue.len()
    }

    /// Leading tokens of `request` that the prefix cache holds now.
    #[must_use]
    pub fn num_cached_tokens(&self, request: &PolicyRequest<'_>) -> u32 {
        let sequence = request.0;
        let tokens = sequence.tokens_to_match();
        self.allocator.peek_prefix(tokens, sequence.request.cache_salt).num_tokens
    }
}
