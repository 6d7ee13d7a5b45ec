//! Bidirectional attention inside each sequence of a packed batch, as encoders use.

use std::ops::Range;

use super::softmax::{Head, KeySource, KeyTile, Row, Scratch, attend};
use super::{MAX_ROWS, RUN, TILE, check_cu_seqlens, check_heads};
use crate::cpu::output::Output;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, dispatch};

/// The operands of [`encoder_attention`].
#[derive(Clone, Copy, Debug)]
pub struct EncoderAttention<'a> {
    /// Queries `[T, N, D]`.
    pub q: &'a [f32],
    /// Keys `[T, K, D]`.
    pub k: &'a [f32],
    /// Values `[T, K, D]`.
    pub v: &'a [f32],
    /// Number of query heads N, a multiple of K.
    pub num_heads: usize,
    /// Number of key/value heads K.
    pub num_kv_heads: usize,
    /// Head size D.
    pub head_size: usize,
    /// What scores are multiplied by, commonly `1 / sqrt(D)`.
    pub scale: f32,
    /// Where each sequence begins, `[S + 1]`, from 0 to T.
    pub cu_seqlens: &'a [u32],
}

/// Attention of every token over all tokens of its sequence, without padding.
///
/// `out` is `[T, N, D]`. Scores and sums are f32. Bits of a sequence's result do not depend on the
/// rest of the batch or on the threads. Panics if sizes do not agree.
pub fn encoder_attention(pool: &Pool, args: &EncoderAttention<'_>, out: &mut [f32]) {
    const NAME: &str = "encoder_attention";
    let EncoderAttention { q, k, v, num_heads, num_kv_heads, head_size, cu_seqlens, .. } = *args;
    check_heads(NAME, num_heads, num_kv_heads, head_size);
    let num_tokens = q.len() / (num_heads * head_size);
    let kv_len = num_tokens * num_kv_heads * head_size;
    assert!(
        q.len() == num_tokens * num_heads * head_size
            && out.len() == q.len()
            && k.len() == kv_len
            && v.len() == kv_len,
        "{NAME}: q, k, v and out have {}, {}, {} and {} elements for N, K, D = {num_heads}, \
         {num_kv_heads}, {head_size}",
        q.len(),
        k.len(),
        v.len(),
        out.len()
    );
    let num_sequences = check_cu_seqlens(NAME, cu_seqlens, num_tokens);
    let mut chunks = Vec::with_capacity(num_tokens / MAX_ROWS + num_sequences);
    for (sequence, range) in cu_seqlens.windows(2).enumerate() {
        for query in (range[0] as usize..range[1] as usize).step_by(MAX_ROWS) {
            chunks.push((sequence, query));
        }
    }
    let output = Output::new(out);
    // A sequence's chunks follow each other for one head, so that its keys are still in the cache.
    let isa = pool.isa();
    pool.run(chunks.len() * num_heads, &|index| {
        let (sequence, query) = chunks[index / num_heads];
        let kernel = Chunk { args, output, sequence, query, head: index % num_heads };
        // SAFETY: sizes were checked; chunks and heads are disjoint parts of the output; the pool's
        // instruction set is available.
        unsafe { dispatch(isa, kernel) };
    });
}

/// One task: some queries of one sequence and one head.
struct Chunk<'a> {
    args: &'a EncoderAttention<'a>,
    output: Output<'a>,
    sequence: usize,
    query: usize,
    head: usize,
}

impl Kernel for Chunk<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let EncoderAttention { q, num_heads, num_kv_heads, head_size, scale, .. } = *self.args;
        let first = self.args.cu_seqlens[self.sequence] as usize;
        let last = self.args.cu_seqlens[self.sequence + 1] as usize;
        let last_query = last.min(self.query + MAX_ROWS);
        let empty = Row { query: std::ptr::null(), out: std::ptr::null_mut(), first: 0, last: 0 };
        let mut rows = [empty; MAX_ROWS];
        for (row, query) in rows.iter_mut().zip(self.query..last_query) {
            let place = (query * num_heads + self.head) * head_size;
            let query = q[place..].as_ptr();
            *row = Row { query, out: self.output.at(place), first: 0, last: last - first };
        }
        let kv_head = self.head / (num_heads / num_kv_heads);
        let start = (first * num_kv_heads + kv_head) * head_size;
        let source = DenseKeys {
            k: &self.args.k[start..],
            v: &self.args.v[start..],
            row: num_kv_heads * head_size,
            head_size,
        };
        // SAFETY: rows lie in q and out, and the keys of the sequence in k and v.
        unsafe {
            attend::<S, _>(&source, &rows[..last_query - self.query], Head { head_size, scale });
        }
    }
}

/// The keys of one sequence and one head, `row` elements apart.
struct DenseKeys<'a> {
    k: &'a [f32],
    v: &'a [f32],
    row: usize,
    head_size: usize,
}

impl KeySource for DenseKeys<'_> {
    #[inline(always)]
    unsafe fn load<S: Simd>(
        &self,
        start: usize,
        range: Range<usize>,
        scratch: &mut Scratch,
        tile: &mut KeyTile,
    ) {
        let len = range.end;
        // SAFETY: the instruction set is the caller's.
        unsafe { self.turn::<S>(start, len, scratch) };
        for key in 0..len {
            tile.values[key] = self.v[(start + key) * self.row..].as_ptr();
        }
        tile.stride = TILE;
        for run in 0..len.div_ceil(RUN) {
            tile.keys[run] = scratch[run * RUN..].as_ptr().cast();
        }
    }
}

impl DenseKeys<'_> {
    /// Writes keys `start..start + len` to `scratch` as `[D, TILE]`, with zeros up to a whole run.
    #[inline(always)]
    unsafe fn turn<S: Simd>(&self, start: usize, len: usize, scratch: &mut Scratch) {
        let size = self.head_size;
        let (whole_keys, whole_size) = (len / S::LANES * S::LANES, size / S::LANES * S::LANES);
        let source = &self.k[start * self.row..(start + len - 1) * self.row + size];
        for key in (0..whole_keys).step_by(S::LANES) {
            for dim in (0..whole_size).step_by(S::LANES) {
                // SAFETY: whole vectors of whole groups of keys, inside both slices.
                unsafe {
                    let source = source.as_ptr().add(key * self.row + dim);
                    let target: *mut f32 = scratch.as_mut_ptr().add(dim * TILE + key).cast();
                    S::transpose(source, self.row, target, TILE);
                }
            }
        }
        for dim in 0..size {
            let first = if dim < whole_size { whole_keys } else { 0 };
            for key in first..len.next_multiple_of(RUN) {
                let value = if key < len { source[key * self.row + dim] } else { 0.0 };
                scratch[dim * TILE + key].write(value);
            }
        }
    }
}
