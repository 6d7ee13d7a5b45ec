//! How long a step takes, as a function of its shape.
//!
//! A [`BatchShape`] is what is left of a plan when everything that does not change its time is
//! forgotten: a handful of sums. A [`CostModel`] maps it to a time. The models themselves
//! (roofline, fitted, table) are the simulator's; policies that look ahead see only the trait.

use std::fmt::Debug;
use std::ops::Range;

use super::{Nanos, StepPlan};

/// The work of one step, summed up. All zero: a step that computes nothing.
///
/// A row is one sequence's share of the step. A row of one token is a *decode row*, be it the next
/// token of a generation or the last of a prompt: the device cannot tell them apart. Every
/// longer row is a *prefill chunk*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchShape {
    /// Rows, B.
    pub num_seqs: u32,
    /// Positions computed in all rows together, T.
    pub num_tokens: u32,
    /// Rows that go through the language model's head, E.
    pub num_emitting: u32,
    /// Decode rows.
    pub num_decode: u32,
    /// Positions that decode rows find computed and read: the sum of their starts.
    pub decode_context: u64,
    /// Pairs of a query and a key in prefill chunks: the sum of c (x + c / 2) over chunks of c
    /// positions after x that are computed, each rounded down.
    pub prefill_work: u64,
    /// Positions that prefill chunks find computed and read: the sum of their starts.
    pub prefill_context: u64,
    /// Blocks that move between the device and the host, both ways together.
    pub num_swapped_blocks: u32,
}

/// Whether a row's last position yields something: a sampled token or an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emission {
    /// It ends before the sequence's last known token.
    Nothing,
    /// It goes through the head.
    Result,
}

impl BatchShape {
    /// The shape of `plan`.
    #[must_use]
    pub fn of(plan: &StepPlan) -> Self {
        let mut shape = Self::default();
        for seq in &plan.seqs {
            let emission = if seq.emits { Emission::Result } else { Emission::Nothing };
            shape.add(seq.positions.clone(), emission);
        }
        let num_swapped = plan.swap_in.len() + plan.swap_out.len();
        shape.num_swapped_blocks = u32::try_from(num_swapped).unwrap_or(u32::MAX);
        shape
    }

    /// The shape of one sequence's row alone.
    #[must_use]
    pub fn row(positions: Range<u32>, emission: Emission) -> Self {
        let mut shape = Self::default();
        shape.add(positions, emission);
        shape
    }

    /// Adds one sequence's row; an empty range adds nothing.
    pub fn add(&mut self, positions: Range<u32>, emission: Emission) {
        let num_tokens = positions.end.saturating_sub(positions.start);
        if num_tokens == 0 {
            return;
        }
        let context = u64::from(positions.start);
        self.num_seqs += 1;
        self.num_tokens += num_tokens;
        self.num_emitting += u32::from(emission == Emission::Result);
        if num_tokens == 1 {
            self.num_decode += 1;
            self.decode_context += context;
        } else {
            let chunk = u64::from(num_tokens);
            self.prefill_work += chunk * context + chunk * chunk / 2;
            self.prefill_context += context;
        }
    }

    /// Whether every row is a decode row: the steps that a device runs from a captured graph.
    #[must_use]
    pub fn is_pure_decode(&self) -> bool {
        self.num_decode == self.num_seqs
    }

    /// Prefill chunks.
    #[must_use]
    pub fn num_prefill(&self) -> u32 {
        self.num_seqs - self.num_decode
    }

    /// Positions computed in prefill chunks.
    #[must_use]
    pub fn num_prefill_tokens(&self) -> u32 {
        self.num_tokens - self.num_decode
    }
}

/// Predicts the time that the device needs for a step.
///
/// A pure function: the same shape always takes the same time. A model with noise derives it
/// from its seed and the shape.
pub trait CostModel: Send + Sync + Debug {
    /// What to call it in results: its specification, such as `roofline:h100`.
    fn name(&self) -> &str;

    /// Device time of a step of this shape, in nanoseconds.
    fn predict(&self, shape: &BatchShape) -> Nanos;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{
        BlockId, BlockSwap, HostBlockId, ModelId, ScheduledSeq, SequenceId, TokenSource,
    };

    fn seq(id: u64, positions: Range<u32>, emits: bool) -> ScheduledSeq {
        let (id, token) = (SequenceId(id), TokenSource::Known);
        ScheduledSeq { id, model: ModelId(0), positions, token, emits }
    }

    /// Counted by hand: two decodes at 100 and 7, the last token of a prompt at 31, a chunk of
    /// 4 after 10 (4 * 10 + 8 pairs) and a chunk of 5 after 0 (12 pairs, half of 25 rounded down).
    #[test]
    fn the_shape_of_a_mixed_plan_is_that_counted_by_hand() {
        let block = BlockSwap { device: BlockId(3), host: HostBlockId(0) };
        let plan = StepPlan {
            seqs: vec![
                seq(1, 100..101, true),
                seq(2, 7..8, true),
                seq(3, 31..32, true),
                seq(4, 10..14, false),
                seq(5, 0..5, true),
            ],
            swap_out: vec![block, block],
            swap_in: vec![block],
            ..StepPlan::default()
        };
        let shape = BatchShape::of(&plan);
        let expected = BatchShape {
            num_seqs: 5,
            num_tokens: 12,
            num_emitting: 4,
            num_decode: 3,
            decode_context: 138,
            prefill_work: 48 + 12,
            prefill_context: 10,
            num_swapped_blocks: 3,
        };
        assert_eq!(shape, expected);
        assert_eq!(shape.num_prefill(), 2);
        assert_eq!(shape.num_prefill_tokens(), 9);
        assert!(!shape.is_pure_decode());
    }

    #[test]
    fn an_empty_plan_has_an_empty_shape() {
        assert_eq!(BatchShape::of(&StepPlan::default()), BatchShape::default());
        assert_eq!(BatchShape::row(5..5, Emission::Result), BatchShape::default());
    }

    #[test]
    fn the_work_of_a_long_prompt_does_not_overflow() {
        let shape = BatchShape::row(0..u32::MAX, Emission::Result);
        assert_eq!(shape.prefill_work, u64::from(u32::MAX).pow(2) / 2);
    }

    /// Splitting a prompt changes only the rounding of the pairs and what is read again.
    #[test]
    fn chunks_of_a_prompt_add_up_to_its_work() {
        let whole = BatchShape::row(0..96, Emission::Result);
        let mut parts = BatchShape::row(0..32, Emission::Nothing);
        parts.add(32..96, Emission::Result);
        assert_eq!(whole.prefill_work, parts.prefill_work);
        assert_eq!(whole.num_tokens, parts.num_tokens);
        assert_eq!(parts.prefill_context, 32);
    }
}
