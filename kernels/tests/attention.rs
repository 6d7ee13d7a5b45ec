//! Both attentions against f64, and the promise that a query's bits depend on its keys alone.

mod common;

use common::{Random, assert_close, assert_panics, assert_same_bits, pools};
use folio_kernels::cpu::{
    EncoderAttention, KvCacheMut, KvCacheRef, KvLayout, PagedAttention, Pool, copy_block,
    encoder_attention, paged_attention, store_kv,
};
use proptest::prelude::*;

/// Whole sequences with their queries, keys and values, `[length, heads, D]` each.
struct Texts {
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    heads: usize,
    kv_heads: usize,
    size: usize,
    window: Option<usize>,
}

impl Texts {
    fn new(lengths: &[usize], heads: (usize, usize), size: usize, random: &mut Random) -> Self {
        let (kv_heads, group) = heads;
        let heads = kv_heads * group;
        let mut make = |heads: usize, factor: f32| -> Vec<Vec<f32>> {
            let rows = |&n: &usize| random.values(n * heads * size);
            let scale = |mut x: Vec<f32>| {
                for x in &mut x {
                    *x *= factor;
                }
                x
            };
            lengths.iter().map(rows).map(scale).collect()
        };
        // Queries large enough that the softmax is neither flat nor a single spike.
        let (q, k, v) = (make(heads, 3.0), make(kv_heads, 1.0), make(kv_heads, 1.0));
        Self { q, k, v, heads, kv_heads, size, window: None }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    fn length(&self, s: usize) -> usize {
        self.q[s].len() / (self.heads * self.size)
    }

    /// Attention of query `p` of sequence `s` over keys `first..last`, in f64.
    fn expected(&self, s: usize, p: usize, keys: std::ops::Range<usize>) -> Vec<f64> {
        let mut out = Vec::new();
        for head in 0..self.heads {
            let kv_head = head / (self.heads / self.kv_heads);
            let q = &self.q[s][(p * self.heads + head) * self.size..][..self.size];
            let row = |x: &[f32], t: usize| -> Vec<f64> {
                let x = &x[(t * self.kv_heads + kv_head) * self.size..][..self.size];
                x.iter().map(|&x| f64::from(x)).collect()
            };
            let score = |t| {
                let dot: f64 =
                    row(&self.k[s], t).iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum();
                dot * f64::from(self.scale())
            };
            let scores: Vec<f64> = keys.clone().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut total = vec![0.0; self.size];
            for (t, weight) in keys.clone().zip(weights) {
                for (total, v) in total.iter_mut().zip(row(&self.v[s], t)) {
                    *total += weight / sum * v;
                }
            }
            out.extend(total);
        }
        out
    }

    fn causal(&self) -> Vec<Vec<f64>> {
        let one = |s: usize| {
            (0..self.length(s))
                .flat_map(|p| {
                    let first = self.window.map_or(0, |w| (p + 1).saturating_sub(w));
                    self.expected(s, p, first..p + 1)
                })
                .collect()
        };
        (0..self.q.len()).map(one).collect()
    }
}

/// A cache with a block table per sequence, blocks in random order, and its unwritten places NaN.
struct Cache {
    layout: KvLayout,
    keys: Vec<f32>,
    values: Vec<f32>,
    tables: Vec<u32>,
    max_num_blocks: usize,
}

impl Cache {
    fn new(texts: &Texts, block_size: usize, random: &mut Random) -> Self {
        let lengths = || (0..texts.q.len()).map(|s| texts.length(s));
        let max_num_blocks = lengths().max().unwrap_or(0).div_ceil(block_size) + 1;
        let num_blocks = lengths().map(|n| n.div_ceil(block_size)).sum::<usize>() + 2;
        let mut blocks: Vec<u32> = (0..num_blocks as u32).collect();
        random.shuffle(&mut blocks);
        let mut tables = Vec::new();
        for n in lengths() {
            let used = n.div_ceil(block_size);
            tables.extend(blocks.drain(..used));
            tables.extend(vec![u32::MAX; max_num_blocks - used]);
        }
        let layout = KvLayout {
            num_blocks,
            num_kv_heads: texts.kv_heads,
            block_size,
            head_size: texts.size,
        };
        let empty = vec![f32::NAN; layout.num_elements()];
        Self { layout, keys: empty.clone(), values: empty, tables, max_num_blocks }
    }

