//! What goes into the scheduler and what it decides, call by call, for whoever wants to know why.
//!
//! Off unless asked for; then each call is kept with its input and its decisions in order, until
//! it is [taken](Scheduler::take_decisions). The inputs suffice to make another scheduler decide
//! the same, and the decisions to check that it did: see `folio-sim`'s `replay`. What the world
//! says in the middle of a call, namely which clients are gone, can be dictated for that.

mod recorder;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Limits, Scheduler};
use crate::types::{CacheSalt, ModelId, Nanos, RequestId, SequenceId, Slo, TenantId, TokenId};

pub(super) use recorder::{Recorder, arrival, commit, reset};

/// One call of the scheduler: when, what went in, and what it decided, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The time that the scheduler was told.
    pub at: Nanos,
    /// What went in.
    pub input: Input,
    /// What was decided.
    pub decisions: Vec<Decision>,
}

/// What goes into the scheduler with a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A request.
    Arrival(Box<Arrival>),
    /// Nothing: the next step is wanted.
    Plan,
    /// What came of the oldest step in flight.
    Commit {
        /// Time the device spent.
        device_time: Nanos,
        /// One for each row of the step, in its order.
        results: Vec<RowResult>,
    },
    /// A failure, after which the scheduler starts anew with what is left.
    Reset {
        /// What it is blamed on.
        blame: BlameRecord,
        /// The sequences of requests that could not be taken in.
        arrivals: Vec<Range<SequenceId>>,
        /// What failed.
        message: String,
    },
    /// A failure that nothing survives.
    FailAll {
        /// What failed.
        message: String,
    },
    /// Another policy decides from now on.
    Policy {
        /// Its spec, as on the command line.
        spec: String,
    },
    /// Calls that were not recorded, because whoever takes them could not keep up.
    Gap {
        /// How many are missing.
        num_calls: u64,
        /// Steps that were planned in them.
        num_planned: u32,
        /// Steps that ended in them, the oldest in flight first.
        num_ended: u32,
    },
}

/// A request as it arrives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// Which request.
    pub request: RequestId,
    /// Its first sequence; those of further choices follow.
    pub first: SequenceId,
    /// Its choices.
    pub num_choices: u32,
    /// The model that computes it.
    pub model: ModelId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Smaller is more urgent.
    pub priority: i32,
    /// When it becomes pointless.
    pub deadline: Option<Nanos>,
    /// What its client expects.
    pub slo: Slo,
    /// Who may share its prefix blocks.
    pub salt: Option<CacheSalt>,
    /// Its prompt. As read from a log, the tokens are others, which share blocks in the same way.
    pub prompt: Vec<TokenId>,
    /// What is wanted.
    pub wanted: Wanted,
}

/// What a request wants, as far as it matters to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// A vector or a score.
    Pooled,
    /// Tokens.
    Generation {
        /// At most so many.
        max_tokens: u32,
        /// Whether the prompt is to be looked at as well.
        scores_prompt: bool,
        /// For each choice, whether its next token waits for the latest on the host.
        hosts: Vec<HostNeed>,
    },
}

/// Why the host must know a choice's latest token before the next can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostNeed {
    /// It need not.
    Nothing,
    /// A grammar says what may come next.
    Grammar,
    /// It is sampled there.
    Sampling,
    /// Both.
    GrammarAndSampling,
}

/// What a step yielded for one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowResult {
    /// Nothing yet.
    Computed,
    /// A token. As read from a log it is another, which shares blocks in the same way.
    Token(TokenId),
    /// A vector or a score.
    Pooled,
    /// It failed alone.
    Failed(String),
}

/// What a failure was blamed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlameRecord {
    /// A step that computed these.
    Step(Vec<SequenceId>),
    /// Whatever ran.
    Running,
    /// Requests that could not be taken in.
    Arrivals,
}

/// Something that the scheduler decided, or found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Decision {
    /// The request can never be computed.
    Refused(String),
    /// The limits of this plan, where they are not those of the plan before.
    Limits(Limits),
    /// A sequence holds blocks from now on, or is an encoder's text and in the step.
    Admitted {
        /// Which one.
        id: SequenceId,
        /// Tokens that need not be computed.
        num_cached_tokens: u32,
    },
    /// A sequence lost its blocks.
    Preempted(Preemption),
    /// A waiting sequence is held back for a prefix that another is computing. Told when it
    /// begins.
    Held {
        /// Which one.
        id: SequenceId,
        /// Who computes it, as far as is known.
        by: Option<SequenceId>,
    },
    /// The policy does not want a waiting sequence now. Told when it begins.
    Skipped(SequenceId),
    /// A waiting sequence cannot be taken in, nor any behind it.
    Blocked {
        /// Which one.
        id: SequenceId,
        /// Why.
        obstacle: Obstacle,
    },
    /// The policy would have planned nothing, and was not followed.
    Overridden,
    /// Nothing is planned until a step in flight has ended.
    PutOff,
    /// A sequence ended.
    Ended {
        /// Which one.
        id: SequenceId,
        /// How.
        end: Ending,
    },
    /// The step.
    Planned(Planned),
}

