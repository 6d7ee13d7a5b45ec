//! Laws that every shipped policy keeps, and what each does that its paper says.
//!
//! Random loads run through the simulator, that is through the production scheduler: nothing is
//! lost, the engine does not idle, who has waited long enough is not overtaken any more, fairness
//! keeps its bound, more memory does not hurt. That an adversarial policy loses nothing, and that
//! tokens do not depend on the policy, is checked in `simulation`.
#![allow(clippy::print_stdout, reason = "the seed of a failing run")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use folio_engine::sched::{
    Admit, Decider, Displacement, Limits, Phase, Policy, PolicyContext, PolicyRequest, Rank,
    Refresh, Registry, SchedEvent, Victim, View,
};
use folio_engine::types::{
    BatchShape, CostModel, EngineConfig, Nanos, PrefixCaching, SequenceId, TenantId,
};
use folio_sim::instance::decoder_config;
use folio_sim::{KnownLengths, Options, Outcome, Record, RequestOutcome, Slo, simulate};
use folio_tests::Random;

/// Every policy that ships, and what can be had on top of any.
const SPECS: [&str; 19] = [
    "fcfs",
    "fcfs victim=last reserve=ratio",
    "fcfs reserve=max",
    "fcfs tpot=8ms",
    "priority",
    "sjf",
    "sjf predictor=oracle reserve=oracle",
    "sjf predictor=noisy:0.5 victim=worst-rank",
    "srpt",
    "srpt predictor=oracle victim=least-computed",
    "hrrn",
    "hrrn predictor=histogram",
    "edf",
    "lpm",
    "dfs-weight",
    "mlfq",
    "vtc",
    "slos-serve",
    "vtc predictor=histogram victim=fewest-outputs reserve=predicted",
];

/// A device: some time for each step, each token and each pair of a query and a key.
#[derive(Debug)]
struct Device;

impl CostModel for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        let tokens = 20_000 * u64::from(shape.num_tokens);
        Nanos(4_000_000 + tokens + shape.prefill_work + 20 * shape.decode_context)
    }
}

/// Longest step of `config`: all its tokens in one, behind the longest context.
fn longest_step(config: &EngineConfig) -> Nanos {
    let tokens = config.max_num_batched_tokens;
    let context = config.models[0].max_model_len;
    let row = context..context + tokens;
    Device.predict(&BatchShape::row(row, folio_engine::types::Emission::Result))
}

fn run_with(config: EngineConfig, policy: impl Into<Decider>, records: &[Record]) -> Outcome {
    let options = Options::new(config, policy, Arc::new(Device));
    let records: Vec<Record> = records.into();
    simulate(options, &mut records.into_iter()).expect("a simulation")
}

fn context(lengths: &Arc<KnownLengths>) -> PolicyContext {
    PolicyContext {
        cost: Some(Arc::new(Device)),
        lengths: Some(Arc::clone(lengths) as _),
        seed: 11,
        block_size: 16,
        ..PolicyContext::default()
    }
}

/// A policy to be watched. It is in charge all the same.
fn ranked(spec: &str, context: &PolicyContext) -> Box<dyn Policy> {
    Registry::builtin().make_shadow(spec, context).expect(spec)
}

fn run(config: EngineConfig, spec: &str, records: &[Record]) -> Outcome {
    let lengths = Arc::new(KnownLengths::default());
    let policy = Registry::builtin().make(spec, &context(&lengths)).expect(spec);
    let mut options = Options::new(config, policy, Arc::new(Device));
    options.hooks.lengths = Some(lengths);
    let records: Vec<Record> = records.into();
    simulate(options, &mut records.into_iter()).expect(spec)
}

// ----------------------------------------------------------------------------------------- loads

/// A number between 0 and 1, neither of them.
fn unit(random: &mut Random) -> f64 {
    (f64::from(random.below(1 << 30)) + 0.5) / f64::from(1 << 30)
}

fn exponential(random: &mut Random, mean: f64) -> f64 {
    -unit(random).ln() * mean
}

/// Mostly short requests and some long ones, `rate` a second at random times.
fn mixed_load(seed: u64, num: usize, rate: f64) -> Vec<Record> {
    let mut random = Random(seed);
    let mut at = 0.0;
    let mut records = Vec::new();
    for _ in 0..num {
        at += exponential(&mut random, 1.0 / rate);
        let scale = if random.one_in(8) { 8.0 } else { 1.0 };
        let length = |random: &mut Random, mean: f64| {
            (exponential(random, mean * scale) as u32).clamp(1, 3000)
        };
        records.push(Record {
            arrival: Nanos::from_secs_f64(at),
            tenant: random.below(4),
            input: length(&mut random, 120.0),
            output: length(&mut random, 40.0),
            priority: random.below(3) as i32,
            slo: Slo {
                ttft: random.one_in(2).then(|| Nanos(50_000_000 * u64::from(1 + random.below(40)))),
                ..Slo::default()
            },
            ..Record::default()
        });
    }
    records
}

