//! Compiled constraints that are kept, the least recently used making room.
//!
//! Whoever asks first compiles; others wait for that one, for a bounded time. A result that depends
//! on the moment (no time left, no compiler free) is not kept.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::compiler::{Outcome, Refusal};

/// What a constraint is found by: a digest of it and of the model.
pub(super) type Key = [u8; 32];

/// Bounded in entries and in the bytes of the constraints as they came.
#[derive(Debug)]
pub(super) struct Cache {
    max_entries: usize,
    max_bytes: usize,
    max_wait: Duration,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    num_bytes: usize,
    /// Counts uses; the entry used at the lowest count goes first.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    num_bytes: usize,
    used: u64,
}

/// Where an outcome is or will be.
#[derive(Debug, Default)]
struct Slot {
    outcome: Mutex<Option<Outcome>>,
    is_there: Condvar,
}

/// Whose turn it is to fill a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Own,
    Others,
}

impl Slot {
    fn fill(&self, outcome: &Outcome) {
        let mut slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(outcome.clone());
        self.is_there.notify_all();
    }

    fn wait(&self, max_wait: Duration) -> Option<Outcome> {
        let slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |slot: &mut Option<Outcome>| slot.is_none();
        let waited = self.is_there.wait_timeout_while(slot, max_wait, is_open);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl Cache {
    pub(super) fn new((max_entries, max_bytes): (usize, usize), max_wait: Duration) -> Self {
        Self { max_entries, max_bytes, max_wait, entries: Mutex::default() }
    }

    /// The outcome for `key`, by `compile` unless it is known. `num_bytes` is what the constraint
    /// counts for.
    pub(super) fn get_or_compile(
        &self,
        key: Key,
        num_bytes: usize,
        compile: impl FnOnce() -> Outcome,
    ) -> Outcome {
        let (slot, turn) = self.lock().slot(key, num_bytes);
        if turn == Turn::Others {
            let outcome = slot.wait(self.max_wait);
            return outcome.unwrap_or_else(|| Err(Refusal::busy("it is being compiled")));
        }
        let outcome = compile();
        slot.fill(&outcome);
        let mut entries = self.lock();
        if outcome.as_ref().is_err_and(Refusal::is_of_the_moment) {
            entries.forget(&key, &slot);
        }
        entries.shrink(self.max_entries, self.max_bytes);
        outcome
    }

    /// Number of entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn slot(&mut self, key: Key, num_bytes: usize) -> (Arc<Slot>, Turn) {
        self.clock += 1;
        let used = self.clock;
        if let Some(entry) = self.by_key.get_mut(&key) {
            entry.used = used;
            return (Arc::clone(&entry.slot), Turn::Others);
        }
        let slot = Arc::<Slot>::default();
        self.num_bytes += num_bytes;
        self.by_key.insert(key, Entry { slot: Arc::clone(&slot), num_bytes, used });
        (slot, Turn::Own)
    }

    /// Drops `key` if it still stands for `slot`.
    fn forget(&mut self, key: &Key, slot: &Arc<Slot>) {
        if self.by_key.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.slot, slot)) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.by_key.remove(key) {
            self.num_bytes -= entry.num_bytes;
        }
    }

    fn shrink(&mut self, max_entries: usize, max_bytes: usize) {
        while self.by_key.len() > max_entries || self.num_bytes > max_bytes {
            let oldest = self.by_key.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(&key, _)| key) else { return };
            self.remove(&key);
        }
    }
}
