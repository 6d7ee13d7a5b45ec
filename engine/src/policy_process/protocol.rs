//! The lines that are sent, and those that are answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sched::{PolicyContext, PolicyRequest, Tempo, View};
use crate::types::{Nanos, SequenceId};

/// Version of the protocol.
const PROTOCOL: u32 = 1;

/// The first line.
#[derive(Debug, Serialize)]
pub(super) struct Hello {
    protocol: u32,
    block_size: u32,
    seed: u64,
    simulated: bool,
}

impl Hello {
    pub(super) fn new(context: &PolicyContext) -> Self {
        Self {
            protocol: PROTOCOL,
            block_size: context.block_size,
            seed: context.seed,
            simulated: context.tempo == Tempo::Simulated,
        }
    }

    pub(super) fn line(&self) -> serde_json::Result<String> {
        line(self)
    }
}

/// What has changed since the line before.
#[derive(Debug, Default, Serialize)]
pub(super) struct Message {
    pub(super) step: u64,
    now_s: f64,
    running: usize,
    waiting: usize,
    free_blocks: u32,
    total_blocks: u32,
    pub(super) device_ns: u64,
    pub(super) arrived: Vec<Arrival>,
    /// Sequence and tokens found in the cache.
    pub(super) admitted: Vec<(u64, u32)>,
    /// Sequence and tokens.
    granted: BTreeMap<u64, u64>,
    pub(super) preempted: Vec<u64>,
    /// Sequence and tokens that it generated.
    pub(super) finished: Vec<(u64, u32)>,
    /// Sequence and tokens in the prefix cache.
    pub(super) cached: Vec<(u64, u32)>,
}

/// A sequence that begins to wait.
#[derive(Debug, Serialize)]
pub(super) struct Arrival {
    id: u64,
    request: u64,
    #[serde(rename = "arrival_s")]
    seconds: f64,
    priority: i32,
    tenant: u32,
    prompt: u32,
    max_tokens: u32,
    deadline_s: Option<f64>,
}

impl Arrival {
    pub(super) fn of(request: PolicyRequest<'_>, now: Nanos) -> Self {
        let left = |deadline: Nanos| seconds(deadline) - seconds(now);
        Self {
            id: request.id().0,
            request: request.request_id().0,
            seconds: seconds(request.arrival()),
            priority: request.priority(),
            tenant: request.tenant().0,
            prompt: request.prompt_len(),
            max_tokens: request.max_tokens(),
            deadline_s: request.deadline().map(left),
        }
    }
}

impl Message {
    /// Nothing yet, after `step`.
    pub(super) fn of_step(step: u64) -> Self {
        Self { step, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much there is to tell.
    pub(super) fn len(&self) -> usize {
        let lists = [self.arrived.len(), self.admitted.len(), self.granted.len()];
        let more = [self.preempted.len(), self.finished.len(), self.cached.len()];
        lists.into_iter().chain(more).sum()
    }

    pub(super) fn grant(&mut self, id: SequenceId, num_tokens: u32) {
        *self.granted.entry(id.0).or_default() += u64::from(num_tokens);
    }

    /// Takes down how things stand.
    pub(super) fn look(&mut self, view: &View<'_>) {
        self.now_s = seconds(view.now());
        self.running = view.num_running();
        self.waiting = view.num_waiting();
        self.free_blocks = view.kv().num_free;
        self.total_blocks = view.kv().num_blocks;
    }

    pub(super) fn line(&self) -> serde_json::Result<String> {
        line(self)
    }
}

fn line(value: &impl Serialize) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}

fn seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}

/// What the program says about the order.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// As before.
    Nothing,
    /// New ranks of these; others keep theirs.
    Ranks(Vec<(SequenceId, f64)>),
    /// These first, in this order; all others behind them.
    Order(Vec<SequenceId>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    step: u64,
    order: Option<Vec<u64>>,
    ranks: Option<BTreeMap<u64, f64>>,
}

/// As much of a line as is shown of one that is of no use.
const MAX_SHOWN: usize = 80;

impl Answer {
    /// Reads the answer to `step`. Every id must be one that `is_known`, living or not: an answer
    /// is often older than what it speaks of.
    pub(super) fn read(
        text: &str,
        step: u64,
        is_known: impl Fn(u64) -> bool,
    ) -> Result<Self, String> {
        let line: Line = serde_json::from_str(text).map_err(|error| {
            let shown: String = text.chars().take(MAX_SHOWN).collect();
            format!("{error}, in {shown:?}")
        })?;
        if line.step != step {
            return Err(format!("it answers step {}", line.step));
        }
        let check = |id: u64| {
            let unknown = || format!("it names sequence {id}, which was never there");
            is_known(id).then_some(SequenceId(id)).ok_or_else(unknown)
        };
        match (line.order, line.ranks) {
            (Some(_), Some(_)) => Err("it has both order and ranks".to_owned()),
            (None, None) => Ok(Self::Nothing),
            (Some(order), None) => {
                order.into_iter().map(check).collect::<Result<_, _>>().map(Self::Order)
            }
            (None, Some(ranks)) => {
                let ranks = ranks.into_iter().map(|(id, rank)| Ok((check(id)?, rank)));
                ranks.collect::<Result<_, String>>().map(Self::Ranks)
            }
        }
    }
}
