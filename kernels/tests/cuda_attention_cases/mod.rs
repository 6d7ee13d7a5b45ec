//! Steps of attention for tests: random sequences in a paged cache whose unused parts are traps,
//! what the device makes of them, and what loops in double precision make of them.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_kernels::cuda::{
    AttentionHeads, AttentionLimits, AttentionPlan, AttentionStep, BlockTables, Context,
    DeviceBuffer, Element, KvCacheShape, PagedAttention, PrepareAttention, RowKinds, Splits,
    paged_attention,
};

use crate::cuda_common::{
    Random, download, rounded, unit_roundoff, upload, upload_f32, upload_i32,
};

/// Layers of the cache; the second one is used.
const NUM_LAYERS: usize = 2;
/// An entry of a block table that no kernel may follow.
const NO_BLOCK: i32 = i32::MAX / 2;

/// A row of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSpec {
    /// Positions of its sequence, those of this step included.
    pub(crate) seq_len: usize,
    /// The last of them, which are queries.
    pub(crate) num_tokens: usize,
}

/// What attention is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) element: Element,
    pub(crate) heads: AttentionHeads,
    pub(crate) block_size: usize,
    pub(crate) window: Option<u32>,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) has_sinks: bool,
    pub(crate) seed: u64,
}

impl Spec {
    pub(crate) fn scale(&self) -> f32 {
        // Scores with a deviation of about 2: weights that differ, but not by everything.
        2.0 / (self.heads.head_size as f32).sqrt()
    }

    /// The score that a product becomes.
    fn score(&self, product: f64) -> f64 {
        let score = product * f64::from(self.scale());
        self.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    }

    fn random(&self, what: u64) -> Random {
        Random(self.seed.wrapping_mul(1_000_003).wrapping_add(what << 32))
    }

    /// Values of one kind of position `position` of sequence `sequence`, `[num_heads, D]`.
    fn vector(&self, kind: u64, num_heads: usize, [sequence, position]: [usize; 2]) -> Vec<f32> {
        let what = (kind * 1000 + sequence as u64) * 100_000 + position as u64;
        let mut random = self.random(what);
        // Uniform numbers of variance 1: drawing them is what these tests would wait for.
        let values: Vec<f32> =
            (0..num_heads * self.heads.head_size).map(|_| random.uniform(-1.73, 1.73)).collect();
        rounded(self.element, &values)
    }

    pub(crate) fn query(&self, sequence: usize, position: usize) -> Vec<f32> {
        self.vector(1, self.heads.num_heads, [sequence, position])
    }

    pub(crate) fn key(&self, sequence: usize, position: usize) -> Vec<f32> {
        self.vector(2, self.heads.num_kv_heads, [sequence, position])
    }

    pub(crate) fn value(&self, sequence: usize, position: usize) -> Vec<f32> {
        self.vector(3, self.heads.num_kv_heads, [sequence, position])
    }

    pub(crate) fn sinks(&self) -> Vec<f32> {
        let mut random = self.random(4);
        (0..self.heads.num_heads).map(|_| random.uniform(-2.0, 5.0)).collect()
    }

    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window as usize))
    }
}

/// A paged cache on the device with sequences in it.
pub(crate) struct Cache {
    shape: KvCacheShape,
    blocks: DeviceBuffer,
    tables: DeviceBuffer,
    num_slots: usize,
    max_blocks: usize,
}

