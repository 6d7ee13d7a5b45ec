//! Prompt blocks that running sequences are about to compute.
//!
//! A waiting sequence whose next prompt block is among them is held back until the block can be
//! shared, instead of computing it a second time. Blocks are told apart by a 64-bit chained hash:
//! a collision only costs a wait, since sharing itself goes through the exact prefix index.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::types::{CacheSalt, SequenceId, TokenId};

/// Chained hashes of the full blocks of a prompt that can be shared: entry `i` stands for blocks
/// `0..=i`. The block with the last token is left out, because a match never covers that token.
pub(super) fn chain_hashes(
    prompt: &[TokenId],
    block_size: u32,
    salt: Option<CacheSalt>,
) -> Arc<[u64]> {
    let shareable = &prompt[..prompt.len().saturating_sub(1)];
    let mut hasher = DefaultHasher::new();
    salt.hash(&mut hasher);
    shareable
        .chunks_exact(block_size as usize)
        .map(|block| {
            block.hash(&mut hasher);
            hasher.finish()
        })
        .collect()
}

/// Counts, for each block hash, the running sequences that will compute it.
#[derive(Debug, Default)]
pub(super) struct PrefixWatch {
    expected: HashMap<u64, u32>,
    /// Waiting sequences, with the last block that each waits for.
    held: HashMap<SequenceId, u64>,
    running: HashMap<SequenceId, Expectation>,
}

#[derive(Debug)]
struct Expectation {
    hashes: Arc<[u64]>,
    /// Blocks still to come.
    blocks: Range<usize>,
}

impl PrefixWatch {
    /// `id` starts to run with its first `num_cached` blocks known and will compute the others.
    pub(super) fn start(&mut self, id: SequenceId, hashes: &Arc<[u64]>, num_cached: u32) {
        let blocks = (num_cached as usize).min(hashes.len())..hashes.len();
        if blocks.is_empty() {
            return;
        }
        for hash in &hashes[blocks.clone()] {
            *self.expected.entry(*hash).or_insert(0) += 1;
        }
        let previous = self.running.insert(id, Expectation { hashes: Arc::clone(hashes), blocks });
        assert!(previous.is_none(), "sequence {id} is watched already");
    }

    /// The first `num_published` blocks of `id` can be found in the prefix index.
    pub(super) fn advance(&mut self, id: SequenceId, num_published: usize) {
        let Some(expectation) = self.running.get_mut(&id) else {
            return;
        };
        let done = num_published.min(expectation.blocks.end);
        while expectation.blocks.start < done {
            forget(&mut self.expected, expectation.hashes[expectation.blocks.start]);
            expectation.blocks.start += 1;
        }
        if expectation.blocks.is_empty() {
            self.running.remove(&id);
        }
    }

    /// `id` stops running, whatever it has computed.
    pub(super) fn stop(&mut self, id: SequenceId) {
        if let Some(expectation) = self.running.remove(&id) {
            for hash in &expectation.hashes[expectation.blocks] {
                forget(&mut self.expected, *hash);
            }
        }
    }

    /// Whether waiting sequence `id` was held back for a block that is still to come.
    pub(super) fn is_held(&self, id: SequenceId) -> bool {
        self.held.get(&id).is_some_and(|hash| self.expected.contains_key(hash))
    }

    /// Holds waiting sequence `id`, of whose prompt the first `num_cached` blocks are cached, back
    /// until the last of those that running sequences will publish has come. False: none will.
    pub(super) fn hold(&mut self, id: SequenceId, hashes: &[u64], num_cached: u32) -> bool {
        let rest = hashes.get(num_cached as usize..).unwrap_or_default();
        let last = rest.iter().take_while(|hash| self.expected.contains_key(hash)).last();
        match last {
            Some(&hash) => self.held.insert(id, hash),
            None => self.held.remove(&id),
        };
        last.is_some()
    }

    /// A running sequence that computes the block that waiting sequence `id` is held for. Looks at
    /// all that run.
    pub(super) fn computing_for(&self, id: SequenceId) -> Option<SequenceId> {
        let hash = self.held.get(&id)?;
        let computes =
            |expected: &Expectation| expected.hashes[expected.blocks.clone()].contains(hash);
        let mut ids = self.running.iter().filter(|(_, expected)| computes(expected));
        ids.by_ref().map(|(&id, _)| id).min()
    }

    /// Waiting sequences that were held back when they were last looked at.
    pub(super) fn num_held(&self) -> u32 {
        self.held.len() as u32
    }

    /// `id` is gone.
    pub(super) fn forget_held(&mut self, id: SequenceId) {
        self.held.remove(&id);
    }
}

fn forget(expected: &mut HashMap<u64, u32>, hash: u64) {
    let Some(count) = expected.get_mut(&hash) else { panic!("block hash {hash} is not expected") };
    *count -= 1;
    if *count == 0 {
        expected.remove(&hash);
    }
}
