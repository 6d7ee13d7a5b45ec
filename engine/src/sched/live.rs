//! A picture of the scheduler for people who watch it: who holds which block, who waits for what.
//!
//! Made only when somebody asks, between two steps; it changes nothing. Its size is bounded: at
//! most [`MAX_LIVE_SEQUENCES`] sequences and [`MAX_LIVE_CELLS`] cells, however large the engine.

use super::scheduler::{Scheduler, State};
use super::sequence::{Sequence, Status};
use crate::types::{ModelId, Nanos, RequestId, SequenceId};

/// Most sequences that a picture lists. The running ones come first.
pub const MAX_LIVE_SEQUENCES: usize = 1024;
/// Most cells in which a picture shows the block pool.
pub const MAX_LIVE_CELLS: u32 = 1 << 17;

/// The scheduler at one moment.
#[derive(Clone, Debug, Default)]
pub struct LiveView {
    /// The block pool.
    pub pool: LivePool,
    /// Running sequences, best rank first, then those that wait, in the order of the queue, then
    /// those that follow a sibling; cut off at [`MAX_LIVE_SEQUENCES`].
    pub sequences: Vec<LiveSequence>,
}

/// The block pool at one moment.
#[derive(Clone, Debug, Default)]
pub struct LivePool {
    /// Blocks whose content can be found again, held or not.
    pub num_cached_blocks: u32,
    /// Blocks that one cell stands for; more than 1 only in a pool of more blocks than
    /// [`MAX_LIVE_CELLS`]. Such a cell shows the one of its blocks with the highest code.
    pub blocks_per_cell: u32,
    /// The blocks by their index, the scratch block left out.
    pub cells: Vec<LiveCell>,
}

/// What a block is used for: one of the codes below, or [`LiveCell::FIRST_OWNER`] plus the place
/// in [`LiveView::sequences`] of the only sequence that holds it. [`LiveCell::PUBLISHED`] is added
/// to held blocks whose content can be found by other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveCell(pub u16);

/// How a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveState {
    /// It takes part in steps.
    Running,
    /// It waits for its first turn.
    Waiting,
    /// Its blocks were taken away, and it waits to go on.
    Preempted,
    /// It waits for a sibling to compute the prompt that both share.
    Following,
}

/// One sequence at one moment.
#[derive(Clone, Debug)]
pub struct LiveSequence {
    /// Which sequence.
    pub id: SequenceId,
    /// The request that it is a choice of.
    pub request: RequestId,
    /// Which choice.
    pub choice_index: u32,
    /// The model that computes it.
    pub model: ModelId,
    /// How it stands.
    pub state: LiveState,
    /// How far it is.
    pub progress: LiveProgress,
    /// Blocks that it holds, shared ones counted whole.
    pub num_blocks: u32,
    /// How often its blocks were taken away.
    pub num_preemptions: u32,
    /// Time since it was admitted.
    pub age: Nanos,
    /// Time until it was first part of a step, so far or for good.
    pub waited: Nanos,
}

/// How far a sequence is, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveProgress {
    /// Tokens of its prompt.
    pub num_prompt_tokens: u32,
    /// Those among them that came from the prefix cache.
    pub num_cached_tokens: u32,
    /// Tokens computed, generated ones included.
    pub num_computed_tokens: u32,
    /// Tokens generated.
    pub num_generated_tokens: u32,
    /// Most tokens that it may generate; 0 for an embedding.
    pub max_generated_tokens: u32,
}

impl LiveCell {
    /// Nobody holds it, and nothing in it is of use.
    pub const FREE: Self = Self(0);
    /// Nobody holds it; its content can be found again until the block is needed.
    pub const CACHED: Self = Self(1);
    /// Several sequences hold it.
    pub const SHARED: Self = Self(2);
    /// Held for a sequence that is not listed, or for a step in flight.
    pub const UNLISTED: Self = Self(3);
    /// Held by the first sequence of the list alone.
    pub const FIRST_OWNER: Self = Self(4);
    /// Bit of a held block whose content can be found by other requests.
    pub const PUBLISHED: u16 = 1 << 15;

