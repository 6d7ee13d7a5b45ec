//! The engine's handle: the queue bound, all or none, and how it ends.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::sync::{Arc, Mutex, mpsc};

use folio_engine::exec::Executor;
use folio_engine::sched::Sequences;
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, EngineConfig, Error, Event, EventReceiver, EventSender, FinishReason, ModelId,
    ModelKind, ModelLimits, PrefixCaching, Refusal, Request, Result, SamplingParams, Slo,
    StepOutput, StepPlan, StopConditions, Task, TenantId,
};
use folio_engine::{EngineHandle, EngineHealth};
use folio_tests::{FingerprintExecutor, LateExecutor};

/// Carries out a step only when the test allows it; says first what it has been given.
struct Gated {
    inner: FingerprintExecutor,
    submitted: mpsc::Sender<usize>,
    allowed: Arc<Mutex<mpsc::Receiver<Verdict>>>,
}

enum Verdict {
    Succeed,
    Fail,
    Panic,
}

impl Executor for Gated {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let _ = self.submitted.send(plan.seqs.len());
        let verdict = self.allowed.lock().unwrap().recv();
        match verdict {
            Ok(Verdict::Fail) => Err(Error::Device("lost".into())),
            Ok(Verdict::Panic) => panic!("a panic that the test asked for"),
            Ok(Verdict::Succeed) | Err(_) => self.inner.submit(plan, sequences),
        }
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.inner.collect()
    }
}

struct Bench {
    handle: EngineHandle,
    thread: std::thread::JoinHandle<()>,
    submitted: mpsc::Receiver<usize>,
    allow: mpsc::Sender<Verdict>,
}

