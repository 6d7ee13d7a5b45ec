//! Sixteen lanes: AVX-512 F, BW, DQ and VL.

use std::arch::x86_64::{
    __m512, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T1, _mm_prefetch,
    _mm_storeu_ps, _mm256_loadu_si256, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castps512_ps128, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32,
    _mm512_cvtph_ps, _mm512_cvtss_f32, _mm512_div_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_blend_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_permute_ps, _mm512_permutexvar_ps, _mm512_reduce_max_ps,
    _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Runs `kernel` with AVX-512.
///
/// # Safety
/// The machine must have the features named here; the kernel's pointers must be valid.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn call<K: Kernel>(kernel: K) {
    kernel.run::<Avx512>();
}

/// Folds the upper half of each 128-bit lane onto the lower, twice: every lane holds its own sum.
#[inline(always)]
unsafe fn fold_lanes(v: __m512) -> __m512 {
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b01_00_11_10>(v));
    _mm512_add_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v))
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const NUM_REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> __m512 {
        _mm512_loadu_ps(source)
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, v: __m512) {
        _mm512_storeu_ps(target, v);
    }
    #[inline(always)]
    unsafe fn load_bf16(source: *const u8) -> __m512 {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(source.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn load_f16(source: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(source.cast()))
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512 {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
    }
    #[inline(always)]
    unsafe fn ldexp(v: __m512, n: __m512) -> __m512 {
        _mm512_scalef_ps(v, n)
    }
    #[inline(always)]
    unsafe fn select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m512) -> f32 {
        Self::reduce_add4([v, v, v, v])[0]
    }
    #[inline(always)]
    unsafe fn reduce_add4([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        // Quarters (128-bit lanes) 0+2 and 1+3 of each vector, then those two, then inside the
        // lane.
        let ab = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
        );
        let cd = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
        );
        let abcd = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
        );
        let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        let sums = _mm512_permutexvar_ps(firsts, fold_lanes(abcd));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(sums));
        out
    }
    #[inline(always)]
    unsafe fn first(v: __m512) -> f32 {
        _mm512_cvtss_f32(v)
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m512) -> f32 {
        _mm512_reduce_max_ps(v)
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[inline(always)]
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        let mut rows = [_mm512_setzero_ps(); 16];
        for i in 0..16 {
            rows[i] = _mm512_loadu_ps(source.add(i * source_stride));
        }
        // Within each 128-bit lane: four rows by four columns, in two rounds of interleaving.
        for i in [0, 4, 8, 12] {
            let (a, b, c, d) = (rows[i], rows[i + 1], rows[i + 2], rows[i + 3]);
            let ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
            let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
            let cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
            let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
            rows[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
            rows[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
            rows[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
            rows[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
        }
        // Then the lanes themselves, as a four by four transpose of the four groups.
        for i in 0..4 {
            let (a, b, c, d) = (rows[i], rows[i + 4], rows[i + 8], rows[i + 12]);
            let ab_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let ab_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            let cd_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d);
            let cd_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d);
            let lanes = [
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even),
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd),
            ];
            for lane in 0..4 {
                _mm512_storeu_ps(target.add((4 * lane + i) * target_stride), lanes[lane]);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_partial(source: *const f32, len: usize) -> __m512 {
        _mm512_maskz_loadu_ps(((1u32 << len) - 1) as u16, source)
    }
    #[inline(always)]
    unsafe fn store_partial(target: *mut f32, v: __m512, len: usize) {
        _mm512_mask_storeu_ps(target, ((1u32 << len) - 1) as u16, v);
    }
}
