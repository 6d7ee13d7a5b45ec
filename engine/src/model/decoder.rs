//! The family of pre-norm decoders with rotary positions and a gated MLP: Llama and its kin.
//!
//! One forward pass serves all of them; what differs (biases, norms of queries and keys, windows,
//! tied heads) is in the weights that were taken. In the last layer only emitting rows go on after
//! attention, since nothing else reads the others.

use super::layers::{self, Bias};
use super::rope::RopeConfig;
use super::weights::WeightSource;
use super::{Blueprint, Model, PoolingConfig};
use crate::ops::{
    Activation, HeadNorms, HeadPreparation, Heads, Linear, Lookup, LookupIndex, Norm, Ops,
    PagedAttention, Residual, Rope, Tensor, Weight,
};
use crate::types::{Error, ModelKind, Result};

/// What a decoder's configuration describes.
#[derive(Clone, Debug)]
pub(crate) struct DecoderConfig {
    /// Entries of the vocabulary, V.
    pub(crate) vocab_size: u32,
    /// Width of hidden states, H.
    pub(crate) hidden_size: u32,
    /// Width inside the MLP.
    pub(crate) intermediate_size: u32,
    /// Longest sequence, in tokens.
    pub(crate) max_len: u32,
    /// Heads of every layer.
    pub(crate) heads: Heads,
    /// For each layer how far a token sees: itself and this many minus one before it, or all.
    pub(crate) windows: Vec<Option<u32>>,
    /// Rotary positions.
    pub(crate) rope: RopeConfig,
    /// Added to the mean square in every norm.
    pub(crate) norm_epsilon: f32,
    /// What differs between the members of the family.
    pub(crate) variant: Variant,
}

/// What differs between the members of the family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Biases of the query, key and value projections.
    pub(crate) qkv_bias: Bias,
    /// Bias of the projection after attention.
    pub(crate) output_bias: Bias,
    /// Biases of the MLP.
    pub(crate) mlp_bias: Bias,
    /// Whether each head of queries and keys is normalised before it is rotated.
    pub(crate) head_norm: HeadNorm,
    /// Where the output matrix comes from.
    pub(crate) output: OutputMatrix,
}

/// Whether each head of queries and keys is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadNorm {
    /// By root mean square over its D numbers.
    Rms,
    /// No.
    None,
}

/// Where the output matrix `[V, H]` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputMatrix {
    /// It is the embedding table.
    Tied,
    /// It has its own weights.
    Own,
}

impl Blueprint for DecoderConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Decoder
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
        self.max_len
    }

    fn num_layers(&self) -> u32 {
        self.windows.len() as u32
    }

    fn heads(&self) -> Heads {
        self.heads
    }

    fn pooling(&self) -> Option<PoolingConfig> {
        None
    }

    fn build(&self, weights: &mut dyn WeightSource, max_len: u32) -> Result<Box<dyn Model>> {
        let (vocab, hidden) = (self.vocab_size as usize, self.hidden_size as usize);
        let embedding = weights.matrix("model.embed_tokens.weight", [vocab, hidden])?;
        let head_size = self.heads.head_size;
        let mut table = |function: fn(f64) -> f64| {
            let num_positions = max_len as usize;
            let compute = || self.rope.table(head_size, num_positions, function);
            weights.computed_vector(num_positions * head_size / 2, &compute)
        };
        let rope = Rope { cosines: table(f64::cos)?, sines: table(f64::sin)? };
        let mut layers = Vec::with_capacity(self.windows.len());
        for (index, window) in self.windows.iter().enumerate() {
            let attention = PagedAttention { layer: index, heads: self.heads, window: *window };
            layers.push(self.build_layer(weights, attention)?);
        }
        Ok(Box::new(Decoder {
            embedding,
            layers,
            rope,
            norm: layers::rms_norm(weights, "model.norm", hidden, self.norm_epsilon)?,
            output: self.build_output(weights, embedding)?,
        }))
    }
}

impl DecoderConfig {
    fn build_layer(
        &self,
        weights: &mut dyn WeightSource,
        attention: PagedAttention,
    ) -> Result<Layer> {
        let layer = format!("model.layers.{}", attention.layer);
        let (hidden, inner) = (self.hidden_size as usize, self.intermediate_size as usize);
        let (heads, epsilon, variant) = (self.heads, self.norm_epsilon, self.variant);
        let name = |part: &str| format!("{layer}.{part}");
        let parts = [
            (name("self_attn.q_proj"), heads.query_cols()),
            (name("self_attn.k_proj"), heads.kv_cols()),
            (name("self_attn.v_proj"), heads.kv_cols()),
        ];
        let qkv = layers::linears(weights, &parts, hidden, variant.qkv_bias)?;
        let shape = [hidden, heads.query_cols()];
        let output =
            layers::linear(weights, &name("self_attn.o_proj"), shape, variant.output_bias)?;
        let parts = [(name("mlp.gate_proj"), inner), (name("mlp.up_proj"), inner)];
        let gate_up = layers::linears(weights, &parts, hidden, variant.mlp_bias)?;
        let shape = [hidden, inner];
        let down = layers::linear(weights, &name("mlp.down_proj"), shape, variant.mlp_bias)?;
        let head_norms = match variant.head_norm {
            HeadNorm::None => None,
            HeadNorm::Rms => Some(HeadNorms {
                queries: weights.vector(&name("self_attn.q_norm.weight"), heads.head_size)?,
                keys: weights.vector(&name("self_attn.k_norm.weight"), heads.head_size)?,
                epsilon,
            }),
        };
        let mut norm = |part: &str| layers::rms_norm(weights, &name(part), hidden, epsilon);
        Ok(Layer {
            attention_norm: norm("input_layernorm")?,
            qkv,
            head_norms,
            attention,
            output,
            mlp_norm: norm("post_attention_layernorm")?,
            gate_up,
            down,
        })
    }

