//! What is written of a call, and what both sides of the form remember between calls.

use serde::{Deserialize, Serialize};

use crate::sched::decisions::{Arrival, BlockMoves, Decision, Input, Levels, Row};
use crate::types::{Nanos, RequestId, TokenId};

/// First bytes of every log.
pub(super) const MAGIC: &[u8] = b"folio decision log ";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// Longest frame that is believed.
pub(super) const MAX_FRAME_BYTES: u32 = 256 << 20;
/// Most rows of a step and most tokens of a prompt that are believed.
pub(super) const MAX_COUNT: u64 = 1 << 28;

/// One item of a frame.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Item {
    Call(WireCall),
    /// What the client calls a request.
    Label(RequestId, String),
    /// A request from before this file that has not ended; its prompt is left out.
    Carried {
        at: Nanos,
        arrival: Box<Arrival>,
        prompt_len: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireCall {
    /// Since the call before.
    pub(super) after: i64,
    pub(super) input: WireInput,
    pub(super) decisions: Vec<WireDecision>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireInput {
    Plan,
    Commit {
        device_time: Nanos,
        results: WireResults,
    },
    /// The prompt is apart.
    Arrival(Box<Arrival>, SparseTokens),
    Other(Input),
}

/// Results in runs of the same kind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct WireResults {
    pub(super) runs: Vec<(ResultKind, u32)>,
    /// Of [`ResultKind::OtherToken`], in order.
    pub(super) tokens: Vec<TokenId>,
    /// Of [`ResultKind::Failed`], in order.
    pub(super) messages: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ResultKind {
    ZeroToken,
    OtherToken,
    Computed,
    Pooled,
    Failed,
}

/// Tokens of which most are 0.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SparseTokens {
    /// Others, each with how many zeros come before it.
    pub(super) others: Vec<(u32, TokenId)>,
    pub(super) num_zeros_after: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireDecision {
    Planned(WirePlan),
    Other(Decision),
}

/// A step, against what the step before lets expect.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WirePlan {
    pub(super) runs: Vec<Run>,
    /// Rows that were not expected.
    pub(super) rows: Vec<Row>,
    pub(super) moves: BlockMoves,
    pub(super) digest: u32,
    pub(super) levels: Levels,
}

/// Some rows of a step.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Run {
    /// Expected rows that are not there.
    pub(super) skipped: u32,
    /// Expected rows that are.
    pub(super) expected: u32,
    /// Others.
    pub(super) others: u32,
}

/// What both sides remember between calls.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) at: Nanos,
    /// The rows of the latest step.
    pub(super) rows: Vec<Row>,
}

impl Memory {
    /// The rows of the next step if all goes on as it is: each that emitted computes one more.
    pub(super) fn expected(&self) -> Vec<Row> {
        let emitting = self.rows.iter().filter(|row| row.emits);
        let next = |row: &Row| Row { start: row.start + row.num_tokens, num_tokens: 1, ..*row };
        emitting.map(next).collect()
    }
}
