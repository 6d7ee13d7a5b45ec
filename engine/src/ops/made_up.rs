//! Numbers of weights that are made up: each depends on its place and on the seed alone, so that
//! any device makes up the same, as fast as it writes.

use half::bf16;

use super::{Dtype, HostBytes, HostTensor};

/// Which numbers are made up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MadeUp {
    /// Chooses them.
    pub seed: u64,
    /// They are uniform in -scale..scale.
    pub scale: f32,
}

impl MadeUp {
    /// The numbers from the first on: those of `fill_random` of the CUDA kernels, not yet rounded.
    pub fn numbers(self) -> impl Iterator<Item = f32> {
        (0..).flat_map(move |pair| {
            let hash = self.hash(pair);
            [hash as u32, (hash >> 32) as u32].map(|bits| self.number(bits))
        })
    }

    /// Matrices of `cols` columns, one for each of `rows`, in bfloat16: the numbers of one follow
    /// those of the one before.
    #[must_use]
    pub fn matrices(self, rows: &[usize], cols: usize) -> Vec<HostTensor> {
        let mut bytes = vec![0; rows.iter().sum::<usize>() * cols * 2];
        let (halves, _) = bytes.as_chunks_mut::<2>();
        for (half, number) in halves.iter_mut().zip(self.numbers()) {
            *half = bf16::from_f32(number).to_le_bytes();
        }
        let bytes = HostBytes::Owned(bytes.into());
        let mut end = 0;
        let part = |rows: &usize| {
            let start = end;
            end += rows * cols * 2;
            HostTensor::new(Dtype::Bf16, [*rows, cols], bytes.clone(), start..end)
        };
        rows.iter().map(part).collect()
    }

    /// The finaliser of SplitMix64: every bit depends on every bit.
    fn hash(self, pair: u64) -> u64 {
        let x = self.seed.wrapping_add((pair + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn number(self, bits: u32) -> f32 {
        ((bits >> 8) as f32 / (1u32 << 23) as f32 - 1.0) * self.scale
    }
}