    /// Held by the sequence at `place` of the list alone.
    fn owned_by(place: usize) -> Self {
        assert!(place < MAX_LIVE_SEQUENCES, "place {place} of {MAX_LIVE_SEQUENCES}");
        Self(Self::FIRST_OWNER.0 + place as u16)
    }
}

impl Scheduler {
    /// A picture of the state at `now`. Costs O(blocks + sequences).
    #[must_use]
    pub fn live_view(&self, now: Nanos) -> LiveView {
        let listed = self.state.listed();
        LiveView {
            pool: self.state.live_pool(&listed),
            sequences: listed.iter().map(|sequence| live_sequence(sequence, now)).collect(),
        }
    }
}

impl State {
    /// The sequences that a picture lists, in its order.
    fn listed(&self) -> Vec<&Sequence> {
        let running = self.running.iter().map(|&(_, id)| id);
        let is_running_encoder = |sequence: &&Sequence| {
            sequence.status == Status::Running && self.is_encoder(sequence.request.model)
        };
        let encoders = sorted(self.sequences.iter().filter(is_running_encoder).map(Sequence::id));
        let followers = sorted(self.followers.values().flatten().copied());
        running
            .chain(encoders)
            .chain(self.queue.iter())
            .chain(followers)
            .take(MAX_LIVE_SEQUENCES)
            .map(|id| self.sequences.get(id))
            .collect()
    }

    fn live_pool(&self, listed: &[&Sequence]) -> LivePool {
        let num_blocks = self.allocator.num_blocks();
        // Indexed by block, the scratch block included.
        let mut owners = vec![LiveCell::UNLISTED; num_blocks as usize + 1];
        for (place, sequence) in listed.iter().enumerate() {
            for id in sequence.table.blocks() {
                owners[id.index()] = LiveCell::owned_by(place);
            }
        }
        let cells =
            self.allocator.holds().zip(owners).skip(1).map(|((num_holders, is_cached), owner)| {
                let cell = match (num_holders, is_cached) {
                    (0, false) => return LiveCell::FREE,
                    (0, true) => return LiveCell::CACHED,
                    (1, _) => owner,
                    (2.., _) => LiveCell::SHARED,
                };
                LiveCell(cell.0 | if is_cached { LiveCell::PUBLISHED } else { 0 })
            });
        let blocks_per_cell = num_blocks.div_ceil(MAX_LIVE_CELLS).max(1);
        let mut cells: Vec<LiveCell> = cells.collect();
        if blocks_per_cell > 1 {
            let groups = cells.chunks(blocks_per_cell as usize);
            cells = groups.filter_map(|group| group.iter().max().copied()).collect();
        }
        let num_cached_blocks = self.allocator.num_cached();
        LivePool { num_cached_blocks, blocks_per_cell, cells }
    }
}

fn sorted(ids: impl Iterator<Item = SequenceId>) -> Vec<SequenceId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids
}

fn live_sequence(sequence: &Sequence, now: Nanos) -> LiveSequence {
    let stats = sequence.stats();
    let state = match sequence.status {
        Status::Running => LiveState::Running,
        Status::Waiting if stats.num_preemptions > 0 => LiveState::Preempted,
        Status::Waiting => LiveState::Waiting,
        Status::Following(_) => LiveState::Following,
    };
    LiveSequence {
        id: sequence.id,
        request: sequence.request.id,
        choice_index: sequence.choice_index,
        model: sequence.request.model,
        state,
        progress: LiveProgress {
            num_prompt_tokens: sequence.request.prompt_len,
            num_cached_tokens: stats.num_cached_tokens,
            num_computed_tokens: sequence.num_computed(),
            num_generated_tokens: sequence.num_generated(),
            max_generated_tokens: sequence.sampling().map_or(0, |params| params.stop.max_tokens),
        },
        num_blocks: sequence.table.num_blocks(),
        num_preemptions: stats.num_preemptions,
        age: now.since(stats.arrival),
        waited: stats.first_scheduled.unwrap_or(now).since(stats.arrival),
    }
}
