//! Paged attention when decoding and prefilling, encoder attention, and storing.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_benches::values;
use folio_kernels::cpu::{
    EncoderAttention, KvCacheMut, KvCacheRef, KvLayout, PagedAttention, Pool, encoder_attention,
    paged_attention, store_kv,
};

const NUM_HEADS: usize = 16;
const NUM_KV_HEADS: usize = 8;
const BLOCK_SIZE: usize = 16;

/// `num_sequences` queries ranges of `num_queries` each, at the end of `context` positions.
fn paged(criterion: &mut Criterion, name: &str, cases: &[(usize, usize, usize, usize)]) {
    let pool = Pool::new(2);
    let mut group = criterion.benchmark_group(name);
    for &(num_sequences, num_queries, context, head_size) in cases {
        let max_num_blocks = context.div_ceil(BLOCK_SIZE);
        let num_blocks = num_sequences * max_num_blocks;
        let layout = KvLayout {
            num_blocks,
            num_kv_heads: NUM_KV_HEADS,
            block_size: BLOCK_SIZE,
            head_size,
        };
        let keys = values(layout.num_elements(), 1);
        let cached = values(layout.num_elements(), 2);
        let num_tokens = num_sequences * num_queries;
        let q = values(num_tokens * NUM_HEADS * head_size, 3);
        // Blocks of the sequences interleave, as they do after some time of serving.
        let block_tables: Vec<u32> = (0..num_blocks)
            .map(|i| (i % max_num_blocks * num_sequences + i / max_num_blocks) as u32)
            .collect();
        let cu_seqlens: Vec<u32> = (0..=num_sequences)
            .map(|i| (i * num_queries) as u32)
            .collect();
        let num_computed = vec![(context - num_queries) as u32; num_sequences];
        let mut out = vec![0.0; q.len()];
        let args = PagedAttention {
            q: &q,
            num_heads: NUM_HEADS,
            scale: 1.0 / (head_size as f32).sqrt(),
            window: None,
            cache: KvCacheRef::new(layout, &keys, &cached),
            cu_seqlens: &cu_seqlens,
            num_computed: &num_computed,
            block_tables: &block_tables,
            max_num_blocks,
        };
        // Two products of query, key and size each, two operations.
        let pairs = num_sequences * (0..num_queries).map(|i| context - i).sum::<usize>();
        group.throughput(Throughput::Elements(
            (4 * pairs * NUM_HEADS * head_size) as u64,
        ));
        let label = format!("S{num_sequences}xQ{num_queries}xC{context}xD{head_size}");
        group.bench_function(BenchmarkId::from_parameter(label), |bencher| {
            bencher.iter(|| paged_attention(&pool, black_box(&args), &mut out));
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let cases = [
        (1, 1, 4096, 64),
        (1, 1, 4096, 128),
        (16, 1, 512, 64),
        (64, 1, 512, 128),
    ];
    paged(criterion, "paged_attention/decode", &cases);
}

fn prefill(criterion: &mut Criterion) {
    let cases = [
        (1, 512, 512, 64),
        (1, 512, 4096, 64),
        (1, 512, 4096, 128),
        (4, 128, 128, 64),
    ];
    paged(criterion, "paged_attention/prefill", &cases);
}

fn encoder(criterion: &mut Criterion) {
    let pool = Pool::new(2);
    let mut group = criterion.benchmark_group("encoder_attention");
    for (num_sequences, length, head_size) in
        [(64, 8, 32), (16, 32, 32), (16, 128, 64), (4, 512, 64)]
    {
        let num_tokens = num_sequences * length;
        let make = |seed| values(num_tokens * NUM_HEADS * head_size, seed);
        let (q, k, v) = (make(1), make(2), make(3));
        let cu_seqlens: Vec<u32> = (0..=num_sequences).map(|i| (i * length) as u32).collect();
        let args = EncoderAttention {
            q: &q,
            k: &k,
            v: &v,
            num_heads: NUM_HEADS,
            num_kv_heads: NUM_HEADS,
            head_size,
            scale: 1.0 / (head_size as f32).sqrt(),
            cu_seqlens: &cu_seqlens,
        };
        let mut out = vec![0.0; q.len()];
        let operations = 4 * num_sequences * length * length * NUM_HEADS * head_size;
        group.throughput(Throughput::Elements(operations as u64));
        let label = format!("S{num_sequences}xL{length}xD{head_size}");
        group.bench_function(BenchmarkId::from_parameter(label), |bencher| {
            bencher.iter(|| encoder_attention(&pool, black_box(&args), &mut out));
        });
    }
    group.finish();
}

fn store(criterion: &mut Criterion) {
    let pool = Pool::new(2);
    let layout = KvLayout {
        num_blocks: 512,
        num_kv_heads: NUM_KV_HEADS,
        block_size: BLOCK_SIZE,
        head_size: 128,
    };
    let mut keys = vec![0.0; layout.num_elements()];
    let mut cached = vec![0.0; layout.num_elements()];
    let mut group = criterion.benchmark_group("store_kv");
    // A prefill writes neighbours, a decoding batch one slot per sequence.
    for (label, num_tokens, step) in [("prefill", 512, 1), ("decode", 32, 16 * BLOCK_SIZE + 1)] {
        let k = values(num_tokens * NUM_KV_HEADS * layout.head_size, 1);
        let slots: Vec<u32> = (0..num_tokens)
            .map(|i| (i * step % (512 * BLOCK_SIZE)) as u32)
            .collect();
        group.throughput(Throughput::Bytes(8 * k.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(label), |bencher| {
            bencher.iter(|| {
                let mut cache = KvCacheMut::new(layout, &mut keys, &mut cached);
                store_kv(&pool, black_box(&k), &k, &slots, &mut cache);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, prefill, encoder, store);
criterion_main!(benches);
