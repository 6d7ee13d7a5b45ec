//! Policies by spec on a scheduler at work: expressions against the policies they spell out,
//! shadows that must change nothing, and changes of policy that must lose nothing.
#![allow(clippy::print_stdout, reason = "the seed of a failing run")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_engine::core::{EngineCore, Turn};
use folio_engine::sched::{
    Policy, PolicyContext, PolicyRequest, Rank, Refresh, Registry, SchedEvent, ShadowReport, View,
};
use folio_engine::types::{
    Choice, EngineConfig, Event, EventReceiver, EventSender, ManualClock, ModelId, ModelKind,
    ModelLimits, Nanos, PrefixCaching, Request, RequestId, SamplingParams, Slo, StepPlan, Task,
    TenantId, TokenId,
};
use folio_tests::{LateExecutor, Random};

const VOCAB: u32 = 50;
const NUM_TURNS: u32 = 120;

fn config(random: &mut Random) -> EngineConfig {
    let limits = ModelLimits { kind: ModelKind::Decoder, max_model_len: 64, vocab_size: VOCAB };
    let max_num_seqs = 1 + random.below(8);
    EngineConfig {
        models: vec![limits],
        block_size: 1 + random.below(6),
        num_blocks: 20 + random.below(40),
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + random.below(64),
        max_num_partial_prefills: 1 + random.below(3),
        long_prefill_token_threshold: random.one_in(2).then(|| 1 + random.below(12)),
        max_queued_requests: 1000,
        prefix_caching: if random.one_in(3) { PrefixCaching::Off } else { PrefixCaching::On },
        num_host_blocks: [0, 10][random.below(2) as usize],
    }
}

