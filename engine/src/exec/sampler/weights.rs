//! Unnormalised probabilities, and the draw from them.
//!
//! A token's weight is e^((logit − largest logit) / temperature), so the likeliest weighs
//! exactly 1. Sums run in 16 f32 accumulators over a block and in f64 over blocks: a
//! fixed order. Only additions and multiplications are used, no library exponential, so the
//! bits are the same on every machine. A block outside the cut has sum 0 and stale values:
//! readers must skip it. Elementwise work and sums are separate loops, each short enough to
//! stay in vector registers; together they took over three times as long.

use super::blocks::{BLOCK, BlockMaxima, sum_of};
use super::cut::Cut;
use crate::types::TokenId;

/// Weights of one row.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// `[V]`
    values: Vec<f32>,
    /// Sum of each block.
    sums: Vec<f64>,
}

impl Weights {
    /// Weighs the tokens of `row` `[V]` within `cut`; the others weigh 0.
    ///
    /// `temperature` is positive.
    pub(super) fn weigh(&mut self, row: &[f32], maxima: &BlockMaxima, temperature: f32, cut: Cut) {
        self.values.resize(row.len(), 0.0);
        self.sums.resize(maxima.len(), 0.0);
        let max = maxima.max();
        // Finite, so that the difference 0 of the likeliest token stays 0.
        let scale = (std::f32::consts::LOG2_E / temperature).min(f32::MAX);
        self.update(row, maxima, cut, |logit, _| exp2_of_negative((logit - max) * scale));
    }

    /// Sets to 0 what lies outside `cut`, which must be within the cut of [`Self::weigh`], and
    /// what weighs less than `min_weight`.
    pub(super) fn keep(&mut self, row: &[f32], maxima: &BlockMaxima, cut: Cut, min_weight: f32) {
        self.update(row, maxima, cut, |_, weight| if weight >= min_weight { weight } else { 0.0 });
    }

    /// Sum of all weights.
    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// All values `[V]`; those of blocks outside the cut are stale.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// The token at which the running sum of weights, in the order of ids, first exceeds
    /// `uniform` times the total. Some weight must be positive.
    pub(super) fn draw(&self, uniform: f64) -> TokenId {
        let target = uniform * self.total();
        let mut sum = 0.0;
        let mut last = None;
        for (index, &block_sum) in self.sums.iter().enumerate() {
            if block_sum > 0.0 {
                last = Some((index, sum));
                sum += block_sum;
            }
            if sum > target {
                break;
            }
        }
        let Some((index, mut sum)) = last else {
            unreachable!("a draw from weights that are all 0")
        };
        // The block's sum was rounded in another order: if the walk ends short of the target,
        // the last token that can be drawn is the one.
        let mut drawn = index * BLOCK;
        let end = self.values.len().min(drawn + BLOCK);
        for (token, &weight) in self.values[..end].iter().enumerate().skip(drawn) {
            if weight > 0.0 {
                drawn = token;
                sum += f64::from(weight);
            }
            if sum > target {
                break;
            }
        }
        drawn as TokenId
    }

    /// Each token of positive weight, with its share of the total.
    #[cfg(test)]
    pub(super) fn drawable(&self) -> Vec<(TokenId, f64)> {
        let total = self.total();
        let blocks = self.values.chunks(BLOCK).zip(&self.sums).enumerate();
        let valid = blocks.filter(|(_, (_, sum))| **sum > 0.0);
        let tokens = valid.flat_map(|(index, (values, _))| {
            let ids = index * BLOCK..;
            ids.map(|id| id as TokenId).zip(values)
        });
        tokens
            .filter(|&(_, &weight)| weight > 0.0)
            .map(|(id, &weight)| (id, f64::from(weight) / total))
            .collect()
    }

    /// Recomputes values and sums from (logit, old value); 0 outside `cut`.
    fn update(
        &mut self,
        row: &[f32],
        maxima: &BlockMaxima,
        cut: Cut,
        value: impl Fn(f32, f32) -> f32,
    ) {
        let blocks = self.values.chunks_mut(BLOCK).zip(row.chunks(BLOCK));
        for (index, (values, logits)) in blocks.enumerate() {
            if !maxima.reaches(index, cut.value) {
                self.sums[index] = 0.0;
                continue;
            }
            // The cut runs between two ids: before it equals are in, after it they are out.
            let num_before = (cut.id as usize + 1).saturating_sub(index * BLOCK);
            let split = num_before.min(logits.len());
            let (low_values, high_values) = values[..logits.len()].split_at_mut(split);
            let (low, high) = logits.split_at(split);
            self.sums[index] = update_part(low_values, low, cut.value, &value)
                + update_part(high_values, high, cut.value.next_up(), &value);
        }
    }
}

/// Replaces each of `values` and returns the sum; those whose logit is below `threshold` become 0.
fn update_part(
    values: &mut [f32],
    logits: &[f32],
    threshold: f32,
    value: impl Fn(f32, f32) -> f32,
) -> f64 {
    for (old, &logit) in values.iter_mut().zip(logits) {
        let new = value(logit, *old);
        *old = if logit >= threshold { new } else { 0.0 };
    }
    f64::from(sum_of(values))
}

/// 2^x for x ≤ 0, within 4e-7 of its value; 0 from −126 down, where it leaves the normal
/// numbers, and for NaN, which 0 · ∞ makes at an infinite temperature.
///
/// x = n + f with |f| ≤ ½; 2^n by the exponent field, 2^f = 1 + f · p(f), where p interpolates
/// (2^f − 1) / f at the five Chebyshev nodes. No branch, no call: vector code in a loop.
#[inline]
fn exp2_of_negative(x: f32) -> f32 {
    const MIN: f32 = -126.0;
    /// 1.5 · 2²³: adding it rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let mut series = 0.001_338_130_2;
    for coefficient in [0.009_666_368, 0.055_503_81, 0.240_223_5, std::f32::consts::LN_2, 1.0] {
        series = series * f + coefficient;
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x > MIN { series * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::exp2_of_negative;

    #[test]
    fn exponential_against_f64() {
        for step in 0..1_259_999 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2_of_negative(x)) - expected).abs() / expected;
            assert!(error < 4e-7, "2^{x}: relative error {error}");
        }
    }

    #[test]
    fn exponential_at_its_ends() {
        for x in [0.0, -0.0, -1e-30] {
            assert_eq!(exp2_of_negative(x).to_bits(), 1f32.to_bits(), "2^{x}");
        }
        assert!(exp2_of_negative(-125.9) > 0.0);
        for x in [-126.0, -127.5, -1e30, f32::MIN, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp2_of_negative(x).to_bits(), 0, "2^{x}");
        }
    }
}
