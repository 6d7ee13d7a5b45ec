//! Which running sequence lives in which row of the device's slot tables.
//!
//! A slot is a cache: all that it holds on the device can be built again from the sequence. So
//! nobody announces that a sequence ended or lost its blocks; a slot whose sequence is not in the
//! step may be taken, and a block table that changed shows by comparison with what was uploaded.

use std::collections::HashMap;

use crate::types::{BlockId, SequenceId};

/// The host's picture of the slot tables.
#[derive(Debug)]
pub(super) struct SlotTable {
    by_owner: HashMap<SequenceId, u32>,
    slots: Vec<Slot>,
    step: u64,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    owner: Option<SequenceId>,
    /// Blocks that the device knows for the owner.
    blocks: Vec<BlockId>,
    /// Latest step that its owner took part in.
    last_step: u64,
}

/// Where a sequence lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its row in the tables.
    pub(super) slot: u32,
    /// Whether its state must be uploaded.
    pub(super) tenancy: Tenancy,
}

/// Whether the device knows the sequence in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenancy {
    /// It took the slot in this step.
    New,
    /// It was there before.
    Known,
}

impl SlotTable {
    /// A table for up to `num_slots` sequences in a step.
    pub(super) fn new(num_slots: u32) -> Self {
        let slots = vec![Slot::default(); num_slots as usize];
        Self { by_owner: HashMap::new(), slots, step: 0 }
    }

    /// Places the sequences of the next step, in order; no more than there are slots.
    pub(super) fn place(&mut self, ids: &[SequenceId], places: &mut Vec<Place>) {
        let num_slots = self.slots.len();
        assert!(ids.len() <= num_slots, "{} sequences in {num_slots} slots", ids.len());
        self.step += 1;
        for id in ids {
            if let Some(&slot) = self.by_owner.get(id) {
                self.slots[slot as usize].last_step = self.step;
            }
        }
        let mut vacant = self.vacant(ids).into_iter();
        places.clear();
        for &id in ids {
            places.push(if let Some(&slot) = self.by_owner.get(&id) {
                Place { slot, tenancy: Tenancy::Known }
            } else {
                let slot = vacant.next();
                let slot = slot.unwrap_or_else(|| panic!("{num_slots} slots are all taken"));
                self.take(slot, id);
                Place { slot, tenancy: Tenancy::New }
            });
        }
    }

    /// The blocks of `blocks` that the device does not know for `slot`, and the index of the first
    /// of them. From here on it is taken to know them.
    pub(super) fn update_blocks<'a>(
        &mut self,
        slot: u32,
        blocks: &'a [BlockId],
    ) -> (u32, &'a [BlockId]) {
        let known = &mut self.slots[slot as usize].blocks;
        let same = known.iter().zip(blocks).take_while(|(a, b)| a == b).count();
        known.truncate(same);
        known.extend_from_slice(&blocks[same..]);
        (same as u32, &blocks[same..])
    }

    /// Slots for those of `ids` that have none: unused ones, then those unused for longest.
    fn vacant(&self, ids: &[SequenceId]) -> Vec<u32> {
        let num_new = ids.iter().filter(|id| !self.by_owner.contains_key(id)).count();
        if num_new == 0 {
            return Vec::new();
        }
        let idle = |slot: &u32| self.slots[*slot as usize].last_step < self.step;
        let mut vacant: Vec<u32> = (0..self.slots.len() as u32).filter(idle).collect();
        let age = |slot: &u32| {
            let slot = &self.slots[*slot as usize];
            (slot.owner.is_some(), slot.last_step)
        };
        vacant.sort_by_key(age);
        vacant.truncate(num_new);
        vacant
    }

    fn take(&mut self, slot: u32, id: SequenceId) {
        let entry = &mut self.slots[slot as usize];
        if let Some(previous) = entry.owner.replace(id) {
            self.by_owner.remove(&previous);
        }
        entry.blocks.clear();
        entry.last_step = self.step;
        self.by_owner.insert(id, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(table: &mut SlotTable, ids: &[u64]) -> Vec<(u32, Tenancy)> {
        let ids: Vec<SequenceId> = ids.iter().map(|&id| SequenceId(id)).collect();
        let mut places = Vec::new();
        table.place(&ids, &mut places);
        places.iter().map(|place| (place.slot, place.tenancy)).collect()
    }

    #[test]
    fn sequences_keep_their_slots_and_idle_ones_give_way() {
        let mut table = SlotTable::new(3);
        assert_eq!(place(&mut table, &[10, 11]), [(0, Tenancy::New), (1, Tenancy::New)]);
        assert_eq!(place(&mut table, &[11, 12]), [(1, Tenancy::Known), (2, Tenancy::New)]);
        // 10 has been away for longest; the others are in the step.
        let places = place(&mut table, &[13, 12, 11]);
        assert_eq!(places, [(0, Tenancy::New), (2, Tenancy::Known), (1, Tenancy::Known)]);
        // 10 comes back and is new to the device.
        assert_eq!(place(&mut table, &[10])[0].1, Tenancy::New);
    }

    #[test]
    fn only_blocks_that_changed_are_uploaded() {
        let mut table = SlotTable::new(2);
        let slot = place(&mut table, &[1])[0].0;
        let blocks: Vec<BlockId> = [5, 6, 7, 8].map(BlockId).to_vec();
        assert_eq!(table.update_blocks(slot, &blocks[..2]), (0, &blocks[..2]));
        assert_eq!(table.update_blocks(slot, &blocks[..2]).1, []);
        assert_eq!(table.update_blocks(slot, &blocks), (2, &blocks[2..]));
        // A copy on write exchanged the last block.
        let copied = [5, 6, 7, 9].map(BlockId);
        assert_eq!(table.update_blocks(slot, &copied), (3, &copied[3..]));
        // Another sequence takes the slot: all of its blocks are new, equal ids or not.
        place(&mut table, &[2, 3]);
        place(&mut table, &[1, 3]);
        assert_eq!(table.update_blocks(slot, &copied), (0, &copied[..]));
    }
}
