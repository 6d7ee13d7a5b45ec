//! The operations in plain f64, written to be read.

use std::ops::Range;

use super::{Activation, Heads};

/// Rows of numbers.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) numbers: Vec<f64>,
    pub(super) cols: usize,
}

/// A result, and for each number the sum of magnitudes that went into it, against which rounding
/// errors are measured.
#[derive(Debug, Default)]
pub(super) struct Reference {
    pub(super) values: Vec<f64>,
    pub(super) magnitudes: Vec<f64>,
}

impl Matrix {
    pub(super) fn of(numbers: &[f32], cols: usize) -> Self {
        Self { numbers: numbers.iter().copied().map(f64::from).collect(), cols }
    }

    pub(super) fn row(&self, index: usize) -> &[f64] {
        &self.numbers[index * self.cols..][..self.cols]
    }

    pub(super) fn num_rows(&self) -> usize {
        self.numbers.len() / self.cols
    }

    pub(super) fn rows(&self, range: Range<usize>) -> Self {
        Self {
            numbers: self.numbers[range.start * self.cols..range.end * self.cols].to_vec(),
            cols: self.cols,
        }
    }

    /// Adds some rows of another matrix at the end.
    pub(super) fn append(&mut self, other: &Self, range: Range<usize>) {
        self.cols = other.cols;
        self.numbers.extend(other.rows(range).numbers);
    }
}

impl Reference {
    fn push(&mut self, value: f64, magnitude: f64) {
        self.values.push(value);
        self.magnitudes.push(magnitude);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
        self.magnitudes.extend(other.magnitudes);
    }

    /// The result through an activation, which changes a number by little more than its input
    /// changed.
    pub(super) fn activated(&self, activation: Activation) -> Self {
        let values = self.values.iter().map(|x| activate(*x, activation)).collect();
        let magnitudes = self.magnitudes.iter().map(|magnitude| 1.2 * magnitude).collect();
        Self { values, magnitudes }
    }

    pub(super) fn plus(mut self, numbers: &[f64]) -> Self {
        for (index, number) in numbers.iter().enumerate() {
            self.values[index] += number;
            self.magnitudes[index] += number.abs();
        }
        self
    }
}

pub(super) fn exact(values: Vec<f64>) -> Reference {
    let magnitudes = values.iter().map(|value| value.abs()).collect();
    Reference { values, magnitudes }
}

pub(super) fn sum(a: &[f64], b: &[f64]) -> Reference {
    exact(a.to_vec()).plus(b)
}

pub(super) fn linear(input: &Matrix, weight: &Matrix, bias: Option<&[f64]>) -> Reference {
    let mut result = Reference::default();
    for row in 0..input.num_rows() {
        for output in 0..weight.num_rows() {
            let products = input.row(row).iter().zip(weight.row(output)).map(|(x, w)| x * w);
            let bias = bias.map_or(0.0, |bias| bias[output]);
            let magnitude = products.clone().map(f64::abs).sum::<f64>() + bias.abs();
            result.push(products.sum::<f64>() + bias, magnitude);
        }
    }
    result
}

/// A norm; with biases it is a layer norm, which also subtracts the mean.
pub(super) struct Norm {
    pub(super) scales: Vec<f64>,
    pub(super) biases: Option<Vec<f64>>,
    pub(super) epsilon: f32,
}

impl Norm {
    pub(super) fn of(&self, input: &Matrix) -> Reference {
        let mut result = Reference::default();
        let num_cols = input.cols as f64;
        for row in input.numbers.chunks_exact(input.cols) {
            let has_mean = self.biases.is_some();
            let mean = if has_mean { row.iter().sum::<f64>() / num_cols } else { 0.0 };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / num_cols;
            let inverse = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            let largest = row.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            for (index, x) in row.iter().enumerate() {
                let scale = self.scales[index];
                let bias = self.biases.as_ref().map_or(0.0, |biases| biases[index]);
                let value = (x - mean) * inverse * scale + bias;
                // The mean cancels part of each number, and what rounding left of it is scaled up.
                let magnitude = 2.0 * largest * inverse * scale.abs() + bias.abs();
                result.push(value, magnitude);
            }
        }
        result
    }

    /// Of each head in the rows: as many numbers as there are scales.
    pub(super) fn of_heads(&self, input: &Matrix) -> Matrix {
        let heads = Matrix { numbers: input.numbers.clone(), cols: self.scales.len() };
        Matrix { numbers: self.of(&heads).values, cols: input.cols }
    }
}

pub(super) fn rope(
    heads: &Matrix,
    positions: &[u32],
    angles: &[f32],
    head_size: usize,
) -> Reference {
    let mut result = Reference::default();
    let half = head_size / 2;
    for (row, position) in positions.iter().enumerate() {
        for head in heads.row(row).chunks_exact(head_size) {
            for index in 0..head_size {
                let pair = index % half;
                let angle = f64::from(angles[*position as usize * half + pair]);
                let (low, high) = (head[pair], head[pair + half]);
                let value = if index < half {
                    low * angle.cos() - high * angle.sin()
                } else {
                    high * angle.cos() + low * angle.sin()
                };
                result.push(value, low.abs() + high.abs());
            }
        }
    }
    result
}

pub(super) fn activate_mul(gates: &Matrix, ups: &Matrix, activation: Activation) -> Reference {
    let mut result = Reference::default();
    for (gate, up) in gates.numbers.iter().zip(&ups.numbers) {
        result.push(activate(*gate, activation) * up, (gate * up).abs());
    }
    result
}

fn activate(x: f64, activation: Activation) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * normal_below(x),
        Activation::GeluTanh => 0.5 * x * (1.0 + inner.tanh()),
        Activation::Relu => x.max(0.0),
    }
}

/// How much of the normal distribution lies below `x`, by its power series, which is good near
/// zero; what lies beyond six deviations is below every tolerance.
fn normal_below(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return f64::from(u8::from(x > 0.0));
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / (2.0 * f64::from(n));
        sum += term / f64::from(2 * n + 1);
    }
    0.5 + sum / std::f64::consts::TAU.sqrt()
}

/// Attention of `queries` over `keys` and `values`, where `sees` says which key a query sees.
pub(super) fn attention(
    queries: &Matrix,
    [keys, values]: [&Matrix; 2],
    heads: Heads,
    sees: &dyn Fn(usize, usize) -> bool,
) -> Reference {
    let mut result = Reference::default();
    let size = heads.head_size;
    for row in 0..queries.num_rows() {
        for head in 0..heads.num_heads {
            let kv_head = head / (heads.num_heads / heads.num_kv_heads);
            let query = &queries.row(row)[head * size..][..size];
            let visible = (0..keys.num_rows()).filter(|key| sees(row, *key)).collect::<Vec<_>>();
            let scores = visible.iter().map(|key| {
                let key = &keys.row(*key)[kv_head * size..][..size];
                let dot = query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                dot * f64::from(heads.scale())
            });
            let scores = scores.collect::<Vec<_>>();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights = scores.iter().map(|score| (score - largest).exp());
            let weights = weights.collect::<Vec<_>>();
            let total = weights.iter().sum::<f64>();
            for index in 0..size {
                let terms = visible
                    .iter()
                    .zip(&weights)
                    .map(|(key, weight)| weight / total * values.row(*key)[kv_head * size + index]);
                // A score is itself a sum of products, whose rounding moves the weights.
                let magnitude = 8.0 * terms.clone().map(f64::abs).sum::<f64>();
                result.push(terms.sum(), magnitude);
            }
        }
    }
    result
}
