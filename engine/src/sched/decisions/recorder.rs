//! Collects the calls of the scheduler while somebody wants them; costs one branch otherwise.

use std::collections::HashSet;
use std::ops::Range;

use super::{
    Arrival, BlameRecord, BlockMoves, Call, Check, Decision, HostNeed, Input, Levels, Obstacle,
    Planned, Row, RowResult, Wanted,
};
use crate::sched::scheduler::State;
use crate::sched::{Blame, Limits, Sequence};
use crate::types::{
    Choice, Delivery, Event, Nanos, Request, SampledToken, SeqResult, SequenceId, StepOutput,
    StepPlan, Task, TokenSource,
};

/// Collects calls between two takings.
#[derive(Debug, Default)]
pub(in crate::sched) struct Recorder {
    record: Option<Box<Record>>,
    /// Who is gone, and where that is found; `None` where the clients say so themselves.
    dictated: Option<Vec<(SequenceId, Check)>>,
}

#[derive(Debug, Default)]
struct Record {
    calls: Vec<Call>,
    /// When the latest call began.
    latest: Nanos,
    limits: Option<Limits>,
    /// Waiting sequences that were told to be held or skipped.
    told: HashSet<SequenceId>,
}

impl Recorder {
    /// Records from now on.
    pub(super) fn start(&mut self) {
        self.record.get_or_insert_default();
    }

    /// When the latest call began, as far as that was recorded.
    pub(in crate::sched) fn latest(&self) -> Nanos {
        self.record.as_ref().map_or(Nanos(0), |record| record.latest)
    }

    fn is_on(&self) -> bool {
        self.record.is_some()
    }

    pub(super) fn take(&mut self) -> Vec<Call> {
        self.record.as_mut().map(|record| std::mem::take(&mut record.calls)).unwrap_or_default()
    }

    pub(super) fn dictate(&mut self, gone: Vec<(SequenceId, Check)>) {
        self.dictated = Some(gone);
    }

    /// Whether it is dictated who is gone.
    pub(in crate::sched) fn is_dictating(&self) -> bool {
        self.dictated.is_some()
    }

    /// Whether the client of `sequence` is gone.
    #[inline]
    pub(in crate::sched) fn is_gone(&self, sequence: &Sequence, check: Check) -> bool {
        match &self.dictated {
            None => sequence.events().is_closed(),
            Some(gone) => gone.contains(&(sequence.id(), check)),
        }
    }

    /// Delivers a token; whether anybody takes it.
    #[inline]
    pub(in crate::sched) fn deliver(&self, sequence: &Sequence, token: SampledToken) -> Delivery {
        let delivery = sequence.events().send(Event::Token(token));
        let check = Check::Delivery;
        match &self.dictated {
            Some(gone) if gone.contains(&(sequence.id(), check)) => Delivery::Gone,
            _ => delivery,
        }
    }

    /// A call begins. `input` is made only where it is wanted.
    pub(in crate::sched) fn begin(&mut self, at: Nanos, input: impl FnOnce() -> Input) {
        if let Some(record) = &mut self.record {
            record.latest = at;
            let input = input();
            if matches!(input, Input::Reset { .. }) {
                record.told.clear(); // what is put back is told anew
            }
            record.calls.push(Call { at, input, decisions: Vec::new() });
        }
    }

    /// Something holds for waiting sequence `id` from now on, until it is admitted or ends.
    pub(in crate::sched) fn note_once(
        &mut self,
        id: SequenceId,
        decision: impl FnOnce() -> Decision,
    ) {
        if self.record.as_mut().is_some_and(|record| record.told.insert(id)) {
            self.note(decision);
        }
    }

    /// Something was decided in the call that began last.
    pub(in crate::sched) fn note(&mut self, decision: impl FnOnce() -> Decision) {
        let Some(record) = &mut self.record else { return };
        let Some(call) = record.calls.last_mut() else { return };
        let decision = decision();
        match &decision {
            Decision::Limits(limits) if record.limits == Some(*limits) => return,
            Decision::Limits(limits) => record.limits = Some(*limits),
            Decision::Admitted { id, .. } | Decision::Ended { id, .. } => {
                record.told.remove(id);
            }
            _ => {}
        }
        call.decisions.push(decision);
    }
}

