//! What is known of things with dense, increasing ids while they are live: no hashing, and memory
//! for the ids from the oldest live one to the newest.

use std::collections::VecDeque;

/// Values by id. Ids are given in order from 0 on.
#[derive(Debug)]
pub(crate) struct Window<T> {
    /// Id of the first slot.
    first: u64,
    slots: VecDeque<Option<T>>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { first: 0, slots: VecDeque::new() }
    }
}

impl<T> Window<T> {
    /// Enters `value` under `id`; ids that are skipped stay empty.
    pub(crate) fn insert(&mut self, id: u64, value: T) {
        if self.slots.is_empty() {
            self.first = id;
        }
        assert!(id >= self.first, "id {id} comes after its time");
        let index = (id - self.first) as usize;
        while self.slots.len() <= index {
            self.slots.push_back(None);
        }
        self.slots[index] = Some(value);
    }

    /// The value under `id`, if it is there.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let index = id.checked_sub(self.first)?;
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Takes the value under `id` out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let index = id.checked_sub(self.first)?;
        let value = self.slots.get_mut(index as usize)?.take();
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        value
    }

    /// How many ids there is room for: the newest less the oldest.
    #[cfg(test)]
    pub(crate) fn span(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_id_and_room_is_given_back() {
        let mut window = Window::default();
        for id in [0, 1, 2, 5] {
            window.insert(id, id * 10);
        }
        assert_eq!(window.get_mut(5), Some(&mut 50));
        assert_eq!(window.get_mut(3), None);
        assert_eq!(window.get_mut(6), None);
        assert_eq!(window.remove(1), Some(10));
        assert_eq!(window.span(), 6, "0 is still there");
        assert_eq!(window.remove(0), Some(0));
        assert_eq!(window.span(), 4);
        assert_eq!(window.get_mut(1), None);
        assert_eq!(window.remove(2), Some(20));
        assert_eq!(window.remove(5), Some(50));
        assert_eq!(window.span(), 0);
        window.insert(9, 90);
        assert_eq!((window.span(), window.get_mut(9)), (1, Some(&mut 90)));
    }
}
