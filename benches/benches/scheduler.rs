//! What a step costs the scheduler itself: planning, committing, handing out and finding blocks.
//!
//! A plan is timed alone, its results are entered untimed, with 10,000 requests that wait behind
//! those that run: as in a simulation, where nobody can leave, and as in the server, where each
//! plan looks whether some of the clients that wait have gone. Nothing is computed.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_engine::decisions::{Disguise, Header, LogFile, LogLimits};
use folio_engine::sched::policies::Fcfs;
use folio_engine::sched::{BlockAllocator, BlockTable, Scheduler};
use folio_engine::types::{
    Choice, EngineConfig, EventReceiver, EventSender, ModelId, ModelKind, ModelLimits, Nanos,
    PrefixCaching, Request, RequestId, SampledToken, SamplingParams, SeqResult, Slo, StepOutput,
    StepPlan, Task, TenantId, TokenId,
};

const BLOCK_SIZE: u32 = 16;
const NUM_WAITING: u32 = 10_000;
/// Long enough for all that a benchmark generates: nobody ends.
const MAX_TOKENS: u32 = 1 << 20;
const PROMPT_LEN: u32 = 64;

/// A scheduler with `num_running` sequences that decode and `num_waiting` behind them.
struct Bench {
    scheduler: Scheduler,
    now: Nanos,
    receivers: Vec<EventReceiver>,
}

/// Who reads the tokens.
#[derive(Clone, Copy)]
enum Readers {
    /// Nobody, as in a simulation.
    None,
    /// A client for each request, as in the server.
    Clients,
}

fn config(num_running: u32) -> EngineConfig {
    let model = ModelLimits {
        kind: ModelKind::Decoder,
        max_model_len: 2 * MAX_TOKENS,
        vocab_size: 128_256,
    };
    EngineConfig {
        models: vec![model],
        block_size: BLOCK_SIZE,
        num_blocks: 1 << 21,
        max_num_seqs: num_running,
        max_num_batched_tokens: num_running.max(2048),
        max_num_partial_prefills: u32::MAX,
        long_prefill_token_threshold: None,
        max_queued_requests: u32::MAX,
        prefix_caching: PrefixCaching::Off,
        num_host_blocks: 0,
    }
}

impl Bench {
    fn new(num_running: u32, num_waiting: u32, readers: Readers) -> Self {
        let config = config(num_running);
        let mut bench = Self {
            scheduler: Scheduler::new(config, Box::new(Fcfs)),
            now: Nanos(0),
            receivers: Vec::new(),
        };
        for id in 0..num_running {
            bench.admit(id, Readers::None);
        }
        while bench.scheduler.gauges().num_waiting > 0 {
            bench.step();
        }
        for id in num_running..num_running + num_waiting {
            bench.admit(id, readers);
        }
        for _ in 0..64 {
            bench.step();
        }
        bench
    }

    fn admit(&mut self, id: u32, readers: Readers) {
        let events = match readers {
            Readers::None => EventSender::discard(),
            Readers::Clients => {
                let (events, receiver) = EventSender::channel(MAX_TOKENS);
                self.receivers.push(receiver);
                events
            }
        };
        let mut params = SamplingParams::default();
        params.stop.max_tokens = MAX_TOKENS;
        let request = Request {
            id: RequestId(u64::from(id)),
            model: ModelId(0),
            prompt: prompt(id, PROMPT_LEN),
            task: Task::Generate(params),
            choices: vec![Choice::new(events)],
            priority: 0,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        };
        self.scheduler.admit(request, self.now);
    }

    fn plan(&mut self) -> StepPlan {
        self.now = self.now + Nanos(10_000_000);
        let Some(plan) = self.scheduler.plan(self.now) else { panic!("nothing to compute") };
        plan
    }

    fn commit(&mut self, plan: &StepPlan) {
        let token = SeqResult::Token(SampledToken { id: 7, logprobs: None });
        let results =
            plan.seqs.iter().map(|seq| if seq.emits { token.clone() } else { SeqResult::Computed });
        let output = StepOutput { results: results.collect(), ..StepOutput::default() };
        let _ = black_box(self.scheduler.commit(plan, output, self.now));
    }

    fn step(&mut self) {
        let plan = self.plan();
        self.commit(&plan);
    }
}

fn prompt(id: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|position| (id * 131 + position) % 128_256).collect()
}

