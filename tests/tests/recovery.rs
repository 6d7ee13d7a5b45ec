//! Injected faults: who ends with one, who is computed again, and that nothing is left behind.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::Executor;
use folio_engine::model::ModelFiles;
use folio_engine::sched::policies::Fcfs;
use folio_engine::sched::{Limits, Policy, PolicyRequest, Rank, SchedEvent, Sequences, View};
use folio_engine::types::{
    Choice, EngineConfig, Error, Event, EventReceiver, EventSender, FinishReason, ManualClock,
    ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching, Protection, Refusal, Request, RequestId,
    RequestStats, Result, Sampling, SamplingParams, Slo, StepOutput, StepPlan, StopConditions,
    Task, TenantId, TokenId,
};
use folio_engine::{EngineHandle, EngineHealth, EngineSetup};
use folio_tests::{
    FaultScript, FaultyExecutor, FingerprintExecutor, LateExecutor, Random, Setup, StepFault,
    generation,
};

const VOCAB: u32 = 100;
/// Never gives up.
const PATIENT: Protection = Protection {
    max_queued_tokens: None,
    step_timeout: Duration::from_secs(60),
    max_failures: u32::MAX,
    failure_window: Duration::from_secs(60),
};

fn config() -> EngineConfig {
    let model = |kind| ModelLimits { kind, max_model_len: 64, vocab_size: VOCAB };
    EngineConfig {
        models: vec![model(ModelKind::Decoder), model(ModelKind::Encoder)],
        block_size: 4,
        num_blocks: 60,
        max_num_seqs: 3,
        max_num_batched_tokens: 80,
        max_num_partial_prefills: 2,
        long_prefill_token_threshold: Some(16),
        max_queued_requests: 100_000,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
}

/// A request, what it must lead to, and where its events arrive.
struct Asked {
    prompt: Vec<TokenId>,
    max_tokens: u32,
    choice: u32,
    receiver: EventReceiver,
}

/// What became of it.
struct Outcome {
    tokens: Vec<TokenId>,
    reason: FinishReason,
    stats: RequestStats,
}

impl Asked {
    fn new(id: RequestId, prompt: Vec<TokenId>, max_tokens: u32) -> (Request, Self) {
        let (request, mut choices) = Self::several(id, prompt, max_tokens, 1);
        (request, choices.remove(0))
    }

    /// A request of `num` choices, which share their prompt.
    fn several(
        id: RequestId,
        prompt: Vec<TokenId>,
        max_tokens: u32,
        num: u32,
    ) -> (Request, Vec<Self>) {
        let (choices, asked): (Vec<_>, _) = (0..num)
            .map(|choice| {
                let (events, receiver) = EventSender::channel(max_tokens);
                let prompt = prompt.clone();
                (Choice::new(events), Self { prompt, max_tokens, choice, receiver })
            })
            .unzip();
        let stop = StopConditions { max_tokens, ..StopConditions::default() };
        let request = Request {
            id,
            model: ModelId(0),
            prompt,
            task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
            choices,
            priority: 0,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        };
        (request, asked)
    }

    fn outcome(mut self) -> Outcome {
        let mut tokens = Vec::new();
        while let Some(event) = self.receiver.blocking_recv() {
            match event {
                Event::Token(token) => tokens.push(token.id),
                Event::Finished { reason, stats } => {
                    assert!(self.receiver.blocking_recv().is_none(), "one end, and the last event");
                    let mut text = self.prompt;
                    for &token in &tokens {
                        assert_eq!(
                            token,
                            FingerprintExecutor::next_token(&text, self.choice, VOCAB)
                        );
                        text.push(token);
                    }
                    if reason == FinishReason::Length {
                        assert_eq!(tokens.len() as u32, self.max_tokens);
                    }
                    return Outcome { tokens, reason, stats };
                }
                _ => {}
            }
        }
        panic!("no end");
    }
}

/// `num` requests that begin alike in threes, in one go.
fn submit(handle: &EngineHandle, num: u32, max_tokens: u32) -> Vec<Asked> {
    let ask = |i| {
        let prompt = (0..13).map(|at| if at < 9 { i % 3 } else { i }).collect();
        Asked::new(handle.next_request_id(), prompt, max_tokens)
    };
    let (requests, asked): (Vec<_>, Vec<_>) = (0..num).map(ask).unzip();
    handle.submit(requests).unwrap();
    asked
}

/// An engine on fingerprints that takes `max_in_flight` steps and fails as `script` says.
fn spawn(
    setup: EngineSetup,
    config: EngineConfig,
    max_in_flight: usize,
    script: &FaultScript,
) -> (EngineHandle, JoinHandle<()>) {
    let script = script.clone();
    let build = move || -> Result<Box<dyn Executor>> {
        let inner: Box<dyn Executor> = match max_in_flight {
            1 => Box::new(FingerprintExecutor::new(&config)),
            _ => Box::new(LateExecutor::new(&config, max_in_flight)),
        };
        Ok(Box::new(FaultyExecutor::new(inner, script.clone())))
    };
    setup.spawn(build).unwrap()
}

fn wait_for_idle(handle: &EngineHandle) {
    let is_idle = || {
        let gauges = handle.metrics().gauges;
        (gauges.num_running, gauges.num_waiting, gauges.num_waiting_tokens) == (0, 0, 0)
            && (gauges.num_used_blocks, gauges.num_used_host_blocks) == (0, 0)
    };
    for _ in 0..10_000_000 {
        if is_idle() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("not idle: {:?}", handle.metrics());
}

#[test]
fn a_fault_ends_its_step_and_everybody_else_gets_the_right_tokens() {
    for fault in StepFault::ALL {
        for (max_in_flight, step) in [(1, 0), (1, 1), (1, 7), (2, 0), (2, 1), (2, 7), (2, 12)] {
            let what = format!("{fault:?} at step {step} of {max_in_flight} in flight");
            let script = FaultScript::at([(step, fault)]);
            let setup = EngineSetup::new(config(), Box::new(Fcfs));
            let (handle, thread) = spawn(setup, config(), max_in_flight, &script);
            let outcomes: Vec<_> = submit(&handle, 12, 9).into_iter().map(Asked::outcome).collect();
            wait_for_idle(&handle);
            let is_failed =
                |outcome: &&Outcome| matches!(outcome.reason, FinishReason::StepFailed(_));
            let num_failed = outcomes.iter().filter(is_failed).count() as u32;
            assert!((1..=config().max_num_seqs).contains(&num_failed), "{what}: {num_failed}");
            for outcome in outcomes.iter().filter(|outcome| !is_failed(outcome)) {
                assert_eq!(outcome.reason, FinishReason::Length, "{what}");
            }
            let num_retried: u32 = outcomes.iter().map(|outcome| outcome.stats.num_retries).sum();
            let faults = handle.metrics().faults;
            assert_eq!((faults.num_failed_steps, faults.num_rebuilds), (1, 1), "{what}");
            assert_eq!(faults.num_failed_requests, u64::from(num_failed), "{what}");
            assert_eq!(faults.num_retries, u64::from(num_retried), "{what}");
            assert_eq!(handle.health(), EngineHealth::Ready, "{what}");
            drop(handle);
            thread.join().unwrap();
        }
    }
}

/// Panics in the plan or at the question with this number, or when it sees the priority 666.
#[derive(Default)]
struct Fragile {
    num_plans: u32,
    panics_at_plan: Option<u32>,
    num_questions: u32,
    panics_at_question: Option<u32>,
}

impl Fragile {
    fn count_question(&mut self) {
        self.num_questions += 1;
        let number = Some(self.num_questions);
        assert_ne!(number, self.panics_at_question, "a question that the test asked to fail");
    }
}

impl Policy for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        assert_ne!(request.priority(), 666, "a priority that the test asked to fail");
        self.count_question();
        Rank::default()
    }

    fn observe(&mut self, _: &SchedEvent, _: &View<'_>) {
        self.count_question();
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        self.num_plans += 1;
        let number = Some(self.num_plans);
        assert_ne!(number, self.panics_at_plan, "a plan that the test asked to fail");
        view.defaults()
    }
}

