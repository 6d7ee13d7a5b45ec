//! Several engines: what routers are for shows, and the arithmetic of a hand-over is exact.

use std::sync::Arc;

use crate::common::{config, ms, options, record, run, times};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{BatchShape, CostModel, EngineConfig, Nanos};
use folio_sim::cluster::{
    Cluster, InstanceView, Member, Route, RouteRequest, Router, Transfer, for_decode, router,
};
use folio_sim::instance::decoder_config;
use folio_sim::synthetic::{Prefixes, RandomLoad, RandomWorkload};
use folio_sim::trace::Pace;
use folio_sim::{Options, Outcome, Record, SimError, simulate, simulate_cluster};

fn cluster(name: &str, engines: Vec<EngineConfig>) -> Cluster {
    let num = engines.len() + 1;
    let member = |engine| Member { engine, policy: Box::new(Fcfs).into() };
    Cluster {
        others: engines.into_iter().map(member).collect(),
        router: router(name, num).unwrap(),
        transfer: Transfer { latency: ms(2), ns_per_token: 1e6 },
    }
}

/// 5 prompt tokens take 15 ms on the first engine. They come over in 2 + 5 ms; the second engine
/// gives the other two tokens in steps of 11 ms, the 5 tokens costing it nothing.
#[test]
fn a_prompt_moves_on_after_its_first_token() {
    let split = cluster("prefill-decode", vec![for_decode(config())]);
    let mut records = vec![record(0, 5, 3)].into_iter();
    let outcome = simulate_cluster(options(config()), split, &mut records).unwrap();
    assert_eq!(times(&outcome, 0), (0, 15, 44));
    let request = outcome.requests[0];
    assert_eq!((request.output, request.max_gap), (3, ms(18)));
    assert_eq!(outcome.gaps.num(), 2);
    assert_eq!(outcome.work.totals.num_steps, 3);
}

/// A preempted sequence has lost what came over: it is computed again, at its price.
#[test]
fn what_came_over_is_computed_again_after_a_preemption() {
    let small = EngineConfig { num_blocks: 17, block_size: 4, ..config() };
    let split = cluster("prefill-decode", vec![for_decode(small)]);
    let mut records = vec![record(0, 24, 16), record(0, 24, 16)].into_iter();
    let outcome = simulate_cluster(options(config()), split, &mut records).unwrap();
    assert_eq!(outcome.work.totals.num_preemptions, 1);
    let longest = outcome.requests.iter().map(|request| request.max_gap).max().unwrap();
    assert!(longest > ms(24 + 10), "{longest:?}: the prompt was not computed again");
    assert!(outcome.requests.iter().all(|request| request.output == 16));
}

/// Two engines take turns: each serves every second request as if it were alone.
#[test]
fn round_robin_deals_requests_out() {
    let records: Vec<Record> = (0..20).map(|index| record(index * 7, 9, 5)).collect();
    let pair = cluster("round-robin", vec![config()]);
    let outcome =
        simulate_cluster(options(config()), pair, &mut records.clone().into_iter()).unwrap();
    for first in 0..2 {
        let mine = records.iter().skip(first).step_by(2).cloned().collect();
        let alone = run(options(config()), mine);
        for (index, request) in alone.requests.iter().enumerate() {
            assert_eq!(outcome.requests[first + 2 * index].times, request.times);
        }
    }
}

/// Time of a step as on a device: a fixed part, and time for the tokens of prompts.
#[derive(Debug)]
struct Device;

impl CostModel for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        Nanos(5_000_000 + u64::from(shape.num_tokens) * 20_000)
    }
}

fn prefix_load() -> RandomWorkload {
    RandomWorkload::new(RandomLoad {
        num_prompts: 1500,
        input_len: 200,
        output_len: 40,
        range_ratio: 0.5,
        prefixes: Prefixes { len: 1500, num: 24 },
        pace: Pace { rate: 30.0, burstiness: 1.0 },
        seed: 5,
        ..RandomLoad::default()
    })
}