fn config(max_num_seqs: u32, max_queued_requests: u32) -> EngineConfig {
    let kind = ModelKind::Decoder;
    EngineConfig {
        models: vec![ModelLimits { kind, max_model_len: 64, vocab_size: 100 }],
        block_size: 4,
        num_blocks: 200,
        max_num_seqs,
        max_num_batched_tokens: 64,
        max_num_partial_prefills: 1,
        long_prefill_token_threshold: None,
        max_queued_requests,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
}

fn start(max_num_seqs: u32, max_queued_requests: u32) -> Bench {
    let config = config(max_num_seqs, max_queued_requests);
    let (submitted_sender, submitted) = mpsc::channel();
    let (allow, allowed) = mpsc::channel();
    let allowed = Arc::new(Mutex::new(allowed));
    let of_engine = config.clone();
    let build = move || -> Result<Box<dyn Executor>> {
        let inner = FingerprintExecutor::new(&of_engine);
        let (submitted, allowed) = (submitted_sender.clone(), Arc::clone(&allowed));
        Ok(Box::new(Gated { inner, submitted, allowed }))
    };
    let (handle, thread) = EngineHandle::spawn(config, Box::new(Fcfs), build).unwrap();
    Bench { handle, thread, submitted, allow }
}

fn request(handle: &EngineHandle, first: u32, max_tokens: u32) -> (Request, EventReceiver) {
    let (events, receiver) = EventSender::channel(max_tokens);
    let stop = StopConditions { max_tokens, ..StopConditions::default() };
    let request = Request {
        id: handle.next_request_id(),
        model: ModelId(0),
        prompt: vec![first, 2, 3],
        task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
        choices: vec![Choice::new(events)],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receiver)
}

fn end_of(mut receiver: EventReceiver) -> Option<FinishReason> {
    std::iter::from_fn(|| receiver.blocking_recv()).find_map(|event| match event {
        Event::Finished { reason, .. } => Some(reason),
        _ => None,
    })
}

#[test]
fn what_runs_does_not_count_as_queued_and_what_waits_does() {
    let bench = start(4, 4);
    let (requests, _receivers): (Vec<_>, Vec<_>) =
        (0..4).map(|i| request(&bench.handle, i, 3)).unzip();
    bench.handle.submit(requests).unwrap();
    let mut num_running = 0;
    while num_running < 4 {
        num_running = bench.submitted.recv().unwrap();
        if num_running < 4 {
            bench.allow.send(Verdict::Succeed).unwrap();
        }
    }
    // All four are in the step that waits for its verdict: the whole queue is free again.
    assert_eq!(bench.handle.metrics().gauges.num_running, 4);
    let (more, _more_receivers): (Vec<_>, Vec<_>) =
        (10..14).map(|i| request(&bench.handle, i, 3)).unzip();
    bench.handle.submit(more).unwrap();
    let (one_more, _receiver) = request(&bench.handle, 20, 3);
    let refusal = bench.handle.submit(vec![one_more]);
    assert!(matches!(refusal, Err(Refusal::QueueFull { queued: 4, limit: 4, .. })), "{refusal:?}");
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let bench = start(1, 3);
    let (requests, _receivers): (Vec<_>, Vec<_>) =
        (0..4).map(|i| request(&bench.handle, i, 1)).unzip();
    let refusal = bench.handle.submit(requests);
    assert_eq!(refusal, Err(Refusal::QueueFull { queued: 0, limit: 3, room_in: None }));
    assert_eq!(bench.handle.metrics().gauges.num_waiting, 0);
}

#[test]
fn the_last_handle_lets_accepted_work_finish() {
    let bench = start(2, 10);
    let (request, receiver) = request(&bench.handle, 1, 5);
    bench.handle.submit(vec![request]).unwrap();
    drop(bench.handle);
    drop(bench.allow); // every step succeeds
    assert_eq!(end_of(receiver), Some(FinishReason::Length));
    bench.thread.join().unwrap();
}

#[test]
fn a_failed_step_fails_its_requests_and_the_engine_goes_on() {
    let bench = start(2, 10);
    let (first, receiver) = request(&bench.handle, 1, 5);
    bench.handle.submit(vec![first]).unwrap();
    bench.allow.send(Verdict::Fail).unwrap();
    let reason = end_of(receiver);
    assert_eq!(reason, Some(FinishReason::StepFailed("device: lost".into())));
    let (second, receiver) = request(&bench.handle, 1, 2);
    bench.handle.submit(vec![second]).unwrap();
    drop(bench.allow);
    assert_eq!(end_of(receiver), Some(FinishReason::Length));
    let faults = bench.handle.metrics().faults;
    assert_eq!((faults.num_failed_steps, faults.num_rebuilds), (1, 1));
}

#[test]
fn after_three_failures_in_a_minute_requests_are_refused_as_stopped() {
    let bench = start(1, 10);
    let (requests, receivers): (Vec<_>, Vec<_>) =
        (0..5).map(|i| request(&bench.handle, i, 5)).unzip();
    bench.handle.submit(requests).unwrap();
    for verdict in [Verdict::Panic, Verdict::Fail, Verdict::Panic] {
        bench.allow.send(verdict).unwrap();
    }
    let reasons: Vec<_> = receivers.into_iter().map(end_of).collect();
    let reason = |text: &str| Some(FinishReason::StepFailed(text.into()));
    let panic = "panic: a panic that the test asked for";
    assert_eq!(reasons[..3], [reason(panic), reason("device: lost"), reason(panic)]);
    let last =
        format!("the engine failed 3 times within 60 s and has stopped; the last time: {panic}");
    assert_eq!(reasons[3..], [reason(&last), reason(&last)]);
    bench.thread.join().unwrap();
    assert_eq!(bench.handle.last_failure(), Some(last));
    assert_eq!(bench.handle.health(), EngineHealth::Stopped);
    let (late, _receiver) = request(&bench.handle, 1, 5);
    assert_eq!(bench.handle.submit(vec![late]), Err(Refusal::Stopped));
}

#[test]
fn a_failing_build_is_reported_to_the_caller() {
    let config = EngineConfig {
        models: vec![ModelLimits { kind: ModelKind::Decoder, max_model_len: 8, vocab_size: 10 }],
        block_size: 4,
        num_blocks: 10,
        max_num_seqs: 1,
        max_num_batched_tokens: 8,
        max_num_partial_prefills: 1,
        long_prefill_token_threshold: None,
        max_queued_requests: 1,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    };
    let build = || -> Result<Box<dyn Executor>> { Err(Error::Device("none".into())) };
    let result = EngineHandle::spawn(config.clone(), Box::new(Fcfs), build);
    assert_eq!(result.err().map(|error| error.to_string()), Some("device: none".into()));
    let config = EngineConfig { max_num_seqs: 0, ..config };
    let build = || -> Result<Box<dyn Executor>> { unreachable!("checked before") };
    let message = EngineHandle::spawn(config, Box::new(Fcfs), build).err().unwrap().to_string();
    assert!(message.contains("max_num_seqs = 0"), "{message}");
}

/// An engine that plans one step ahead.
fn start_ahead() -> (EngineHandle, std::thread::JoinHandle<()>) {
    let config = config(2, 10);
    let of_engine = config.clone();
    let build =
        move || -> Result<Box<dyn Executor>> { Ok(Box::new(LateExecutor::new(&of_engine, 2))) };
    EngineHandle::spawn(config, Box::new(Fcfs), build).unwrap()
}

#[test]
fn an_engine_that_runs_ahead_collects_every_step_before_it_sleeps() {
    let (handle, thread) = start_ahead();
    for first in 0..3 {
        let prompt = [first, 2, 3];
        let (mut request, receiver) = request(&handle, first, 50);
        let Task::Generate(params) = &mut request.task else { unreachable!("a generation") };
        // The first token ends it while the step for the second is in flight.
        params.stop.token_ids = vec![FingerprintExecutor::next_token(&prompt, 0, 100)];
        handle.submit(vec![request]).unwrap();
        assert!(matches!(end_of(receiver), Some(FinishReason::Stop(_))));
        // Its blocks come back although nobody asks for anything.
        while handle.metrics().gauges.num_used_blocks > 0 {
            std::thread::yield_now();
        }
        let gauges = handle.metrics().gauges;
        assert_eq!(gauges.totals.num_wasted_tokens, u64::from(first) + 1);
        assert_eq!((gauges.num_running, gauges.num_waiting), (0, 0));
    }
    drop(handle);
    thread.join().unwrap();
}

#[test]
fn the_last_handle_lets_work_in_flight_finish() {
    let (handle, thread) = start_ahead();
    let (requests, mut receivers): (Vec<_>, Vec<_>) =
        (0..6).map(|i| request(&handle, i, 3 + i)).unzip();
    handle.submit(requests).unwrap();
    drop(handle);
    drop(receivers.remove(0));
    for receiver in receivers {
        assert_eq!(end_of(receiver), Some(FinishReason::Length));
    }
    thread.join().unwrap();
}
