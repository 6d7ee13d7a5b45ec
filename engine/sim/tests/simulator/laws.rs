//! What holds for every simulation: nothing is lost, time goes forward, queues are as long as
//! queueing theory says.

use std::sync::Arc;

use crate::common::{Constant, Random, TenAndOne, config, ms, options, run};
use folio_engine::sched::{PolicyContext, Registry};
use folio_engine::types::{EngineConfig, Nanos, PrefixCaching};
use folio_sim::cluster::{Cluster, Member, ROUTERS, Transfer, for_decode, router};
use folio_sim::instance::decoder_config;
use folio_sim::outcome::End;
use folio_sim::synthetic::{RandomLoad, RandomWorkload};
use folio_sim::trace::Pace;
use folio_sim::{
    After, FrontEnd, Host, Options, Outcome, Overlap, Record, Slo, Workload, simulate,
    simulate_cluster,
};

/// Requests of any kind: sessions, tenants, prefixes, some that are too long for the engine.
fn random_records(random: &mut Random) -> Vec<Record> {
    let num = 20 + random.below(60);
    let mut arrival = 0;
    let mut records: Vec<Record> = Vec::new();
    for index in 0..u64::from(num) {
        arrival += u64::from(random.below(80)) * crate::common::MS;
        let in_session = index > 0 && random.one_in(4);
        let think = ms(u64::from(random.below(300)));
        let before = u64::from(random.below(index.max(1) as u32));
        let num_ids = random.below(6);
        let longest = if random.one_in(20) { 400 } else { 90 };
        records.push(Record {
            arrival: Nanos(arrival),
            tenant: random.below(4),
            session: Some(index % 3),
            after: in_session.then_some(After { record: before, think }),
            input: 1 + random.below(longest),
            output: 1 + random.below(40),
            prefix: (0..num_ids).map(|_| u64::from(random.below(2))).collect(),
            prefix_block: 16,
            priority: random.below(3) as i32,
            slo: Slo::default(),
        });
    }
    for record in &mut records {
        record.prefix = record.prefix.iter().take(record.input as usize / 16).copied().collect();
    }
    records
}

fn random_engine(random: &mut Random) -> EngineConfig {
    let max_num_seqs = 1 + random.below(12);
    EngineConfig {
        block_size: [1, 4, 16][random.below(3) as usize],
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + random.below(60),
        prefix_caching: if random.one_in(2) { PrefixCaching::On } else { PrefixCaching::Off },
        ..decoder_config(200, 20 + random.below(400))
    }
}

fn check(records: &[Record], outcome: &Outcome, can_time_out: bool) {
    assert_eq!(outcome.requests.len(), records.len(), "every request ends once");
    for (index, (request, record)) in outcome.requests.iter().zip(records).enumerate() {
        assert_eq!((request.record, request.input), (index as u64, record.input));
        let times = request.times;
        let order = [
            Some(times.arrival),
            times.first_scheduled,
            times.first_token,
            times.last_token,
            Some(times.ended),
        ];
        assert!(order.iter().flatten().is_sorted(), "{times:?}");
        match request.end {
            End::Complete => assert_eq!(request.output, record.output),
            End::Cut => assert!(request.output < record.output && request.output > 0),
            End::TimedOut => assert!(can_time_out && request.output < record.output),
            End::TooLong => assert_eq!((request.output, times.first_scheduled), (0, None)),
            other => panic!("{other:?}"),
        }
        assert_eq!(request.tpot_ns().is_some(), request.output > 1, "{request:?}");
        assert!(request.num_cached < request.input.max(1), "{request:?}");
        if let Some(after) = record.after {
            let ended = outcome.requests[after.record as usize].times.ended;
            assert_eq!(times.arrival, ended + after.think, "a turn follows the one before it");
        } else {
            assert_eq!(times.arrival, record.arrival);
        }
    }
    let num_gaps: u64 =
        outcome.requests.iter().map(|request| u64::from(request.output.saturating_sub(1))).sum();
    assert_eq!(outcome.gaps.num(), num_gaps, "a gap between any two tokens of a request");
}

const POLICIES: [&str; 6] =
    ["fcfs", "priority", "expr: prompt", "sjf", "vtc", "srpt predictor=oracle"];

