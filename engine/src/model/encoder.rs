//! The family of post-norm encoders with learned positions: BERT and XLM-RoBERTa.
//!
//! They differ in names and in where positions start. Each text is computed whole, without a KV
//! cache; pooling happens on the hidden states that come out here.

use super::layers::{self, Bias};
use super::score_head::{ScoreHead, ScoreHeadConfig};
use super::sentence::{Normalization, Pooling, PoolingConfig};
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
    /// What becomes of hidden states.
    pub(crate) output: EncoderOutput,
    /// What checkpoints with a head put before every name: `bert` or `roberta`.
    pub(crate) prefix: &'static str,
}

/// What becomes of an encoder's hidden states.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EncoderOutput {
    /// One vector a text.
    Vector(PoolingConfig),
    /// One score a pair, from its first token.
    Score(ScoreHeadConfig),
}

/// Learned positions of an encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// Rows of the position table.
    pub(crate) num_rows: u32,
    /// Row of the first token.
    pub(crate) offset: u32,
    /// Rows of the table of token types, of which cross-encoders use two, others the first.
    pub(crate) num_types: u32,
    /// Longest text, in tokens: what the table holds, or less when the model's files say so.
    pub(crate) max_len: u32,
}

impl Blueprint for EncoderConfig {
    fn kind(&self) -> ModelKind {
        match self.output {
            EncoderOutput::Vector(_) => ModelKind::Encoder,
            EncoderOutput::Score(_) => ModelKind::CrossEncoder,
        }
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
        Some(match self.output {
            EncoderOutput::Vector(pooling) => pooling,
            EncoderOutput::Score(_) => {
                PoolingConfig { pooling: Pooling::Cls, normalization: Normalization::None }
            }
        })
    }

    fn build(&self, weights: &mut dyn WeightSource, _max_len: u32) -> Result<Box<dyn Model>> {
        const WORDS: &str = "embeddings.word_embeddings.weight";
        let prefixed = format!("{}.", self.prefix);
        let has_prefix = weights.contains(&format!("{prefixed}{WORDS}"));
        let prefix = if has_prefix { prefixed } else { String::new() };
        let (vocab, hidden) = (self.vocab_size as usize, self.hidden_size as usize);
        let words_name = format!("{prefix}{WORDS}");
        let (words, positions) = match self.types() {
            Types::One => {
                let words = weights.matrix(&words_name, [vocab, hidden])?;
                (words, self.build_positions(weights, &prefix)?)
            }
            Types::Two => self.build_typed(weights, &prefix, &words_name)?,
        };
        let norm_name = format!("{prefix}embeddings.LayerNorm");
        let norm = layers::layer_norm(weights, &norm_name, hidden, self.norm_epsilon)?;
        let layers = (0..self.num_layers)
            .map(|index| self.build_layer(weights, &format!("{prefix}encoder.layer.{index}")))
            .collect::<Result<_>>()?;
        let head = match self.output {
            EncoderOutput::Vector(_) => None,
            EncoderOutput::Score(head) => Some(ScoreHead::build(weights, &prefix, hidden, head)?),
        };
        let second_type_offset = (self.types() == Types::Two).then_some(self.vocab_size);
        let offset = self.positions.offset;
        Ok(Box::new(Encoder { words, positions, offset, norm, layers, head, second_type_offset }))
    }
}

/// Types of tokens that a model tells apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    One,
    Two,
}

impl EncoderConfig {
    fn types(&self) -> Types {
        match self.output {
            EncoderOutput::Score(_) if self.positions.num_types > 1 => Types::Two,
            _ => Types::One,
        }
    }

    /// Tables of words and positions for two types of tokens: each word is there twice, with the
    /// first type added and, V rows further, with the second. So a token's type is in its id.
    fn build_typed(
        &self,
        weights: &mut dyn WeightSource,
        prefix: &str,
        words: &str,
    ) -> Result<(Weight, Weight)> {
        let (vocab, hidden) = (self.vocab_size as usize, self.hidden_size as usize);
        let table = |name: &str| format!("{prefix}embeddings.{name}_embeddings.weight");
        let words = weights.numbers(words, &[vocab, hidden])?;
        let num_types = self.positions.num_types as usize;
        let types = weights.numbers(&table("token_type"), &[num_types, hidden])?;
        let mut typed = Vec::with_capacity(2 * words.len());
        for one_type in types.chunks_exact(hidden).take(2) {
            for word in words.chunks_exact(hidden) {
                typed.extend(word.iter().zip(one_type).map(|(word, add)| word + add));
            }
        }
        let typed = weights.computed(typed, [2 * vocab, hidden])?;
        let num_rows = self.positions.num_rows as usize;
        Ok((typed, weights.matrix(&table("position"), [num_rows, hidden])?))
    }

    /// The position table with the first token type added to every row: all tokens have that type.
    fn build_positions(&self, weights: &mut dyn WeightSource, prefix: &str) -> Result<Weight> {
        let hidden = self.hidden_size as usize;
        let (num_rows, num_types) = (self.positions.num_rows, self.positions.num_types);
        let mut read = |name: &str, rows: u32| {
            let name = format!("{prefix}embeddings.{name}_embeddings.weight");
            weights.numbers(&name, &[rows as usize, hidden])
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
    head: Option<ScoreHead>,
    second_type_offset: Option<u32>,
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

    fn score_head(&self) -> Option<&ScoreHead> {
        self.head.as_ref()
    }

    fn second_type_offset(&self) -> Option<u32> {
        self.second_type_offset
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
