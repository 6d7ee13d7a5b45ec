//! Counter-based random numbers: Philox4x32-10.
//!
//! A number is a pure function of (seed, choice, position). There is no state to carry, so a
//! sequence draws the same numbers alone, in any batch, and after a preemption, and a GPU thread
//! computes the same words with nothing but 32-bit multiplications. Used by the sampler.
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl constants by which the key advances each round: the golden ratio and √3 − 1.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const NUM_ROUNDS: usize = 10;

/// One block of Philox4x32 with ten rounds: four random words from a counter and a key.
#[must_use]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..NUM_ROUNDS {
        let product_0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let product_1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (product_1 >> 32) as u32 ^ counter[1] ^ key[0],
            product_1 as u32,
            (product_0 >> 32) as u32 ^ counter[3] ^ key[1],
            product_0 as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// The random stream of one choice of one request, with a number for each position.
///
/// Key words: seed bits 0–31, seed bits 32–63. Counter words: position, choice index, 0, 0.
/// The last two are kept for a second draw at a position and for other uses of the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomStream {
    key: [u32; 2],
    choice_index: u32,
}

impl RandomStream {
    /// The stream of choice `choice_index` under `seed`; 0 is a seed like any other.
    #[must_use]
    pub fn new(seed: u64, choice_index: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], choice_index }
    }

    /// The number at `position`, uniform over the 2⁵² odd multiples of 2⁻⁵³: never 0, never 1.
    #[must_use]
    pub fn uniform(&self, position: u32) -> f64 {
        self.numerator(position) as f64 / (1u64 << 53) as f64
    }

    /// That number times 2⁵³, for arithmetic in integers: odd, below 2⁵³.
    ///
    /// Its leading 32 bits are word 0 of the block, the next 20 the top of word 1.
    #[must_use]
    pub fn numerator(&self, position: u32) -> u64 {
        let words = philox4x32_10([position, self.choice_index, 0, 0], self.key);
        let bits = (u64::from(words[0]) << 20) | u64::from(words[1] >> 12);
        2 * bits + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the generator.
    #[test]
    fn known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn words_of_the_mapping() {
        let words = philox4x32_10([7, 3, 0, 0], [0x89ab_cdef, 0x0123_4567]);
        let expected = (f64::from(words[0]) + f64::from(words[1] >> 12) / f64::from(1u32 << 20))
            / 4_294_967_296.0;
        let number = RandomStream::new(0x0123_4567_89ab_cdef, 3).uniform(7);
        assert!((number - expected).abs() <= 0.5f64.powi(53), "{number} {expected}");
    }

    #[test]
    fn every_part_of_the_name_matters() {
        let number = RandomStream::new(5, 1).uniform(9);
        assert_eq!(number.to_bits(), RandomStream::new(5, 1).uniform(9).to_bits());
        for other in [
            RandomStream::new(5, 1).uniform(10),
            RandomStream::new(5, 2).uniform(9),
            RandomStream::new(6, 1).uniform(9),
            RandomStream::new(5 + (1 << 32), 1).uniform(9),
        ] {
            assert_ne!(number.to_bits(), other.to_bits());
        }
    }

    /// Mean, variance and all pairwise correlations of streams that differ in one word. Each
    /// statistic is compared at 6 standard errors: about 2e-9 a comparison, under 1e-6 in all.
    #[test]
    fn streams_are_uniform_and_independent() {
        const NUM_DRAWS: u32 = 20_000;
        let streams = [(0, 0), (0, 1), (0, 2), (1, 0), (1 << 32, 0), (u64::MAX, 0)];
        let draws: Vec<Vec<f64>> = streams
            .iter()
            .map(|&(seed, choice)| {
                let stream = RandomStream::new(seed, choice);
                (0..NUM_DRAWS).map(|at| stream.uniform(at)).collect()
            })
            .collect();
        let num = f64::from(NUM_DRAWS);
        let limit = 6.0 / num.sqrt();
        // Standardised: the mean of x has standard error 1/√n, so has that of products.
        let standard = |x: &f64| (x - 0.5) * 12f64.sqrt();
        for (i, a) in draws.iter().enumerate() {
            assert!(a.iter().all(|&x| x > 0.0 && x < 1.0));
            let mean = a.iter().map(standard).sum::<f64>() / num;
            assert!(mean.abs() < limit, "stream {i}: mean {mean}");
            // The square of a standardised uniform has variance 0.8.
            let variance = a.iter().map(|x| standard(x).powi(2)).sum::<f64>() / num;
            assert!((variance - 1.0).abs() < limit, "stream {i}: variance {variance}");
            for (j, b) in draws.iter().enumerate() {
                for lag in 0..3 {
                    if i == j && lag == 0 {
                        continue;
                    }
                    let pairs = a.iter().zip(b[lag..].iter());
                    let correlation =
                        pairs.map(|(x, y)| standard(x) * standard(y)).sum::<f64>() / num;
                    assert!(correlation.abs() < limit, "{i} {j} lag {lag}: {correlation}");
                }
            }
        }
    }
}
