//! The online softmax over tiles of keys, shared by both kinds of attention.
//!
//! Per row: a score is a dot product summed over D in order, one key per lane; a tile's weights are
//! exponentials against the largest score so far; values are added key by key. Rows share loads in
//! register tiles but never arithmetic.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "pointer arithmetic throughout; the contract is each function's"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{MAX_HEAD_SIZE, MAX_ROWS, RUN, TILE};
use crate::cpu::simd::{Simd, math};

/// Rows per register tile.
const TILE_ROWS: usize = 4;
/// Vectors per register tile where the registers allow.
const TILE_VECTORS: usize = 4;

/// One query of one head, and the keys that it sees: positions `first..last`.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) query: *const f32,
    pub(super) out: *mut f32,
    pub(super) first: usize,
    pub(super) last: usize,
}

/// The addresses of one tile of keys and values.
#[derive(Clone, Copy)]
pub(super) struct KeyTile {
    /// Dimension zero of each run of [`RUN`] keys, which lie side by side.
    pub(super) keys: [*const f32; TILE / RUN],
    /// Elements from one dimension to the next.
    pub(super) stride: usize,
    /// The value of each key.
    pub(super) values: [*const f32; TILE],
}

/// The tile being computed, and the one that the first group of rows asks the memory for meanwhile.
///
/// Without that a decoding step waits for memory: it has too little work per key.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    now: &'a KeyTile,
    /// The next tile, or the same where there is nothing to ask for.
    ahead: &'a KeyTile,
}

/// The values of [`Tiles`].
#[derive(Clone, Copy)]
struct Values<'a> {
    now: &'a [*const f32],
    ahead: &'a [*const f32],
}

/// Room for a tile of keys turned to `[D, TILE]`.
pub(super) type Scratch = [MaybeUninit<f32>; MAX_HEAD_SIZE * TILE];

/// Where keys and values come from.
pub(super) trait KeySource {
    /// Fills `tile` for the keys `range` after position `start`, a multiple of [`TILE`]. Entries
    /// before the range may be left as they are.
    ///
    /// # Safety
    /// The keys of the range must exist.
    unsafe fn load<S: Simd>(
        &self,
        start: usize,
        range: Range<usize>,
        scratch: &mut Scratch,
        tile: &mut KeyTile,
    );

    /// Sets `tile` to where keys of the range will be read from, if they are read in place.
    ///
    /// Only hints are given on those addresses. By default they stay as they are.
    #[inline(always)]
    fn locate_ahead(&self, _start: usize, _range: Range<usize>, _tile: &mut KeyTile) {}
}

/// What all rows of a task have in common.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) head_size: usize,
    pub(super) scale: f32,
}

/// A few rows, the parts of the running state that are theirs, and this tile's numbers for them.
struct Group<'a> {
    rows: &'a [Row],
    /// Scores of the tile, then weights.
    scores: &'a mut [[f32; TILE]],
    /// Largest score so far.
    max: &'a mut [f32],
    /// Sum of the weights so far, against that score.
    sum: &'a mut [f32],
    /// What the tile's new largest score makes of earlier weights.
    decay: [f32; TILE_ROWS],
    /// Position of the tile's first key.
    start: usize,
    /// Keys of the tile that some row sees, counted from its first.
    seen: Range<usize>,
}

/// Computes every row's attention over `source` into its `out`; a row that sees no key becomes
/// zero.
///
/// # Safety
/// Rows must point to `head_size` floats, `out` to nobody else's; all keys that they see must
/// exist.
#[inline(always)]
#[allow(clippy::large_stack_arrays, reason = "64 KiB, left uninitialised, in kernel threads")]
pub(super) unsafe fn attend<S: Simd, K: KeySource>(source: &K, rows: &[Row], head: Head) {
    let mut scratch: Scratch = [MaybeUninit::uninit(); MAX_HEAD_SIZE * TILE];
    let mut scores = [[0.0; TILE]; MAX_ROWS];
    let mut max = [f32::NEG_INFINITY; MAX_ROWS];
    let mut sum = [0.0; MAX_ROWS];
    let mut tile = KeyTile {
        keys: [std::ptr::null(); TILE / RUN],
        stride: 0,
        values: [std::ptr::null(); TILE],
    };
    for row in rows {
        std::slice::from_raw_parts_mut(row.out, head.head_size).fill(0.0);
    }
    let (first, last) = reach(rows);
    for start in (first / TILE * TILE..last).step_by(TILE) {
        let range = first.saturating_sub(start)..TILE.min(last - start);
        source.load::<S>(start, range, &mut scratch, &mut tile);
        let mut ahead = tile;
        if start + TILE < last {
            source.locate_ahead(start + TILE, 0..TILE.min(last - start - TILE), &mut ahead);
        }
        for begin in (0..rows.len()).step_by(TILE_ROWS) {
            let end = rows.len().min(begin + TILE_ROWS);
            let mut group = Group {
                rows: &rows[begin..end],
                scores: &mut scores[begin..end],
                max: &mut max[begin..end],
                sum: &mut sum[begin..end],
                decay: [1.0; TILE_ROWS],
                start,
                seen: seen(&rows[begin..end], start),
            };
            if !group.seen.is_empty() {
                let tiles = Tiles { now: &tile, ahead: if begin == 0 { &ahead } else { &tile } };
                step::<S>(tiles, &mut group, head);
            }
        }
    }
    for (row, &sum) in rows.iter().zip(&sum) {
        if sum > 0.0 {
            let out = std::slice::from_raw_parts_mut(row.out, head.head_size);
            let inverse = 1.0 / sum;
            for value in out {
                *value *= inverse;
            }
        }
    }
}

