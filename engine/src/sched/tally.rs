//! The scheduler's counts by model, for metrics. Kept as things happen: reading them costs a few
//! additions a model, whatever the number of sequences.

use super::scheduler::{Scheduler, State};
use crate::types::{ModelId, ModelKind, Nanos};

/// The state of one model in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelGauges {
    /// Its sequences that take part in steps.
    pub num_running: u32,
    /// Its sequences that wait, for a turn or for another sequence.
    pub num_waiting: u32,
    /// Those among the waiting that wait for another sequence to compute a prefix they share;
    /// the others wait for a place in the batch, for tokens of the budget or for blocks.
    pub num_deferred: u32,
    /// Prompt tokens of its requests whose prompt was finished.
    pub num_prompt_tokens: u64,
    /// Those among them that were taken from the prefix cache.
    pub num_cached_tokens: u64,
    /// Tokens sampled.
    pub num_generated_tokens: u64,
    /// Times between the tokens of its sequences.
    pub token_gaps: TokenGaps,
}

/// A histogram of the times between two tokens of a sequence, at the ends of their steps:
/// whatever the client's pace, and whether or not the sequence ends well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenGaps {
    /// Gaps up to each of [`TOKEN_GAP_BUCKETS`] and above the one before, then the rest.
    pub counts: [u64; TOKEN_GAP_BUCKETS.len() + 1],
    /// All of them together.
    pub total: Nanos,
}

/// Upper bounds, inclusive, of the histogram of times between tokens.
pub const TOKEN_GAP_BUCKETS: [Nanos; 19] = [
    millis(10),
    millis(25),
    millis(50),
    millis(75),
    millis(100),
    millis(150),
    millis(200),
    millis(300),
    millis(400),
    millis(500),
    millis(750),
    millis(1_000),
    millis(2_500),
    millis(5_000),
    millis(7_500),
    millis(10_000),
    millis(20_000),
    millis(40_000),
    millis(80_000),
];

const fn millis(number: u64) -> Nanos {
    Nanos(number * 1_000_000)
}

impl TokenGaps {
    /// Counts a gap.
    pub(super) fn add(&mut self, gap: Nanos) {
        let bucket = TOKEN_GAP_BUCKETS.partition_point(|&bound| bound < gap);
        self.counts[bucket] += 1;
        self.total = self.total + gap;
    }
}

/// What is counted of a model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Sequences admitted and not ended.
    pub(super) num_live: u32,
    pub(super) num_prompt_tokens: u64,
    pub(super) num_cached_tokens: u64,
    pub(super) num_generated_tokens: u64,
    pub(super) token_gaps: TokenGaps,
}

impl Scheduler {
    /// The state of each model in numbers, in the order of their ids.
    pub fn model_gauges(&self) -> impl Iterator<Item = ModelGauges> + '_ {
        let models = self.state.tallies.iter().zip(0..);
        models.map(|(tally, index)| self.state.gauges_of(ModelId(index), tally))
    }
}

impl State {
    pub(super) fn tally(&mut self, model: ModelId) -> &mut Tally {
        &mut self.tallies[model.index()]
    }

    fn gauges_of(&self, model: ModelId, tally: &Tally) -> ModelGauges {
        // Only a decoder's sequences wait for others, and there is at most one decoder.
        let (num_following, num_held) = match self.config.models[model.index()].kind {
            ModelKind::Decoder => (self.num_following, self.watch.num_held()),
            ModelKind::Encoder => (0, 0),
        };
        let num_waiting = self.queue.len_of(model) as u32 + num_following;
        ModelGauges {
            num_running: tally.num_live - num_waiting,
            num_waiting,
            num_deferred: (num_following + num_held).min(num_waiting),
            num_prompt_tokens: tally.num_prompt_tokens,
            num_cached_tokens: tally.num_cached_tokens,
            num_generated_tokens: tally.num_generated_tokens,
            token_gaps: tally.token_gaps,
        }
    }
}