fn policy(spec: &str) -> folio_engine::sched::Decider {
    Registry::builtin().make(spec, &PolicyContext::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// An engine under random load. Equal seeds give equal loads, whatever the policy does.
struct Run {
    random: Random,
    config: EngineConfig,
    core: EngineCore,
    clock: ManualClock,
    receivers: Vec<Option<EventReceiver>>,
    plans: Vec<StepPlan>,
}

impl Run {
    fn new(seed: u64, spec: &str) -> Self {
        let mut random = Random(seed);
        let config = config(&mut random).validated().unwrap();
        let clock = ManualClock::default();
        let executor = LateExecutor::new(&config, 1 + random.below(3) as usize);
        let timer = Box::new(clock.clone());
        let core = EngineCore::new(config.clone(), policy(spec), Box::new(executor), timer);
        Self { random, config, core, clock, receivers: Vec::new(), plans: Vec::new() }
    }

    fn arrive(&mut self) {
        let capacity = self.config.kv_capacity_tokens().min(64);
        let max_tokens = 1 + self.random.below(8.min(capacity / 2));
        let len = 1 + self.random.below(capacity - max_tokens);
        let (family, branch) = (self.random.below(3), self.random.below(len + 1));
        let prompt: Vec<TokenId> =
            (0..len).map(|i| if i < branch { family } else { family + 3 + i % 2 }).collect();
        let mut params = SamplingParams::default();
        params.stop.max_tokens = max_tokens;
        params.stop.token_ids = vec![self.random.below(VOCAB)];
        let mut choices = Vec::new();
        for _ in 0..=self.random.below(2) * self.random.below(3) {
            let (events, receiver) = EventSender::channel(max_tokens);
            choices.push(Choice::new(events));
            self.receivers.push(Some(receiver));
        }
        let wait = Nanos(1000 * u64::from(1 + self.random.below(60)));
        let deadline = self.random.one_in(5).then(|| self.clock_now() + wait);
        self.core.admit(Request {
            id: RequestId(self.receivers.len() as u64),
            model: ModelId(0),
            prompt,
            task: Task::Generate(params),
            choices,
            priority: self.random.below(4) as i32,
            tenant: TenantId(self.random.below(3)),
            deadline,
            slo: Slo::default(),
            cache_salt: None,
        });
    }

    fn clock_now(&self) -> Nanos {
        folio_engine::types::Clock::now(&self.clock)
    }

    /// One turn: arrivals and cancellations, all plans, the end of a step.
    fn turn(&mut self, arrivals: Arrivals) {
        self.clock.advance(Nanos(1000));
        if arrivals == Arrivals::Come {
            for _ in 0..self.random.below(3) {
                self.arrive();
            }
            if self.random.one_in(8) && !self.receivers.is_empty() {
                let gone = self.random.below(self.receivers.len() as u32) as usize;
                self.receivers[gone] = None;
            }
        }
        while let Some(plan) = self.core.plan() {
            self.plans.push(plan.clone());
            self.core.submit(plan);
        }
        if let Turn::Failed(fault) = self.core.collect() {
            panic!("{}", fault.message);
        }
        self.core.scheduler().assert_consistent();
    }

    /// Runs until nothing is left; what each choice got that was not cancelled.
    fn finish(&mut self) -> Vec<Option<Vec<Event>>> {
        let mut num_turns = 0;
        while !self.core.is_idle() {
            self.turn(Arrivals::Over);
            num_turns += 1;
            assert!(num_turns < 10_000, "never idle");
        }
        let receivers = self.receivers.iter_mut().map(|receiver| {
            let receiver = receiver.as_mut()?;
            let events: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok())
                .filter(|event| !matches!(event, Event::Started(_)))
                .collect();
            let is_end = |event: &Event| matches!(event, Event::Finished { .. });
            assert_eq!(events.iter().filter(|event| is_end(event)).count(), 1, "one end");
            assert!(is_end(events.last().unwrap()), "nothing after the end");
            Some(events)
        });
        receivers.collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrivals {
    Come,
    Over,
}

/// All plans of a run under `spec`, with what `at_turn` does before each turn.
fn plans(seed: u64, spec: &str, mut at_turn: impl FnMut(u32, &mut Run)) -> Vec<StepPlan> {
    let mut run = Run::new(seed, spec);
    for turn in 0..NUM_TURNS {
        at_turn(turn, &mut run);
        run.turn(Arrivals::Come);
    }
    run.finish();
    run.plans
}

#[test]
fn an_expression_is_the_policy_that_it_spells_out() {
    let (mut num_plans, mut num_different) = (0, 0);
    for seed in 0..50 {
        println!("seed {seed}");
        let fcfs = plans(seed, "fcfs", |_, _| {});
        let priority = plans(seed, "priority", |_, _| {});
        for (named, spelled) in [
            (&fcfs, "expr: arrival"),
            (&fcfs, "expr: 0"),
            (&fcfs, "expr: arrival_s, arrival; limit: max_tokens_a_step; victim: arrival"),
            (&priority, "expr: priority"),
            (&priority, "expr: priority, arrival"),
        ] {
            assert_eq!(*named, plans(seed, spelled, |_, _| {}), "{spelled}");
        }
        num_plans += fcfs.len();
        num_different += usize::from(fcfs != priority);
    }
    assert!(num_plans > 3_000, "{num_plans} plans");
    assert!(num_different > 30, "priorities matter in {num_different} runs");
}

#[test]
fn a_shadow_changes_no_decision() {
    let shadows =
        ["priority", "expr: uncached - 5*waited_s", "expr: tenant_service, cached", "fcfs"];
    for seed in 0..40 {
        println!("seed {seed}");
        for spec in ["fcfs", "expr: priority, uncached; admit: running < 6; displace: true"] {
            let alone = plans(seed, spec, |_, _| {});
            let shadow = shadows[seed as usize % shadows.len()];
            let mut reports: Vec<ShadowReport> = Vec::new();
            let watched = plans(seed, spec, |turn, run| match turn % 30 {
                5 => {
                    let context = PolicyContext::default();
                    let policy = Registry::builtin().make_shadow(shadow, &context).unwrap();
                    run.core.set_shadow(Some(policy));
                }
                20 => {
                    reports.extend(run.core.scheduler().shadow());
                    run.core.set_shadow(None);
                }
                _ => {}
            });
            assert_eq!(alone, watched, "{spec} in the shadow of {shadow}");
            assert!(reports.iter().all(|report| !report.has_failed), "{reports:?}");
            if shadow == spec {
                let all: Vec<_> = reports.iter().map(|one| one.num_reversed_pairs).collect();
                assert!(all.iter().all(|&num| num == 0), "agrees with itself: {all:?}");
            }
        }
    }
}

/// The latest arrival first.
struct Newest;

impl Policy for Newest {
    fn name(&self) -> &'static str {
        "newest"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(-(request.id().0 as f64), 0.0)
    }
}

#[test]
fn differences_are_counted() {
    let mut random = Random(1);
    let config = EngineConfig { max_num_seqs: 1, num_blocks: 500, ..config(&mut random) };
    let config = EngineConfig { max_num_batched_tokens: 64, ..config }.validated().unwrap();
    let executor = Box::new(LateExecutor::new(&config, 1));
    let clock = ManualClock::default();
    let mut core = EngineCore::new(config.clone(), policy("fcfs"), executor, Box::new(clock));
    core.set_shadow(Some(Box::new(Newest)));
    let mut receivers = Vec::new();
    for id in 0..5 {
        let (events, receiver) = EventSender::channel(1);
        receivers.push(receiver);
        let mut params = SamplingParams::default();
        params.stop.max_tokens = 1;
        core.admit(Request {
            id: RequestId(id),
            model: ModelId(0),
            prompt: vec![1, 2, id as u32],
            task: Task::Generate(params),
            choices: vec![Choice::new(events)],
            priority: 0,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        });
    }
    // One request at a time: plans find 5, 4, 3, 2 and 1 waiting; the last has no choice.
    let num_turns = std::iter::from_fn(|| matches!(core.step(), Turn::Stepped(_)).then_some(()));
    assert_eq!(num_turns.count(), 5);
    let report = core.scheduler().shadow().unwrap();
    assert_eq!((report.num_plans, report.num_other_first), (4, 4));
    let num_pairs = 10 + 6 + 3 + 1;
    assert_eq!((report.num_pairs, report.num_reversed_pairs), (num_pairs, num_pairs));
    assert_eq!(report.latest, Some((RequestId(3), RequestId(4))));
}

const SPECS: [&str; 7] = [
    "fcfs",
    "priority",
    "expr: uncached - 20*waited_s; victim: computed",
    "expr: tenant_service; admit: running < 4",
    "expr: priority; displace: true; limit: max_tokens_a_step / 2",
    "expr: 1/(priority - 1); chunk: 5; max_running: 3",
    "expr: predicted_left; predictor: histogram",
];

/// What a choice gets is a function of its request alone, so a run whose policy changes must give
/// everybody the same as one under a single policy: deadlines and clients that leave aside.
#[test]
fn a_change_of_policy_loses_nothing() {
    for seed in 0..50 {
        println!("seed {seed}");
        let mut calm = Run::new(seed, "fcfs");
        let mut restless = Run::new(seed, "fcfs");
        let mut choice = Random(seed + 1000);
        for _ in 0..NUM_TURNS {
            calm.turn(Arrivals::Come);
            if choice.one_in(4) {
                let spec = SPECS[choice.below(SPECS.len() as u32) as usize];
                restless.core.switch_policy(policy(spec), spec).unwrap();
                restless.core.scheduler().assert_consistent();
            }
            restless.turn(Arrivals::Come);
        }
        let (calm, restless) = (calm.finish(), restless.finish());
        assert_eq!(calm.len(), restless.len());
        for (before, after) in calm.iter().zip(&restless) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            let tokens = |events: &[Event]| -> Vec<TokenId> {
                let ids = events.iter().filter_map(|event| match event {
                    Event::Token(token) => Some(token.id),
                    _ => None,
                });
                ids.collect()
            };
            let (before, after) = (tokens(before), tokens(after));
            let common = before.len().min(after.len());
            assert_eq!(before[..common], after[..common], "tokens of one choice");
        }
    }
}

/// Fails when it is told of something.
struct Touchy(SchedEvent);

impl Policy for Touchy {
    fn name(&self) -> &'static str {
        "touchy"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(-(request.id().0 as f64), 0.0)
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        assert!(
            std::mem::discriminant(event) != std::mem::discriminant(&self.0),
            "told of {event:?}"
        );
    }
}

