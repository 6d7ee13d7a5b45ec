//! What preempted sequences have computed, saved in host memory.
//!
//! Blocks are saved when a sequence gives way, which happens only while no step is in flight, so
//! what it has computed is final. The next plan carries the copies out before anything else; the
//! device blocks can be handed out at once. When the sequence goes on, what the prefix index lacks
//! is brought back, and it computes nothing twice. Contents are never shared between sequences.

use std::collections::HashMap;

use super::PreemptionMode;
use super::scheduler::State;
use super::sequence::Status;
use crate::types::{BlockId, BlockSwap, HostBlockId, SequenceId, StepPlan};

/// Hands out the blocks of host memory, and knows whose content is in each.
#[derive(Debug)]
pub(super) struct HostPool {
    num_blocks: u32,
    /// Blocks that nothing is saved in; the last is handed out next.
    free: Vec<HostBlockId>,
    /// Blocks of each sequence with saved tokens, in position order.
    saved: HashMap<SequenceId, Vec<HostBlockId>>,
    /// What the next plan must save.
    swaps: Vec<BlockSwap>,
}

impl HostPool {
    pub(super) fn new(num_blocks: u32) -> Self {
        let free = (0..num_blocks).rev().map(HostBlockId).collect();
        Self { num_blocks, free, saved: HashMap::new(), swaps: Vec::new() }
    }

    pub(super) fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    pub(super) fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Blocks with the saved tokens of a sequence, in position order; none when there are none.
    pub(super) fn blocks_of(&self, id: SequenceId) -> &[HostBlockId] {
        self.saved.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Saves the content of `blocks` for `id` with the next plan. False: there is nothing to save,
    /// or not enough room, and nothing happens.
    fn save(&mut self, id: SequenceId, blocks: &[BlockId]) -> bool {
        if blocks.is_empty() || blocks.len() > self.free.len() {
            return false;
        }
        let host = self.free.split_off(self.free.len() - blocks.len());
        let pairs = blocks.iter().zip(&host);
        self.swaps.extend(pairs.map(|(&device, &host)| BlockSwap { device, host }));
        let previous = self.saved.insert(id, host);
        assert!(previous.is_none(), "sequence {id} is saved already");
        true
    }

    /// Gives up what is saved of `id`, if anything is.
    pub(super) fn release(&mut self, id: SequenceId) {
        self.free.extend(self.saved.remove(&id).unwrap_or_default());
    }

    /// What the plan being made must save.
    pub(super) fn take_swaps(&mut self) -> Vec<BlockSwap> {
        std::mem::take(&mut self.swaps)
    }
}

impl State {
    /// Takes the blocks of a running sequence away. What it has computed is saved if `mode` says so
    /// and host memory has room, and dropped otherwise.
    pub(super) fn take_blocks(&mut self, id: SequenceId, mode: PreemptionMode) {
        assert!(!self.contains(id), "sequence {id} is in the plan and gives way");
        self.stop_running(id);
        let sequence = self.sequences.get_mut(id);
        let num_computed = sequence.num_computed();
        let mut table = std::mem::take(&mut sequence.table);
        let num_filled = self.allocator.blocks_for(num_computed) as usize;
        let is_saved = match mode {
            PreemptionMode::Recompute => false,
            PreemptionMode::Swap => self.host.save(id, &table.blocks()[..num_filled]),
        };
        if is_saved {
            self.totals.num_swapped_out_tokens += u64::from(num_computed);
        } else {
            self.totals.num_dropped_tokens += u64::from(num_computed);
            sequence.start_at(0);
        }
        self.totals.num_preemptions += 1;
        sequence.stats.num_preemptions += 1;
        self.allocator.release(&mut table);
    }

    /// Lets a sequence that was just given blocks go on from position `start`: what is saved of it
    /// beyond what its blocks hold already is brought back, and it needs host memory no more.
    pub(super) fn bring_back(&mut self, id: SequenceId, start: u32, plan: &mut StepPlan) {
        let sequence = self.sequences.get_mut(id);
        let held = sequence.num_computed();
        if start > held {
            let size = self.config.block_size;
            let range = (held / size) as usize..start.div_ceil(size) as usize;
            let pairs = sequence.table.blocks()[range.clone()].iter();
            let pairs = pairs.zip(&self.host.blocks_of(id)[range]);
            plan.swap_in.extend(pairs.map(|(&device, &host)| BlockSwap { device, host }));
            self.totals.num_swapped_in_tokens += u64::from(start - held);
            sequence.start_at(start);
        }
        self.host.release(id);
    }

    /// Checks that host blocks are free or hold what one waiting sequence has computed.
    pub(super) fn assert_saved(&self) {
        let mut num_used = 0;
        for (&id, blocks) in &self.host.saved {
            let Some(sequence) = self.sequences.find(id) else {
                panic!("sequence {id} is saved and not live")
            };
            let num_filled = self.allocator.blocks_for(sequence.num_computed()) as usize;
            assert!(blocks.len() == num_filled && num_filled > 0, "{blocks:?} of {sequence:?}");
            assert_eq!(sequence.status, Status::Waiting, "saved while it runs: {sequence:?}");
            num_used += blocks.len();
        }
        let mut ids: Vec<_> = self.host.saved.values().chain([&self.host.free]).flatten().collect();
        ids.sort_unstable();
        ids.dedup();
        let num_blocks = self.host.num_blocks as usize;
        assert_eq!(num_used + self.host.free.len(), num_blocks, "saved + free = all");
        assert_eq!(ids.len(), num_blocks, "a host block is in two places");
    }
}
