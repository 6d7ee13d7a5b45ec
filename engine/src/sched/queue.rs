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
    positions: HashMap<SequenceId, (ModelId, Rank)>,
}

impl Queue {
    pub(super) fn new(num_models: usize) -> Self {
        Self {
            by_model: vec![BTreeSet::new(); num_models],
            by_arrival: vec![BTreeSet::new(); num_models],
            positions: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, id: SequenceId, model: ModelId, rank: Rank) {
        let previous = self.positions.insert(id, (model, rank));
        assert!(previous.is_none(), "sequence {id} waits already");
        self.by_model[model.index()].insert((rank, id));
        self.by_arrival[model.index()].insert(id);
    }

    pub(super) fn remove(&mut self, id: SequenceId) -> Rank {
        let Some((model, rank)) = self.positions.remove(&id) else {
            panic!("sequence {id} does not wait")
        };
        self.by_model[model.index()].remove(&(rank, id));
        self.by_arrival[model.index()].remove(&id);
        rank
    }

    /// Gives a waiting sequence another rank.
    pub(super) fn move_to(&mut self, id: SequenceId, rank: Rank) {
        let model = self.positions[&id].0;
        if self.positions[&id].1 != rank {
            self.remove(id);
            self.push(id, model, rank);
        }
    }

    /// The best position of `model` that comes after `previous`.
    pub(super) fn next(&self, model: ModelId, previous: Option<Position>) -> Option<Position> {
        let start = previous.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_model[model.index()].range((start, Bound::Unbounded)).next().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(super) fn len_of(&self, model: ModelId) -> usize {
        self.by_model[model.index()].len()
    }

    /// The `num` of each model that wait longest.
    pub(super) fn oldest(&self, num: usize) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_arrival.iter().flat_map(move |ids| ids.iter().take(num)).copied()
    }

    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.positions.contains_key(&id)
    }

    /// Model by model, best rank first.
    pub(super) fn iter(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_model.iter().flatten().map(|&(_, id)| id)
    }
}
