//! What policies ask about waiting requests and what costs too much to compute twice.
//!
//! Prefix hits are looked up once a cycle. How many waiting prompts share a block is counted from
//! the first question on, as sequences come and go, so that nobody pays for what no policy reads.
//! Both are hints for ranking: sharing itself goes through the exact prefix index.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::queue::Queue;
use super::{Sequence, Sequences};
use crate::types::SequenceId;

/// A block-aligned beginning that waiting prompts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptNode {
    /// Waiting sequences whose prompt begins with it.
    pub demand: u32,
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
    nodes: RefCell<Option<HashMap<u64, PromptNode>>>,
}

impl Features {
    /// What was looked up so far may be out of date.
    pub(super) fn start_cycle(&mut self) {
        self.cycle += 1;
    }

    pub(super) fn cycle(&self) -> u64 {
        self.cycle
    }

    /// Leading tokens of `id` in the prefix cache: what `look_up` said first in this cycle.
    pub(super) fn cached_tokens(&self, id: SequenceId, look_up: impl FnOnce() -> u32) -> u32 {
        let mut cached = self.cached_tokens.borrow_mut();
        if self.cached_cycle.replace(self.cycle) != self.cycle {
            cached.clear();
        }
        *cached.entry(id).or_insert_with(look_up)
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

fn enter(nodes: &mut HashMap<u64, PromptNode>, sequence: &Sequence) {
    for &hash in sequence.request.prompt_hashes.iter() {
        let node = nodes.entry(hash).or_insert(PromptNode { demand: 0, first: sequence.id });
        node.demand += 1;
    }
}
