//! Ops that move or pool whole rows.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "pointer arithmetic throughout; the contract is each function's"
)]

use super::matrix::{Matrix, WeightDtype};
use super::output::Output;
use super::pool::Pool;
use super::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Checks that every row named exists in an `[_, size]` buffer of `len` elements.
pub(super) fn check_rows(name: &str, rows: &[u32], len: usize, size: usize) {
    assert!(
        size > 0 && len.is_multiple_of(size),
        "{name}: x has {len} elements, not a multiple of the row length {size}"
    );
    let num_rows = len / size;
    for (index, &row) in rows.iter().enumerate() {
        assert!(
            (row as usize) < num_rows,
            "{name}: entry {index} names row {row}, there are {num_rows}"
        );
    }
}

/// `out[t] = table[ids[t]]`, widened to f32: `table` is `[V, H]`, `ids` `[T]`, `out` `[T, H]`.
pub fn embed(pool: &Pool, table: &Matrix<'_>, ids: &[u32], out: &mut [f32]) {
    let size = table.cols();
    check_rows("embed", ids, table.rows() * size, size);
    assert!(
        out.len() == ids.len() * size,
        "embed: out has {} elements, expected T x H = {} x {size}",
        out.len(),
        ids.len()
    );
    let out = Output::new(out);
    let isa = pool.isa();
    pool.run_ranges(ids.len(), size, &|first, last| {
        for token in first..last {
            let source = table.row_range(ids[token] as usize, ids[token] as usize + 1);
            // SAFETY: each token is in one task; the instruction set is available.
            unsafe {
                let out = out.part(token * size, (token + 1) * size);
                dispatch(isa, Widen { source, out });
            }
        }
    });
}

/// Widens one row of weights.
struct Widen<'a> {
    source: Matrix<'a>,
    out: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Widen { source, out } = self;
        let data = source.data();
        match source.dtype() {
            WeightDtype::F32 => {
                // Bytes may be unaligned, floats not: copy as bytes.
                std::ptr::copy_nonoverlapping(data.as_ptr(), out.as_mut_ptr().cast(), data.len());
            }
            WeightDtype::Bf16 => widen::<S>(data, out, |source| S::load_bf16(source)),
            WeightDtype::F16 => widen::<S>(data, out, |source| S::load_f16(source)),
        }
    }
}

/// Widens two-byte weights with `load`, which reads a whole vector.
#[inline(always)]
unsafe fn widen<S: Simd>(data: &[u8], out: &mut [f32], load: impl Fn(*const u8) -> S::V) {
    let mut i = 0;
    while i + S::LANES <= out.len() {
        S::store(out.as_mut_ptr().add(i), load(data.as_ptr().add(2 * i)));
        i += S::LANES;
    }
    if i < out.len() {
        let mut rest = [0u8; 2 * MAX_LANES];
        rest[..data.len() - 2 * i].copy_from_slice(&data[2 * i..]);
        S::store_partial(out.as_mut_ptr().add(i), load(rest.as_ptr()), out.len() - i);
    }
}

/// `out[e] = x[rows[e]]`: `x` is `[T, H]`, `rows` `[E]`, `out` `[E, H]`, H taken from `out`.
pub fn gather_rows(pool: &Pool, x: &[f32], rows: &[u32], out: &mut [f32]) {
    if rows.is_empty() {
        assert!(out.is_empty(), "gather_rows: out has {} elements for no rows", out.len());
        return;
    }
    let size = out.len() / rows.len();
    assert!(
        size > 0 && out.len() == rows.len() * size,
        "gather_rows: out has {} elements for {} rows",
        out.len(),
        rows.len()
    );
    check_rows("gather_rows", rows, x.len(), size);
    let out = Output::new(out);
    pool.run_ranges(rows.len(), size, &|first, last| {
        // SAFETY: ranges are disjoint.
        let out = unsafe { out.part(first * size, last * size) };
        for (out, &row) in out.chunks_exact_mut(size).zip(&rows[first..last]) {
            out.copy_from_slice(&x[row as usize * size..][..size]);
        }
    });
}

/// Divides each row of `x`, `[S, H]` with `size` = H, by its Euclidean length, or by `epsilon` if
/// that is larger, in place.
pub fn l2_normalize(pool: &Pool, x: &mut [f32], size: usize, epsilon: f32) {
    check_rows("l2_normalize", &[], x.len(), size);
    let (num_rows, x) = (x.len() / size, Output::new(x));
    let isa = pool.isa();
    pool.run_ranges(num_rows, 2 * size, &|first, last| {
        // SAFETY: ranges are disjoint; the instruction set is available.
        unsafe {
            let rows = x.part(first * size, last * size);
            dispatch(isa, Normalize { rows, size, epsilon });
        }
    });
}

/// Some rows to bring to unit length.
struct Normalize<'a> {
    rows: &'a mut [f32],
    size: usize,
    epsilon: f32,
}

impl Kernel for Normalize<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows.chunks_exact_mut(self.size) {
            let square = super::norm::sum::<S, true>(row.as_ptr(), row.len(), 0.0);
            let inverse = 1.0 / square.sqrt().max(self.epsilon);
            for value in row {
                *value *= inverse;
            }
        }
    }
}

/// `out[s]` = the mean of rows `cu_seqlens[s]..cu_seqlens[s + 1]` of `x`, summed in order.
///
/// `x` is `[T, H]`, `cu_seqlens` `[S + 1]` from 0 to T, `out` `[S, H]`, H taken from `out`. An
/// empty sequence gives zeros.
pub fn mean_pool(pool: &Pool, x: &[f32], cu_seqlens: &[u32], out: &mut [f32]) {
    let num_sequences = cu_seqlens.len().saturating_sub(1);
    let size = out.len().checked_div(num_sequences).unwrap_or(0);
    let num_tokens = cu_seqlens.last().copied().unwrap_or(0) as usize;
    assert!(
        cu_seqlens.is_sorted() && out.len() == num_sequences * size && x.len() == num_tokens * size,
        "mean_pool: x has {} elements and out {} for cu_seqlens {cu_seqlens:?}",
        x.len(),
        out.len()
    );
    let out = Output::new(out);
    pool.run_ranges(num_sequences, x.len() / num_sequences.max(1), &|first, last| {
        for sequence in first..last {
            let (begin, end) = (cu_seqlens[sequence] as usize, cu_seqlens[sequence + 1] as usize);
            // SAFETY: each sequence is in one task.
            let out = unsafe { out.part(sequence * size, (sequence + 1) * size) };
            out.fill(0.0);
            for row in x[begin * size..end * size].chunks_exact(size) {
                out.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            let inverse = 1.0 / (end - begin).max(1) as f32;
            for sum in out {
                *sum *= inverse;
            }
        }
    });
}
