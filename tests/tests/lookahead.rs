//! Planning one step ahead: what runs on, what waits for its token, and what a wasted row costs.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::sync::{Arc, Mutex};

use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::Executor;
use folio_engine::sched::policies::{Fcfs, Priority};
use folio_engine::sched::{
    Admit, Blame, Displacement, Policy, PolicyRequest, Rank, Scheduler, Sequences, Totals, View,
};
use folio_engine::types::{
    Choice, EngineConfig, Error, Event, EventReceiver, EventSender, FinishReason, LogitsProcessor,
    ManualClock, ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching, Request, RequestId, Result,
    SampledToken, SamplingParams, SeqResult, SequenceId, Slo, StepOutput, StepPlan, StopConditions,
    Task, TenantId, TokenId, TokenSource,
};
use folio_tests::{FingerprintExecutor, LateExecutor, StepLog, ToyGrammar};

const CHAT: ModelId = ModelId(0);
const EMBED: ModelId = ModelId(1);
/// A token that only tests sample.
const STOP: TokenId = 1000;

fn config() -> EngineConfig {
    let model = |kind, max_model_len| ModelLimits { kind, max_model_len, vocab_size: 1000 };
    EngineConfig {
        models: vec![model(ModelKind::Decoder, 400), model(ModelKind::Encoder, 64)],
        block_size: 4,
        num_blocks: 101,
        max_num_seqs: 16,
        max_num_batched_tokens: 128,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: 1000,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
}

fn request(
    prompt: Vec<TokenId>,
    max_tokens: u32,
    num_choices: u32,
) -> (Request, Vec<EventReceiver>) {
    let (choices, receivers) = (0..num_choices)
        .map(|_| {
            let (events, receiver) = EventSender::channel(max_tokens);
            (Choice::new(events), receiver)
        })
        .unzip();
    let stop = StopConditions { max_tokens, min_tokens: 0, token_ids: vec![STOP] };
    let request = Request {
        id: RequestId(0),
        model: CHAT,
        prompt,
        task: Task::Generate(SamplingParams { stop, ..Default::default() }),
        choices,
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receivers)
}

fn embedding(len: u32) -> (Request, Vec<EventReceiver>) {
    let (request, receivers) = request((0..len).collect(), 1, 1);
    (Request { model: EMBED, task: Task::Embed, ..request }, receivers)
}

/// The scheduler alone, with plans in flight; each emits what the test says.
struct Bench {
    scheduler: Scheduler,
    receivers: Vec<EventReceiver>,
}

impl Bench {
    fn new(config: EngineConfig) -> Self {
        Self::with_policy(config, Box::new(Fcfs))
    }

    fn with_policy(config: EngineConfig, policy: Box<dyn Policy>) -> Self {
        let scheduler = Scheduler::new(config.validated().unwrap(), policy);
        Self { scheduler, receivers: Vec::new() }
    }

    fn admit(&mut self, (request, receivers): (Request, Vec<EventReceiver>)) {
        self.receivers.extend(receivers);
        self.scheduler.admit(request, Nanos(0));
    }

    fn plan(&mut self) -> Option<StepPlan> {
        let plan = self.scheduler.plan(Nanos(0));
        self.scheduler.assert_consistent();
        plan
    }

    fn commit(&mut self, plan: &StepPlan, token: TokenId) {
        let results = plan.seqs.iter().map(|row| match (row.model, row.emits) {
            (EMBED, _) => SeqResult::Embedding(vec![1.0]),
            (_, true) => SeqResult::Token(SampledToken { id: token, logprobs: None }),
            (_, false) => SeqResult::Computed,
        });
        let output =
            StepOutput { results: results.collect(), device_time: Nanos(1), ..Default::default() };
        let _ = self.scheduler.commit(plan, output, Nanos(0));
        self.scheduler.assert_consistent();
    }

    fn num_used_blocks(&self) -> u32 {
        self.scheduler.gauges().num_used_blocks
    }

    fn totals(&self) -> Totals {
        self.scheduler.gauges().totals
    }
}

fn ids(plan: &StepPlan) -> Vec<u64> {
    let mut ids: Vec<u64> = plan.seqs.iter().map(|row| row.id.0).collect();
    ids.sort_unstable();
    ids
}

fn end_of(receiver: &mut EventReceiver) -> Option<FinishReason> {
    std::iter::from_fn(|| receiver.try_recv().ok()).find_map(|event| match event {
        Event::Finished { reason, .. } => Some(reason),
        _ => None,
    })
}

fn late_core(config: EngineConfig, max_in_flight: usize) -> (EngineCore, Arc<Mutex<StepLog>>) {
    let executor = LateExecutor::new(&config, max_in_flight);
    let log = executor.log();
    let clock = Box::new(ManualClock::default());
    let core = EngineCore::new(config, Box::new(Fcfs), Box::new(executor), clock);
    (core, log)
}

#[test]
fn while_sequences_decode_the_device_always_has_its_next_step() {
    let roomy = EngineConfig { num_blocks: 201, ..config() }.validated().unwrap();
    let (mut core, log) = late_core(roomy, 2);
    let mut receivers = Vec::new();
    for i in 0..8 {
        let (request, of_request) = request((i * 40..i * 40 + 30).collect(), 25, 1);
        core.admit(request);
        receivers.extend(of_request);
    }
    core.admit(embedding(40).0);
    while !core.is_idle() {
        assert!(matches!(core.step(), Turn::Stepped(_)));
    }
    let log = log.lock().unwrap();
    let (first, others) = log.num_in_flight.split_first().unwrap();
    assert_eq!(*first, 0);
    assert!(others.iter().all(|&num| num == 1), "the device ran dry: {:?}", log.num_in_flight);
    let finished = receivers.iter_mut().filter_map(end_of).collect::<Vec<_>>();
    assert_eq!(finished, vec![FinishReason::Length; 8]);
    assert_eq!(core.gauges().totals.num_wasted_tokens, 0, "an end by length is foreseen");
}

#[test]
fn a_placeholder_stands_for_the_token_in_flight_and_only_for_it() {
    let mut bench = Bench::new(EngineConfig { max_num_batched_tokens: 80, ..config() });
    bench.admit(request((0..100).collect(), 4, 1));
    let plans: Vec<StepPlan> = (0..4).map(|_| bench.plan().unwrap()).collect();
    let rows = plans.iter().map(|plan| {
        let [row] = &plan.seqs[..] else { panic!("{plan:?}") };
        (row.positions.clone(), row.token, row.emits)
    });
    let expected = [
        (0..80, TokenSource::Known, false),
        (80..100, TokenSource::Known, true),
        (100..101, TokenSource::Placeholder, true),
        (101..102, TokenSource::Placeholder, true),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    for plan in &plans[..3] {
        bench.commit(plan, 5);
    }
    let last = bench.plan().unwrap();
    assert_eq!(last.seqs[0].positions, 102..103);
    assert_eq!(bench.plan(), None, "the fourth of four tokens is on its way");
    bench.commit(&plans[3], 5);
    bench.commit(&last, 5);
    assert_eq!(end_of(&mut bench.receivers[0]), Some(FinishReason::Length));
    assert_eq!(bench.totals().num_wasted_tokens, 0);
}

#[test]
fn an_unforeseen_end_is_told_at_once_and_keeps_its_blocks_until_the_step_in_flight_ends() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 1, ..config() });
    bench.admit(request((0..8).collect(), 9, 1));
    bench.admit(request((50..58).collect(), 9, 1));
    let first = bench.plan().unwrap();
    let wasted = bench.plan().unwrap();
    assert_eq!(ids(&wasted), [0]);
    bench.commit(&first, STOP);
    assert_eq!(end_of(&mut bench.receivers[0]), Some(FinishReason::Stop(STOP)));
    assert_eq!(bench.scheduler.gauges().num_running, 0);
    assert_eq!(bench.num_used_blocks(), 3, "the step in flight writes into them");
    let next = bench.plan().unwrap();
    assert_eq!(ids(&next), [1], "the seat is free already");
    assert_eq!(bench.num_used_blocks(), 3 + 2);
    bench.commit(&wasted, 7);
    assert_eq!(bench.num_used_blocks(), 2);
    assert_eq!(bench.totals().num_wasted_tokens, 1);
    assert_eq!(bench.totals().num_generated_tokens, 1);
    bench.commit(&next, 7);
    assert_eq!(bench.totals().num_wasted_tokens, 1);
}

