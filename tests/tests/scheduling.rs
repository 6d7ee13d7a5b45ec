//! What an operator may rely on when requests compete: sharing, fairness, limits, cancellation.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_engine::core::EngineCore;
use folio_engine::sched::policies::{Fcfs, Priority};
use folio_engine::sched::{
    Admit, Blame, Displacement, Limits, Policy, PolicyRequest, Rank, Refresh, SchedEvent,
    Scheduler, View,
};
use folio_engine::types::{
    CacheSalt, Choice, EngineConfig, Event, EventReceiver, EventSender, FinishReason, ManualClock,
    ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching, Request, RequestId, SampledToken,
    SamplingParams, SeqResult, SequenceId, Slo, StepOutput, StepPlan, StopConditions, Task,
    TenantId, TokenId,
};
use folio_tests::FingerprintExecutor;

const CHAT: ModelId = ModelId(0);
const EMBED: ModelId = ModelId(1);

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

/// The scheduler alone: steps are committed with token 1 for whoever emits.
struct Bench {
    scheduler: Scheduler,
    now: Nanos,
    receivers: Vec<EventReceiver>,
}

impl Bench {
    fn new(config: EngineConfig) -> Self {
        Self::with_policy(config, Box::new(Fcfs))
    }

    fn with_policy(config: EngineConfig, policy: Box<dyn Policy>) -> Self {
        let scheduler = Scheduler::new(config.validated().unwrap(), policy);
        Self { scheduler, now: Nanos(1), receivers: Vec::new() }
    }

    fn chat_with_priority(&mut self, prompt: Vec<TokenId>, max_tokens: u32, priority: i32) {
        let mut request = generate(prompt, max_tokens, 1, &mut self.receivers);
        request.priority = priority;
        self.scheduler.admit(request, self.now);
    }

    fn chat(&mut self, prompt: Vec<TokenId>, max_tokens: u32, num_choices: usize) {
        let request = generate(prompt, max_tokens, num_choices, &mut self.receivers);
        self.scheduler.admit(request, self.now);
    }

    fn embed(&mut self, len: u32) {
        self.embed_with(EMBED, len);
    }

    fn embed_with(&mut self, model: ModelId, len: u32) {
        let (events, receiver) = EventSender::channel(0);
        self.receivers.push(receiver);
        let choices = vec![Choice::new(events)];
        let request = request(model, (0..len).collect(), Task::Embed, choices);
        self.scheduler.admit(request, self.now);
    }

    fn plan(&mut self) -> StepPlan {
        self.now = self.now + Nanos(1);
        self.scheduler.plan(self.now).unwrap_or_default()
    }

    fn commit(&mut self, plan: &StepPlan) {
        let results = plan.seqs.iter().map(|scheduled| match (scheduled.model, scheduled.emits) {
            (model, _) if model != CHAT => SeqResult::Embedding(vec![1.0]),
            (_, true) => SeqResult::Token(SampledToken { id: 1, logprobs: None }),
            (_, false) => SeqResult::Computed,
        });
        let output =
            StepOutput { results: results.collect(), device_time: Nanos(1), ..Default::default() };
        let _ = self.scheduler.commit(plan, output, self.now);
        self.scheduler.assert_consistent();
    }

    fn step(&mut self) -> StepPlan {
        let plan = self.plan();
        if !plan.seqs.is_empty() {
            self.commit(&plan);
        }
        plan
    }

    fn used_blocks(&self) -> u32 {
        self.scheduler.gauges().num_used_blocks
    }
}

fn request(model: ModelId, prompt: Vec<TokenId>, task: Task, choices: Vec<Choice>) -> Request {
    Request {
        id: RequestId(0),
        model,
        prompt,
        task,
        choices,
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    }
}

