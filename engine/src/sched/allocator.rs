//! Who holds which KV block, which blocks are free, and which contents can be found again.
//!
//! Invariants, asserted here: a block's reference count is the number of tables that hold it;
//! free + held = all; only full, computed blocks are in the prefix index; a match never covers
//! the last known token.

use std::ops::Range;

use super::BlockTable;
use super::kv_events::{ContentId, KvEvent, KvRecorder};
use super::prefix::{Parent, PrefixIndex};
use crate::types::{BlockCopy, BlockId, CacheSalt, PrefixCaching, TokenId};

/// The pool has too few blocks that nobody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBlocks {
    /// Blocks missing.
    pub short: u32,
}

/// Totals since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounters {
    /// Tokens looked up.
    pub num_queried_tokens: u64,
    /// Tokens found.
    pub num_hit_tokens: u64,
    /// Cached blocks given up for new content.
    pub num_evictions: u64,
}

/// Hands out the blocks of one KV pool. Growing, matching and releasing cost O(blocks touched);
/// the list of free blocks is threaded through the block array.
#[derive(Debug)]
pub struct BlockAllocator {
    block_size: u32,
    caching: PrefixCaching,
    blocks: Vec<Block>,
    free: FreeList,
    index: PrefixIndex,
    counters: PrefixCounters,
    recorder: KvRecorder,
}

/// Neighbours are those in the list of free blocks; the scratch block, which is never in it, stands
/// for none.
#[derive(Clone, Debug)]
struct Block {
    ref_count: u32,
    previous: BlockId,
    next: BlockId,
    /// Whether the index has its content.
    is_cached: bool,
}

/// No block.
const NONE: BlockId = BlockId(0);

/// Free blocks, next victim first: blocks without cached content, then the least recently used.
#[derive(Debug)]
struct FreeList {
    first: BlockId,
    last: BlockId,
    len: u32,
}