/// Requests of groups that share `prefix` tokens each, a question of their own behind them.
fn grouped_load(num_groups: u64, group_size: usize, prefix: u32) -> Vec<Record> {
    let block = 64;
    let mut records = Vec::new();
    for group in 0..num_groups {
        let ids: Arc<[u64]> = (0..u64::from(prefix / block)).map(|i| group * 1000 + i).collect();
        for _ in 0..group_size {
            records.push(Record {
                input: prefix + 40,
                output: 4,
                prefix: Arc::clone(&ids),
                prefix_block: block,
                ..Record::default()
            });
        }
    }
    records
}

fn shuffled(mut records: Vec<Record>, seed: u64) -> Vec<Record> {
    let mut random = Random(seed);
    for index in (1..records.len()).rev() {
        records.swap(index, random.below(index as u32 + 1) as usize);
    }
    records
}

/// An engine whose requests never share anything.
fn config(num_blocks: u32, max_num_seqs: u32) -> EngineConfig {
    EngineConfig {
        max_num_seqs,
        prefix_caching: PrefixCaching::Off,
        ..decoder_config(8192, num_blocks)
    }
}

fn makespan(outcome: &Outcome) -> f64 {
    outcome.requests.iter().map(|request| request.times.ended).max().unwrap().as_secs_f64()
}

