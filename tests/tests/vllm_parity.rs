//! `fcfs` and `priority` decide as vLLM's V1 scheduler does.
//!
//! The oracle below is V1's loop, written from its published description (walk the running list in
//! order of admission, preempt on failure, then take waiting ones until the first that fails) and
//! sharing no code with the engine. Random loads are compared grant for grant and preemption for
//! preemption; scenarios with expected grants by hand keep the oracle honest. Where Folio departs
//! by design, the oracle says so, the comparison of that run ends, and a scenario shows how.
#![allow(clippy::print_stdout, reason = "the seed of a failing run")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;

use folio_engine::sched::policies::{Fcfs, Priority};
use folio_engine::sched::{Policy, Scheduler};
use folio_engine::types::{
    Choice, EngineConfig, EventReceiver, EventSender, ModelId, ModelKind, ModelLimits, Nanos,
    PrefixCaching, Request, RequestId, SampledToken, SamplingParams, SeqResult, Slo, StepOutput,
    StopConditions, Task, TenantId,
};
use folio_tests::Random;

/// A request of a scenario: when it arrives (before which step), and what it wants.
#[derive(Clone, Copy, Debug)]
struct Job {
    step: usize,
    prompt: u32,
    output: u32,
    priority: i32,
}

const fn job(step: usize, prompt: u32, output: u32) -> Job {
    Job { step, prompt, output, priority: 0 }
}

const fn urgent(step: usize, prompt: u32, output: u32, priority: i32) -> Job {
    Job { step, prompt, output, priority }
}

/// The settings that V1's loop looks at.
#[derive(Clone, Copy, Debug)]
struct Limits {
    budget: u32,
    max_seqs: u32,
    threshold: Option<u32>,
    block_size: u32,
    /// Blocks that can be handed out.
    blocks: u32,
}

/// What one step does: tokens by request, and who was preempted before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Decision {
    grants: BTreeMap<u64, u32>,
    preempted: Vec<u64>,
}

/// `"0:16 1:1"` is a grant of 16 tokens to request 0 and one to request 1; `"!1"` a preemption.
fn decision(text: &str) -> Decision {
    let mut decision = Decision::default();
    for word in text.split_whitespace() {
        if let Some(id) = word.strip_prefix('!') {
            decision.preempted.push(id.parse().unwrap());
        } else {
            let (id, tokens) = word.split_once(':').unwrap();
            decision.grants.insert(id.parse().unwrap(), tokens.parse().unwrap());
        }
    }
    decision
}

// ---------------------------------------------------------------------------------------- oracle

/// V1's order of waiting requests, and its victims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Fcfs,
    Priority,
}

/// Where Folio decides otherwise, on purpose. (That Folio keeps a token for each sequence that
/// decodes makes no difference here: V1 takes nobody in behind a prompt that it has cut.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    /// V1 preempts the oldest request that runs. Folio never does: it always progresses.
    OldestPreempted,
    /// V1 ends the walk when who needs a block is itself the victim: those behind it in the list,
    /// more urgent all of them, miss a step. Folio goes on with them.
    RestSkipped,
    /// V1 shares a budget that is too small out in the order of admission. Folio does in the order
    /// of urgency.
    LateUrgentPrompt,
}

#[derive(Clone, Debug)]
struct V1Request {
    id: u64,
    job: Job,
    computed: u32,
    generated: u32,
    blocks: u32,
}

impl V1Request {
    fn num_tokens(&self) -> u32 {
        self.job.prompt + self.generated
    }

    fn key(&self) -> (i32, u64) {
        (self.job.priority, self.id)
    }
}

/// vLLM's V1 scheduler without prefix cache, as described.
struct V1 {
    limits: Limits,
    order: Order,
    waiting: Vec<V1Request>,
    running: Vec<V1Request>,
    free: u32,
    departure: Option<Departure>,
}

impl V1 {
    fn new(limits: Limits, order: Order) -> Self {
        let (waiting, running) = (Vec::new(), Vec::new());
        Self { limits, order, waiting, running, free: limits.blocks, departure: None }
    }

    fn arrive(&mut self, id: u64, job: Job) {
        self.waiting.push(V1Request { id, job, computed: 0, generated: 0, blocks: 0 });
    }

    /// Grows what a request holds to cover `computed + tokens`; false, and nothing, if it cannot.
    fn allocate(free: &mut u32, request: &mut V1Request, tokens: u32, block_size: u32) -> bool {
        let need = (request.computed + tokens).div_ceil(block_size) - request.blocks;
        if need > *free {
            return false;
        }
        *free -= need;
        request.blocks += need;
        true
    }