fn generate(
    prompt: Vec<TokenId>,
    max_tokens: u32,
    num_choices: usize,
    receivers: &mut Vec<EventReceiver>,
) -> Request {
    let mut choices = Vec::new();
    for _ in 0..num_choices {
        let (events, receiver) = EventSender::channel(max_tokens);
        receivers.push(receiver);
        choices.push(Choice::new(events));
    }
    let stop = StopConditions { max_tokens, ..StopConditions::default() };
    request(CHAT, prompt, Task::Generate(SamplingParams { stop, ..Default::default() }), choices)
}

fn num_tokens(plan: &StepPlan, model: ModelId) -> u32 {
    let of_model = plan.seqs.iter().filter(|scheduled| scheduled.model == model);
    of_model.map(|scheduled| scheduled.positions.end - scheduled.positions.start).sum()
}

fn end_of(receiver: &mut EventReceiver) -> Option<FinishReason> {
    std::iter::from_fn(|| receiver.try_recv().ok()).find_map(|event| match event {
        Event::Finished { reason, .. } => Some(reason),
        _ => None,
    })
}

#[test]
fn samples_of_one_request_share_their_prompt() {
    for caching in [PrefixCaching::On, PrefixCaching::Off] {
        let mut bench = Bench::new(EngineConfig { prefix_caching: caching, ..config() });
        bench.chat((0..42).collect(), 8, 5);
        let plan = bench.step();
        assert_eq!(plan.num_tokens(), 42, "the prompt is computed once");
        assert_eq!(bench.used_blocks(), 11);
        let plan = bench.step();
        assert_eq!(plan.num_tokens(), 5, "one decodes, four compute the last prompt token");
        // Ten full blocks are shared; each sample has its own copy of the eleventh.
        assert_eq!(bench.used_blocks(), 10 + 5);
        assert_eq!(plan.copies.len(), 4);
    }
}

#[test]
fn equal_prompts_arriving_together_are_computed_once() {
    let mut bench = Bench::new(config());
    for _ in 0..3 {
        bench.chat((0..41).collect(), 4, 1);
    }
    let plan = bench.step();
    assert_eq!(plan.num_tokens(), 41, "the others wait for the first");
    let plan = bench.step();
    assert_eq!(plan.num_tokens(), 3, "one decode and two last prompt tokens");
    assert_eq!(bench.used_blocks(), 10 + 3);
}

#[test]
fn a_waiting_twin_goes_on_alone_when_the_first_is_cancelled() {
    let mut bench = Bench::new(EngineConfig { max_num_batched_tokens: 80, ..config() });
    bench.chat((0..90).collect(), 4, 1);
    bench.chat((0..90).collect(), 4, 1);
    assert_eq!(bench.step().num_tokens(), 80);
    drop(bench.receivers.remove(0));
    let plan = bench.step();
    assert_eq!(plan.num_tokens(), 10, "the published part is reused, the rest computed");
    assert_eq!(plan.seqs[0].id, SequenceId(1));
}

#[test]
fn decoding_goes_on_in_every_step_beside_a_long_prompt() {
    let mut bench = Bench::new(EngineConfig { max_num_batched_tokens: 96, ..config() });
    bench.chat(vec![7], 200, 1);
    let _ = bench.step();
    bench.chat((0..150).collect(), 4, 1);
    for step in 0..2 {
        let plan = bench.step();
        assert!(plan.seqs.iter().any(|s| s.id == SequenceId(0)), "step {step}: {plan:?}");
        assert_eq!(plan.seqs.len(), 2);
    }
}

#[test]
fn chats_and_embeddings_both_progress_under_a_flood_of_either() {
    let mut bench = Bench::new(config());
    for i in 0..60 {
        bench.embed(60);
        bench.embed(60);
        bench.chat((i * 1000..i * 1000 + 100).map(|t| t % 997).collect(), 1, 1);
    }
    let (mut chat, mut embed) = (0, 0);
    for _ in 0..20 {
        let plan = bench.step();
        chat += num_tokens(&plan, CHAT);
        embed += num_tokens(&plan, EMBED);
    }
    let share = f64::from(embed) / f64::from(chat + embed);
    assert!((0.35..0.65).contains(&share), "embeddings got {embed}, chats {chat}");
}

