//! Eight lanes in plain Rust. Slow without fused multiply-add, and the reference for the others.

use half::{bf16, f16};

use super::Simd;

const LANES: usize = 8;

#[derive(Clone, Copy)]
pub(super) struct Portable;

/// One half-precision value at an unaligned address.
///
/// # Safety
/// `source` must be valid for two bytes.
#[inline(always)]
pub(super) unsafe fn read_f16(source: *const u8) -> f32 {
    f16::from_bits(u16::from_le(source.cast::<u16>().read_unaligned())).to_f32_const()
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| op(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const NUM_REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; LANES] {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> [f32; LANES] {
        source.cast::<[f32; LANES]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, v: [f32; LANES]) {
        target.cast::<[f32; LANES]>().write_unaligned(v);
    }
    #[inline(always)]
    unsafe fn load_bf16(source: *const u8) -> [f32; LANES] {
        let bits = source.cast::<[u16; LANES]>().read_unaligned();
        bits.map(|bits| bf16::from_bits(u16::from_le(bits)).to_f32_const())
    }
    #[inline(always)]
    unsafe fn load_f16(source: *const u8) -> [f32; LANES] {
        std::array::from_fn(|i| read_f16(source.add(2 * i)))
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        // Not `mul_add`: without hardware support that is a library call per lane.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(v: [f32; LANES]) -> [f32; LANES] {
        // Adding 1.5 * 2^23 pushes the fraction out of the mantissa, rounding to even.
        const SHIFT: f32 = 12_582_912.0;
        v.map(|v| (v + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn ldexp(v: [f32; LANES], n: [f32; LANES]) -> [f32; LANES] {
        // Two steps, since one exponent field cannot hold 2^128 or a denormal's scale.
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        zip(v, n, |v, n| {
            let n = n as i32;
            v * power(n >> 1) * power(n - (n >> 1))
        })
    }
    #[inline(always)]
    unsafe fn select_lt(
        a: [f32; LANES],
        b: [f32; LANES],
        x: [f32; LANES],
        y: [f32; LANES],
    ) -> [f32; LANES] {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn reduce_add(v: [f32; LANES]) -> f32 {
        let v: [f32; 4] = std::array::from_fn(|i| v[i] + v[i + 4]);
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    unsafe fn first(v: [f32; LANES]) -> f32 {
        v[0]
    }
    #[inline(always)]
    unsafe fn reduce_max(v: [f32; LANES]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}
}
