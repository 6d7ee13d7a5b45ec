//! Four lanes: NEON of 64-bit Arm.

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddq_s32, vbslq_f32, vcltq_f32, vcvtq_s32_f32, vdivq_f32, vdupq_n_f32,
    vdupq_n_s32, vfmaq_f32, vgetq_lane_f32, vld1_u8, vld1q_f32, vmaxnmvq_f32, vmulq_f32,
    vreinterpret_u16_u8, vreinterpretq_f32_s32, vreinterpretq_f32_u32, vrndnq_f32, vshll_n_u16,
    vshlq_n_s32, vshrq_n_s32, vst1q_f32, vsubq_f32, vsubq_s32,
};

use super::{Kernel, Simd, portable};

#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Runs `kernel` with NEON.
///
/// # Safety
/// The machine must have the features named here; the kernel's pointers must be valid.
#[target_feature(enable = "neon")]
pub(super) unsafe fn call<K: Kernel>(kernel: K) {
    kernel.run::<Neon>();
}

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const NUM_REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        vdupq_n_f32(value)
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> float32x4_t {
        vld1q_f32(source)
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, v: float32x4_t) {
        vst1q_f32(target, v);
    }
    #[inline(always)]
    unsafe fn load_bf16(source: *const u8) -> float32x4_t {
        // A byte load, since the weights need not be aligned to two bytes.
        let narrow = vreinterpret_u16_u8(vld1_u8(source));
        vreinterpretq_f32_u32(vshll_n_u16::<16>(narrow))
    }
    #[inline(always)]
    unsafe fn load_f16(source: *const u8) -> float32x4_t {
        // The vector conversion needs types that are not stable yet.
        let lanes: [f32; 4] = std::array::from_fn(|i| portable::read_f16(source.add(2 * i)));
        vld1q_f32(lanes.as_ptr())
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vaddq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vsubq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmulq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vdivq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // By comparison, for the trait's rule on NaN.
        vbslq_f32(vcltq_f32(b, a), a, b)
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(vcltq_f32(a, b), a, b)
    }
    #[inline(always)]
    unsafe fn round(v: float32x4_t) -> float32x4_t {
        vrndnq_f32(v)
    }
    #[inline(always)]
    unsafe fn ldexp(v: float32x4_t, n: float32x4_t) -> float32x4_t {
        // Two steps, since one exponent field cannot hold 2^128 or a denormal's scale.
        let n = vcvtq_s32_f32(n);
        let half = vshrq_n_s32::<1>(n);
        let bias = vdupq_n_s32(127);
        let first = vshlq_n_s32::<23>(vaddq_s32(half, bias));
        let second = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias));
        let v = vmulq_f32(v, vreinterpretq_f32_s32(first));
        vmulq_f32(v, vreinterpretq_f32_s32(second))
    }
    #[inline(always)]
    unsafe fn select_lt(
        a: float32x4_t,
        b: float32x4_t,
        x: float32x4_t,
        y: float32x4_t,
    ) -> float32x4_t {
        vbslq_f32(vcltq_f32(a, b), x, y)
    }
    #[inline(always)]
    unsafe fn reduce_add(v: float32x4_t) -> f32 {
        let even = vgetq_lane_f32::<0>(v) + vgetq_lane_f32::<2>(v);
        even + (vgetq_lane_f32::<1>(v) + vgetq_lane_f32::<3>(v))
    }
    #[inline(always)]
    unsafe fn first(v: float32x4_t) -> f32 {
        vgetq_lane_f32::<0>(v)
    }
    #[inline(always)]
    unsafe fn reduce_max(v: float32x4_t) -> f32 {
        vmaxnmvq_f32(v)
    }
    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}
}