/// Steps `core` until nothing is left to do, with another executor after each failure.
fn run(core: &mut EngineCore, max_in_flight: usize) -> u32 {
    let mut num_failures = 0;
    for _ in 0..1000 {
        match core.step() {
            Turn::Stepped(_) => {}
            Turn::Idle => return num_failures,
            Turn::Failed(_) => {
                num_failures += 1;
                core.restore(Box::new(LateExecutor::new(&config(), max_in_flight)));
            }
        }
        core.scheduler().assert_consistent();
    }
    panic!("no end: {core:?}");
}

fn core_of(policy: Fragile, max_in_flight: usize) -> EngineCore {
    let executor = Box::new(LateExecutor::new(&config(), max_in_flight));
    let clock = Box::new(ManualClock::default());
    EngineCore::new(config(), Box::new(policy), executor, clock)
}

/// Twelve requests of a core with a fragile policy.
fn fragile(max_in_flight: usize, panics_at_plan: Option<u32>) -> (EngineCore, Vec<Asked>) {
    let mut core = core_of(Fragile { panics_at_plan, ..Fragile::default() }, max_in_flight);
    let asked = (0..12).map(|i| {
        let (request, asked) = Asked::new(RequestId(i), vec![i as TokenId; 9], 20);
        core.admit(request);
        asked
    });
    let asked = asked.collect();
    (core, asked)
}

