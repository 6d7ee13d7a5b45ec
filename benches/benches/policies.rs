//! What a policy costs a step: a plan and its commit with one sequence decoding and 1,024 waiting,
//! all of which a policy that looks at the time ranks anew. The difference to `fcfs`, divided by
//! 1,025, is the price of a rank, of what it looks up and of keeping the queue in order.

#![allow(clippy::expect_used, reason = "a bench that cannot run has nothing to say")]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use folio_engine::sched::{PolicyContext, RERANK_WINDOW, Registry, Scheduler};
use folio_engine::types::{
    Choice, EngineConfig, EventSender, ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching,
    Request, RequestId, SampledToken, SamplingParams, SeqResult, Slo, StepOutput, Task, TenantId,
};

const MAX_LEN: u32 = 100_000_000;

fn scheduler(spec: &str, shadow: Option<&str>) -> Scheduler {
    let limits = ModelLimits { kind: ModelKind::Decoder, max_model_len: MAX_LEN, vocab_size: 1000 };
    let config = EngineConfig {
        models: vec![limits],
        block_size: 16,
        num_blocks: 8_000_000,
        max_num_seqs: 1,
        max_num_batched_tokens: 2048,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: 100_000,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    };
    let (registry, context) = (Registry::builtin(), PolicyContext::default());
    let policy = registry.make(spec, &context).expect("a policy");
    let mut scheduler = Scheduler::new(config.validated().expect("valid"), policy);
    if let Some(spec) = shadow {
        scheduler.set_shadow(Some(registry.make_shadow(spec, &context).expect("one")), Nanos(0));
    }
    for id in 0..=RERANK_WINDOW as u64 {
        let mut params = SamplingParams::default();
        params.stop.max_tokens = if id == 0 { MAX_LEN - 300 } else { 100 };
        let prompt = (0..200).map(|i| if i < 64 { 7 } else { (id as u32 + i) % 1000 }).collect();
        scheduler.admit(
            Request {
                id: RequestId(id),
                model: ModelId(0),
                prompt,
                task: Task::Generate(params),
                choices: vec![Choice::new(EventSender::discard())],
                priority: (id % 4) as i32,
                tenant: TenantId((id % 5) as u32),
                deadline: None,
                slo: Slo::default(),
                cache_salt: None,
            },
            Nanos(id * 1000),
        );
    }
    scheduler
}

/// Plans and commits one step.
fn step(scheduler: &mut Scheduler, now: &mut Nanos) {
    now.0 += 1_000_000;
    let plan = scheduler.plan(*now).expect("work");
    let results = plan.seqs.iter().map(|seq| {
        if seq.emits {
            SeqResult::Token(SampledToken { id: 1, logprobs: None })
        } else {
            SeqResult::Computed
        }
    });
    let results = results.collect();
    let output = StepOutput { results, device_time: Nanos(1), ..StepOutput::default() };
    let _ = scheduler.commit(&plan, output, *now);
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step_1024_waiting");
    group.measurement_time(Duration::from_secs(3)).sample_size(30);
    for (name, spec, shadow) in [
        ("fcfs", "fcfs", None),
        ("expr: arrival", "expr: arrival", None),
        ("expr: prompt - 200*waited_s", "expr: prompt - 200*waited_s", None),
        ("expr: uncached - 200*waited_s", "expr: uncached - 200*waited_s", None),
        ("sjf", "sjf", None),
        ("fcfs, shadow expr: prompt", "fcfs", Some("expr: prompt")),
        ("fcfs, shadow sjf", "fcfs", Some("sjf")),
    ] {
        let mut scheduler = scheduler(spec, shadow);
        let mut now = Nanos(10_000_000);
        group.bench_function(name, |bench| bench.iter(|| step(&mut scheduler, &mut now)));
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
