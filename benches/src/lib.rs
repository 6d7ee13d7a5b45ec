//! What the benchmarks share: operands, windows of time, and the machine's two roofs.
//!
//! Other load is assumed, so a figure is the best few per cent of many short windows, not a mean.

pub mod attention;
pub mod gpu;
pub mod http;

use std::time::Instant;

use folio_kernels::cpu::{Matrix, Pool, WeightDtype, roofline};

/// Pseudo-random values in -1..1, the same every time.
pub fn values(num: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..num).map(|_| next()).collect()
}

/// Weight matrices of one shape, enough of them that a cycle through all does not stay in any
/// cache.
#[derive(Debug)]
pub struct WeightCycle {
    bytes: Vec<u8>,
    dtype: WeightDtype,
    num_outputs: usize,
    num_inputs: usize,
}

impl WeightCycle {
    /// As many `[num_outputs, num_inputs]` matrices as `min_bytes` needs, at least one.
    pub fn new(
        dtype: WeightDtype,
        num_outputs: usize,
        num_inputs: usize,
        min_bytes: usize,
    ) -> Self {
        let size = num_outputs * num_inputs * dtype.num_bytes();
        let total = min_bytes.div_ceil(size).max(1) * size;
        let mut bytes = Vec::with_capacity(total);
        for value in values(4099, 7).iter().cycle() {
            if bytes.len() >= total {
                break;
            }
            // 0x3c00 | small: about 0.01 as bf16 and 1 to 2 as half, so neither NaN nor denormal.
            let half = 0x3c00 | (value.to_bits() >> 16 & 0x7f) as u16;
            match dtype {
                WeightDtype::F32 => bytes.extend(value.to_le_bytes()),
                WeightDtype::Bf16 | WeightDtype::F16 => bytes.extend(half.to_le_bytes()),
            }
        }
        Self { bytes, dtype, num_outputs, num_inputs }
    }

    /// Bytes of one matrix.
    pub fn matrix_bytes(&self) -> usize {
        self.num_outputs * self.num_inputs * self.dtype.num_bytes()
    }

    /// Matrix `index` modulo their number.
    pub fn matrix(&self, index: usize) -> Option<Matrix<'_>> {
        let size = self.matrix_bytes();
        let start = index % (self.bytes.len() / size) * size;
        Matrix::new(self.dtype, &self.bytes[start..start + size], self.num_outputs, self.num_inputs)
            .ok()
    }
}

/// Seconds of the run at the fastest fiftieth, of at least fifty runs over at least `min_seconds`.
///
/// `run` gets the number of the run. Runs should take a millisecond or less, so that many of them
/// are not interrupted.
pub fn best_seconds(min_seconds: f64, mut run: impl FnMut(usize)) -> f64 {
    const MIN_RUNS: usize = 50;
    const MAX_RUNS: usize = 50_000;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < MIN_RUNS
        || (begin.elapsed().as_secs_f64() < min_seconds && times.len() < MAX_RUNS)
    {
        let start = Instant::now();
        run(times.len());
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 50]
}

/// The roofs of a machine for some number of threads.
#[derive(Clone, Copy, Debug)]
pub struct Roofs {
    /// Fused multiply-adds in f32, two operations each, per second.
    pub flops: f64,
    /// Bytes read from memory per second.
    pub bytes: f64,
}

impl Roofs {
    /// Measures both with short windows; `data` should be larger than every cache.
    pub fn measure(pool: &Pool, data: &[u8]) -> Self {
        const ITERATIONS: usize = 100_000;
        const WINDOW: usize = 4 << 20;
        let mut operations = 0;
        let seconds = best_seconds(1.0, |_| {
            operations = roofline::multiply_adds(pool, ITERATIONS);
        });
        let flops = operations as f64 / seconds;
        let windows = (data.len() / WINDOW).max(1);
        let window = WINDOW.min(data.len());
        let seconds = best_seconds(1.5, |index| {
            let start = index % windows * window;
            std::hint::black_box(roofline::read(pool, &data[start..start + window]));
        });
        Self { flops, bytes: window as f64 / seconds }
    }
}