#[test]
fn a_panic_in_the_scheduler_ends_what_runs_and_nothing_that_waits() {
    for max_in_flight in [1, 2] {
        for panics_at in [1, 2, 9] {
            let (mut core, asked) = fragile(max_in_flight, Some(panics_at));
            assert_eq!(run(&mut core, max_in_flight), 1);
            let num_running = if panics_at == 1 { 0 } else { 3 };
            for (place, asked) in asked.into_iter().enumerate() {
                let Outcome { reason, stats, .. } = asked.outcome();
                match reason {
                    FinishReason::StepFailed(text) if place < num_running => {
                        assert!(text.contains("a plan that the test asked to fail"), "{text}");
                    }
                    other => {
                        assert_eq!(other, FinishReason::Length, "{place} of {num_running}");
                        assert_eq!(stats.num_retries, 1);
                    }
                }
            }
            assert_eq!(core.gauges().num_used_blocks, 0);
        }
    }
}

#[test]
fn a_request_that_the_scheduler_cannot_take_in_ends_alone() {
    let (mut core, mut asked) = fragile(2, None);
    for _ in 0..5 {
        assert!(matches!(core.step(), Turn::Stepped(_)));
    }
    let mut poisoned = Vec::new();
    for id in [12, 14] {
        let (mut poison, its_choices) = Asked::several(RequestId(id), vec![1, 2, 3], 5, 3);
        poison.priority = 666;
        core.admit(poison);
        poisoned.extend(its_choices);
        // Taken in before the failure is seen, but not to blame for it.
        let (innocent, also_asked) = Asked::new(RequestId(id + 1), vec![3, 2, 1], 5);
        core.admit(innocent);
        asked.push(also_asked);
    }
    assert_eq!(run(&mut core, 2), 1);
    for poisoned in poisoned {
        let reason = poisoned.outcome().reason;
        let FinishReason::StepFailed(text) = &reason else { panic!("{reason:?}") };
        assert!(text.contains("asked to fail"), "{text}");
    }
    for asked in asked {
        assert_eq!(asked.outcome().reason, FinishReason::Length);
    }
    assert_eq!(core.gauges().num_used_blocks, 0);
}

/// Whatever the policy was asked when it panicked: choices of one request are not lost with who led
/// them.
#[test]
fn a_panic_at_any_question_loses_no_choice() {
    for max_in_flight in [1, 2] {
        for question in 1..=150 {
            let policy = Fragile { panics_at_question: Some(question), ..Fragile::default() };
            let mut core = core_of(policy, max_in_flight);
            let mut asked = Vec::new();
            for id in 0..5 {
                let (request, choices) = Asked::several(RequestId(id), vec![id as u32; 9], 4, 4);
                core.admit(request);
                asked.extend(choices);
            }
            let num_failures = run(&mut core, max_in_flight);
            assert!(num_failures <= 1, "question {question}");
            let is_failed = |reason| match reason {
                FinishReason::StepFailed(_) => true,
                reason => {
                    assert_eq!(reason, FinishReason::Length, "question {question}");
                    false
                }
            };
            let outcomes = asked.into_iter().map(|asked| is_failed(asked.outcome().reason));
            let num_failed = outcomes.filter(|is_failed| *is_failed).count();
            assert!(num_failed <= 4, "{num_failed} failed at question {question}");
            assert_eq!(core.gauges().num_waiting, 0, "question {question}");
        }
    }
}

/// Whoever shares the prompt that a step failed at ends with it, and not one step after the other.
#[test]
fn all_choices_of_a_prompt_that_fails_end_at_once() {
    let script = FaultScript::at([(0, StepFault::ALL[0]), (1, StepFault::ALL[0])]);
    let setup = EngineSetup::new(config(), Box::new(Fcfs));
    let (handle, thread) = spawn(setup, config(), 1, &script);
    let (request, asked) = Asked::several(handle.next_request_id(), vec![1, 2, 3], 5, 4);
    handle.submit(vec![request]).unwrap();
    for asked in asked {
        assert!(matches!(asked.outcome().reason, FinishReason::StepFailed(_)));
    }
    wait_for_idle(&handle);
    assert_eq!(handle.metrics().faults.num_failed_steps, 1);
    drop(handle);
    thread.join().unwrap();
}