#[test]
fn an_idle_model_leaves_the_whole_budget_to_the_other() {
    let mut bench = Bench::new(config());
    for _ in 0..8 {
        bench.embed(60);
    }
    assert_eq!(num_tokens(&bench.step(), EMBED), 120);
}

#[test]
fn partial_prefills_are_capped() {
    let mut bench = Bench::new(EngineConfig {
        max_num_partial_prefills: 2,
        long_prefill_token_threshold: Some(10),
        ..config()
    });
    for start in [0, 100, 200, 300] {
        bench.chat((start..start + 50).collect(), 1, 1);
    }
    let plan = bench.step();
    assert_eq!(plan.seqs.len(), 2);
    assert!(plan.seqs.iter().all(|scheduled| scheduled.positions == (0..10)));
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 21, ..config() });
    bench.chat((0..70).collect(), 11, 1);
    let reason = end_of(&mut bench.receivers[0]);
    let Some(FinishReason::Refused(message)) = reason else { panic!("{reason:?}") };
    for number in ["80", "70", "11"] {
        assert!(message.contains(number), "{message}");
    }
    bench.chat((0..70).collect(), 10, 1);
    bench.chat((0..500).collect(), 1, 1);
    let reason = end_of(&mut bench.receivers[2]);
    let Some(FinishReason::Refused(message)) = reason else { panic!("{reason:?}") };
    assert!(message.contains("400") && message.contains("500"), "{message}");
    while bench.scheduler.gauges().num_running + bench.scheduler.gauges().num_waiting > 0 {
        let _ = bench.step();
    }
    assert_eq!(end_of(&mut bench.receivers[1]), Some(FinishReason::Length));
}

#[test]
fn a_dropped_receiver_frees_its_blocks_within_one_step() {
    let mut bench = Bench::new(config());
    bench.chat((0..40).collect(), 100, 2);
    let _ = bench.step();
    let _ = bench.step();
    assert_eq!(bench.used_blocks(), 9 + 2 + 1);
    drop(bench.receivers.remove(0));
    let plan = bench.step();
    assert_eq!(plan.seqs.len(), 1, "the other choice goes on");
    drop(bench.receivers.remove(0));
    assert_eq!(bench.plan(), StepPlan::default());
    assert_eq!(bench.used_blocks(), 0);
}

#[test]
fn a_request_past_its_deadline_is_never_computed() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 1, ..config() });
    bench.chat(vec![1, 2, 3], 50, 1);
    let mut late = generate(vec![4, 5, 6], 1, 1, &mut bench.receivers);
    late.deadline = Some(Nanos(10));
    bench.scheduler.admit(late, bench.now);
    for _ in 0..60 {
        let plan = bench.step();
        assert!(plan.seqs.iter().all(|scheduled| scheduled.id == SequenceId(0)));
    }
    assert_eq!(end_of(&mut bench.receivers[1]), Some(FinishReason::DeadlineExceeded));
}

#[test]
fn when_blocks_run_out_the_least_urgent_gives_way_and_still_finishes() {
    let config = EngineConfig { num_blocks: 16, ..config() }.validated().unwrap();
    let executor = Box::new(FingerprintExecutor::new(&config));
    let clock = Box::new(ManualClock::default());
    let mut core = EngineCore::new(config, Box::new(Priority), executor, clock);
    let mut receivers = Vec::new();
    for priority in [0, 5, 1] {
        let mut request = generate(vec![priority as u32 + 1; 16], 24, 1, &mut receivers);
        request.priority = priority;
        core.admit(request);
    }
    while !core.is_idle() {
        let _ = core.step();
        core.scheduler().assert_consistent();
    }
    let num_preemptions: Vec<u32> = receivers
        .iter_mut()
        .map(|receiver| {
            let events = std::iter::from_fn(|| receiver.try_recv().ok());
            let stats = events.filter_map(|event| match event {
                Event::Finished { stats, reason: FinishReason::Length } => Some(stats),
                _ => None,
            });
            stats.last().expect("an end by length").num_preemptions
        })
        .collect();
    assert_eq!(num_preemptions[0], 0);
    assert!(num_preemptions[1] > 0, "{num_preemptions:?}");
}

