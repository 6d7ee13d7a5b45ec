//! What is known of live sequences, by their ids.
//!
//! Ids are given in order of arrival, so those in use lie close together: a ring of slots from the
//! oldest in use to the latest finds one by a subtraction, and goes through all in order. A slot
//! between them whose sequence has ended stays, empty, until the oldest ends too: 8 bytes for each
//! of the [`Sequences`](super::Sequences).

use crate::types::SequenceId;

/// Empty slots at the front that are never too many.
const MAX_SLACK: usize = 32;

/// Values by sequence. All operations but iteration cost O(1), amortised.
#[derive(Debug)]
pub(super) struct Window<T> {
    /// The id of the first slot.
    first: u64,
    /// From `start` on it neither begins nor ends with an empty slot; before it all are empty.
    slots: Vec<Option<T>>,
    /// Slots at the front whose sequences have ended: dropped when they are most of all.
    start: usize,
    len: usize,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { first: 0, slots: Vec::new(), start: 0, len: 0 }
    }
}

impl<T> Window<T> {
    #[inline]
    fn index(&self, id: SequenceId) -> usize {
        // Ids before the first become numbers that no array is long enough for.
        id.0.wrapping_sub(self.first) as usize
    }

    #[inline]
    pub(super) fn get(&self, id: SequenceId) -> Option<&T> {
        self.slots.get(self.index(id))?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: SequenceId) -> Option<&mut T> {
        let index = self.index(id);
        self.slots.get_mut(index)?.as_mut()
    }

    #[inline]
    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.get(id).is_some()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Enters a value and returns the one it replaces.
    pub(super) fn insert(&mut self, id: SequenceId, value: T) -> Option<T> {
        if self.len == 0 {
            self.first = id.0;
        }
        if id.0 < self.first {
            // With some to spare, so that the next such id need not move all again.
            let num_missing = (self.first - id.0).max(self.slots.len() as u64 / 8).min(self.first);
            let missing = std::iter::repeat_with(|| None).take(num_missing as usize);
            self.slots.splice(0..0, missing);
            self.first -= num_missing;
            self.start += num_missing as usize;
        }
        let index = self.index(id);
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.start = self.start.min(index);
        let previous = self.slots[index].replace(value);
        self.len += usize::from(previous.is_none());
        previous
    }

    pub(super) fn remove(&mut self, id: SequenceId) -> Option<T> {
        let index = self.index(id);
        let value = self.slots.get_mut(index)?.take()?;
        self.len -= 1;
        if self.len == 0 {
            self.slots.clear();
            self.start = 0;
            return Some(value);
        }
        while let Some(None) = self.slots.get(self.start) {
            self.start += 1;
        }
        while let Some(None) = self.slots.last() {
            self.slots.pop();
        }
        if self.start > MAX_SLACK && 2 * self.start > self.slots.len() {
            self.slots.drain(..self.start);
            self.first += self.start as u64;
            self.start = 0;
        }
        Some(value)
    }

    /// All values, in the order of their ids.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().skip(self.start).filter_map(Option::as_ref)
    }

    /// All values with their ids, in that order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SequenceId, &T)> {
        let slots = self.slots.iter().zip(self.first..).skip(self.start);
        slots.filter_map(|(slot, id)| Some((SequenceId(id), slot.as_ref()?)))
    }

    /// Takes all values out, in that order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(self).slots.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It does what an ordered map does, and keeps no slots beyond its ends.
        #[test]
        fn it_is_an_ordered_map(
            start in 0..u64::MAX / 2,
            calls in proptest::collection::vec((0..4u8, 0..40u64), 0..200),
        ) {
            let (mut window, mut map) = (Window::default(), BTreeMap::new());
            for (step, (call, offset)) in calls.into_iter().enumerate() {
                let id = SequenceId(start + offset);
                match call {
                    0 | 1 => prop_assert_eq!(window.insert(id, step), map.insert(id, step)),
                    2 => prop_assert_eq!(window.remove(id), map.remove(&id)),
                    _ => {
                        prop_assert_eq!(window.get(id), map.get(&id));
                        prop_assert_eq!(window.get_mut(id), map.get_mut(&id));
                        prop_assert_eq!(window.contains(id), map.contains_key(&id));
                    }
                }
                prop_assert_eq!(window.len(), map.len());
                let values: Vec<_> = window.iter().map(|(id, &value)| (id, value)).collect();
                prop_assert_eq!(&values, &map.clone().into_iter().collect::<Vec<_>>());
                prop_assert!(window.values().eq(map.values()));
                let ends = map.keys().next().zip(map.keys().next_back());
                let span = ends.map_or(0, |(first, last)| last.0 - first.0 + 1);
                let num_slots = (window.slots.len() - window.start) as u64;
                prop_assert!(num_slots == span || map.is_empty(), "{} slots", num_slots);
                prop_assert!(window.start <= MAX_SLACK || 2 * window.start <= window.slots.len());
            }
            prop_assert!(window.take().eq(map.into_values()));
            prop_assert_eq!(window.len(), 0);
        }
    }
}
