//! A token budget that holds a target for the time between tokens.
//!
//! Whoever decodes gets a token a step, so the step must end within the target; prompts get what
//! is left (Sarathi-Serve, arXiv 2403.02310, which sets the budget once by profiling). With a cost
//! model the largest budget that fits is looked up; without one it is found by additive increase
//! and multiplicative decrease on the measured steps. While nothing decodes there is no limit.

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
    /// Whether the latest plan was held to it.
    is_limiting: bool,
}

/// Prompt tokens of a step at the least: whatever the target, prompts go on.
const MIN_ALLOWANCE: u32 = 16;
const FIRST_ALLOWANCE: f64 = 256.0;
const INCREASE: f64 = 16.0;
const DECREASE: f64 = 0.7;

impl Pace {
    pub(super) fn new(target: Nanos, cost: Option<Arc<dyn CostModel>>) -> Self {
        Self { target, cost, allowance: FIRST_ALLOWANCE, is_limiting: false }
    }

    /// `limits` with a budget that keeps the pace.
    pub(super) fn limit(&mut self, limits: Limits, view: &View<'_>) -> Limits {
        let running: Vec<_> = view.running().filter_map(|id| view.request(id)).collect();
        let is_decoding = |request: &&PolicyRequest<'_>| request.num_pending() == 1;
        let num_decoding = running.iter().filter(is_decoding).count() as u32;
        self.is_limiting = num_decoding > 0;
        if num_decoding == 0 {
            return limits;
        }
        let most = limits.token_budget.saturating_sub(num_decoding);
        let allowance = match &self.cost {
            Some(cost) => largest_chunk(&running, most, |shape| cost.predict(shape) <= self.target),
            None => self.allowance as u32,
        };
        let budget = num_decoding.saturating_add(allowance.max(MIN_ALLOWANCE));
        Limits { token_budget: limits.token_budget.min(budget), ..limits }
    }

    pub(super) fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        let SchedEvent::Stepped { device_time, .. } = *event else { return };
        if self.is_limiting && device_time > self.target {
            self.allowance = (self.allowance * DECREASE).max(f64::from(MIN_ALLOWANCE));
        } else {
            let most = f64::from(view.defaults().token_budget);
            self.allowance = (self.allowance + INCREASE).min(most);
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
