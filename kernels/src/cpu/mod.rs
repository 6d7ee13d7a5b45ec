//! CPU kernels: matrix products, attention, norms and the small ops of a transformer.
//!
//! Invariants: every output element is summed in one fixed order, whatever the number of rows, the
//! chunking, the batch and the number of threads; work is divided over outputs only. Shapes are
//! asserted before any pointer is formed. Instruction sets are chosen once, in [`Pool`].
//!
//! `simd` is the vector trait with its four implementations; each kernel is written once over it.
#![allow(
    clippy::inline_always,
    reason = "a generic body must be inlined to get its caller's instruction set"
)]
#![allow(clippy::needless_range_loop, reason = "register tiles are indexed by row and column")]

mod activation;
mod attention;
mod kv_cache;
mod linear;
mod matrix;
mod norm;
mod output;
mod pool;
pub mod roofline;
mod rope;
mod rows;
mod simd;

pub use activation::{Activation, activation, activation_mul, add, add_assign};
pub use attention::{EncoderAttention, PagedAttention, encoder_attention, paged_attention};
pub use kv_cache::{KvCacheMut, KvCacheRef, KvLayout, copy_block, store_kv};
pub use linear::linear;
pub use matrix::{Matrix, MatrixError, WeightDtype};
pub use norm::{LayerNorm, RmsNorm, add_layer_norm, add_rms_norm, layer_norm, rms_norm};
pub use norm::{rms_norm_in_place, rms_norm_rows};
pub use pool::Pool;
pub use rope::{Rope, rope};
pub use rows::{embed, gather_rows, l2_normalize, mean_pool};
pub use simd::Isa;
