//! Other tokens in place of a request's own, which share blocks in exactly the same way.
//!
//! All but the last two tokens of a block become 0; these become 32 bits each of a keyed hash of
//! the whole text up to them, and the key is forgotten with the log's writer. So equal beginnings
//! stay equal and different ones stay different, and nothing else can be learned of a text than
//! how long it is and with whom it shares a beginning.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

use crate::sched::decisions::{Arrival, Call, Decision, Input, RowResult};
use crate::types::{CacheSalt, EngineConfig, Nanos, PrefixCaching, RequestId, SequenceId, TokenId};

/// Takes the texts out of the calls of one engine, in order.
#[derive(Debug)]
pub struct Disguise {
    key: DefaultHasher,
    block_size: u32,
    caching: PrefixCaching,
    texts: HashMap<SequenceId, Text>,
    /// Sequences of the rows of the steps in flight, the oldest step first.
    in_flight: VecDeque<Vec<SequenceId>>,
    requests: HashMap<RequestId, Live>,
}

/// How far a text is hashed.
#[derive(Clone, Debug)]
struct Text {
    request: RequestId,
    /// `None` where nobody can share its blocks.
    hasher: Option<DefaultHasher>,
    len: u32,
}

/// A request of which some choice has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) at: Nanos,
    /// Without the prompt.
    pub(super) arrival: Arrival,
    pub(super) prompt_len: u32,
    num_choices: u32,
}

impl Disguise {
    /// For an engine of `config`, under a key that nobody knows.
    #[must_use]
    pub fn secret(config: &EngineConfig) -> Self {
        Self::new(config, RandomState::new().build_hasher())
    }

    /// For an engine of `config`, the same every time: for texts that are no secret.
    #[must_use]
    pub fn reproducible(config: &EngineConfig) -> Self {
        Self::new(config, DefaultHasher::new())
    }

    fn new(config: &EngineConfig, key: DefaultHasher) -> Self {
        Self {
            key,
            block_size: config.block_size,
            caching: config.prefix_caching,
            texts: HashMap::new(),
            in_flight: VecDeque::new(),
            requests: HashMap::new(),
        }
    }

    /// Replaces the tokens in `call`.
    pub fn apply(&mut self, call: &mut Call) {
        match &mut call.input {
            Input::Arrival(arrival) => self.arrive(call.at, arrival),
            Input::Commit { results, .. } => self.commit(results),
            Input::Reset { .. } | Input::FailAll { .. } => self.in_flight.clear(),
            Input::Gap { num_planned, num_ended, .. } => {
                self.in_flight.extend((0..*num_planned).map(|_| Vec::new()));
                self.in_flight.drain(..self.in_flight.len().min(*num_ended as usize));
            }
            Input::Plan | Input::Policy { .. } => {}
        }
        let is_end = matches!(call.input, Input::FailAll { .. });
        for decision in &call.decisions {
            match decision {
                Decision::Planned(planned) => {
                    self.in_flight.push_back(planned.rows.iter().map(|row| row.id).collect());
                }
                Decision::Ended { id, .. } => self.forget(*id),
                Decision::Refused(_) => {
                    if let Input::Arrival(arrival) = &call.input {
                        let ids = arrival.first.0..arrival.first.0 + u64::from(arrival.num_choices);
                        ids.for_each(|id| self.forget(SequenceId(id)));
                    }
                }
                _ => {}
            }
        }
        if is_end {
            self.texts.clear();
            self.requests.clear();
        }
    }

    /// Requests that have not ended, in the order of their arrival.
    pub(super) fn live(&self) -> Vec<&Live> {
        let mut live: Vec<_> = self.requests.values().collect();
        live.sort_unstable_by_key(|live| live.arrival.first);
        live
    }

    fn arrive(&mut self, at: Nanos, arrival: &mut Arrival) {
        // Encoders' texts share no blocks, but a policy may ask whether they would.
        let mut hasher = (self.caching == PrefixCaching::On).then(|| self.key.clone());
        if let Some(hasher) = &mut hasher {
            arrival.salt.hash(hasher);
        }
        arrival.salt = arrival.salt.map(|salt| {
            let mut hasher = self.key.clone();
            salt.hash(&mut hasher);
            CacheSalt(u128::from(hasher.finish()))
        });
        let mut text = Text { request: arrival.request, hasher, len: 0 };
        for token in &mut arrival.prompt {
            *token = text.extend(*token, self.block_size);
        }
        for index in 0..u64::from(arrival.num_choices) {
            self.texts.insert(SequenceId(arrival.first.0 + index), text.clone());
        }
        let prompt = std::mem::take(&mut arrival.prompt);
        let live = Live {
            at,
            arrival: arrival.clone(),
            prompt_len: text.len,
            num_choices: arrival.num_choices,
        };
        arrival.prompt = prompt;
        self.requests.insert(arrival.request, live);
    }

    fn commit(&mut self, results: &mut [RowResult]) {
        let ids = self.in_flight.pop_front().unwrap_or_default();
        let mut ids = ids.into_iter();
        for result in results {
            let text = ids.next().and_then(|id| self.texts.get_mut(&id));
            if let RowResult::Token(token) = result {
                *token = text.map_or(0, |text| text.extend(*token, self.block_size));
            }
        }
    }

    fn forget(&mut self, id: SequenceId) {
        let Some(Text { request, .. }) = self.texts.remove(&id) else { return };
        let Some(live) = self.requests.get_mut(&request) else { return };
        live.num_choices -= 1;
        if live.num_choices == 0 {
            self.requests.remove(&request);
        }
    }
}

impl Text {
    /// Adds `token`, and returns what stands for it.
    fn extend(&mut self, token: TokenId, block_size: u32) -> TokenId {
        let place = self.len % block_size;
        self.len += 1;
        let Some(hasher) = &mut self.hasher else { return 0 };
        hasher.write_u32(token);
        // The largest number stands for stop tokens where a log is replayed.
        let word = || (hasher.finish() as u32).clamp(1, u32::MAX - 1);
        if place + 2 >= block_size { word() } else { 0 }
    }
}
