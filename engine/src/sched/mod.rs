//! The scheduler: which sequence computes which positions, and which blocks hold them.
//!
//! There is no prefill phase and no decode phase: `num_computed` chases the known tokens under
//! one token budget a step. The core owns blocks, queues and budgets; a [`Policy`] only proposes.
//! No tensors, no I/O, no clock in here: the same code serves and simulates.

mod allocator;
mod block;
mod commit;
pub mod decisions;
mod encoders;
mod expr;
mod features;
mod joint;
mod kv_events;
mod live;
mod lookahead;
mod planner;
mod planning;
pub mod policies;
mod policy;
mod predictor;
mod prefix;
mod queue;
mod registry;
mod reset;
mod scheduler;
mod sequence;
mod shadow;
mod step;
mod swap;
mod switch;
mod tally;
mod view;
mod watch;
mod window;

pub use allocator::{BlockAllocator, OutOfBlocks, PrefixCounters, PrefixPeek};
pub use block::BlockTable;
pub use expr::{Feature, Staleness};
pub use features::PromptNode;
pub use kv_events::{ContentId, KvBatch, KvEvent};
pub use live::{
    LiveCell, LivePool, LiveProgress, LiveSequence, LiveState, LiveView, MAX_LIVE_CELLS,
    MAX_LIVE_SEQUENCES,
};
pub use planner::{Decider, Plan, Planner, Refused};
pub use policy::{
    Admit, Displacement, Limits, Policy, PreemptionMode, RERANK_WINDOW, Rank, Refresh, SchedEvent,
    Victim,
};
pub use predictor::{
    FinishedLength, HistogramPredictor, LengthPredictor, NoisyOracle, Oracle, OutputLengths,
    Prediction,
};
pub(crate) use registry::parse_duration;
pub use registry::{
    ComplaintKind, Complaints, Origin, PolicyContext, PolicyError, PolicyOptions, PriorityUse,
    Registry, SpecText, Tempo, predictor,
};
pub use reset::{Blame, Casualties};
pub use scheduler::{Gauges, QueueTotals, Scheduler, Totals, check_request};
pub use sequence::{RequestInfo, Sequence, Sequences, TokenCounts};
pub use shadow::ShadowReport;
pub use tally::{ModelGauges, TOKEN_GAP_BUCKETS, TokenGaps};
pub use view::{KvView, Phase, PolicyRequest, View};
