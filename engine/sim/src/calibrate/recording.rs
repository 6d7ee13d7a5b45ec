//! What a decision log tells of a run: who asked for what, and how long each step took.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io::Read;
use std::sync::Arc;

use folio_engine::decisions::{Entry, Header, LogReader};
use folio_engine::sched::decisions::{Arrival, Call, Decision, Input, Planned, RowResult, Wanted};
use folio_engine::types::{BatchShape, Emission, ModelId, Nanos, SequenceId};

use super::CalibrateError;
use crate::metrics::Metric;
use crate::profile::StepTime;
use crate::workload::Record;

/// A run as a decision log tells of it. Only the first model is looked at.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What the log is of.
    pub header: Header,
    /// Sequences that got a token, in the order of their arrival.
    pub requests: Vec<Recorded>,
    /// Steps of the first model alone, in order.
    pub steps: Vec<StepTime>,
    /// Whether steps were planned while others ran.
    pub is_ahead: bool,
    /// The longest answer that was asked for.
    pub max_tokens: u32,
    /// Sequences that never got a token.
    pub num_left_out: u64,
    /// Time between the first call and the last.
    pub span: Nanos,
    /// When the first call was, by the engine's clock: all times of requests count from here.
    pub begin: Nanos,
}

/// A sequence of a recorded run.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// What was asked for, with what was answered.
    pub record: Record,
    /// When its first token was known.
    pub first_token: Nanos,
    /// When its last token was known.
    pub last_token: Nanos,
}

impl Recorded {
    /// A latency in milliseconds, where it has one.
    #[must_use]
    pub fn of_ms(&self, metric: Metric) -> Option<f64> {
        let in_ms = |time: Nanos| time.0 as f64 * 1e-6;
        let num_gaps = f64::from(self.record.output.saturating_sub(1));
        match metric {
            Metric::Ttft => Some(in_ms(self.first_token.since(self.record.arrival))),
            Metric::E2el => Some(in_ms(self.last_token.since(self.record.arrival))),
            Metric::Tpot if num_gaps > 0.0 => {
                Some(in_ms(self.last_token.since(self.first_token)) / num_gaps)
            }
            _ => None,
        }
    }
}

impl Recording {
    /// Reads a log to its end, or to where it is cut off or has a gap.
    pub fn read<R: Read>(log: LogReader<R>) -> Result<Self, CalibrateError> {
        let mut reader = Reader::new(log.header().clone());
        for entry in log {
            match entry {
                Ok(Entry::Call(call)) if matches!(call.input, Input::Gap { .. }) => break,
                Ok(Entry::Call(call)) => reader.enter(&call),
                Ok(Entry::Label { .. } | Entry::Carried { .. }) => {}
                Err(_) if reader.last.0 > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reader.finish())
    }

    /// What ran, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let model = self.header.models.first().map_or("", |model| &model.name);
        format!(
            "{model} under {}: {} requests, {} steps in {:.1} s",
            self.header.policy,
            self.requests.len(),
            self.steps.len(),
            self.span.as_secs_f64()
        )
    }

    /// Share of the time in which steps ran, their host part included.
    #[must_use]
    pub fn load(&self) -> f64 {
        let busy: u64 = self.steps.iter().map(|step| step.device.0 + step.host.0).sum();
        busy as f64 / self.span.0.max(1) as f64
    }

    /// Tokens of answers a second, from the first arrival to the last token.
    #[must_use]
    pub fn tokens_per_s(&self) -> f64 {
        let begin = self.requests.iter().map(|one| one.record.arrival).min().unwrap_or_default();
        let end = self.requests.iter().map(|one| one.last_token).max().unwrap_or_default();
        let num_tokens: u64 = self.requests.iter().map(|one| u64::from(one.record.output)).sum();
        num_tokens as f64 / end.since(begin).as_secs_f64().max(1e-9)
    }

    /// The same requests for a simulation.
    #[must_use]
    pub fn workload(&self, with_prefixes: bool) -> Vec<Record> {
        let records = self.requests.iter().map(|one| one.record.clone());
        let own = |record: Record| Record { prefix: Arc::from([]), prefix_block: 0, ..record };
        if with_prefixes { records.collect() } else { records.map(own).collect() }
    }
}

/// What is known of a sequence so far.
struct Seen {
    record: Record,
    first_token: Option<Nanos>,
    last_token: Nanos,
}

/// A step that runs.
struct Running {
    begin: Nanos,
    rows: Vec<SequenceId>,
    /// `None` where it is not of the first model alone.
    shape: Option<BatchShape>,
    /// Whether it was planned with no other in flight.
    is_alone: bool,
}

/// Follows a log call by call.
struct Reader {
    recording: Recording,
    seen: HashMap<SequenceId, Seen>,
    /// Sequences of the first model, in the order of their arrival.
    order: Vec<SequenceId>,
    in_flight: VecDeque<Running>,
    num_live: u64,
    /// When the last step ended, if work was left then: what follows is the host's.
    ended: Option<Nanos>,
    first: Option<Nanos>,
    last: Nanos,
}

