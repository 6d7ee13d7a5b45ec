//! The scheduler: which sequence computes which positions, and which blocks hold them.
//!
//! There is no prefill phase and no decode phase: `num_computed` chases the known tokens under
//! one token budget a step. The core owns blocks, queues and budgets; a [`Policy`] only proposes.
//! No tensors, no I/O, no clock in here: the same code serves and simulates.

mod allocator;
mod block;
mod policy;
mod sequence;

pub use allocator::{BlockAllocator, OutOfBlocks};
pub use block::BlockTable;
pub use sequence::{RequestInfo, Sequence, Sequences, TokenCounts};
