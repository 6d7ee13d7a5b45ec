//! One turn of the engine: plan → submit → collect → commit. Single-threaded; `thread` runs it
//! live, a simulation runs it on a virtual clock.
//!
//! An executor that takes several steps at once is given the next before the oldest is collected,
//! so that it never waits for a plan. Steps are committed in the order of their submission.
//! A failure, be it an error or a panic, costs the executor: the turn says who ended with it, and
//! nothing is planned until [`EngineCore::restore`] brings another.

use std::collections::VecDeque;
use std::ops::Range;

use crate::exec::Executor;
use crate::panics::caught;
use crate::sched::decisions::Call;
use crate::sched::{Blame, Casualties, Decider, Gauges, KvEvent, Policy, Scheduler};
use crate::types::{Clock, EngineConfig, Nanos, Request, SequenceId, StepPlan, StepReport};

/// The scheduler, the executor and the clock that belong together.
pub struct EngineCore {
    scheduler: Scheduler,
    /// `None` from a failure until [`restore`](Self::restore).
    executor: Option<Box<dyn Executor>>,
    clock: Box<dyn Clock>,
    /// Steps submitted and not collected, the oldest first.
    in_flight: VecDeque<InFlight>,
    /// What broke first and was not reported yet.
    broken: Option<Broken>,
    /// The sequences of requests that could not be taken in since.
    not_admitted: Vec<Range<SequenceId>>,
}

/// A step between its submission and its end.
struct InFlight {
    plan: StepPlan,
    /// Why it never started, to be reported once the steps before it have ended.
    failure: Option<String>,
}

/// What broke outside of `collect`.
struct Broken {
    message: String,
    culprit: Culprit,
}

/// What the failure is put down to.
enum Culprit {
    /// The executor, at this step.
    Step(StepPlan),
    /// The scheduler.
    Scheduler,
    /// The scheduler, as it took in a request.
    Arrival,
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
    /// Something failed. The executor is gone.
    Failed(Fault),
}

/// A failure, and who was affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What failed.
    pub message: String,
    /// Who ended with it and who is computed again.
    pub casualties: Casualties,
}

impl EngineCore {
    /// A core for a validated `config`.
    #[must_use]
    pub fn new(
        config: EngineConfig,
        policy: impl Into<Decider>,
        executor: Box<dyn Executor>,
        clock: Box<dyn Clock>,
    ) -> Self {
        let scheduler = Scheduler::new(config, policy);
        let executor = Some(executor);
        Self {
            scheduler,
            executor,
            clock,
            in_flight: VecDeque::new(),
            broken: None,
            not_admitted: Vec::new(),
        }
    }

    /// Takes a request in.
    pub fn admit(&mut self, request: Request) {
        self.admit_expecting(request, Nanos(0));
    }

    /// Takes a request in that was told how long it is expected to wait.
    pub fn admit_expecting(&mut self, request: Request, expected_wait: Nanos) {
        let first = self.scheduler.next_sequence();
        let now = self.clock.now();
        let admitted = caught(|| self.scheduler.admit_expecting(request, expected_wait, now));
        if let Err(message) = admitted {
            self.not_admitted.push(first..self.scheduler.next_sequence());
            self.break_down(message, Culprit::Arrival);
        }
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
        let has_room = self.in_flight.len() < self.executor.as_ref()?.max_in_flight().max(1);
        let is_sound = self.in_flight.iter().all(|step| step.failure.is_none());
        if !has_room || !is_sound || self.broken.is_some() {
            return None;
        }
        let now = self.clock.now();
        let planned = caught(|| self.scheduler.plan(now));
        planned.unwrap_or_else(|message| {
            self.break_down(message, Culprit::Scheduler);
            None
        })
    }

    /// Starts a planned step. If the executor refuses it, the turn that would have ended it says
    /// so; if the executor panics, the next turn does.
    pub fn submit(&mut self, plan: StepPlan) {
        let Some(executor) = &mut self.executor else { panic!("a step without an executor") };
        match caught(|| executor.submit(&plan, self.scheduler.sequences_mut())) {
            Ok(result) => {
                let failure = result.err().map(|error| error.to_string());
                self.in_flight.push_back(InFlight { plan, failure });
            }
            Err(message) => self.break_down(message, Culprit::Step(plan)),
        }
    }

