//! Weights made up on the spot, to measure a model's speed from its configuration alone.
//!
//! Matrices are bfloat16 of a size that keeps activations near one through any number of layers;
//! the same configuration gives the same numbers.

use super::weights::WeightSource;
use crate::ops::{Device, HostTensor, MadeUp, Weight};
use crate::types::Result;

/// Makes up every weight that is asked for.
pub(crate) struct DummyWeights<'a> {
    device: &'a mut dyn Device,
    /// Told the bytes of each tensor that was handed over.
    loaded: &'a mut dyn FnMut(usize),
    num_seeds: u64,
}

impl<'a> DummyWeights<'a> {
    /// A source that calls `loaded` with the bytes of each tensor.
    pub(crate) fn new(device: &'a mut dyn Device, loaded: &'a mut dyn FnMut(usize)) -> Self {
        Self { device, loaded, num_seeds: 0 }
    }

    /// A seed that no matrix had before.
    fn next_seed(&mut self) -> u64 {
        self.num_seeds += 1;
        self.num_seeds
    }
}

/// Uniform numbers of such a size that a sum over `cols` products keeps the size of what goes in:
/// they have variance 1 / cols.
fn scale(cols: usize) -> f32 {
    (3.0 / cols as f32).sqrt()
}

impl WeightSource for DummyWeights<'_> {
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>> {
        let rows = parts.iter().map(|(_, rows)| *rows).collect::<Vec<_>>();
        for rows in &rows {
            (self.loaded)(2 * rows * cols);
        }
        let numbers = MadeUp { seed: self.next_seed(), scale: scale(cols) };
        self.device.make_up(&rows, cols, numbers)
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

    fn numbers(&mut self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let len = shape.iter().product();
        (self.loaded)(2 * len);
        let numbers = MadeUp { seed: self.next_seed(), scale: 1.0 };
        Ok(numbers.numbers().take(len).collect())
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
