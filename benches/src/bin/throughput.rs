//! Offline throughput of the engine: all requests at once, equal lengths, nothing stops early.
//!
//! Prints one JSON line, in the form that `scripts/bench_transformers.py` prints for its modes, so
//! that `scripts/compare_throughput.sh` can set them beside each other.

use anyhow::{Context as _, ensure};
use clap::Parser;
use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::{
    ActivationLayout, DeviceOptions, KvCacheSize, MemoryOptions, MemoryPlan, ModelRunner,
    RunnerOptions,
};
use folio_engine::model::{ModelConfig, ModelFiles};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, Clock, EngineConfig, Event, EventReceiver, EventSender, ModelId, PrefixCaching,
    Request, RequestId, Sampling, SamplingParams, StopConditions, SystemClock, Task, TenantId,
    TokenId,
};

/// Offline throughput of Folio's engine on one decoder model.
#[derive(Debug, Parser)]
struct Args {
    /// Directory of a decoder model
    #[arg(long)]
    model: std::path::PathBuf,
    /// Requests, all submitted at the start
    #[arg(long, default_value_t = 64)]
    num_requests: u32,
    /// Prompt tokens of each
    #[arg(long, default_value_t = 128)]
    input_len: u32,
    /// Output tokens of each
    #[arg(long, default_value_t = 128)]
    output_len: u32,
    /// Threads of the CPU kernels
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Most sequences in a step
    #[arg(long, default_value_t = 64)]
    max_num_seqs: u32,
    /// Most tokens in a step
    #[arg(long, default_value_t = 1024)]
    max_num_batched_tokens: u32,
}

const BLOCK_SIZE: u32 = 16;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut core = start(&args)?;
    let mut receivers: Vec<EventReceiver> = Vec::new();
    let clock = SystemClock::start();
    for index in 0..args.num_requests {
        let (request, receiver) = request(&args, index);
        core.admit(request);
        receivers.push(receiver);
    }
    let mut num_steps = 0u32;
    while !core.is_idle() {
        let turn = core.step();
        ensure!(matches!(turn, Turn::Stepped(_)), "a step failed: {turn:?}");
        num_steps += 1;
    }
    let seconds = clock.now().as_secs_f64();
    let output_tokens: usize = receivers.into_iter().map(num_tokens).sum();
    let expected = args.num_requests as usize * args.output_len as usize;
    ensure!(output_tokens == expected, "{output_tokens} output tokens, expected {expected}");
    let total_tokens = output_tokens + args.num_requests as usize * args.input_len as usize;
    let line = serde_json::json!({
        "engine": "folio",
        "version": env!("CARGO_PKG_VERSION"),
        "mode": "continuous",
        "threads": args.threads,
        "num_requests": args.num_requests,
        "input_len": args.input_len,
        "output_len": args.output_len,
        "num_steps": num_steps,
        "seconds": seconds,
        "output_tokens": output_tokens,
        "output_tokens_per_s": output_tokens as f64 / seconds,
        "total_tokens_per_s": total_tokens as f64 / seconds,
    });
    print_line(&line)
}

fn print_line(line: &serde_json::Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").context("writing the result")
}

fn start(args: &Args) -> anyhow::Result<EngineCore> {
    let files = ModelFiles::Directory(args.model.clone());
    let model = ModelConfig::read(&files, None)?;
    let blocks_each = (args.input_len + args.output_len).div_ceil(BLOCK_SIZE);
    let options = MemoryOptions {
        block_size: BLOCK_SIZE,
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        kv_cache: KvCacheSize::Blocks(blocks_each * args.num_requests.min(args.max_num_seqs) + 1),
        layout: ActivationLayout::CPU,
        available_bytes: None,
    };
    let limits = model.limits();
    let plan = MemoryPlan::new(std::slice::from_ref(&model), &options)?;
    let config = EngineConfig {
        models: vec![limits],
        block_size: BLOCK_SIZE,
        num_blocks: plan.num_blocks(),
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_num_partial_prefills: 1,
        long_prefill_token_threshold: None,
        max_queued_requests: args.num_requests.max(1),
        prefix_caching: PrefixCaching::On,
    };
    let device = DeviceOptions::Cpu { num_threads: args.threads };
    let options = RunnerOptions { device, plan };
    let runner = ModelRunner::load(vec![(files, model)], &options, &mut |_| {})?;
    let config = config.validated()?;
    let clock = Box::new(SystemClock::start());
    Ok(EngineCore::new(config, Box::new(Fcfs), Box::new(runner), clock))
}

/// A greedy request over a prompt that no other request shares.
fn request(args: &Args, index: u32) -> (Request, EventReceiver) {
    let prompt: Vec<TokenId> =
        (0..args.input_len).map(|i| 10 + (index * 7919 + i * 104_729) % 20_000).collect();
    let (events, receiver) = EventSender::channel(args.output_len);
    let params = SamplingParams {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: StopConditions { max_tokens: args.output_len, ..StopConditions::default() },
        ..SamplingParams::default()
    };
    let request = Request {
        id: RequestId(u64::from(index)),
        model: ModelId(0),
        prompt,
        task: Task::Generate(params),
        choices: vec![Choice { events, processors: Vec::new() }],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        cache_salt: None,
    };
    (request, receiver)
}

fn num_tokens(mut receiver: EventReceiver) -> usize {
    let events = std::iter::from_fn(|| receiver.try_recv().ok());
    events.filter(|event| matches!(event, Event::Token(_))).count()
}
