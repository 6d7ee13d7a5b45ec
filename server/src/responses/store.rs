//! Finished responses, kept in memory for later: for `previous_response_id`, `GET` and `DELETE`.
//!
//! Bounded by number and by bytes; the one that was used least recently goes. A response is found
//! under the name of the client that asked for it only. The lock is held for look-ups alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::error::ApiError;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most responses. 0 keeps none.
    pub max_count: usize,
    /// Most bytes of all of them, as JSON. What two responses share counts twice.
    pub max_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { max_count: 4096, max_bytes: 256 << 20 }
    }
}

/// A response that is kept.
#[derive(Debug)]
pub struct Kept {
    /// As it was sent.
    pub response: Value,
    /// The items of its own input.
    pub input: Vec<Arc<Value>>,
    /// Everything that a response after it goes on from: the items of all inputs and outputs.
    pub items: Vec<Arc<Value>>,
}

impl Kept {
    /// About as many bytes as it has as JSON.
    fn num_bytes(&self) -> usize {
        let items = self.items.iter().chain(&self.input).map(|item| json_len(item));
        json_len(&self.response) + items.sum::<usize>()
    }
}

fn json_len(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| 1 + json_len(item)).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(key, value)| key.len() + 4 + json_len(value)).sum::<usize>()
        }
        _ => 8,
    }
}

/// Client and id.
type Key = (Arc<str>, Arc<str>);

/// See the module.
#[derive(Debug)]
pub struct Store {
    limits: StoreLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// Which entry was used when: the first is the one to go.
    order: BTreeMap<u64, Key>,
    next_use: u64,
    num_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    kept: Arc<Kept>,
    num_bytes: usize,
    last_use: u64,
}

impl Store {
    /// An empty one.
    pub fn new(limits: StoreLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Whether it keeps anything at all.
    pub fn is_on(&self) -> bool {
        self.limits.max_count > 0
    }

    /// How much it keeps.
    pub fn limits(&self) -> StoreLimits {
        self.limits
    }

    /// Keeps the response `id` of `client`, and lets others go until there is room. One that is
    /// larger than all the room is not kept.
    pub fn put(&self, client: &Arc<str>, id: &str, kept: Kept) {
        let num_bytes = kept.num_bytes();
        if !self.is_on() || num_bytes > self.limits.max_bytes {
            return;
        }
        let key: Key = (Arc::clone(client), id.into());
        let mut state = self.lock();
        state.remove(&key);
        while state.entries.len() >= self.limits.max_count
            || state.num_bytes + num_bytes > self.limits.max_bytes
        {
            let Some(oldest) = state.order.first_key_value().map(|(_, key)| key.clone()) else {
                break;
            };
            state.remove(&oldest);
        }
        let last_use = state.tick();
        state.order.insert(last_use, key.clone());
        state.num_bytes += num_bytes;
        state.entries.insert(key, Entry { kept: Arc::new(kept), num_bytes, last_use });
    }

    /// The response `id` of `client`, which is thereby used. `param` is the field that named it.
    ///
    /// # Errors
    /// 404 if it is not kept, or is another client's.
    pub fn get(&self, client: &Arc<str>, id: &str, param: &str) -> Result<Arc<Kept>, ApiError> {
        let key: Key = (Arc::clone(client), id.into());
        let mut state = self.lock();
        let now = state.tick();
        let Some(entry) = state.entries.get_mut(&key) else {
            return Err(self.not_found(id, param));
        };
        let before = std::mem::replace(&mut entry.last_use, now);
        let kept = Arc::clone(&entry.kept);
        state.order.remove(&before);
        state.order.insert(now, key);
        Ok(kept)
    }

    /// Forgets the response `id` of `client`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn delete(&self, client: &Arc<str>, id: &str) -> Result<(), ApiError> {
        let key: Key = (Arc::clone(client), id.into());
        if self.lock().remove(&key) {
            return Ok(());
        }
        Err(self.not_found(id, "response_id"))
    }

    fn not_found(&self, id: &str, param: &str) -> ApiError {
        let StoreLimits { max_count, max_bytes } = self.limits;
        ApiError::response_not_found(
            param,
            format!(
                "there is no response {id:?}: it never was, was sent with store = false, was \
                 deleted, or was dropped because this server keeps at most {max_count} responses \
                 of {max_bytes} bytes together"
            ),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way, so what a panic left behind is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.next_use += 1;
        self.next_use
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.order.remove(&entry.last_use);
        self.num_bytes -= entry.num_bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(text: &str) -> Kept {
        Kept { response: json!({ "text": text }), input: Vec::new(), items: Vec::new() }
    }

    fn client(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let store = Store::new(StoreLimits { max_count: 2, max_bytes: 1 << 20 });
        let ann = client("ann");
        store.put(&ann, "a", kept("1"));
        store.put(&ann, "b", kept("2"));
        store.get(&ann, "a", "id").unwrap();
        store.put(&ann, "c", kept("3"));
        assert!(store.get(&ann, "b", "id").is_err());
        assert_eq!(store.get(&ann, "a", "id").unwrap().response["text"], "1");
        store.get(&ann, "c", "id").unwrap();
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let store = Store::new(StoreLimits { max_count: 100, max_bytes: 1000 });
        let ann = client("ann");
        for id in 0..50 {
            store.put(&ann, &id.to_string(), kept(&"x".repeat(100)));
            assert!(store.lock().num_bytes <= 1000);
        }
        assert!((4..10).contains(&store.lock().entries.len()));
        store.put(&ann, "large", kept(&"x".repeat(2000)));
        assert!(store.get(&ann, "large", "id").is_err());
        for id in 0..50 {
            let _ = store.delete(&ann, &id.to_string());
        }
        let state = store.lock();
        assert_eq!((state.num_bytes, state.entries.len(), state.order.len()), (0, 0, 0));
    }

    #[test]
    fn another_client_finds_nothing() {
        let store = Store::new(StoreLimits::default());
        store.put(&client("ann"), "a", kept("1"));
        let bob = client("bob");
        assert_eq!(store.get(&bob, "a", "id").unwrap_err().status(), 404);
        assert_eq!(store.delete(&bob, "a").unwrap_err().status(), 404);
        store.get(&client("ann"), "a", "id").unwrap();
    }
}
