//! Paged attention when decoding and prefilling, encoder attention, and storing.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_benches::attention::{EncoderCase, PagedCase};
use folio_benches::values;
use folio_kernels::cpu::{
    KvCacheMut, KvLayout, Pool, encoder_attention, paged_attention, store_kv,
};

fn paged(criterion: &mut Criterion, name: &str, cases: &[(usize, usize, usize, usize)]) {
    let pool = Pool::new(2);
    let mut group = criterion.benchmark_group(name);
    for &(num_sequences, num_queries, context, head_size) in cases {
        let case = PagedCase::new(num_sequences, num_queries, context, head_size);
        let (args, mut out) = (case.args(), case.out());
        group.throughput(Throughput::Elements(case.num_operations() as u64));
        group.bench_function(BenchmarkId::from_parameter(case.name()), |bencher| {
            bencher.iter(|| paged_attention(&pool, black_box(&args), &mut out));
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let cases = [(1, 1, 4096, 64), (1, 1, 4096, 128), (16, 1, 512, 64), (64, 1, 512, 128)];
    paged(criterion, "paged_attention/decode", &cases);
}

fn prefill(criterion: &mut Criterion) {
    let cases = [(1, 512, 512, 64), (1, 512, 4096, 128), (4, 128, 128, 64)];
    paged(criterion, "paged_attention/prefill", &cases);
}

fn encoder(criterion: &mut Criterion) {
    let pool = Pool::new(2);
    let mut group = criterion.benchmark_group("encoder_attention");
    for (num_sequences, length, head_size) in
        [(64, 8, 32), (16, 32, 32), (16, 128, 64), (4, 512, 64)]
    {
        let case = EncoderCase::new(num_sequences, length, head_size);
        let (args, mut out) = (case.args(), case.out());
        group.throughput(Throughput::Elements(case.num_operations() as u64));
        group.bench_function(BenchmarkId::from_parameter(case.name()), |bencher| {
            bencher.iter(|| encoder_attention(&pool, black_box(&args), &mut out));
        });
    }
    group.finish();
}

fn store(criterion: &mut Criterion) {
    const BLOCK_SIZE: usize = 16;
    let pool = Pool::new(2);
    let layout =
        KvLayout { num_blocks: 512, num_kv_heads: 8, block_size: BLOCK_SIZE, head_size: 128 };
    let mut keys = vec![0.0; layout.num_elements()];
    let mut cached = vec![0.0; layout.num_elements()];
    let mut group = criterion.benchmark_group("store_kv");
    // A prefill writes neighbours, a decoding batch one slot per sequence.
    for (label, num_tokens, step) in [("prefill", 512, 1), ("decode", 32, 16 * BLOCK_SIZE + 1)] {
        let k = values(num_tokens * layout.num_kv_heads * layout.head_size, 1);
        let slots: Vec<u32> =
            (0..num_tokens).map(|i| (i * step % (512 * BLOCK_SIZE)) as u32).collect();
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