    fn capped(&self, todo: u32) -> u32 {
        todo.min(self.limits.threshold.unwrap_or(u32::MAX))
    }

    fn schedule(&mut self) -> Decision {
        let mut decision = Decision::default();
        let mut budget = self.limits.budget;
        self.schedule_running(&mut budget, &mut decision);
        if decision.preempted.is_empty() {
            self.schedule_waiting(&mut budget, &mut decision);
        }
        for request in &mut self.running {
            request.computed += decision.grants.get(&request.id).unwrap_or(&0);
        }
        decision
    }

    fn schedule_running(&mut self, budget: &mut u32, decision: &mut Decision) {
        let mut index = 0;
        while index < self.running.len() {
            let todo = self.running[index].num_tokens() - self.running[index].computed;
            let tokens = self.capped(todo).min(*budget);
            if tokens < self.capped(todo) && self.order == Order::Priority {
                self.departure.get_or_insert(Departure::LateUrgentPrompt);
            }
            if tokens == 0 {
                return; // the budget is gone
            }
            let mut is_self = false;
            loop {
                let size = self.limits.block_size;
                if Self::allocate(&mut self.free, &mut self.running[index], tokens, size) {
                    break;
                }
                let victim = match self.order {
                    Order::Fcfs => self.running.len() - 1,
                    Order::Priority => {
                        let keys = self.running.iter().map(V1Request::key).enumerate();
                        keys.max_by_key(|&(_, key)| key).unwrap().0
                    }
                };
                if self.running.iter().map(|r| r.id).min() == Some(self.running[victim].id) {
                    self.departure.get_or_insert(Departure::OldestPreempted);
                }
                is_self = victim == index;
                let mut victim_request = self.running.remove(victim);
                if victim < index {
                    index -= 1;
                }
                // One that was scheduled in this step already is taken out of it again.
                if let Some(granted) = decision.grants.remove(&victim_request.id) {
                    *budget += granted;
                }
                self.free += std::mem::take(&mut victim_request.blocks);
                victim_request.computed = 0;
                decision.preempted.push(victim_request.id);
                self.waiting.insert(0, victim_request);
                if is_self {
                    break;
                }
            }
            if is_self {
                if index < self.running.len() {
                    self.departure.get_or_insert(Departure::RestSkipped);
                }
                break;
            }
            decision.grants.insert(self.running[index].id, tokens);
            *budget -= tokens;
            index += 1;
        }
    }

    fn schedule_waiting(&mut self, budget: &mut u32, decision: &mut Decision) {
        if self.order == Order::Priority {
            self.waiting.sort_by_key(V1Request::key);
        }
        while !self.waiting.is_empty() && *budget > 0 {
            if self.running.len() as u32 >= self.limits.max_seqs {
                return;
            }
            let todo = self.waiting[0].num_tokens() - self.waiting[0].computed;
            let tokens = self.capped(todo).min(*budget);
            let size = self.limits.block_size;
            if !Self::allocate(&mut self.free, &mut self.waiting[0], tokens, size) {
                return;
            }
            let request = self.waiting.remove(0);
            decision.grants.insert(request.id, tokens);
            *budget -= tokens;
            self.running.push(request);
        }
    }

    /// Whoever has all its tokens computed gets another, and leaves with its last.
    fn update(&mut self) {
        for request in &mut self.running {
            request.generated += u32::from(request.computed == request.num_tokens());
        }
        let free = &mut self.free;
        self.running.retain(|request| {
            let is_done = request.generated == request.job.output;
            *free += if is_done { request.blocks } else { 0 };
            !is_done
        });
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }
}

// ----------------------------------------------------------------------------------------- Folio

/// The engine's scheduler, with a device that answers anything.
struct Folio {
    scheduler: Scheduler,
    receivers: Vec<EventReceiver>,
    now: Nanos,
}

impl Folio {
    fn new(limits: Limits, order: Order) -> Self {
        let config = EngineConfig {
            models: vec![ModelLimits {
                kind: ModelKind::Decoder,
                max_model_len: 100_000,
                vocab_size: 10,
            }],
            block_size: limits.block_size,
            num_blocks: limits.blocks + 1,
            max_num_seqs: limits.max_seqs,
            max_num_batched_tokens: limits.budget,
            max_num_partial_prefills: u32::MAX,
            long_prefill_token_threshold: limits.threshold,
            max_queued_requests: 100_000,
            prefix_caching: PrefixCaching::Off,
            num_host_blocks: 0,
        };
        let policy: Box<dyn Policy> = match order {
            Order::Fcfs => Box::new(Fcfs),
            Order::Priority => Box::new(Priority),
        };
        let scheduler = Scheduler::new(config.validated().unwrap(), policy);
        Self { scheduler, receivers: Vec::new(), now: Nanos(0) }
    }

