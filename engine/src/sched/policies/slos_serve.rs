//! Planning for service-level objectives by tier (SLOs-Serve, arXiv 2504.08784).
//!
//! Each step, tokens are first set aside for those that decode, one a TPOT each: who may wait for
//! the next step does. What is left until the tightest TPOT goes to prompts by their deadlines,
//! arrival and TTFT. Admission is soft: of the prompts in deadline order, the largest are set back
//! until the rest are predicted to be in time (Moore and Hodgson, 1968: no other choice leaves more
//! of them in time). Those set back are best effort: they get what nobody else wants, and after
//! `max_wait` they go first.

use std::sync::Arc;

use crate::sched::{
    Phase, Plan, Planner, PolicyContext, PolicyError, PolicyOptions, PolicyRequest, RERANK_WINDOW,
    Refused, SchedEvent, View,
};
use crate::types::{BatchShape, CostModel, Emission, Nanos, SequenceId};

/// Plans for the objectives of each request.
#[derive(Debug)]
pub struct SlosServe {
    targets: Targets,
    cost: Option<Arc<dyn CostModel>>,
    /// Without a cost model, the device time of a token lately, in nanoseconds.
    pace: f64,
    /// Tokens in the plan that was made last.
    num_tokens: u32,
}

/// Objectives of requests that have none of their own, and the patience of those set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Time to the first token.
    pub ttft: Nanos,
    /// Time between tokens.
    pub tpot: Nanos,
    /// Time after the arrival from which a request that was set back goes first.
    pub max_wait: Nanos,
}

impl Default for Targets {
    fn default() -> Self {
        let millis = |number: u64| Nanos(number * 1_000_000);
        Self { ttft: millis(2000), tpot: millis(50), max_wait: millis(30_000) }
    }
}

/// Prompt tokens of a step at the least, whatever decoding takes.
const MIN_CHUNK: u32 = 16;
/// Weight of the latest step in the smoothed pace.
const SMOOTHING: f64 = 0.1;

/// A sequence that decodes.
#[derive(Clone, Copy)]
struct Decoding {
    id: SequenceId,
    position: u32,
    /// When its next token is due.
    due: Nanos,
    tpot: Nanos,
}

/// A sequence with a prompt to compute.
#[derive(Clone, Copy)]
struct Prefill {
    id: SequenceId,
    start: u32,
    num_tokens: u32,
    deadline: Nanos,
    is_waiting: bool,
}

/// A step in the making.
struct Draft {
    shape: BatchShape,
    /// Time that it may take; `None` while nobody decodes.
    target: Option<Nanos>,
    /// Whether a waiting one found no blocks: nobody behind it passes.
    is_closed: bool,
}

impl SlosServe {
    /// Plans with these targets and, where there is one, this cost model.
    #[must_use]
    pub fn new(targets: Targets, cost: Option<Arc<dyn CostModel>>) -> Self {
        Self { targets, cost, pace: 0.0, num_tokens: 0 }
    }

