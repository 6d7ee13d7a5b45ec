//! What a simulation is made of: the engine, the policy, the cost model, and how much to remember.

use std::sync::Arc;

use folio_engine::sched::Decider;
use folio_engine::sched::decisions::Call;
use folio_engine::types::{ConfigError, CostModel, EngineConfig, Nanos};

use crate::lengths::KnownLengths;
use crate::workload::{Slo, TraceError};

/// Everything about a run but its workload.
pub struct Options {
    /// The engine as it would serve, see [`decoder_config`](crate::instance::decoder_config).
    pub engine: EngineConfig,
    /// Who goes first.
    pub policy: Decider,
    /// How long steps take.
    pub cost: Arc<dyn CostModel>,
    /// What the host adds to that.
    pub host: Host,
    /// What the front end does with requests.
    pub front: FrontEnd,
    /// What a request must keep to count as good, where its record leaves it open.
    pub slo: Slo,
    /// Key of everything that is drawn: contents of prompts, choices of routers.
    pub seed: u64,
    /// What is remembered of each request.
    pub detail: Detail,
    /// Who else is told what happens.
    pub hooks: Hooks,
}

/// Who else is told what happens.
#[derive(Default)]
pub struct Hooks {
    /// Where to enter the lengths of answers, for predictors that know them. The policy must have
    /// been made with the same table.
    pub lengths: Option<Arc<KnownLengths>>,
    /// Takes the scheduler's calls and decisions, of the first engine where there are several.
    pub log: Option<LogSink>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("lengths", &self.lengths.is_some())
            .field("log", &self.log.is_some())
            .finish()
    }
}

/// Takes what a scheduler was asked and decided, in order.
pub type LogSink = Box<dyn FnMut(Vec<Call>)>;

impl Options {
    /// A run of `engine` under `policy` with steps of `cost`, and defaults for all else: no time
    /// on the host, steps one after the other, answers of at most 4,096 tokens.
    #[must_use]
    pub fn new(engine: EngineConfig, policy: impl Into<Decider>, cost: Arc<dyn CostModel>) -> Self {
        Self {
            engine,
            policy: policy.into(),
            cost,
            host: Host::default(),
            front: FrontEnd::default(),
            slo: Slo::default(),
            seed: 0,
            detail: Detail::Requests,
            hooks: Hooks::default(),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("engine", &self.engine)
            .field("policy", &self.policy)
            .field("cost", &self.cost)
            .field("host", &self.host)
            .field("front", &self.front)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

/// Work of the host on a step: planning, entering results, sending events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Time for any step.
    pub per_step: Nanos,
    /// Time for each sequence in it.
    pub per_sequence: Nanos,
    /// When the host works.
    pub overlap: Overlap,
}

impl Host {
    /// The time for a step of `num_seqs` sequences.
    #[must_use]
    pub fn time(&self, num_seqs: u32) -> Nanos {
        Nanos(self.per_step.0 + self.per_sequence.0 * u64::from(num_seqs))
    }
}

/// Whether host and device work at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// A step is planned when the one before it has ended: it takes the time of both.
    #[default]
    None,
    /// A step is planned while the one before it is computed: it takes the longer of the two.
    Ahead,
}

/// What the front end does with requests before the scheduler sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontEnd {
    /// Most tokens that an answer may have, as its client asks for; cut to what the model's
    /// length and the KV cache leave. At least 1.
    pub max_tokens: u32,
    /// Time after its arrival at which a request is ended, finished or not.
    pub timeout: Option<Nanos>,
    /// Virtual time from which on requests are turned away; those that are there run to their
    /// ends.
    pub closes_at: Option<Nanos>,
}

impl Default for FrontEnd {
    fn default() -> Self {
        Self { max_tokens: 4096, timeout: None, closes_at: None }
    }
}

/// What is remembered of each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// When it came, started, answered and ended.
    #[default]
    Requests,
    /// Also the time of every token of it. Memory grows with the tokens.
    Tokens,
}

/// Why a simulation could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A setting of the engine is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The workload could not be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A record waits for one that does not come before it.
    #[error("record {record} waits for record {after}, which does not come before it")]
    After {
        /// The one that waits.
        record: u64,
        /// The one it waits for.
        after: u64,
    },
    /// The engine plans nothing though it has work: a bug in it.
    #[error("at {now_s} s nothing is planned for {num_left} requests that are left")]
    Stuck {
        /// Virtual time, in seconds.
        now_s: f64,
        /// Requests that have not ended.
        num_left: usize,
    },
    /// A router named an instance that does not exist.
    #[error("the router sent request {record} to instance {instance} of {num_instances}")]
    Route {
        /// The request.
        record: u64,
        /// Where to.
        instance: usize,
        /// How many there are.
        num_instances: usize,
    },
}