/// The first key that some row sees and the one after the last; an empty range if there is none.
#[inline(always)]
fn reach(rows: &[Row]) -> (usize, usize) {
    let (mut first, mut last) = (usize::MAX, 0);
    for row in rows {
        if row.first < row.last {
            first = first.min(row.first);
            last = last.max(row.last);
        }
    }
    (first, last)
}

/// The keys of the tile at `start` from the first to the last that some row sees.
#[inline(always)]
fn seen(rows: &[Row], start: usize) -> Range<usize> {
    let (mut first, mut last) = (TILE, 0);
    for row in rows {
        let begin = row.first.saturating_sub(start);
        let end = row.last.saturating_sub(start).min(TILE);
        if begin < end {
            first = first.min(begin);
            last = last.max(end);
        }
    }
    first..last
}

/// Carries one group through one tile.
#[inline(always)]
unsafe fn step<S: Simd>(tile: Tiles<'_>, group: &mut Group<'_>, head: Head) {
    match group.rows.len() {
        1 => step_rows::<S, 1>(tile, group, head),
        2 => step_rows::<S, 2>(tile, group, head),
        3 => step_rows::<S, 3>(tile, group, head),
        _ => step_rows::<S, TILE_ROWS>(tile, group, head),
    }
}

#[inline(always)]
unsafe fn step_rows<S: Simd, const ROWS: usize>(
    tile: Tiles<'_>,
    group: &mut Group<'_>,
    head: Head,
) {
    score_tiles::<S, ROWS>(tile, group, head);
    for index in 0..ROWS {
        weigh::<S>(group, index, head.scale);
    }
    value_tiles::<S, ROWS>(tile, group, head);
}

/// `q · k` for the rows over the group's keys, rounded up to whole runs.
#[inline(always)]
unsafe fn score_tiles<S: Simd, const ROWS: usize>(
    tile: Tiles<'_>,
    group: &mut Group<'_>,
    head: Head,
) {
    let num_vectors = group.seen.end.next_multiple_of(RUN) / S::LANES;
    let mut first = group.seen.start / RUN * RUN / S::LANES;
    if S::NUM_REGISTERS >= 32 {
        while first + TILE_VECTORS <= num_vectors {
            score::<S, ROWS, TILE_VECTORS>(tile, group, head, first);
            first += TILE_VECTORS;
        }
    }
    while first + 2 <= num_vectors {
        score::<S, ROWS, 2>(tile, group, head, first);
        first += 2;
    }
    if first < num_vectors {
        score::<S, ROWS, 1>(tile, group, head, first);
    }
}

/// One register tile of scores: `ROWS` queries by `VECTORS` vectors of keys from vector `first` on.
#[inline(always)]
unsafe fn score<S: Simd, const ROWS: usize, const VECTORS: usize>(
    tile: Tiles<'_>,
    group: &mut Group<'_>,
    head: Head,
    first: usize,
) {
    // Plain loops here and below: closures of array helpers end up as calls.
    let mut queries = [std::ptr::null(); ROWS];
    for i in 0..ROWS {
        queries[i] = group.rows[i].query;
    }
    let (mut keys, mut ahead) = ([std::ptr::null(); VECTORS], [std::ptr::null(); VECTORS]);
    for j in 0..VECTORS {
        let key = (first + j) * S::LANES;
        keys[j] = tile.now.keys[key / RUN].add(key % RUN);
        ahead[j] = tile.ahead.keys[key / RUN].wrapping_add(key % RUN);
    }
    let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
    for dim in 0..head.head_size {
        let mut vectors = [S::splat(0.0); VECTORS];
        for j in 0..VECTORS {
            vectors[j] = S::load(keys[j].add(dim * tile.now.stride));
            S::prefetch(ahead[j].wrapping_add(dim * tile.now.stride).cast());
        }
        for i in 0..ROWS {
            let query = S::splat(*queries[i].add(dim));
            for j in 0..VECTORS {
                sums[i][j] = S::fma(query, vectors[j], sums[i][j]);
            }
        }
    }
    for i in 0..ROWS {
        for j in 0..VECTORS {
            S::store(group.scores[i].as_mut_ptr().add((first + j) * S::LANES), sums[i][j]);
        }
    }
}