    fn build_output(&self, weights: &mut dyn WeightSource, embedding: Weight) -> Result<Linear> {
        const NAME: &str = "lm_head.weight";
        let (vocab, hidden) = (self.vocab_size as usize, self.hidden_size as usize);
        let weight = match self.variant.output {
            OutputMatrix::Own => weights.matrix(NAME, [vocab, hidden])?,
            OutputMatrix::Tied => {
                let is_other =
                    weights.contains(NAME) && !weights.are_equal(NAME, "model.embed_tokens.weight");
                if is_other {
                    return Err(Error::Weight {
                        name: NAME.into(),
                        message: "tie_word_embeddings is true, but this differs from \
                                  model.embed_tokens.weight"
                            .into(),
                    });
                }
                embedding
            }
        };
        Ok(Linear { weight, bias: None, activation: None })
    }
}

/// A loaded decoder.
#[derive(Debug)]
struct Decoder {
    embedding: Weight,
    layers: Vec<Layer>,
    rope: Rope,
    norm: Norm,
    output: Linear,
}

/// One layer of it.
#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    qkv: [Linear; 3],
    head_norms: Option<HeadNorms>,
    attention: PagedAttention,
    output: Linear,
    mlp_norm: Norm,
    gate_up: [Linear; 2],
    down: Linear,
}

/// Who reads what a layer hands on.
#[derive(Clone, Copy)]
struct Next {
    /// Its norm.
    norm: Norm,
    /// The rows that it reads.
    rows: Rows,
}

/// Which rows a layer hands on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// All tokens, `[T, H]`.
    All,
    /// Those that emit, `[E, H]`: nothing reads the others after the last layer's attention.
    Emitting,
}

impl Model for Decoder {
    fn forward(&self, ops: &mut dyn Ops) -> Tensor {
        let sum = ops.embed(&[Lookup { table: self.embedding, index: LookupIndex::Token }]);
        let first = self.layers.first().map_or(self.norm, |layer| layer.attention_norm);
        let mut residual = Residual { sum, normed: ops.norm(sum, first) };
        for (index, layer) in self.layers.iter().enumerate() {
            let next = match self.layers.get(index + 1) {
                Some(next) => Next { norm: next.attention_norm, rows: Rows::All },
                None => Next { norm: self.norm, rows: Rows::Emitting },
            };
            residual = layer.forward(ops, residual, self.rope, next);
        }
        residual.normed
    }

    fn logits(&self, ops: &mut dyn Ops, hidden: Tensor) -> Tensor {
        ops.logits(hidden, self.output)
    }
}

impl Layer {
    /// Adds attention and MLP to the residual, or to its emitting rows, and returns those.
    fn forward(&self, ops: &mut dyn Ops, residual: Residual, rope: Rope, next: Next) -> Residual {
        let emitting = match next.rows {
            Rows::All => None,
            Rows::Emitting => Some(ops.gather_outputs(residual.sum)),
        };
        let mark = ops.arena().mark();
        let attended = self.attend(ops, residual.normed, rope);
        let (residual, attended) = match emitting {
            None => (residual, attended),
            Some(sum) => {
                let normed = residual.normed.first_rows(sum.rows());
                (Residual { sum, normed }, ops.gather_outputs(attended))
            }
        };
        let delta = ops.linear(attended, self.output);
        ops.add_norm(delta, residual, self.mlp_norm);
        ops.arena().rewind(mark);
        let mut gate_up = [residual.normed; 2];
        ops.linears(residual.normed, &self.gate_up, &mut gate_up);
        let [gate, up] = gate_up;
        let inner = ops.activate_mul(gate, up, Activation::Silu);
        let delta = ops.linear(inner, self.down);
        ops.add_norm(delta, residual, next.norm);
        ops.arena().rewind(mark);
        residual
    }

    /// What the heads read from the context: `[T, N * D]`.
    fn attend(&self, ops: &mut dyn Ops, normed: Tensor, rope: Rope) -> Tensor {
        let PagedAttention { layer, heads, .. } = self.attention;
        let mut qkv = [normed; 3];
        ops.linears(normed, &self.qkv, &mut qkv);
        ops.prepare_heads(qkv, HeadPreparation { layer, heads, norms: self.head_norms, rope });
        ops.paged_attention(qkv[0], self.attention)
    }
}
