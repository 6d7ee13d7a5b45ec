//! A token budget that holds a target for the time between tokens.
//!
//! Whoever decodes gets a token a step, so the step must end within the target; prompts get what
//! is left (Sarathi-Serve, arXiv 2403.02310, which sets the budget once by profiling). With a cost
//! model the largest budget that fits is looked up; without one it is found by additive increase
//! and multiplicative decrease on the steps that used it up. Without decoding there is no limit.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sched::{Limits, PolicyRequest, SchedEvent, View};
use crate::types::{BatchShape, CostModel, Emission, Nanos};

/// Finds the budget of each step.
#[derive(Debug)]
pub(super) struct Pace {
    target: Nanos,
    cost: Option<Arc<dyn CostModel>>,
    /// Prompt tokens that a step may have beside decoding, without a cost model.
    allowance: f64,
    /// Prompt tokens that the latest plan was held to; `None` without decoding.
    held_to: Option<u32>,
    /// Sequences that decode in the latest plan.
    num_decoding: u32,
    /// Steps that were planned and have not ended.
    in_flight: VecDeque<Flight>,
}

/// A step between its plan and its end.
#[derive(Debug)]
struct Flight {
    step: u64,
    num_tokens: u32,
    num_decoding: u32,
    held_to: Option<u32>,
}

/// Prompt tokens of a step at the least: whatever the target, prompts go on.
const MIN_ALLOWANCE: u32 = 16;
const FIRST_ALLOWANCE: f64 = 256.0;
const INCREASE: f64 = 16.0;
const DECREASE: f64 = 0.7;

impl Pace {
    pub(super) fn new(target: Nanos, cost: Option<Arc<dyn CostModel>>) -> Self {
        let (allowance, in_flight) = (FIRST_ALLOWANCE, VecDeque::new());
        Self { target, cost, allowance, held_to: None, num_decoding: 0, in_flight }
    }

    /// `limits` with a budget that keeps the pace.
    pub(super) fn limit(&mut self, limits: Limits, view: &View<'_>) -> Limits {
        let running: Vec<_> = view.running().filter_map(|id| view.request(id)).collect();
        let is_decoding = |request: &&PolicyRequest<'_>| request.num_pending() == 1;
        let num_decoding = running.iter().filter(is_decoding).count() as u32;
        (self.num_decoding, self.held_to) = (num_decoding, None);
        if num_decoding == 0 {
            return limits;
        }
        let most = limits.token_budget.saturating_sub(num_decoding);
        let allowance = match &self.cost {
            Some(cost) => largest_chunk(&running, most, |shape| cost.predict(shape) <= self.target),
            None => self.allowance as u32,
        };
        let allowance = allowance.max(MIN_ALLOWANCE);
        self.held_to = Some(allowance);
        let budget = num_decoding.saturating_add(allowance);
        Limits { token_budget: limits.token_budget.min(budget), ..limits }
    }

    pub(super) fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        match *event {
            SchedEvent::Granted { num_tokens, step, .. } => self.granted(num_tokens, step),
            SchedEvent::Stepped { step, device_time } => {
                while self.in_flight.front().is_some_and(|flight| flight.step <= step) {
                    let Some(flight) = self.in_flight.pop_front() else { return };
                    if flight.step == step {
                        self.stepped(&flight, device_time, view.defaults().token_budget);
                    }
                }
            }
            _ => {}
        }
    }

    fn granted(&mut self, num_tokens: u32, step: u64) {
        if self.in_flight.back().is_some_and(|flight| flight.step > step) {
            self.in_flight.clear(); // the engine has failed and counts anew
        }
        match self.in_flight.back_mut() {
            Some(flight) if flight.step == step => flight.num_tokens += num_tokens,
            _ => {
                let (num_decoding, held_to) = (self.num_decoding, self.held_to);
                self.in_flight.push_back(Flight { step, num_tokens, num_decoding, held_to });
            }
        }
    }

    /// Learns from a step: that it took too long, or that it used all it was allowed and did not.
    fn stepped(&mut self, flight: &Flight, time: Nanos, most: u32) {
        let Some(held_to) = flight.held_to else { return };
        let num_prefill = flight.num_tokens.saturating_sub(flight.num_decoding);
        if num_prefill == 0 {
            return; // decoding alone: a smaller allowance would not have helped
        }
        if time > self.target {
            let used = f64::from(num_prefill).min(self.allowance);
            self.allowance = (used * DECREASE).max(f64::from(MIN_ALLOWANCE));
        } else if num_prefill >= held_to {
            self.allowance = (self.allowance + INCREASE).min(f64::from(most));
        }
    }
}

/// The most tokens, up to `most`, of a prompt beside the decoding ones of `running` with which a
/// step `fits`. Larger steps never take less time, so this is found by halving.
fn largest_chunk(
    running: &[PolicyRequest<'_>],
    most: u32,
    fits: impl Fn(&BatchShape) -> bool,
) -> u32 {
    let mut decoding = BatchShape::default();
    let mut context = 0;
    for request in running {
        let start = request.num_known().saturating_sub(request.num_pending());
        match request.num_pending() {
            0 => {}
            1 => decoding.add(start..start + 1, Emission::Result),
            _ => context = context.max(start),
        }
    }
    let fits_with = |num_tokens: u32| {
        let mut shape = decoding;
        shape.add(context..context.saturating_add(num_tokens), Emission::Nothing);
        fits(&shape)
    };
    let (mut least, mut most) = (0, most);
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        if fits_with(middle) {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    least
}
