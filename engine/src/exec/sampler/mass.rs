//! Weights as integers, so that a sum of them is the same in any order, on any machine.
//!
//! A token's mass is its weight in units of 2⁻⁴⁰, to the nearest, so the likeliest token has mass
//! 2⁴⁰ and one that is 2⁴¹ times less likely has none. Every sum that decides something (top-p,
//! the draw, log-probabilities) is a sum of masses. A GPU, which adds in whatever order its
//! threads arrive, then finds the very same tokens.

use super::blocks::{BLOCK, LANES, fold_lanes, padded};

/// Binary digits of a mass after the point. With this many, the masses of 2²³ tokens fit a u64.
pub(super) const MASS_BITS: u32 = 40;
/// Vocabularies must be smaller than this for sums of masses not to overflow.
pub(super) const MAX_VOCAB_SIZE: usize = 1 << 23;

/// 1.5 · 2⁶: adding it rounds a weight to a multiple of 2⁻¹⁷, counted in the low bits.
const COARSE: f32 = 96.0;
/// 1.5 · 2⁻¹⁷: adding it rounds the rest, at most 2⁻¹⁸, to a multiple of 2⁻⁴⁰.
const FINE: f32 = 1.5 / 131_072.0;
/// Fine units in a coarse one, as a power of two.
const COARSE_SHIFT: u32 = 23;

/// The mass of a token of this weight, from 0 to 1.
#[inline]
pub(super) fn mass_of(weight: f32) -> u64 {
    let (coarse, fine) = digits(weight);
    join(coarse.wrapping_sub(COARSE.to_bits()), fine.wrapping_sub(FINE.to_bits()))
}

/// The mass of all `weights`, of one block at most.
#[inline]
pub(super) fn mass_of_block(weights: &[f32]) -> u64 {
    debug_assert!(weights.len() <= BLOCK, "{} weights", weights.len());
    let mut coarse = [0u32; LANES];
    let mut fine = [0u32; LANES];
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let last = padded(rest, 0.0);
    for chunk in chunks.iter().chain([&last]) {
        for lane in 0..LANES {
            let digits = digits(chunk[lane]);
            coarse[lane] = coarse[lane].wrapping_add(digits.0);
            fine[lane] = fine[lane].wrapping_add(digits.1);
        }
    }
    // The offsets are taken off at the end: what wrapped comes back.
    let num_added = ((chunks.len() + 1) * LANES) as u32;
    let total = |lanes: [u32; LANES], offset: f32| {
        let sum = fold_lanes(lanes, u32::wrapping_add);
        sum.wrapping_sub(offset.to_bits().wrapping_mul(num_added))
    };
    join(total(coarse, COARSE), total(fine, FINE))
}

/// A sum of masses as a number, in weights.
pub(super) fn to_f64(mass: u64) -> f64 {
    mass as f64 / (1u64 << MASS_BITS) as f64
}

/// Coarse and fine part of a weight, each above an offset: the bits of [`COARSE`] and [`FINE`].
/// f32 additions that are exact but for one rounding each; no cast, so that a loop is vector code.
#[inline]
fn digits(weight: f32) -> (u32, u32) {
    let coarse = weight + COARSE;
    let rest = weight - (coarse - COARSE);
    (coarse.to_bits(), (rest + FINE).to_bits())
}

/// `coarse` is a count of 2⁻¹⁷, `fine` a signed one of 2⁻⁴⁰, below 2³¹ in size.
#[inline]
fn join(coarse: u32, fine: u32) -> u64 {
    (u64::from(coarse) << COARSE_SHIFT).wrapping_add_signed(i64::from(fine as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::random::RandomStream;

    /// Rounded to the nearest, halves to even: scaling by 2⁴⁰ is exact in f64.
    fn expected(weight: f32) -> u64 {
        (f64::from(weight) * 2f64.powi(40)).round_ties_even() as u64
    }

    #[test]
    fn masses_are_rounded_weights() {
        let stream = RandomStream::new(40, 0);
        for at in 0..200_000 {
            let exponent = -60.0 * stream.uniform(2 * at);
            let weight = (exponent.exp2() * (0.5 + 0.5 * stream.uniform(2 * at + 1))) as f32;
            assert_eq!(mass_of(weight), expected(weight), "{weight:e}");
        }
        for exponent in 0..50 {
            let power = 0.5f32.powi(exponent);
            for weight in [power, power.next_down(), 0.75 * power, 0.625 * power] {
                assert_eq!(mass_of(weight), expected(weight), "{weight:e}");
            }
        }
        assert_eq!((mass_of(0.0), mass_of(1.0)), (0, 1 << MASS_BITS));
    }

    #[test]
    fn a_block_sums_its_masses() {
        let stream = RandomStream::new(41, 0);
        for num in [0, 1, 15, 16, 17, 255, 256] {
            let scale = 0.5f64.powi(num as i32 % 20);
            let random: Vec<f32> = (0..num).map(|at| (scale * stream.uniform(at)) as f32).collect();
            // Rests that all round the same way add up to the most.
            let ones = vec![1.0; num as usize];
            let up = vec![0.5f32.powi(18); num as usize];
            let down = vec![3.0 * 0.5f32.powi(18); num as usize];
            for weights in [random, ones, up, down] {
                let sum: u64 = weights.iter().map(|&weight| mass_of(weight)).sum();
                assert_eq!(mass_of_block(&weights), sum, "{num}");
            }
        }
    }
}
