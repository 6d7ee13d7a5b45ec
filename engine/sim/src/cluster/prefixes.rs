//! Which engine has computed which prefix, as a router believes: it sees what it sent where, not
//! what the engines' caches have given up since.

use std::collections::{HashMap, VecDeque};

use crate::prompt::mix;
use crate::workload::Record;

/// Prefixes by engine. What an engine holds is bounded by its capacity; the prefix that was sent
/// there the longest ago is forgotten first.
#[derive(Clone, Debug, Default)]
pub struct PrefixIndex {
    engines: Vec<Engine>,
}

#[derive(Clone, Debug, Default)]
struct Engine {
    /// When a chain was last sent there, by the count of chains sent.
    latest: HashMap<u64, u64>,
    /// Chains in the order in which they were sent, with their count and tokens.
    sent: VecDeque<(u64, u64, u32)>,
    num_sent: u64,
    num_tokens: u64,
}

/// Identity of each of the leading blocks of a prompt together with those before it, and where
/// each ends.
fn chains(record: &Record) -> impl Iterator<Item = (u64, u32)> + '_ {
    let mut chain = 0;
    record.prefix.iter().enumerate().map(move |(index, &id)| {
        chain = mix(chain ^ mix(id));
        let end = (index as u32 + 1).saturating_mul(record.prefix_block).min(record.input);
        (chain, end)
    })
}

/// Chains in the order of sending from which on those sent again since are looked for.
const MIN_COMPACTED: usize = 1024;

impl PrefixIndex {
    /// Leading tokens of the prompt that `engine` should have.
    #[must_use]
    pub fn num_cached(&self, engine: usize, record: &Record) -> u32 {
        let Some(engine) = self.engines.get(engine) else { return 0 };
        let held = chains(record).take_while(|(chain, _)| engine.latest.contains_key(chain));
        held.last().map_or(0, |(_, end)| end)
    }

    /// The prompt is sent to `engine`, which holds `capacity` tokens at the most.
    pub fn enter(&mut self, engine: usize, record: &Record, capacity: u64) {
        if self.engines.len() <= engine {
            self.engines.resize_with(engine + 1, Engine::default);
        }
        let engine = &mut self.engines[engine];
        let mut start = 0;
        for (chain, end) in chains(record) {
            engine.enter(chain, end - start);
            start = end;
        }
        engine.shrink_to(capacity);
    }
}

impl Engine {
    fn enter(&mut self, chain: u64, num_tokens: u32) {
        self.num_sent += 1;
        if self.latest.insert(chain, self.num_sent).is_none() {
            self.num_tokens += u64::from(num_tokens);
        }
        self.sent.push_back((chain, self.num_sent, num_tokens));
    }

    /// Forgets what was sent the longest ago, until no more than `capacity` tokens are left.
    fn shrink_to(&mut self, capacity: u64) {
        if self.sent.len() > MIN_COMPACTED + 2 * self.latest.len() {
            let latest = &self.latest;
            self.sent.retain(|(chain, number, _)| latest.get(chain) == Some(number));
        }
        while let Some(&(chain, number, num_tokens)) = self.sent.front() {
            let is_latest = self.latest.get(&chain) == Some(&number);
            if is_latest && self.num_tokens <= capacity {
                return;
            }
            self.sent.pop_front();
            if is_latest {
                self.latest.remove(&chain);
                self.num_tokens -= u64::from(num_tokens);
            }
        }
    }
}