/// Requests a second that `config` serves under `fcfs` of a mixed load while some wait: those that
/// have ended when the last is taken in, of a load that is there at once.
fn capacity(config: &EngineConfig) -> f64 {
    let outcome = run(config.clone(), "fcfs", &mixed_load(99, 1500, 1e6));
    let until = outcome.requests.iter().map(started).max().unwrap();
    let ended = outcome.requests.iter().filter(|request| request.times.ended <= until);
    ended.count() as f64 / until.as_secs_f64()
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_ttft(outcome: &Outcome) -> f64 {
    mean(outcome.requests.iter().map(|request| request.ttft().unwrap().as_secs_f64()))
}

fn mean_e2el(outcome: &Outcome) -> f64 {
    mean(outcome.requests.iter().map(|request| request.e2el().unwrap().as_secs_f64()))
}

fn started(request: &RequestOutcome) -> Nanos {
    request.times.first_scheduled.unwrap()
}

// -------------------------------------------------------------------- conservation, of work too

/// Time during which at least one request was there.
fn time_with_work(outcome: &Outcome) -> Nanos {
    let mut spans: Vec<_> =
        outcome.requests.iter().map(|r| (r.times.arrival, r.times.ended)).collect();
    spans.sort_unstable();
    let (mut total, mut until) = (Nanos(0), Nanos(0));
    for (start, end) in spans {
        total = total + end.since(start.max(until));
        until = until.max(end);
    }
    total
}

/// Each request ends once, answered to its last token, and the device computes whenever somebody
/// is there: the time it was busy is the time with work, to the nanosecond.
#[test]
fn nothing_is_lost_and_the_engine_never_idles() {
    let mut num_preemptions = 0;
    for spec in SPECS {
        for seed in 0..6 {
            println!("{spec}, seed {seed}");
            let num_blocks = if seed % 2 == 0 { 460 } else { 2000 };
            let config = config(num_blocks, 16);
            let records = mixed_load(seed, 150, 60.0);
            let outcome = run(config, spec, &records);
            assert_eq!(outcome.requests.len(), records.len());
            for (record, request) in records.iter().zip(&outcome.requests) {
                assert!(request.end.is_success(), "{request:?}");
                assert_eq!((request.input, request.output), (record.input, record.output));
            }
            assert_eq!(outcome.work.busy, time_with_work(&outcome));
            num_preemptions += outcome.work.totals.num_preemptions;
        }
    }
    assert!(num_preemptions > 200, "only {num_preemptions} preemptions: too easy");
}

// --------------------------------------------------------------------------------------- waiting

/// Asserts that nobody who arrives more than `bound` after a request starts before it.
fn check_overtaking(spec: &str, outcome: &Outcome, bound: impl Fn(usize) -> Nanos) -> usize {
    let mut num_overtaken = 0;
    for (index, early) in outcome.requests.iter().enumerate() {
        let until = early.times.arrival + bound(index);
        for late in &outcome.requests[index + 1..] {
            let overtakes = started(late) < started(early);
            num_overtaken += usize::from(overtakes);
            let is_too_late = late.times.arrival > until;
            assert!(!overtakes || !is_too_late, "{spec}: {late:?} before {early:?}");
        }
    }
    num_overtaken
}

/// The guarantee at the head of a policy's file, on loads above capacity, where it bites.
fn check_bound(spec: &str, bound: impl Fn(&Record) -> Nanos) {
    let config = config(4000, 16);
    let rate = 2.0 * capacity(&config);
    for seed in 0..6 {
        println!("{spec}, seed {seed}");
        let records = mixed_load(seed, 400, rate);
        let outcome = run(config.clone(), spec, &records);
        let num_overtaken = check_overtaking(spec, &outcome, |index| bound(&records[index]));
        assert!(num_overtaken > 100, "{spec}: only {num_overtaken} overtaken, too easy");
    }
}

/// The time in which ageing makes up for `tokens`.
fn made_up(tokens: u32, ageing: f64) -> Nanos {
    Nanos::from_secs_f64(f64::from(tokens) / ageing)
}

#[test]
fn sjf_bounds_overtaking_by_size() {
    check_bound("sjf", |record| made_up(record.input, 200.0));
    check_bound("sjf ageing=1000", |record| made_up(record.input, 1000.0));
    let spec = "sjf predictor=oracle ageing=500";
    check_bound(spec, |record| made_up(record.input + record.output, 500.0));
}

#[test]
fn srpt_bounds_overtaking_by_work() {
    let spec = "srpt predictor=oracle ageing=500";
    check_bound(spec, |record| made_up(record.input + record.output, 500.0));
}

#[test]
fn edf_bounds_overtaking_by_deadline() {
    let spec = "edf default=1s";
    check_bound(spec, |record| record.slo.ttft.unwrap_or(Nanos(1_000_000_000)));
}

/// A promotion is seen with the next plan.
#[test]
fn mlfq_bounds_overtaking_by_promotion() {
    let step = longest_step(&config(4000, 16));
    check_bound("mlfq promote=2s", |_| Nanos(2_000_000_000) + step);
}

#[test]
fn fcfs_lets_nobody_overtake() {
    let config = config(4000, 16);
    let records = mixed_load(0, 400, 2.0 * capacity(&config));
    let outcome = run(config, "fcfs", &records);
    assert_eq!(check_overtaking("fcfs", &outcome, |_| Nanos(0)), 0);
}

/// Within a tenant, fair queueing is first come, first served.
#[test]
fn tenants_are_served_in_their_own_order() {
    let config = config(4000, 16);
    let records = mixed_load(3, 400, 1.5 * capacity(&config));
    for spec in ["vtc", "vtc predictor=oracle"] {
        let outcome = run(config.clone(), spec, &records);
        for tenant in 0..4 {
            let own = outcome.requests.iter().filter(|request| request.tenant == tenant);
            let times: Vec<_> = own.map(started).collect();
            assert!(times.is_sorted(), "{spec}: tenant {tenant}");
        }
    }
}

/// At 90 % of capacity nobody waits longer than the longest wait of `fcfs` and the longest time in
/// which, by the policy's guarantee, somebody may still pass.
#[test]
fn waits_are_bounded_at_nine_tenths_of_capacity() {
    let config = config(4000, 16);
    let rate = 0.9 * capacity(&config);
    for seed in 0..4 {
        let records = mixed_load(seed, 1200, rate);
        let longest = |spec: &str| {
            let outcome = run(config.clone(), spec, &records);
            let waits = outcome.requests.iter().map(|request| request.queue_time().unwrap());
            waits.max().unwrap().as_secs_f64()
        };
        let fcfs = longest("fcfs");
        let bounds = [
            ("sjf", 3000.0 / 200.0),
            ("srpt predictor=oracle", 6000.0 / 50.0),
            ("edf", 10.0),
            ("lpm", 0.0),
            ("dfs-weight", 30.0),
            ("mlfq", 3.0),
        ];
        for (spec, bound) in bounds {
            let wait = longest(spec);
            println!("seed {seed}: {spec} {wait:.2} s, fcfs {fcfs:.2} s");
            assert!(wait <= fcfs + bound, "{spec}: {wait} s, fcfs {fcfs} s");
        }
    }
}

/// Another policy, with an eye on what it does.
struct Watched<F> {
    inner: Box<dyn Policy>,
    eye: F,
}

/// What an eye is shown.
enum Sight<'a> {
    /// A plan is about to be filled.
    Planning,
    Event(&'a SchedEvent),
}

impl<F: FnMut(Sight<'_>, &View<'_>) + Send + 'static> Watched<F> {
    fn boxed(self) -> Box<dyn Policy> {
        Box::new(self)
    }
}

