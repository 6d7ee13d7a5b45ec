//! The device that computes nothing: it takes the time that the cost model says, and answers with
//! tokens until the length that the workload says.
//!
//! Time moves when a step is collected. Steps follow each other on the device; the host's share
//! comes before a step, and while the one before it is computed where the two overlap.

use std::collections::VecDeque;
use std::sync::Arc;

use folio_engine::exec::Executor;
use folio_engine::sched::Sequences;
use folio_engine::types::{
    BatchShape, Clock as _, CostModel, Emission, ManualClock, Nanos, Result, SampledToken,
    ScheduledSeq, SeqResult, SequenceId, StepOutput, StepPlan,
};

use crate::gaps::Gaps;
use crate::options::{Detail, Host, Overlap};
use crate::prompt::{STOP_TOKEN, generated};
use crate::window::Window;

/// What is known of a sequence that the scheduler is not to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Tokens of its prompt.
    pub prompt_len: u32,
    /// Tokens after which it stops by itself.
    pub output: u32,
    /// Leading tokens whose keys and values come from elsewhere: computing them takes no time,
    /// the first time.
    pub transferred: u32,
    /// Tokens that it got so far.
    pub num_tokens: u32,
    /// When its latest token was known; zero before the first.
    pub latest: Nanos,
    /// The longest time between two of its tokens.
    pub max_gap: Nanos,
    /// When each of its tokens was known, where that is wanted.
    pub tokens: Vec<Nanos>,
}

/// Carries plans out on a virtual clock. Deterministic.
#[derive(Debug)]
pub struct SimExecutor {
    cost: Arc<dyn CostModel>,
    host: Host,
    detail: Detail,
    clock: ManualClock,
    expected: Window<Expected>,
    /// Sequences of which something that was computed elsewhere is still to come.
    num_transferred: u64,
    in_flight: VecDeque<Step>,
    /// When the device has done all that was submitted.
    free_at: Nanos,
    gaps: Gaps,
    /// Lists of sequences, to be used again.
    spare: Vec<Vec<SequenceId>>,
}

/// A step between its submission and its end.
#[derive(Debug)]
struct Step {
    end: Nanos,
    output: StepOutput,
    /// Sequences that get a token.
    emitting: Vec<SequenceId>,
}

impl SimExecutor {
    /// A device on `clock`, which it moves.
    #[must_use]
    pub fn new(cost: Arc<dyn CostModel>, clock: ManualClock) -> Self {
        Self {
            cost,
            host: Host::default(),
            detail: Detail::default(),
            clock,
            expected: Window::default(),
            num_transferred: 0,
            in_flight: VecDeque::new(),
            free_at: Nanos(0),
            gaps: Gaps::default(),
            spare: Vec::new(),
        }
    }

    /// The same device beside a host whose work takes time.
    #[must_use]
    pub fn with_host(self, host: Host) -> Self {
        Self { host, ..self }
    }

    /// The same device, which remembers this much.
    #[must_use]
    pub fn with_detail(self, detail: Detail) -> Self {
        Self { detail, ..self }
    }

    /// Tells how long the answer of a sequence is, before it is first planned. A sequence that
    /// nothing is known of goes on until the scheduler ends it.
    pub fn expect(&mut self, id: SequenceId, expected: Expected) {
        self.num_transferred += u64::from(expected.transferred > 0);
        self.expected.insert(id.0, expected);
    }

    /// Forgets a sequence that has ended, and tells how it went.
    pub fn forget(&mut self, id: SequenceId) -> Option<Expected> {
        let expected = self.expected.remove(id.0)?;
        self.num_transferred -= u64::from(expected.transferred > 0);
        Some(expected)
    }

    /// When the oldest step in flight ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Nanos> {
        self.in_flight.front().map(|step| step.end)
    }

    /// Times between two tokens of the same sequence, all sequences together.
    #[must_use]
    pub fn take_gaps(&mut self) -> Gaps {
        std::mem::take(&mut self.gaps)
    }

    /// The shape of a plan, without what was computed elsewhere.
    fn shape(&mut self, plan: &StepPlan) -> BatchShape {
        if self.num_transferred == 0 {
            return BatchShape::of(plan);
        }
        let mut shape = BatchShape::default();
        for row in &plan.seqs {
            let mut positions = row.positions.clone();
            if let Some(expected) = self.expected.get_mut(row.id.0)
                && expected.transferred > 0
            {
                positions.start = positions.start.max(expected.transferred).min(positions.end);
                if row.positions.end > expected.transferred {
                    expected.transferred = 0;
                    self.num_transferred -= 1;
                }
            }
            shape.add(positions, if row.emits { Emission::Result } else { Emission::Nothing });
        }
        shape.num_swapped_blocks = (plan.swap_in.len() + plan.swap_out.len()) as u32;
        shape
    }

    /// What a row yields.
    fn result(&mut self, row: &ScheduledSeq) -> SeqResult {
        if !row.emits {
            return SeqResult::Computed;
        }
        let expected = self.expected.get_mut(row.id.0);
        let is_last = expected
            .is_some_and(|expected| row.positions.end + 1 >= expected.prompt_len + expected.output);
        let id = if is_last { STOP_TOKEN } else { generated(row.id.0, row.positions.end) };
        SeqResult::Token(SampledToken { id, logprobs: None })
    }

    /// Enters that `id` got a token at `now`.
    fn note_token(&mut self, id: SequenceId, now: Nanos) {
        let Some(expected) = self.expected.get_mut(id.0) else {
            return; // it has ended since
        };
        expected.num_tokens += 1;
        if expected.num_tokens > 1 {
            let gap = now.since(expected.latest);
            self.gaps.add(gap);
            expected.max_gap = expected.max_gap.max(gap);
        }
        expected.latest = now;
        if self.detail == Detail::Tokens {
            expected.tokens.push(now);
        }
    }
}

impl Executor for SimExecutor {
    fn max_in_flight(&self) -> usize {
        match self.host.overlap {
            Overlap::None => 1,
            Overlap::Ahead => 2,
        }
    }

    fn submit(&mut self, plan: &StepPlan, _: &mut Sequences) -> Result<()> {
        let shape = self.shape(plan);
        let device_time = self.cost.predict(&shape);
        let ready_at = self.clock.now() + self.host.time(plan.seqs.len() as u32);
        let end = ready_at.max(self.free_at) + device_time;
        self.free_at = end;
        let mut emitting = self.spare.pop().unwrap_or_default();
        emitting.extend(plan.seqs.iter().filter(|row| row.emits).map(|row| row.id));
        let results = plan.seqs.iter().map(|row| self.result(row)).collect();
        let output = StepOutput { results, prompt_scores: Vec::new(), device_time };
        self.in_flight.push_back(Step { end, output, emitting });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let Some(Step { end, output, mut emitting }) = self.in_flight.pop_front() else {
            return Err(folio_engine::types::Error::Device("no step is in flight".into()));
        };
        self.clock.advance_to(end);
        for id in emitting.drain(..) {
            self.note_token(id, end);
        }
        self.spare.push(emitting);
        Ok(output)
    }
}
