//! A sequence's blocks, in position order.

use super::kv_events::ContentId;
use crate::types::BlockId;

/// Maps positions to blocks: position `p` lies in `blocks()[p / P]` at offset `p % P`.
///
/// Only a [`BlockAllocator`](super::BlockAllocator) changes it; a table that is dropped while it
/// holds blocks would leak them, so `release` empties it first.
#[derive(Debug, Default)]
pub struct BlockTable {
    pub(super) blocks: Vec<BlockId>,
    /// For each leading block that was matched or published: the identity of its content.
    pub(super) nodes: Vec<ContentId>,
}

impl BlockTable {
    /// The blocks in position order.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Number of blocks held.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Whether no block is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