impl<F: FnMut(Sight<'_>, &View<'_>) + Send> Policy for Watched<F> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        self.inner.rank(request, view)
    }

    fn refresh(&self) -> Refresh {
        self.inner.refresh()
    }

    fn displacement(&self) -> Displacement {
        self.inner.displacement()
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        (self.eye)(Sight::Planning, view);
        self.inner.limits(view)
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        self.inner.admit(request, view)
    }

    fn victim(&mut self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        self.inner.victim(candidates, view)
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        (self.eye)(Sight::Event(event), view);
        self.inner.observe(event, view);
    }
}

/// Who is taken in has the highest ratio of tokens waited to tokens wanted among all that wait.
#[test]
fn hrrn_takes_the_highest_ratio() {
    let config = config(4000, 16);
    let records = mixed_load(5, 400, 1.5 * capacity(&config));
    let num_checked = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&num_checked);
    let (mut clock, mut at_plan) = (0u64, 0u64);
    let mut since: HashMap<SequenceId, u64> = HashMap::new();
    let eye = move |sight: Sight<'_>, view: &View<'_>| match sight {
        Sight::Planning => at_plan = clock,
        Sight::Event(SchedEvent::Arrived(id)) => drop(since.insert(*id, clock)),
        Sight::Event(SchedEvent::Granted { num_tokens, .. }) => clock += u64::from(*num_tokens),
        Sight::Event(SchedEvent::Admitted { id, .. }) => {
            let ratio = |id: SequenceId| {
                let request = view.request(id).unwrap();
                let left = f64::from(request.num_known());
                (at_plan - since[&id]) as f64 / left
            };
            let taken = ratio(*id);
            for other in view.waiting() {
                assert!(ratio(other) <= taken, "{other} has {}, {id} {taken}", ratio(other));
                *counter.lock().unwrap() += 1;
            }
        }
        Sight::Event(_) => {}
    };
    let inner = ranked("hrrn", &context(&Arc::default()));
    let _ = run_with(config, Watched { inner, eye }.boxed(), &records);
    assert!(*num_checked.lock().unwrap() > 5000, "hardly ever did anybody wait");
}

// ---------------------------------------------------------------------------------------- prefix

/// A cache that holds a few groups, and too few places for all.
fn cached_config() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 4,
        num_blocks: 400,
        max_num_batched_tokens: 1200,
        ..decoder_config(8192, 400)
    }
}

fn num_hits(outcome: &Outcome) -> u64 {
    outcome.requests.iter().map(|request| u64::from(request.num_cached)).sum()
}

/// On a batch in depth-first order `fcfs` is optimal: `lpm` and `dfs-weight` reach it, and reach it
/// in any other order too, where `fcfs` does not.
#[test]
fn orders_by_prefix_hit_as_often_as_depth_first_order_does() {
    let sorted = grouped_load(12, 8, 1024);
    let best = num_hits(&run(cached_config(), "fcfs", &sorted));
    assert_eq!(best, 12 * 7 * 1024, "each group computes its prefix once");
    for spec in ["lpm", "lpm ageing=0", "dfs-weight"] {
        assert!(num_hits(&run(cached_config(), spec, &sorted)) >= best, "{spec}");
    }
    for seed in 0..5 {
        let records = shuffled(sorted.clone(), seed);
        let fcfs = num_hits(&run(cached_config(), "fcfs", &records));
        let lpm = num_hits(&run(cached_config(), "lpm ageing=0", &records));
        let dfs = num_hits(&run(cached_config(), "dfs-weight", &records));
        println!("seed {seed}: fcfs {fcfs}, lpm {lpm}, dfs-weight {dfs} of {best}");
        assert!(fcfs < best && lpm > fcfs, "seed {seed}");
        assert_eq!(dfs, best, "seed {seed}: depth first is optimal");
    }
}

/// What a policy is told of hits is what is found on admission, while nothing is evicted between.
#[test]
fn hits_are_foretold() {
    let num_checked = Arc::new(Mutex::new([0, 0]));
    let counter = Arc::clone(&num_checked);
    let mut foretold: HashMap<SequenceId, u32> = HashMap::new();
    let eye = move |sight: Sight<'_>, view: &View<'_>| match sight {
        Sight::Planning => {
            let waiting = view.waiting().filter_map(|id| view.request(id));
            foretold = waiting.map(|one| (one.id(), view.num_cached_tokens(&one))).collect();
        }
        Sight::Event(SchedEvent::Admitted { id, num_cached_tokens }) => {
            assert_eq!(foretold.get(id), Some(num_cached_tokens), "sequence {id}");
            counter.lock().unwrap()[usize::from(*num_cached_tokens > 0)] += 1;
        }
        Sight::Event(_) => {}
    };
    let mut records = shuffled(grouped_load(12, 8, 1024), 4);
    for (index, record) in records.iter_mut().enumerate() {
        record.prefix = record.prefix[..4 + index % 12].iter().copied().collect();
    }
    let config = EngineConfig { num_blocks: 20_000, ..cached_config() };
    let inner = ranked("lpm", &context(&Arc::default()));
    let _ = run_with(config, Watched { inner, eye }.boxed(), &records);
    let [num_misses, num_hits] = *num_checked.lock().unwrap();
    assert!(num_misses >= 12 && num_hits >= 60, "{num_misses} misses, {num_hits} hits");
}

