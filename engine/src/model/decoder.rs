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
    Activation, Heads, Linear, Lookup, LookupIndex, Norm, Ops, PagedAttention, Rope, Tensor, Weight,
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
        let rope = Rope { cosines: table(f64::cos)?, sines: table(f64::sin)?, head_size };
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
        let mut project = |name: &str, shape, bias| {
            layers::linear(weights, &format!("{layer}.{name}_proj"), shape, bias)
        };
        let query = project("self_attn.q", [heads.query_cols(), hidden], variant.qkv_bias)?;
        let key = project("self_attn.k", [heads.kv_cols(), hidden], variant.qkv_bias)?;
        let value = project("self_attn.v", [heads.kv_cols(), hidden], variant.qkv_bias)?;
        let output = project("self_attn.o", [hidden, heads.query_cols()], variant.output_bias)?;
        let gate = project("mlp.gate", [inner, hidden], variant.mlp_bias)?;
        let up = project("mlp.up", [inner, hidden], variant.mlp_bias)?;
        let down = project("mlp.down", [hidden, inner], variant.mlp_bias)?;
        let mut norm =
            |name: &str, cols| layers::rms_norm(weights, &format!("{layer}.{name}"), cols, epsilon);
        let head_norms = match variant.head_norm {
            HeadNorm::None => None,
            HeadNorm::Rms => Some([
                norm("self_attn.q_norm", heads.head_size)?,
                norm("self_attn.k_norm", heads.head_size)?,
            ]),
        };
        Ok(Layer {
            attention_norm: norm("input_layernorm", hidden)?,
            qkv: [query, key, value],
            head_norms,
            attention,
            output,
            mlp_norm: norm("post_attention_layernorm", hidden)?,
            gate_up: [gate, up],
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
        Ok(Linear { weight, bias: None })
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
    head_norms: Option<[Norm; 2]>,
    attention: PagedAttention,
    output: Linear,
    mlp_norm: Norm,
    gate_up: [Linear; 2],
    down: Linear,
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
        let mut hidden = ops.embed(&[Lookup { table: self.embedding, index: LookupIndex::Token }]);
        for (index, layer) in self.layers.iter().enumerate() {
            let is_last = index + 1 == self.layers.len();
            let rows = if is_last { Rows::Emitting } else { Rows::All };
            hidden = layer.forward(ops, hidden, self.rope, rows);
        }
        let normed = ops.norm(hidden, self.norm);
        ops.linear(normed, self.output)
    }
}

impl Layer {
    /// Adds attention and MLP to `hidden` and returns it, or its emitting rows.
    fn forward(&self, ops: &mut dyn Ops, hidden: Tensor, rope: Rope, rows: Rows) -> Tensor {
        let emitting = match rows {
            Rows::All => None,
            Rows::Emitting => Some(ops.gather_outputs(hidden)),
        };
        let mark = ops.arena().mark();
        let attended = self.attend(ops, hidden, rope);
        let (hidden, attended) = match emitting {
            None => (hidden, attended),
            Some(emitting) => (emitting, ops.gather_outputs(attended)),
        };
        ops.linear_add(attended, self.output, hidden);
        ops.arena().rewind(mark);
        self.add_mlp(ops, hidden);
        ops.arena().rewind(mark);
        hidden
    }

    /// What the heads read from the context: `[T, N * D]`.
    fn attend(&self, ops: &mut dyn Ops, hidden: Tensor, rope: Rope) -> Tensor {
        let normed = ops.norm(hidden, self.attention_norm);
        let [queries, keys, values] = self.qkv.map(|linear| ops.linear(normed, linear));
        if let Some([query_norm, key_norm]) = self.head_norms {
            let head_size = self.attention.heads.head_size;
            ops.norm_in_place(queries.with_cols(head_size), query_norm);
            ops.norm_in_place(keys.with_cols(head_size), key_norm);
        }
        ops.rope(queries, rope);
        ops.rope(keys, rope);
        ops.store_kv(self.attention.layer, keys, values);
        ops.paged_attention(queries, self.attention)
    }

    fn add_mlp(&self, ops: &mut dyn Ops, hidden: Tensor) {
        let normed = ops.norm(hidden, self.mlp_norm);
        let [gate, up] = self.gate_up.map(|linear| ops.linear(normed, linear));
        let inner = ops.activate(gate, Activation::Silu, Some(up));
        ops.linear_add(inner, self.down, hidden);
    }
}
