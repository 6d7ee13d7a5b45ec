//! Compiled constraints that are kept, the least recently used making room.
//!
//! Whoever asks first compiles, others wait for that one. A result that depends on the moment (no
//! time left, no compiler free) is not kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::compiler::Outcome;

/// What a constraint is found by: a digest of it and of the model.
pub(super) type Key = [u8; 32];

/// Bounded in entries and in the bytes of the constraints as they came.
#[derive(Debug)]
pub(super) struct Cache {
    max_entries: usize,
    max_bytes: usize,
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
    outcome: Arc<OnceLock<Outcome>>,
    num_bytes: usize,
    used: u64,
}

impl Cache {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { max_entries, max_bytes, entries: Mutex::default() }
    }

    /// The outcome for `key`, by `compile` unless it is known. `num_bytes` is what the constraint
    /// counts for.
    pub(super) fn get_or_compile(
        &self,
        key: Key,
        num_bytes: usize,
        compile: impl FnOnce() -> Outcome,
    ) -> Outcome {
        let slot = self.lock().slot(key, num_bytes);
        let outcome = slot.get_or_init(compile).clone();
        let mut entries = self.lock();
        if outcome.as_ref().is_err_and(|refusal| refusal.is_of_the_moment()) {
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
    fn slot(&mut self, key: Key, num_bytes: usize) -> Arc<OnceLock<Outcome>> {
        self.clock += 1;
        let used = self.clock;
        let entry = self.by_key.entry(key).or_insert_with(|| {
            self.num_bytes += num_bytes;
            Entry { outcome: Arc::default(), num_bytes, used }
        });
        entry.used = used;
        Arc::clone(&entry.outcome)
    }

    /// Drops `key` if it still stands for `slot`.
    fn forget(&mut self, key: &Key, slot: &Arc<OnceLock<Outcome>>) {
        if self.by_key.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.outcome, slot)) {
            self.remove(&key.clone());
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
            let Some(key) = oldest.map(|(key, _)| *key) else { return };
            self.remove(&key);
        }
    }
}
