//! Log-probabilities of prompt tokens, from logits of a few rows at a time.
//!
//! The hidden states of the positions to score follow those of the emitting rows among a step's
//! outputs. Their logits are computed for [`MAX_ROWS`] of them at once and looked at on the host,
//! so that memory does not grow with the prompt. Every row's numbers depend on that row alone,
//! which makes the result the same for any chunking and in any batch wherever the device's
//! products are. Both runners call it.

use std::ops::Range;

use super::sampler::{RowScratch, Unsampleable};
use crate::model::Model;
use crate::ops::{Device, Tensor};
use crate::sched::{Sequence, Sequences};
use crate::types::{PromptLogprob, PromptScores, Result, ScheduledSeq, SequenceId, TokenId};

/// Rows of logits, each as wide as the vocabulary, that are in memory at once.
pub const MAX_ROWS: usize = 32;

/// The positions of one scheduled sequence that are to be scored.
#[derive(Clone, Debug)]
pub(super) struct ToScore {
    /// Index of the sequence in the plan.
    pub(super) index: usize,
    id: SequenceId,
    /// Which of its positions; not empty.
    pub(super) positions: Range<u32>,
}

/// The positions to score in the rows of a step, which come with their indexes in the plan.
pub(super) fn to_score<'a>(
    rows: impl Iterator<Item = (usize, &'a ScheduledSeq)>,
    sequences: &Sequences,
) -> Vec<ToScore> {
    let of_row = |(index, seq): (usize, &ScheduledSeq)| {
        let positions = sequences.get(seq.id).positions_to_score(&seq.positions);
        (!positions.is_empty()).then_some(ToScore { index, id: seq.id, positions })
    };
    rows.filter_map(of_row).collect()
}

/// What was found, and which sequences failed, by their index in the plan.
#[derive(Debug, Default)]
pub(super) struct Scored {
    pub(super) scores: Vec<PromptScores>,
    pub(super) failed: Vec<(usize, String)>,
}

/// Scores prompts. Holds scratch that grows to the largest vocabulary seen and is then reused.
#[derive(Debug, Default)]
pub(super) struct PromptScorer {
    scratch: RowScratch,
}

impl PromptScorer {
    /// Scores all of `wanted`, whose hidden states are the rows of `hidden`, in order.
    pub(super) fn score(
        &mut self,
        (device, model): (&mut dyn Device, &dyn Model),
        hidden: Tensor,
        wanted: &[ToScore],
        sequences: &Sequences,
    ) -> Result<Scored> {
        let positions = |(place, one): (usize, &ToScore)| {
            one.positions.clone().map(move |position| (place, position))
        };
        let places = wanted.iter().enumerate().flat_map(positions).collect::<Vec<_>>();
        assert_eq!(places.len(), hidden.rows(), "a hidden state for each position to score");
        let mut found = vec![Ok(Vec::new()); wanted.len()];
        for (part, places) in places.chunks(MAX_ROWS).enumerate() {
            let start = part * MAX_ROWS;
            let mark = device.arena().mark();
            let logits = model.logits(device, hidden.rows_in(start..start + places.len()));
            device.arena().rewind(mark);
            let rows = device.read(logits)?.chunks_exact(logits.cols());
            for (row, &(place, position)) in rows.zip(places) {
                let (token, num_top) = asked(sequences.get(wanted[place].id), position);
                let score = self.scratch.score(row, token, num_top);
                push(&mut found[place], score);
            }
        }
        Ok(Scored::new(wanted, found))
    }
}

/// Adds a score to those of its sequence; the first failure takes the place of all.
fn push(
    found: &mut std::result::Result<Vec<PromptLogprob>, Unsampleable>,
    score: std::result::Result<PromptLogprob, Unsampleable>,
) {
    match (&mut *found, score) {
        (Ok(all), Ok(one)) => all.push(one),
        (Ok(_), Err(error)) => *found = Err(error),
        (Err(_), _) => {}
    }
}

impl Scored {
    fn new(
        wanted: &[ToScore],
        found: Vec<std::result::Result<Vec<PromptLogprob>, Unsampleable>>,
    ) -> Self {
        let mut scored = Self::default();
        for (&ToScore { index, .. }, found) in wanted.iter().zip(found) {
            match found {
                Ok(logprobs) => scored.scores.push(PromptScores { index, logprobs }),
                Err(error) => {
                    let message = format!("log-probabilities of the prompt: {error}");
                    scored.failed.push((index, message));
                }
            }
        }
        scored
    }
}

/// The token after `position`, and how many of the likeliest are wanted beside it.
fn asked(sequence: &Sequence, position: u32) -> (TokenId, u32) {
    let num_top = sequence.sampling().and_then(|params| params.prompt_logprobs).unwrap_or(0);
    (sequence.tokens()[position as usize + 1], num_top)
}