#[test]
fn an_engine_that_cannot_be_built_again_says_so_and_stops() {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let of_engine = Arc::clone(&notices);
    let setup = EngineSetup::new(config(), Box::new(Fcfs))
        .on_notice(move |notice| of_engine.lock().unwrap().push(notice.to_string()));
    let script = FaultScript::at([(4, StepFault::Lost)]);
    let mut num_built = 0;
    let build = move || -> Result<Box<dyn Executor>> {
        num_built += 1;
        match num_built {
            1 => {
                let inner = Box::new(FingerprintExecutor::new(&config()));
                Ok(Box::new(FaultyExecutor::new(inner, script.clone())))
            }
            2 => Err(Error::OutOfMemory("nothing is left".into())),
            _ => panic!("a build that the test asked to fail"),
        }
    };
    let (handle, thread) = setup.spawn(build).unwrap();
    let asked = submit(&handle, 8, 10);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handle.stopped());
    thread.join().unwrap();
    let last = "the engine failed 3 times within 60 s and has stopped; the last time: device: \
                panic: a build that the test asked to fail";
    let reasons: Vec<_> = asked.into_iter().map(|asked| asked.outcome().reason).collect();
    let reason = |text: &str| FinishReason::StepFailed(text.into());
    let num_failed = reasons.iter().filter(|other| **other == reason("device: lost")).count();
    assert!((1..=3).contains(&num_failed), "{reasons:?}");
    assert!(reasons[num_failed..].iter().all(|other| *other == reason(last)), "{reasons:?}");
    assert_eq!(handle.last_failure().as_deref(), Some(last));
    assert_eq!(handle.health(), EngineHealth::Stopped);
    let (late, _asked) = Asked::new(handle.next_request_id(), vec![1], 1);
    assert_eq!(handle.submit(vec![late]), Err(Refusal::Stopped));
    let notices = notices.lock().unwrap();
    assert!(notices[0].starts_with("a step failed: device: lost; request"), "{notices:?}");
    let expected = [
        "the engine could not be built anew: out of memory: nothing is left",
        "the engine could not be built anew: device: panic: a build that the test asked to fail",
        last,
    ];
    assert_eq!(notices[1..], expected);
}

#[test]
fn requests_wait_while_the_engine_is_built_again() {
    let (begun, has_begun) = mpsc::channel();
    let (allow, allowed) = mpsc::channel::<()>();
    let script = FaultScript::at([(2, StepFault::PanicsAtSubmit)]);
    let mut is_first = true;
    let build = move || -> Result<Box<dyn Executor>> {
        if !std::mem::replace(&mut is_first, false) {
            begun.send(()).unwrap();
            allowed.recv().unwrap();
        }
        let inner = Box::new(FingerprintExecutor::new(&config()));
        Ok(Box::new(FaultyExecutor::new(inner, script.clone())))
    };
    let setup = EngineSetup::new(config(), Box::new(Fcfs));
    let (handle, thread) = setup.spawn(build).unwrap();
    assert_eq!(handle.health(), EngineHealth::Ready);
    let before = submit(&handle, 6, 8);
    has_begun.recv().unwrap();
    assert_eq!(handle.health(), EngineHealth::Rebuilding);
    let during = submit(&handle, 2, 8);
    allow.send(()).unwrap();
    let reasons = before.into_iter().map(|asked| asked.outcome().reason);
    let num_failed = reasons.filter(|reason| matches!(reason, FinishReason::StepFailed(_))).count();
    assert!((1..=3).contains(&num_failed), "{num_failed}");
    for asked in during {
        assert_eq!(asked.outcome().reason, FinishReason::Length);
    }
    assert_eq!(handle.health(), EngineHealth::Ready);
    drop(handle);
    thread.join().unwrap();
}

/// Begins a step only when the test allows it.
struct Gated {
    inner: FingerprintExecutor,
    begun: mpsc::Sender<()>,
    allowed: mpsc::Receiver<Result<()>>,
}

impl Executor for Gated {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let _ = self.begun.send(());
        self.allowed.recv().unwrap_or(Ok(()))?;
        self.inner.submit(plan, sequences)
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.inner.collect()
    }
}