#[test]
fn a_failed_step_ends_its_own_requests_and_no_others() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 1, ..config() });
    bench.chat(vec![1, 2, 3], 5, 1);
    bench.chat(vec![4, 5, 6], 5, 1);
    let plan = bench.plan();
    let casualties = bench.scheduler.reset(Blame::Step(&plan), &[], "device lost", bench.now);
    assert_eq!((casualties.failed.len(), casualties.num_retried), (1, 0));
    let reason = end_of(&mut bench.receivers[0]);
    assert_eq!(reason, Some(FinishReason::StepFailed("device lost".into())));
    for _ in 0..5 {
        let _ = bench.step();
    }
    assert_eq!(end_of(&mut bench.receivers[1]), Some(FinishReason::Length));
}

/// A policy in pieces, for what the shipped ones do not use.
#[derive(Clone, Copy, Default)]
struct Custom {
    token_budget: Option<u32>,
    watermark_blocks: u32,
    displaces: bool,
    refresh: Option<Refresh>,
    max_running: Option<u32>,
}

impl Policy for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(f64::from(request.priority()), 0.0)
    }

    fn refresh(&self) -> Refresh {
        self.refresh.unwrap_or(Refresh::OnArrival)
    }

    fn displacement(&self) -> Displacement {
        if self.displaces { Displacement::ByRank } else { Displacement::Never }
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        let defaults = view.defaults();
        Limits {
            token_budget: self.token_budget.unwrap_or(defaults.token_budget),
            max_running: self.max_running.unwrap_or(defaults.max_running),
            watermark_blocks: self.watermark_blocks,
            ..defaults
        }
    }
}

