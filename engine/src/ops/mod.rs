//! The seam between models and devices: about a dozen operations on handles.
//!
//! Dimension letters, the same in every doc comment: T tokens in the step, S sequences, E emitting
//! rows, B blocks, P block size, H hidden, N query heads, K key/value heads, D head size,
//! V vocabulary. Activations are f32 [`Tensor`]s in the step arena; [`Weight`]s keep the format of
//! their checkpoint. Models see [`Ops`]; who sets up a step sees [`Device`].

mod batch;
#[cfg(test)]
mod conformance;
mod cpu;
mod dry;
mod host;
mod tensor;

pub use folio_kernels::cpu::Activation;

pub use batch::Batch;
pub use cpu::CpuDevice;
pub use dry::DryOps;
pub use host::{Dtype, HostBytes, HostTensor};
pub use tensor::{Arena, Mark, Tensor, Weight};

use crate::types::{BlockCopy, Result};

/// What a model may do. All of it refers to the batch that [`Device::begin`] made known.
pub trait Ops: std::fmt::Debug {
    /// Where results are allocated; models mark and rewind it.
    fn arena(&mut self) -> &mut Arena;

    /// The sum over `lookups` of one row of each table for every token: `[T, H]`.
    fn embed(&mut self, lookups: &[Lookup]) -> Tensor;

    /// `input` `[R, in]` times the transpose of the weight `[out, in]`, plus the bias: `[R, out]`.
    fn linear(&mut self, input: Tensor, linear: Linear) -> Tensor;

    /// Like [`linear`](Self::linear), added to `onto` `[R, out]` in place.
    fn linear_add(&mut self, input: Tensor, linear: Linear, onto: Tensor);

    /// Each row of `input` normalised and scaled: same shape.
    fn norm(&mut self, input: Tensor, norm: Norm) -> Tensor;

    /// Like [`norm`](Self::norm), in place.
    fn norm_in_place(&mut self, tensor: Tensor, norm: Norm);

    /// Rotates each head of `heads` `[T, any * D]` by its token's position, in place. The first
    /// half of a head is paired with its second half.
    fn rope(&mut self, heads: Tensor, rope: Rope);

    /// `activation(input)`, times `factor` of the same shape where there is one: same shape.
    fn activate(&mut self, input: Tensor, activation: Activation, factor: Option<Tensor>)
    -> Tensor;

    /// Stores keys and values `[T, K * D]` into the slots of the batch.
    fn store_kv(&mut self, layer: usize, keys: Tensor, values: Tensor);

    /// Causal attention of `queries` `[T, N * D]` over the stored context of their sequences,
    /// tokens of this step included: `[T, N * D]`.
    fn paged_attention(&mut self, queries: Tensor, attention: PagedAttention) -> Tensor;

    /// Attention of all tokens of a sequence on all of them. `queries`, `keys` and `values` are
    /// `[T, N * D]`, and so is the result.
    fn attention(&mut self, qkv: [Tensor; 3], heads: Heads) -> Tensor;

    /// The output rows of the batch: `[E, cols]`.
    fn gather_outputs(&mut self, input: Tensor) -> Tensor;
}

/// A device as it looks to those who load weights and run steps.
pub trait Device: Ops {
    /// Takes over a matrix in its own number format.
    fn load_matrix(&mut self, tensor: HostTensor) -> Result<Weight>;

    /// Takes over a vector: a bias, a scale, or a table of sines.
    fn load_vector(&mut self, numbers: Vec<f32>) -> Result<Weight>;

    /// Allocates the step arena of `num_floats` and, for a decoder, the KV cache.
    fn reserve(&mut self, num_floats: usize, kv: Option<KvShape>) -> Result<()>;

    /// Starts a step: the arena is empty, and operations refer to `batch`.
    fn begin(&mut self, batch: &Batch);

    /// Copies all layers of KV blocks, in order.
    fn copy_blocks(&mut self, copies: &[BlockCopy]);

    /// The numbers of a tensor in host memory, to be read and overwritten there.
    fn read(&mut self, tensor: Tensor) -> &mut [f32];
}

/// One table that takes part in an embedding.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// The table, `[entries, H]`.
    pub table: Weight,
    /// Which entry a token takes.
    pub index: LookupIndex,
}

/// Which entry of a table a token takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupIndex {
    /// Its id.
    Token,
    /// Its position, plus a constant.
    Position {
        /// The constant.
        offset: u32,
    },
}

/// A projection.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
}

/// A normalisation of rows.
#[derive(Clone, Copy, Debug)]
pub enum Norm {
    /// Divided by the root of the mean square.
    Rms {
        /// Scale, `[cols]`.
        scale: Weight,
        /// Added to the mean square.
        epsilon: f32,
    },
    /// Shifted to mean zero and divided by the standard deviation.
    Layer {
        /// Scale, `[cols]`.
        scale: Weight,
        /// Added last, `[cols]`.
        bias: Weight,
        /// Added to the variance.
        epsilon: f32,
    },
}

/// Rotary embedding: tables of every position, vectors of `[positions, D / 2]`.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Cosines.
    pub cosines: Weight,
    /// Sines.
    pub sines: Weight,
    /// Numbers in a head, D.
    pub head_size: usize,
}

/// How a row is cut into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, N.
    pub num_heads: usize,
    /// Key/value heads, K; divides N.
    pub num_kv_heads: usize,
    /// Numbers in a head, D.
    pub head_size: usize,
}

impl Heads {
    /// Width of queries, N * D.
    #[must_use]
    pub fn query_cols(self) -> usize {
        self.num_heads * self.head_size
    }

    /// Width of keys and of values, K * D.
    #[must_use]
    pub fn kv_cols(self) -> usize {
        self.num_kv_heads * self.head_size
    }

    /// What scores are multiplied with: 1 / sqrt(D).
    #[must_use]
    pub fn scale(self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }
}

/// Parameters of attention over the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagedAttention {
    /// Layer whose cache is read.
    pub layer: usize,
    /// Shape of queries and cache.
    pub heads: Heads,
    /// A token sees itself and this many minus one before it; `None`: all.
    pub window: Option<u32>,
}

/// Shape of a decoder's KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers, each with its own keys and values.
    pub num_layers: usize,
    /// Key/value heads, K.
    pub num_kv_heads: usize,
    /// Numbers in a head, D.
    pub head_size: usize,
    /// Tokens in a block, P.
    pub block_size: usize,
    /// Blocks in the pool, B, the scratch block 0 included.
    pub num_blocks: usize,
}

impl KvShape {
    /// Floats that one block takes over all layers, keys and values.
    #[must_use]
    pub fn floats_per_block(self) -> usize {
        2 * self.num_layers * self.num_kv_heads * self.head_size * self.block_size
    }
}
