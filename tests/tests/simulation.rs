//! The production scheduler under random arrivals, cancellations, tiny pools and bad policies.
//!
//! Checked in every step: block counts, list membership, and that every position a step reads
//! holds the keys and values of exactly its own text. Checked at the end: each choice got exactly
//! the tokens it gets alone, every block is free again, nothing is left behind. All of it for
//! executors that take one step, two or three at a time, also when steps fail.
#![allow(clippy::print_stdout, reason = "the seed of a failing run")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::Executor;
use folio_engine::sched::policies::{Fcfs, Priority};
use folio_engine::sched::{
    Admit, Decider, Displacement, Limits, Plan, Planner, Policy, PolicyContext, PolicyRequest,
    PreemptionMode, Rank, Refresh, Refused, Registry, SchedEvent, Victim, View,
};
use folio_engine::types::{
    CacheSalt, Choice, Clock as _, EngineConfig, Event, EventReceiver, EventSender, FinishReason,
    LogitsProcessor, ManualClock, ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching, Request,
    RequestId, SamplingParams, SequenceId, Slo, StopConditions, Task, TenantId, TokenId,
};
use folio_tests::{Faults, FingerprintExecutor, LateExecutor, Random, StepLog};

/// Answers every question at random, including with nonsense.
struct Adversary(Random);

impl Policy for Adversary {
    fn name(&self) -> &'static str {
        "adversary"
    }

    fn rank(&mut self, _: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        match self.0.below(8) {
            0 => Rank(f64::NAN, 0.0),
            1 => Rank(f64::NEG_INFINITY, 0.0),
            n => Rank(f64::from(n), f64::from(self.0.below(100))),
        }
    }

    fn refresh(&self) -> Refresh {
        [Refresh::OnArrival, Refresh::OnTenantEvent, Refresh::EveryStep][self.0.0 as usize % 3]
    }

    fn displacement(&self) -> Displacement {
        if self.0.0 & 64 == 0 { Displacement::ByRank } else { Displacement::Never }
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        Limits {
            token_budget: self.0.below(40),
            chunk: self.0.below(9),
            max_partial_prefills: self.0.below(3),
            max_running: self.0.below(9),
            watermark_blocks: self.0.below(view.kv().num_blocks * 2),
        }
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        let _ = view.num_cached_tokens(request);
        match self.0.below(6) {
            0 => Admit::Skip,
            1 => Admit::Stop,
            2 => Admit::Now { reserve_tokens: u32::MAX },
            _ => Admit::Now { reserve_tokens: self.0.below(30) },
        }
    }

    fn victim(&mut self, candidates: &[SequenceId], _: &View<'_>) -> Option<Victim> {
        let modes = [PreemptionMode::Recompute, PreemptionMode::Swap];
        let mode = modes[self.0.below(2) as usize];
        match self.0.below(3) {
            0 => None,
            1 => Some(Victim { id: SequenceId(u64::MAX), mode }),
            _ => {
                let pick = self.0.below(candidates.len() as u32) as usize;
                Some(Victim { id: candidates[pick], mode })
            }
        }
    }
}

/// Plans at random, by calls that make sense and calls that do not.
struct AdversaryPlanner(Random);

impl AdversaryPlanner {
    /// A sequence that runs or waits, or none at all.
    fn anyone(&mut self, view: &View<'_>) -> SequenceId {
        let ids: Vec<_> = view.running().chain(view.waiting()).collect();
        match self.0.below(ids.len() as u32 + 1) as usize {
            index if index < ids.len() => ids[index],
            _ => SequenceId(u64::from(self.0.below(200))),
        }
    }