#[test]
fn a_client_that_leaves_is_dropped_although_its_step_runs() {
    let mut bench = Bench::new(config());
    bench.admit(request((0..8).collect(), 9, 1));
    bench.admit(request((50..58).collect(), 9, 1));
    let first = bench.plan().unwrap();
    drop(bench.receivers.remove(0));
    let second = bench.plan().unwrap();
    assert_eq!(ids(&second), [1]);
    assert_eq!(bench.num_used_blocks(), 2 + 3);
    bench.commit(&first, 7);
    assert_eq!(bench.num_used_blocks(), 3);
    assert_eq!(bench.totals().num_wasted_tokens, 8);
}

/// Looks at nothing, but might.
struct Onlooker;

impl LogitsProcessor for Onlooker {
    fn process(&mut self, _: &[TokenId], _: &mut [f32]) {}
}

#[test]
fn whoever_has_a_logits_processor_waits_for_its_token_and_nobody_else_does() {
    let mut bench = Bench::new(config());
    for i in 0..3 {
        bench.admit(request(vec![i; 5], 9, 1));
    }
    let (mut request, receivers) = request(vec![9; 5], 9, 1);
    request.choices[0].processors.push(Box::new(Onlooker));
    bench.admit((request, receivers));
    let mut in_flight = bench.plan().unwrap();
    for step in 0..4 {
        let next = bench.plan().unwrap();
        let expected = if step % 2 == 0 { vec![0, 1, 2] } else { vec![0, 1, 2, 3] };
        assert_eq!(ids(&next), expected, "step {step}");
        let waits = next.seqs.iter().filter(|row| row.id == SequenceId(3));
        assert!(waits.into_iter().all(|row| row.token == TokenSource::Known));
        bench.commit(&in_flight, 7);
        in_flight = next;
    }
}

