//! Eight lanes: AVX2 with FMA and F16C.

use std::arch::x86_64::{
    __m128, __m256, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T1,
    _mm_add_ps, _mm_loadu_si128, _mm_max_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_prefetch,
    _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps, _mm256_add_epi32, _mm256_add_ps,
    _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_epi32,
    _mm256_cvtss_f32, _mm256_div_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_round_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_srai_epi32,
    _mm256_storeu_ps, _mm256_sub_epi32, _mm256_sub_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps,
    _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Runs `kernel` with AVX2.
///
/// # Safety
/// The machine must have the features named here; the kernel's pointers must be valid.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn call<K: Kernel>(kernel: K) {
    kernel.run::<Avx2>();
}

/// The upper half folded onto the lower.
#[inline(always)]
unsafe fn fold_half(v: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const NUM_REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> __m256 {
        _mm256_loadu_ps(source)
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, v: __m256) {
        _mm256_storeu_ps(target, v);
    }
    #[inline(always)]
    unsafe fn load_bf16(source: *const u8) -> __m256 {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(source.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn load_f16(source: *const u8) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(source.cast()))
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn round(v: __m256) -> __m256 {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
    }
    #[inline(always)]
    unsafe fn ldexp(v: __m256, n: __m256) -> __m256 {
        // Two steps, since one exponent field cannot hold 2^128 or a denormal's scale.
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        let bias = _mm256_set1_epi32(127);
        let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
        let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
        let v = _mm256_mul_ps(v, _mm256_castsi256_ps(first));
        _mm256_mul_ps(v, _mm256_castsi256_ps(second))
    }
    #[inline(always)]
    unsafe fn select_lt(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m256) -> f32 {
        Self::reduce_add4([v, v, v, v])[0]
    }
    #[inline(always)]
    unsafe fn reduce_add4([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        let (a, b, c, d) = (fold_half(a), fold_half(b), fold_half(c), fold_half(d));
        // Transpose, so that the same lane of each becomes one vector; lanes 0+2 and 1+3 first.
        let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        let even = _mm_add_ps(_mm_movelh_ps(ab_low, cd_low), _mm_movelh_ps(ab_high, cd_high));
        let odd = _mm_add_ps(_mm_movehl_ps(cd_low, ab_low), _mm_movehl_ps(cd_high, ab_high));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm_add_ps(even, odd));
        out
    }
    #[inline(always)]
    unsafe fn first(v: __m256) -> f32 {
        _mm256_cvtss_f32(v)
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m256) -> f32 {
        let half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let mut lanes = [0.0; 4];
        _mm_storeu_ps(lanes.as_mut_ptr(), half);
        lanes[0].max(lanes[1]).max(lanes[2].max(lanes[3]))
    }
    #[inline(always)]
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        let mut rows = [_mm256_setzero_ps(); 8];
        for i in 0..8 {
            rows[i] = _mm256_loadu_ps(source.add(i * source_stride));
        }
        // Within each 128-bit half: four rows by four columns, in two rounds of interleaving.
        for i in [0, 4] {
            let (a, b, c, d) = (rows[i], rows[i + 1], rows[i + 2], rows[i + 3]);
            let ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
            let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
            let cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
            let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
            rows[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
            rows[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
            rows[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
            rows[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
        }
        // Then the halves.
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(rows[i], rows[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(rows[i], rows[i + 4]);
            _mm256_storeu_ps(target.add(i * target_stride), low);
            _mm256_storeu_ps(target.add((i + 4) * target_stride), high);
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
}