    /// Stores and attends positions `ranges[s]` of each sequence; returns `[T, N, D]`.
    fn step(&mut self, pool: &Pool, texts: &Texts, ranges: &[(usize, usize)]) -> Vec<f32> {
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        let (mut slots, mut cu_seqlens, mut num_computed) = (Vec::new(), vec![0], Vec::new());
        for (s, &(first, last)) in ranges.iter().enumerate() {
            let part = |x: &[f32], heads: usize| {
                x[first * heads * texts.size..last * heads * texts.size].to_vec()
            };
            q.extend(part(&texts.q[s], texts.heads));
            k.extend(part(&texts.k[s], texts.kv_heads));
            v.extend(part(&texts.v[s], texts.kv_heads));
            for p in first..last {
                let block = self.tables[s * self.max_num_blocks + p / self.layout.block_size];
                let size = self.layout.block_size;
                slots.push(block * size as u32 + (p % size) as u32);
            }
            cu_seqlens.push(slots.len() as u32);
            num_computed.push(first as u32);
        }
        let mut cache = KvCacheMut::new(self.layout, &mut self.keys, &mut self.values);
        store_kv(pool, &k, &v, &slots, &mut cache);
        let args = PagedAttention {
            q: &q,
            num_heads: texts.heads,
            scale: texts.scale(),
            window: texts.window,
            cache: cache.as_ref(),
            cu_seqlens: &cu_seqlens,
            num_computed: &num_computed,
            block_tables: &self.tables,
            max_num_blocks: self.max_num_blocks,
        };
        let mut out = vec![f32::NAN; q.len()];
        paged_attention(pool, &args, &mut out);
        out
    }
}

/// All positions of all sequences in one step.
fn in_one_step(pool: &Pool, texts: &Texts, block_size: usize, random: &mut Random) -> Vec<f32> {
    let ranges: Vec<_> = (0..texts.q.len()).map(|s| (0, texts.length(s))).collect();
    Cache::new(texts, block_size, random).step(pool, texts, &ranges)
}

/// The same in random chunks, each sequence at its own pace.
fn in_chunks(pool: &Pool, texts: &Texts, block_size: usize, random: &mut Random) -> Vec<f32> {
    let mut cache = Cache::new(texts, block_size, random);
    let num = texts.q.len();
    let mut done = vec![0; num];
    let mut outs = vec![Vec::new(); num];
    while (0..num).any(|s| done[s] < texts.length(s)) {
        let ranges: Vec<_> = (0..num)
            .map(|s| {
                let size = [0, 1, 1, 1 + random.below(7), random.below(80)][random.below(5)];
                (done[s], texts.length(s).min(done[s] + size))
            })
            .collect();
        let out = cache.step(pool, texts, &ranges);
        let mut rest = &out[..];
        for (s, &(first, last)) in ranges.iter().enumerate() {
            let (part, tail) = rest.split_at((last - first) * texts.heads * texts.size);
            outs[s].extend_from_slice(part);
            rest = tail;
            done[s] = last;
        }
    }
    outs.concat()
}

/// Values are in -1..1 and weights sum to one; a score of size up to `3 sqrt(D)` is off by about
/// that times D roundings, which is the relative error of a weight.
fn bound(texts: &Texts, num_keys: usize) -> f64 {
    let size = texts.size as f64;
    let score = 3.0 * size.sqrt();
    f64::from(f32::EPSILON) * (2.0 * (size + 8.0) * score + num_keys as f64 + 16.0)
}

fn check_paged(texts: &Texts, block_size: usize, seed: u64) {
    let mut random = Random::new(seed);
    let expected: Vec<f64> = texts.causal().concat();
    let longest = (0..texts.q.len()).map(|s| texts.length(s)).max().unwrap_or(0);
    for pool in pools(2) {
        let what = format!("{:?}, blocks of {block_size}", pool.isa());
        let out = in_one_step(&pool, texts, block_size, &mut random);
        assert_close(&out, &expected, |_| bound(texts, longest), &what);
        let chunked = in_chunks(&pool, texts, block_size, &mut random);
        assert_same_bits(&chunked, &out, &format!("{what}, chunked"));
        let single = Pool::with_isa(1, pool.isa());
        for other in [1, 5, 16, 32, 48] {
            let again = in_one_step(&single, texts, other, &mut random);
            assert_same_bits(&again, &out, &format!("{what}, then of {other}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn paged_matches_f64_and_is_invariant(
        lengths in prop::collection::vec(1usize..150, 1..4),
        heads in (1usize..3, 1usize..5),
        size in prop::sample::select(vec![1, 5, 8, 16, 24, 33, 64, 72]),
        block_size in prop::sample::select(vec![1, 3, 8, 16, 32]),
        window in prop::option::of(1usize..100),
        seed: u64,
    ) {
        let mut texts = Texts::new(&lengths, heads, size, &mut Random::new(seed));
        texts.window = window;
        check_paged(&texts, block_size, seed);
    }

    #[test]
    fn encoder_matches_f64_and_is_invariant(
        lengths in prop::collection::vec(0usize..150, 1..5),
        heads in (1usize..4, 1usize..3),
        size in prop::sample::select(vec![1, 5, 8, 16, 24, 33, 64, 72]),
        seed: u64,
    ) {
        check_encoder(&lengths, heads, size, seed);
    }
}

fn encode(pool: &Pool, texts: &Texts, which: std::ops::Range<usize>) -> Vec<f32> {
    let mut cu_seqlens = vec![0];
    for s in which.clone() {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + texts.length(s) as u32);
    }
    let join = |x: &[Vec<f32>]| x[which.clone()].concat();
    let (q, k, v) = (join(&texts.q), join(&texts.k), join(&texts.v));
    let args = EncoderAttention {
        q: &q,
        k: &k,
        v: &v,
        num_heads: texts.heads,
        num_kv_heads: texts.kv_heads,
        head_size: texts.size,
        scale: texts.scale(),
        cu_seqlens: &cu_seqlens,
    };
    let mut out = vec![f32::NAN; q.len()];
    encoder_attention(pool, &args, &mut out);
    out
}

fn check_encoder(lengths: &[usize], heads: (usize, usize), size: usize, seed: u64) {
    let texts = Texts::new(lengths, heads, size, &mut Random::new(seed));
    let mut expected = Vec::new();
    for (s, &length) in lengths.iter().enumerate() {
        for p in 0..length {
            expected.extend(texts.expected(s, p, 0..length));
        }
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    for pool in pools(2) {
        let what = format!("{:?}", pool.isa());
        let out = encode(&pool, &texts, 0..lengths.len());
        assert_close(&out, &expected, |_| bound(&texts, longest), &what);
        let single = Pool::with_isa(1, pool.isa());
        let alone: Vec<Vec<f32>> =
            (0..lengths.len()).map(|s| encode(&single, &texts, s..s + 1)).collect();
        assert_same_bits(&alone.concat(), &out, &format!("{what}, one by one"));
    }
}

#[test]
fn heads_of_real_models() {
    for (heads, size) in [((2, 7), 64), ((1, 40), 32), ((2, 1), 128), ((1, 2), 256), ((1, 3), 80)] {
        let mut random = Random::new(size as u64);
        let texts = Texts::new(&[130, 1, 67], heads, size, &mut random);
        check_paged(&texts, 16, size as u64);
        check_encoder(&[130, 1, 67], heads, size, size as u64);
    }
}

#[test]
fn a_long_context_matches_f64() {
    let texts = Texts::new(&[1500], (1, 2), 64, &mut Random::new(3));
    check_paged(&texts, 16, 3);
}

#[test]
fn huge_scores_do_not_overflow() {
    let mut texts = Texts::new(&[90], (1, 1), 16, &mut Random::new(4));
    for q in &mut texts.q[0] {
        *q *= 1e4;
    }
    let expected = texts.causal().concat();
    for pool in pools(1) {
        let out = in_one_step(&pool, &texts, 16, &mut Random::new(4));
        // Scores near 1e4 are off by about 1e-2; only that the result stays a mean of values is
        // sure.
        assert!(out.iter().all(|x| x.abs() <= 1.001), "{:?}", pool.isa());
        assert_close(&out[..16], &expected[..16], |_| 1e-6, "one key");
    }
}

#[test]
fn a_block_left_behind_by_the_window_is_not_read() {
    let mut random = Random::new(9);
    let mut texts = Texts::new(&[100], (1, 1), 16, &mut random);
    texts.window = Some(20);
    for pool in pools(1) {
        let mut cache = Cache::new(&texts, 16, &mut random);
        let whole = cache.step(&pool, &texts, &[(0, 100)]);
        let mut cache = Cache::new(&texts, 16, &mut random);
        cache.step(&pool, &texts, &[(0, 99)]);
        // Position 99 sees keys 80..=99: the first five blocks of the table are free.
        cache.tables[..5].fill(u32::MAX);
        let last = cache.step(&pool, &texts, &[(99, 100)]);
        assert_same_bits(&last, &whole[99 * 16..], "last position");
    }
}

#[test]
fn a_copied_block_serves_as_the_original() {
    let mut random = Random::new(8);
    let texts = Texts::new(&[40], (2, 2), 24, &mut random);
    for pool in pools(1) {
        let mut cache = Cache::new(&texts, 16, &mut random);
        cache.step(&pool, &texts, &[(0, 39)]);
        let used = cache.tables[..3].to_vec();
        let free = (0..cache.layout.num_blocks as u32)
            .find(|block| !used.contains(block))
            .expect("two spare blocks");
        let mut view = KvCacheMut::new(cache.layout, &mut cache.keys, &mut cache.values);
        copy_block(&mut view, used[1], free);
        let mut twin = Cache { tables: cache.tables.clone(), ..cache };
        twin.tables[1] = free;
        let moved = twin.step(&pool, &texts, &[(39, 40)]);
        twin.tables[1] = used[1];
        assert_same_bits(&moved, &twin.step(&pool, &texts, &[(39, 40)]), "copied block");
    }
}

const LAYOUT: KvLayout = KvLayout { num_blocks: 2, num_kv_heads: 1, block_size: 4, head_size: 8 };

#[test]
fn bad_cache_sizes_are_named() {
    let pool = Pool::new(1);
    let (mut keys, mut values) = (vec![0.0; 64], vec![0.0; 64]);
    assert_panics(&["63", "64"], || {
        KvCacheMut::new(LAYOUT, &mut [0.0; 63], &mut [0.0; 64]);
    });
    let mut cache = KvCacheMut::new(LAYOUT, &mut keys, &mut values);
    assert_panics(&["token 1", "slot 8"], || {
        store_kv(&pool, &[0.0; 16], &[0.0; 16], &[0, 8], &mut cache);
    });
    assert_panics(&["15 and 16", "2 x 1 x 8"], || {
        store_kv(&pool, &[0.0; 15], &[0.0; 16], &[0, 7], &mut cache);
    });
    assert_panics(&["from 0 to 2", "2 blocks"], || {
        copy_block(&mut cache, 0, 2);
    });
}

#[test]
fn bad_paged_sizes_are_named() {
    let pool = Pool::new(1);
    let buffer = [0.0; 64];
    let good = PagedAttention {
        q: &buffer[..16],
        num_heads: 1,
        scale: 1.0,
        window: None,
        cache: KvCacheRef::new(LAYOUT, &buffer, &buffer),
        cu_seqlens: &[0, 2],
        num_computed: &[3],
        block_tables: &[0, 1],
        max_num_blocks: 2,
    };
    let run = |args: PagedAttention<'_>| paged_attention(&pool, &args, &mut [0.0; 16]);
    run(good);
    let bad = PagedAttention { cu_seqlens: &[0, 3], ..good };
    assert_panics(&["[0, 3]", "2 tokens"], || run(bad));
    let bad = PagedAttention { num_computed: &[7], ..good };
    assert_panics(&["9 positions", "2 blocks of 4"], || run(bad));
    let bad = PagedAttention { block_tables: &[0, 5], ..good };
    assert_panics(&["block 5", "has 2"], || run(bad));
    let bad = PagedAttention { window: Some(0), ..good };
    assert_panics(&["window of 0"], || run(bad));
    assert_panics(&["out 8"], || paged_attention(&pool, &good, &mut [0.0; 8]));
}

#[test]
fn bad_encoder_sizes_are_named() {
    let pool = Pool::new(1);
    let run = |args: EncoderAttention<'_>| encoder_attention(&pool, &args, &mut [0.0; 600]);
    let good = EncoderAttention {
        q: &[0.0; 600],
        k: &[0.0; 600],
        v: &[0.0; 600],
        num_heads: 3,
        num_kv_heads: 3,
        head_size: 100,
        scale: 1.0,
        cu_seqlens: &[0, 2],
    };
    run(good);
    let bad = EncoderAttention { head_size: 300, ..good };
    assert_panics(&["300", "256"], || run(bad));
    let bad = EncoderAttention { num_kv_heads: 2, ..good };
    assert_panics(&["3 query heads", "2 key/value heads"], || run(bad));
    let bad = EncoderAttention { k: &[0.0; 599], ..good };
    assert_panics(&["600, 599, 600"], || run(bad));
}