/// A stream of hits beside one request without any, above capacity.
fn stream_of_hits() -> Vec<Record> {
    let mut records = grouped_load(1, 700, 2048);
    for (index, record) in records.iter_mut().enumerate() {
        record.arrival = Nanos(20_000_000 * index as u64 / 3);
        record.output = 10;
    }
    records[60].prefix = Arc::from([]);
    records
}

/// Without ageing the stream starves it to the end; with it, nobody who arrives more than h /
/// ageing after it comes before it.
#[test]
fn lpm_without_ageing_starves_and_with_it_does_not() {
    let records = stream_of_hits();
    let outcome = run(cached_config(), "lpm ageing=0", &records);
    let stranger = outcome.requests[60];
    let num_passed = |outcome: &Outcome, stranger: &RequestOutcome| {
        let later = outcome.requests[61..].iter();
        later.filter(|request| started(request) < started(stranger)).count()
    };
    // All but those that at the very end find a place beside it.
    let num_passed_by = num_passed(&outcome, &stranger);
    assert!(num_passed_by >= 700 - 61 - 3, "{num_passed_by} pass: {stranger:?}");
    for (spec, ageing) in [("lpm ageing=1000", 1000.0), ("lpm ageing=2000", 2000.0)] {
        let outcome = run(cached_config(), spec, &records);
        let stranger = outcome.requests[60];
        let until = stranger.times.arrival + Nanos::from_secs_f64(2048.0 / ageing);
        let too_late = outcome.requests[61..].iter().filter(|late| late.times.arrival > until);
        let mut num_too_late = 0;
        for late in too_late {
            assert!(started(late) >= started(&stranger), "{spec}: {late:?} before {stranger:?}");
            num_too_late += 1;
        }
        assert!(num_passed(&outcome, &stranger) > 50 && num_too_late > 50, "{spec}: too easy");
    }
}

/// Who has waited `max_wait` goes before all who have not.
#[test]
fn dfs_weight_lets_nobody_wait_beyond_its_longest_wait() {
    let records = stream_of_hits();
    let max_wait = Nanos(1_000_000_000);
    let outcome = run(cached_config(), "dfs-weight max_wait=1s", &records);
    let stranger = outcome.requests[60];
    let due = stranger.times.arrival + max_wait;
    let later = outcome.requests[61..].iter();
    assert!(later.clone().any(|late| started(late) < started(&stranger)), "nobody passed it");
    for late in later.filter(|late| started(late) >= due) {
        assert!(started(late) >= started(&stranger), "{late:?} before {stranger:?}");
    }
    let patient = run(cached_config(), "dfs-weight max_wait=1h", &records);
    assert!(
        started(&patient.requests[60]) > started(&stranger),
        "the longest wait changes nothing"
    );
}

// -------------------------------------------------------------------------------------- fairness

/// What tenants were served, as the paper counts it.
#[derive(Debug, Default)]
struct Service {
    by_tenant: BTreeMap<TenantId, f64>,
    /// Lowest and highest difference between tenants 0 and 1 while both had a queue.
    range: Option<(f64, f64)>,
    num_samples: u32,
}

/// Runs `records` of two tenants under `spec`, and returns what they were served by weight.
fn serve_two(spec: &str, weights: [f64; 2], records: &[Record], config: EngineConfig) -> Service {
    let service = Arc::new(Mutex::new(Service::default()));
    let sink = Arc::clone(&service);
    let weight_of = move |tenant: TenantId| weights[tenant.0 as usize];
    let mut was_admitted: HashSet<SequenceId> = HashSet::new();
    let eye = move |sight: Sight<'_>, view: &View<'_>| {
        let Sight::Event(event) = sight else { return };
        let mut service = sink.lock().unwrap();
        match *event {
            SchedEvent::Admitted { id, num_cached_tokens } => {
                let request = view.request(id).unwrap();
                if was_admitted.insert(id) {
                    let price = f64::from(request.prompt_len() - num_cached_tokens);
                    let tenant = request.tenant();
                    *service.by_tenant.entry(tenant).or_default() += price / weight_of(tenant);
                }
            }
            SchedEvent::Granted { tenant, num_results, .. } => {
                let price = 2.0 * f64::from(num_results);
                *service.by_tenant.entry(tenant).or_default() += price / weight_of(tenant);
            }
            SchedEvent::Stepped { .. } => {
                let waits = |tenant| {
                    let mut waiting = view.waiting().filter_map(|id| view.request(id));
                    waiting.any(|r| r.tenant() == TenantId(tenant) && r.phase() == Phase::Waiting)
                };
                if waits(0) && waits(1) {
                    let of = |tenant| service.by_tenant.get(&TenantId(tenant)).unwrap_or(&0.0);
                    let difference = of(0) - of(1);
                    let (low, high) = service.range.unwrap_or((difference, difference));
                    service.range = Some((low.min(difference), high.max(difference)));
                    service.num_samples += 1;
                }
            }
            _ => {}
        }
    };
    let context = PolicyContext {
        tenant_weights: (0u32..).map(TenantId).zip(weights).collect(),
        lengths: Some(Arc::new(KnownLengths::default())),
        ..PolicyContext::default()
    };
    let inner = ranked(spec, &context);
    let _ = run_with(config, Watched { inner, eye }.boxed(), records);
    std::mem::take(&mut *service.lock().unwrap())
}

