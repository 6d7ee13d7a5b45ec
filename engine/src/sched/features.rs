//! What policies ask about waiting requests and what costs too much to compute twice.
//!
//! Prefix hits are looked up once a cycle. How many waiting prompts share a block is counted from
//! the first question on, as sequences come and go, so that nobody pays for what no policy reads.
//! Both are hints for ranking: sharing itself goes through the exact prefix index.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::prefix::Parent;
use super::queue::Queue;
use super::{BlockAllocator, ContentId, Sequence, Sequences};
use crate::types::SequenceId;

/// A block-aligned beginning that waiting prompts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptNode {
    /// Waiting sequences whose prompt begins with it.
    pub demand: u32,
    /// Sequences that have waited with such a prompt, and do or not, since somebody last began to.
    pub num_entered: u32,
    /// The sequence that was the first of them to wait, whether or not it still does. No two nodes
    /// of equal length have the same, so it breaks ties between them.
    pub first: SequenceId,
}

/// The features of one cycle: a plan, or what happens between two plans.
#[derive(Debug, Default)]
pub(super) struct Features {
    cycle: u64,
    cached_cycle: Cell<u64>,
    cached_tokens: RefCell<HashMap<SequenceId, u32>>,
    /// What was found out about prompt blocks, by their chained hashes. Of each prompt the blocks
    /// that are cached come first.
    blocks: RefCell<HashMap<u64, Found>>,
    nodes: RefCell<Option<HashMap<u64, PromptNode>>>,
}

/// Whether the prefix cache holds a block.
#[derive(Clone, Copy, Debug)]
enum Found {
    Cached(ContentId),
    Missing,
}

impl Features {
    /// What was looked up so far may be out of date.
    pub(super) fn start_cycle(&mut self) {
        self.cycle += 1;
    }

    pub(super) fn cycle(&self) -> u64 {
        self.cycle
    }

    /// Leading tokens of `sequence` in the prefix cache, as of the first question about it, or
    /// about another with the same beginning, in this cycle.
    pub(super) fn cached_tokens(&self, sequence: &Sequence, allocator: &BlockAllocator) -> u32 {
        let mut cached = self.cached_tokens.borrow_mut();
        let mut blocks = self.blocks.borrow_mut();
        if self.cached_cycle.replace(self.cycle) != self.cycle {
            cached.clear();
            blocks.clear();
        }
        let look_up = || look_up(sequence, allocator, &mut blocks);
        *cached.entry(sequence.id).or_insert_with(look_up)
    }

    /// The waiting prompts that share the block with this chained hash.
    pub(super) fn node(
        &self,
        hash: u64,
        queue: &Queue,
        sequences: &Sequences,
    ) -> Option<PromptNode> {
        let mut nodes = self.nodes.borrow_mut();
        let nodes = nodes.get_or_insert_with(|| {
            let mut ids: Vec<_> = queue.iter().collect();
            ids.sort_unstable();
            let mut nodes = HashMap::new();
            for id in ids {
                enter(&mut nodes, sequences.get(id));
            }
            nodes
        });
        nodes.get(&hash).copied()
    }

    /// `sequence` has begun to wait.
    pub(super) fn waits(&mut self, sequence: &Sequence) {
        if let Some(nodes) = self.nodes.get_mut() {
            enter(nodes, sequence);
        }
    }

    /// `sequence` waits no longer.
    pub(super) fn leaves(&mut self, sequence: &Sequence) {
        let Some(nodes) = self.nodes.get_mut() else { return };
        for hash in sequence.request.prompt_hashes.iter() {
            let Some(node) = nodes.get_mut(hash) else { panic!("prompt block {hash} is unknown") };
            node.demand -= 1;
            if node.demand == 0 {
                nodes.remove(hash);
            }
        }
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        *self.nodes.get_mut() = None;
        self.start_cycle();
    }
}

/// Looks up what of `sequence` is cached, from where `blocks` knows no more: requests in a group
/// cost one walk through what they share.
fn look_up(
    sequence: &Sequence,
    allocator: &BlockAllocator,
    blocks: &mut HashMap<u64, Found>,
) -> u32 {
    let (size, hashes) = (allocator.block_size(), &sequence.request.prompt_hashes);
    let is_cached = |hash: &u64| matches!(blocks.get(hash), Some(Found::Cached(_)));
    let num_known = hashes.partition_point(is_cached);
    let next = hashes.get(num_known).and_then(|hash| blocks.get(hash));
    if matches!(next, Some(Found::Missing)) {
        return num_known as u32 * size;
    }
    let parent = match num_known.checked_sub(1).and_then(|last| blocks.get(&hashes[last])) {
        Some(&Found::Cached(content)) => Parent::Content(content),
        _ => Parent::Root(sequence.request.cache_salt),
    };
    let tokens = sequence.tokens_to_match().get(num_known * size as usize..).unwrap_or_default();
    let mut num_cached = num_known;
    allocator.walk_behind(parent, tokens, &mut |_, content| {
        if let Some(&hash) = hashes.get(num_cached) {
            blocks.insert(hash, Found::Cached(content));
        }
        num_cached += 1;
    });
    if let Some(&hash) = hashes.get(num_cached) {
        blocks.insert(hash, Found::Missing);
    }
    num_cached as u32 * size
}

fn enter(nodes: &mut HashMap<u64, PromptNode>, sequence: &Sequence) {
    for &hash in sequence.request.prompt_hashes.iter() {
        let new = PromptNode { demand: 0, num_entered: 0, first: sequence.id };
        let node = nodes.entry(hash).or_insert(new);
        node.demand += 1;
        node.num_entered = node.num_entered.saturating_add(1);
    }
}