/// A sequence that lost its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// Which one.
    pub id: SequenceId,
    /// Who gets them.
    pub beneficiary: SequenceId,
    /// On what ground.
    pub cause: PreemptionCause,
    /// Tokens that were computed.
    pub num_computed: u32,
    /// What became of them.
    pub fate: ComputedFate,
}

/// On what ground a sequence loses its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreemptionCause {
    /// A running sequence needs another block and none is free.
    OutOfBlocks,
    /// A waiting sequence ranks better.
    Displaced,
    /// A planner wants it so; for whom is not known, and the beneficiary is the sequence itself.
    Planned,
}

/// What becomes of the computed tokens of a preempted sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComputedFate {
    /// They must be computed again, unless the prefix cache still has them.
    Dropped,
    /// They are saved in host memory.
    Saved,
}

/// Why a waiting sequence cannot be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// As many run as may.
    MaxRunning {
        /// So many.
        max_running: u32,
    },
    /// The step's tokens are granted to others.
    TokenBudget,
    /// Its prompt would be another that is partly computed, and there are as many as may be.
    PartialPrefills,
    /// Too few blocks are free.
    Blocks {
        /// Blocks that it needs, with what the policy reserves and wants left free.
        needed: u32,
        /// Blocks that it could have.
        free: u32,
    },
    /// The policy takes nobody in now.
    Policy,
}

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With a stop token.
    Stop,
    /// Its grammar is complete.
    Complete,
    /// With as many tokens as it may have.
    Length,
    /// With its vector or score.
    Embedded,
    /// Its deadline passed.
    Deadline,
    /// The policy refused it.
    Rejected,
    /// It failed alone.
    Failed(String),
    /// With a failure of the engine.
    StepFailed,
    /// Its client is gone, which was found here.
    Cancelled(Check),
}

/// Where the scheduler looks whether a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Check {
    /// At the start of a plan, at all that runs.
    Running,
    /// At the start of a plan, at some that wait.
    Waiting,
    /// When it is a waiting sequence's turn.
    Turn,
    /// When a token is delivered.
    Delivery,
}

/// A step as it was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Who computes what, in the order of the batch.
    pub rows: Vec<Row>,
    /// Blocks that are moved.
    pub moves: BlockMoves,
    /// Stands for all of the plan, down to the blocks that are moved: equal plans have equal ones.
    pub digest: u32,
    /// The state after it.
    pub levels: Levels,
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which sequence.
    pub id: SequenceId,
    /// The first position.
    pub start: u32,
    /// Positions.
    pub num_tokens: u32,
    /// Whether it yields a result.
    pub emits: bool,
    /// Whether its first token is sampled by a step in flight.
    pub is_ahead: bool,
}

/// Blocks that are moved before a step, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMoves {
    /// Copied on write.
    pub num_copied: u32,
    /// Saved in host memory.
    pub num_swapped_out: u32,
    /// Brought back.
    pub num_swapped_in: u32,
}

/// The state after a plan, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// Sequences that take part in steps.
    pub num_running: u32,
    /// Sequences that wait, for a turn or for a sibling.
    pub num_waiting: u32,
    /// Blocks that nobody holds.
    pub num_free_blocks: u32,
    /// Blocks of host memory in which nothing is saved.
    pub num_free_host_blocks: u32,
    /// Cached blocks given up for new content, since the start.
    pub num_evictions: u64,
}

impl Scheduler {
    /// Records all calls from now on, to be [taken](Self::take_decisions) after each turn.
    pub fn record_decisions(&mut self) {
        self.state.recorder.start();
    }

    /// The calls since the last taking, in order.
    pub fn take_decisions(&mut self) -> Vec<Call> {
        self.state.recorder.take()
    }

    /// Dictates which clients are gone, and where that is found, until the next such call. From the
    /// first on, nobody else counts as cancelled. For replaying what was recorded.
    pub fn dictate_cancellations(&mut self, gone: Vec<(SequenceId, Check)>) {
        self.state.recorder.dictate(gone);
    }
}