    /// The keys `ttft`, `tpot` and `max_wait`.
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        let default = Targets::default();
        let targets = Targets {
            ttft: options.duration("ttft")?.unwrap_or(default.ttft),
            tpot: options.duration("tpot")?.unwrap_or(default.tpot),
            max_wait: options.duration("max_wait")?.unwrap_or(default.max_wait),
        };
        Ok(Self::new(targets, context.cost.clone()))
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        match &self.cost {
            Some(cost) => cost.predict(shape),
            None => Nanos((self.pace * f64::from(shape.num_tokens)) as u64),
        }
    }

    fn decoding(&self, view: &View<'_>) -> Vec<Decoding> {
        let running = view.running().filter_map(|id| view.request(id));
        let decoding = running.filter(|request| request.num_pending() == 1);
        let decoding = decoding.map(|request| {
            let tpot = request.slo().tpot.unwrap_or(self.targets.tpot);
            let first = request.first_token().unwrap_or(view.now());
            let due = first + Nanos(tpot.0.saturating_mul(u64::from(request.num_generated())));
            let position = request.num_known().saturating_sub(1);
            Decoding { id: request.id(), position, due, tpot }
        });
        let mut all: Vec<_> = decoding.collect();
        all.sort_by_key(|one| (one.due, one.id));
        all
    }

    fn prefill(&self, request: PolicyRequest<'_>, view: &View<'_>) -> Prefill {
        let is_waiting = request.phase() == Phase::Waiting;
        let num_tokens =
            if is_waiting { view.num_uncached_tokens(&request) } else { request.num_pending() };
        let ttft = request.slo().ttft.unwrap_or(self.targets.ttft);
        Prefill {
            id: request.id(),
            start: request.num_known().saturating_sub(num_tokens),
            num_tokens,
            deadline: request.arrival() + ttft,
            is_waiting,
        }
    }

    /// All prompts, in the order in which they are to be computed.
    fn prefills(&self, tokens_per_s: f64, view: &View<'_>) -> Vec<Prefill> {
        let running = view.running().filter_map(|id| view.request(id));
        let running = running.filter(|request| request.num_pending() > 1);
        let waiting = view.waiting().filter_map(|id| view.request(id)).take(RERANK_WINDOW);
        let mut all: Vec<_> = running.map(|request| self.prefill(request, view)).collect();
        all.extend(waiting.map(|request| self.prefill(request, view)));
        let arrival = |one: &Prefill| view.request(one.id).map(|request| request.arrival());
        let is_patient = |one: &Prefill| {
            arrival(one).is_some_and(|arrival| view.now().since(arrival) < self.targets.max_wait)
        };
        let (mut patient, mut first): (Vec<_>, Vec<_>) = all.into_iter().partition(is_patient);
        first.sort_by_key(|one| one.id);
        patient.sort_by_key(|one| (one.deadline, one.id));
        let (in_time, mut set_back) = admit(patient, view.now(), tokens_per_s);
        set_back.sort_by_key(|one| one.id);
        first.extend(in_time);
        first.extend(set_back);
        first
    }

    /// Tokens of a prompt from `start` on that fit into the step.
    fn room(&self, draft: &Draft, start: u32, most: u32) -> u32 {
        let Some(target) = draft.target else { return most };
        let fits = |num_tokens: u32| {
            let mut shape = draft.shape;
            shape.add(start..start.saturating_add(num_tokens), Emission::Nothing);
            self.predict(&shape) <= target
        };
        let (mut least, mut most) = (0, most);
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if fits(middle) {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        least
    }

    fn plan_decoding(decoding: &[Decoding], draft: &mut Draft, plan: &mut dyn Plan) {
        for one in decoding {
            while let Err(Refused::NoBlocks { .. }) = plan.grant(one.id, 1) {
                let Some(victim) = Self::victim(one.id, decoding, plan) else { break };
                let mode = plan.view().preemption();
                if plan.preempt(victim, mode).is_err() {
                    break;
                }
            }
            draft.shape.add(one.position..one.position + 1, Emission::Result);
        }
    }

    /// Who gives way to a decoding sequence: of those that do not decode, or else are due last.
    fn victim(id: SequenceId, decoding: &[Decoding], plan: &dyn Plan) -> Option<SequenceId> {
        let view = plan.view();
        let place = |id: SequenceId| decoding.iter().position(|one| one.id == id);
        let own = place(id);
        let oldest = view.running().min();
        let others = view.running().filter(|&other| other != id && Some(other) != oldest);
        let later = others.filter(|&other| place(other).is_none_or(|at| Some(at) > own));
        later.max_by_key(|&other| (place(other).is_none(), place(other), other))
    }

    fn plan_prefills(&self, prefills: &[Prefill], draft: &mut Draft, plan: &mut dyn Plan) {
        for one in prefills {
            if one.is_waiting && draft.is_closed {
                continue;
            }
            let most = one.num_tokens.min(plan.budget_left());
            let has_chunk = draft.shape.num_tokens > draft.shape.num_decode;
            let least = if has_chunk { 0 } else { MIN_CHUNK.min(most) };
            let num_tokens = self.room(draft, one.start, most).max(least);
            if num_tokens == 0 {
                return;
            }
            // A block for each that runs, so that who comes in pushes nobody out at once.
            let size = plan.view().kv().block_size;
            let need = num_tokens.div_ceil(size) + plan.view().num_running() as u32;
            let is_alone = plan.view().num_running() == 0;
            if one.is_waiting && !is_alone && need > plan.free_blocks() {
                draft.is_closed = true;
                continue;
            }
            match plan.grant(one.id, num_tokens) {
                Ok(granted) => draft.shape.add(one.start..one.start + granted, Emission::Nothing),
                Err(Refused::NoBudget) => return,
                Err(Refused::NoBlocks { .. }) => draft.is_closed |= one.is_waiting,
                Err(Refused::NotPlannable) => {}
            }
        }
    }

    /// Lets those decode too that could have waited, where there is time.
    fn plan_early(&self, early: &[Decoding], draft: &mut Draft, plan: &mut dyn Plan) {
        for one in early {
            let mut shape = draft.shape;
            shape.add(one.position..one.position + 1, Emission::Result);
            let fits = draft.target.is_none_or(|target| self.predict(&shape) <= target);
            if fits && plan.grant(one.id, 1).is_ok() {
                draft.shape = shape;
            }
        }
    }
}