    /// One call, with the numbers that it may have changed before and after.
    fn call(&mut self, plan: &mut dyn Plan) {
        let id = self.anyone(&plan.view());
        let modes = [PreemptionMode::Recompute, PreemptionMode::Swap];
        let before = outlook(plan);
        let is_refused = match self.0.below(12) {
            0 | 1 => plan.preempt(id, modes[self.0.below(2) as usize]).is_err(),
            2 => !plan.prefetch(id),
            3 => self.0.one_in(20) && plan.reject(id).is_err(),
            _ => {
                let most = [0, 1, 2, 7, u32::MAX][self.0.below(5) as usize];
                let granted = plan.grant(id, most);
                let num = granted.unwrap_or(0);
                // The token held back for the oldest is free once it has its grant.
                let spent = before.1 - plan.budget_left().min(before.1);
                assert!(spent == num || spent + 1 == num, "{num} granted, {spent} spent");
                assert!(granted.is_err() || (1..=most).contains(&num), "{granted:?} of {most}");
                assert!(granted.is_err() || plan.grant(id, 1).is_err(), "{id} was granted twice");
                granted.is_err()
            }
        };
        assert!(!is_refused || outlook(plan) == before, "refused, and something changed");
    }
}

/// What calls may change: those that run, tokens and blocks left.
fn outlook(plan: &dyn Plan) -> (Vec<SequenceId>, u32, u32, u32) {
    let view = plan.view();
    let num_free = view.kv().num_free;
    (view.running().collect(), plan.budget_left(), plan.free_blocks(), num_free)
}

impl Planner for AdversaryPlanner {
    fn name(&self) -> &'static str {
        "adversary"
    }

    fn plan(&mut self, plan: &mut dyn Plan) {
        for _ in 0..self.0.below(30) * self.0.below(2) {
            self.call(plan);
        }
    }
}

/// Grants what runs, then what waits, for as long as there is room.
struct ArrivalPlanner;

impl Planner for ArrivalPlanner {
    fn name(&self) -> &'static str {
        "arrival"
    }

    fn plan(&mut self, plan: &mut dyn Plan) {
        let running: Vec<_> = plan.view().running().collect();
        let mut given_way = Vec::new();
        for &id in &running {
            while !given_way.contains(&id) && is_short(plan.grant(id, u32::MAX)) {
                let mode = plan.view().preemption();
                let last = running.iter().rev().find(|&&last| plan.preempt(last, mode).is_ok());
                let Some(&last) = last else { break };
                given_way.push(last);
            }
        }
        let waiting: Vec<_> = plan.view().waiting().collect();
        for id in waiting {
            if !given_way.is_empty() || is_short(plan.grant(id, u32::MAX)) {
                break;
            }
        }
    }
}

fn is_short(granted: Result<u32, Refused>) -> bool {
    matches!(granted, Err(Refused::NoBlocks { .. }))
}

/// Never grants anything.
struct IdlePlanner;

impl Planner for IdlePlanner {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn plan(&mut self, _: &mut dyn Plan) {}
}

/// The events that a policy is told must tell a consistent story.
struct Story {
    /// Live sequences, and whether they hold a place in steps.
    live: HashMap<SequenceId, bool>,
    num_granted: Arc<AtomicU64>,
}

/// Another policy, and what it is told.
struct Audited {
    inner: Box<dyn Policy>,
    story: Story,
}

/// Another planner, and what it is told.
struct AuditedPlanner {
    inner: Box<dyn Planner>,
    story: Story,
}

impl Planner for AuditedPlanner {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn plan(&mut self, plan: &mut dyn Plan) {
        self.inner.plan(plan);
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        self.story.observe(event);
        self.inner.observe(event, view);
    }
}

impl Policy for Audited {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        self.inner.rank(request, view)
    }

    fn refresh(&self) -> Refresh {
        self.inner.refresh()
    }

    fn displacement(&self) -> Displacement {
        self.inner.displacement()
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        self.inner.limits(view)
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        assert_eq!(self.story.live.get(&request.id()), Some(&false), "asked about {request:?}");
        self.inner.admit(request, view)
    }

    fn victim(&mut self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        self.inner.victim(candidates, view)
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        self.story.observe(event);
        self.inner.observe(event, view);
    }
}