#[test]
fn whoever_has_a_grammar_waits_for_its_token_and_nobody_else_does() {
    let mut bench = Bench::new(config());
    for i in 0..2 {
        bench.admit(request(vec![i; 5], 9, 1));
    }
    let (mut request, receivers) = request(vec![9; 5], 9, 1);
    request.choices[0].grammar = Some(Box::new(ToyGrammar::new(1000, 4)));
    bench.admit((request, receivers));
    let mut in_flight = bench.plan().unwrap();
    let mut text = Vec::new();
    for step in 0..6 {
        let next = bench.plan().unwrap();
        let expected = if step % 2 == 0 { vec![0, 1] } else { vec![0, 1, 2] };
        assert_eq!(ids(&next), expected, "step {step}");
        let waits = next.seqs.iter().filter(|row| row.id == SequenceId(2));
        assert!(waits.into_iter().all(|row| row.token == TokenSource::Known));
        let token = (0..u32::MAX).find(|&token| ToyGrammar::permits(&text, token)).unwrap();
        if ids(&in_flight).contains(&2) {
            let sequence = bench.scheduler.sequences_mut().get_mut(SequenceId(2));
            sequence.mask().unwrap().unwrap();
            text.push(token);
        }
        bench.commit(&in_flight, token);
        in_flight = next;
    }
    assert_eq!(text.len(), 3);
    let token = (0..u32::MAX).find(|&token| ToyGrammar::permits(&text, token)).unwrap();
    let sequence = bench.scheduler.sequences_mut().get_mut(SequenceId(2));
    sequence.mask().unwrap().unwrap();
    bench.commit(&in_flight, token);
    assert_eq!(end_of(&mut bench.receivers[2]), Some(FinishReason::Complete));
}

