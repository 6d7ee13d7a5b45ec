//! `linear` at the sizes of decoding and prefilling, weights streaming from memory.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_benches::{WeightCycle, values};
use folio_kernels::cpu::{Pool, WeightDtype, linear};

fn gemm(criterion: &mut Criterion) {
    let pool = Pool::new(2);
    let (num_outputs, num_inputs) = (2048, 2048);
    for dtype in [WeightDtype::Bf16, WeightDtype::F16, WeightDtype::F32] {
        let mut group = criterion.benchmark_group(format!("linear/{dtype:?}"));
        let weights = WeightCycle::new(dtype, num_outputs, num_inputs, 128 << 20);
        for num_rows in [1, 8, 64] {
            let x = values(num_rows * num_inputs, 3);
            let mut out = vec![0.0; num_rows * num_outputs];
            let mut index = 0;
            group.throughput(Throughput::Elements((num_rows * num_outputs * num_inputs) as u64));
            group.bench_function(BenchmarkId::from_parameter(num_rows), |bencher| {
                bencher.iter(|| {
                    index += 1;
                    if let Some(matrix) = weights.matrix(index) {
                        linear(&pool, black_box(&x), &matrix, None, &mut out);
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, gemm);
criterion_main!(benches);