impl Story {
    fn observe(&mut self, event: &SchedEvent) {
        let before = match *event {
            SchedEvent::Arrived(id) => self.live.insert(id, false).map_or(Some(()), |_| None),
            SchedEvent::Admitted { id, .. } => {
                self.live.insert(id, true).filter(|&runs| !runs).map(drop)
            }
            SchedEvent::Granted { id, num_tokens, .. } => {
                self.num_granted.fetch_add(u64::from(num_tokens), Ordering::Relaxed);
                self.live.get(&id).filter(|&&runs| runs && num_tokens > 0).map(drop)
            }
            SchedEvent::Preempted(id) => self.live.insert(id, false).filter(|&runs| runs).map(drop),
            SchedEvent::Finished { id, .. } => self.live.remove(&id).map(drop),
            SchedEvent::Stepped { .. } => Some(()),
        };
        assert!(before.is_some(), "{event:?} contradicts what was told before");
    }
}

/// What a request must lead to, choice by choice.
struct Expected {
    prompt: Vec<TokenId>,
    max_tokens: u32,
    stop: Vec<TokenId>,
    kind: ModelKind,
    never_fits: bool,
    has_deadline: bool,
    /// `None` once the client has gone away.
    receivers: Vec<Option<EventReceiver>>,
    received: Vec<Vec<Event>>,
}

struct Run {
    random: Random,
    config: EngineConfig,
    core: EngineCore,
    clock: ManualClock,
    requests: Vec<Expected>,
    device: DeviceKind,
    log: Arc<Mutex<StepLog>>,
    num_granted: Arc<AtomicU64>,
    num_computed: u64,
}

/// How the device behaves.
#[derive(Clone, Copy)]
enum DeviceKind {
    /// Carries a step out when it is submitted.
    Prompt,
    /// Carries steps out when they are collected, this many in flight at the most.
    Late(usize),
    /// The same, and some steps fail.
    Faulty(usize),
}

/// Looks at nothing: its sequence must not run ahead all the same.
struct Onlooker;

impl LogitsProcessor for Onlooker {
    fn process(&mut self, _: &[TokenId], _: &mut [f32]) {}
}

const VOCAB: u32 = 50;

/// What a client is told whose request a planner rejects.
const REJECTED: &str = "the planner rejected it";

/// Host blocks for whatever could be preempted at once.
const ROOMY_HOST: u32 = 10_000;

fn random_config(random: &mut Random) -> EngineConfig {
    let decoder = ModelLimits { kind: ModelKind::Decoder, max_model_len: 64, vocab_size: VOCAB };
    let encoder = ModelLimits { kind: ModelKind::Encoder, max_model_len: 24, vocab_size: VOCAB };
    let max_num_seqs = 1 + random.below(8);
    let caching = if random.one_in(3) { PrefixCaching::Off } else { PrefixCaching::On };
    EngineConfig {
        models: vec![decoder, encoder],
        block_size: 1 + random.below(6),
        num_blocks: 8 + random.below(40),
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + 24 + random.below(40),
        max_num_partial_prefills: 1 + random.below(3),
        long_prefill_token_threshold: random.one_in(2).then(|| 1 + random.below(12)),
        max_queued_requests: 1000,
        prefix_caching: caching,
        num_host_blocks: [0, 1 + random.below(20), ROOMY_HOST][random.below(3) as usize],
    }
}

fn executor(
    config: &EngineConfig,
    device: DeviceKind,
    seed: u64,
    log: &Arc<Mutex<StepLog>>,
) -> Box<dyn Executor> {
    let late = |max| LateExecutor::new(config, max).with_log(Arc::clone(log));
    match device {
        DeviceKind::Prompt => Box::new(FingerprintExecutor::new(config)),
        DeviceKind::Late(max) => Box::new(late(max)),
        DeviceKind::Faulty(max) => Box::new(late(max).with_faults(Faults::OneIn(30, seed))),
    }
}

impl Run {
    fn new(seed: u64, decider: impl Into<Decider>, device: DeviceKind) -> Self {
        let mut random = Random(seed);
        let config = random_config(&mut random).validated().unwrap();
        let clock = ManualClock::default();
        let log = Arc::default();
        let executor = executor(&config, device, seed, &log);
        let num_granted = Arc::default();
        let story = Story { live: HashMap::new(), num_granted: Arc::clone(&num_granted) };
        let decider = match decider.into() {
            Decider::Ranked(inner) => Decider::Ranked(Box::new(Audited { inner, story })),
            Decider::Joint(inner) => Decider::Joint(Box::new(AuditedPlanner { inner, story })),
        };
        let core = EngineCore::new(config.clone(), decider, executor, Box::new(clock.clone()));
        Self {
            random,
            config,
            core,
            clock,
            device,
            requests: Vec::new(),
            log,
            num_granted,
            num_computed: 0,
        }
    }

