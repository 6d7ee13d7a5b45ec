//! Models: what their files say, their weights, and their forward pass over [`Ops`].
//!
//! A model names no device and allocates nothing: it calls operations on handles. Everything that
//! is not implemented is refused from the configuration, before a weight is read. An architecture
//! is one file in `architectures` and one row in its table.

mod architectures;
mod config;
mod decoder;
mod dummy;
mod encoder;
mod fields;
mod files;
mod layers;
mod rope;
mod score_head;
mod sentence;
mod weights;

pub use config::ModelConfig;
pub use files::{Embedded, ModelFiles};
pub use score_head::{ScoreActivation, ScoreHead};
pub use sentence::{Normalization, Pooling, PoolingConfig};
pub use weights::{Checkpoint, WeightSource};

use crate::ops::{Heads, Ops, Tensor};
use crate::types::{ModelKind, Result};

/// A loaded model: handles to its weights, and how to compute with them.
pub trait Model: std::fmt::Debug + Send {
    /// Computes the batch that the device knows.
    ///
    /// A decoder stores keys and values of all tokens and returns the hidden states of the output
    /// rows, `[E, H]`; an encoder returns those of all tokens, `[T, H]`.
    fn forward(&self, ops: &mut dyn Ops) -> Tensor;

    /// The logits `[R, V]` of some of the rows `[R, H]` that a decoder's forward pass returned.
    /// Other models have none and return the rows.
    fn logits(&self, ops: &mut dyn Ops, hidden: Tensor) -> Tensor;

    /// What makes a score of a cross-encoder's vectors; `None` for other models.
    fn score_head(&self) -> Option<&ScoreHead> {
        None
    }

    /// What is added to the ids of tokens of the second type, where the model tells types apart.
    fn second_type_offset(&self) -> Option<u32> {
        None
    }
}

/// What a configuration describes: enough to plan memory and to take the right weights.
pub trait Blueprint: std::fmt::Debug + Send + Sync {
    /// Decoder or encoder.
    fn kind(&self) -> ModelKind;

    /// Entries of the vocabulary, V.
    fn vocab_size(&self) -> u32;

    /// Width of hidden states, H; for an encoder also of its embeddings.
    fn hidden_size(&self) -> u32;

    /// Width inside the MLP.
    fn intermediate_size(&self) -> u32;

    /// Longest sequence that its positions allow, in tokens.
    fn max_len(&self) -> u32;

    /// Number of layers.
    fn num_layers(&self) -> u32;

    /// Heads of each layer.
    fn heads(&self) -> Heads;

    /// How hidden states become a vector; `None` for a decoder.
    fn pooling(&self) -> Option<PoolingConfig>;

    /// Takes the weights of a model that computes up to `max_len` positions.
    fn build(&self, weights: &mut dyn WeightSource, max_len: u32) -> Result<Box<dyn Model>>;
}