/// Those of `prefills`, in order of their deadlines, that are in time if computed in this order at
/// `tokens_per_s`, as many as possible; and the others.
fn admit(prefills: Vec<Prefill>, now: Nanos, tokens_per_s: f64) -> (Vec<Prefill>, Vec<Prefill>) {
    let (mut in_time, mut set_back): (Vec<Prefill>, Vec<Prefill>) = (Vec::new(), Vec::new());
    let mut num_tokens = 0u64;
    for one in prefills {
        num_tokens += u64::from(one.num_tokens);
        in_time.push(one);
        let end = now + Nanos::from_secs_f64(num_tokens as f64 / tokens_per_s);
        if end <= one.deadline {
            continue;
        }
        let largest = in_time.iter().enumerate().max_by_key(|(_, one)| (one.num_tokens, one.id));
        if let Some((index, _)) = largest {
            let one = in_time.remove(index);
            num_tokens -= u64::from(one.num_tokens);
            set_back.push(one);
        }
    }
    (in_time, set_back)
}

impl Planner for SlosServe {
    fn name(&self) -> &'static str {
        "slos-serve"
    }

    fn plan(&mut self, plan: &mut dyn Plan) {
        let view = plan.view();
        let (now, decoding) = (view.now(), self.decoding(&view));
        let target = decoding.iter().map(|one| one.tpot).min();
        // Who is not due before the end of the step after this one can wait for it.
        let horizon = now + Nanos(target.unwrap_or_default().0.saturating_mul(2));
        let num_due = decoding.partition_point(|one| one.due <= horizon);
        let (due, early) = decoding.split_at(num_due);
        let mut draft = Draft { shape: BatchShape::default(), target, is_closed: false };
        for one in due {
            draft.shape.add(one.position..one.position + 1, Emission::Result);
        }
        let most = view.defaults().token_budget.saturating_sub(due.len() as u32).max(1);
        let chunk = self.room(&draft, 0, most).max(MIN_CHUNK.min(most));
        let mut full = draft.shape;
        full.add(0..chunk, Emission::Nothing);
        let tokens_per_s = f64::from(chunk) / self.predict(&full).as_secs_f64().max(1e-9);
        let prefills = self.prefills(tokens_per_s, &view);
        draft.shape = BatchShape::default();
        Self::plan_decoding(due, &mut draft, plan);
        self.plan_prefills(&prefills, &mut draft, plan);
        self.plan_early(early, &mut draft, plan);
        self.num_tokens = draft.shape.num_tokens;
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        if let SchedEvent::Stepped { device_time, .. } = *event
            && self.num_tokens > 0
        {
            let latest = device_time.0 as f64 / f64::from(self.num_tokens);
            let weight = if self.pace > 0.0 { SMOOTHING } else { 1.0 };
            self.pace += weight * (latest - self.pace);
        }
    }
}
