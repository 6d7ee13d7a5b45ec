//! How well a wait in the queue is foretold, on a virtual clock: the expectation that a request is
//! given when it arrives, against what it then waits; and the time until there is room, against
//! when there was.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_engine::core::{EngineCore, Turn};
use folio_engine::drain::{DrainMeter, Work};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, Clock as _, EngineConfig, Event, EventReceiver, EventSender, FinishReason, ManualClock,
    ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching, Request, RequestId, SamplingParams, Slo,
    StopConditions, Task, TenantId, TokenId,
};
use folio_tests::{FingerprintExecutor, Random};

const SECOND: u64 = 1_000_000_000;

/// What limits how fast the queue drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Few may run, and answers are long.
    Seats,
    /// Many may run; prompts are long and answers short.
    Tokens,
}

struct Simulation {
    core: EngineCore,
    clock: ManualClock,
    meter: DrainMeter,
    random: Random,
    load: Load,
    receivers: Vec<EventReceiver>,
    num_arrived: u64,
}

impl Simulation {
    fn new(load: Load, seed: u64) -> Self {
        let model = ModelLimits { kind: ModelKind::Decoder, max_model_len: 600, vocab_size: 1000 };
        let config = EngineConfig {
            models: vec![model],
            block_size: 16,
            num_blocks: 4000,
            max_num_seqs: if load == Load::Seats { 8 } else { 64 },
            max_num_batched_tokens: 256,
            max_num_partial_prefills: 4,
            long_prefill_token_threshold: None,
            max_queued_requests: 100_000,
            prefix_caching: PrefixCaching::Off,
            num_host_blocks: 0,
        };
        let config = config.validated().unwrap();
        let clock = ManualClock::default();
        let executor = Box::new(FingerprintExecutor::new(&config));
        let core = EngineCore::new(config, Box::new(Fcfs), executor, Box::new(clock.clone()));
        Self {
            core,
            clock,
            meter: DrainMeter::default(),
            random: Random(seed),
            load,
            receivers: Vec::new(),
            num_arrived: 0,
        }
    }

    fn queued(&self) -> Work {
        let gauges = self.core.gauges();
        let num_choices = u64::from(gauges.num_waiting);
        Work { num_choices, num_tokens: gauges.num_waiting_tokens }
    }

    fn arrive(&mut self) {
        let (prompt, answer) = match self.load {
            Load::Seats => (1 + self.random.below(60), 20 + self.random.below(80)),
            Load::Tokens => (50 + self.random.below(400), 1 + self.random.below(6)),
        };
        let (events, receiver) = EventSender::channel(answer);
        self.receivers.push(receiver);
        let prompt = (0..prompt).map(|_| self.random.below(1000)).collect::<Vec<TokenId>>();
        let stop = StopConditions { max_tokens: answer, ..StopConditions::default() };
        let request = Request {
            id: RequestId(self.num_arrived),
            model: ModelId(0),
            prompt,
            task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
            choices: vec![Choice::new(events)],
            priority: 0,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        };
        self.num_arrived += 1;
        let expected = self.meter.rate().expected_wait(self.queued(), self.clock.now());
        self.core.admit_expecting(request, expected);
    }

    /// A step of ten milliseconds and a tenth for each token.
    fn step(&mut self) {
        let plan = self.core.plan();
        self.measure();
        let Some(plan) = plan else { return };
        self.clock.advance(Nanos(10_000_000 + 100_000 * u64::from(plan.num_tokens())));
        self.core.submit(plan);
        assert!(matches!(self.core.collect(), Turn::Stepped(_)));
        self.measure();
    }

    /// What the engine's thread does after a plan and after a step.
    fn measure(&mut self) {
        let gauges = self.core.gauges();
        let queue = gauges.totals.queue;
        let started = Work { num_choices: queue.num_started, num_tokens: queue.num_started_tokens };
        self.meter.update(started, gauges.num_waiting > 0, self.clock.now());
    }

