//! The research seam: a policy proposes an order, limits, admissions and victims.
//!
//! The core alone owns blocks, queues, budgets and progress. A refused proposal changes nothing,
//! so a bad policy can be slow or unfair but cannot corrupt memory, lose a request or dead-lock.
//! Determinism: a policy reads no clock but the [`View`]'s; ties go by arrival.

use super::{PolicyRequest, View};
use crate::types::{Nanos, RequestId, SequenceId, TenantId};

/// Decides the order of service. Only [`name`](Self::name) and [`rank`](Self::rank) must be
/// written; the defaults of the others give first-come-first-served behaviour under that order.
pub trait Policy: Send {
    /// Name on the command line and in reports.
    fn name(&self) -> &str;

    /// Where a request stands in the order: smaller runs first, ties by arrival. Called for
    /// waiting requests, and when one is admitted for the order of running ones.
    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank;

    /// When ranks of waiting requests go stale.
    fn refresh(&self) -> Refresh {
        Refresh::OnArrival
    }

    /// Whether a better-ranked waiting request may displace a running one. The oldest running
    /// sequence is exempt, so that something always progresses.
    fn displacement(&self) -> Displacement {
        Displacement::Never
    }

    /// Limits of the next step; each is cut to the configured one.
    fn limits(&mut self, view: &View<'_>) -> Limits {
        view.defaults()
    }

    /// Whether to take in a waiting request whose turn it is.
    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        let _ = (request, view);
        Admit::Now { reserve_tokens: 0 }
    }

    /// Which running sequence loses its blocks when they run out. `candidates` are in rank order
    /// and never empty; an answer that is not among them, or none, means the last.
    fn victim(&mut self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        candidates.last().map(|&id| Victim { id, mode: view.preemption() })
    }

    /// Told of everything that happens, for policies with a state.
    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        let _ = (event, view);
    }
}

/// Position in the order: smaller first, by the first key, then the second, then arrival.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rank(pub f64, pub f64);

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.total_cmp(&other.1))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

/// When the ranks of waiting requests are computed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Once, when a request starts to wait.
    OnArrival,
    /// Also before each step, for all waiting requests of tenants that something was granted to or
    /// finished for since.
    OnTenantEvent,
    /// Before each step, for running sequences and for the [`RERANK_WINDOW`] of each model that
    /// wait longest.
    EveryStep,
}

/// Waiting requests of one model that are ranked anew in one step at the most.
pub const RERANK_WINDOW: usize = 1024;

/// Whether running sequences can be displaced by waiting ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displacement {
    /// A running sequence gives way only when blocks run out.
    Never,
    /// A worse-ranked running sequence gives way to a better-ranked waiting one.
    ByRank,
}

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Tokens of all models together.
    pub token_budget: u32,
    /// Prompt tokens of one sequence.
    pub chunk: u32,
    /// Sequences whose prompts may be partly computed at the same time.
    pub max_partial_prefills: u32,
    /// Decoder sequences that may run.
    pub max_running: u32,
    /// Blocks that an admission must leave free, unless nothing runs.
    pub watermark_blocks: u32,
}

/// Answer to "may this waiting request start?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Yes, if blocks for this step and for `reserve_tokens` more are free.
    Now {
        /// Tokens, beyond those of this step, that must have free blocks.
        reserve_tokens: u32,
    },
    /// Not now; look at the next one.
    Skip,
    /// Not now, and nobody behind it either.
    Stop,
    /// Never: finish it as refused.
    Reject,
}

/// A sequence to preempt, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Which one.
    pub id: SequenceId,
    /// What happens to its computed tokens.
    pub mode: PreemptionMode,
}

/// What happens to the computed tokens of a preempted sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PreemptionMode {
    /// Dropped and computed again later, less what the prefix cache gives back.
    Recompute,
    /// Saved in host memory and brought back later, less what the prefix cache gives back. Where
    /// host memory has too few free blocks, they are dropped after all.
    Swap,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedEvent {
    /// A sequence started to wait.
    Arrived(SequenceId),
    /// A sequence left the queue, with this many tokens found in the prefix cache.
    Admitted {
        /// Which one.
        id: SequenceId,
        /// Tokens that need not be computed.
        num_cached_tokens: u32,
    },
    /// A sequence takes part in the step being planned.
    Granted {
        /// Which one.
        id: SequenceId,
        /// Whose it is.
        tenant: TenantId,
        /// Tokens to compute.
        num_tokens: u32,
        /// Results, tokens or a vector, that this yields: 0 or 1.
        num_results: u32,
        /// Number of the step; see [`Stepped`](Self::Stepped).
        step: u64,
    },
    /// A sequence lost its blocks.
    Preempted(SequenceId),
    /// A sequence ended; the view no longer knows it.
    Finished {
        /// Which one.
        id: SequenceId,
        /// Of which request.
        request: RequestId,
        /// Whose it was.
        tenant: TenantId,
        /// Tokens of its prompt.
        prompt_len: u32,
        /// Tokens it generated.
        num_generated: u32,
    },
    /// A step was carried out.
    Stepped {
        /// Its number. Steps are numbered as they are planned; after a failure numbers start
        /// again, and steps that were in flight then are never heard of.
        step: u64,
        /// Time the device spent.
        device_time: Nanos,
    },
}