    /// Requests have one choice each, so sequences have the numbers of their requests.
    fn arrive(&mut self, id: u64, job: Job) {
        let (events, receiver) = EventSender::channel(job.output);
        self.receivers.push(receiver);
        let stop = StopConditions { max_tokens: job.output, ..StopConditions::default() };
        self.scheduler.admit(
            Request {
                id: RequestId(id),
                model: ModelId(0),
                prompt: vec![1; job.prompt as usize],
                task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
                choices: vec![Choice::new(events)],
                priority: job.priority,
                tenant: TenantId(0),
                deadline: None,
                slo: Slo::default(),
                cache_salt: None,
            },
            self.now,
        );
    }

    fn step(&mut self) -> Decision {
        self.now = self.now + Nanos(1000);
        let num_before: BTreeMap<u64, u32> = self.preemptions();
        let plan = self.scheduler.plan(self.now).unwrap_or_default();
        let mut preempted: Vec<u64> = Vec::new();
        for (id, num) in self.preemptions() {
            if num > num_before.get(&id).copied().unwrap_or(0) {
                preempted.push(id);
            }
        }
        let grants = plan.seqs.iter().map(|seq| (seq.id.0, seq.positions.len() as u32)).collect();
        let results = plan.seqs.iter().map(|seq| {
            if seq.emits {
                SeqResult::Token(SampledToken { id: 1, logprobs: None })
            } else {
                SeqResult::Computed
            }
        });
        let output = StepOutput { results: results.collect(), ..StepOutput::default() };
        if !plan.seqs.is_empty() {
            let _ = self.scheduler.commit(&plan, output, self.now);
        }
        self.scheduler.assert_consistent();
        Decision { grants, preempted }
    }

    fn preemptions(&mut self) -> BTreeMap<u64, u32> {
        let sequences = self.scheduler.sequences_mut();
        sequences.iter().map(|one| (one.id().0, one.stats().num_preemptions)).collect()
    }
}

// ------------------------------------------------------------------------------------- scenarios

/// Steps both with arrivals as `jobs` say and checks both against `expected`, step by step.
fn check(limits: Limits, order: Order, jobs: &[Job], expected: &[&str]) {
    let mut v1 = V1::new(limits, order);
    let mut folio = Folio::new(limits, order);
    for (step, text) in expected.iter().enumerate() {
        for (id, &job) in (0u64..).zip(jobs).filter(|(_, job)| job.step == step) {
            v1.arrive(id, job);
            folio.arrive(id, job);
        }
        let expected = decision(text);
        let mut theirs = v1.schedule();
        theirs.preempted.sort_unstable();
        v1.update();
        assert_eq!(theirs, expected, "the oracle in step {step}");
        assert_eq!(v1.departure, None, "step {step} is no scenario of parity");
        assert_eq!(folio.step(), expected, "Folio in step {step}");
    }
    assert!(v1.is_idle() && folio.scheduler.is_idle(), "something is left");
}

/// Steps Folio alone.
fn check_folio(limits: Limits, order: Order, jobs: &[Job], expected: &[&str]) -> Departure {
    let mut v1 = V1::new(limits, order);
    let mut folio = Folio::new(limits, order);
    let mut is_different = false;
    for (step, text) in expected.iter().enumerate() {
        for (id, &job) in (0u64..).zip(jobs).filter(|(_, job)| job.step == step) {
            v1.arrive(id, job);
            folio.arrive(id, job);
        }
        let expected = decision(text);
        is_different |= v1.schedule() != expected;
        v1.update();
        assert_eq!(folio.step(), expected, "Folio in step {step}");
    }
    assert!(is_different, "no departure");
    v1.departure.expect("a departure that the oracle knows")
}

const ROOMY: Limits =
    Limits { budget: 32, max_seqs: 8, threshold: None, block_size: 4, blocks: 100 };

