//! What an operator may rely on when requests compete: sharing, fairness, limits, cancellation.

use folio_engine::core::EngineCore;
use folio_engine::sched::Scheduler;
use folio_engine::sched::policies::{Fcfs, Priority};
use folio_engine::types::{
    Choice, EngineConfig, Event, EventReceiver, EventSender, FinishReason, ManualClock, ModelId,
    ModelKind, ModelLimits, Nanos, PrefixCaching, Request, RequestId, SampledToken, SamplingParams,
    SeqResult, SequenceId, StepOutput, StepPlan, StopConditions, Task, TenantId, TokenId,
};
use folio_tests::FingerprintExecutor;

const CHAT: ModelId = ModelId(0);
const EMBED: ModelId = ModelId(1);

fn config() -> EngineConfig {
    let model = |kind, max_model_len| ModelLimits {
        kind,
        max_model_len,
        vocab_size: 1000,
    };
    EngineConfig {
        models: vec![
            model(ModelKind::Decoder, 400),
            model(ModelKind::Encoder, 64),
        ],
        block_size: 4,
        num_blocks: 101,
        max_num_seqs: 16,
        max_num_batched_tokens: 128,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: 1000,
        prefix_caching: PrefixCaching::On,
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
        let scheduler = Scheduler::new(config.validated().unwrap(), Box::new(Fcfs));
        Self {
            scheduler,
            now: Nanos(1),
            receivers: Vec::new(),
        }
    }

    fn chat(&mut self, prompt: Vec<TokenId>, max_tokens: u32, num_choices: usize) {
        let request = generate(prompt, max_tokens, num_choices, &mut self.receivers);
        self.scheduler.admit(request, self.now);
    }

    fn embed(&mut self, len: u32) {
        let (events, receiver) = EventSender::channel(0);
        self.receivers.push(receiver);
        let choices = vec![Choice {
            events,
            processors: Vec::new(),
        }];
        let request = request(EMBED, (0..len).collect(), Task::Embed, choices);
        self.scheduler.admit(request, self.now);
    }

    fn plan(&mut self) -> StepPlan {
        self.now = self.now + Nanos(1);
        self.scheduler.plan(self.now).unwrap_or_default()
    }

    fn commit(&mut self, plan: &StepPlan) {
        let results = plan
            .seqs
            .iter()
            .map(|scheduled| match (scheduled.model, scheduled.emits) {
                (EMBED, _) => SeqResult::Embedding(vec![1.0]),
                (_, true) => SeqResult::Token(SampledToken {
                    id: 1,
                    logprobs: None,
                }),
                (_, false) => SeqResult::Computed,
            });
        let output = StepOutput {
            results: results.collect(),
            device_time: Nanos(1),
        };
        let _ = self.scheduler.commit(plan, output, self.now);
        self.scheduler.assert_consistent();
    }

    fn step(&mut self) -> StepPlan {
        let plan = self.plan();
        self.commit(&plan);
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
        choices.push(Choice {
            events,
            processors: Vec::new(),
        });
    }
    let stop = StopConditions {
        max_tokens,
        ..StopConditions::default()
    };
    request(
        CHAT,
        prompt,
        Task::Generate(SamplingParams {
            stop,
            ..Default::default()
        }),
        choices,
    )
}

fn num_tokens(plan: &StepPlan, model: ModelId) -> u32 {
    let of_model = plan
        .seqs
        .iter()
        .filter(|scheduled| scheduled.model == model);
    of_model
        .map(|scheduled| scheduled.positions.end - scheduled.positions.start)
        .sum()
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
        let mut bench = Bench::new(EngineConfig {
            prefix_caching: caching,
            ..config()
        });
        bench.chat((0..42).collect(), 8, 5);
        let plan = bench.step();
        assert_eq!(plan.num_tokens(), 42, "the prompt is computed once");
        assert_eq!(bench.used_blocks(), 11);
        let plan = bench.step();
        assert_eq!(
            plan.num_tokens(),
            5,
            "one decodes, four compute the last prompt token"
        );
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
    assert_eq!(
        plan.num_tokens(),
        3,
        "one decode and two last prompt tokens"
    );
    assert_eq!(bench.used_blocks(), 10 + 3);
}

