//! The family of post-norm encoders with learned positions: BERT and XLM-RoBERTa.
//!
//! They differ in names and in where positions start. Each text is computed whole, without a KV
//! cache; pooling happens on the hidden states that come out here.

use super::layers::{self, Bias};
use super::sentence::PoolingConfig;
use super::weights::WeightSource;
use super::{Blueprint, Model};
use crate::ops::{
    Activation, Heads, Linear, Lookup, LookupIndex, Norm, Ops, Residual, Tensor, Weight,
};
use crate::types::{ModelKind, Result};

/// What an encoder's configuration describes.
#[derive(Clone, Debug)]
pub(crate) struct EncoderConfig {
    /// Entries of the vocabulary, V.
    pub(crate) vocab_size: u32,
    /// Width of hidden states, H.
    pub(crate) hidden_size: u32,
    /// Width inside the MLP.
    pub(crate) intermediate_size: u32,
    /// Number of layers.
    pub(crate) num_layers: u32,
    /// Heads of every layer.
    pub(crate) heads: Heads,
    /// Learned positions.
    pub(crate) positions: Positions,
    /// Between the matrices of the MLP.
    pub(crate) activation: Activation,
    /// Added to the variance in every norm.
    pub(crate) norm_epsilon: f32,
    /// How hidden states become a vector.
    pub(crate) pooling: PoolingConfig,
    /// What checkpoints with a head put before every name: `bert` or `roberta`.
    pub(crate) prefix: &'static str,
}

/// Learned positions of an encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// Rows of the position table.
    pub(crate) num_rows: u32,
    /// Row of the first token.
    pub(crate) offset: u32,
    /// Rows of the table of token types, of which the first is used.
    pub(crate) num_types: u32,
    /// Longest text, in tokens: what the table holds, or less when the model's files say so.
    pub(crate) max_len: u32,
}

impl Blueprint for EncoderConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Encoder
    }

    fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    fn hidden_size(&self) -> u32 {
        self.hidden_size
    }

    fn intermediate_size(&self) -> u32 {
        self.intermediate_size
    }

    fn max_len(&self) -> u32 {
        self.positions.max_len
    }

    fn num_layers(&self) -> u32 {
        self.num_layers
    }

    fn heads(&self) -> Heads {
        self.heads
    }

    fn pooling(&self) -> Option<PoolingConfig> {
        Some(self.pooling)
    }

    fn build(&self, weights: &mut dyn WeightSource, _max_len: u32) -> Result<Box<dyn Model>> {
        const WORDS: &str = "embeddings.word_embeddings.weight";
        let prefixed = format!("{}.", self.prefix);
        let has_prefix = weights.contains(&format!("{prefixed}{WORDS}"));
        let prefix = if has_prefix { prefixed } else { String::new() };
        let (vocab, hidden) = (self.vocab_size as usize, self.hidden_size as usize);
        let words = weights.matrix(&format!("{prefix}{WORDS}"), [vocab, hidden])?;
        let positions = self.build_positions(weights, &prefix)?;
        let norm_name = format!("{prefix}embeddings.LayerNorm");
        let norm = layers::layer_norm(weights, &norm_name, hidden, self.norm_epsilon)?;
        let layers = (0..self.num_layers)
            .map(|index| self.build_layer(weights, &format!("{prefix}encoder.layer.{index}")))
            .collect::<Result<_>>()?;
        Ok(Box::new(Encoder { words, positions, offset: self.positions.offset, norm, layers }))
    }
}

impl EncoderConfig {
    /// The position table with the first token type added to every row: all tokens have that type.
    fn build_positions(&self, weights: &mut dyn WeightSource, prefix: &str) -> Result<Weight> {
        let hidden = self.hidden_size as usize;
        let (num_rows, num_types) = (self.positions.num_rows, self.positions.num_types);
        let mut read = |name: &str, rows: u32| {
            let name = format!("{prefix}embeddings.{name}_embeddings.weight");
            weights.numbers(&name, [rows as usize, hidden])
        };
        let mut positions = read("position", num_rows)?;
        let types = read("token_type", num_types)?;
        for row in positions.chunks_exact_mut(hidden) {
            for (sum, add) in row.iter_mut().zip(&types) {
                *sum += add;
            }
        }
        weights.computed(positions, [num_rows as usize, hidden])
    }

    fn build_layer(&self, weights: &mut dyn WeightSource, layer: &str) -> Result<Layer> {
        let (hidden, inner) = (self.hidden_size as usize, self.intermediate_size as usize);
        let name = |part: &str| format!("{layer}.{part}");
        let parts =
            ["query", "key", "value"].map(|part| (name(&format!("attention.self.{part}")), hidden));
        let qkv = layers::linears(weights, &parts, hidden, Bias::Present)?;
        let mut project =
            |part: &str, shape| layers::linear(weights, &name(part), shape, Bias::Present);
        let output = project("attention.output.dense", [hidden, hidden])?;
        let up = project("intermediate.dense", [inner, hidden])?;
        let up = Linear { activation: Some(self.activation), ..up };
        let down = project("output.dense", [hidden, inner])?;
        let mut norm =
            |part: &str| layers::layer_norm(weights, &name(part), hidden, self.norm_epsilon);
        Ok(Layer {
            qkv,
            heads: self.heads,
            output,
            attention_norm: norm("attention.output.LayerNorm")?,
            up,
            down,
            mlp_norm: norm("output.LayerNorm")?,
        })
    }
}

/// A loaded encoder.
#[derive(Debug)]
struct Encoder {
    words: Weight,
    positions: Weight,
    offset: u32,
    norm: Norm,
    layers: Vec<Layer>,
}

/// One layer of it.
#[derive(Debug)]
struct Layer {
    qkv: [Linear; 3],
    heads: Heads,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    mlp_norm: Norm,
}

impl Model for Encoder {
    fn forward(&self, ops: &mut dyn Ops) -> Tensor {
        let words = Lookup { table: self.words, index: LookupIndex::Token };
        let positions =
            Lookup { table: self.positions, index: LookupIndex::Position { offset: self.offset } };
        let sum = ops.embed(&[words, positions]);
        let mut residual = Residual { sum, normed: ops.norm(sum, self.norm) };
        for layer in &self.layers {
            residual = layer.forward(ops, residual);
        }
        residual.normed
    }

    fn logits(&self, _ops: &mut dyn Ops, hidden: Tensor) -> Tensor {
        hidden
    }
}

impl Layer {
    /// Attention and MLP, each added to the norm `[T, H]` before it and normalised. The sum that
    /// comes in is not read: its tensor takes the next norm.
    fn forward(&self, ops: &mut dyn Ops, residual: Residual) -> Residual {
        let mark = ops.arena().mark();
        let residual = residual.swapped();
        let mut qkv = [residual.sum; 3];
        ops.linears(residual.sum, &self.qkv, &mut qkv);
        let attended = ops.attention(qkv, self.heads);
        let delta = ops.linear(attended, self.output);
        ops.add_norm(delta, residual, self.attention_norm);
        ops.arena().rewind(mark);
        let residual = residual.swapped();
        let inner = ops.linear(residual.sum, self.up);
        let delta = ops.linear(inner, self.down);
        ops.add_norm(delta, residual, self.mlp_norm);
        ops.arena().rewind(mark);
        residual
    }
}
