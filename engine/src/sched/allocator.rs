//! Who holds which KV block, which blocks are free, and which contents can be found again.
//!
//! Invariants, asserted here: a block's reference count is the number of tables that hold it;
//! free + held = all; only full, computed blocks are in the prefix index; a match never covers
//! the last known token. The index is a trie keyed by (parent's identity, the block's tokens),
//! compared in full, so that two different prefixes can never be taken for each other.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::BlockTable;
use super::kv_events::{ContentId, KvEvent, KvRecorder};
use crate::types::{BlockCopy, BlockId, CacheSalt, PrefixCaching, TokenId};

/// Identity of the content of a full block together with everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NodeId {
    /// What comes before the first block: one root for each cache salt.
    Root(Option<CacheSalt>),
    /// A number never used twice, so that an evicted parent cannot be taken for a later one.
    Content(u64),
}

impl NodeId {
    fn content(self) -> Option<ContentId> {
        match self {
            Self::Root(_) => None,
            Self::Content(content) => Some(content),
        }
    }
}

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
    index: HashMap<Arc<[u32]>, BlockId>,
    next_node: u64,
    counters: PrefixCounters,
    recorder: KvRecorder,
}

#[derive(Debug, Default)]
struct Block {
    ref_count: u32,
    previous: Option<BlockId>,
    next: Option<BlockId>,
    cached: Option<Cached>,
}

/// What the prefix index knows of a block.
#[derive(Debug)]
struct Cached {
    node: NodeId,
    key: Arc<[u32]>,
}

/// Free blocks, next victim first: blocks without cached content, then the least recently used.
#[derive(Debug, Default)]
struct FreeList {
    first: Option<BlockId>,
    last: Option<BlockId>,
    len: u32,
}