#[test]
fn a_step_that_does_not_end_is_a_stall_until_it_does() {
    let clock = ManualClock::default();
    let (begun, has_begun) = mpsc::channel();
    let (allow, allowed) = mpsc::channel();
    let mut gated = Some(Gated { inner: FingerprintExecutor::new(&config()), begun, allowed });
    let setup = EngineSetup::new(config(), Box::new(Fcfs)).clock(Arc::new(clock.clone()));
    let (handle, thread) = setup.spawn(move || Ok(Box::new(gated.take().unwrap()))).unwrap();
    let second = |num: u64| Nanos(num * 1_000_000_000);
    clock.advance(second(3600));
    assert_eq!(handle.health(), EngineHealth::Ready, "an idle hour is no stall");
    let mut asked = submit(&handle, 1, 2);
    has_begun.recv().unwrap();
    clock.advance(second(60));
    assert_eq!((handle.health(), handle.metrics().faults.num_stalls), (EngineHealth::Ready, 0));
    clock.advance(second(1));
    let stalled = EngineHealth::Stalled { silent_for: second(61) };
    assert_eq!((handle.health(), handle.metrics().faults.num_stalls), (stalled, 1));
    allow.send(Ok(())).unwrap();
    has_begun.recv().unwrap();
    assert_eq!((handle.health(), handle.metrics().faults.num_stalls), (EngineHealth::Ready, 1));
    clock.advance(second(59));
    allow.send(Ok(())).unwrap();
    assert_eq!(asked.remove(0).outcome().reason, FinishReason::Length);
    wait_for_idle(&handle);
    assert_eq!((handle.health(), handle.metrics().faults.num_stalls), (EngineHealth::Ready, 1));
    drop(handle);
    thread.join().unwrap();
}

/// A device that hangs mostly ends its step with an error; this one does not come back after it.
#[test]
fn a_stall_that_ends_in_a_failure_is_counted_and_an_engine_that_stops_shows_nothing_running() {
    let clock = ManualClock::default();
    let (begun, has_begun) = mpsc::channel();
    let (allow, allowed) = mpsc::channel();
    let mut gated = Some(Gated { inner: FingerprintExecutor::new(&config()), begun, allowed });
    let setup = EngineSetup::new(config(), Box::new(Fcfs)).clock(Arc::new(clock.clone()));
    let (handle, thread) = setup.spawn(move || Ok(Box::new(gated.take().unwrap()))).unwrap();
    let asked = submit(&handle, 5, 2);
    has_begun.recv().unwrap();
    clock.advance(Nanos(61_000_000_000));
    assert_eq!(handle.metrics().faults.num_stalls, 1);
    allow.send(Err(Error::Device("lost".into()))).unwrap();
    for asked in asked {
        assert!(matches!(asked.outcome().reason, FinishReason::StepFailed(_)));
    }
    thread.join().unwrap();
    assert_eq!((handle.health(), handle.metrics().faults.num_stalls), (EngineHealth::Stopped, 1));
    let gauges = handle.metrics().gauges;
    assert_eq!((gauges.num_running, gauges.num_waiting, gauges.num_used_blocks), (0, 0, 0));
}

/// Requests that come in bursts, of which some are cancelled and some have deadlines, on an engine
/// that fails now and then.
#[test]
fn after_a_soak_of_cancels_deadlines_and_faults_nothing_is_left() {
    let mut ends: HashMap<&str, u32> = HashMap::new();
    let mut num_retried_to_the_end = 0;
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let config = EngineConfig { num_host_blocks: random.below(2) * 40, ..config() };
        let script = FaultScript::one_in(40, seed ^ 0x5eed);
        let setup = EngineSetup::new(config.clone(), Box::new(Fcfs)).protection(PATIENT);
        let (handle, thread) = spawn(setup, config, 1 + (seed % 3) as usize, &script);
        let mut open = Vec::new();
        for _ in 0..60 {
            for _ in 0..random.below(20) {
                let prompt = (0..=random.below(30)).map(|_| random.below(3)).collect();
                let id = handle.next_request_id();
                let num = 1 + random.below(3);
                let (mut request, asked) = Asked::several(id, prompt, 1 + random.below(20), num);
                if random.below(5) == 0 {
                    let wait = u64::from(random.below(3_000_000));
                    request.deadline = Some(handle.now() + Nanos(wait));
                }
                handle.submit(vec![request]).unwrap();
                open.extend(asked);
            }
            while open.len() > 30 {
                let asked = open.swap_remove(random.below(open.len() as u32) as usize);
                if random.below(4) == 0 {
                    drop(asked);
                } else {
                    num_retried_to_the_end += note_end(asked.outcome(), &mut ends);
                }
            }
        }
        for asked in open {
            num_retried_to_the_end += note_end(asked.outcome(), &mut ends);
        }
        wait_for_idle(&handle);
        let faults = handle.metrics().faults;
        // A fault of a step behind one that fails is never seen.
        assert!((1..=u64::from(script.num_faults())).contains(&faults.num_failed_steps));
        assert_eq!(faults.num_rebuilds, faults.num_failed_steps);
        drop(handle);
        thread.join().unwrap();
    }
    println!("{ends:?}, {num_retried_to_the_end} retried to the end");
    assert!(ends["length"] > 100 && ends["failed"] > 20, "{ends:?}");
    assert!(num_retried_to_the_end > 20, "{num_retried_to_the_end}");
}