fn ids(plan: &StepPlan) -> Vec<u64> {
    let mut ids: Vec<u64> = plan.seqs.iter().map(|scheduled| scheduled.id.0).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_policy_that_displaces_lets_the_urgent_in_at_once() {
    for (oldest, other) in [(9, 7), (5, 7)] {
        let policy = Custom { displaces: true, ..Custom::default() };
        let config = EngineConfig { max_num_seqs: 2, ..config() };
        let mut bench = Bench::with_policy(config, Box::new(policy));
        bench.chat_with_priority(vec![1; 5], 50, oldest);
        bench.chat_with_priority(vec![2; 5], 50, other);
        let _ = bench.step();
        bench.chat_with_priority(vec![3; 5], 50, 1);
        assert_eq!(ids(&bench.step()), [0, 2], "the oldest stays, the other gives way");
    }
}

#[test]
fn several_urgent_requests_displace_several_others_in_one_step() {
    let policy = Custom { displaces: true, ..Custom::default() };
    let config = EngineConfig { max_num_seqs: 6, ..config() };
    let mut bench = Bench::with_policy(config, Box::new(policy));
    for i in 0..6 {
        bench.chat_with_priority(vec![i; 5], 50, 9);
    }
    let _ = bench.step();
    for i in 10..13 {
        bench.chat_with_priority(vec![i; 5], 50, 1);
    }
    assert_eq!(ids(&bench.step()), [0, 1, 2, 6, 7, 8]);
}

#[test]
fn a_watermark_keeps_blocks_free_unless_nothing_runs() {
    let policy = Custom { watermark_blocks: 90, ..Custom::default() };
    let mut bench = Bench::with_policy(config(), Box::new(policy));
    bench.chat((0..40).collect(), 4, 1);
    bench.chat((100..140).collect(), 4, 1);
    assert_eq!(ids(&bench.step()), [0], "a second one would leave 80 of 100 blocks free");
}

#[test]
fn a_policy_budget_below_a_text_cannot_hold_it_back_for_ever() {
    let policy = Custom { token_budget: Some(8), ..Custom::default() };
    let mut bench = Bench::with_policy(config(), Box::new(policy));
    bench.embed(40);
    assert_eq!(num_tokens(&bench.step(), EMBED), 40);
}

#[test]
fn a_text_longer_than_its_share_runs_within_two_steps() {
    let config = EngineConfig { max_num_batched_tokens: 80, ..config() };
    let mut bench = Bench::new(config);
    for i in 0..10 {
        bench.chat((i * 100..i * 100 + 90).collect(), 1, 1);
    }
    bench.embed(60);
    let first = num_tokens(&bench.step(), EMBED);
    let second = num_tokens(&bench.step(), EMBED);
    assert_eq!((first, second), (0, 60));
}

#[test]
fn texts_take_what_waiting_chats_cannot() {
    let mut bench = Bench::new(config());
    for i in 0..17 {
        bench.chat(vec![i], 200, 1);
    }
    let _ = bench.step();
    for _ in 0..20 {
        bench.embed(10);
    }
    let plan = bench.step();
    assert_eq!(num_tokens(&plan, CHAT), 16, "all seats are taken, one chat waits");
    assert_eq!(num_tokens(&plan, EMBED), 110);
}

#[test]
fn two_encoders_take_turns_whatever_their_lengths() {
    let mut config = config();
    config.models.push(config.models[1]);
    config.max_num_batched_tokens = 80;
    let mut bench = Bench::new(config);
    for i in 0..30 {
        bench.chat((i * 90..i * 90 + 90).map(|t| t % 1000).collect(), 1, 1);
    }
    for _ in 0..100 {
        bench.embed_with(ModelId(2), 5);
    }
    bench.embed_with(EMBED, 64);
    let steps = (0..6).position(|_| num_tokens(&bench.step(), EMBED) == 64);
    assert!(steps.is_some(), "the long text of one encoder starves beside the other");
}

#[test]
fn an_urgent_prompt_takes_blocks_from_less_urgent_decoding() {
    let chunk = Some(24);
    let config = EngineConfig { num_blocks: 31, long_prefill_token_threshold: chunk, ..config() };
    let mut bench = Bench::with_policy(config, Box::new(Priority));
    for i in 0..3 {
        bench.chat_with_priority(vec![i; 12], 60, 5);
    }
    for _ in 0..10 {
        let _ = bench.step();
    }
    bench.chat_with_priority((100..190).collect(), 4, 0);
    for _ in 0..4 {
        let _ = bench.step();
    }
    let events = std::iter::from_fn(|| bench.receivers[3].try_recv().ok());
    let has_token = events.into_iter().any(|event| matches!(event, Event::Token(_)));
    assert!(has_token, "it waits for those that are less urgent");
}

#[test]
fn waiting_requests_past_their_deadline_leave_even_when_they_are_not_next() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 1, ..config() });
    bench.chat(vec![1, 2, 3], 50, 1);
    bench.chat(vec![4, 5, 6], 50, 1);
    let mut late = generate(vec![7, 8, 9], 4, 3, &mut bench.receivers);
    late.deadline = Some(Nanos(3));
    bench.scheduler.admit(late, bench.now);
    for _ in 0..5 {
        let _ = bench.step();
    }
    for receiver in &mut bench.receivers[2..] {
        assert_eq!(end_of(receiver), Some(FinishReason::DeadlineExceeded));
    }
    assert_eq!(bench.scheduler.gauges().num_waiting, 1);
}