/// The budget is filled with prompts in order of arrival; the last is cut, and goes on beside the
/// first one's decoding before anything new.
#[test]
fn prompts_share_the_budget_in_order_of_arrival() {
    let jobs = [job(0, 20, 3), job(0, 20, 2), job(1, 10, 1)];
    check(ROOMY, Order::Fcfs, &jobs, &["0:20 1:12", "0:1 1:8 2:10", "0:1 1:1"]);
}

/// A chunk is never longer than the threshold, so that two long prompts go on side by side.
#[test]
fn the_threshold_cuts_long_prompts() {
    let limits = Limits { threshold: Some(8), ..ROOMY };
    let jobs = [job(0, 20, 1), job(0, 10, 1), job(0, 3, 1)];
    check(limits, Order::Fcfs, &jobs, &["0:8 1:8 2:3", "0:8 1:2", "0:4"]);
}

/// No more sequences run than may, though budget is left; the place is taken in the step after.
#[test]
fn places_limit_admission() {
    let limits = Limits { max_seqs: 2, ..ROOMY };
    let jobs = [job(0, 4, 2), job(0, 4, 3), job(0, 4, 1)];
    check(limits, Order::Fcfs, &jobs, &["0:4 1:4", "0:1 1:1", "1:1 2:4"]);
}

/// Waiting stops at the first that finds no blocks: a small one behind it does not pass.
#[test]
fn nobody_passes_one_that_finds_no_blocks() {
    // 6 blocks of 4: request 0 takes 4, request 1 would need 3, request 2 only 1.
    let limits = Limits { blocks: 6, ..ROOMY };
    let jobs = [job(0, 16, 1), job(0, 12, 1), job(0, 4, 1)];
    check(limits, Order::Fcfs, &jobs, &["0:16", "1:12 2:4"]);
}

/// When decoding runs out of blocks the latest gives way, nobody new comes in beside a preemption,
/// and the victim comes back before those behind it, to compute again all it knows.
#[test]
fn the_latest_gives_way_and_comes_back_first() {
    // 4 blocks of 4. Both prompts fill 2; each needs a third block for its fifth... ninth token.
    let limits = Limits { blocks: 4, ..ROOMY };
    let jobs = [job(0, 8, 3), job(0, 8, 3), job(1, 4, 1)];
    let expected = [
        "0:8 1:8", // all 4 blocks are taken
        "0:1 !1",  // request 0 needs a third block; request 1 gives way, 2 is not let in
        // Request 0 holds 3 blocks and request 1 needs 3: it waits, and 2 does not pass.
        "0:1", "1:9 2:4", "1:1",
    ];
    check(limits, Order::Fcfs, &jobs, &expected);
}

/// Under `priority` the order of waiting is by priority, and never displaces what runs.
#[test]
fn priority_orders_the_queue_and_displaces_nobody() {
    let limits = Limits { max_seqs: 1, ..ROOMY };
    let jobs = [urgent(0, 4, 2, 5), urgent(0, 4, 1, 3), urgent(1, 4, 1, 0), urgent(1, 4, 1, 3)];
    check(limits, Order::Priority, &jobs, &["1:4", "2:4", "3:4", "0:4", "0:1"]);
}

/// Under `priority` the least urgent gives way, not the latest.
#[test]
fn the_least_urgent_gives_way() {
    // 6 blocks: three prompts of 2 each. Request 1 is the least urgent though 2 came later.
    let limits = Limits { blocks: 6, ..ROOMY };
    let jobs = [urgent(0, 8, 2, 0), urgent(0, 8, 2, 9), urgent(0, 8, 2, 1)];
    let expected = ["0:8 1:8 2:8", "0:1 2:1 !1", "1:9"];
    check(limits, Order::Priority, &jobs, &expected);
}

/// Departure: V1 may preempt the request that has run longest, when it is the least urgent. Folio
/// lets the oldest go on, so that whatever the policy something always ends.
#[test]
fn the_oldest_never_gives_way() {
    let limits = Limits { blocks: 4, ..ROOMY };
    let jobs = [urgent(0, 8, 2, 9), urgent(0, 8, 2, 0)];
    let expected = ["0:8 1:8", "0:1 !1", "1:9"];
    let departure = check_folio(limits, Order::Priority, &jobs, &expected);
    assert_eq!(departure, Departure::OldestPreempted);
}

