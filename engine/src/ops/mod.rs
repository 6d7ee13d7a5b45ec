//! The seam between models and devices: a dozen operations on handles.
//!
//! Dimension letters, the same in every doc comment: T tokens in the step, S sequences, E emitting
//! rows, B blocks, P block size, H hidden, N query heads, K key/value heads, D head size,
//! V vocabulary. Operations are as large as a GPU can do at once, so that a decoder layer is nine
//! of them. Activations are [`Tensor`]s in the step arena, in the format of the device; [`Weight`]s
//! lie where it put them. Models see [`Ops`]; who sets up a step sees [`Device`].

mod batch;
#[cfg(test)]
mod conformance;
mod cpu;
pub(crate) mod cuda;
mod dry;
mod host;
mod made_up;
mod tensor;

pub use folio_kernels::cpu::Activation;

pub use batch::Batch;
pub use cpu::CpuDevice;
pub use cuda::{CudaDevice, CudaOptions, Determinism, Graphs};
pub(crate) use cuda::{Pages, RowTokens, StepUpload, UploadRow, failure};
pub use dry::DryOps;
pub use host::{Dtype, HostBytes, HostTensor};
pub use made_up::MadeUp;
pub use tensor::{ActivationLayout, Arena, Mark, Stacking, Tensor, Weight};

use crate::types::{BlockCopy, Result};

/// What a model may do. All of it refers to the batch that [`Device::begin`] made known.
///
/// Nothing here can fail in a way that a model could handle: a device remembers its first failure,
/// and [`Device::check`] and [`Device::read`] tell it.
pub trait Ops: std::fmt::Debug {
    /// Where results are allocated; models mark and rewind it.
    fn arena(&mut self) -> &mut Arena;

    /// The sum over `lookups` of one row of each table for every token: `[T, H]`.
    fn embed(&mut self, lookups: &[Lookup]) -> Tensor;

    /// `input` `[R, in]` times the transpose of the weight `[out, in]`, plus the bias, through the
    /// activation: `[R, out]`.
    fn linear(&mut self, input: Tensor, linear: Linear) -> Tensor;

    /// Several projections of one input `[R, in]`, each into its place in `outputs`: `[R, out]`.
    ///
    /// They have no activation. Where their weights were loaded together, a device may multiply
    /// once; the outputs are then columns of one matrix.
    fn linears(&mut self, input: Tensor, linears: &[Linear], outputs: &mut [Tensor]);

    /// Like [`linear`](Self::linear), in single precision on every device: what is sampled from,
    /// `[R, V]`.
    fn logits(&mut self, input: Tensor, linear: Linear) -> Tensor;

    /// Each row of `input` normalised and scaled: same shape.
    fn norm(&mut self, input: Tensor, norm: Norm) -> Tensor;

    /// Adds `delta` to the sum of `residual` in place, in the format of activations, and puts the
    /// norm of that into its other tensor. All are `[R, H]`.
    fn add_norm(&mut self, delta: Tensor, residual: Residual, norm: Norm);

    /// Makes queries `[T, N * D]`, keys and values `[T, K * D]` ready for attention: heads of
    /// queries and keys are normalised where there are norms and rotated by their token's position,
    /// queries in place, keys and values into the KV cache at the slots of the batch. What keys and
    /// values hold afterwards is undefined.
    fn prepare_heads(&mut self, qkv: [Tensor; 3], preparation: HeadPreparation);

    /// `activation(gate) * up`, element by element: same shape.
    fn activate_mul(&mut self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor;

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
    /// Takes over matrices. Those of one call have equally many columns and are put one after the
    /// other where the device can make something of it.
    fn load_matrices(&mut self, parts: Vec<HostTensor>) -> Result<Vec<Weight>>;

    /// Takes over what projections add to their outputs, those of one call one after the other.
    fn load_biases(&mut self, parts: Vec<HostTensor>) -> Result<Vec<Weight>>;

    /// Takes over a vector that is kept in single precision: a scale, or a table of sines.
    fn load_vector(&mut self, numbers: Vec<f32>) -> Result<Weight>;

    /// Makes up matrices of `cols` columns, one for each number of rows, as if they were loaded
    /// together.
    fn make_up(&mut self, rows: &[usize], cols: usize, numbers: MadeUp) -> Result<Vec<Weight>>;

    /// Allocates all memory of steps, after the weights were loaded.
    fn reserve(&mut self, capacity: Reserve) -> Result<()>;

    /// Starts a step: the arena is empty, and operations refer to `batch`.
    fn begin(&mut self, batch: &Batch);

    /// Copies all layers of KV blocks, in order.
    fn copy_blocks(&mut self, copies: &[BlockCopy]);

    /// The numbers of a tensor in host memory, dense, to be read and overwritten there; or what
    /// went wrong on the way to them.
    fn read(&mut self, tensor: Tensor) -> Result<&mut [f32]>;

    /// The first failure since the device was made, if any. It cannot compute from there on.
    fn check(&self) -> Result<()>;
}

/// What steps will need of a device at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes of the step arena.
    pub arena_bytes: usize,
    /// The decoder's KV cache, if there is a decoder.
    pub kv: Option<KvShape>,
    /// Tokens in a step, T.
    pub max_num_tokens: usize,
    /// Sequences of one model in a step, S.
    pub max_num_seqs: usize,
    /// Tokens of a sequence.
    pub max_model_len: usize,
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
    /// Applied last.
    pub activation: Option<Activation>,
}

/// The running sum of a model's layers, and what the next of them reads.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// The sum, `[R, H]`.
    pub sum: Tensor,
    /// Its norm, `[R, H]`.
    pub normed: Tensor,
}

impl Residual {
    /// The same tensors in each other's place: for layers that go on from the norm.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self { sum: self.normed, normed: self.sum }
    }
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

/// What is done to heads before attention.
#[derive(Clone, Copy, Debug)]
pub struct HeadPreparation {
    /// Layer whose cache is written.
    pub layer: usize,
    /// Shape of queries, keys and values.
    pub heads: Heads,
    /// How heads of queries and keys are normalised.
    pub norms: Option<HeadNorms>,
    /// How they are rotated.
    pub rope: Rope,
}

/// Root-mean-square norms over the D numbers of each head.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms {
    /// Scale of query heads, `[D]`.
    pub queries: Weight,
    /// Scale of key heads, `[D]`.
    pub keys: Weight,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Rotary embedding: tables of every position, vectors of `[positions, D / 2]`. The first half of a
/// head is paired with its second half.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Cosines.
    pub cosines: Weight,
    /// Sines.
    pub sines: Weight,
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
    /// Numbers that one block takes over all layers, keys and values.
    #[must_use]
    pub fn numbers_per_block(self) -> usize {
        2 * self.num_layers * self.num_kv_heads * self.head_size * self.block_size
    }
}
