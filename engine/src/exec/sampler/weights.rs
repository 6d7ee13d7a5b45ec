//! Unnormalised probabilities, and the draw from them.
//!
//! A token's weight is e^((logit − largest logit) / temperature), so the likeliest weighs
//! exactly 1. Weights are made with additions and multiplications, no library exponential, and
//! summed as integers (`mass`), so the bits are the same on every machine and in any order. A
//! block outside the cut has sum 0 and stale values: readers must skip it. Elementwise work and
//! sums are separate loops, each short enough to stay in vector registers.

use super::blocks::{BLOCK, BlockMaxima};
use super::cut::Cut;
use super::mass::{MAX_VOCAB_SIZE, mass_of, mass_of_block};
use crate::types::TokenId;

/// Weights of one row.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// `[V]`
    values: Vec<f32>,
    /// Mass of each block.
    sums: Vec<u64>,
}

impl Weights {
    /// Weighs the tokens of `row` `[V]` within `cut`; the others weigh 0.
    ///
    /// `temperature` is positive.
    pub(super) fn weigh(&mut self, row: &[f32], maxima: &BlockMaxima, temperature: f32, cut: Cut) {
        let vocab_size = row.len();
        assert!(vocab_size < MAX_VOCAB_SIZE, "masses of {vocab_size} tokens could overflow");
        self.values.resize(vocab_size, 0.0);
        self.sums.resize(maxima.len(), 0);
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

    /// Mass of all tokens.
    pub(super) fn total(&self) -> u64 {
        self.sums.iter().sum()
    }

    /// All values `[V]`; those of blocks outside the cut are stale.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// The token at which the running sum of masses, in the order of ids, first exceeds
    /// `numerator` · 2⁻⁵³ of the total; `numerator` is below 2⁵³. Some mass must be positive.
    pub(super) fn draw(&self, numerator: u64) -> TokenId {
        let product = u128::from(self.total()) * u128::from(numerator);
        let mut target = (product >> 53) as u64;
        let block = self.sums.iter().position(|&sum| is_next(&mut target, sum));
        let Some(block) = block else { unreachable!("a draw from masses that are all 0") };
        let start = block * BLOCK;
        let values = &self.values[start..self.values.len().min(start + BLOCK)];
        let offset = values.iter().position(|&weight| is_next(&mut target, mass_of(weight)));
        let Some(offset) = offset else {
            unreachable!("block {block} has a mass of {}, its tokens less", self.sums[block])
        };
        (start + offset) as TokenId
    }

    /// Each token of positive mass, with its share of the total.
    #[cfg(test)]
    pub(super) fn drawable(&self) -> Vec<(TokenId, f64)> {
        let total = super::mass::to_f64(self.total());
        let blocks = self.values.chunks(BLOCK).zip(&self.sums).enumerate();
        let valid = blocks.filter(|(_, (_, sum))| **sum > 0);
        let tokens = valid.flat_map(|(index, (values, _))| {
            let ids = index * BLOCK..;
            ids.map(|id| id as TokenId).zip(values.iter().map(|&weight| mass_of(weight)))
        });
        tokens
            .filter(|&(_, mass)| mass > 0)
            .map(|(id, mass)| (id, super::mass::to_f64(mass) / total))
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
                self.sums[index] = 0;
                continue;
            }
            // The cut runs between two ids: before it equals are in, after it they are out.
            let num_before = (cut.id as usize + 1).saturating_sub(index * BLOCK);
            let split = num_before.min(logits.len());
            let (low_values, high_values) = values[..logits.len()].split_at_mut(split);
            let (low, high) = logits.split_at(split);
            update_part(low_values, low, cut.value, &value);
            update_part(high_values, high, cut.value.next_up(), &value);
            self.sums[index] = mass_of_block(&values[..logits.len()]);
        }
    }
}

/// Whether `target` lies within the next `mass` of a running sum; if not, takes it off.
#[inline]
fn is_next(target: &mut u64, mass: u64) -> bool {
    let is_next = *target < mass;
    if !is_next {
        *target -= mass;
    }
    is_next
}

/// Replaces each of `values`; those whose logit is below `threshold` become 0.
fn update_part(
    values: &mut [f32],
    logits: &[f32],
    threshold: f32,
    value: impl Fn(f32, f32) -> f32,
) {
    for (old, &logit) in values.iter_mut().zip(logits) {
        let new = value(logit, *old);
        *old = if logit >= threshold { new } else { 0.0 };
    }
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
