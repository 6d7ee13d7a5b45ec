//! Offline speed of the engine: all requests at once, nothing stops early.
//!
//! Prints one JSON line, in the form that `scripts/bench_transformers.py` prints for its modes, so
//! that `scripts/compare_throughput.sh` can set them beside each other.

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, ValueEnum};
use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::{
    CudaOptions, Determinism, DeviceOptions, Graphs, KvCacheSize, MemoryOptions, MemoryPlan,
    NvidiaDriver, RunnerOptions, load,
};
use folio_engine::model::{ModelConfig, ModelFiles};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, Clock, EngineConfig, Event, EventReceiver, EventSender, ModelId, PrefixCaching,
    Request, RequestId, Sampling, SamplingParams, Slo, StepReport, StopConditions, SystemClock,
    Task, TenantId, TokenId,
};

/// Offline speed of Folio's engine on one model.
#[derive(Debug, Parser)]
struct Args {
    /// Directory of a model
    #[arg(long)]
    model: std::path::PathBuf,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    engine: Engine,
}

/// What is asked of the engine.
#[derive(Debug, clap::Args)]
struct Shape {
    /// What is measured
    #[arg(long, value_enum, default_value_t = Mode::Throughput)]
    mode: Mode,
    /// Requests, all submitted at the start
    #[arg(long, default_value_t = 64)]
    num_requests: u32,
    /// Prompt tokens of each
    #[arg(long, default_value_t = 128)]
    input_len: u32,
    /// Output tokens of each
    #[arg(long, default_value_t = 128)]
    output_len: u32,
    /// Draw both lengths of each request from this range, its ends included
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    range_lens: Option<Vec<u32>>,
    /// Where those lengths are drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// How the engine is set up.
#[derive(Debug, clap::Args)]
struct Engine {
    /// Where the model is computed
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Where the weights come from
    #[arg(long, value_enum, default_value_t = LoadFormat::Auto)]
    load_format: LoadFormat,
    /// What a GPU computes in
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// The same bits whatever else is in the batch, on a GPU
    #[arg(long)]
    deterministic: bool,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Tokens a second until all requests are done
    Throughput,
    /// Time of a step in which every request decodes one token
    Decode,
    /// Tokens a second of an embedding model; there is no output
    Embed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadFormat {
    /// The model's files
    Auto,
    /// They are made up: config.json is all that is needed
    Dummy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// As the configuration says
    Auto,
    Bfloat16,
    Float16,
}

const BLOCK_SIZE: u32 = 16;
/// Of the GPU's free memory, what the engine may take.
const MEMORY_SHARE: f64 = 0.92;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let lengths = lengths(&args.shape)?;
    let (mut core, device) = start(&args, &lengths)?;
    if args.engine.device == Device::Cuda {
        warm_up(&mut core, args.shape.mode, &lengths)?;
    }
    let receivers = admit(&mut core, args.shape.mode, &lengths, 0);
    let clock = SystemClock::start();
    let steps = run(&mut core, &clock)?;
    let seconds = clock.now().as_secs_f64();
    let results: usize = receivers.into_iter().map(num_results).sum();
    let input_tokens: usize = lengths.iter().map(|lengths| lengths.input as usize).sum();
    let mut line = serde_json::json!({
        "engine": "folio",
        "version": env!("CARGO_PKG_VERSION"),
        "mode": "continuous",
        "model": args.model.file_name().map(|name| name.to_string_lossy()),
        "device": device,
        "threads": args.engine.threads,
        "num_requests": args.shape.num_requests,
        "input_len": args.shape.input_len,
        "output_len": args.shape.output_len,
        "range_lens": args.shape.range_lens,
        "num_steps": steps.len(),
        "seconds": seconds,
    });
    let mut put = |name: &str, value: f64| line[name] = value.into();
    let expected: usize = match args.shape.mode {
        Mode::Embed => lengths.len(),
        Mode::Throughput | Mode::Decode => lengths.iter().map(|one| one.output as usize).sum(),
    };
    ensure!(results == expected, "{results} results, expected {expected}");
    match args.shape.mode {
        Mode::Embed => put("total_tokens_per_s", input_tokens as f64 / seconds),
        Mode::Throughput | Mode::Decode => {
            put("output_tokens", results as f64);
            put("output_tokens_per_s", results as f64 / seconds);
            put("total_tokens_per_s", (results + input_tokens) as f64 / seconds);
        }
    }
    if args.shape.mode == Mode::Decode {
        let (step, host) = decode_step(&steps, args.shape.num_requests)?;
        put("decode_step_ms", 1e3 * step);
        put("host_ms", 1e3 * host);
    }
    print_line(&line)
}

fn print_line(line: &serde_json::Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").context("writing the result")
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    input: u32,
    output: u32,
}

fn lengths(shape: &Shape) -> anyhow::Result<Vec<Lengths>> {
    ensure!(shape.num_requests > 0, "--num-requests must be above 0");
    let range = match shape.range_lens.as_deref() {
        None => None,
        Some(&[min, max]) if 0 < min && min <= max => Some((min, max)),
        Some(range) => bail!("--range-lens {range:?}: from at least 1 to no less"),
    };
    let mut state = shape.seed;
    let mut draw = |(min, max): (u32, u32)| {
        // Knuth's generator of 64 bits; its upper half is good enough for lengths.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        min + ((state >> 33) % u64::from(max - min + 1)) as u32
    };
    let one = |_| match range {
        Some(range) => Lengths { input: draw(range), output: draw(range) },
        None => Lengths { input: shape.input_len, output: shape.output_len },
    };
    Ok((0..shape.num_requests).map(one).collect())
}

/// The engine, and what it computes on.
fn start(args: &Args, lengths: &[Lengths]) -> anyhow::Result<(EngineCore, String)> {
    let engine = &args.engine;
    let files = ModelFiles::Directory(args.model.clone());
    let model = match engine.load_format {
        LoadFormat::Auto => ModelConfig::read(&files, None)?,
        LoadFormat::Dummy => ModelConfig::read_dummy(&files, None)?,
    };
    let (device, available_bytes, name) = device(engine, &model)?;
    let kv_cache = match engine.device {
        Device::Cuda => KvCacheSize::Auto,
        Device::Cpu => {
            let longest = lengths.iter().map(|one| one.input + one.output).max().unwrap_or(1);
            let num_seqs = engine.max_num_seqs.min(args.shape.num_requests);
            KvCacheSize::Blocks(longest.div_ceil(BLOCK_SIZE) * num_seqs + 1)
        }
    };
    let options = MemoryOptions {
        block_size: BLOCK_SIZE,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        kv_cache,
        layout: device.layout(),
        available_bytes,
    };
    let limits = model.limits();
    let plan = MemoryPlan::new(std::slice::from_ref(&model), &options)?;
    let config = EngineConfig {
        models: vec![limits],
        block_size: BLOCK_SIZE,
        num_blocks: plan.num_blocks(),
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_partial_prefills: 1,
        long_prefill_token_threshold: None,
        max_queued_requests: args.shape.num_requests,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    };
    let options = RunnerOptions { device, plan };
    let runner = load(vec![(files, model)], &options, &mut |_| {})?;
    let config = config.validated()?;
    let clock = Box::new(SystemClock::start());
    Ok((EngineCore::new(config, Box::new(Fcfs), runner, clock), name))
}

/// Where to compute, the bytes that are free there where it matters, and its name.
fn device(
    engine: &Engine,
    model: &ModelConfig,
) -> anyhow::Result<(DeviceOptions, Option<u64>, String)> {
    if engine.device == Device::Cpu {
        return Ok((DeviceOptions::Cpu { num_threads: engine.threads }, None, "cpu".to_owned()));
    }
    let driver = NvidiaDriver::open(0).context("--device cuda")?;
    let element = match engine.dtype {
        Dtype::Auto => CudaOptions::element_for(model.dtype()),
        Dtype::Bfloat16 => folio_engine::exec::Element::Bf16,
        Dtype::Float16 => folio_engine::exec::Element::F16,
    };
    let determinism = if engine.deterministic { Determinism::Fixed } else { Determinism::Fast };
    let options = CudaOptions { element, determinism, graphs: Graphs::Captured };
    let available = driver.memory()?.free_bytes as f64 * MEMORY_SHARE;
    let library = driver.matmul_library().unwrap_or_else(|_| "own matrix products".to_owned());
    let name = format!("{}, {}, {library}", driver.device().name, element.suffix());
    Ok((DeviceOptions::Cuda { driver, options }, Some(available as u64), name))
}

/// Runs what is done once: kernels are loaded, ways to multiply are chosen. One prompt of full
/// length and short ones beside it, all other ones than those that are measured.
fn warm_up(core: &mut EngineCore, mode: Mode, lengths: &[Lengths]) -> anyhow::Result<()> {
    let short = |one: &Lengths| Lengths { input: one.input.min(32), output: one.output.min(4) };
    let mut some: Vec<Lengths> = lengths.iter().map(short).collect();
    some[0].input = lengths[0].input;
    let receivers = admit(core, mode, &some, lengths.len() as u32);
    run(core, &SystemClock::start())?;
    drop(receivers);
    Ok(())
}

fn admit(
    core: &mut EngineCore,
    mode: Mode,
    lengths: &[Lengths],
    first_index: u32,
) -> Vec<EventReceiver> {
    let mut receivers = Vec::new();
    for (index, &lengths) in (first_index..).zip(lengths) {
        let (request, receiver) = request(mode, lengths, index);
        core.admit(request);
        receivers.push(receiver);
    }
    receivers
}

/// A greedy request over a prompt that no other request shares.
fn request(mode: Mode, lengths: Lengths, index: u32) -> (Request, EventReceiver) {
    let prompt: Vec<TokenId> =
        (0..lengths.input).map(|i| 10 + (index * 7919 + i * 104_729) % 20_000).collect();
    let (events, receiver) = EventSender::channel(lengths.output.max(1));
    let params = SamplingParams {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: StopConditions { max_tokens: lengths.output, ..StopConditions::default() },
        ..SamplingParams::default()
    };
    let task = match mode {
        Mode::Embed => Task::Embed,
        Mode::Throughput | Mode::Decode => Task::Generate(params),
    };
    let request = Request {
        id: RequestId(u64::from(index)),
        model: ModelId(0),
        prompt,
        task,
        choices: vec![Choice::new(events)],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receiver)
}

/// A step that was carried out, in seconds.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Since the step before it was done.
    seconds: f64,
    /// Of these, planning and submitting: the step in flight hides them if it takes longer.
    host_seconds: f64,
    report: StepReport,
}