fn one_run(seed: u64) {
    let mut random = Random(seed);
    let records = random_records(&mut random);
    let engine = random_engine(&mut random);
    let timeout = random.one_in(4).then(|| ms(u64::from(100 + random.below(2000))));
    let overlap = if random.one_in(2) { Overlap::Ahead } else { Overlap::None };
    let lengths = Arc::new(folio_sim::KnownLengths::default());
    let context = PolicyContext {
        lengths: Some(Arc::clone(&lengths) as _),
        block_size: engine.block_size,
        ..PolicyContext::default()
    };
    let spec = POLICIES[random.below(POLICIES.len() as u32) as usize];
    let policy = || Registry::builtin().make(spec, &context).expect(spec);
    let mut options = Options {
        host: Host { per_step: ms(1), per_sequence: Nanos(50_000), overlap },
        front: FrontEnd { max_tokens: 30, timeout, closes_at: None },
        seed,
        ..Options::new(engine.clone(), policy(), Arc::new(TenAndOne))
    };
    options.hooks.lengths = Some(lengths);
    let mut workload = records.clone().into_iter();
    let num_instances = 1 + random.below(4) as usize;
    let outcome = if num_instances == 1 {
        simulate(options, &mut workload).unwrap()
    } else {
        let name = ROUTERS[random.below(ROUTERS.len() as u32) as usize];
        let is_split = name == "prefill-decode";
        let others = (1..num_instances).map(|index| {
            let is_decode = is_split && index >= num_instances.div_ceil(2);
            let engine = if is_decode { for_decode(engine.clone()) } else { engine.clone() };
            Member { engine, policy: policy() }
        });
        let cluster = Cluster {
            others: others.collect(),
            router: router(name, num_instances).unwrap(),
            transfer: Transfer { latency: ms(3), ns_per_token: 1000.0 },
        };
        simulate_cluster(options, cluster, &mut workload).unwrap()
    };
    check(&records, &outcome, timeout.is_some());
}

#[test]
fn nothing_is_lost_and_time_goes_forward() {
    for seed in 1..=400 {
        println!("seed {seed}");
        one_run(seed * 0x9e37_79b9);
    }
}

/// A server with one place and steps of 10 ms: requests of one step (9 of 10) or of eleven.
/// Arrivals are Poisson. The mean wait is that of Pollaczek and Khinchine for M/G/1,
/// `rate E[S^2] / (2 (1 - load))`, within four standard errors from the means of 40 parts of the
/// run; these are small enough for the test to tell.
#[test]
fn the_wait_is_that_of_pollaczek_and_khinchine() {
    let step = ms(10);
    for (rate, long) in [(70.0, 1), (35.0, 11), (20.0, 11)] {
        let load = RandomLoad {
            num_prompts: 120_000,
            input_len: 8,
            output_len: 1,
            pace: Pace { rate, burstiness: 1.0 },
            seed: 11,
            ..RandomLoad::default()
        };
        let mut records = Vec::new();
        let mut workload = RandomWorkload::new(load);
        let mut random = Random(0x00c0_ffee);
        while let Some(record) = workload.next() {
            let output = if random.one_in(10) { long } else { 1 };
            records.push(Record { output, ..record.unwrap() });
        }
        let engine = EngineConfig { max_num_seqs: 1, ..config() };
        let options = Options { cost: Arc::new(Constant(step)), ..options(engine) };
        let outcome = run(options, records);
        let waits: Vec<f64> =
            outcome.requests.iter().map(|r| r.queue_time().unwrap().as_secs_f64()).collect();
        let means: Vec<f64> = waits
            .chunks(waits.len() / 40)
            .map(|part| part.iter().sum::<f64>() / part.len() as f64)
            .collect();
        let num = means.len() as f64;
        let mean = means.iter().sum::<f64>() / num;
        let variance = means.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (num - 1.0);
        let error = (variance / num).sqrt();
        let seconds = step.as_secs_f64();
        let service =
            |power: i32| 0.9 * seconds.powi(power) + 0.1 * (seconds * f64::from(long)).powi(power);
        let expected = rate * service(2) / (2.0 * (1.0 - rate * service(1)));
        println!("rate {rate}, long {long}: {mean} +- {error}, expected {expected}");
        assert!((mean - expected).abs() < 4.0 * error, "{mean} +- {error}, expected {expected}");
        assert!(error < 0.06 * expected, "the test could not tell: {error} of {expected}");
    }
}
