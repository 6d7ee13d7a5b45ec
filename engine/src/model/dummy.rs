//! Weights made up on the spot, to measure a model's speed from its configuration alone.
//!
//! Matrices are bfloat16 of a size that keeps activations near one through any number of layers;
//! the same configuration gives the same numbers.

use half::bf16;

use super::weights::WeightSource;
use crate::ops::{Device, Dtype, HostBytes, HostTensor, Weight};
use crate::types::Result;

/// Makes up every weight that is asked for.
pub(crate) struct DummyWeights<'a> {
    device: &'a mut dyn Device,
    /// Told the bytes of each tensor that was handed over.
    loaded: &'a mut dyn FnMut(usize),
    state: u32,
}

impl<'a> DummyWeights<'a> {
    /// A source that calls `loaded` with the bytes of each tensor.
    pub(crate) fn new(device: &'a mut dyn Device, loaded: &'a mut dyn FnMut(usize)) -> Self {
        Self { device, loaded, state: 1 }
    }

    /// A number in -1..1, from a linear congruential generator: speed matters, quality does not.
    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

impl DummyWeights<'_> {
    fn made_up(&mut self, rows: usize, cols: usize) -> HostTensor {
        // Uniform in ±1 has variance 1/3; a sum over `cols` products keeps the variance.
        let scale = (3.0 / cols as f32).sqrt();
        let bytes: Vec<u8> = (0..rows * cols)
            .flat_map(|_| bf16::from_f32(self.next() * scale).to_le_bytes())
            .collect();
        let range = 0..bytes.len();
        (self.loaded)(bytes.len());
        let bytes = HostBytes::Owned(bytes.into());
        HostTensor::new(Dtype::Bf16, [rows, cols], bytes, range)
    }
}

impl WeightSource for DummyWeights<'_> {
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>> {
        let parts = parts.iter().map(|(_, rows)| self.made_up(*rows, cols)).collect();
        self.device.load_matrices(parts)
    }

    /// Biases are zero.
    fn biases(&mut self, parts: &[(String, usize)]) -> Result<Vec<Weight>> {
        let part = |(_, len): &(String, usize)| {
            (self.loaded)(2 * len);
            HostTensor::of_f32(&vec![0.0; *len], [1, *len])
        };
        let parts = parts.iter().map(part).collect();
        self.device.load_biases(parts)
    }

    /// Scales are one and what norms add is zero.
    fn vector(&mut self, name: &str, len: usize) -> Result<Weight> {
        (self.loaded)(2 * len);
        let value = if name.ends_with("bias") { 0.0 } else { 1.0 };
        self.device.load_vector(vec![value; len])
    }

    fn numbers(&mut self, _name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        let len = shape[0] * shape[1];
        (self.loaded)(2 * len);
        Ok((0..len).map(|_| self.next()).collect())
    }

    fn computed(&mut self, numbers: Vec<f32>, shape: [usize; 2]) -> Result<Weight> {
        let tensor = HostTensor::of_f32(&numbers, shape);
        Ok(self.device.load_matrices(vec![tensor])?[0])
    }

    fn computed_vector(&mut self, _len: usize, compute: &dyn Fn() -> Vec<f32>) -> Result<Weight> {
        self.device.load_vector(compute())
    }

    fn contains(&self, _name: &str) -> bool {
        false
    }

    fn are_equal(&self, _name: &str, _other: &str) -> bool {
        true
    }
}
