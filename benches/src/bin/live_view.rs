//! What the live view costs the engine: a step with and without somebody who watches, and one
//! picture of pools of several sizes.
//!
//! The executor computes nothing, so a step is all scheduling: the least work that the cost can be
//! set beside. Runs with and without a watcher alternate. With `--only`, one of them runs, for a
//! count of instructions by `perf stat`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Parser, ValueEnum};
use folio_engine::EngineHandle;
use folio_engine::exec::Executor;
use folio_engine::sched::policies::Fcfs;
use folio_engine::sched::{Scheduler, Sequences};
use folio_engine::types::{
    Choice, Clock, EngineConfig, Event, EventReceiver, EventSender, ModelId, ModelKind,
    ModelLimits, Nanos, PrefixCaching, Request, RequestId, SampledToken, SamplingParams, SeqResult,
    Slo, StepOutput, StepPlan, StopConditions, SystemClock, Task, TenantId,
};

/// What the live view costs.
#[derive(Debug, Parser)]
struct Args {
    /// Sequences that run
    #[arg(long, default_value_t = 256)]
    sequences: u32,
    /// Steps of a run, which is also the number of tokens of each sequence
    #[arg(long, default_value_t = 8000)]
    steps: u32,
    /// Blocks of the pool
    #[arg(long, default_value_t = 150_000)]
    blocks: u32,
    /// Pairs of runs
    #[arg(long, default_value_t = 7)]
    pairs: u32,
    /// Make one run, of this kind
    #[arg(long, value_enum)]
    only: Option<Watching>,
}

/// Whether somebody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Watching {
    /// Nobody.
    Off,
    /// One picture every 250 ms.
    On,
}

/// Every emitting sequence gets token 1.
struct Nothing(Option<StepOutput>);

impl Executor for Nothing {
    fn submit(&mut self, plan: &StepPlan, _: &mut Sequences) -> folio_engine::types::Result<()> {
        let result = |emits| {
            if emits {
                SeqResult::Token(SampledToken { id: 1, logprobs: None })
            } else {
                SeqResult::Computed
            }
        };
        let results = plan.seqs.iter().map(|seq| result(seq.emits)).collect();
        self.0 = Some(StepOutput { results, device_time: Nanos(1), ..StepOutput::default() });
        Ok(())
    }

    fn collect(&mut self) -> folio_engine::types::Result<StepOutput> {
        Ok(self.0.take().unwrap_or_default())
    }
}

fn config(args: &Args, num_blocks: u32) -> EngineConfig {
    let max_model_len = args.steps + 16;
    let kind = ModelKind::Decoder;
    EngineConfig {
        models: vec![ModelLimits { kind, max_model_len, vocab_size: 1000 }],
        block_size: 16,
        num_blocks,
        max_num_seqs: args.sequences,
        max_num_batched_tokens: 4096,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: args.sequences,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
}

fn request(id: RequestId, max_tokens: u32) -> (Request, EventReceiver) {
    let (events, receiver) = EventSender::channel(max_tokens);
    let stop = StopConditions { max_tokens, ..StopConditions::default() };
    let request = Request {
        id,
        model: ModelId(0),
        prompt: vec![id.0 as u32 % 1000; 8],
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

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Asks for one picture after the other until the work is done; returns how many came.
fn watch(handle: &EngineHandle, is_done: &AtomicBool) -> u32 {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut num_pictures = 0;
    while !is_done.load(Ordering::Relaxed) {
        let mut picture = pin!(handle.live());
        while picture.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        num_pictures += 1;
        std::thread::park_timeout(Duration::from_millis(250));
    }
    num_pictures
}

/// Microseconds a step, and pictures made.
fn run(args: &Args, watching: Watching) -> Result<(f64, u32)> {
    let build =
        || -> folio_engine::types::Result<Box<dyn Executor>> { Ok(Box::new(Nothing(None))) };
    let (handle, thread) = EngineHandle::spawn(config(args, args.blocks), Box::new(Fcfs), build)?;
    let (requests, receivers): (Vec<_>, Vec<_>) =
        (0..args.sequences).map(|_| request(handle.next_request_id(), args.steps)).unzip();
    let is_done = Arc::new(AtomicBool::new(false));
    let watcher = (watching == Watching::On).then(|| {
        let (handle, is_done) = (handle.clone(), Arc::clone(&is_done));
        std::thread::spawn(move || watch(&handle, &is_done))
    });
    let begun = handle.now();
    handle.submit(requests).map_err(|refusal| anyhow!("{refusal}"))?;
    for mut receiver in receivers {
        while let Some(event) = receiver.blocking_recv() {
            if let Event::Finished { .. } = event {
                break;
            }
        }
    }
    let micros = handle.now().since(begun).as_secs_f64() * 1e6 / f64::from(args.steps);
    is_done.store(true, Ordering::Relaxed);
    let num_pictures = watcher.map_or(Ok(0), std::thread::JoinHandle::join);
    drop(handle);
    thread.join().map_err(|_| anyhow!("the engine panicked"))?;
    Ok((micros, num_pictures.map_err(|_| anyhow!("the watcher panicked"))?))
}

/// Microseconds for a picture of a pool of `num_blocks`, half of them in use.
fn picture(args: &Args, num_blocks: u32) -> Result<f64> {
    let mut scheduler = Scheduler::new(config(args, num_blocks), Box::new(Fcfs));
    let per_sequence = (num_blocks / 2 / args.sequences).max(1) * 16;
    let mut receivers = Vec::new();
    for id in 0..args.sequences {
        let (mut request, receiver) = request(RequestId(u64::from(id)), 2);
        request.prompt = vec![id % 1000; (per_sequence - 3).min(args.steps) as usize];
        receivers.push(receiver);
        scheduler.admit(request, Nanos(1));
    }
    let mut executor = Nothing(None);
    while let Some(plan) = scheduler.plan(Nanos(2)) {
        let is_decoding = plan.seqs.len() as u32 == args.sequences;
        executor.submit(&plan, scheduler.sequences_mut())?;
        let _ = scheduler.commit(&plan, executor.collect()?, Nanos(3));
        if is_decoding {
            break;
        }
    }
    let clock = SystemClock::start();
    let mut best = f64::INFINITY;
    for _ in 0..200 {
        let begun = clock.now();
        let view = scheduler.live_view(begun);
        best = best.min(clock.now().since(begun).as_secs_f64() * 1e6);
        anyhow::ensure!(view.pool.cells.len() as u32 == num_blocks - 1, "cells of the picture");
    }
    Ok(best)
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(watching) = args.only {
        let (micros, num_pictures) = run(&args, watching)?;
        println!("{watching:?}: {micros:.2} µs a step, {num_pictures} pictures");
        return Ok(());
    }
    for num_blocks in [1_000, 10_000, 100_000] {
        println!("picture of {num_blocks} blocks: {:.0} µs", picture(&args, num_blocks)?);
    }
    let mut ratios = Vec::new();
    for _ in 0..args.pairs {
        let (off, _) = run(&args, Watching::Off)?;
        let (on, num_pictures) = run(&args, Watching::On)?;
        println!("{off:.2} µs a step, {on:.2} with {num_pictures} pictures");
        ratios.push(on / off);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).context("no pairs")?;
    println!("median ratio {median:.4}");
    Ok(())
}
