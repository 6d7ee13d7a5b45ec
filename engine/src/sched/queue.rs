//! Waiting sequences, ordered by rank within each model.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use super::Rank;
use crate::types::{ModelId, SequenceId};

/// Position in a model's order: rank, then arrival.
pub(super) type Position = (Rank, SequenceId);

/// Two ordered sets a model. All operations cost O(log waiting).
#[derive(Debug)]
pub(super) struct Queue {
    by_model: Vec<BTreeSet<Position>>,
    by_arrival: Vec<BTreeSet<SequenceId>>,
    places: HashMap<SequenceId, Place>,
    /// Tokens of all that wait.
    num_tokens: u64,
}

/// Where a sequence waits.
#[derive(Clone, Copy, Debug)]
struct Place {
    model: ModelId,
    rank: Rank,
    num_tokens: u32,
}

impl Queue {
    pub(super) fn new(num_models: usize) -> Self {
        Self {
            by_model: vec![BTreeSet::new(); num_models],
            by_arrival: vec![BTreeSet::new(); num_models],
            places: HashMap::new(),
            num_tokens: 0,
        }
    }

    /// Lets a sequence of `num_tokens` known tokens wait.
    pub(super) fn push(&mut self, id: SequenceId, model: ModelId, rank: Rank, num_tokens: u32) {
        let previous = self.places.insert(id, Place { model, rank, num_tokens });
        assert!(previous.is_none(), "sequence {id} waits already");
        self.num_tokens += u64::from(num_tokens);
        self.by_model[model.index()].insert((rank, id));
        self.by_arrival[model.index()].insert(id);
    }

    pub(super) fn remove(&mut self, id: SequenceId) -> Rank {
        let Some(Place { model, rank, num_tokens }) = self.places.remove(&id) else {
            panic!("sequence {id} does not wait")
        };
        self.num_tokens -= u64::from(num_tokens);
        self.by_model[model.index()].remove(&(rank, id));
        self.by_arrival[model.index()].remove(&id);
        rank
    }

    /// Gives a waiting sequence another rank.
    pub(super) fn move_to(&mut self, id: SequenceId, rank: Rank) {
        let place = self.places[&id];
        if place.rank != rank {
            self.remove(id);
            self.push(id, place.model, rank, place.num_tokens);
        }
    }

    /// The best position of `model` that comes after `previous`.
    pub(super) fn next(&self, model: ModelId, previous: Option<Position>) -> Option<Position> {
        let start = previous.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_model[model.index()].range((start, Bound::Unbounded)).next().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Tokens known of all that wait.
    pub(super) fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    pub(super) fn len_of(&self, model: ModelId) -> usize {
        self.by_model[model.index()].len()
    }

    /// The `num` of each model that wait longest.
    pub(super) fn oldest(&self, num: usize) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_arrival.iter().flat_map(move |ids| ids.iter().take(num)).copied()
    }

    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.places.contains_key(&id)
    }

    /// Model by model, best rank first.
    pub(super) fn iter(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_model.iter().flatten().map(|&(_, id)| id)
    }
}
