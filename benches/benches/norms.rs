//! The small ops at the shapes of a decoding step and a prefill.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_benches::values;
use folio_kernels::cpu::{
    Activation, LayerNorm, Pool, RmsNorm, Rope, activation, activation_mul, layer_norm, rms_norm,
    rope,
};

const SIZE: usize = 2048;
const SHAPES: [usize; 2] = [8, 512];

fn norms(criterion: &mut Criterion) {
    let pool = Pool::new(2);
    let weight = values(SIZE, 1);
    let mut group = criterion.benchmark_group("norm");
    for num_rows in SHAPES {
        let x = values(num_rows * SIZE, 2);
        let mut out = vec![0.0; x.len()];
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(BenchmarkId::new("rms", num_rows), |bencher| {
            let norm = RmsNorm { weight: &weight, epsilon: 1e-6 };
            bencher.iter(|| rms_norm(&pool, black_box(&x), norm, &mut out));
        });
        group.bench_function(BenchmarkId::new("layer", num_rows), |bencher| {
            let norm = LayerNorm { weight: &weight, bias: Some(&weight), epsilon: 1e-6 };
            bencher.iter(|| layer_norm(&pool, black_box(&x), norm, &mut out));
        });
    }
    group.finish();
}

fn elements(criterion: &mut Criterion) {
    let pool = Pool::new(2);
    let mut group = criterion.benchmark_group("elements");
    for num_rows in SHAPES {
        let x = values(num_rows * SIZE, 2);
        let up = values(num_rows * SIZE, 3);
        let mut out = vec![0.0; x.len()];
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(BenchmarkId::new("silu_mul", num_rows), |bencher| {
            bencher.iter(|| activation_mul(&pool, Activation::Silu, black_box(&x), &up, &mut out));
        });
        group.bench_function(BenchmarkId::new("gelu", num_rows), |bencher| {
            bencher.iter(|| activation(&pool, Activation::Gelu, black_box(&x), &mut out));
        });
        let (cos, sin) = (values(512 * 64, 4), values(512 * 64, 5));
        let tables = Rope { cos: &cos, sin: &sin, rotary_size: 128, head_size: 128 };
        let positions: Vec<u32> = (0..num_rows as u32).collect();
        group.bench_function(BenchmarkId::new("rope", num_rows), |bencher| {
            bencher.iter(|| {
                rope(&pool, black_box(&mut out), &positions, tables);
                // Rotation keeps lengths only for true angles: start again before it overflows.
                out.copy_from_slice(&x);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, norms, elements);
criterion_main!(benches);