/// Counts an end; returns whether it came after a retry.
fn note_end(outcome: Outcome, ends: &mut HashMap<&str, u32>) -> u32 {
    let end = match outcome.reason {
        FinishReason::Length => "length",
        FinishReason::StepFailed(_) => "failed",
        FinishReason::DeadlineExceeded => "deadline",
        other => panic!("{other:?}"),
    };
    *ends.entry(end).or_default() += 1;
    assert!(outcome.stats.num_retries <= 1 && outcome.tokens.len() <= 20);
    u32::from(end == "length" && outcome.stats.num_retries > 0)
}

/// Tokens of a real model for `prompt`, sampled with a seed.
fn params(seed: u64) -> SamplingParams {
    let sampling = Sampling { temperature: 0.8, top_p: 0.9, seed, ..Sampling::default() };
    let stop = StopConditions { max_tokens: 40, ..StopConditions::default() };
    SamplingParams { sampling, stop, ..SamplingParams::default() }
}

fn tokens_of(mut receiver: EventReceiver) -> (Vec<TokenId>, FinishReason, u32) {
    let mut tokens = Vec::new();
    while let Some(event) = receiver.blocking_recv() {
        match event {
            Event::Token(token) => tokens.push(token.id),
            Event::Finished { reason, stats } => return (tokens, reason, stats.num_retries),
            _ => {}
        }
    }
    panic!("no end");
}

#[test]
fn a_real_model_that_is_loaded_again_goes_on_with_the_same_tokens() {
    let files = ModelFiles::Embedded(folio::builtin::chat());
    let setup = Setup {
        // Not enough blocks for three answers: now and then one of them is computed again anyway.
        max_num_seqs: 3,
        max_num_batched_tokens: 24,
        num_blocks: 8,
        ..Setup::ROOMY
    };
    let prompt = |i: u64| (0..22).map(|at| 300 + at * 7 + i as u32).collect::<Vec<TokenId>>();
    let mut core = setup.start(files.clone()).unwrap();
    let expected: Vec<_> = (0..6)
        .map(|i| {
            let (request, mut receivers) = generation(prompt(i), params(i), 1);
            core.admit(request);
            while !core.is_idle() {
                let _ = core.step();
            }
            tokens_of(receivers.remove(0)).0
        })
        .collect();
    let (mut num_failed, mut num_retried) = (0, 0);
    for (step, fault) in (0..60).step_by(6).zip(StepFault::ALL.into_iter().cycle()) {
        let script = FaultScript::at([(step, fault)]);
        let (handle, thread) = setup.spawn(files.clone(), script).unwrap();
        let (requests, receivers): (Vec<_>, Vec<_>) =
            (0..6).map(|i| generation(prompt(i), params(i), 1)).unzip();
        handle.submit(requests).unwrap();
        for (mut receivers, expected) in receivers.into_iter().zip(&expected) {
            let (tokens, reason, num_retries) = tokens_of(receivers.remove(0));
            assert!(expected.starts_with(&tokens), "{fault:?} at {step}");
            match reason {
                FinishReason::StepFailed(_) => num_failed += 1,
                FinishReason::Length => {
                    assert_eq!(tokens, *expected, "{fault:?} at {step}");
                    num_retried += num_retries;
                }
                other => panic!("{other:?}"),
            }
        }
        wait_for_idle(&handle);
        drop(handle);
        thread.join().unwrap();
    }
    println!("{num_failed} failed, {num_retried} were computed again");
    assert!(num_failed >= 10 && num_retried > 0);
}
