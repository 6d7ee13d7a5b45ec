//! Waiting sequences, ordered by rank within each model.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::Rank;
use super::window::Window;
use crate::types::{ModelId, SequenceId};

/// Position in a model's order: rank, then arrival.
pub(super) type Position = (Rank, SequenceId);

/// Moving one sequence costs about as much as sorting in this many.
const MOVE_COST: usize = 8;

/// An ordered set a model. All operations cost O(log waiting) at the most.
#[derive(Debug)]
pub(super) struct Queue {
    by_model: Vec<BTreeSet<Position>>,
    places: Window<Place>,
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
        let by_model = vec![BTreeSet::new(); num_models];
        Self { by_model, places: Window::default(), num_tokens: 0 }
    }

    /// Lets a sequence of `num_tokens` known tokens wait.
    pub(super) fn push(&mut self, id: SequenceId, model: ModelId, rank: Rank, num_tokens: u32) {
        let previous = self.places.insert(id, Place { model, rank, num_tokens });
        assert!(previous.is_none(), "sequence {id} waits already");
        self.num_tokens += u64::from(num_tokens);
        self.by_model[model.index()].insert((rank, id));
    }

    pub(super) fn remove(&mut self, id: SequenceId) -> Rank {
        let Some(Place { model, rank, num_tokens }) = self.places.remove(id) else {
            panic!("sequence {id} does not wait")
        };
        self.num_tokens -= u64::from(num_tokens);
        self.by_model[model.index()].remove(&(rank, id));
        rank
    }

    /// Gives waiting sequences these ranks. Those that keep theirs cost next to nothing, and many
    /// that do not cost a sort.
    pub(super) fn rank_again(&mut self, ranks: &[Position]) {
        let mut num_moved = vec![0; self.by_model.len()];
        for &(rank, id) in ranks {
            let place = self.place(id);
            num_moved[place.model.index()] += usize::from(place.rank != rank);
        }
        let lengths = self.by_model.iter().map(BTreeSet::len);
        let is_cheap = lengths.zip(&num_moved).map(|(len, num)| num * MOVE_COST < len);
        let is_cheap: Vec<bool> = is_cheap.collect();
        for &(rank, id) in ranks {
            let place = self.place(id);
            let (model, previous) = (place.model.index(), std::mem::replace(&mut place.rank, rank));
            if is_cheap[model] && previous != rank {
                self.by_model[model].remove(&(previous, id));
                self.by_model[model].insert((rank, id));
            }
        }
        for model in (0..self.by_model.len()).filter(|&model| !is_cheap[model]) {
            if num_moved[model] > 0 {
                self.sort(model);
            }
        }
    }

    /// Enters all positions of a model anew, at the ranks noted in their places.
    fn sort(&mut self, model: usize) {
        let old = std::mem::take(&mut self.by_model[model]);
        let positions = old.into_iter().map(|(_, id)| (self.place(id).rank, id));
        self.by_model[model] = positions.collect();
    }

    fn place(&mut self, id: SequenceId) -> &mut Place {
        let Some(place) = self.places.get_mut(id) else { panic!("sequence {id} does not wait") };
        place
    }

    /// The best position of `model` that comes after `previous`.
    pub(super) fn next(&self, model: ModelId, previous: Option<Position>) -> Option<Position> {
        let positions = &self.by_model[model.index()];
        match previous {
            None => positions.first().copied(),
            Some(previous) => {
                let rest = (Bound::Excluded(previous), Bound::Unbounded);
                positions.range(rest).next().copied()
            }
        }
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
        self.by_model.iter().zip(0..).flat_map(move |(positions, index)| {
            let is_of_model = move |(_, place): &(_, &Place)| place.model == ModelId(index);
            let num = num.min(positions.len());
            self.places.iter().filter(is_of_model).take(num).map(|(id, _)| id)
        })
    }

    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.places.contains(id)
    }

    /// Model by model, best rank first.
    pub(super) fn iter(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.by_model.iter().flatten().map(|&(_, id)| id)
    }
}