    fn arrive(&mut self) {
        let kind = if self.random.one_in(3) { ModelKind::Encoder } else { ModelKind::Decoder };
        let model = &self.config.models[usize::from(kind == ModelKind::Encoder)];
        let most = match kind {
            ModelKind::Encoder | ModelKind::CrossEncoder => model.max_model_len,
            ModelKind::Decoder => (model.max_model_len - 8).min(self.config.kv_capacity_tokens()),
        };
        // Few distinct beginnings, so that prefixes are shared and diverge.
        let family = self.random.below(3);
        let len = 1 + self.random.below(most);
        let branch = self.random.below(most + 1);
        let prompt: Vec<TokenId> =
            (0..len).map(|i| if i < branch { family } else { family + 3 + i % 2 }).collect();
        let room = self.config.kv_capacity_tokens().saturating_sub(len).min(8);
        let max_tokens = if kind == ModelKind::Decoder { 1 + self.random.below(8) } else { 0 };
        let max_tokens = max_tokens.min(room.max(1));
        let num_choices = match kind {
            ModelKind::Decoder => 1 + self.random.below(3) * self.random.below(2),
            ModelKind::Encoder | ModelKind::CrossEncoder => 1,
        };
        let stop = vec![self.random.below(VOCAB), self.random.below(VOCAB)];
        let task = match kind {
            ModelKind::Encoder | ModelKind::CrossEncoder => Task::Embed,
            ModelKind::Decoder => Task::Generate(SamplingParams {
                stop: StopConditions { max_tokens, min_tokens: 0, token_ids: stop.clone() },
                ..SamplingParams::default()
            }),
        };
        let wait = Nanos(1000 * u64::from(1 + self.random.below(60)));
        let deadline = self.random.one_in(5).then(|| self.clock.now() + wait);
        let (mut choices, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..num_choices {
            let (events, receiver) = EventSender::channel(max_tokens);
            let mut processors: Vec<Box<dyn LogitsProcessor>> = Vec::new();
            if self.random.one_in(6) {
                processors.push(Box::new(Onlooker));
            }
            choices.push(Choice { processors, ..Choice::new(events) });
            receivers.push(Some(receiver));
        }
        self.core.admit(Request {
            id: RequestId(self.requests.len() as u64),
            model: ModelId(u32::from(kind == ModelKind::Encoder)),
            prompt: prompt.clone(),
            task,
            choices,
            priority: self.random.below(4) as i32,
            tenant: TenantId(self.random.below(3)),
            deadline,
            slo: Slo::default(),
            cache_salt: self.random.one_in(4).then_some(CacheSalt(9)),
        });
        self.requests.push(Expected {
            never_fits: len + max_tokens > self.config.kv_capacity_tokens(),
            has_deadline: deadline.is_some(),
            prompt,
            max_tokens,
            stop,
            kind,
            receivers,
            received: vec![Vec::new(); num_choices as usize],
        });
    }

    fn cancel_one(&mut self) {
        let pick = self.random.below(self.requests.len() as u32) as usize;
        let receivers = &mut self.requests[pick].receivers;
        let choice = self.random.below(receivers.len() as u32) as usize;
        receivers[choice] = None;
    }

    fn drain(&mut self) {
        for request in &mut self.requests {
            for (receiver, received) in request.receivers.iter_mut().zip(&mut request.received) {
                if let Some(receiver) = receiver {
                    let events = std::iter::from_fn(|| receiver.try_recv().ok());
                    received.extend(events.filter(|event| !matches!(event, Event::Started(_))));
                }
            }
        }
    }

    fn step(&mut self) -> Turn {
        self.clock.advance(Nanos(1000));
        let turn = self.core.step();
        if let Turn::Failed(_) = &turn {
            let seed = u64::from(self.random.below(u32::MAX));
            let executor = executor(&self.config, self.device, seed, &self.log);
            self.core.restore(executor);
        }
        if let Turn::Stepped(report) = &turn {
            let num_useful = report.num_prefill_tokens + report.num_decode_tokens;
            self.num_computed += u64::from(num_useful + report.num_wasted_tokens);
        }
        self.core.scheduler().assert_consistent();
        turn
    }

    fn run(&mut self, num_requests: usize) {
        let may_fail = matches!(self.device, DeviceKind::Faulty(_));
        while self.requests.len() < num_requests {
            for _ in 0..self.random.below(4) {
                self.arrive();
            }
            if self.random.one_in(6) && !self.requests.is_empty() {
                self.cancel_one();
            }
            let turn = self.step();
            assert!(may_fail || !matches!(turn, Turn::Failed(_)), "{turn:?}");
        }
        // Bound on the work left: every request may be recomputed often, but not for ever.
        let mut steps_left = 200 * num_requests;
        while !self.core.is_idle() {
            steps_left -= 1;
            assert!(steps_left > 0, "no end in sight: {:?}", self.core);
            let _ = self.step();
        }
        self.drain();
        let num_granted = self.num_granted.load(Ordering::Relaxed);
        assert!(may_fail || num_granted == self.num_computed, "granted, and computed");
        let gauges = self.core.gauges();
        assert_eq!((gauges.num_running, gauges.num_waiting, gauges.num_used_blocks), (0, 0, 0));
        assert_eq!(gauges.num_used_host_blocks, 0, "saved for nobody");
        for (index, request) in self.requests.iter().enumerate() {
            request.check(index, self.device);
        }
    }
}

impl Expected {
    /// Choices that were put back after a failure and came to their own end all the same.
    fn num_retried(&self) -> u32 {
        let ends = self.received.iter().filter_map(|events| events.last());
        let is_retried = |event: &&Event| match event {
            Event::Finished { reason, stats } => stats.num_retries > 0 && !is_failure(reason),
            _ => false,
        };
        ends.filter(is_retried).count() as u32
    }