impl State {
    /// The step that was planned.
    pub(in crate::sched) fn note_plan(&mut self, plan: &StepPlan) {
        let levels = if self.recorder.is_on() { self.levels() } else { Levels::default() };
        self.recorder.note(|| {
            let rows = plan.seqs.iter().map(|scheduled| Row {
                id: scheduled.id,
                start: scheduled.positions.start,
                num_tokens: scheduled.positions.len() as u32,
                emits: scheduled.emits,
                is_ahead: scheduled.token == TokenSource::Placeholder,
            });
            let moves = BlockMoves {
                num_copied: plan.copies.len() as u32,
                num_swapped_out: plan.swap_out.len() as u32,
                num_swapped_in: plan.swap_in.len() as u32,
            };
            let digest = digest(plan);
            Decision::Planned(Planned { rows: rows.collect(), moves, digest, levels })
        });
    }

    /// A waiting sequence that cannot be taken in, nor any behind it.
    pub(in crate::sched) fn note_blocked(
        &mut self,
        id: SequenceId,
        obstacle: impl FnOnce() -> Obstacle,
    ) {
        self.recorder.note(|| Decision::Blocked { id, obstacle: obstacle() });
    }

    fn levels(&self) -> Levels {
        let num_waiting = self.queue.len() as u32 + self.num_following;
        Levels {
            num_running: self.sequences.len() as u32 - num_waiting,
            num_waiting,
            num_free_blocks: self.allocator.num_free(),
            num_free_host_blocks: self.host.num_free(),
            num_evictions: self.allocator.counters().num_evictions,
        }
    }
}

/// What a request brings in.
pub(in crate::sched) fn arrival(request: &Request, next_sequence: u64) -> Input {
    let wanted = match &request.task {
        Task::Generate(params) => {
            let fits_device = params.fits_device(request.prompt.len() as u32);
            let host_need = |choice: &Choice| {
                let is_sampled = !choice.processors.is_empty() || !fits_device;
                match (choice.grammar.is_some(), is_sampled) {
                    (false, false) => HostNeed::Nothing,
                    (true, false) => HostNeed::Grammar,
                    (false, true) => HostNeed::Sampling,
                    (true, true) => HostNeed::GrammarAndSampling,
                }
            };
            Wanted::Generation {
                max_tokens: params.stop.max_tokens,
                scores_prompt: params.prompt_logprobs.is_some(),
                hosts: request.choices.iter().map(host_need).collect(),
            }
        }
        Task::Embed | Task::Score { .. } => Wanted::Pooled,
    };
    Input::Arrival(Box::new(Arrival {
        request: request.id,
        first: SequenceId(next_sequence),
        num_choices: request.choices.len() as u32,
        model: request.model,
        tenant: request.tenant,
        priority: request.priority,
        deadline: request.deadline,
        slo: request.slo,
        salt: request.cache_salt,
        prompt: request.prompt.clone(),
        wanted,
    }))
}

/// What the results of a step bring in.
pub(in crate::sched) fn commit(output: &StepOutput) -> Input {
    let results = output.results.iter().map(|result| match result {
        SeqResult::Computed => RowResult::Computed,
        SeqResult::Token(token) => RowResult::Token(token.id),
        SeqResult::Embedding(_) => RowResult::Pooled,
        SeqResult::Failed(message) => RowResult::Failed(message.clone()),
    });
    Input::Commit { device_time: output.device_time, results: results.collect() }
}

/// What a failure brings in.
pub(in crate::sched) fn reset(
    blame: Blame<'_>,
    arrivals: &[Range<SequenceId>],
    message: &str,
) -> Input {
    let blame = match blame {
        Blame::Step(plan) => {
            BlameRecord::Step(plan.seqs.iter().map(|scheduled| scheduled.id).collect())
        }
        Blame::Running => BlameRecord::Running,
        Blame::Arrivals => BlameRecord::Arrivals,
    };
    Input::Reset { blame, arrivals: arrivals.to_vec(), message: message.to_owned() }
}

/// A number that equal plans have in common and different ones hardly ever.
fn digest(plan: &StepPlan) -> u32 {
    let mut sum: u64 = 0x243f_6a88_85a3_08d3;
    let mut mix = |value: u64| {
        sum = (sum ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 29;
    };
    for scheduled in &plan.seqs {
        let is_ahead = scheduled.token == TokenSource::Placeholder;
        mix(scheduled.id.0);
        mix(u64::from(scheduled.positions.start) << 32 | u64::from(scheduled.positions.end));
        mix(u64::from(scheduled.model.0) << 2
            | u64::from(scheduled.emits) << 1
            | u64::from(is_ahead));
    }
    for copy in &plan.copies {
        mix(1 << 63 | u64::from(copy.source.0) << 32 | u64::from(copy.target.0));
    }
    for (swap, direction) in
        plan.swap_out.iter().map(|swap| (swap, 2)).chain(plan.swap_in.iter().map(|swap| (swap, 3)))
    {
        mix(direction << 62 | u64::from(swap.device.0) << 30 | u64::from(swap.host.0));
    }
    (sum >> 32) as u32
}