fn run_prefixes(name: &str) -> Outcome {
    // Each engine has room for some nine of the 24 prefixes beside what runs.
    let engine = decoder_config(8192, 1200);
    let options = Options::new(engine.clone(), Box::new(Fcfs), Arc::new(Device));
    simulate_cluster(options, cluster(name, vec![engine; 3]), &mut prefix_load()).unwrap()
}

/// Four engines, 24 long prefixes: who looks where a prefix is computes it once or twice, who does
/// not computes it everywhere, and again when it is gone.
#[test]
fn e2_finds_prefixes_that_round_robin_computes_again() {
    let (blind, seeing) = (run_prefixes("round-robin"), run_prefixes("e2"));
    let rates = (blind.prefix_hit_rate(), seeing.prefix_hit_rate());
    assert!(rates.1 > rates.0 + 0.15, "hit rates {rates:?}");
    let mean_ttft = |outcome: &Outcome| outcome.spread(folio_sim::Metric::Ttft, &[]).mean;
    assert!(mean_ttft(&seeing) < mean_ttft(&blind));
}

/// Long prompts between short answers: where both are computed in the same steps, tokens wait for
/// prompts; where they are apart, no step of decoding is longer than decoding takes.
#[test]
fn a_split_takes_prompts_out_of_the_way_of_answers() {
    let load = || {
        RandomWorkload::new(RandomLoad {
            num_prompts: 400,
            input_len: 1800,
            output_len: 60,
            pace: Pace { rate: 20.0, burstiness: 1.0 },
            seed: 9,
            ..RandomLoad::default()
        })
    };
    let engine = decoder_config(8192, 20_000);
    let stall = |name: &str, other: EngineConfig| {
        let options = Options::new(engine.clone(), Box::new(Fcfs), Arc::new(Device));
        let mut cluster = cluster(name, vec![other]);
        cluster.transfer = Transfer { latency: ms(1), ns_per_token: 2000.0 };
        let outcome = simulate_cluster(options, cluster, &mut load()).unwrap();
        outcome.gaps.percentile_ms(95.0)
    };
    let (mixed, apart) =
        (stall("round-robin", engine.clone()), stall("prefill-decode", for_decode(engine.clone())));
    assert!(mixed > 30.0, "a prompt of 1,800 tokens takes 41 ms: {mixed}");
    assert!(apart < 7.0, "steps of a few tokens take 5 ms and a little: {apart}");
}

/// One engine too many.
struct Lost;

impl Router for Lost {
    fn name(&self) -> &'static str {
        "lost"
    }

    fn route(&mut self, _: &RouteRequest<'_>, instances: &[InstanceView]) -> Route {
        Route::To(instances.len())
    }
}

#[test]
fn a_router_that_names_no_engine_is_told_so() {
    let cluster = Cluster { router: Box::new(Lost), ..cluster("round-robin", vec![config()]) };
    let mut records = vec![record(0, 5, 3)].into_iter();
    let error = simulate_cluster(options(config()), cluster, &mut records).unwrap_err();
    assert!(matches!(error, SimError::Route { record: 0, instance: 2, num_instances: 2 }));
    assert_eq!(error.to_string(), "the router sent request 0 to instance 2 of 2");
}

/// A cluster of one is an engine.
#[test]
fn one_engine_behind_a_router_is_one_engine() {
    let records: Vec<Record> = (0..10).map(|index| record(index * 3, 9, 5)).collect();
    let alone = simulate(options(config()), &mut records.clone().into_iter()).unwrap();
    for name in ["round-robin", "least-tokens", "e2"] {
        let single = cluster(name, Vec::new());
        let outcome =
            simulate_cluster(options(config()), single, &mut records.clone().into_iter()).unwrap();
        assert_eq!(outcome.requests, alone.requests, "{name}");
    }
}