impl BlockAllocator {
    /// A pool of `num_blocks` blocks of `block_size` tokens; block 0 is scratch and stays out.
    #[must_use]
    pub fn new(num_blocks: u32, block_size: u32, caching: PrefixCaching) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let num_indexed = if caching == PrefixCaching::On { num_blocks } else { 0 };
        let mut allocator = Self {
            block_size,
            caching,
            blocks: Vec::new(),
            free: FreeList { first: NONE, last: NONE, len: 0 },
            index: PrefixIndex::new(num_indexed, block_size),
            counters: PrefixCounters::default(),
            recorder: KvRecorder::default(),
        };
        allocator.free_all(num_blocks);
        allocator
    }

    /// Forgets every table and every cached content, and records so: the memory behind the pool is
    /// another now. Totals go on.
    pub fn clear(&mut self) {
        self.recorder.cleared();
        self.index.clear();
        self.free_all(self.blocks.len() as u32);
    }

    /// Nobody holds any of `num_blocks` blocks.
    fn free_all(&mut self, num_blocks: u32) {
        let block = Block { ref_count: 0, previous: NONE, next: NONE, is_cached: false };
        self.blocks = vec![block; num_blocks as usize];
        self.free = FreeList { first: NONE, last: NONE, len: 0 };
        for id in (1..num_blocks).map(BlockId) {
            self.push_free(id);
        }
    }

    /// Tokens in a block, P.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Blocks that can be handed out in all.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        (self.blocks.len() as u32).saturating_sub(1)
    }

    /// Blocks that nobody holds, cached content or not.
    #[must_use]
    #[inline]
    pub fn num_free(&self) -> u32 {
        self.free.len
    }

    /// Blocks whose content can be found again, held or not.
    #[must_use]
    pub fn num_cached(&self) -> u32 {
        self.index.len() as u32
    }

    /// Totals of the prefix index.
    #[must_use]
    pub fn counters(&self) -> PrefixCounters {
        self.counters
    }

    /// For each block by its index, the scratch block included: how many tables hold it, and
    /// whether its content can be found again.
    pub(super) fn holds(&self) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.blocks.iter().map(|block| (block.ref_count, block.is_cached))
    }

    /// Keeps a record of changes of the prefix index from now on, to be
    /// [taken](Self::take_events) after each step.
    pub fn record_events(&mut self) {
        self.recorder.start();
    }

    /// The changes since the last call, in order.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        self.recorder.take()
    }

    /// Blocks needed for `num_tokens` tokens.
    #[must_use]
    pub fn blocks_for(&self, num_tokens: u32) -> u32 {
        num_tokens.div_ceil(self.block_size)
    }

    /// Fills an empty `table` with the longest cached prefix of `tokens` and returns how many
    /// tokens it covers: whole blocks, never the last token, whose logits are still wanted.
    pub fn match_prefix(
        &mut self,
        tokens: &[TokenId],
        salt: Option<CacheSalt>,
        table: &mut BlockTable,
    ) -> u32 {
        assert!(table.is_empty(), "a prefix is matched before anything is allocated");
        self.walk(tokens, salt, |id, node| {
            table.blocks.push(id);
            table.nodes.push(node);
        });
        for &id in &table.blocks {
            self.hold(id);
        }
        let matched = table.num_blocks() * self.block_size;
        if self.caching == PrefixCaching::On {
            self.counters.num_queried_tokens += tokens.len() as u64;
            self.counters.num_hit_tokens += u64::from(matched);
        }
        matched
    }

    /// Tokens that [`match_prefix`](Self::match_prefix) would cover, and the blocks among them
    /// that nobody holds (a match takes these out of the free list).
    #[must_use]
    pub fn peek_prefix(&self, tokens: &[TokenId], salt: Option<CacheSalt>) -> PrefixPeek {
        let (mut num_blocks, mut num_idle_blocks) = (0, 0);
        self.walk(tokens, salt, |id, _| {
            num_blocks += 1;
            num_idle_blocks += u32::from(self.blocks[id.index()].ref_count == 0);
        });
        PrefixPeek { num_tokens: num_blocks * self.block_size, num_idle_blocks }
    }

    /// A second table over the same blocks, for another sample of the same prompt.
    #[must_use]
    pub fn fork(&mut self, table: &BlockTable) -> BlockTable {
        for &id in &table.blocks {
            self.hold(id);
        }
        BlockTable { blocks: table.blocks.clone(), nodes: table.nodes.clone() }
    }

    /// Makes `positions` of a sequence writable: extends `table` to cover them, and sees to it that
    /// the block of the first is held by `table` alone and out of the prefix index. Returns the
    /// copy to make first, if that block had to be replaced. On failure nothing changes.
    #[inline]
    pub fn secure(
        &mut self,
        table: &mut BlockTable,
        positions: Range<u32>,
    ) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let index = (positions.start / self.block_size) as usize;
        if self.is_writable(table, index, positions.end) {
            return Ok(None);
        }
        self.secure_anew(table, index, positions)
    }

    /// [`secure`](Self::secure), where something must be done, from block `index` on.
    fn secure_anew(
        &mut self,
        table: &mut BlockTable,
        index: usize,
        positions: Range<u32>,
    ) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let shared = self.shared_block(table, positions.start);
        let needed = self.num_missing(table, positions);
        let num_new = needed - u32::from(shared.is_some());
        if needed > self.free.len {
            return Err(OutOfBlocks { short: needed - self.free.len });
        }
        let copy = shared.map(|source| {
            let target = self.take_free();
            table.blocks[index] = target;
            self.drop_hold(source);
            BlockCopy { source, target }
        });
        if let Some(&id) = table.blocks.get(index) {
            self.forget(id);
            table.nodes.truncate(index);
        }
        table.blocks.extend((0..num_new).map(|_| self.take_free()));
        Ok(copy)
    }

    /// Whether block `index` of `table` covers everything up to `end` and is private already: what
    /// most steps of decoding find.
    #[inline]
    fn is_writable(&self, table: &BlockTable, index: usize, end: u32) -> bool {
        let Some(id) = table.blocks.get(index) else { return false };
        let Block { ref_count, is_cached, .. } = self.blocks[id.index()];
        let is_private = ref_count == 1 && !is_cached && table.nodes.len() <= index;
        is_private && end as usize <= (index + 1) * self.block_size as usize
    }

    /// Free blocks that [`secure`](Self::secure) would take for `positions`.
    #[must_use]
    pub fn num_missing(&self, table: &BlockTable, positions: Range<u32>) -> u32 {
        let num_new = self.blocks_for(positions.end).saturating_sub(table.num_blocks());
        num_new + u32::from(self.shared_block(table, positions.start).is_some())
    }

    /// The block of `position`, if others hold it too.
    fn shared_block(&self, table: &BlockTable, position: u32) -> Option<BlockId> {
        let block = table.blocks.get((position / self.block_size) as usize).copied();
        block.filter(|id| self.blocks[id.index()].ref_count > 1)
    }

    /// Enters the full blocks of `computed` (all computed tokens of the sequence, from position
    /// 0) into the prefix index. Content that is there already keeps its block. Returns how many
    /// blocks can be found that could not through this table before.
    #[inline]
    pub fn publish(
        &mut self,
        table: &mut BlockTable,
        computed: &[TokenId],
        salt: Option<CacheSalt>,
    ) -> u32 {
        let (size, num_before) = (self.block_size as usize, table.nodes.len());
        if self.caching == PrefixCaching::Off || computed.len() < (num_before + 1) * size {
            return 0;
        }
        let num_full = computed.len() / size;
        assert!(num_full <= table.blocks.len(), "{num_full} full blocks, {table:?}");
        for index in table.nodes.len()..num_full {
            let parent = table.nodes.last().copied().map_or(Parent::Root(salt), Parent::Content);
            let tokens = &computed[index * size..(index + 1) * size];
            let node = self.enter((parent, salt), tokens, table.blocks[index]);
            table.nodes.push(node);
        }
        (num_full - num_before) as u32
    }

    /// Takes the blocks of `table` out of the prefix index: what is in them is not to be trusted.
    pub fn withdraw(&mut self, table: &BlockTable) {
        for &id in &table.blocks {
            self.forget(id);
        }
    }

    /// Gives up all blocks of `table`. Later blocks are given up first, so that under pressure a
    /// cached prefix is shortened rather than beheaded.
    pub fn release(&mut self, table: &mut BlockTable) {
        for id in std::mem::take(&mut table.blocks).into_iter().rev() {
            self.drop_hold(id);
        }
        table.nodes.clear();
    }

    /// Checks the reference counts against `tables`, which must be all that exist, and the lists
    /// against each other. Costs O(pool): for tests and for the idle engine.
    pub fn assert_consistent<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) {
        let mut held = vec![0u32; self.blocks.len()];
        for table in tables {
            assert!(table.nodes.len() <= table.blocks.len(), "more nodes than blocks: {table:?}");
            for id in &table.blocks {
                held[id.index()] += 1;
            }
        }
        for (index, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.ref_count, held[index], "references of block {index}");
        }
        let num_held = held.iter().filter(|&&count| count > 0).count() as u32;
        assert_eq!(self.walk_free_list(), self.free.len, "links of the free list");
        assert_eq!(num_held + self.free.len, self.num_blocks(), "held + free = all");
        let num_cached = self.blocks.iter().filter(|block| block.is_cached).count();
        assert_eq!(num_cached, self.index.len(), "index entries and cached blocks");
        let mut cached = (0..).map(BlockId).zip(&self.blocks).filter(|(_, block)| block.is_cached);
        assert!(cached.all(|(id, _)| self.index.contains(id)), "a cached block has no entry");
    }

    /// Follows the free list from front to back and returns its length.
    fn walk_free_list(&self) -> u32 {
        let (mut previous, mut cursor, mut num_seen) = (NONE, self.free.first, 0);
        while cursor != NONE {
            let block = &self.blocks[cursor.index()];
            assert_eq!(block.previous, previous, "back link of block {cursor}");
            assert_eq!(block.ref_count, 0, "block {cursor} is free and held");
            (previous, cursor) = (cursor, block.next);
            num_seen += 1;
            assert!(num_seen <= self.num_blocks(), "the free list runs in a circle");
        }
        assert_eq!(self.free.last, previous, "end of the free list");
        num_seen
    }

    /// Visits the cached blocks of the longest prefix of `tokens`, without the last token.
    fn walk(
        &self,
        tokens: &[TokenId],
        salt: Option<CacheSalt>,
        mut visit: impl FnMut(BlockId, ContentId),
    ) {
        self.walk_behind(Parent::Root(salt), tokens, &mut visit);
    }

    /// The same for the blocks of `tokens` behind what `parent` stands for.
    pub(super) fn walk_behind(
        &self,
        mut parent: Parent,
        tokens: &[TokenId],
        visit: &mut impl FnMut(BlockId, ContentId),
    ) {
        if self.caching == PrefixCaching::Off {
            return;
        }
        let matchable = &tokens[..tokens.len().saturating_sub(1)];
        for chunk in matchable.chunks_exact(self.block_size as usize) {
            let Some((id, content)) = self.index.find(parent, chunk) else { break };
            parent = Parent::Content(content);
            visit(id, content);
        }
    }

    fn enter(
        &mut self,
        (parent, salt): (Parent, Option<CacheSalt>),
        tokens: &[TokenId],
        id: BlockId,
    ) -> ContentId {
        let (content, is_new) = self.index.enter(parent, tokens, id);
        if is_new {
            let block = &mut self.blocks[id.index()];
            let is_publishable = !block.is_cached && block.ref_count > 0;
            assert!(is_publishable, "publishing block {id}: {block:?}");
            block.is_cached = true;
            if salt.is_none() {
                self.recorder.stored(parent.content(), content, tokens);
            }
        }
        content
    }

    fn forget(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        if block.is_cached {
            block.is_cached = false;
            let Some(content) = self.index.remove(id) else {
                panic!("block {id} has cached content but no entry")
            };
            self.recorder.removed(content);
        }
    }

    #[inline]
    fn hold(&mut self, id: BlockId) {
        if self.blocks[id.index()].ref_count == 0 {
            self.unlink(id);
        }
        self.blocks[id.index()].ref_count += 1;
    }

    #[inline]
    fn drop_hold(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        assert!(block.ref_count > 0, "block {id} is given up but nobody holds it");
        block.ref_count -= 1;
        if block.ref_count == 0 {
            self.push_free(id);
        }
    }

    /// Takes the next victim, whose cached content is lost, and holds it once.
    fn take_free(&mut self) -> BlockId {
        let id = self.free.first;
        assert!(id != NONE, "taking a block from an empty free list");
        if self.blocks[id.index()].is_cached {
            self.counters.num_evictions += 1;
            self.forget(id);
        }
        self.hold(id);
        id
    }

    /// Blocks with cached content go to the end, others to the front.
    fn push_free(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        let (previous, next) =
            if block.is_cached { (self.free.last, NONE) } else { (NONE, self.free.first) };
        (block.previous, block.next) = (previous, next);
        self.link(previous, id, Neighbour::Next);
        self.link(next, id, Neighbour::Previous);
        self.free.len += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let Block { previous, next, .. } = self.blocks[id.index()];
        self.link(previous, next, Neighbour::Next);
        self.link(next, previous, Neighbour::Previous);
        self.free.len -= 1;
    }

    /// Makes `other` a neighbour of free block `id`, or an end of the list where `id` is none.
    #[inline]
    fn link(&mut self, id: BlockId, other: BlockId, neighbour: Neighbour) {
        match (neighbour, id) {
            (Neighbour::Next, NONE) => self.free.first = other,
            (Neighbour::Previous, NONE) => self.free.last = other,
            (Neighbour::Next, _) => self.blocks[id.index()].next = other,
            (Neighbour::Previous, _) => self.blocks[id.index()].previous = other,
        }
    }
}

/// Which neighbour in the list of free blocks.
#[derive(Clone, Copy)]
enum Neighbour {
    Previous,
    Next,
}

/// What a prefix match would give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixPeek {
    /// Tokens covered.
    pub num_tokens: u32,
    /// Matched blocks that are free now.
    pub num_idle_blocks: u32,
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