    fn check(&self, request: usize, device: DeviceKind) {
        for (choice, events) in self.received.iter().enumerate() {
            if self.receivers[choice].is_none() {
                continue;
            }
            let Some((Event::Finished { reason, .. }, before)) = events.split_last() else {
                panic!("request {request} choice {choice} has no end: {events:?}");
            };
            let may_fail = matches!(device, DeviceKind::Faulty(_));
            match self.kind {
                ModelKind::Encoder if may_fail && is_failure(reason) => {
                    assert!(before.is_empty(), "{before:?}");
                }
                ModelKind::Encoder if *reason == FinishReason::DeadlineExceeded => {
                    assert!(self.has_deadline && before.is_empty(), "{before:?}");
                }
                ModelKind::Encoder | ModelKind::CrossEncoder => {
                    assert_eq!(*reason, FinishReason::Embedded);
                    let [Event::Embedding(vector)] = before else { panic!("{before:?}") };
                    assert_eq!(*vector, FingerprintExecutor::embedding(&self.prompt));
                }
                ModelKind::Decoder => {
                    self.check_tokens(choice as u32, before, reason, device);
                }
            }
        }
    }

    /// Replays the generation of one choice alone.
    fn check_tokens(
        &self,
        choice: u32,
        events: &[Event],
        reason: &FinishReason,
        device: DeviceKind,
    ) {
        if matches!(reason, FinishReason::Refused(_)) {
            let is_rejected = matches!(reason, FinishReason::Refused(why) if why == REJECTED);
            assert!(self.never_fits || is_rejected, "refused although it fits: {reason:?}");
            return;
        }
        if *reason == FinishReason::DeadlineExceeded {
            assert!(self.has_deadline, "{events:?}");
        }
        let mut text = self.prompt.clone();
        for (index, event) in events.iter().enumerate() {
            let Event::Token(token) = event else { panic!("{event:?}") };
            let expected = FingerprintExecutor::next_token(&text, choice, VOCAB);
            assert_eq!(token.id, expected, "token {index} of choice {choice}");
            text.push(token.id);
            let is_last = index + 1 == events.len();
            assert!(is_last || !self.stop.contains(&token.id), "ran past a stop token");
        }
        let last = text[text.len() - 1];
        match reason {
            FinishReason::Stop(token) => assert!(last == *token && self.stop.contains(token)),
            FinishReason::Length => assert_eq!(events.len() as u32, self.max_tokens),
            FinishReason::DeadlineExceeded => {}
            failure if is_failure(failure) && matches!(device, DeviceKind::Faulty(_)) => {}
            other => panic!("unexpected end {other:?}"),
        }
    }
}

fn is_failure(reason: &FinishReason) -> bool {
    matches!(reason, FinishReason::Failed(_) | FinishReason::StepFailed(_))
}

fn run_seeds(name: &str, num_seeds: u64, device: DeviceKind, decider: impl Fn(u64) -> Decider) {
    let (mut num_preemptions, mut num_hits, mut num_evictions) = (0, 0, 0);
    let (mut num_wasted, mut num_ahead, mut num_placeholders) = (0, 0, 0);
    let (mut num_failed, mut num_saved, mut num_brought_back) = ([0; 4], 0, 0);
    for seed in 0..num_seeds {
        println!("policy {name}, seed {seed}");
        let mut run = Run::new(seed, decider(seed), device);
        run.run(60);
        let gauges = run.core.gauges();
        num_preemptions += gauges.totals.num_preemptions;
        num_saved += gauges.totals.num_swapped_out_tokens;
        num_brought_back += gauges.totals.num_swapped_in_tokens;
        let is_saving = run.config.num_host_blocks == ROOMY_HOST && name != "adversary";
        let may_drop = !is_saving || matches!(device, DeviceKind::Faulty(_));
        assert!(may_drop || gauges.totals.num_dropped_tokens == 0, "dropped, with room to save");
        num_wasted += gauges.totals.num_wasted_tokens;
        num_hits += gauges.prefix.num_hit_tokens;
        num_evictions += gauges.prefix.num_evictions;
        let log = run.log.lock().unwrap();
        num_ahead += log.num_in_flight.iter().filter(|&&num| num > 0).count();
        num_placeholders += log.num_placeholders();
        let num_retried = run.requests.iter().map(Expected::num_retried).sum();
        let log_failed = [log.num_failed[0], log.num_failed[1], log.num_failed[2], num_retried];
        num_failed.iter_mut().zip(log_failed).for_each(|(sum, num)| *sum += num);
    }
    println!("{num_preemptions} preemptions, {num_hits} cached tokens, {num_evictions} evictions");
    println!(
        "{num_ahead} steps ahead, {num_placeholders} placeholders, {num_wasted} wasted tokens"
    );
    println!("{num_saved} tokens saved on the host, {num_brought_back} brought back");
    println!("{num_failed:?} submissions, steps, sequences failed, sequences retried to the end");
    let exercised = num_preemptions > 100 && num_hits > 1000 && num_evictions > 100;
    assert!(exercised, "the runs were too easy to prove anything");
    assert!(num_saved > 500 && num_brought_back > 100, "blocks were hardly ever swapped");
    let is_late = !matches!(device, DeviceKind::Prompt);
    let is_exercised_ahead = num_ahead > 1000 && num_placeholders > 1000 && num_wasted > 100;
    assert_eq!(is_late, is_exercised_ahead, "steps in flight");
    let is_faulty = matches!(device, DeviceKind::Faulty(_));
    assert_eq!(is_faulty, num_failed.iter().all(|&num| num > 100), "failed steps");
}

fn adversary(seed: u64) -> Decider {
    Box::new(Adversary(Random(seed ^ 0xabcd))).into()
}

fn adversary_planner(seed: u64) -> Decider {
    Decider::Joint(Box::new(AdversaryPlanner(Random(seed ^ 0xabcd))))
}

#[test]
fn fcfs_gives_every_request_the_tokens_it_gets_alone() {
    run_seeds("fcfs", 300, DeviceKind::Prompt, |_| Box::new(Fcfs).into());
}

#[test]
fn priority_gives_every_request_the_tokens_it_gets_alone() {
    run_seeds("priority", 300, DeviceKind::Prompt, |_| Box::new(Priority).into());
}

/// Every policy that ships, most with what can be had on top of each.
const SPECS: [&str; 15] = [
    "sjf",
    "sjf ageing=0 predictor=histogram victim=last",
    "srpt",
    "srpt c=1 ageing=0 reserve=ratio:0.5",
    "hrrn victim=least-computed",
    "edf default=1ms reserve=max",
    "lpm in_batch=4",
    "lpm ageing=0 max_waiting=3 tpot=2us",
    "dfs-weight",
    "dfs-weight max_wait=5us victim=worst-rank",
    "mlfq quantum=2us levels=4 promote=20us",
    "vtc",
    "vtc predictor=histogram victim=fewest-outputs",
    "priority reserve=predicted",
    "slos-serve ttft=20us tpot=3us max_wait=40us",
];

fn shipped(seed: u64) -> Decider {
    let spec = SPECS[seed as usize % SPECS.len()];
    Registry::builtin().make(spec, &PolicyContext::default()).expect(spec)
}

#[test]
fn every_policy_gives_every_request_the_tokens_it_gets_alone() {
    run_seeds("shipped", 450, DeviceKind::Prompt, shipped);
}

#[test]
fn one_step_ahead_every_policy_gives_every_request_the_tokens_it_gets_alone() {
    run_seeds("shipped", 300, DeviceKind::Late(2), shipped);
}

#[test]
fn every_policy_survives_what_fails() {
    run_seeds("shipped", 300, DeviceKind::Faulty(2), shipped);
}

#[test]
fn an_adversarial_policy_loses_nothing_and_cannot_dead_lock() {
    run_seeds("adversary", 600, DeviceKind::Prompt, adversary);
}

#[test]
fn one_step_ahead_every_request_gets_the_tokens_it_gets_alone() {
    run_seeds("fcfs", 300, DeviceKind::Late(2), |_| Box::new(Fcfs).into());
    run_seeds("priority", 200, DeviceKind::Late(2), |_| Box::new(Priority).into());
}

#[test]
fn two_steps_ahead_every_request_gets_the_tokens_it_gets_alone() {
    run_seeds("fcfs", 200, DeviceKind::Late(3), |_| Box::new(Fcfs).into());
}

#[test]
fn an_adversarial_policy_loses_nothing_ahead_of_the_device() {
    run_seeds("adversary", 400, DeviceKind::Late(2), adversary);
    run_seeds("adversary", 200, DeviceKind::Late(3), adversary);
}

#[test]
fn what_fails_ends_its_requests_and_leaves_nothing_behind() {
    run_seeds("fcfs", 200, DeviceKind::Faulty(2), |_| Box::new(Fcfs).into());
    run_seeds("adversary", 300, DeviceKind::Faulty(3), adversary);
}

#[test]
fn an_adversarial_planner_loses_nothing_and_cannot_dead_lock() {
    run_seeds("adversary", 600, DeviceKind::Prompt, adversary_planner);
    run_seeds("adversary", 400, DeviceKind::Late(2), adversary_planner);
    run_seeds("adversary", 200, DeviceKind::Late(3), adversary_planner);
}

#[test]
fn an_adversarial_planner_survives_what_fails() {
    run_seeds("adversary", 300, DeviceKind::Faulty(3), adversary_planner);
}

#[test]
fn a_planner_in_order_of_arrival_gives_every_request_the_tokens_it_gets_alone() {
    let arrival = |_| Decider::Joint(Box::new(ArrivalPlanner));
    run_seeds("arrival", 300, DeviceKind::Prompt, arrival);
    run_seeds("arrival", 300, DeviceKind::Late(2), arrival);
}

/// Its plans are made for it, and it is counted how often.
#[test]
fn a_planner_that_grants_nothing_is_overridden() {
    for seed in 0..50 {
        println!("seed {seed}");
        let decider = Decider::Joint(Box::new(IdlePlanner));
        let mut run = Run::new(seed, decider, DeviceKind::Prompt);
        run.run(60);
        let totals = run.core.gauges().totals;
        assert!(totals.num_overridden_plans > 0, "{totals:?}");
        assert!(totals.num_overridden_plans <= totals.num_steps, "{totals:?}");
    }
}