#[test]
fn a_step_ahead_that_would_leave_most_out_waits_instead() {
    let mut bench = Bench::new(config());
    for i in 0..4 {
        let (mut request, receivers) = request(vec![i; 5], 9, 1);
        if i > 0 {
            request.choices[0].processors.push(Box::new(Onlooker));
        }
        bench.admit((request, receivers));
    }
    for _ in 0..3 {
        let plan = bench.plan().unwrap();
        assert_eq!(ids(&plan), [0, 1, 2, 3]);
        assert_eq!(bench.plan(), None);
        bench.commit(&plan, 7);
    }
}

#[test]
fn a_leader_waits_until_its_siblings_have_its_prompt() {
    let mut bench = Bench::new(config());
    bench.admit(request((0..42).collect(), 8, 3));
    bench.admit(request(vec![7; 3], 8, 1));
    let first = bench.plan().unwrap();
    assert_eq!(ids(&first), [0, 3]);
    let second = bench.plan().unwrap();
    assert_eq!(ids(&second), [3]);
    bench.commit(&first, 7);
    let third = bench.plan().unwrap();
    assert_eq!(ids(&third), [0, 1, 2, 3]);
    assert_eq!(third.copies.len(), 2);
    bench.commit(&second, 7);
    bench.commit(&third, 7);
}

#[test]
fn nobody_gives_way_to_another_while_in_flight() {
    // 12 blocks of 4: three sequences of 16 tokens fill the pool, and each needs one more soon.
    let mut bench =
        Bench::with_policy(EngineConfig { num_blocks: 13, ..config() }, Box::new(Priority));
    for i in 0..3 {
        let (mut request, receivers) = request(vec![i; 15], 20, 1);
        request.priority = i as i32;
        bench.admit((request, receivers));
    }
    let first = bench.plan().unwrap();
    let second = bench.plan().unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!(bench.plan(), None, "a block is missing");
    bench.commit(&first, 7);
    assert_eq!(bench.plan(), None);
    assert_eq!(bench.totals().num_preemptions, 0);
    bench.commit(&second, 7);
    assert_eq!(ids(&bench.plan().unwrap()), [0, 1], "the least urgent gives way");
    assert_eq!(bench.totals().num_preemptions, 1);
}

/// Displaces by priority.
struct Displacing;

impl Policy for Displacing {
    fn name(&self) -> &'static str {
        "displacing"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(f64::from(request.priority()), 0.0)
    }

    fn displacement(&self) -> Displacement {
        Displacement::ByRank
    }
}

#[test]
fn an_urgent_request_displaces_others_as_soon_as_nothing_is_in_flight() {
    let config = EngineConfig { max_num_seqs: 2, ..config() };
    let mut bench = Bench::with_policy(config, Box::new(Displacing));
    for i in 0..2 {
        let (mut request, receivers) = request(vec![i; 5], 50, 1);
        request.priority = 5;
        bench.admit((request, receivers));
    }
    let first = bench.plan().unwrap();
    bench.admit(request(vec![3; 5], 50, 1));
    assert_eq!(bench.plan(), None);
    bench.commit(&first, 7);
    assert_eq!(ids(&bench.plan().unwrap()), [0, 2]);
}

/// Lets texts in, but no chat.
struct NoChats;

impl Policy for NoChats {
    fn name(&self) -> &'static str {
        "no-chats"
    }

    fn rank(&mut self, _: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank::default()
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Admit {
        if request.model() == CHAT { Admit::Stop } else { Admit::Now { reserve_tokens: 0 } }
    }
}

#[test]
fn a_policy_is_overridden_only_when_nothing_else_is_in_flight() {
    let mut bench = Bench::with_policy(config(), Box::new(NoChats));
    bench.admit(request(vec![1; 5], 9, 1));
    bench.admit(embedding(9));
    let first = bench.plan().unwrap();
    assert_eq!(ids(&first), [1]);
    assert_eq!(bench.plan(), None, "the text progresses, so the policy's wish holds");
    bench.commit(&first, 0);
    assert_eq!(ids(&bench.plan().unwrap()), [0]);
}

