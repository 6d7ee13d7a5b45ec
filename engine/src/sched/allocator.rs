//! placeholder

/// Identity of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeId(u128);
/// a
#[derive(Debug)]
pub struct BlockAllocator;
/// a
#[derive(Debug)]
pub struct OutOfBlocks;
