//! One turn of the engine: plan → submit → collect → commit. Single-threaded; `thread` runs it
//! live, a simulation runs it on a virtual clock.
//!
//! An executor that takes several steps at once is given the next before the oldest is collected,
//! so that it never waits for a plan. Steps are committed in the order of their submission.

use std::collections::VecDeque;

use crate::exec::Executor;
use crate::sched::{Gauges, Policy, Scheduler};
use crate::types::{Clock, EngineConfig, Nanos, Request, StepPlan, StepReport};

/// The scheduler, the executor and the clock that belong together.
pub struct EngineCore {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    clock: Box<dyn Clock>,
    /// Steps submitted and not collected, the oldest first.
    in_flight: VecDeque<InFlight>,
}

/// A step between its submission and its end.
struct InFlight {
    plan: StepPlan,
    /// Why it never started, to be reported once the steps before it have ended.
    failure: Option<String>,
}

impl std::fmt::Debug for EngineCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineCore").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

/// What a turn came to.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Turn {
    /// Nothing could be computed.
    Idle,
    /// A step was carried out.
    Stepped(StepReport),
    /// The device failed; the requests of the step, and of those in flight behind it, ended with
    /// this message.
    Failed(String),
}

impl EngineCore {
    /// A core for a validated `config`.
    #[must_use]
    pub fn new(
        config: EngineConfig,
        policy: Box<dyn Policy>,
        executor: Box<dyn Executor>,
        clock: Box<dyn Clock>,
    ) -> Self {
        let scheduler = Scheduler::new(config, policy);
        Self { scheduler, executor, clock, in_flight: VecDeque::new() }
    }

    /// Takes a request in.
    pub fn admit(&mut self, request: Request) {
        self.scheduler.admit(request, self.clock.now());
    }

    /// One turn: plans and submits as many steps as the executor takes, then ends the oldest.
    pub fn step(&mut self) -> Turn {
        while let Some(plan) = self.plan() {
            self.submit(plan);
        }
        self.collect()
    }

    /// The next step, after which the gauges tell who takes part in it. It must be submitted.
    /// `None` when the executor takes no more now, or nothing can be computed before the oldest
    /// step in flight is collected.
    pub fn plan(&mut self) -> Option<StepPlan> {
        let has_room = self.in_flight.len() < self.executor.max_in_flight().max(1);
        let is_sound = self.in_flight.iter().all(|step| step.failure.is_none());
        (has_room && is_sound).then(|| self.scheduler.plan(self.clock.now())).flatten()
    }

    /// Starts a planned step. If the executor refuses it, the turn that would have ended it says
    /// so.
    pub fn submit(&mut self, plan: StepPlan) {
        let result = self.executor.submit(&plan, self.scheduler.sequences_mut());
        let failure = result.err().map(|error| error.to_string());
        self.in_flight.push_back(InFlight { plan, failure });
    }

    /// Waits for the oldest step in flight and enters its results; idle if there is none.
    pub fn collect(&mut self) -> Turn {
        let Some(InFlight { plan, failure }) = self.in_flight.pop_front() else {
            return Turn::Idle;
        };
        let output = match failure {
            Some(message) => Err(message),
            None => self.executor.collect().map_err(|error| error.to_string()),
        };
        let now = self.clock.now();
        match output {
            Ok(output) => Turn::Stepped(self.scheduler.commit(&plan, output, now)),
            Err(message) => {
                self.scheduler.abort(&plan, &message, now);
                self.abort_rest(&message, now);
                Turn::Failed(message)
            }
        }
    }

    /// Ends everything in flight behind a failed step: it was computed from what that one lost.
    fn abort_rest(&mut self, message: &str, now: Nanos) {
        for InFlight { plan, failure } in std::mem::take(&mut self.in_flight) {
            if failure.is_none() {
                let _ = self.executor.collect();
            }
            self.scheduler.abort(&plan, message, now);
        }
    }

    /// Whether no request is left and no step is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.in_flight.is_empty()
    }

    /// The scheduler's state in numbers.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.scheduler.gauges()
    }

    /// The scheduler, for checks of its invariants.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}
