//! From the rows of a step, as the host packs them into one upload, to the flat arrays of its
//! tokens.

use super::context::{Context, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::{PrepareStepParams, StepRow};

impl StepRow {
    /// Number of `i32` words that a row takes in the upload.
    pub const NUM_WORDS: usize = 8;

    /// The row as it is uploaded.
    #[must_use]
    pub fn words(self) -> [i32; Self::NUM_WORDS] {
        [
            self.slot,
            self.first_token,
            self.num_tokens,
            self.start,
            self.token_offset,
            self.block_offset,
            self.num_new_blocks,
            self.first_new_block,
        ]
    }
}

/// The arrays that [`prepare_step`] writes, all of `i32`.
#[derive(Clone, Copy, Debug)]
pub struct StepArrays {
    /// Tokens to compute, `[T]`.
    pub token_ids: DevicePtr,
    /// Position of each token in its sequence, `[T]`.
    pub positions: DevicePtr,
    /// KV slot of each token, block * P + offset, `[T]`. Left alone without block tables.
    pub slot_mapping: DevicePtr,
    /// Where each row's tokens start, and the end: `[S + 1]`.
    pub cu_seqlens: DevicePtr,
    /// Tokens of each row's sequence after this step, `[S]`.
    pub seq_lens: DevicePtr,
    /// Slot of each row, `[S]`.
    pub row_slots: DevicePtr,
}

/// Block tables of all slots.
#[derive(Clone, Copy, Debug)]
pub struct BlockTables {
    /// Block ids, `i32`, `[slots, max_blocks]`, dense. Entries without a block are not read.
    pub blocks: View,
    /// Positions of a block, P: a power of two.
    pub block_size: usize,
}

/// What [`prepare_step`] works on.
#[derive(Clone, Copy, Debug)]
pub struct PrepareStep {
    /// The rows, [`StepRow`]s, `[S]`.
    pub rows: DevicePtr,
    /// Number of rows, S: padding rows of a graph included.
    pub num_rows: usize,
    /// What `token_offset` and `block_offset` of a row count from, in `i32` words.
    pub upload: DevicePtr,
    /// The token that was sampled last in each slot, `i32`, `[slots]`.
    pub last_tokens: DevicePtr,
    /// Where new block ids go and KV slots are looked up; `None` where nothing is cached.
    pub block_tables: Option<BlockTables>,
    /// What is written.
    pub arrays: StepArrays,
}

/// Expands the rows of a step: each row's new block ids enter its block table, and each token gets
/// its id, its position and its KV slot. A position beyond the block table gets a slot of the
/// scratch block 0.
///
/// What rows say of sizes is read on the device, so a captured launch serves every step of as many
/// rows.
pub fn prepare_step(context: &Context, args: PrepareStep) -> Result<()> {
    let (block_tables, max_blocks, block_size) = match args.block_tables {
        Some(BlockTables { blocks, block_size }) => {
            assert!(blocks.is_dense(), "prepare_step: block tables with stride {}", blocks.stride);
            (blocks.ptr, blocks.cols, block_size)
        }
        None => (DevicePtr::NULL, 0, 1),
    };
    assert!(
        block_size.is_power_of_two(),
        "prepare_step: block size {block_size} is not a power of two"
    );
    let params = PrepareStepParams {
        rows: args.rows.as_ptr(),
        upload: args.upload.as_ptr(),
        last_tokens: args.last_tokens.as_ptr(),
        block_tables: block_tables.as_mut_ptr(),
        token_ids: args.arrays.token_ids.as_mut_ptr(),
        positions: args.arrays.positions.as_mut_ptr(),
        slot_mapping: args.arrays.slot_mapping.as_mut_ptr(),
        cu_seqlens: args.arrays.cu_seqlens.as_mut_ptr(),
        seq_lens: args.arrays.seq_lens.as_mut_ptr(),
        row_slots: args.arrays.row_slots.as_mut_ptr(),
        max_blocks: max_blocks as i32,
        block_shift: block_size.trailing_zeros() as i32,
    };
    let launch = Launch { grid: [args.num_rows, 1, 1], num_threads: 128, shared_bytes: 0 };
    // SAFETY: the arrays are as long as the caller says; rows stay within them, the host made both.
    unsafe { context.launch(context.kernel("prepare_step")?, launch, &params) }
}