#[test]
fn a_deadline_passes_for_one_that_runs_although_its_step_does() {
    let mut bench = Bench::with_policy(config(), Box::new(Priority));
    // So many wait that the sweep for expired ones reaches the last of them in the second plan.
    for _ in 0..1100 {
        bench.admit(request(vec![1; 5], 9, 1));
    }
    let (mut urgent, receivers) = request(vec![2; 5], 9, 1);
    (urgent.priority, urgent.deadline) = (-1, Some(Nanos(10)));
    bench.admit((urgent, receivers));
    let first = bench.scheduler.plan(Nanos(0)).unwrap();
    assert!(ids(&first).contains(&1100));
    let num_used_blocks = bench.num_used_blocks();
    let second = bench.scheduler.plan(Nanos(20)).unwrap();
    assert!(!ids(&second).contains(&1100));
    assert_eq!(end_of(&mut bench.receivers[1100]), Some(FinishReason::DeadlineExceeded));
    bench.commit(&first, 7);
    assert!(bench.num_used_blocks() < num_used_blocks, "its blocks are free after the step");
    let queue = bench.totals().queue;
    assert_eq!((queue.num_expired_waiting, queue.num_expired_running), (0, 1));
    bench.commit(&second, 7);
}

#[test]
fn a_twin_in_the_queue_is_not_given_blocks_that_are_still_being_computed() {
    let mut bench = Bench::new(config());
    bench.admit(request((0..41).collect(), 4, 1));
    let first = bench.plan().unwrap();
    bench.admit(request((0..41).collect(), 4, 1));
    let second = bench.plan().unwrap();
    assert_eq!(ids(&second), [0], "what the other computes is not in the prefix index yet");
    bench.commit(&first, 7);
    let third = bench.plan().unwrap();
    assert_eq!(ids(&third), [0, 1]);
    assert_eq!(third.num_tokens(), 2, "ten blocks are shared");
}

#[test]
fn texts_of_an_encoder_fill_the_step_ahead() {
    let mut bench = Bench::new(config());
    for _ in 0..5 {
        bench.admit(embedding(60));
    }
    let first = bench.plan().unwrap();
    let second = bench.plan().unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec![0, 1], vec![2, 3]));
    drop(bench.receivers.remove(3));
    bench.commit(&first, 0);
    bench.commit(&second, 0);
    assert_eq!(end_of(&mut bench.receivers[2]), Some(FinishReason::Embedded));
}

#[test]
fn a_failed_step_ends_its_own_and_puts_back_what_was_in_flight_behind_it() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 3, ..config() });
    bench.admit(request(vec![0; 5], 9, 1));
    let first = bench.plan().unwrap();
    bench.admit(request(vec![1; 5], 9, 1));
    let (mut last, receivers) = request(vec![2; 5], 9, 1);
    last.choices[0].processors.push(Box::new(Onlooker));
    bench.admit((last, receivers));
    bench.admit(request(vec![3; 5], 9, 1));
    let second = bench.plan().unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec![0], vec![0, 1, 2]));
    let casualties = bench.scheduler.reset(Blame::Step(&first), &[], "lost", Nanos(0));
    bench.scheduler.assert_consistent();
    assert_eq!(casualties.num_retried, 1);
    assert_eq!(bench.num_used_blocks(), 0);
    let reason = |text: &str| Some(FinishReason::StepFailed(text.into()));
    assert_eq!(end_of(&mut bench.receivers[0]), reason("lost"));
    // Its processors have seen the step that is lost.
    let why = "lost; it has logits processors, which cannot be put back";
    assert_eq!(end_of(&mut bench.receivers[2]), reason(why));
    let third = bench.plan().unwrap();
    assert_eq!(ids(&third), [1, 3]);
    // A second failure is the last for the one that was put back, and none for the other.
    bench.admit(request(vec![4; 5], 9, 1));
    let arrivals = [SequenceId(4)..SequenceId(5)];
    let casualties = bench.scheduler.reset(Blame::Arrivals, &arrivals, "again", Nanos(0));
    bench.scheduler.assert_consistent();
    assert_eq!(casualties.num_retried, 1);
    let why = "again; it had been retried once already";
    assert_eq!(end_of(&mut bench.receivers[1]), reason(why));
    assert_eq!(end_of(&mut bench.receivers[4]), reason("again"));
    assert_eq!(ids(&bench.plan().unwrap()), [3]);
}

