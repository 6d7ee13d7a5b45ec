//! From logits to tokens, on the host.
//!
//! A row goes through [`RowScratch::prepare`] (log-probabilities of the raw logits, then the
//! edits of `edit`), the sequence's logits processors, the mask of its grammar, and
//! [`RowScratch::choose`] (temperature, `cut` for top-k and top-p, min-p and the draw in
//! `weights`). What comes out depends on the row, its mask and its [`RowContext`] alone, bit for
//! bit. Nothing sorts a row; work beyond a few passes over it is proportional to what survives
//! truncation. Called by the model runner.

mod blocks;
mod cut;
mod edit;
mod mass;
mod row;
mod weights;

#[cfg(test)]
mod tests;

pub use row::{Prepared, RowContext, RowScratch, Unsampleable, sample_row};

use crate::sched::{Sequence, Sequences};
use crate::types::{SampledToken, SeqResult, SequenceId, TokenId};

/// The logits of the sequences that emit in this step.
#[derive(Debug)]
pub struct EmittingRows<'a> {
    /// f32 `[E, V]`; overwritten.
    pub logits: &'a mut [f32],
    /// V, at least 1.
    pub vocab_size: usize,
    /// `[E]`: whose row it is. Each must be live and generate, not embed.
    pub ids: &'a [SequenceId],
}

/// Samples the next token of every emitting sequence. Holds scratch that grows to the largest
/// vocabulary seen and is then reused.
#[derive(Debug, Default)]
pub struct Sampler {
    scratch: RowScratch,
    counts: Vec<(TokenId, u32)>,
}

impl Sampler {
    /// A sampler with empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Pushes one result for each row, in row order: the token, or why this row has none.
    pub fn sample(
        &mut self,
        rows: EmittingRows<'_>,
        sequences: &mut Sequences,
        results: &mut Vec<SeqResult>,
    ) {
        let EmittingRows { logits, vocab_size, ids } = rows;
        let (num_logits, num_rows) = (logits.len(), ids.len());
        assert!(
            vocab_size > 0 && num_logits == num_rows * vocab_size,
            "{num_logits} logits are not {num_rows} rows of {vocab_size}"
        );
        for (row, &id) in logits.chunks_exact_mut(vocab_size).zip(ids) {
            results.push(match self.sample_sequence(row, sequences.get_mut(id)) {
                Ok(token) => SeqResult::Token(token),
                Err(message) => SeqResult::Failed(message),
            });
        }
    }

    /// Two stages, because processors and grammar need the sequence mutably between them.
    fn sample_sequence(
        &mut self,
        row: &mut [f32],
        sequence: &mut Sequence,
    ) -> Result<SampledToken, String> {
        let say = |error: Unsampleable| error.to_string();
        self.counts.clear();
        if let Some(counts) = sequence.counts() {
            self.counts.extend(counts.iter());
        }
        let context = RowContext::of(sequence, &self.counts).map_err(say)?;
        let prepared = self.scratch.prepare(row, &context).map_err(say)?;
        if sequence.has_processors() {
            sequence.process(row)?;
        }
        if let Some(mask) = sequence.mask() {
            edit::keep(row, mask?);
        }
        let context = RowContext::of(sequence, &self.counts).map_err(say)?;
        self.scratch.choose(row, &context, prepared).map_err(say)
    }
}
