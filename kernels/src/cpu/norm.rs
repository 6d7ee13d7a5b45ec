//! Root-mean-square and layer norms of rows, alone or fused with the residual sum.
//!
//! A row's sums run over four vectors of partial sums in order, then one fixed tree: the same for
//! every row, wherever it stands.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "pointer arithmetic throughout; the contract is each function's"
)]

use super::output::Output;
use super::pool::Pool;
use super::simd::{Kernel, Simd, dispatch};

/// Weights of a root-mean-square norm.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// Scale of each column, `[H]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Weights of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Scale of each column, `[H]`.
    pub weight: &'a [f32],
    /// Added to each column, `[H]`, if any.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// `out = x / sqrt(mean(x^2) + epsilon) * weight` for each row of `x`, `[T, H]`.
pub fn rms_norm(pool: &Pool, x: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
    run(pool, "rms_norm", Source::Rows(x), norm.into(), out);
}

/// [`rms_norm`] in place: of whole rows, or of heads (`x` as `[T x N, D]`) for query and key norms.
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], norm: RmsNorm<'_>) {
    run(pool, "rms_norm_in_place", Source::Out, norm.into(), x);
}

/// [`rms_norm`] of the rows of `x`, `[T, H]`, that `rows`, `[E]`, names; `out` is `[E, H]`.
pub fn rms_norm_rows(pool: &Pool, x: &[f32], rows: &[u32], norm: RmsNorm<'_>, out: &mut [f32]) {
    run(pool, "rms_norm_rows", Source::Gather(x, rows), norm.into(), out);
}

/// `residual += x`, then `out = rms_norm(residual)`; all `[T, H]`.
pub fn add_rms_norm(
    pool: &Pool,
    x: &[f32],
    residual: &mut [f32],
    norm: RmsNorm<'_>,
    out: &mut [f32],
) {
    run(pool, "add_rms_norm", Source::Residual(x, residual), norm.into(), out);
}

/// `out = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias` for each row of `x`, `[T,
/// H]`.
pub fn layer_norm(pool: &Pool, x: &[f32], norm: LayerNorm<'_>, out: &mut [f32]) {
    run(pool, "layer_norm", Source::Rows(x), norm.into(), out);
}

/// `residual += x`, then `out = layer_norm(residual)`; all `[T, H]`.
pub fn add_layer_norm(
    pool: &Pool,
    x: &[f32],
    residual: &mut [f32],
    norm: LayerNorm<'_>,
    out: &mut [f32],
) {
    run(pool, "add_layer_norm", Source::Residual(x, residual), norm.into(), out);
}

/// Where the rows to normalise come from.
enum Source<'a> {
    /// Row i of `x`.
    Rows(&'a [f32]),
    /// Row `rows[i]` of `x`.
    Gather(&'a [f32], &'a [u32]),
    /// The output itself.
    Out,
    /// Row i of the residual after row i of `x` is added to it.
    Residual(&'a [f32], &'a mut [f32]),
}

/// Whether the mean is taken away first.
#[derive(Clone, Copy, PartialEq)]
enum Centre {
    Mean,
    Zero,
}

/// Either norm.
#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    centre: Centre,
}

impl<'a> From<RmsNorm<'a>> for Norm<'a> {
    fn from(norm: RmsNorm<'a>) -> Self {
        Self { weight: norm.weight, bias: None, epsilon: norm.epsilon, centre: Centre::Zero }
    }
}

impl<'a> From<LayerNorm<'a>> for Norm<'a> {
    fn from(norm: LayerNorm<'a>) -> Self {
        let LayerNorm { weight, bias, epsilon } = norm;
        Self { weight, bias, epsilon, centre: Centre::Mean }
    }
}

/// The rows of [`Source`] with addresses checked.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Read(&'a [f32]),
    Gather(&'a [f32], &'a [u32]),
    Out,
    Residual(&'a [f32], Output<'a>),
}

fn run(pool: &Pool, name: &str, source: Source<'_>, norm: Norm<'_>, out: &mut [f32]) {
    let size = norm.weight.len();
    assert!(size > 0, "{name}: the weight is empty");
    assert!(
        norm.bias.is_none_or(|bias| bias.len() == size),
        "{name}: bias has {} elements, expected H = {size}",
        norm.bias.map_or(0, <[f32]>::len)
    );
    let num_rows = out.len() / size;
    assert!(
        out.len() == num_rows * size,
        "{name}: out has {} elements, not a multiple of H = {size}",
        out.len()
    );
    let check = |what: &str, len: usize| {
        assert!(len == out.len(), "{name}: {what} has {len} elements, out has {}", out.len());
    };
    let rows = match source {
        Source::Rows(x) => {
            check("x", x.len());
            Rows::Read(x)
        }
        Source::Gather(x, rows) => {
            super::rows::check_rows(name, rows, x.len(), size);
            check("rows x H", rows.len() * size);
            Rows::Gather(x, rows)
        }
        Source::Out => Rows::Out,
        Source::Residual(x, residual) => {
            check("x", x.len());
            check("residual", residual.len());
            Rows::Residual(x, Output::new(residual))
        }
    };
    let out = Output::new(out);
    let isa = pool.isa();
    pool.run_ranges(num_rows, size, &|first, last| {
        // SAFETY: sizes were checked, ranges are disjoint, the pool's instruction set is available.
        unsafe {
            dispatch(isa, NormRows { rows, norm, out, first, last });
        };
    });
}

