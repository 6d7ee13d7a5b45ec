//! Which block holds the content that follows which other.
//!
//! A trie keyed by (parent's identity, the block's tokens), compared in full, so that two different
//! prefixes can never be taken for each other. The hash is keyed anew in each index: tokens cannot
//! be chosen so that they collide. Contents lie in arrays by block; nothing is allocated for one.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};

use hashbrown::HashTable;

use super::kv_events::ContentId;
use crate::types::{BlockId, CacheSalt, TokenId};

/// What the content of a block follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// Nothing: it is the first block, under a cache salt or none.
    Root(Option<CacheSalt>),
    /// This content together with everything before it.
    Content(ContentId),
}

impl Parent {
    pub(super) fn content(self) -> Option<ContentId> {
        match self {
            Self::Root(_) => None,
            Self::Content(content) => Some(content),
        }
    }
}

/// The contents of full blocks that can be found again.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    hasher: RandomState,
    table: HashTable<BlockId>,
    /// By block.
    entries: Vec<Option<Entry>>,
    /// P for each block; of use only where there is an entry.
    tokens: Vec<TokenId>,
    block_size: usize,
    next_content: ContentId,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A number never used twice, so that an evicted parent cannot be taken for a later one.
    content: ContentId,
    parent: Parent,
    hash: u64,
}

impl PrefixIndex {
    /// An empty index of `num_blocks` blocks of `block_size` tokens.
    pub(super) fn new(num_blocks: u32, block_size: u32) -> Self {
        let (num_blocks, block_size) = (num_blocks as usize, block_size as usize);
        Self {
            hasher: RandomState::new(),
            table: HashTable::new(),
            entries: vec![None; num_blocks],
            tokens: vec![0; num_blocks * block_size],
            block_size,
            next_content: 0,
        }
    }

    /// Forgets all contents. Their numbers are not used again.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.entries.fill(None);
    }

    /// Number of blocks with an entry.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The block that holds `tokens` after `parent`, and the identity of its content.
    #[inline]
    pub(super) fn find(&self, parent: Parent, tokens: &[TokenId]) -> Option<(BlockId, ContentId)> {
        self.find_hashed(self.hash(parent, tokens), parent, tokens)
    }

    /// Enters block `id`, which holds `tokens` after `parent`, unless that is there already.
    /// Returns the identity of the content, and whether it was entered.
    pub(super) fn enter(
        &mut self,
        parent: Parent,
        tokens: &[TokenId],
        id: BlockId,
    ) -> (ContentId, bool) {
        let hash = self.hash(parent, tokens);
        if let Some((_, content)) = self.find_hashed(hash, parent, tokens) {
            return (content, false);
        }
        let content = self.next_content;
        self.next_content += 1;
        let start = id.index() * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
        let previous = self.entries[id.index()].replace(Entry { content, parent, hash });
        assert!(previous.is_none(), "publishing block {id} twice");
        let entries = &self.entries;
        self.table.insert_unique(hash, id, |id| hash_of(entries, *id));
        (content, true)
    }

    /// Takes block `id` out, if it is in, and returns the identity of its content.
    pub(super) fn remove(&mut self, id: BlockId) -> Option<ContentId> {
        let Entry { content, hash, .. } = self.entries[id.index()].take()?;
        let Ok(found) = self.table.find_entry(hash, |&other| other == id) else {
            panic!("block {id} has an entry but is not in the table")
        };
        found.remove();
        Some(content)
    }

    /// Whether the content of block `id` can be found.
    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.entries[id.index()].is_some()
    }

    #[inline]
    fn find_hashed(
        &self,
        hash: u64,
        parent: Parent,
        tokens: &[TokenId],
    ) -> Option<(BlockId, ContentId)> {
        let is_equal = |&id: &BlockId| {
            let start = id.index() * self.block_size;
            self.entries[id.index()].is_some_and(|entry| entry.parent == parent)
                && self.tokens[start..start + self.block_size] == *tokens
        };
        let id = *self.table.find(hash, is_equal)?;
        self.entries[id.index()].map(|entry| (id, entry.content))
    }

    #[inline]
    fn hash(&self, parent: Parent, tokens: &[TokenId]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        match parent {
            Parent::Content(content) => hasher.write_u64(content),
            Parent::Root(salt) => salt.hash(&mut hasher),
        }
        tokens.hash(&mut hasher);
        hasher.finish()
    }
}

fn hash_of(entries: &[Option<Entry>], id: BlockId) -> u64 {
    entries[id.index()].map_or(0, |entry| entry.hash)
}
