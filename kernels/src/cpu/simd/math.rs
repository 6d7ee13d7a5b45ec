//! Vector exponentials and error functions, accurate to about 1e-7 relative.
//!
//! Polynomials are Chebyshev fits on the intervals named; each lane's result depends on that lane
//! alone, so callers may group values into vectors in any way.

use super::Simd;

/// `c[0] + c[1] x + c[2] x^2 + …`
#[inline(always)]
unsafe fn polynomial<S: Simd>(x: S::V, coefficients: &[f32]) -> S::V {
    let (last, rest) = match coefficients.split_last() {
        Some((last, rest)) => (*last, rest),
        None => return S::splat(0.0),
    };
    let mut sum = S::splat(last);
    for &c in rest.iter().rev() {
        sum = S::fma(sum, x, S::splat(c));
    }
    sum
}

/// `e^x`: zero below -104, infinite above 89, NaN for NaN.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // e^r on |r| <= ln(2)/2, absolute error 2.1e-9.
    const EXP: [f32; 7] = [1.0, 1.0, 0.5, 0.166_664_05, 0.041_666_34, 0.008_375_968, 0.001_394_216];
    // ln(2) in two parts: the first has few bits, so that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = S::min(S::splat(89.0), S::max(S::splat(-104.0), x));
    let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
    let r = S::fma(n, S::splat(-LN2_HIGH), x);
    let r = S::fma(n, S::splat(-LN2_LOW), r);
    S::ldexp(polynomial::<S>(r, &EXP), n)
}

/// `erf(t)` for `0 <= t <= 1`.
#[inline(always)]
unsafe fn erf_near<S: Simd>(t: S::V) -> S::V {
    // erf(t) / t in powers of t^2, absolute error 1.3e-9.
    const ERF: [f32; 7] = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.376_126_26,
        0.112_835_94,
        -0.026_854_211,
        0.005_189_087_2,
        -0.000_801_686_43,
        7.875_875e-5,
    ];
    S::mul(t, polynomial::<S>(S::mul(t, t), &ERF))
}

/// `1 - erf(t)` for `t >= 1`, with no cancellation.
#[inline(always)]
unsafe fn erfc_far<S: Simd>(t: S::V) -> S::V {
    // (t + 1) e^(t^2) erfc(t) in powers of u = 1 / (t + 1), for t in 0.95..=11, error 9.5e-10.
    const ERFC: [f32; 10] = [
        0.564_193_25,
        0.563_999_7,
        0.286_344_7,
        -0.336_386_38,
        -0.267_660_53,
        -2.449_185,
        9.514_731,
        -14.082_436,
        10.265_296,
        -3.095_294_5,
    ];
    let t = S::min(S::splat(11.0), t);
    let u = S::div(S::splat(1.0), S::add(t, S::splat(1.0)));
    // t^2 = square + rest exactly; the rest matters since the exponential magnifies it.
    let square = S::mul(t, t);
    let rest = S::fma(t, t, S::sub(S::splat(0.0), square));
    let power = exp::<S>(S::sub(S::splat(0.0), square));
    let power = S::sub(power, S::mul(power, rest));
    S::mul(S::mul(polynomial::<S>(u, &ERFC), u), power)
}

/// The exact GELU, `x (1 + erf(x / sqrt 2)) / 2`, accurate in relative terms for negative `x` too.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    let (zero, half, one) = (S::splat(0.0), S::splat(0.5), S::splat(1.0));
    let size = S::max(S::sub(zero, x), x);
    let t = S::mul(size, S::splat(std::f32::consts::FRAC_1_SQRT_2));
    let near = S::mul(half, erf_near::<S>(t));
    let far = S::mul(half, erfc_far::<S>(t));
    // The normal distribution function of -|x| and of |x|.
    let below = S::select_lt(t, one, S::sub(half, near), far);
    let above = S::sub(one, below);
    let above = S::select_lt(t, one, S::add(half, near), above);
    S::mul(x, S::select_lt(x, zero, below, above))
}

/// The tanh approximation of GELU, `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<S: Simd>(x: S::V) -> S::V {
    // (1 + tanh u) / 2 is the logistic function of 2u.
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let cubic = S::fma(S::mul(S::mul(x, x), x), S::splat(0.044_715), x);
    let minus_2u = S::mul(cubic, S::splat(-TWICE_SQRT_2_OVER_PI));
    S::div(x, S::add(S::splat(1.0), exp::<S>(minus_2u)))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    let power = exp::<S>(S::sub(S::splat(0.0), x));
    S::div(x, S::add(S::splat(1.0), power))
}