/// Two tenants that always wait: one with many long questions, the other with long answers.
fn noisy_neighbours(seed: u64) -> Vec<Record> {
    let mut random = Random(seed);
    let mut records = Vec::new();
    for index in 0..900u64 {
        let tenant = u32::from(index % 4 == 0);
        let (input, output) = if tenant == 0 { (150, 20) } else { (30, 150) };
        records.push(Record {
            arrival: Nanos(index),
            tenant,
            input: 1 + random.below(input * 2),
            output: 1 + random.below(output * 2),
            ..Record::default()
        });
    }
    records
}

/// The published bound, 2 max(w_p L, w_q M), with M the tokens that the pool holds: between any two
/// moments while both wait, their services grow by amounts that differ by at most that.
#[test]
fn vtc_keeps_its_published_bound() {
    for seed in 0..5 {
        let records = noisy_neighbours(seed);
        let config = config(201, 32);
        let (longest, pool) = (300.0, 200.0 * 16.0);
        let bound = 2.0 * f64::max(1.0 * longest, 2.0 * pool);
        for (spec, weights) in [("vtc", [1.0, 1.0]), ("vtc", [1.0, 3.0])] {
            let service = serve_two(spec, weights, &records, config.clone());
            let (low, high) = service.range.unwrap();
            println!("seed {seed}, {weights:?}: {:.0} of {bound}, {service:?}", high - low);
            assert!(service.num_samples > 200, "they hardly ever waited together");
            assert!(high - low <= bound, "seed {seed}: {service:?}");
        }
        let unfair = serve_two("fcfs", [1.0, 1.0], &records, config);
        let (low, high) = unfair.range.unwrap();
        assert!(high - low > bound, "fcfs keeps it too, so the load proves nothing: {unfair:?}");
    }
}

/// Who was away is owed nothing: it gets its share from its return on, not the engine.
#[test]
fn idling_earns_no_credit() {
    let mut records = noisy_neighbours(8);
    records.iter_mut().filter(|r| r.tenant == 1).for_each(|r| r.arrival = Nanos(1_000_000_000));
    records.sort_by_key(|record| record.arrival);
    let config = config(201, 32);
    let service = serve_two("vtc", [1.0, 1.0], &records, config);
    let (low, high) = service.range.unwrap();
    let bound = 2.0 * 2.0 * 200.0 * 16.0;
    assert!(service.num_samples > 100, "they hardly ever waited together: {service:?}");
    assert!(high - low <= bound, "{service:?}");
}

// ------------------------------------------------------------------------------ lengths and time

/// With true lengths, room for every block, and a prefix cache that keeps what was computed for who
/// is displaced, the mean time to the end is no longer than first come first served takes.
#[test]
fn srpt_with_true_lengths_is_no_slower_on_average_than_fcfs() {
    let config = EngineConfig { prefix_caching: PrefixCaching::On, ..config(20_000, 8) };
    let rate = 1.5 * capacity(&config);
    for seed in 0..10 {
        let records = mixed_load(seed, 300, rate);
        let fcfs = mean_e2el(&run(config.clone(), "fcfs", &records));
        let srpt = run(config.clone(), "srpt predictor=oracle ageing=0", &records);
        let ours = mean_e2el(&srpt);
        println!("seed {seed}: fcfs {fcfs:.2} s, srpt {ours:.2} s");
        assert!(ours <= fcfs, "seed {seed}: fcfs {fcfs} s, srpt {ours} s");
    }
}