fn plan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    for num_running in [16, 256, 1024] {
        for (name, readers) in [("simulation", Readers::None), ("server", Readers::Clients)] {
            let mut bench = Bench::new(num_running, NUM_WAITING, readers);
            group.throughput(Throughput::Elements(u64::from(num_running)));
            group.bench_function(BenchmarkId::new(name, num_running), |bencher| {
                bencher.iter_custom(|num_plans| {
                    let mut total = Duration::ZERO;
                    for _ in 0..num_plans {
                        let start = Instant::now();
                        let plan = black_box(bench.plan());
                        total += start.elapsed();
                        bench.commit(&plan);
                    }
                    total
                });
            });
        }
    }
    group.finish();
}

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    for num_running in [16, 256, 1024] {
        let mut bench = Bench::new(num_running, 0, Readers::None);
        group.throughput(Throughput::Elements(u64::from(num_running)));
        group.bench_function(BenchmarkId::from_parameter(num_running), |bencher| {
            bencher.iter(|| bench.step());
        });
    }
    group.finish();
}

/// A step with the decision log on: what the engine's thread pays, and that with writing it.
fn recorded_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recorded_step");
    for num_running in [16, 256, 1024] {
        let mut bench = Bench::new(num_running, 0, Readers::None);
        bench.scheduler.record_decisions();
        group.throughput(Throughput::Elements(u64::from(num_running)));
        group.bench_function(BenchmarkId::new("taken", num_running), |bencher| {
            bencher.iter(|| {
                bench.step();
                black_box(bench.scheduler.take_decisions())
            });
        });
        let config = config(num_running);
        let header = Header::new("fcfs", config.clone(), &[]);
        let (disguise, limits) = (Disguise::secret(&config), LogLimits { max_bytes: None });
        let Ok(mut file) = LogFile::create(Path::new("/dev/null"), header, disguise, limits) else {
            continue; // not on this system
        };
        group.bench_function(BenchmarkId::new("written", num_running), |bencher| {
            bencher.iter(|| {
                bench.step();
                file.write(bench.scheduler.take_decisions())
            });
        });
    }
    group.finish();
}

fn allocator(criterion: &mut Criterion) {
    const NUM_BLOCKS: u32 = 40_000;
    const LEN: u32 = 1155; // the mean prompt of a chat trace
    let mut group = criterion.benchmark_group("allocator");
    let mut plain = BlockAllocator::new(NUM_BLOCKS, BLOCK_SIZE, PrefixCaching::Off);
    let mut table = BlockTable::default();
    group.bench_function("secure_next_token", |bencher| {
        let mut position = 0;
        bencher.iter(|| {
            position = (position + 1) % (NUM_BLOCKS * BLOCK_SIZE / 2);
            black_box(plain.secure(&mut table, position..position + 1))
        });
    });
    plain.release(&mut table);
    group.throughput(Throughput::Elements(u64::from(LEN.div_ceil(BLOCK_SIZE))));
    group.bench_function("secure_and_release_prompt", |bencher| {
        bencher.iter(|| {
            let _ = black_box(plain.secure(&mut table, 0..LEN));
            plain.release(&mut table);
        });
    });
    // Full of content: each prompt pushes another out.
    let mut cache = BlockAllocator::new(NUM_BLOCKS, BLOCK_SIZE, PrefixCaching::On);
    let prompts: Vec<_> =
        (0..2 * NUM_BLOCKS * BLOCK_SIZE / LEN).map(|id| prompt(id, LEN)).collect();
    let mut next = prompts.iter().cycle();
    group.bench_function("publish_and_release_prompt", |bencher| {
        bencher.iter(|| {
            let Some(prompt) = next.next() else { return };
            let _ = black_box(cache.match_prefix(prompt, None, &mut table));
            let matched = table.num_blocks() * BLOCK_SIZE;
            let _ = black_box(cache.secure(&mut table, matched..LEN));
            cache.publish(&mut table, prompt, None);
            cache.release(&mut table);
        });
    });
    group.finish();
}

fn prefix(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix");
    for len in [1024, 131_072] {
        let mut allocator =
            BlockAllocator::new(len / BLOCK_SIZE + 2, BLOCK_SIZE, PrefixCaching::On);
        let (tokens, mut table) = (prompt(1, len), BlockTable::default());
        let _ = allocator.secure(&mut table, 0..len);
        allocator.publish(&mut table, &tokens, None);
        allocator.release(&mut table);
        group.throughput(Throughput::Elements(u64::from(len / BLOCK_SIZE)));
        group.bench_function(BenchmarkId::new("peek", len), |bencher| {
            bencher.iter(|| black_box(allocator.peek_prefix(&tokens, None)));
        });
        group.bench_function(BenchmarkId::new("match_and_release", len), |bencher| {
            bencher.iter(|| {
                let matched = black_box(allocator.match_prefix(&tokens, None, &mut table));
                allocator.release(&mut table);
                matched
            });
        });
    }
    group.finish();
}

criterion_group!(benches, plan, step, recorded_step, allocator, prefix);
criterion_main!(benches);
