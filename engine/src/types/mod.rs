//! The vocabulary that every other module speaks: ids, requests and their events, plans, clock.
//!
//! Nothing here computes; nothing here knows a tensor, a thread or a socket.

mod clock;
mod config;
mod cost;
mod error;
mod grammar;
mod id;
mod plan;
mod request;
mod sampling;
mod timeline;

pub use clock::{Clock, LatencySum, ManualClock, Nanos, SystemClock};
pub use config::{ConfigError, EngineConfig, ModelKind, ModelLimits, PrefixCaching, Protection};
pub use cost::{BatchShape, CostModel, Emission};
pub use error::{Error, Refusal, Result};
pub use grammar::{Continuation, GrammarError, TokenGrammar, allows};
pub use id::{BlockId, CacheSalt, HostBlockId, ModelId, RequestId, SequenceId, TenantId, TokenId};
pub use plan::{
    BlockCopy, BlockSwap, PromptScores, SampledToken, ScheduledSeq, SeqResult, StepOutput,
    StepPlan, StepReport, TokenSource,
};
pub use request::{
    Choice, Delivery, Ended, Event, EventReceiver, EventSender, FinishReason, Request,
    RequestStats, Slo, Task,
};
pub use sampling::{
    LogitsProcessor, Penalties, PromptLogprob, Sampling, SamplingParams, StopConditions,
    TokenLogprobs,
};
pub use timeline::{MAX_MARKS, Mark, MarkKind, MarkReceiver};
