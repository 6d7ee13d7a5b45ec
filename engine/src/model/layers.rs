//! Parts that model families share: how a projection or a norm is taken from a checkpoint.

use super::weights::WeightSource;
use crate::ops::{Linear, Norm};
use crate::types::Result;

/// Whether a projection has a bias in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    /// It has.
    Present,
    /// It has none.
    Absent,
}

impl From<bool> for Bias {
    fn from(is_present: bool) -> Self {
        if is_present { Self::Present } else { Self::Absent }
    }
}

/// The projection `name`: `name.weight` of `shape` `[out, in]`, and `name.bias`.
pub(crate) fn linear(
    weights: &mut dyn WeightSource,
    name: &str,
    shape: [usize; 2],
    bias: Bias,
) -> Result<Linear> {
    let [rows, cols] = shape;
    let [linear] = linears(weights, &[(name.to_owned(), rows)], cols, bias)?;
    Ok(linear)
}

/// Projections of one input of `cols` numbers, each with its name and its number of outputs; a
/// device may compute them as one.
pub(crate) fn linears<const N: usize>(
    weights: &mut dyn WeightSource,
    parts: &[(String, usize); N],
    cols: usize,
    bias: Bias,
) -> Result<[Linear; N]> {
    let named = |end: &str| {
        let parts = parts.iter().map(|(name, rows)| (format!("{name}.{end}"), *rows));
        parts.collect::<Vec<_>>()
    };
    let matrices = weights.matrices(&named("weight"), cols)?;
    let biases = match bias {
        Bias::Present => Some(weights.biases(&named("bias"))?),
        Bias::Absent => None,
    };
    Ok(std::array::from_fn(|index| Linear {
        weight: matrices[index],
        bias: biases.as_ref().map(|biases| biases[index]),
        activation: None,
    }))
}

/// The root-mean-square norm `name` over rows of `cols`.
pub(crate) fn rms_norm(
    weights: &mut dyn WeightSource,
    name: &str,
    cols: usize,
    epsilon: f32,
) -> Result<Norm> {
    let scale = weights.vector(&format!("{name}.weight"), cols)?;
    Ok(Norm::Rms { scale, epsilon })
}

/// The layer norm `name` over rows of `cols`. Checkpoints of 2018 call its parts gamma and beta.
pub(crate) fn layer_norm(
    weights: &mut dyn WeightSource,
    name: &str,
    cols: usize,
    epsilon: f32,
) -> Result<Norm> {
    let is_old = weights.contains(&format!("{name}.gamma"));
    let (scale, bias) = if is_old { ("gamma", "beta") } else { ("weight", "bias") };
    Ok(Norm::Layer {
        scale: weights.vector(&format!("{name}.{scale}"), cols)?,
        bias: weights.vector(&format!("{name}.{bias}"), cols)?,
        epsilon,
    })
}