impl Cache {
    /// Sequence s in slot s, blocks in random order. Where no query of `rows` looks there is NaN,
    /// and blocks in which none looks are not in the tables. The slot after the last is for
    /// padding.
    pub(crate) fn new(context: &Context, spec: &Spec, rows: &[RowSpec]) -> Self {
        let block_size = spec.block_size;
        let shape = KvCacheShape {
            num_layers: NUM_LAYERS,
            num_kv_heads: spec.heads.num_kv_heads,
            block_size,
            head_size: spec.heads.head_size,
        };
        let max_blocks = rows.iter().map(|row| row.seq_len.div_ceil(block_size)).max().unwrap() + 1;
        let num_blocks = 2 + rows.iter().map(|row| row.seq_len.div_ceil(block_size)).sum::<usize>();
        let mut free: Vec<usize> = (1..num_blocks).collect();
        let mut random = spec.random(5);
        let mut tables = vec![NO_BLOCK; (rows.len() + 1) * max_blocks];
        tables[rows.len() * max_blocks] = 0;
        let mut numbers = vec![f32::NAN; num_blocks * shape.block_stride()];
        for (sequence, row) in rows.iter().enumerate() {
            let first = spec.first_seen(row.seq_len - row.num_tokens);
            for position in first..row.seq_len {
                let entry = &mut tables[sequence * max_blocks + position / block_size];
                if *entry == NO_BLOCK {
                    *entry = free.swap_remove(random.below(free.len())) as i32;
                }
                let block = *entry as usize;
                let halves = [spec.key(sequence, position), spec.value(sequence, position)];
                for (half, vectors) in halves.iter().enumerate() {
                    for (head, vector) in vectors.chunks(shape.head_size).enumerate() {
                        let at = block * shape.block_stride()
                            + (NUM_LAYERS - 1) * 2 * shape.half_layer()
                            + half * shape.half_layer()
                            + (head * block_size + position % block_size) * shape.head_size;
                        numbers[at..at + shape.head_size].copy_from_slice(vector);
                    }
                }
            }
        }
        Self {
            shape,
            blocks: upload(context, spec.element, &numbers),
            tables: upload_i32(context, &tables),
            num_slots: rows.len() + 1,
            max_blocks,
        }
    }
}

/// A plan with room for steps of `rows`.
pub(crate) fn plan(context: &Context, spec: &Spec, rows: &[RowSpec]) -> AttentionPlan {
    let limits = AttentionLimits {
        heads: spec.heads,
        windows: if spec.window.is_none() { vec![None] } else { vec![None, spec.window] },
        max_rows: rows.len() + 4,
        max_tokens: rows.iter().map(|row| row.num_tokens).sum::<usize>() + 4,
    };
    AttentionPlan::new(context, limits).unwrap()
}

/// Which kinds of rows there are.
pub(crate) fn kinds(rows: &[RowSpec]) -> RowKinds {
    let num_decode = rows.iter().filter(|row| row.num_tokens == 1).count();
    match num_decode {
        0 => RowKinds::PrefillOnly,
        num if num == rows.len() => RowKinds::DecodeOnly,
        _ => RowKinds::Mixed,
    }
}

/// Runs one step on the device: row i is sequence `sequences[i]`. Returns `[T, N * D]`.
pub(crate) fn run(
    context: &Context,
    spec: &Spec,
    (cache, plan): (&Cache, &AttentionPlan),
    (rows, sequences): (&[RowSpec], &[usize]),
    splits: Splits,
) -> Vec<f32> {
    let width = spec.heads.num_heads * spec.heads.head_size;
    let mut cu_seqlens = vec![0];
    let mut numbers = Vec::new();
    for (row, &sequence) in rows.iter().zip(sequences) {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + row.num_tokens as i32);
        for position in row.seq_len - row.num_tokens..row.seq_len {
            // Queries lie among other things in their rows, as they come out of a merged product.
            numbers.extend(spec.query(sequence, position));
            numbers.extend([f32::NAN; 16]);
        }
    }
    let num_tokens = cu_seqlens[rows.len()] as usize;
    let queries = upload(context, spec.element, &numbers);
    let output = upload(context, spec.element, &vec![f32::NAN; num_tokens * width]);
    let seq_lens: Vec<i32> = rows.iter().map(|row| row.seq_len as i32).collect();
    let slots: Vec<i32> = sequences.iter().map(|&sequence| sequence as i32).collect();
    let arrays = [&cu_seqlens, &seq_lens, &slots].map(|array| upload_i32(context, array));
    let sinks = spec.has_sinks.then(|| upload_f32(context, &spec.sinks()));

    let step = AttentionStep { num_rows: rows.len(), num_tokens, kinds: kinds(rows), splits };
    let prepare = PrepareAttention {
        cu_seqlens: arrays[0].ptr(),
        seq_lens: Some(arrays[1].ptr()),
        row_slots: Some(arrays[2].ptr()),
        step,
    };
    plan.prepare(context, &prepare).unwrap();
    let mut views = queries.view(0, [num_tokens, width + 16], 2);
    views.cols = width;
    let args = PagedAttention {
        queries: views,
        output: output.view(0, [num_tokens, width], 2),
        element: spec.element,
        kv: cache.shape.layer(cache.blocks.ptr(), NUM_LAYERS - 1),
        block_tables: BlockTables {
            blocks: cache.tables.view(0, [cache.num_slots, cache.max_blocks], 4),
            block_size: spec.block_size,
        },
        scale: spec.scale(),
        window: spec.window,
        soft_cap: spec.soft_cap,
        sinks: sinks.as_ref().map(DeviceBuffer::ptr),
        step,
    };
    paged_attention(context, plan, &args).unwrap();
    download(context, spec.element, &output)
}

