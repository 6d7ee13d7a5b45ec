//! The sampler against a slow reference in f64, and its promises at the edges.

mod device;
mod distribution;
mod edges;
mod reference;
mod truncation;

use super::{RowContext, RowScratch, Unsampleable, sample_row};
use crate::exec::random::RandomStream;
use crate::types::{
    Penalties, SampledToken, Sampling, SamplingParams, StopConditions, TokenId, TokenLogprobs,
};

/// A context after `num_generated` tokens of choice 0 with no past tokens.
fn context(params: &SamplingParams) -> RowContext<'_> {
    RowContext { params, counts: &[], num_generated: 0, choice_index: 0, position: 5 }
}

/// Parameters with only `sampling` set.
fn sampling(sampling: Sampling) -> SamplingParams {
    SamplingParams { sampling, ..SamplingParams::default() }
}

/// Greedy parameters.
fn greedy() -> SamplingParams {
    sampling(Sampling { temperature: 0.0, ..Sampling::default() })
}

/// Samples with fresh scratch, from a copy of the row.
fn sample(row: &[f32], context: &RowContext<'_>) -> Result<SampledToken, Unsampleable> {
    sample_row(&mut row.to_vec(), context, &mut RowScratch::default())
}

/// The id sampled from a row that has one.
fn sample_id(row: &[f32], context: &RowContext<'_>) -> TokenId {
    sample(row, context).unwrap().id
}

/// A row of normal variates times `scale`, a function of `stream`.
fn normal_row(vocab_size: usize, scale: f64, stream: u32) -> Vec<f32> {
    let stream = RandomStream::new(0x0010_6175, stream);
    (0..vocab_size as u32)
        .map(|token| {
            let radius = (-2.0 * stream.uniform(2 * token).ln()).sqrt();
            let angle = std::f64::consts::TAU * stream.uniform(2 * token + 1);
            (scale * radius * angle.cos()) as f32
        })
        .collect()
}
