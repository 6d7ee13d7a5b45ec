//! What the machine can do at best: the two roofs that kernels are measured against.

use super::pool::Pool;
use super::simd::{Kernel, Simd, dispatch};

/// Keeps every thread's multiply-add units full for `iterations` rounds and returns the number of
/// floating-point operations done. Time it to get the peak.
pub fn multiply_adds(pool: &Pool, iterations: usize) -> u64 {
    let isa = pool.isa();
    pool.run(pool.num_threads(), &|_| {
        // SAFETY: the pool's instruction set is available; the kernel has no pointers.
        unsafe { dispatch(isa, MultiplyAdds { iterations }) };
    });
    let lanes = match pool.isa() {
        super::Isa::Avx512 => 16,
        super::Isa::Avx2 | super::Isa::Portable => 8,
        super::Isa::Neon => 4,
    };
    (pool.num_threads() * iterations * CHAINS * lanes * 2) as u64
}

/// Independent chains of multiply-adds: enough to hide the latency, few enough for the registers.
const CHAINS: usize = 12;

struct MultiplyAdds {
    iterations: usize,
}

impl Kernel for MultiplyAdds {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the instruction set is the caller's.
        unsafe {
            let factor = S::splat(std::hint::black_box(0.999));
            let mut sums = [factor; CHAINS];
            for _ in 0..self.iterations {
                for sum in &mut sums {
                    *sum = S::fma(*sum, factor, factor);
                }
            }
            for sum in sums {
                std::hint::black_box(S::first(sum));
            }
        }
    }
}

/// Reads all of `data` once, in parts on every thread, and returns a checksum. Time it to get the
/// read bandwidth.
pub fn read(pool: &Pool, data: &[u8]) -> u32 {
    /// Bytes per task.
    const PART: usize = 1 << 18;
    let sum = std::sync::atomic::AtomicU32::new(0);
    let isa = pool.isa();
    pool.run(data.len().div_ceil(PART), &|index| {
        let part = &data[index * PART..data.len().min((index + 1) * PART)];
        let mut lanes = 0.0;
        // SAFETY: the pool's instruction set is available; the kernel reads inside its slice.
        unsafe {
            dispatch(isa, Read { part, result: &mut lanes });
        };
        sum.fetch_xor(lanes.to_bits(), std::sync::atomic::Ordering::Relaxed);
    });
    sum.into_inner()
}

struct Read<'a> {
    part: &'a [u8],
    result: &'a mut f32,
}

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const WAYS: usize = 8;
        let data: *const f32 = self.part.as_ptr().cast();
        let num = self.part.len() / 4;
        // SAFETY: indices stay below `num`; loads need no alignment.
        unsafe {
            let mut sums = [S::splat(0.0); WAYS];
            let mut i = 0;
            while i + WAYS * S::LANES <= num {
                for (way, sum) in sums.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(data.add(i + way * S::LANES)));
                }
                i += WAYS * S::LANES;
            }
            let mut total = sums[0];
            for sum in &sums[1..] {
                total = S::add(total, *sum);
            }
            *self.result = S::reduce_add(total);
        }
    }
}
