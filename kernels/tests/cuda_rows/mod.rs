//! What the tests of the row kernels share: matrices on an emulated device, with gaps between
//! their rows that must stay as they were, and their numbers on the host.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(unsafe_code, reason = "commands name device memory")]

use folio_kernels::cuda::{Command, Context, DeviceBuffer, DevicePtr, Element, View};
use half::{bf16, f16};

/// What lies between rows: a number that no test computes.
const GAP: u16 = 0x5a5a;

/// The 16-bit number nearest to `x`, as its bits.
pub(crate) fn bits(element: Element, x: f32) -> u16 {
    match element {
        Element::Bf16 => bf16::from_f32(x).to_bits(),
        Element::F16 => f16::from_f32(x).to_bits(),
    }
}

/// The number that 16 bits stand for.
pub(crate) fn number(element: Element, bits: u16) -> f32 {
    match element {
        Element::Bf16 => bf16::from_bits(bits).to_f32(),
        Element::F16 => f16::from_bits(bits).to_f32(),
    }
}

/// Half the distance between 16-bit numbers around `x`: what one rounding may cost.
pub(crate) fn half_ulp(element: Element, x: f64) -> f64 {
    let (num_bits, smallest) = match element {
        Element::Bf16 => (8, f64::from(f32::MIN_POSITIVE)),
        Element::F16 => (11, 2f64.powi(-14)),
    };
    2f64.powf(x.abs().max(smallest).log2().floor() - f64::from(num_bits))
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Elements between the end of a row and the next row.
    pub(crate) gap: usize,
    /// Elements before the first row.
    pub(crate) offset: usize,
}

/// Rows one after the other, aligned.
pub(crate) const DENSE: Layout = Layout { gap: 0, offset: 0 };
/// A part of wider rows, aligned to vectors.
pub(crate) const STRIDED: Layout = Layout { gap: 24, offset: 16 };
/// Rows that begin anywhere.
pub(crate) const MISALIGNED: Layout = Layout { gap: 3, offset: 1 };

/// All of them.
pub(crate) const LAYOUTS: [Layout; 3] = [DENSE, STRIDED, MISALIGNED];

/// A matrix of 16-bit numbers on the device.
#[derive(Debug)]
pub(crate) struct Matrix {
    element: Element,
    shape: [usize; 2],
    layout: Layout,
    buffer: DeviceBuffer,
}

impl Matrix {
    /// Uploads `values`, `[rows, cols]`, each rounded to 16 bits.
    pub(crate) fn new(
        context: &Context,
        element: Element,
        values: &[f32],
        cols: usize,
        layout: Layout,
    ) -> Self {
        let mut words = vec![GAP; layout.offset];
        for row in values.chunks(cols) {
            assert_eq!(row.len(), cols, "whole rows");
            words.extend(row.iter().map(|&x| bits(element, x)));
            words.extend([GAP].repeat(layout.gap));
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let buffer = context.upload(&bytes).unwrap();
        Self { element, shape: [values.len() / cols, cols], layout, buffer }
    }

    /// A matrix of NaN, for results.
    pub(crate) fn empty(
        context: &Context,
        element: Element,
        [rows, cols]: [usize; 2],
        layout: Layout,
    ) -> Self {
        Self::new(context, element, &vec![f32::NAN; rows * cols], cols, layout)
    }

    fn stride(&self) -> usize {
        self.shape[1] + self.layout.gap
    }

    pub(crate) fn view(&self) -> View {
        let [rows, cols] = self.shape;
        let ptr = self.buffer.ptr().offset(self.layout.offset * 2);
        View { ptr, rows, cols, stride: self.stride() }
    }

    /// Its numbers, `[rows, cols]`, after a check that nothing was written around them.
    pub(crate) fn read(&self, context: &Context) -> Vec<f32> {
        let [rows, cols] = self.shape;
        let bytes = context.download(&self.buffer).unwrap();
        let words: Vec<u16> =
            bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let (before, words) = words.split_at(self.layout.offset.min(words.len()));
        assert!(before.iter().all(|&word| word == GAP), "something was written before the rows");
        let mut values = Vec::new();
        for (index, row) in words.chunks(self.stride().max(1)).take(rows).enumerate() {
            let (row, gap) = row.split_at(cols);
            assert!(gap.iter().all(|&word| word == GAP), "something was written after row {index}");
            values.extend(row.iter().map(|&word| number(self.element, word)));
        }
        values
    }
}

/// Numbers of 32 bits on the device.
#[derive(Debug)]
pub(crate) struct Words(DeviceBuffer);

impl Words {
    pub(crate) fn floats(context: &Context, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self(context.upload(&bytes).unwrap())
    }

    pub(crate) fn ints(context: &Context, values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self(context.upload(&bytes).unwrap())
    }

    pub(crate) fn ptr(&self) -> DevicePtr {
        self.0.ptr()
    }

    /// Overwrites the first of the numbers.
    pub(crate) fn write(&self, context: &Context, values: &[i32]) {
        let from = Self::ints(context, values);
        let num_bytes = values.len() * 4;
        assert!(num_bytes <= self.0.num_bytes());
        let command = Command::Copy { to: self.ptr(), from: from.ptr(), num_bytes };
        // SAFETY: both are long enough, and alive until the wait.
        unsafe { context.driver().enqueue(context.stream(), command).unwrap() };
        context.synchronize().unwrap();
    }

    pub(crate) fn view(&self, shape: [usize; 2]) -> View {
        self.0.view(0, shape, 4)
    }

    pub(crate) fn read_floats(&self, context: &Context) -> Vec<f32> {
        self.read(context).map(f32::from_bits).collect()
    }

    pub(crate) fn read_ints(&self, context: &Context) -> Vec<i32> {
        self.read(context).map(u32::cast_signed).collect()
    }

    fn read(&self, context: &Context) -> impl Iterator<Item = u32> {
        let bytes = context.download(&self.0).unwrap();
        let words: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        words.into_iter()
    }
}

/// Asserts equality bit by bit; any NaN equals any other.
#[track_caller]
pub(crate) fn assert_same(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!(
            actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan(),
            "{what}: element {i} is {actual:e}, expected the very same as {expected:e}"
        );
    }
}
