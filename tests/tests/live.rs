//! What watchers of the engine are shown: the truth about every block and sequence, at most so
//! often, and never at the price of the engine's work.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::HashMap;
use std::sync::mpsc;

use folio_engine::exec::Executor;
use folio_engine::live::MAX_LIVE_STEPS;
use folio_engine::sched::policies::Fcfs;
use folio_engine::sched::{
    LiveCell, LiveState, LiveView, MAX_LIVE_CELLS, MAX_LIVE_SEQUENCES, Scheduler, Sequences,
};
use folio_engine::types::{
    BlockId, Choice, EngineConfig, EventReceiver, EventSender, ModelId, ModelKind, ModelLimits,
    Nanos, PrefixCaching, Protection, Refusal, Request, RequestId, Result, SamplingParams,
    SequenceId, Slo, StepOutput, StepPlan, StopConditions, Task, TenantId, TokenId,
};
use folio_engine::{EngineHandle, EngineSetup};
use folio_tests::FingerprintExecutor;
use proptest::prelude::*;

fn config(num_blocks: u32) -> EngineConfig {
    EngineConfig {
        models: vec![ModelLimits { kind: ModelKind::Decoder, max_model_len: 64, vocab_size: 1000 }],
        block_size: 4,
        num_blocks,
        max_num_seqs: 16,
        max_num_batched_tokens: 64,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: 10_000,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
}

fn request(
    id: u64,
    prompt: Vec<TokenId>,
    max_tokens: u32,
    num_choices: usize,
) -> (Request, Vec<EventReceiver>) {
    let (choices, receivers) = (0..num_choices)
        .map(|_| {
            let (events, receiver) = EventSender::channel(max_tokens);
            (Choice::new(events), receiver)
        })
        .unzip();
    let stop = StopConditions { max_tokens, ..StopConditions::default() };
    let request = Request {
        id: RequestId(id),
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
    (request, receivers)
}

/// Holds every cell of `view` against the tables of the sequences themselves.
fn check_cells(view: &LiveView, scheduler: &mut Scheduler, num_used: u32) {
    let mut holders: HashMap<BlockId, Vec<SequenceId>> = HashMap::new();
    for sequence in scheduler.sequences_mut().iter() {
        for &block in sequence.table().blocks() {
            holders.entry(block).or_default().push(sequence.id());
        }
    }
    let mut num_held = 0;
    let mut num_published = 0;
    for (cell, index) in view.pool.cells.iter().zip(1..) {
        let code = LiveCell(cell.0 & !LiveCell::PUBLISHED);
        let holders = holders.get(&BlockId(index)).map_or(&[][..], Vec::as_slice);
        match (code, holders) {
            (LiveCell::FREE | LiveCell::CACHED, []) => assert_eq!(code, *cell),
            (LiveCell::SHARED, [_, _, ..]) => {}
            (owner, [holder]) => {
                let place = owner.0.checked_sub(LiveCell::FIRST_OWNER.0).expect("an owner");
                assert_eq!(view.sequences[place as usize].id, *holder, "block {index}");
            }
            _ => panic!("block {index} is held by {holders:?}, shown as {cell:?}"),
        }
        num_held += u32::from(code > LiveCell::CACHED);
        num_published += u32::from(*cell == LiveCell::CACHED || code != *cell);
    }
    assert_eq!(num_held, num_used);
    assert_eq!(num_published, view.pool.num_cached_blocks);
}

/// Holds every line of `view` against the sequence itself.
fn check_sequences(view: &LiveView, scheduler: &mut Scheduler) {
    let sequences = scheduler.sequences_mut();
    assert_eq!(view.sequences.len(), sequences.len());
    let mut has_waiting = false;
    for shown in &view.sequences {
        let sequence = sequences.get(shown.id);
        assert_eq!(shown.request, sequence.request().id);
        assert_eq!(shown.choice_index, sequence.choice_index());
        assert_eq!(shown.num_blocks, sequence.table().num_blocks());
        assert_eq!(shown.progress.num_prompt_tokens, sequence.request().prompt_len);
        assert_eq!(shown.progress.num_generated_tokens, sequence.num_generated());
        assert_eq!(shown.progress.num_computed_tokens, sequence.num_computed());
        assert_eq!(shown.num_preemptions, sequence.stats().num_preemptions);
        let is_running = shown.state == LiveState::Running;
        assert!(is_running || sequence.table().is_empty(), "{shown:?}");
        assert!(!(is_running && has_waiting), "running sequences come first");
        has_waiting |= !is_running;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_picture_agrees_with_tables_and_counts_at_every_step(
        loads in prop::collection::vec((0u32..3, 1usize..40, 1u32..20, 1usize..4), 1..24),
        num_blocks in 30u32..120,
    ) {
        let config = config(num_blocks);
        let mut executor = FingerprintExecutor::new(&config);
        let mut scheduler = Scheduler::new(config, Box::new(Fcfs));
        let mut receivers = Vec::new();
        let mut loads = loads.into_iter().zip(0..);
        for now in (1..).map(Nanos) {
            if let Some(((first, len, max_tokens, num_choices), id)) = loads.next() {
                let prompt = (first * 100..).take(len).collect();
                let (request, new) = request(id, prompt, max_tokens, num_choices);
                receivers.extend(new);
                scheduler.admit(request, now);
            }
            let plan = scheduler.plan(now);
            let view = scheduler.live_view(now);
            let num_used = scheduler.gauges().num_used_blocks;
            check_sequences(&view, &mut scheduler);
            check_cells(&view, &mut scheduler, num_used);
            prop_assert!(now < Nanos(5000), "it does not end");
            let Some(plan) = plan else { break };
            executor.submit(&plan, scheduler.sequences_mut()).unwrap();
            let _ = scheduler.commit(&plan, executor.collect().unwrap(), now);
        }
        prop_assert!(scheduler.is_idle());
    }
}

#[test]
fn a_picture_of_a_huge_engine_is_bounded() {
    let num_blocks = MAX_LIVE_CELLS * 2 + 5;
    let mut scheduler = Scheduler::new(config(num_blocks), Box::new(Fcfs));
    let mut receivers = Vec::new();
    for id in 0..2000 {
        let (request, new) = request(id, vec![id as u32 % 900; 9], 4, 1);
        receivers.push(new);
        scheduler.admit(request, Nanos(1));
    }
    let plan = scheduler.plan(Nanos(2)).unwrap();
    let view = scheduler.live_view(Nanos(3));
    assert_eq!(view.sequences.len(), MAX_LIVE_SEQUENCES);
    assert_eq!(view.pool.blocks_per_cell, 3);
    assert_eq!(view.pool.cells.len(), num_blocks.div_ceil(3) as usize);
    let shown = view.pool.cells.iter().filter(|&&cell| cell >= LiveCell::FIRST_OWNER).count();
    assert!(shown > 0, "{} sequences run", plan.seqs.len());
    let waiting = view.sequences.iter().find(|s| s.state == LiveState::Waiting).unwrap();
    assert_eq!(waiting.waited, Nanos(2));
}

/// Carries out a step only when the test allows it.
struct Gated {
    inner: FingerprintExecutor,
    begun: mpsc::Sender<()>,
    allowed: mpsc::Receiver<()>,
}

impl Executor for Gated {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        self.inner.submit(plan, sequences)
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let _ = self.begun.send(());
        let _ = self.allowed.recv();
        self.inner.collect()
    }
}

struct Bench {
    handle: EngineHandle,
    thread: std::thread::JoinHandle<()>,
    begun: mpsc::Receiver<()>,
    allow: mpsc::Sender<()>,
}

fn start() -> Bench {
    let config = config(60);
    let inner = FingerprintExecutor::new(&config);
    let ((begun_sender, begun), (allow, allowed)) = (mpsc::channel(), mpsc::channel());
    let mut gated = Some(Gated { inner, begun: begun_sender, allowed });
    let build = move || -> Result<Box<dyn Executor>> { Ok(Box::new(gated.take().unwrap())) };
    let (handle, thread) = EngineHandle::spawn(config, Box::new(Fcfs), build).unwrap();
    Bench { handle, thread, begun, allow }
}

#[tokio::test]
async fn an_idle_engine_wakes_up_for_a_picture_and_askers_share_it() {
    let bench = start();
    let (first, second) = tokio::join!(bench.handle.live(), bench.handle.live());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.taken, second.taken);
    assert_eq!(first.view.pool.cells, vec![LiveCell::FREE; 59]);
    assert!(first.view.sequences.is_empty() && first.steps.is_empty());
}

#[tokio::test]
async fn steps_are_told_of_only_while_somebody_watches() {
    let bench = start();
    drop(bench.allow); // every step succeeds
    let run = |id| {
        let (request, mut receivers) = request(id, vec![1, 2, 3], 5, 1);
        bench.handle.submit(vec![request]).unwrap();
        tokio::task::spawn_blocking(move || {
            let mut receiver = receivers.remove(0);
            while receiver.blocking_recv().is_some() {}
        })
    };
    run(0).await.unwrap();
    let unwatched = bench.handle.live().await.unwrap();
    assert!(unwatched.steps.is_empty());
    assert!(unwatched.gauges.totals.time_to_first_token.num == 1);
    run(1).await.unwrap();
    let mut watched = bench.handle.live().await.unwrap();
    while watched.taken == unwatched.taken {
        watched = bench.handle.live().await.unwrap();
    }
    let steps: Vec<_> = watched.steps.iter().map(|step| step.report).collect();
    let num_sampled: u32 = steps.iter().map(|step| step.num_sampled_tokens).sum();
    let num_prefill: u32 = steps.iter().map(|step| step.num_prefill_tokens).sum();
    assert_eq!((num_sampled, num_prefill), (5, 3));
    assert!(steps.len() <= MAX_LIVE_STEPS);
    let first = watched.steps[0].number;
    assert!(watched.steps.iter().zip(first..).all(|(step, number)| step.number == number));
}

#[tokio::test]
async fn a_picture_asked_for_during_a_step_comes_at_its_end() {
    let bench = start();
    let (request, _receivers) = request(7, vec![1, 2, 3], 2, 1);
    bench.handle.submit(vec![request]).unwrap();
    bench.begun.recv().unwrap();
    let picture = {
        let mut asked = std::pin::pin!(bench.handle.live());
        assert!(futures_util::poll!(&mut asked).is_pending());
        bench.allow.send(()).unwrap();
        asked.await.unwrap()
    };
    let shown = &picture.view.sequences[0];
    assert_eq!((shown.request, shown.state), (RequestId(7), LiveState::Running));
    assert_eq!(shown.progress.num_generated_tokens, 1);
    drop(bench.allow);
    drop(bench.handle);
    bench.thread.join().unwrap();
}

#[test]
fn a_stopped_engine_says_so() {
    let failing = || -> Result<Box<dyn Executor>> { Ok(Box::new(Panics)) };
    let protection = Protection { max_failures: 1, ..Protection::default() };
    let setup = EngineSetup::new(config(60), Box::new(Fcfs)).protection(protection);
    let (handle, thread) = setup.spawn(failing).unwrap();
    let (request, _receivers) = request(0, vec![1], 1, 1);
    handle.submit(vec![request]).unwrap();
    thread.join().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(handle.live()).err(), Some(Refusal::Stopped));
}

struct Panics;

impl Executor for Panics {
    fn submit(&mut self, _: &StepPlan, _: &mut Sequences) -> Result<()> {
        panic!("a panic that the test asked for")
    }

    fn collect(&mut self) -> Result<StepOutput> {
        unreachable!("nothing was submitted")
    }
}
