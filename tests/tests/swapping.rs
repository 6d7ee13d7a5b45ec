//! Preemption that saves what was computed in host memory: the sequence goes on where it was.
//!
//! The executor is a fingerprint one, so whatever is brought back is checked by every later step.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_engine::exec::Executor as _;
use folio_engine::sched::policies::Priority;
use folio_engine::sched::{
    Blame, Displacement, Gauges, Policy, PolicyRequest, Rank, Scheduler, View,
};
use folio_engine::types::{
    Choice, EngineConfig, Event, EventReceiver, EventSender, FinishReason, ModelId, ModelKind,
    ModelLimits, Nanos, PrefixCaching, Request, RequestId, SamplingParams, Slo, StepPlan,
    StopConditions, Task, TenantId, TokenId,
};
use folio_tests::FingerprintExecutor;

/// Twelve blocks of four tokens, and as many on the host.
fn config() -> EngineConfig {
    let kind = ModelKind::Decoder;
    EngineConfig {
        models: vec![ModelLimits { kind, max_model_len: 48, vocab_size: 1000 }],
        block_size: 4,
        num_blocks: 13,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: 1000,
        prefix_caching: PrefixCaching::Off,
        num_host_blocks: 12,
    }
}

/// The scheduler and an executor, turn by turn.
struct Bench {
    scheduler: Scheduler,
    executor: FingerprintExecutor,
    receivers: Vec<EventReceiver>,
    num_computed: u32,
}

impl Bench {
    fn new(config: EngineConfig, policy: Box<dyn Policy>) -> Self {
        let config = config.validated().unwrap();
        let executor = FingerprintExecutor::new(&config);
        let scheduler = Scheduler::new(config, policy);
        Self { scheduler, executor, receivers: Vec::new(), num_computed: 0 }
    }

    /// Three chats of 15 tokens that fill the pool as soon as they have decoded one token each.
    fn with_three_chats(config: EngineConfig) -> Self {
        let mut bench = Self::new(config, Box::new(Priority));
        for priority in 0..3 {
            bench.chat((100 * priority..100 * priority + 15).collect(), 20, priority as i32);
        }
        bench
    }

    fn chat(&mut self, prompt: Vec<TokenId>, max_tokens: u32, priority: i32) {
        let (events, receiver) = EventSender::channel(max_tokens);
        self.receivers.push(receiver);
        let stop = StopConditions { max_tokens, ..StopConditions::default() };
        let request = Request {
            id: RequestId(0),
            model: ModelId(0),
            prompt,
            task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
            choices: vec![Choice::new(events)],
            priority,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        };
        self.scheduler.admit(request, Nanos(0));
    }

    fn step(&mut self) -> StepPlan {
        let plan = self.scheduler.plan(Nanos(0)).unwrap();
        self.executor.submit(&plan, self.scheduler.sequences_mut()).unwrap();
        let output = self.executor.collect().unwrap();
        let _ = self.scheduler.commit(&plan, output, Nanos(0));
        self.scheduler.assert_consistent();
        self.num_computed += plan.num_tokens();
        plan
    }

    /// Steps until one satisfies `is_it`.
    fn step_until(&mut self, is_it: impl Fn(&StepPlan) -> bool) -> StepPlan {
        for _ in 0..100 {
            let plan = self.step();
            if is_it(&plan) {
                return plan;
            }
        }
        panic!("no such step: {:?}", self.scheduler)
    }

    fn finish(&mut self) {
        while !self.scheduler.is_idle() {
            let _ = self.step();
        }
        let Gauges { num_used_blocks, num_used_host_blocks, .. } = self.gauges();
        assert_eq!((num_used_blocks, num_used_host_blocks), (0, 0));
    }

    fn gauges(&self) -> Gauges {
        self.scheduler.gauges()
    }

    fn tokens(&mut self, choice: usize) -> Vec<TokenId> {
        let events = std::iter::from_fn(|| self.receivers[choice].try_recv().ok());
        let token = |event| match event {
            Event::Token(token) => Some(token.id),
            Event::Finished { reason, .. } => {
                assert_eq!(reason, FinishReason::Length);
                None
            }
            _ => None,
        };
        events.filter_map(token).collect()
    }
}