impl BlockAllocator {
    /// A pool of `num_blocks` blocks of `block_size` tokens; block 0 is scratch and stays out.
    #[must_use]
    pub fn new(num_blocks: u32, block_size: u32, caching: PrefixCaching) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let mut allocator = Self {
            block_size,
            caching,
            blocks: (0..num_blocks).map(|_| Block::default()).collect(),
            free: FreeList::default(),
            index: HashMap::new(),
            next_node: 0,
            counters: PrefixCounters::default(),
            recorder: KvRecorder::default(),
        };
        for id in (1..num_blocks).map(BlockId) {
            allocator.push_free(id);
        }
        allocator
    }

    /// Forgets every table and every cached content, and records so: the memory behind the pool is
    /// another now. Totals go on.
    pub fn clear(&mut self) {
        let num_blocks = self.blocks.len() as u32;
        let mut recorder = std::mem::take(&mut self.recorder);
        recorder.cleared();
        let (counters, next_node) = (self.counters, self.next_node);
        let empty = Self::new(num_blocks, self.block_size, self.caching);
        *self = Self { next_node, counters, recorder, ..empty };
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
        self.blocks.iter().map(|block| (block.ref_count, block.cached.is_some()))
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
    pub fn secure(
        &mut self,
        table: &mut BlockTable,
        positions: Range<u32>,
    ) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let index = (positions.start / self.block_size) as usize;
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
    /// 0) into the prefix index. Content that is there already keeps its block.
    pub fn publish(
        &mut self,
        table: &mut BlockTable,
        computed: &[TokenId],
        salt: Option<CacheSalt>,
    ) {
        if self.caching == PrefixCaching::Off {
            return;
        }
        let size = self.block_size as usize;
        let num_full = computed.len() / size;
        assert!(num_full <= table.blocks.len(), "{num_full} full blocks, {table:?}");
        for index in table.nodes.len()..num_full {
            let parent = table.nodes.last().copied().unwrap_or(NodeId::Root(salt));
            let tokens = &computed[index * size..(index + 1) * size];
            let node = self.enter((parent, salt), tokens, table.blocks[index]);
            table.nodes.push(node);
        }
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
        let num_cached = self.blocks.iter().filter(|block| block.cached.is_some()).count();
        assert_eq!(num_cached, self.index.len(), "index entries and cached blocks");
    }

    /// Follows the free list from front to back and returns its length.
    fn walk_free_list(&self) -> u32 {
        let (mut previous, mut cursor, mut num_seen) = (None, self.free.first, 0);
        while let Some(id) = cursor {
            let block = &self.blocks[id.index()];
            assert_eq!(block.previous, previous, "back link of block {id}");
            assert_eq!(block.ref_count, 0, "block {id} is free and held");
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
        mut visit: impl FnMut(BlockId, NodeId),
    ) {
        if self.caching == PrefixCaching::Off {
            return;
        }
        let matchable = &tokens[..tokens.len().saturating_sub(1)];
        let mut parent = NodeId::Root(salt);
        let mut key = Vec::with_capacity(KEY_WORDS + self.block_size as usize);
        for chunk in matchable.chunks_exact(self.block_size as usize) {
            write_key(&mut key, parent, chunk);
            let Some(&id) = self.index.get(key.as_slice()) else {
                break;
            };
            let Some(cached) = &self.blocks[id.index()].cached else {
                panic!("block {id} is in the index but has no cached content");
            };
            parent = cached.node;
            visit(id, parent);
        }
    }

    fn enter(
        &mut self,
        (parent, salt): (NodeId, Option<CacheSalt>),
        tokens: &[TokenId],
        id: BlockId,
    ) -> NodeId {
        let mut key = Vec::with_capacity(KEY_WORDS + tokens.len());
        write_key(&mut key, parent, tokens);
        if let Some(existing) = self.index.get(key.as_slice())
            && let Some(cached) = &self.blocks[existing.index()].cached
        {
            return cached.node;
        }
        let content = self.next_node;
        let node = NodeId::Content(content);
        self.next_node += 1;
        let key: Arc<[u32]> = key.into();
        let block = &mut self.blocks[id.index()];
        assert!(block.cached.is_none() && block.ref_count > 0, "publishing block {id}: {block:?}");
        block.cached = Some(Cached { node, key: Arc::clone(&key) });
        self.index.insert(key, id);
        if salt.is_none() {
            self.recorder.stored(parent.content(), content, tokens);
        }
        node
    }

    fn forget(&mut self, id: BlockId) {
        if let Some(cached) = self.blocks[id.index()].cached.take() {
            self.index.remove(&cached.key);
            if let Some(content) = cached.node.content() {
                self.recorder.removed(content);
            }
        }
    }

    fn hold(&mut self, id: BlockId) {
        if self.blocks[id.index()].ref_count == 0 {
            self.unlink(id);
        }
        self.blocks[id.index()].ref_count += 1;
    }

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
        let Some(id) = self.free.first else { panic!("taking a block from an empty free list") };
        if self.blocks[id.index()].cached.is_some() {
            self.counters.num_evictions += 1;
            self.forget(id);
        }
        self.hold(id);
        id
    }

    /// Blocks with cached content go to the end, others to the front.
    fn push_free(&mut self, id: BlockId) {
        let keeps_content = self.blocks[id.index()].cached.is_some();
        let (previous, next) =
            if keeps_content { (self.free.last, None) } else { (None, self.free.first) };
        self.blocks[id.index()].previous = previous;
        self.blocks[id.index()].next = next;
        match previous {
            Some(previous) => self.blocks[previous.index()].next = Some(id),
            None => self.free.first = Some(id),
        }
        match next {
            Some(next) => self.blocks[next.index()].previous = Some(id),
            None => self.free.last = Some(id),
        }
        self.free.len += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        let (previous, next) = (block.previous.take(), block.next.take());
        match previous {
            Some(previous) => self.blocks[previous.index()].next = next,
            None => self.free.first = next,
        }
        match next {
            Some(next) => self.blocks[next.index()].previous = previous,
            None => self.free.last = previous,
        }
        self.free.len -= 1;
    }
}

/// Words of an index key before the tokens.
const KEY_WORDS: usize = 5;

/// The index key of a block: its parent's identity, then its tokens.
fn write_key(key: &mut Vec<u32>, parent: NodeId, tokens: &[TokenId]) {
    let (kind, number) = match parent {
        NodeId::Root(None) => (0, 0),
        NodeId::Root(Some(salt)) => (1, salt.0),
        NodeId::Content(number) => (2, u128::from(number)),
    };
    key.clear();
    key.push(kind);
    key.extend((0..KEY_WORDS - 1).map(|word| (number >> (32 * word)) as u32));
    key.extend_from_slice(tokens);
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
