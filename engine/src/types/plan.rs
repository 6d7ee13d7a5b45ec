//! What one step computes, what came of it, and what is worth reporting about it.

use std::ops::Range;

use super::{
    BlockId, HostBlockId, ModelId, Nanos, PromptLogprob, SequenceId, TokenId, TokenLogprobs,
};

/// The work of one step. Order is batch-row order; no sequence appears twice.
///
/// Blocks move before anything is computed: all of `swap_out` in order, then `swap_in`, then
/// `copies`. A device block that was swapped out may be named again right after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct StepPlan {
    /// Sequences to compute, each with a non-empty range of positions.
    pub seqs: Vec<ScheduledSeq>,
    /// Blocks to duplicate before anything is written (copy on write).
    pub copies: Vec<BlockCopy>,
    /// Blocks of preempted sequences to save: from the device to the host. Only in a plan that is
    /// made while no step is in flight.
    pub swap_out: Vec<BlockSwap>,
    /// Blocks of sequences that go on to bring back: from the host to the device.
    pub swap_in: Vec<BlockSwap>,
}

impl StepPlan {
    /// Number of tokens that the step computes, T.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.seqs.iter().map(|seq| seq.positions.end - seq.positions.start).sum()
    }
}

/// One sequence's share of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledSeq {
    /// Which sequence.
    pub id: SequenceId,
    /// The model that computes it.
    pub model: ModelId,
    /// Positions to compute: starts where the steps before this one end.
    pub positions: Range<u32>,
    /// Where the token at the first position comes from; those of all others are known.
    pub token: TokenSource,
    /// Whether the last position is the sequence's last token, so that the step yields a result
    /// (a sampled token, or the embedding).
    pub emits: bool,
}

/// Where the token at the first position of a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The sequence knows it when the step is submitted.
    Known,
    /// A step in flight samples it: the row has one position, and the executor feeds it the
    /// token that it sampled last for this sequence.
    Placeholder,
}

/// Copy all layers of one KV block onto another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// Block to read.
    pub source: BlockId,
    /// Block to overwrite.
    pub target: BlockId,
}

/// Copy all layers of one KV block between the device and host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSwap {
    /// Block on the device.
    pub device: BlockId,
    /// Block in host memory.
    pub host: HostBlockId,
}

/// What the executor returns for a plan: one result a scheduled sequence, in plan order.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct StepOutput {
    /// One result for each entry of [`StepPlan::seqs`].
    pub results: Vec<SeqResult>,
    /// What was found about prompts, for sequences that want it.
    pub prompt_scores: Vec<PromptScores>,
    /// Time the device spent on the step.
    pub device_time: Nanos,
}

/// Log-probabilities of prompt tokens that a step found for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptScores {
    /// Index of the sequence in [`StepPlan::seqs`].
    pub index: usize,
    /// One for each position among the step's that is to be scored, in order: that of the token
    /// after it.
    pub logprobs: Vec<PromptLogprob>,
}

/// What a step yielded for one sequence.
#[derive(Clone, Debug)]
pub enum SeqResult {
    /// Positions were computed; nothing to emit yet.
    Computed,
    /// The next token of a generation.
    Token(SampledToken),
    /// The pooled vector of an embedding request.
    Embedding(Vec<f32>),
    /// This sequence alone failed, for instance because its numbers are not finite.
    Failed(String),
}

/// A token with what was asked to be known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// The chosen token.
    pub id: TokenId,
    /// Present when the request asked for log-probabilities.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

/// What a step did, in numbers: the source of metrics and of policies' feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct StepReport {
    /// Sequences in the step.
    pub num_seqs: u32,
    /// Prompt (and recomputed) positions computed.
    pub num_prefill_tokens: u32,
    /// Decode positions computed, one a sequence.
    pub num_decode_tokens: u32,
    /// Tokens sampled.
    pub num_sampled_tokens: u32,
    /// Positions computed for sequences that had ended while the step was in flight.
    pub num_wasted_tokens: u32,
    /// Sequences that ended with this step.
    pub num_finished: u32,
    /// Time the device spent.
    pub device_time: Nanos,
}