/// Departure: where who needs a block is itself the least urgent, V1 leaves those behind it in its
/// list out of the step. Folio gives way and goes on.
#[test]
fn who_gives_way_itself_stops_nobody_else() {
    // Six blocks of four, two each. Request 1, in the middle, is the first to need another.
    let limits = Limits { blocks: 6, ..ROOMY };
    let jobs = [urgent(0, 6, 3, 0), urgent(0, 7, 3, 9), urgent(1, 7, 2, 0)];
    let expected = ["0:6 1:7", "0:1 1:1 2:7", "0:1 2:1 !1", "1:9"];
    let departure = check_folio(limits, Order::Priority, &jobs, &expected);
    assert_eq!(departure, Departure::RestSkipped);
}

/// Departure: prompts that were taken in together share a later budget by urgency, not by age.
#[test]
fn the_more_urgent_prompt_gets_the_budget() {
    // The oldest, request 0, decodes. Request 1 is cut in step 1; in step 2 request 2, which came
    // in beside it in chunks, is the more urgent of the two.
    let limits = Limits { budget: 12, threshold: Some(6), ..ROOMY };
    let jobs = [urgent(0, 2, 9, 1), urgent(0, 20, 1, 9), urgent(1, 20, 1, 0)];
    let expected = ["0:2 1:6", "0:1 1:6 2:5", "0:1 1:5 2:6"];
    let mut v1 = V1::new(limits, Order::Priority);
    let mut folio = Folio::new(limits, Order::Priority);
    for (step, text) in expected.iter().enumerate() {
        for (id, &job) in (0u64..).zip(&jobs).filter(|(_, job)| job.step == step) {
            v1.arrive(id, job);
            folio.arrive(id, job);
        }
        let is_equal = v1.schedule() == decision(text);
        v1.update();
        assert_eq!(folio.step(), decision(text), "Folio in step {step}");
        assert_eq!(is_equal, step < 2, "V1 gives request 1 six tokens in step 2");
    }
    assert_eq!(v1.departure, Some(Departure::LateUrgentPrompt));
}

// ---------------------------------------------------------------------------------- random loads

#[derive(Debug, Default)]
struct Compared {
    steps: u32,
    preemptions: u32,
    full_budgets: u32,
    departures: u32,
}

fn random_limits(random: &mut Random) -> Limits {
    let max_seqs = 1 + random.below(12);
    Limits {
        budget: max_seqs + random.below(60),
        max_seqs,
        threshold: random.one_in(3).then(|| 1 + random.below(20)),
        block_size: 1 + random.below(8),
        blocks: 20 + random.below(60),
    }
}

/// Compares a random load step by step, until it is done or Folio departs.
fn compare(seed: u64, order: Order, compared: &mut Compared) {
    println!("{order:?}, seed {seed}");
    let mut random = Random(seed);
    let limits = random_limits(&mut random);
    let (mut v1, mut folio) = (V1::new(limits, order), Folio::new(limits, order));
    let mut num_left = 40;
    let mut next = 0;
    for step in 0..5000 {
        while num_left > 0 && random.one_in(3) {
            let most = (limits.blocks * limits.block_size).min(40);
            let prompt = 1 + random.below(most - 1);
            let output = 1 + random.below((most - prompt).min(20));
            let priority = random.below(4) as i32;
            let job = Job { step, prompt, output, priority };
            v1.arrive(next, job);
            folio.arrive(next, job);
            (next, num_left) = (next + 1, num_left - 1);
        }
        let mut theirs = v1.schedule();
        theirs.preempted.sort_unstable();
        v1.update();
        if v1.departure.is_some() {
            compared.departures += 1;
            return;
        }
        let ours = folio.step();
        assert_eq!(ours, theirs, "step {step} of seed {seed} under {limits:?}");
        compared.steps += 1;
        compared.preemptions += ours.preempted.len() as u32;
        compared.full_budgets += u32::from(ours.grants.values().sum::<u32>() == limits.budget);
        if num_left == 0 && v1.is_idle() {
            assert!(folio.scheduler.is_idle());
            return;
        }
    }
    panic!("no end in sight");
}

fn compare_many(order: Order) {
    let mut compared = Compared::default();
    for seed in 0..1500 {
        compare(seed, order, &mut compared);
    }
    println!("{compared:?}");
    let is_enough = compared.steps > 20_000
        && compared.preemptions > 300
        && compared.full_budgets > 2000
        && compared.departures < 1300;
    assert!(is_enough, "the loads were too easy, or parity ended too early: {compared:?}");
}

#[test]
fn fcfs_decides_as_v1_on_random_loads() {
    compare_many(Order::Fcfs);
}

#[test]
fn priority_decides_as_v1_on_random_loads() {
    compare_many(Order::Priority);
}