#[test]
fn a_saved_sequence_goes_on_where_it_was() {
    let mut bench = Bench::with_three_chats(config());
    let saving = bench.step_until(|plan| !plan.swap_out.is_empty());
    assert_eq!(saving.swap_out.len(), 4, "16 tokens of the least urgent");
    let gauges = bench.gauges();
    assert_eq!((gauges.num_host_blocks, gauges.num_used_host_blocks), (12, 4));
    assert_eq!(gauges.num_waiting, 1);
    // The most urgent ends alone; by then the second, too, gave way.
    let resuming = bench.step_until(|plan| !plan.swap_in.is_empty());
    assert_eq!(resuming.swap_in.len(), 6 + 4);
    let positions: Vec<_> = resuming.seqs.iter().map(|row| row.positions.clone()).collect();
    assert_eq!(positions, [24..25, 16..17], "nothing is computed again");
    bench.finish();
    let totals = bench.gauges().totals;
    assert!(totals.num_swapped_out_tokens >= 16 && totals.num_dropped_tokens == 0, "{totals:?}");
    assert_eq!(totals.num_swapped_in_tokens, totals.num_swapped_out_tokens);
    assert_eq!(bench.num_computed, 3 * (15 + 19), "prompts, and all but the last token of each");
    for chat in 0..3 {
        let mut text: Vec<TokenId> = (100 * chat..100 * chat + 15).collect();
        for token in bench.tokens(chat as usize) {
            assert_eq!(token, FingerprintExecutor::next_token(&text, 0, 1000));
            text.push(token);
        }
        assert_eq!(text.len(), 35);
    }
}

#[test]
fn without_room_on_the_host_it_is_computed_again() {
    for num_host_blocks in [0, 3] {
        let mut bench = Bench::with_three_chats(EngineConfig { num_host_blocks, ..config() });
        bench.finish();
        let totals = bench.gauges().totals;
        assert!(totals.num_dropped_tokens > 0, "{totals:?}");
        assert_eq!(totals.num_swapped_out_tokens, 0);
        assert_eq!(u64::from(bench.num_computed), 3 * (15 + 19) + totals.num_dropped_tokens);
    }
}

#[test]
fn one_who_leaves_while_saved_frees_the_host() {
    let mut bench = Bench::with_three_chats(config());
    let _ = bench.step_until(|plan| !plan.swap_out.is_empty());
    drop(bench.receivers.pop());
    let _ = bench.step();
    assert_eq!(bench.gauges().num_used_host_blocks, 0);
    bench.finish();
}

#[test]
fn what_a_failed_step_was_to_save_is_computed_again() {
    let mut bench = Bench::with_three_chats(config());
    let lost = loop {
        let plan = bench.scheduler.plan(Nanos(0)).unwrap();
        if !plan.swap_out.is_empty() {
            break plan;
        }
        bench.executor.submit(&plan, bench.scheduler.sequences_mut()).unwrap();
        let output = bench.executor.collect().unwrap();
        let _ = bench.scheduler.commit(&plan, output, Nanos(0));
    };
    let _ = bench.scheduler.reset(Blame::Step(&lost), &[], "lost", Nanos(0));
    bench.scheduler.assert_consistent();
    assert_eq!((bench.gauges().num_used_host_blocks, bench.gauges().num_waiting), (0, 1));
    let next = bench.step();
    assert_eq!((next.seqs[0].positions.clone(), next.swap_in.len()), (0..17, 0));
    bench.finish();
    assert_eq!(bench.tokens(2).len(), 20);
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
fn what_the_prefix_index_still_has_is_not_brought_back() {
    let config = EngineConfig { max_num_seqs: 2, prefix_caching: PrefixCaching::On, ..config() };
    let mut bench = Bench::new(config, Box::new(Displacing));
    bench.chat((0..9).collect(), 12, 0);
    bench.chat((100..113).collect(), 9, 5);
    let _ = bench.step();
    let _ = bench.step();
    bench.chat((200..205).collect(), 2, 1);
    let saving = bench.step();
    assert_eq!(saving.swap_out.len(), 4, "14 tokens are computed");
    let resuming = bench.step_until(|plan| !plan.swap_in.is_empty());
    assert_eq!(resuming.swap_in.len(), 1, "three full blocks are found");
    assert_eq!(resuming.seqs.last().unwrap().positions, 14..15);
    let totals = bench.gauges().totals;
    assert_eq!((totals.num_swapped_out_tokens, totals.num_swapped_in_tokens), (14, 2));
    bench.finish();
}