#[test]
fn a_choice_that_fails_at_once_never_started() {
    let mut bench = Bench::new(config());
    bench.chat(vec![1, 2, 3], 5, 1);
    let plan = bench.plan();
    let results = vec![SeqResult::Failed("not finite".into())];
    let output = StepOutput { results, device_time: Nanos(1), ..Default::default() };
    let _ = bench.scheduler.commit(&plan, output, bench.now);
    let events: Vec<_> = std::iter::from_fn(|| bench.receivers[0].try_recv().ok()).collect();
    let [Event::Finished { reason, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*reason, FinishReason::Failed("not finite".into()));
}

#[test]
fn what_a_failed_sequence_computed_is_not_found_again() {
    let mut bench = Bench::new(EngineConfig { max_num_batched_tokens: 80, ..config() });
    bench.chat((0..100).collect(), 5, 1);
    let _ = bench.step();
    let plan = bench.plan();
    let results = vec![SeqResult::Failed("not finite".into())];
    let _ = bench.scheduler.commit(&plan, StepOutput { results, ..Default::default() }, bench.now);
    bench.scheduler.assert_consistent();
    bench.chat((0..100).collect(), 5, 1);
    assert_eq!(bench.step().num_tokens(), 80, "the same prompt starts from nothing");
}

#[test]
fn prompt_tokens_are_counted_once_whatever_the_number_of_choices() {
    let mut bench = Bench::new(config());
    bench.chat((0..6).collect(), 3, 4);
    for _ in 0..6 {
        let _ = bench.step();
    }
    let totals = bench.scheduler.gauges().totals;
    assert_eq!((totals.num_prompt_tokens, totals.num_generated_tokens), (6, 12));
}

#[test]
fn a_policy_limit_on_running_sequences_binds_siblings_too() {
    let policy = Custom { max_running: Some(2), ..Custom::default() };
    let mut bench = Bench::with_policy(config(), Box::new(policy));
    bench.chat((0..6).collect(), 3, 5);
    while bench.scheduler.gauges().num_waiting + bench.scheduler.gauges().num_running > 0 {
        assert!(bench.step().seqs.len() <= 2);
    }
}

/// Counts events, to see that they pair up.
#[derive(Default)]
struct Ledger(std::collections::BTreeMap<SequenceId, [u32; 3]>);

impl Policy for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn rank(&mut self, _: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank::default()
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Admit {
        assert_eq!(self.0[&request.id()][0], 1, "asked about one that has not arrived");
        Admit::Now { reserve_tokens: 0 }
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        match *event {
            SchedEvent::Arrived(id) => self.0.entry(id).or_default()[0] += 1,
            SchedEvent::Admitted { id, .. } => self.0.entry(id).or_default()[1] += 1,
            SchedEvent::Finished { id, .. } => {
                let [arrived, admitted, _] = self.0[&id];
                assert_eq!((arrived, admitted), (1, 1), "sequence {id} ended");
                self.0.entry(id).or_default()[2] += 1;
            }
            _ => {}
        }
    }
}

#[test]
fn every_choice_arrives_is_admitted_and_finishes_in_the_eyes_of_the_policy() {
    let mut bench = Bench::with_policy(config(), Box::new(Ledger::default()));
    bench.chat((0..6).collect(), 3, 4);
    bench.embed(5);
    for _ in 0..8 {
        let _ = bench.step();
    }
    assert_eq!(bench.scheduler.gauges().num_running, 0);
}

#[test]
fn salts_keep_equal_prompts_apart() {
    let mut bench = Bench::new(config());
    for salt in [None, Some(CacheSalt(1)), Some(CacheSalt(2)), Some(CacheSalt(1))] {
        let mut request = generate((0..20).collect(), 1, 1, &mut bench.receivers);
        request.cache_salt = salt;
        bench.scheduler.admit(request, bench.now);
        let _ = bench.step();
    }
    assert_eq!(bench.scheduler.gauges().prefix.num_hit_tokens, 16, "only the last finds its twin");
}
