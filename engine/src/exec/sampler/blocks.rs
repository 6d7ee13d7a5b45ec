//! One pass over a row: the largest logit of every block of [`BLOCK`] neighbours.
//!
//! The maxima pay for themselves later: whatever looks for large logits skips a block whose
//! maximum is too small without reading it. They also bound the k-th largest logit from below.

use std::ops::Range;

use super::Unsampleable;
use crate::types::TokenId;

/// Logits a block: small enough to skip most of a peaked row, large enough that a row of 150k
/// has only some 600 maxima.
pub(super) const BLOCK: usize = 256;
/// Independent accumulators of a loop over a block. A fixed number, so that sums come out the
/// same on every machine whatever the width of its vectors.
pub(super) const LANES: usize = 16;

/// The maxima of one row without NaN and +∞.
#[derive(Debug, Default)]
pub(super) struct BlockMaxima {
    maxima: Vec<f32>,
    /// Index of the first block that holds the row's maximum.
    best: usize,
    /// Scratch of [`Self::kth_largest`].
    ranked: Vec<f32>,
}

impl BlockMaxima {
    /// Scans `row` `[V]`. Fails if it holds NaN or +∞, or nothing above −∞.
    pub(super) fn scan(&mut self, row: &[f32]) -> Result<(), Unsampleable> {
        self.maxima.clear();
        self.best = 0;
        let mut max = f32::NEG_INFINITY;
        let mut has_nan = false;
        for (index, block) in row.chunks(BLOCK).enumerate() {
            let (block_max, block_has_nan) = max_of(block);
            has_nan |= block_has_nan;
            if block_max > max {
                max = block_max;
                self.best = index;
            }
            self.maxima.push(block_max);
        }
        if has_nan || max == f32::INFINITY {
            return Err(Unsampleable::of_broken(row));
        }
        if max == f32::NEG_INFINITY {
            return Err(Unsampleable::AllBanned);
        }
        Ok(())
    }

    /// The row's largest logit.
    pub(super) fn max(&self) -> f32 {
        self.maxima[self.best]
    }

    /// The likeliest token of the scanned `row` `[V]`, the smallest id among equals.
    pub(super) fn argmax(&self, row: &[f32]) -> TokenId {
        let start = self.best * BLOCK;
        let (max, block) = (self.max(), &row[range_of(self.best, row.len())]);
        let offset = block.iter().position(|&logit| logit >= max);
        let Some(offset) = offset else {
            unreachable!("block {} of the row changed after its scan", self.best)
        };
        (start + offset) as TokenId
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.maxima.len()
    }

    /// Whether block `index` holds a logit of at least `threshold`.
    pub(super) fn reaches(&self, index: usize, threshold: f32) -> bool {
        self.maxima[index] >= threshold
    }

    /// Indexes of the blocks that hold a logit of at least `threshold`.
    pub(super) fn reaching(&self, threshold: f32) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(move |&index| self.reaches(index, threshold))
    }

    /// The `k`-th largest maximum, `k` counted from 1: at least `k` logits reach it. −∞ where
    /// there are fewer blocks.
    pub(super) fn kth_largest(&mut self, k: usize) -> f32 {
        if k > self.maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.ranked.clone_from(&self.maxima);
        let (_, kth, _) = self.ranked.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        *kth
    }

    /// A logit that all but a few dozen of the row's likeliest tokens are below. A search for a
    /// cut takes those together, however far above the rest they lie, so that they do not spoil
    /// its resolution for the rest.
    pub(super) fn below_outliers(&mut self) -> f32 {
        const NUM_BLOCKS: usize = 32;
        match self.kth_largest(NUM_BLOCKS) {
            f32::NEG_INFINITY => self.max(),
            bound => bound,
        }
    }
}

/// The tokens of block `index` in a row of `vocab_size`.
#[inline]
pub(super) fn range_of(index: usize, vocab_size: usize) -> Range<usize> {
    let start = index * BLOCK;
    start..vocab_size.min(start + BLOCK)
}

/// Combines accumulators pairwise, in a fixed order.
#[inline]
pub(super) fn fold_lanes<T: Copy>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The incomplete last chunk of a slice, filled up. A loop over part of the accumulators would
/// keep them all out of registers.
#[inline]
pub(super) fn padded(rest: &[f32], filler: f32) -> [f32; LANES] {
    let mut chunk = [filler; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// The largest element (−∞ if there is none), and whether any is NaN.
#[inline]
fn max_of(block: &[f32]) -> (f32, bool) {
    // Not `f32::max`: with its care for NaN the loop is no plain vector maximum.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [0u32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    let last = padded(rest, f32::NEG_INFINITY);
    for chunk in chunks.iter().chain([&last]) {
        for lane in 0..LANES {
            max[lane] = larger(max[lane], chunk[lane]);
            nan[lane] |= u32::from(chunk[lane].is_nan());
        }
    }
    (fold_lanes(max, larger), fold_lanes(nan, |a, b| a | b) != 0)
}