/// The result of one query and head, and the sum of what its weights weigh without signs. `score`
/// makes a score of a product.
pub(crate) fn expected_head(
    query: &[f32],
    keys: &[&[f32]],
    values: &[&[f32]],
    score: impl Fn(f64) -> f64,
    sink: Option<f32>,
) -> Vec<[f64; 2]> {
    let product = |key: &&[f32]| -> f64 {
        query.iter().zip(*key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let scores: Vec<f64> = keys.iter().map(|key| score(product(key))).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sink_weight = sink.map_or(0.0, |sink| (f64::from(sink) - largest).exp());
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum::<f64>() + sink_weight;
    let mut sums = vec![[0.0; 2]; query.len()];
    for (score, value) in scores.iter().zip(values) {
        let weight = (score - largest).exp() / total;
        for (sum, &v) in sums.iter_mut().zip(*value) {
            sum[0] += weight * f64::from(v);
            sum[1] += weight * f64::from(v).abs();
        }
    }
    sums
}

/// Panics where `output` of a step differs from loops in double precision by more than the
/// roundings of weights and of the result explain.
pub(crate) fn check(spec: &Spec, (rows, sequences): (&[RowSpec], &[usize]), output: &[f32]) {
    let AttentionHeads { num_heads, head_size, .. } = spec.heads;
    let sinks = spec.has_sinks.then(|| spec.sinks());
    let mut token = 0;
    for (row, &sequence) in rows.iter().zip(sequences) {
        let keys: Vec<Vec<f32>> = (0..row.seq_len).map(|p| spec.key(sequence, p)).collect();
        let values: Vec<Vec<f32>> = (0..row.seq_len).map(|p| spec.value(sequence, p)).collect();
        for position in row.seq_len - row.num_tokens..row.seq_len {
            let query = spec.query(sequence, position);
            let seen = spec.first_seen(position)..position + 1;
            for head in 0..num_heads {
                let kv = head / spec.heads.group() * head_size;
                let part = |vectors: &'_ [Vec<f32>]| -> Vec<Vec<f32>> {
                    vectors[seen.clone()].iter().map(|v| v[kv..kv + head_size].to_vec()).collect()
                };
                let (keys, values) = (part(&keys), part(&values));
                let expected = expected_head(
                    &query[head * head_size..][..head_size],
                    &keys.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    &values.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    |product| spec.score(product),
                    sinks.as_ref().map(|sinks| sinks[head]),
                );
                let actual = &output[(token * num_heads + head) * head_size..][..head_size];
                let what = format!("{spec:?}: {row:?}, position {position}, head {head}");
                check_head(spec.element, &expected, actual, &what);
            }
            token += 1;
        }
    }
}

/// One rounding of the weights and one of the result, each relative to the sum without signs, and a
/// little for single precision.
pub(crate) fn check_head(element: Element, expected: &[[f64; 2]], actual: &[f32], what: &str) {
    for (d, (&[sum, size], &actual)) in expected.iter().zip(actual).enumerate() {
        let tolerance = 2.0 * unit_roundoff(element) * size + 2e-5;
        let error = (sum - f64::from(actual)).abs();
        assert!(error <= tolerance, "{actual} instead of {sum} +- {tolerance} at {d}: {what}");
    }
}
