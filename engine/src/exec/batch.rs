//! From the rows of a plan to the flat integers that a device reads.

use std::ops::Range;

use crate::ops::Batch;
use crate::types::{BlockId, TokenId};

/// One sequence's share of a step.
#[derive(Clone, Debug)]
pub struct BatchRow<'a> {
    /// Known tokens of the sequence, from position 0.
    pub tokens: &'a [TokenId],
    /// Positions to compute; not empty, within `tokens`.
    pub positions: Range<u32>,
    /// Blocks of the sequence in position order, enough for all positions up to the last one
    /// computed. Ignored for encoders.
    pub blocks: &'a [BlockId],
    /// Which outputs are wanted.
    pub emits: Emits,
}

/// Which outputs of a row are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emits {
    /// None: more of the prompt follows.
    Nothing,
    /// That of the last position.
    Last,
    /// Those of all positions, for scoring and tests.
    All,
}

/// Fills `batch` from `rows`. `block_size` is P of the KV cache, `None` for an encoder.
///
/// Panics when a row contradicts itself: rows come from the scheduler, which owns the invariants.
pub fn fill(batch: &mut Batch, rows: &[BatchRow<'_>], block_size: Option<u32>) {
    clear(batch);
    batch.max_blocks = match block_size {
        Some(size) => rows.iter().map(|row| num_blocks(row, size)).max().unwrap_or(0),
        None => 0,
    };
    batch.cu_seqlens_q.push(0);
    for row in rows {
        push_tokens(batch, row);
        if let Some(block_size) = block_size {
            push_slots(batch, row, block_size);
        }
    }
}

/// Wants the outputs of more positions of row `row`, which the batch was filled from, after those
/// that are wanted already.
pub fn push_outputs(batch: &mut Batch, row: usize, positions: Range<u32>) {
    let (start, first) = (batch.num_computed[row], batch.cu_seqlens_q[row]);
    let end = start + batch.cu_seqlens_q[row + 1] - first;
    assert!(start <= positions.start && positions.end <= end, "{positions:?} of {start}..{end}");
    batch.output_rows.extend(positions.map(|position| first + position - start));
}

fn clear(batch: &mut Batch) {
    batch.token_ids.clear();
    batch.positions.clear();
    batch.slot_mapping.clear();
    batch.cu_seqlens_q.clear();
    batch.num_computed.clear();
    batch.block_tables.clear();
    batch.output_rows.clear();
}

/// Blocks that hold the context of a row.
fn num_blocks(row: &BatchRow<'_>, block_size: u32) -> usize {
    row.positions.end.div_ceil(block_size) as usize
}

fn push_tokens(batch: &mut Batch, row: &BatchRow<'_>) {
    let Range { start, end } = row.positions;
    let known = row.tokens.len();
    assert!(
        start < end && end as usize <= known,
        "positions {start}..{end} of {known} known tokens"
    );
    let first_row = batch.token_ids.len() as u32;
    let tokens = &row.tokens[start as usize..end as usize];
    batch.token_ids.extend_from_slice(tokens);
    batch.positions.extend(start..end);
    batch.num_computed.push(start);
    let end_row = batch.token_ids.len() as u32;
    batch.cu_seqlens_q.push(end_row);
    match row.emits {
        Emits::Nothing => {}
        Emits::Last => batch.output_rows.push(end_row - 1),
        Emits::All => batch.output_rows.extend(first_row..end_row),
    }
}

fn push_slots(batch: &mut Batch, row: &BatchRow<'_>, block_size: u32) {
    let num_needed = num_blocks(row, block_size);
    let num_held = row.blocks.len();
    assert!(
        num_held >= num_needed,
        "{num_held} blocks of {block_size} tokens for positions {:?}",
        row.positions
    );
    let slot = |position: u32| {
        let block = row.blocks[(position / block_size) as usize];
        block.0 * block_size + position % block_size
    };
    batch.slot_mapping.extend(row.positions.clone().map(slot));
    let blocks = row.blocks[..num_needed].iter().map(|block| block.0);
    batch.block_tables.extend(blocks);
    let padding = batch.max_blocks - num_needed;
    batch.block_tables.extend(std::iter::repeat_n(0, padding));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(
        tokens: &'a [TokenId],
        positions: Range<u32>,
        blocks: &'a [BlockId],
        emits: Emits,
    ) -> BatchRow<'a> {
        BatchRow { tokens, positions, blocks, emits }
    }

    #[test]
    fn a_mixed_step_is_laid_out_flat() {
        let prompt = [10, 11, 12, 13, 14, 15, 16];
        let (long, short) = ([BlockId(5), BlockId(2)], [BlockId(9), BlockId(1)]);
        let rows = [
            row(&prompt, 2..6, &long, Emits::Nothing),
            row(&[20, 21], 1..2, &short, Emits::Last),
            row(&[30, 31, 32], 0..3, &[BlockId(7)], Emits::All),
        ];
        let mut batch = Batch::default();
        for _ in 0..2 {
            fill(&mut batch, &rows, Some(4));
        }
        assert_eq!(batch.token_ids, [12, 13, 14, 15, 21, 30, 31, 32]);
        assert_eq!(batch.positions, [2, 3, 4, 5, 1, 0, 1, 2]);
        assert_eq!(batch.slot_mapping, [22, 23, 8, 9, 37, 28, 29, 30]);
        assert_eq!(batch.cu_seqlens_q, [0, 4, 5, 8]);
        assert_eq!(batch.num_computed, [2, 1, 0]);
        assert_eq!(batch.max_blocks, 2);
        assert_eq!(batch.block_tables, [5, 2, 9, 0, 7, 0]);
        assert_eq!(batch.output_rows, [4, 5, 6, 7]);
        push_outputs(&mut batch, 0, 3..5);
        assert_eq!(batch.output_rows, [4, 5, 6, 7, 1, 2]);
    }

    #[test]
    fn an_encoder_batch_has_no_slots() {
        let mut batch = Batch::default();
        fill(&mut batch, &[row(&[1, 2], 0..2, &[], Emits::Last)], None);
        assert!(batch.slot_mapping.is_empty() && batch.block_tables.is_empty());
        assert_eq!((batch.num_tokens(), batch.num_seqs()), (2, 1));
    }

    #[test]
    #[should_panic(expected = "positions 0..3 of 2 known tokens")]
    fn unknown_tokens_cannot_be_computed() {
        fill(&mut Batch::default(), &[row(&[1, 2], 0..3, &[], Emits::Last)], None);
    }
}
