//! Several engines behind a router, in one virtual time.
//!
//! A [`Router`] sees the engines in numbers and the request's prefix, and says where it goes: to
//! one engine, or to one that computes its prompt and another that answers.

mod prefixes;
mod routers;

pub use prefixes::PrefixIndex;
pub use routers::{ExploreExploit, LeastTokens, PrefillDecode, ROUTERS, RoundRobin, router};

use folio_engine::sched::Decider;
use folio_engine::types::{EngineConfig, Nanos};

use crate::workload::Record;

/// Engines beside the one of the [options](crate::Options), and who chooses among them.
pub struct Cluster {
    /// The others; the first engine is that of the options. All have its cost model.
    pub others: Vec<Member>,
    /// Who chooses.
    pub router: Box<dyn Router>,
    /// What it takes to bring computed tokens from one engine to another.
    pub transfer: Transfer,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("num_others", &self.others.len())
            .field("router", &self.router.name())
            .field("transfer", &self.transfer)
            .finish()
    }
}

/// One engine of a cluster.
#[derive(Debug)]
pub struct Member {
    /// Its settings.
    pub engine: EngineConfig,
    /// Who goes first on it.
    pub policy: Decider,
}

/// The settings of an engine that only answers, made of one that does all: what comes computed
/// takes no time, so it must not take from the tokens of a step either.
#[must_use]
pub fn for_decode(engine: EngineConfig) -> EngineConfig {
    let max_model_len = engine.models.first().map_or(1, |model| model.max_model_len);
    EngineConfig {
        max_num_batched_tokens: engine.max_num_seqs.saturating_mul(max_model_len),
        max_num_partial_prefills: engine.max_num_seqs,
        long_prefill_token_threshold: None,
        ..engine
    }
}

/// Time to bring the keys and values of computed tokens from one engine to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Transfer {
    /// For any number of tokens.
    pub latency: Nanos,
    /// For each token, in nanoseconds.
    pub ns_per_token: f64,
}

impl Transfer {
    /// Over a link of `bytes_per_s` where a token's keys and values are `token_bytes`.
    #[must_use]
    pub fn over(bytes_per_s: f64, token_bytes: f64, latency: Nanos) -> Self {
        Self { latency, ns_per_token: token_bytes / bytes_per_s * 1e9 }
    }

    /// The time for `num_tokens`.
    #[must_use]
    pub fn time(&self, num_tokens: u32) -> Nanos {
        self.latency + Nanos((f64::from(num_tokens) * self.ns_per_token) as u64)
    }
}

/// What a router sees of a request.
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    /// Its number in the workload.
    pub index: u64,
    /// What it asks for. Its output length is not for routers to look at.
    pub record: &'a Record,
    /// When it arrives.
    pub now: Nanos,
}

/// What a router sees of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InstanceView {
    /// Sequences that take part in steps.
    pub num_running: u32,
    /// Sequences that wait.
    pub num_waiting: u32,
    /// Tokens of those that wait.
    pub num_waiting_tokens: u64,
    /// Prompt tokens of all that were sent there and have not ended.
    pub num_live_tokens: u64,
    /// Blocks that sequences hold.
    pub num_used_blocks: u32,
    /// Blocks in all.
    pub num_blocks: u32,
    /// Tokens in a block.
    pub block_size: u32,
}

impl InstanceView {
    /// Tokens that its cache holds at the most.
    #[must_use]
    pub fn capacity_tokens(&self) -> u64 {
        u64::from(self.num_blocks) * u64::from(self.block_size)
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this engine.
    To(usize),
    /// Its prompt to one, which gives the first token; then all else to another.
    Split {
        /// Computes the prompt.
        prefill: usize,
        /// Gives the other tokens.
        decode: usize,
    },
    /// Nowhere: it is turned away.
    Reject,
}

/// Chooses engines for requests. Deterministic.
pub trait Router: Send {
    /// Name on the command line and in results.
    fn name(&self) -> &str;

    /// Where `request` goes; `instances` has at least one.
    fn route(&mut self, request: &RouteRequest<'_>, instances: &[InstanceView]) -> Route;
}
