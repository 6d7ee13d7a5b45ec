//! What the kernel tests share: instruction sets of this machine, random numbers, references in
//! f64.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::expect_used, reason = "tests fail by panicking")]

use folio_kernels::cpu::{Isa, Matrix, Pool, WeightDtype};
use half::{bf16, f16};

/// Every instruction set of this machine.
pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// One pool per instruction set, of `num_threads` threads.
pub(crate) fn pools(num_threads: usize) -> Vec<Pool> {
    isas().map(|isa| Pool::with_isa(num_threads, isa)).collect()
}

/// A small generator of reproducible numbers (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) as usize) % limit
    }

    /// Uniform in -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, num: usize) -> Vec<f32> {
        (0..num).map(|_| self.value()).collect()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A weight matrix in bytes that start at an odd address, and its exact values.
#[derive(Debug)]
pub(crate) struct Weights {
    bytes: Vec<u8>,
    pub(crate) values: Vec<f64>,
    dtype: WeightDtype,
    rows: usize,
    cols: usize,
}

impl Weights {
    pub(crate) fn new(dtype: WeightDtype, rows: usize, cols: usize, random: &mut Random) -> Self {
        let mut bytes = vec![0];
        let mut values = Vec::new();
        for _ in 0..rows * cols {
            let value = random.value();
            match dtype {
                WeightDtype::F32 => {
                    bytes.extend(value.to_le_bytes());
                    values.push(f64::from(value));
                }
                WeightDtype::Bf16 => {
                    bytes.extend(bf16::from_f32(value).to_le_bytes());
                    values.push(bf16::from_f32(value).to_f64());
                }
                WeightDtype::F16 => {
                    bytes.extend(f16::from_f32(value).to_le_bytes());
                    values.push(f16::from_f32(value).to_f64());
                }
            }
        }
        Self { bytes, values, dtype, rows, cols }
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.dtype, &self.bytes[1..], self.rows, self.cols).expect("sizes agree")
    }
}

/// Asserts that `actual` is within `bound(i)` of `expected`, naming the worst element.
#[track_caller]
pub(crate) fn assert_close(
    actual: &[f32],
    expected: &[f64],
    bound: impl Fn(usize) -> f64,
    what: &str,
) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(
            error <= bound(i),
            "{what}: element {i} is {actual}, expected {expected}: off by {error:e}, bound {:e}",
            bound(i)
        );
    }
}

/// Asserts equality bit by bit.
#[track_caller]
pub(crate) fn assert_same_bits(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!(
            actual.to_bits() == expected.to_bits(),
            "{what}: element {i} is {actual:e}, expected the very same as {expected:e}"
        );
    }
}

/// Asserts that `f` panics with a message that contains every one of `parts`.
#[track_caller]
pub(crate) fn assert_panics(parts: &[&str], f: impl FnOnce()) {
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
        .expect_err("expected a panic about a bad shape");
    let message = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_default();
    for part in parts {
        assert!(message.contains(part), "message {message:?} does not name {part:?}");
    }
}

/// The complementary error function by its continued fraction or series, good to 1e-14.
pub(crate) fn erfc(t: f64) -> f64 {
    if t < 0.0 {
        return 2.0 - erfc(-t);
    }
    if t < 2.5 {
        let (mut term, mut sum) = (t, t);
        for n in 1..200 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = t;
    for n in (1..200).rev() {
        fraction = t + f64::from(n) / 2.0 / fraction;
    }
    (-t * t).exp() / (fraction * std::f64::consts::PI.sqrt())
}
