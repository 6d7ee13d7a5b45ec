//! Prompts before answers, as vLLM scheduled by default before its V1 engine.
//!
//! Here for comparison: whole prompts go first and running answers wait for them, the stalls that
//! chunked prefill was invented against (Sarathi-Serve, arXiv 2403.02310). One departure: the core
//! gives the oldest running sequence its token in every step.

use crate::sched::{Plan, Planner, Refused};
use crate::types::SequenceId;

/// Plans steps of prompts alone while any wait and fit, and steps of answers otherwise.
#[derive(Clone, Copy, Debug)]
pub struct PrefillFirst;

impl Planner for PrefillFirst {
    fn name(&self) -> &'static str {
        "prefill-first"
    }

    fn plan(&mut self, plan: &mut dyn Plan) {
        if !grant_prompts(plan) {
            grant_answers(plan);
        }
    }
}

/// Grants prompts in order of arrival, each whole unless it is longer than a step; tells whether
/// there was any.
fn grant_prompts(plan: &mut dyn Plan) -> bool {
    let view = plan.view();
    let is_prompt = |id: &SequenceId| view.request(*id).is_some_and(|r| r.num_pending() > 1);
    // No more can be admitted in a step.
    let max_waiting = view.defaults().max_running as usize;
    let waiting = view.waiting().take(max_waiting);
    let prompts: Vec<SequenceId> = view.running().filter(is_prompt).chain(waiting).collect();
    let mut is_any = false;
    for id in prompts {
        let num_pending = plan.view().request(id).map_or(0, |request| request.num_pending());
        if is_any && num_pending > plan.budget_left() {
            break;
        }
        match plan.grant(id, u32::MAX) {
            Ok(_) => is_any = true,
            Err(Refused::NotPlannable) => {}
            Err(Refused::NoBlocks { .. } | Refused::NoBudget) => break,
        }
    }
    is_any
}

/// Grants every running sequence its next token; where blocks are short, the latest arrival gives
/// way.
fn grant_answers(plan: &mut dyn Plan) {
    let mut running: Vec<SequenceId> = plan.view().running().collect();
    let mut next = 0;
    while let Some(&id) = running.get(next) {
        let mode = plan.view().preemption();
        match plan.grant(id, 1) {
            Err(Refused::NoBlocks { .. }) if running.len() > next + 1 => {
                let is_gone = running.pop().is_some_and(|last| plan.preempt(last, mode).is_ok());
                if !is_gone {
                    return;
                }
            }
            Err(Refused::NoBudget) => return,
            Ok(_) | Err(_) => next += 1,
        }
    }
}
