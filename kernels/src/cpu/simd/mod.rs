//! The vector trait that every kernel is written over, and the choice of its implementation.
//!
//! A kernel is a struct of arguments with one generic, always-inlined body ([`Kernel`]);
//! [`dispatch`] compiles it once per instruction set inside a `#[target_feature]` function and
//! calls the right copy. Invariant: an [`Isa`] value other than `Portable` exists in a
//! [`Pool`](super::Pool) only if the machine has it, which is what makes the call sound.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "bodies are intrinsics throughout; the contract is each function's"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

/// An instruction set that the kernels can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 F, BW, DQ and VL: 16 lanes, 32 registers.
    Avx512,
    /// AVX2 with FMA and F16C: 8 lanes, 16 registers.
    Avx2,
    /// NEON of 64-bit Arm: 4 lanes, 32 registers.
    Neon,
    /// Plain Rust that runs everywhere, without fused multiply-add.
    Portable,
}

impl Isa {
    /// Every instruction set, fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// The fastest instruction set of this machine.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this machine, and this build's architecture, has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Self::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Portable => true,
            #[allow(unreachable_patterns, reason = "which arms remain depends on the architecture")]
            _ => false,
        }
    }
}

/// The widest vector of any implementation, in `f32` lanes.
pub(crate) const MAX_LANES: usize = 16;

/// A vector of `f32` lanes and the handful of operations that the kernels need.
///
/// # Safety
/// Each method may only be called where the implementation's instruction set is present, that is
/// from code inlined into [`dispatch`]. Pointers need no alignment but must be valid for the lanes
/// named.
pub(crate) trait Simd: Copy {
    /// One vector register.
    type V: Copy;
    /// Number of `f32` lanes in a register; divides [`MAX_LANES`].
    const LANES: usize;
    /// Number of architectural vector registers: sizes the register tiles of the kernels.
    const NUM_REGISTERS: usize;

    /// All lanes set to `value`.
    unsafe fn splat(value: f32) -> Self::V;
    /// Reads `LANES` values.
    unsafe fn load(source: *const f32) -> Self::V;
    /// Writes `LANES` values.
    unsafe fn store(target: *mut f32, v: Self::V);
    /// Reads `LANES` bf16 values, widened exactly.
    unsafe fn load_bf16(source: *const u8) -> Self::V;
    /// Reads `LANES` IEEE half values, widened exactly.
    unsafe fn load_f16(source: *const u8) -> Self::V;
    /// `a * b + c`, fused where the hardware can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lane-wise sum.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise difference.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise product.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise quotient.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise maximum; where either is NaN, `b`.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise minimum; where either is NaN, `b`.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even; lanes must be below 2^22 in size.
    unsafe fn round(v: Self::V) -> Self::V;
    /// `v * 2^n` for integral `n` in -252..=252.
    unsafe fn ldexp(v: Self::V, n: Self::V) -> Self::V;
    /// `a < b ? x : y`, lane by lane; `y` where either is NaN.
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Sum of all lanes, by halving: lane i with lane i + n/2, and so on.
    unsafe fn reduce_add(v: Self::V) -> f32;
    /// [`Simd::reduce_add`] of four vectors, with the very same order of sums.
    #[inline(always)]
    unsafe fn reduce_add4(v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| Self::reduce_add(v))
    }
    /// Lane zero.
    unsafe fn first(v: Self::V) -> f32;
    /// Largest lane.
    unsafe fn reduce_max(v: Self::V) -> f32;
    /// Hint to bring the cache line at `address` into the second-level cache; any address is fine.
    unsafe fn prefetch(address: *const u8);

    /// Writes the transpose of the `LANES` rows at `source`, `LANES` values each, to `target`; rows
    /// are `source_stride` and `target_stride` apart.
    #[inline(always)]
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        for row in 0..Self::LANES {
            for col in 0..Self::LANES {
                *target.add(col * target_stride + row) = *source.add(row * source_stride + col);
            }
        }
    }

    /// Reads `len <= LANES` values, the other lanes zero.
    #[inline(always)]
    unsafe fn load_partial(source: *const f32, len: usize) -> Self::V {
        let mut lanes = [0.0f32; MAX_LANES];
        std::ptr::copy_nonoverlapping(source, lanes.as_mut_ptr(), len);
        Self::load(lanes.as_ptr())
    }
    /// Writes the first `len <= LANES` lanes.
    #[inline(always)]
    unsafe fn store_partial(target: *mut f32, v: Self::V, len: usize) {
        let mut lanes = [0.0f32; MAX_LANES];
        Self::store(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), target, len);
    }
}

/// A computation that [`dispatch`] can compile for each instruction set.
pub(crate) trait Kernel {
    /// The generic body. Implementations are `#[inline(always)]` down to the last helper, since a
    /// function that is not inlined loses the instruction set of its caller.
    ///
    /// # Safety
    /// The instruction set of `S` must be present, and the kernel's own pointers valid.
    unsafe fn run<S: Simd>(self);
}

/// Runs `kernel` with the vectors of `isa`.
///
/// # Safety
/// `isa` must be available on this machine, and the kernel's own pointers valid.
pub(crate) unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::call(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::call(kernel),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::call(kernel),
        _ => kernel.run::<portable::Portable>(),
    }
}
