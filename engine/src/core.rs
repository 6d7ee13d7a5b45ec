//! One turn of the engine: plan → submit → collect → commit. Single-threaded and synchronous;
//! `thread` runs it live, a simulation runs it on a virtual clock.

use crate::exec::Executor;
use crate::sched::{Gauges, Policy, Scheduler};
use crate::types::{Clock, EngineConfig, Request, StepPlan, StepReport};

/// The scheduler, the executor and the clock that belong together.
pub struct EngineCore {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    clock: Box<dyn Clock>,
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
    /// The device failed; the requests of the step ended with this message.
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
        Self { scheduler: Scheduler::new(config, policy), executor, clock }
    }

    /// Takes a request in.
    pub fn admit(&mut self, request: Request) {
        self.scheduler.admit(request, self.clock.now());
    }

    /// Plans a step, carries it out and enters its results.
    pub fn step(&mut self) -> Turn {
        match self.plan() {
            Some(plan) => self.execute(&plan),
            None => Turn::Idle,
        }
    }

    /// The first half of a step, after which the gauges tell who takes part in it.
    pub fn plan(&mut self) -> Option<StepPlan> {
        self.scheduler.plan(self.clock.now())
    }

    /// The second half: carries the plan out and enters its results.
    pub fn execute(&mut self, plan: &StepPlan) -> Turn {
        let output = self
            .executor
            .submit(plan, self.scheduler.sequences_mut())
            .and_then(|()| self.executor.collect());
        let now = self.clock.now();
        match output {
            Ok(output) => Turn::Stepped(self.scheduler.commit(plan, output, now)),
            Err(error) => {
                let message = error.to_string();
                self.scheduler.abort(plan, &message, now);
                Turn::Failed(message)
            }
        }
    }

    /// Whether no request is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
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