/// Runs until nothing is left to do.
fn run(core: &mut EngineCore, clock: &SystemClock) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut end = clock.now().as_secs_f64();
    while !core.is_idle() {
        let start = end;
        while let Some(plan) = core.plan() {
            core.submit(plan);
        }
        let host_seconds = clock.now().as_secs_f64() - start;
        let turn = core.collect();
        let Turn::Stepped(report) = turn else {
            bail!("a step failed: {turn:?}");
        };
        end = clock.now().as_secs_f64();
        steps.push(Step { seconds: end - start, host_seconds, report });
    }
    Ok(steps)
}

/// Median seconds of a step in which all requests decode, and of the host's part in it.
fn decode_step(steps: &[Step], num_requests: u32) -> anyhow::Result<(f64, f64)> {
    let decodes = |report: &StepReport| {
        report.num_prefill_tokens == 0 && report.num_decode_tokens == num_requests
    };
    let pairs = steps.windows(2).filter(|pair| pair.iter().all(|step| decodes(&step.report)));
    let steps: Vec<Step> = pairs.map(|pair| pair[1]).collect();
    ensure!(!steps.is_empty(), "all requests never decoded in one step: raise --max-num-seqs");
    let median = |of: &dyn Fn(&Step) -> f64| {
        let mut values: Vec<f64> = steps.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok((median(&|step| step.seconds), median(&|step| step.host_seconds)))
}

/// Tokens or vectors that came.
fn num_results(mut receiver: EventReceiver) -> usize {
    let events = std::iter::from_fn(|| receiver.try_recv().ok());
    events.filter(|event| matches!(event, Event::Token(_) | Event::Embedding(_))).count()
}