/// Refuses the submission with this number.
struct Refusing {
    inner: LateExecutor,
    submissions: std::ops::RangeFrom<u32>,
    refused: u32,
}

impl Executor for Refusing {
    fn max_in_flight(&self) -> usize {
        self.inner.max_in_flight()
    }

    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        if self.submissions.next() == Some(self.refused) {
            return Err(Error::Device("refused".into()));
        }
        self.inner.submit(plan, sequences)
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.inner.collect()
    }
}

#[test]
fn a_refused_step_costs_nobody_the_token_of_the_step_before() {
    let config = config().validated().unwrap();
    let inner = LateExecutor::new(&config, 2);
    let executor = Refusing { inner, submissions: 0.., refused: 1 };
    let clock = Box::new(ManualClock::default());
    let mut core = EngineCore::new(config.clone(), Box::new(Fcfs), Box::new(executor), clock);
    let (first, mut receivers) = request((0..5).collect(), 9, 1);
    core.admit(first);
    assert!(matches!(core.step(), Turn::Stepped(_)), "the step before the refused one");
    let Turn::Failed(fault) = core.step() else { panic!("the refused step") };
    assert_eq!(fault.message, "device: refused");
    let events: Vec<_> = std::iter::from_fn(|| receivers[0].try_recv().ok()).collect();
    let [Event::Started(_), Event::Token(_), Event::Finished { reason, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*reason, FinishReason::StepFailed("device: refused".into()));
    core.scheduler().assert_consistent();
    assert!(core.is_idle() && core.gauges().num_used_blocks == 0);
    core.restore(Box::new(LateExecutor::new(&config, 2)));
    let (second, mut receivers) = request((0..5).collect(), 9, 1);
    core.admit(second);
    while !core.is_idle() {
        assert!(matches!(core.step(), Turn::Stepped(_)));
    }
    assert_eq!(end_of(&mut receivers[0]), Some(FinishReason::Length));
}

/// Notes the order of calls, and the plans.
struct Synchronous {
    inner: FingerprintExecutor,
    calls: Arc<Mutex<Vec<Option<StepPlan>>>>,
}

impl Executor for Synchronous {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        self.calls.lock().unwrap().push(Some(plan.clone()));
        self.inner.submit(plan, sequences)
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.calls.lock().unwrap().push(None);
        self.inner.collect()
    }
}

#[test]
fn an_executor_of_one_step_is_never_run_ahead_of() {
    let config = EngineConfig { num_blocks: 25, ..config() }.validated().unwrap();
    let calls = Arc::default();
    let inner = FingerprintExecutor::new(&config);
    let executor = Synchronous { inner, calls: Arc::clone(&calls) };
    let clock = Box::new(ManualClock::default());
    let mut core = EngineCore::new(config.clone(), Box::new(Fcfs), Box::new(executor), clock);
    let mut scheduler = Scheduler::new(config.clone(), Box::new(Fcfs));
    let mut executor = FingerprintExecutor::new(&config);
    let mut receivers = Vec::new();
    for i in 0..6 {
        for _ in 0..2 {
            let (one, of_one) = request((i * 9..i * 9 + 20).collect(), 12 + i, 1 + i % 2);
            receivers.push(of_one);
            match receivers.len() % 2 {
                0 => core.admit(one),
                _ => scheduler.admit(one, Nanos(0)),
            }
        }
    }
    while !core.is_idle() {
        assert!(matches!(core.step(), Turn::Stepped(_)));
    }
    for pair in calls.lock().unwrap().chunks(2) {
        let [Some(plan), None] = pair else { panic!("submit, then collect: {pair:?}") };
        assert!(plan.seqs.iter().all(|row| row.token == TokenSource::Known));
        assert_eq!(Some(plan), scheduler.plan(Nanos(0)).as_ref());
        executor.submit(plan, scheduler.sequences_mut()).unwrap();
        let _ = scheduler.commit(plan, executor.collect().unwrap(), Nanos(0));
    }
    assert!(scheduler.is_idle() && core.gauges().totals.num_preemptions > 0);
}