#[test]
fn a_waiting_twin_goes_on_alone_when_the_first_is_cancelled() {
    let mut bench = Bench::new(EngineConfig {
        max_num_batched_tokens: 80,
        ..config()
    });
    bench.chat((0..90).collect(), 4, 1);
    bench.chat((0..90).collect(), 4, 1);
    assert_eq!(bench.step().num_tokens(), 80);
    drop(bench.receivers.remove(0));
    let plan = bench.step();
    assert_eq!(
        plan.num_tokens(),
        10,
        "the published part is reused, the rest computed"
    );
    assert_eq!(plan.seqs[0].id, SequenceId(1));
}

#[test]
fn decoding_goes_on_in_every_step_beside_a_long_prompt() {
    let mut bench = Bench::new(EngineConfig {
        max_num_batched_tokens: 96,
        ..config()
    });
    bench.chat(vec![7], 200, 1);
    let _ = bench.step();
    bench.chat((0..150).collect(), 4, 1);
    for step in 0..2 {
        let plan = bench.step();
        assert!(
            plan.seqs.iter().any(|s| s.id == SequenceId(0)),
            "step {step}: {plan:?}"
        );
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
    assert!(
        (0.35..0.65).contains(&share),
        "embeddings got {embed}, chats {chat}"
    );
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
    assert!(
        plan.seqs
            .iter()
            .all(|scheduled| scheduled.positions == (0..10))
    );
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let mut bench = Bench::new(EngineConfig {
        num_blocks: 21,
        ..config()
    });
    bench.chat((0..70).collect(), 11, 1);
    let reason = end_of(&mut bench.receivers[0]);
    let Some(FinishReason::Refused(message)) = reason else {
        panic!("{reason:?}")
    };
    for number in ["80", "70", "11"] {
        assert!(message.contains(number), "{message}");
    }
    bench.chat((0..70).collect(), 10, 1);
    bench.chat((0..500).collect(), 1, 1);
    let reason = end_of(&mut bench.receivers[2]);
    let Some(FinishReason::Refused(message)) = reason else {
        panic!("{reason:?}")
    };
    assert!(
        message.contains("400") && message.contains("500"),
        "{message}"
    );
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
    let mut bench = Bench::new(EngineConfig {
        max_num_seqs: 1,
        ..config()
    });
    bench.chat(vec![1, 2, 3], 50, 1);
    let mut late = generate(vec![4, 5, 6], 1, 1, &mut bench.receivers);
    late.deadline = Some(Nanos(10));
    bench.scheduler.admit(late, bench.now);
    for _ in 0..60 {
        let plan = bench.step();
        assert!(
            plan.seqs
                .iter()
                .all(|scheduled| scheduled.id == SequenceId(0))
        );
    }
    assert_eq!(
        end_of(&mut bench.receivers[1]),
        Some(FinishReason::DeadlineExceeded)
    );
}

#[test]
fn when_blocks_run_out_the_least_urgent_gives_way_and_still_finishes() {
    let config = EngineConfig {
        num_blocks: 16,
        ..config()
    }
    .validated()
    .unwrap();
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
                Event::Finished {
                    stats,
                    reason: FinishReason::Length,
                } => Some(stats),
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
    let mut bench = Bench::new(EngineConfig {
        max_num_seqs: 1,
        ..config()
    });
    bench.chat(vec![1, 2, 3], 5, 1);
    bench.chat(vec![4, 5, 6], 5, 1);
    let plan = bench.plan();
    bench.scheduler.abort(&plan, "device lost", bench.now);
    let reason = end_of(&mut bench.receivers[0]);
    assert_eq!(reason, Some(FinishReason::Failed("device lost".into())));
    for _ in 0..5 {
        let _ = bench.step();
    }
    assert_eq!(end_of(&mut bench.receivers[1]), Some(FinishReason::Length));
}