/// Turns one row's scores into weights and updates its running maximum and sum.
#[inline(always)]
#[allow(clippy::float_cmp, reason = "asks whether the maximum is the very same number")]
unsafe fn weigh<S: Simd>(group: &mut Group<'_>, index: usize, scale: f32) {
    let padded = group.seen.end.next_multiple_of(RUN);
    let row = group.rows[index];
    let scores = &mut group.scores[index];
    let hidden_before = row.first.saturating_sub(group.start).min(padded);
    let hidden_after = row.last.saturating_sub(group.start).min(padded);
    scores[..hidden_before].fill(f32::NEG_INFINITY);
    scores[hidden_after..padded].fill(f32::NEG_INFINITY);
    let scores = scores.as_mut_ptr();
    let factor = S::splat(scale);
    let mut max = S::splat(f32::NEG_INFINITY);
    for key in (0..padded).step_by(S::LANES) {
        let score = S::mul(S::load(scores.add(key)), factor);
        S::store(scores.add(key), score);
        max = S::max(max, score);
    }
    let old = group.max[index];
    let new = old.max(S::reduce_max(max));
    // While a row has seen no key, subtracting its maximum of minus infinity would give NaN.
    let base = if new == f32::NEG_INFINITY { 0.0 } else { new };
    let mut sum = S::splat(0.0);
    for key in (0..padded).step_by(S::LANES) {
        let weight = math::exp::<S>(S::sub(S::load(scores.add(key)), S::splat(base)));
        S::store(scores.add(key), weight);
        sum = S::add(sum, weight);
    }
    // The exponential of zero is one, so skipping it changes nothing.
    let decay = if old == new { 1.0 } else { S::first(math::exp::<S>(S::splat(old - base))) };
    group.decay[index] = decay;
    group.max[index] = new;
    group.sum[index] = group.sum[index] * decay + S::reduce_add(sum);
}

/// Adds the weighted values of the group's keys to the rows' outputs.
#[inline(always)]
unsafe fn value_tiles<S: Simd, const ROWS: usize>(tile: Tiles<'_>, group: &Group<'_>, head: Head) {
    let values = Values {
        now: &tile.now.values[group.seen.clone()],
        ahead: &tile.ahead.values[group.seen.clone()],
    };
    let num_vectors = head.head_size / S::LANES;
    let mut first = 0;
    if S::NUM_REGISTERS >= 32 {
        while first + TILE_VECTORS <= num_vectors {
            add::<S, ROWS, TILE_VECTORS>(values, group, first * S::LANES);
            first += TILE_VECTORS;
        }
    }
    while first + 2 <= num_vectors {
        add::<S, ROWS, 2>(values, group, first * S::LANES);
        first += 2;
    }
    if first < num_vectors {
        add::<S, ROWS, 1>(values, group, first * S::LANES);
    }
    let dim = num_vectors * S::LANES;
    if dim < head.head_size {
        add_partial::<S, ROWS>(values, group, dim, head.head_size - dim);
    }
}

/// One register tile of outputs: `ROWS` rows by `VECTORS` vectors of dimensions from `dim` on.
#[inline(always)]
unsafe fn add<S: Simd, const ROWS: usize, const VECTORS: usize>(
    values: Values<'_>,
    group: &Group<'_>,
    dim: usize,
) {
    let (mut outs, mut weights) = ([std::ptr::null_mut(); ROWS], [std::ptr::null(); ROWS]);
    for i in 0..ROWS {
        outs[i] = group.rows[i].out.add(dim);
        weights[i] = group.scores[i].as_ptr().add(group.seen.start);
    }
    let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
    for i in 0..ROWS {
        for j in 0..VECTORS {
            let old = S::load(outs[i].add(j * S::LANES));
            sums[i][j] = S::mul(old, S::splat(group.decay[i]));
        }
    }
    for key in 0..values.now.len() {
        let (value, ahead) = (values.now[key], values.ahead[key]);
        let mut vectors = [S::splat(0.0); VECTORS];
        for j in 0..VECTORS {
            vectors[j] = S::load(value.add(dim + j * S::LANES));
            S::prefetch(ahead.wrapping_add(dim + j * S::LANES).cast());
        }
        for i in 0..ROWS {
            let weight = S::splat(*weights[i].add(key));
            for j in 0..VECTORS {
                sums[i][j] = S::fma(weight, vectors[j], sums[i][j]);
            }
        }
    }
    for i in 0..ROWS {
        for j in 0..VECTORS {
            S::store(outs[i].add(j * S::LANES), sums[i][j]);
        }
    }
}

/// As [`add`] for the last `len` dimensions, fewer than a vector.
#[inline(always)]
unsafe fn add_partial<S: Simd, const ROWS: usize>(
    values: Values<'_>,
    group: &Group<'_>,
    dim: usize,
    len: usize,
) {
    let mut sums = [S::splat(0.0); ROWS];
    for i in 0..ROWS {
        let old = S::load_partial(group.rows[i].out.add(dim), len);
        sums[i] = S::mul(old, S::splat(group.decay[i]));
    }
    for (key, value) in values.now.iter().enumerate() {
        let vector = S::load_partial(value.add(dim), len);
        for i in 0..ROWS {
            sums[i] = S::fma(S::splat(group.scores[i][group.seen.start + key]), vector, sums[i]);
        }
    }
    for i in 0..ROWS {
        S::store_partial(group.rows[i].out.add(dim), sums[i], len);
    }
}