/// At saturation, shortest first lowers the mean time to the first token and raises the longest;
/// ageing takes some of both back.
#[test]
fn sjf_lowers_the_mean_and_ageing_the_longest_wait() {
    let config = config(4000, 16);
    let records = mixed_load(1, 800, 1.5 * capacity(&config));
    let longest =
        |outcome: &Outcome| outcome.requests.iter().filter_map(RequestOutcome::ttft).max();
    let fcfs = run(config.clone(), "fcfs", &records);
    let aged = run(config.clone(), "sjf ageing=400", &records);
    let pure = run(config, "sjf ageing=0", &records);
    let means = [&fcfs, &aged, &pure].map(mean_ttft);
    println!("mean ttft: fcfs, sjf ageing=400, sjf ageing=0: {means:?}");
    assert!(means[2] < means[1] && means[1] < means[0], "{means:?}");
    assert!(longest(&fcfs) < longest(&aged) && longest(&aged) < longest(&pure));
}

/// The better the prediction, the shorter the mean; a learned histogram of tenants who differ is
/// worth something.
#[test]
fn better_predictions_give_shorter_means() {
    let config = config(8000, 8);
    let mut records = mixed_load(2, 800, 1.4 * capacity(&config));
    for (index, record) in records.iter_mut().enumerate() {
        // Prompts alike, answers by tenant: only who knows the tenant knows the length.
        let spread = 1 + index as u32 % 7;
        record.input = 50;
        record.output = [5, 20, 80, 300][record.tenant as usize] + spread;
    }
    let specs = [
        "sjf ageing=0 predictor=oracle",
        "sjf ageing=0 predictor=histogram",
        "sjf ageing=0 predictor=noisy:3",
        "fcfs",
    ];
    let means = specs.map(|spec| mean_e2el(&run(config.clone(), spec, &records)));
    println!("{specs:?}: {means:?}");
    assert!(means.is_sorted(), "{means:?}");
    assert!(means[1] < 0.8 * means[3], "a histogram is worth little: {means:?}");
}

/// Short requests overtake what has run long, and join where their prompts belong.
#[test]
fn mlfq_answers_short_requests_sooner() {
    let config = config(8000, 8);
    let records = mixed_load(4, 500, 1.5 * capacity(&config));
    let short = |outcome: &Outcome| {
        let short = outcome.requests.iter().filter(|r| r.input < 100 && r.output < 30);
        mean(short.map(|r| r.e2el().unwrap().as_secs_f64()))
    };
    let (fcfs, mlfq) = (run(config.clone(), "fcfs", &records), run(config, "mlfq", &records));
    println!("short requests: fcfs {:.2} s, mlfq {:.2} s", short(&fcfs), short(&mlfq));
    assert!(short(&mlfq) < short(&fcfs));
    assert!(mlfq.work.totals.num_preemptions > 0, "nobody was displaced");
}

// ---------------------------------------------------------------------------------------- memory

/// More blocks never cost more than one hundredth of the throughput.
#[test]
fn more_blocks_never_hurt() {
    for spec in SPECS {
        let mut best = 0.0;
        for num_blocks in [100, 130, 180, 260, 1000] {
            let (mut num_tokens, mut time) = (0, 0.0);
            for seed in 0..2 {
                let mut records = mixed_load(seed, 300, 1000.0);
                for record in &mut records {
                    record.input = record.input.min(400);
                    record.output = record.output.min(200);
                    num_tokens += record.output;
                }
                time += makespan(&run(config(num_blocks, 24), spec, &records));
            }
            let throughput = f64::from(num_tokens) / time;
            println!("{spec}, {num_blocks} blocks: {throughput:.1} tokens/s");
            assert!(throughput >= 0.99 * best, "{spec}: {throughput} after {best}");
            best = f64::max(best, throughput);
        }
    }
}

/// Reserving everything never preempts; a ratio preempts less than nothing does; and true lengths
/// reserve just enough.
#[test]
fn reservations_avoid_preemption() {
    let preemptions = |spec: &str| {
        let runs = (0..8).map(|seed| run(config(500, 32), spec, &mixed_load(seed, 300, 60.0)));
        runs.fold((0, 0.0), |(num, time), outcome| {
            (num + outcome.work.totals.num_preemptions, time + makespan(&outcome))
        })
    };
    let [none, ratio, oracle, max] =
        ["fcfs", "fcfs reserve=ratio", "fcfs reserve=oracle", "fcfs reserve=max"].map(preemptions);
    println!("none {none:?}, ratio {ratio:?}, oracle {oracle:?}, max {max:?}");
    assert!(none.0 > 30 && ratio.0 < none.0, "none {none:?}, ratio {ratio:?}");
    assert_eq!((max.0, oracle.0), (0, 0), "all that is to come was reserved");
    assert!(oracle.1 < max.1, "reserving what is never used costs time: {oracle:?}, {max:?}");
}