    /// Keeps about `num` requests waiting until `num_arrivals` have come.
    fn run(&mut self, num: u32, num_arrivals: u64) {
        while self.num_arrived < num_arrivals {
            let wanted = num / 2 + self.random.below(num);
            while self.core.gauges().num_waiting < wanted {
                self.arrive();
            }
            self.step();
        }
    }

    /// Seconds that each request, in the order of arrival, was expected to wait and waited.
    fn waits(&mut self) -> Vec<(f64, f64)> {
        while !self.core.is_idle() {
            self.step();
        }
        let wait = |mut receiver: EventReceiver| {
            let end = std::iter::from_fn(|| receiver.try_recv().ok()).last();
            let Some(Event::Finished { reason: FinishReason::Length, stats }) = end else {
                panic!("{end:?}")
            };
            let waited = stats.first_scheduled.unwrap().since(stats.arrival);
            (stats.expected_wait.as_secs_f64(), waited.as_secs_f64())
        };
        std::mem::take(&mut self.receivers).into_iter().map(wait).collect()
    }
}

/// Under steady load nine in ten are right within a factor of two, and all together within a
/// quarter.
#[test]
fn under_steady_load_the_expected_wait_is_right_within_a_factor() {
    for load in [Load::Seats, Load::Tokens] {
        for seed in 0..5 {
            let mut simulation = Simulation::new(load, seed);
            simulation.run(40, 800);
            let waits = simulation.waits();
            // The first ones arrive before anything is measured.
            let steady = &waits[200..];
            let is_right = |&&(expected, waited): &&(f64, f64)| {
                waited < 2.0 * expected && expected < 2.0 * waited
            };
            let num_right = steady.iter().filter(is_right).count();
            let (expected, waited) =
                steady.iter().fold((0.0, 0.0), |sum, wait| (sum.0 + wait.0, sum.1 + wait.1));
            let num = steady.len();
            println!(
                "{load:?}, seed {seed}: {num_right} of {num} within a factor of two; \
                 {:.2} s expected, {:.2} s waited on average",
                expected / num as f64,
                waited / num as f64
            );
            assert!(10 * num_right >= 9 * num, "{num_right} of {num}");
            assert!((0.75..1.25).contains(&(expected / waited)), "{expected} against {waited}");
        }
    }
}

/// A client that comes back when it was told to finds room, or has to wait half as long again at
/// the most.
#[test]
fn there_is_room_about_when_a_refused_request_is_told() {
    for load in [Load::Seats, Load::Tokens] {
        for seed in 0..5 {
            let mut simulation = Simulation::new(load, seed);
            simulation.run(40, 400);
            // Twenty of those that wait must leave, and nobody comes.
            let queued = simulation.queued();
            let excess = Work { num_choices: 20, num_tokens: 0 };
            let began = simulation.clock.now();
            let told = simulation.meter.rate().time_for(excess, began).unwrap();
            let limit = queued.less(excess).num_choices;
            while simulation.queued().num_choices > limit {
                simulation.step();
            }
            let took = simulation.clock.now().since(began);
            let ratio = took.as_secs_f64() / told.as_secs_f64();
            println!("{load:?}, seed {seed}: told {told:?}, took {took:?}");
            assert!((0.5..1.5).contains(&ratio), "told {told:?}, took {took:?}");
        }
    }
}

#[test]
fn a_queue_that_stands_still_is_told_to_take_ever_longer() {
    let mut simulation = Simulation::new(Load::Seats, 7);
    simulation.run(40, 200);
    let excess = Work { num_choices: 1, num_tokens: 0 };
    let rate = simulation.meter.rate();
    let mut last = Nanos(0);
    for minute in 0..10 {
        let now = simulation.clock.now() + Nanos(60 * SECOND * minute);
        let told = rate.time_for(excess, now).unwrap();
        assert!(told > last, "{told:?} after {last:?}");
        last = told;
    }
    assert!(last > Nanos(SECOND), "{last:?}");
}