impl Reader {
    fn new(header: Header) -> Self {
        Self {
            recording: Recording {
                header,
                requests: Vec::new(),
                steps: Vec::new(),
                is_ahead: false,
                max_tokens: 1,
                num_left_out: 0,
                span: Nanos(0),
                begin: Nanos(0),
            },
            seen: HashMap::new(),
            order: Vec::new(),
            in_flight: VecDeque::new(),
            num_live: 0,
            ended: None,
            first: None,
            last: Nanos(0),
        }
    }

    fn enter(&mut self, call: &Call) {
        self.first.get_or_insert(call.at);
        self.last = call.at;
        match &call.input {
            Input::Arrival(arrival) => self.arrive(arrival, call.at),
            Input::Plan => {
                let planned = call.decisions.iter().find_map(|decision| match decision {
                    Decision::Planned(planned) => Some(planned),
                    _ => None,
                });
                if let Some(planned) = planned {
                    self.plan(planned, call.at);
                }
            }
            Input::Commit { device_time, results } => {
                self.commit(*device_time, results, call.at);
            }
            Input::Reset { .. } | Input::FailAll { .. } => self.in_flight.clear(),
            Input::Policy { .. } | Input::Gap { .. } => {}
        }
        let ends = call.decisions.iter();
        let num_ended = ends.filter(|one| matches!(one, Decision::Ended { .. })).count() as u64;
        self.num_live = self.num_live.saturating_sub(num_ended);
        if self.num_live == 0 {
            self.ended = None;
        }
    }

    fn arrive(&mut self, arrival: &Arrival, at: Nanos) {
        let Wanted::Generation { max_tokens, .. } = arrival.wanted else {
            self.num_live += u64::from(arrival.num_choices);
            return;
        };
        self.num_live += u64::from(arrival.num_choices);
        if arrival.model != ModelId(0) {
            return;
        }
        self.recording.max_tokens = self.recording.max_tokens.max(max_tokens);
        let block_size = self.recording.header.engine.block_size;
        let record = Record {
            arrival: at,
            tenant: arrival.tenant.0,
            input: arrival.prompt.len() as u32,
            prefix: prefix(arrival, block_size),
            prefix_block: block_size,
            priority: arrival.priority,
            slo: arrival.slo,
            ..Record::default()
        };
        for choice in 0..u64::from(arrival.num_choices) {
            let id = SequenceId(arrival.first.0 + choice);
            let record = record.clone();
            self.seen.insert(id, Seen { record, first_token: None, last_token: at });
            self.order.push(id);
        }
    }

    fn plan(&mut self, planned: &Planned, at: Nanos) {
        // The time since the end of the last step is that step's.
        if let (Some(ended), Some(step)) = (self.ended.take(), self.recording.steps.last_mut()) {
            step.host = step.host + at.since(ended);
        }
        let is_ours = planned.rows.iter().all(|row| self.seen.contains_key(&row.id));
        let mut shape = BatchShape::default();
        for row in &planned.rows {
            let emission = if row.emits { Emission::Result } else { Emission::Nothing };
            shape.add(row.start..row.start + row.num_tokens, emission);
        }
        shape.num_swapped_blocks = planned.moves.num_swapped_in + planned.moves.num_swapped_out;
        let is_alone = self.in_flight.is_empty();
        self.recording.is_ahead |= !is_alone;
        self.in_flight.push_back(Running {
            begin: at,
            rows: planned.rows.iter().map(|row| row.id).collect(),
            shape: is_ours.then_some(shape),
            is_alone,
        });
    }

    fn commit(&mut self, device: Nanos, results: &[RowResult], at: Nanos) {
        let Some(step) = self.in_flight.pop_front() else { return };
        for (id, result) in step.rows.iter().zip(results) {
            if let (Some(seen), RowResult::Token(_)) = (self.seen.get_mut(id), result) {
                seen.record.output += 1;
                seen.first_token.get_or_insert(at);
                seen.last_token = at;
            }
        }
        if let Some(shape) = step.shape {
            let is_alone = step.is_alone && self.in_flight.is_empty();
            let host = if is_alone { at.since(step.begin).since(device) } else { Nanos(0) };
            self.recording.steps.push(StepTime { shape, device, host });
            self.ended = is_alone.then_some(at);
        } else {
            self.ended = None;
        }
    }

    fn finish(mut self) -> Recording {
        let first = self.first.unwrap_or_default();
        self.recording.span = self.last.since(first);
        self.recording.begin = first;
        for id in &self.order {
            let Some(mut seen) = self.seen.remove(id) else { continue };
            let Some(first_token) = seen.first_token else {
                self.recording.num_left_out += 1;
                continue;
            };
            seen.record.arrival = seen.record.arrival.since(first);
            self.recording.requests.push(Recorded {
                record: seen.record,
                first_token: first_token.since(first),
                last_token: seen.last_token.since(first),
            });
        }
        self.recording
    }
}

/// Ids of the prompt's whole blocks. In a log the end of a block stands for all up to it.
fn prefix(arrival: &Arrival, block_size: u32) -> Arc<[u64]> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let salt = arrival.salt.map(|salt| salt.0);
    let blocks = arrival.prompt.chunks_exact(block_size.max(1) as usize);
    blocks.map(|block| hasher.hash_one((salt, block))).collect()
}