/// A short question with a long answer is not let in beside one that still grows, though its first
/// step would fit: its own answer is reserved too.
#[test]
fn a_reservation_covers_the_answer_itself() {
    let record = |input, output| Record { input, output, ..Record::default() };
    let records = [record(160, 160), record(16, 300)];
    // 30 blocks of 16: the first takes 10 and will take 20, the second 1 and 20.
    let preemptions = |spec: &str| {
        let outcome = run(config(31, 8), spec, &records);
        outcome.work.totals.num_preemptions
    };
    assert!(preemptions("fcfs") > 0, "both fit, so this proves nothing");
    assert_eq!(preemptions("fcfs reserve=oracle"), 0);
    assert_eq!(preemptions("fcfs reserve=max"), 0);
}

/// Choosing who has computed least throws less away than choosing the worst rank.
#[test]
fn victims_that_have_computed_least_waste_least() {
    let mut dropped = [0, 0];
    for seed in 0..8 {
        let records = mixed_load(seed, 300, 60.0);
        for (sum, victim) in dropped.iter_mut().zip(["worst-rank", "least-computed"]) {
            let outcome = run(config(500, 32), &format!("fcfs victim={victim}"), &records);
            *sum += outcome.work.totals.num_dropped_tokens;
        }
    }
    println!("dropped by worst rank and by least computed: {dropped:?}");
    assert!(dropped[1] < dropped[0], "{dropped:?}");
}

/// With a target for the time between tokens, steps beside which somebody decodes keep to it as far
/// as decoding itself does; without a cost model the budget finds its way there.
#[test]
fn a_pace_is_held() {
    let target = Nanos(12_000_000);
    let records = mixed_load(7, 400, 12.0);
    let config = EngineConfig { max_num_batched_tokens: 2048, ..config(4000, 16) };
    let share_above = |outcome: &Outcome| {
        let gaps: Vec<_> = outcome.requests.iter().filter(|r| r.output > 1).collect();
        let above = gaps.iter().filter(|request| request.max_gap > target).count();
        above as f64 / gaps.len() as f64
    };
    let free = run(config.clone(), "fcfs", &records);
    let by_model = run(config.clone(), "fcfs tpot=12ms", &records);
    let policy = Registry::builtin().make("fcfs tpot=12ms", &PolicyContext::default()).unwrap();
    let by_trial = run_with(config, policy, &records);
    let shares = [&by_model, &by_trial, &free].map(share_above);
    println!("requests with a gap above the target: model, trial, none: {shares:?}");
    assert!(shares[0] <= 0.01, "the cost model is exact here: {shares:?}");
    assert!(shares[1] < 0.5 * shares[2] && shares[2] > 0.2, "{shares:?}");
}

// ------------------------------------------------------------------------------------ objectives

/// Share of requests that keep their objectives: a first token within a second, then 25 ms a token.
fn attainment(outcome: &Outcome) -> f64 {
    let slo = Slo { ttft: Some(Nanos(1_000_000_000)), tpot: Some(Nanos(25_000_000)), e2el: None };
    mean(outcome.requests.iter().map(|r| f64::from(u8::from(r.keeps(slo)))))
}

/// Above what can be served, planning for objectives keeps more of them than first
/// come first served does: who cannot be in time does not make the others late.
#[test]
fn slos_serve_keeps_more_objectives_than_fcfs() {
    let config = config(8000, 48);
    let rate = 1.3 * capacity(&config);
    for seed in 0..3 {
        let mut records = mixed_load(seed, 800, rate);
        for record in &mut records {
            record.slo = Slo::default();
        }
        let fcfs = attainment(&run(config.clone(), "fcfs", &records));
        let spec = "slos-serve ttft=1s tpot=25ms";
        let ours = attainment(&run(config.clone(), spec, &records));
        println!("seed {seed}: fcfs {fcfs:.3}, slos-serve {ours:.3}");
        assert!(ours > fcfs, "seed {seed}: fcfs {fcfs}, slos-serve {ours}");
    }
}

/// Best effort is not never: who was set back goes first once it has waited long enough.
#[test]
fn slos_serve_lets_nobody_wait_for_ever() {
    let config = config(4000, 16);
    let records = mixed_load(1, 500, 1.5 * capacity(&config));
    let max_wait = Nanos(2_000_000_000);
    let spec = "slos-serve ttft=200ms tpot=25ms max_wait=2s";
    let outcome = run(config, spec, &records);
    let mut num_checked = 0;
    for (index, early) in outcome.requests.iter().enumerate() {
        for late in &outcome.requests[index + 1..] {
            if started(late) >= early.times.arrival + max_wait {
                assert!(started(late) >= started(early), "{late:?} before {early:?}");
                num_checked += 1;
            }
        }
    }
    assert!(num_checked > 1000, "hardly anybody waited: {num_checked}");
}