#[test]
fn a_policy_that_fails_at_once_is_not_taken() {
    let run = |at_turn: fn(u32, &mut Run)| plans(7, "priority", at_turn);
    let refused = run(|turn, run| {
        if turn > 10 && run.core.gauges().num_waiting > 2 {
            let arrived = SchedEvent::Arrived(folio_engine::types::SequenceId(0));
            let policy: Box<dyn Policy> = Box::new(Touchy(arrived));
            let error = run.core.switch_policy(policy, "touchy").unwrap_err();
            assert!(error.contains("told of Arrived"), "{error}");
            assert_eq!(run.core.scheduler().policy_name(), "priority");
        }
    });
    assert_eq!(refused, run(|_, _| {}));
}

#[test]
fn a_shadow_that_fails_is_left_out() {
    let run = |at_turn: fn(u32, &mut Run)| plans(9, "priority", at_turn);
    let failing = run(|turn, run| {
        if turn == 3 {
            let stepped = SchedEvent::Stepped { step: 0, device_time: Nanos(0) };
            run.core.set_shadow(Some(Box::new(Touchy(stepped))));
        }
        if turn == NUM_TURNS - 1 {
            assert!(run.core.scheduler().shadow().unwrap().has_failed);
        }
    });
    assert_eq!(failing, run(|_, _| {}));
}