/// One task: rows `first..last`.
struct NormRows<'a> {
    rows: Rows<'a>,
    norm: Norm<'a>,
    out: Output<'a>,
    first: usize,
    last: usize,
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let size = self.norm.weight.len();
        for row in self.first..self.last {
            let out = self.out.at(row * size);
            let x: *const f32 = match self.rows {
                Rows::Read(x) => x.as_ptr().add(row * size),
                Rows::Gather(x, rows) => x.as_ptr().add(rows[row] as usize * size),
                Rows::Out => out,
                Rows::Residual(x, residual) => {
                    let target = residual.at(row * size);
                    add_row::<S>(x.as_ptr().add(row * size), target, size);
                    target
                }
            };
            norm_row::<S>(x, out, &self.norm);
        }
    }
}

/// `target += x` over `size` elements.
#[inline(always)]
unsafe fn add_row<S: Simd>(x: *const f32, target: *mut f32, size: usize) {
    let mut i = 0;
    while i + S::LANES <= size {
        S::store(target.add(i), S::add(S::load(target.add(i)), S::load(x.add(i))));
        i += S::LANES;
    }
    if i < size {
        let len = size - i;
        let sum = S::add(S::load_partial(target.add(i), len), S::load_partial(x.add(i), len));
        S::store_partial(target.add(i), sum, len);
    }
}

/// The sum of `term(x[i] - centre)` where `SQUARE` says whether the term is a square.
#[inline(always)]
pub(super) unsafe fn sum<S: Simd, const SQUARE: bool>(
    x: *const f32,
    size: usize,
    centre: f32,
) -> f32 {
    const WAYS: usize = 4;
    let centre = S::splat(centre);
    let mut sums = [S::splat(0.0); WAYS];
    let term = |value: S::V, sum: S::V| {
        if SQUARE {
            let value = S::sub(value, centre);
            S::fma(value, value, sum)
        } else {
            S::add(sum, value)
        }
    };
    let mut i = 0;
    while i + WAYS * S::LANES <= size {
        for way in 0..WAYS {
            sums[way] = term(S::load(x.add(i + way * S::LANES)), sums[way]);
        }
        i += WAYS * S::LANES;
    }
    let mut total = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
    while i + S::LANES <= size {
        total = term(S::load(x.add(i)), total);
        i += S::LANES;
    }
    let mut total = S::reduce_add(total);
    // The rest one by one: padding lanes would add squares of the centre.
    while i < size {
        let value = *x.add(i);
        total +=
            if SQUARE { (value - S::first(centre)) * (value - S::first(centre)) } else { value };
        i += 1;
    }
    total
}

/// Normalises one row of `x` into `out`, which may be the same.
#[inline(always)]
unsafe fn norm_row<S: Simd>(x: *const f32, out: *mut f32, norm: &Norm<'_>) {
    let size = norm.weight.len();
    let mean = match norm.centre {
        Centre::Mean => sum::<S, false>(x, size, 0.0) / size as f32,
        Centre::Zero => 0.0,
    };
    let variance = sum::<S, true>(x, size, mean) / size as f32;
    let factor = 1.0 / (variance + norm.epsilon).sqrt();
    let weight = norm.weight.as_ptr();
    let (mean, factor) = (S::splat(mean), S::splat(factor));
    let scale = |value: S::V, weight: S::V, bias: S::V| {
        S::fma(S::mul(S::sub(value, mean), factor), weight, bias)
    };
    let zero = S::splat(0.0);
    let mut i = 0;
    while i + S::LANES <= size {
        let bias = norm.bias.map_or(zero, |bias| S::load(bias.as_ptr().add(i)));
        S::store(out.add(i), scale(S::load(x.add(i)), S::load(weight.add(i)), bias));
        i += S::LANES;
    }
    if i < size {
        let len = size - i;
        let bias = norm.bias.map_or(zero, |bias| S::load_partial(bias.as_ptr().add(i), len));
        let value = S::load_partial(x.add(i), len);
        let value = scale(value, S::load_partial(weight.add(i), len), bias);
        S::store_partial(out.add(i), value, len);
    }
}