    /// Waits for the oldest step in flight and enters its results; idle if there is none.
    pub fn collect(&mut self) -> Turn {
        if let Some(broken) = self.broken.take() {
            return self.fail(broken);
        }
        let Some(InFlight { plan, failure }) = self.in_flight.pop_front() else {
            return Turn::Idle;
        };
        let output = match (failure, &mut self.executor) {
            (Some(message), _) => Err(message),
            (None, Some(executor)) => caught(|| executor.collect())
                .and_then(|result| result.map_err(|error| error.to_string())),
            (None, None) => Err("the executor is gone".to_owned()),
        };
        let output = match output {
            Ok(output) => output,
            Err(message) => return self.fail(Broken { message, culprit: Culprit::Step(plan) }),
        };
        let now = self.clock.now();
        match caught(|| self.scheduler.commit(&plan, output, now)) {
            Ok(report) => Turn::Stepped(report),
            Err(message) => self.fail(Broken { message, culprit: Culprit::Scheduler }),
        }
    }

    /// Lets `policy` decide from now on; `spec` is how it is written. If it panics as it gets to
    /// know what is there, the one before it goes on, and the panic is told.
    pub fn switch_policy(&mut self, policy: impl Into<Decider>, spec: &str) -> Result<(), String> {
        self.scheduler.switch_policy(policy.into(), spec, self.clock.now())
    }

    /// Asks `policy` what it would do, and does not follow it; or asks nobody.
    pub fn set_shadow(&mut self, policy: Option<Box<dyn Policy>>) {
        self.scheduler.set_shadow(policy, self.clock.now());
    }

    /// Goes on with another executor after a failure.
    pub fn restore(&mut self, executor: Box<dyn Executor>) {
        assert!(self.executor.is_none(), "the executor is replaced without a failure");
        self.executor = Some(executor);
    }

    /// Ends everything that is left with this failure.
    pub fn give_up(&mut self, message: &str) -> Casualties {
        self.drop_executor();
        self.scheduler.fail_all(message)
    }

    /// Remembers the first thing that broke until the turn ends.
    fn break_down(&mut self, message: String, culprit: Culprit) {
        self.broken.get_or_insert(Broken { message, culprit });
    }

    /// Lets the executor go, ends those to blame and puts the others back.
    fn fail(&mut self, Broken { message, culprit }: Broken) -> Turn {
        self.drop_executor();
        let now = self.clock.now();
        let blame = match &culprit {
            Culprit::Step(plan) => Blame::Step(plan),
            Culprit::Scheduler => Blame::Running,
            Culprit::Arrival => Blame::Arrivals,
        };
        let arrivals = std::mem::take(&mut self.not_admitted);
        let casualties = caught(|| self.scheduler.reset(blame, &arrivals, &message, now));
        let casualties = casualties.unwrap_or_else(|_| self.scheduler.fail_all(&message));
        Turn::Failed(Fault { message, casualties })
    }

    /// Frees what the executor holds, so that another finds room, and forgets what it was doing.
    fn drop_executor(&mut self) {
        let executor = self.executor.take();
        // One that has panicked may do so again; what it still holds then is lost.
        let _ = caught(|| drop(executor));
        self.in_flight.clear();
    }

    /// Whether no request is left and no step is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.in_flight.is_empty() && self.broken.is_none()
    }

    /// The scheduler's state in numbers.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.scheduler.gauges()
    }

    /// Records changes of the prefix index from now on.
    pub fn record_kv_events(&mut self) {
        self.scheduler.record_kv_events();
    }

    /// The changes since the last call, in order.
    pub fn take_kv_events(&mut self) -> Vec<KvEvent> {
        self.scheduler.take_kv_events()
    }

    /// Records all calls of the scheduler from now on.
    pub fn record_decisions(&mut self) {
        self.scheduler.record_decisions();
    }

    /// The calls since the last taking, in order.
    pub fn take_decisions(&mut self) -> Vec<Call> {
        self.scheduler.take_decisions()
    }

    /// The scheduler, for checks of its invariants.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}
