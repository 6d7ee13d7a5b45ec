//! What the decision log promises: whatever happened can be made to happen again, bit for bit.
//!
//! Random loads run through the engine's core with its log on: shared prompts, answers that become
//! prompts, several choices, grammars, cancellations, deadlines, tiny pools, swapping, several
//! steps in flight, failures. Then the log is read back and replayed.
#![allow(clippy::print_stdout, reason = "the seed of a failing run")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use folio_engine::core::{EngineCore, Turn};
use folio_engine::decisions::{Disguise, Entry, Header, LogError, LogFile, LogLimits, LogReader};
use folio_engine::exec::Executor;
use folio_engine::sched::decisions::{Call, Decision, Ending, Input};
use folio_engine::sched::{
    Admit, Decider, Displacement, Limits, Policy, PolicyContext, PolicyRequest, PreemptionMode,
    Rank, Refresh, Registry, Sequences, Victim, View,
};
use folio_engine::types::{
    CacheSalt, Choice, Clock as _, Continuation, EngineConfig, Error, Event, EventReceiver,
    EventSender, GrammarError, LogitsProcessor, ManualClock, ModelId, ModelKind, ModelLimits,
    Nanos, PrefixCaching, Request, RequestId, Result, SampledToken, SamplingParams, SeqResult,
    SequenceId, Slo, StepOutput, StepPlan, StopConditions, Task, TenantId, TokenGrammar, TokenId,
};
use folio_sim::replay::{Replay, ReplayEnd, replay};

/// Numbers that a seed determines.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed >> 33) as u32) % limit
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

const VOCAB: u32 = 12;

/// Computes nothing and samples at random.
struct Device {
    random: Random,
    max_in_flight: usize,
    /// One in so many steps fails; 0 for none.
    faults: u32,
    in_flight: VecDeque<StepPlan>,
    encoders: Vec<bool>,
}

impl Executor for Device {
    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    fn submit(&mut self, plan: &StepPlan, _: &mut Sequences) -> Result<()> {
        if self.faults > 0 && self.random.one_in(2 * self.faults) {
            return Err(Error::Device("refused".into()));
        }
        self.in_flight.push_back(plan.clone());
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let plan = self.in_flight.pop_front().expect("a step in flight");
        if self.faults > 0 && self.random.one_in(2 * self.faults) {
            return Err(Error::Device("lost".into()));
        }
        let results = plan.seqs.iter().map(|row| {
            if row.emits && self.faults > 0 && self.random.one_in(60) {
                SeqResult::Failed("not finite".into())
            } else if self.encoders[row.model.index()] {
                SeqResult::Embedding(vec![1.0])
            } else if row.emits {
                SeqResult::Token(SampledToken { id: self.random.below(VOCAB), logprobs: None })
            } else {
                SeqResult::Computed
            }
        });
        let results = results.collect();
        let device_time = Nanos(500 + u64::from(self.random.below(300)));
        Ok(StepOutput { results, device_time, ..Default::default() })
    }
}

/// A grammar that ends or breaks at random.
struct Whim(Random);

impl TokenGrammar for Whim {
    fn mask(&mut self) -> std::result::Result<&[u32], GrammarError> {
        Ok(&[u32::MAX])
    }

    fn accept(&mut self, _: TokenId) -> std::result::Result<Continuation, GrammarError> {
        match self.0.below(12) {
            0 => Ok(Continuation::Complete),
            1 => Err(GrammarError("no way on".into())),
            _ => Ok(Continuation::Open),
        }
    }
}

struct Onlooker;

impl LogitsProcessor for Onlooker {
    fn process(&mut self, _: &[TokenId], _: &mut [f32]) {}
}

/// Answers at random, the same for a seed.
struct Adversary(Random);

impl Policy for Adversary {
    fn name(&self) -> &'static str {
        "adversary"
    }

    fn rank(&mut self, _: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(f64::from(self.0.below(8)), f64::from(self.0.below(100)))
    }

    fn refresh(&self) -> Refresh {
        [Refresh::OnArrival, Refresh::OnTenantEvent, Refresh::EveryStep][self.0.0 as usize % 3]
    }

    fn displacement(&self) -> Displacement {
        if self.0.0 & 64 == 0 { Displacement::ByRank } else { Displacement::Never }
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        Limits {
            token_budget: self.0.below(40),
            chunk: self.0.below(9),
            max_partial_prefills: self.0.below(3),
            max_running: self.0.below(9),
            watermark_blocks: self.0.below(view.kv().num_blocks * 2),
        }
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        let _ = view.num_cached_tokens(request);
        match self.0.below(8) {
            0 => Admit::Skip,
            1 => Admit::Stop,
            2 if self.0.one_in(6) => Admit::Reject,
            _ => Admit::Now { reserve_tokens: self.0.below(30) },
        }
    }

    fn victim(&mut self, candidates: &[SequenceId], _: &View<'_>) -> Option<Victim> {
        let modes = [PreemptionMode::Recompute, PreemptionMode::Swap];
        let mode = modes[self.0.below(2) as usize];
        let pick = self.0.below(candidates.len() as u32) as usize;
        Some(Victim { id: candidates[pick], mode })
    }
}

/// Prefers the prompt of which most is cached.
struct Cached;

impl Policy for Cached {
    fn name(&self) -> &'static str {
        "cached"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        Rank(-f64::from(view.num_cached_tokens(request)), 0.0)
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }
}

fn policy(spec: &str) -> Decider {
    match spec.split_once(' ') {
        Some(("adversary", seed)) => Box::new(Adversary(Random(seed.parse().unwrap()))).into(),
        _ if spec == "cached" => Box::new(Cached).into(),
        _ => Registry::builtin().make(spec, &PolicyContext::default()).unwrap(),
    }
}

fn random_config(random: &mut Random) -> EngineConfig {
    let decoder = ModelLimits { kind: ModelKind::Decoder, max_model_len: 96, vocab_size: VOCAB };
    let encoder = ModelLimits { kind: ModelKind::Encoder, max_model_len: 24, vocab_size: VOCAB };
    let max_num_seqs = 1 + random.below(8);
    EngineConfig {
        models: vec![decoder, encoder],
        block_size: 1 + random.below(6),
        num_blocks: 12 + random.below(40),
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + 24 + random.below(40),
        max_num_partial_prefills: 1 + random.below(3),
        long_prefill_token_threshold: random.one_in(2).then(|| 1 + random.below(12)),
        max_queued_requests: 1000,
        prefix_caching: if random.one_in(4) { PrefixCaching::Off } else { PrefixCaching::On },
        num_host_blocks: [0, 1 + random.below(20), 1000][random.below(3) as usize],
    }
}

/// How a load is.
#[derive(Clone, Copy)]
struct Load<'a> {
    policy: &'a str,
    max_in_flight: usize,
    faults: u32,
    num_requests: u64,
    /// What decides after the first half of the requests, if anything else.
    then: Option<&'a str>,
}

/// A run with its log on.
struct Run<'a> {
    random: Random,
    load: Load<'a>,
    config: EngineConfig,
    core: EngineCore,
    clock: ManualClock,
    /// Where events arrive, with the text so far.
    receivers: Vec<(Vec<TokenId>, EventReceiver)>,
    /// Texts of the past, which may be the beginnings of prompts.
    texts: Vec<Vec<TokenId>>,
    num_sent: u64,
    calls: Vec<Call>,
}

impl<'a> Run<'a> {
    fn new(seed: u64, load: Load<'a>) -> (Self, String) {
        let mut random = Random(seed);
        let config = random_config(&mut random).validated().unwrap();
        let spec = match load.policy {
            "adversary" => format!("adversary {seed}"),
            other => other.to_owned(),
        };
        let clock = ManualClock::default();
        let device = device(&config, seed, load);
        let mut core =
            EngineCore::new(config.clone(), policy(&spec), device, Box::new(clock.clone()));
        core.record_decisions();
        let run = Self {
            random,
            load,
            config,
            core,
            clock,
            receivers: Vec::new(),
            texts: vec![vec![1; 40], vec![2; 40]],
            num_sent: 0,
            calls: Vec::new(),
        };
        (run, spec)
    }

    fn send(&mut self) {
        let random = &mut self.random;
        let is_encoder = random.one_in(4);
        let most = if is_encoder { 24 } else { 60.min(self.config.kv_capacity_tokens() - 1) };
        let text = &self.texts[random.below(self.texts.len() as u32) as usize];
        let mut prompt = text[..(random.below(text.len() as u32 + 1) as usize)].to_vec();
        let num_new = random.below(12) + 1;
        prompt.extend((0..num_new).map(|_| random.below(VOCAB)));
        prompt.truncate(most as usize);
        let room = self.config.kv_capacity_tokens().saturating_sub(prompt.len() as u32);
        let max_tokens = (1 + random.below(14)).min(room.max(1));
        self.texts.push(prompt.clone());
        let num_choices = if is_encoder { 1 } else { 1 + random.below(3) * random.below(2) };
        let mut choices = Vec::new();
        for _ in 0..num_choices {
            let (events, receiver) = EventSender::channel(max_tokens);
            self.receivers.push((prompt.clone(), receiver));
            let mut choice = Choice::new(events);
            if random.one_in(6) && !is_encoder {
                choice.processors.push(Box::new(Onlooker));
            }
            if random.one_in(6) && !is_encoder {
                choice.grammar = Some(Box::new(Whim(Random(u64::from(random.below(1000))))));
            }
            choices.push(choice);
        }
        let stop = StopConditions { max_tokens, min_tokens: 0, token_ids: vec![3] };
        let task = if is_encoder {
            Task::Embed
        } else {
            Task::Generate(SamplingParams { stop, ..SamplingParams::default() })
        };
        let wait = Nanos(1000 * u64::from(1 + random.below(60)));
        self.core.admit(Request {
            id: RequestId(self.num_sent),
            model: ModelId(u32::from(is_encoder)),
            prompt,
            task,
            choices,
            priority: random.below(4) as i32,
            tenant: TenantId(random.below(3)),
            deadline: random.one_in(5).then(|| self.clock.now() + wait),
            slo: Slo::default(),
            cache_salt: random.one_in(5).then_some(CacheSalt(9)),
        });
        self.num_sent += 1;
    }

    fn turn(&mut self) {
        self.clock.advance(Nanos(u64::from(1 + self.random.below(1500))));
        if let Turn::Failed(_) = self.core.step() {
            let seed = u64::from(self.random.below(1 << 20));
            self.core.restore(device(&self.config, seed, self.load));
        }
        // Answers become prompts: what was computed for them can be found again.
        for (text, receiver) in &mut self.receivers {
            while let Ok(event) = receiver.try_recv() {
                if let Event::Token(token) = event {
                    text.push(token.id);
                }
            }
        }
        if let Some((text, _)) = self.receivers.last() {
            self.texts.push(text.clone());
        }
        if self.random.one_in(7) && !self.receivers.is_empty() {
            let index = self.random.below(self.receivers.len() as u32) as usize;
            self.receivers.swap_remove(index);
        }
        self.calls.extend(self.core.take_decisions());
    }

    fn carry_out(mut self) -> Vec<Call> {
        let mut num_turns = 0;
        while self.num_sent < self.load.num_requests || !self.core.is_idle() {
            if self.num_sent < self.load.num_requests {
                (0..self.random.below(4)).for_each(|_| self.send());
            }
            if let Some(then) =
                self.load.then.filter(|_| self.num_sent > self.load.num_requests / 2)
            {
                self.core.switch_policy(policy(then), then).unwrap();
                self.load.then = None;
            }
            self.turn();
            num_turns += 1;
            assert!(num_turns < 400 * self.load.num_requests, "no end in sight");
        }
        self.calls
    }
}

fn device(config: &EngineConfig, seed: u64, load: Load<'_>) -> Box<dyn Executor> {
    Box::new(Device {
        random: Random(seed ^ 0x5eed),
        max_in_flight: load.max_in_flight,
        faults: load.faults,
        in_flight: VecDeque::new(),
        encoders: config.models.iter().map(|model| model.kind.is_encoder()).collect(),
    })
}

/// A path that no other test uses.
fn path(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("replay-{name}.log"))
}

fn header(spec: &str, config: &EngineConfig) -> Header {
    Header::new(spec, config.clone(), &["chat".to_owned(), "texts".to_owned()])
}

/// Writes `calls` as a log.
fn write(path: &Path, header: Header, calls: &[Call], limits: LogLimits) {
    let disguise = Disguise::secret(&header.engine);
    let mut file = LogFile::create(path, header, disguise, limits).unwrap();
    for calls in calls.chunks(17) {
        file.write(calls.to_vec()).unwrap();
        file.flush().unwrap();
    }
}

fn replay_file(path: &Path) -> Replay {
    let log = LogReader::open(path).unwrap();
    replay(log, &mut |_, spec| Ok(policy(spec))).unwrap()
}

const NO_LIMIT: LogLimits = LogLimits { max_bytes: None };

/// Runs, writes and replays; returns the calls for a look at what was exercised.
fn check(name: &str, seed: u64, load: Load<'_>) -> Vec<Call> {
    println!("{name}, seed {seed}");
    let (run, spec) = Run::new(seed, load);
    let header = header(&spec, &run.config);
    let calls = run.carry_out();
    let path = path(name);
    write(&path, header, &calls, NO_LIMIT);
    let replay = replay_file(&path);
    if let ReplayEnd::Differs(difference) = &replay.end {
        panic!("{name}, seed {seed}: {difference}");
    }
    assert!(matches!(replay.end, ReplayEnd::Complete), "{name}, seed {seed}: {:?}", replay.end);
    assert_eq!(replay.num_calls, calls.len() as u64);
    calls
}

/// Counts what happened, so that a test knows that it tested something.
fn count(calls: &[Call]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        let input = match &call.input {
            Input::Arrival(_) => "arrivals",
            Input::Plan => "plans",
            Input::Commit { .. } => "commits",
            Input::Reset { .. } => "resets",
            Input::Policy { .. } => "switched",
            _ => "others",
        };
        *counts.entry(input).or_default() += 1;
        for decision in &call.decisions {
            let decision = match decision {
                Decision::Admitted { num_cached_tokens: 1.., .. } => "admitted with a prefix",
                Decision::Preempted(_) => "preempted",
                Decision::Held { .. } => "held",
                Decision::Blocked { .. } => "blocked",
                Decision::PutOff => "put off",
                Decision::Ended { end: Ending::Cancelled(_), .. } => "cancelled",
                Decision::Ended { end: Ending::Deadline, .. } => "expired",
                Decision::Ended { end: Ending::Complete | Ending::Failed(_), .. } => "by grammar",
                Decision::Ended { end: Ending::Stop, .. } => "stopped",
                Decision::Planned(plan) if plan.moves.num_swapped_in > 0 => "swapped in",
                Decision::Planned(plan) if plan.rows.iter().any(|row| row.is_ahead) => "ahead",
                _ => continue,
            };
            *counts.entry(decision).or_default() += 1;
        }
    }
    counts
}

fn check_seeds(name: &str, num_seeds: u64, load: Load<'_>, must_happen: &[&str]) {
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..num_seeds {
        for (what, num) in count(&check(name, seed, load)) {
            *total.entry(what).or_default() += num;
        }
    }
    println!("{total:?}");
    let rare: Vec<_> = must_happen.iter().filter(|what| total.get(*what) < Some(&20)).collect();
    assert!(rare.is_empty(), "{rare:?} hardly ever happened: {total:?}");
}

const USUAL: [&str; 9] = [
    "admitted with a prefix",
    "preempted",
    "held",
    "blocked",
    "cancelled",
    "expired",
    "by grammar",
    "stopped",
    "swapped in",
];

#[test]
fn every_decision_of_a_run_is_made_again() {
    for policy in ["fcfs", "priority", "cached", "adversary"] {
        let load = Load { policy, max_in_flight: 1, faults: 0, num_requests: 60, then: None };
        check_seeds(policy, 60, load, &USUAL);
    }
}

#[test]
fn so_is_every_decision_ahead_of_the_device() {
    let must_happen = [&USUAL[..], &["ahead", "put off"]].concat();
    for (policy, max_in_flight) in [("fcfs", 2), ("cached", 2), ("adversary", 2), ("fcfs", 3)] {
        let load = Load { policy, max_in_flight, faults: 0, num_requests: 60, then: None };
        check_seeds(&format!("{policy}-{max_in_flight}"), 60, load, &must_happen);
    }
}

#[test]
fn so_is_every_decision_of_every_policy() {
    let registry = Registry::builtin();
    let names = registry.names().filter(|name| !name.contains(':'));
    let mut specs: Vec<String> = names.collect();
    assert!(specs.len() > 5, "{specs:?}");
    specs.extend(
        [
            "expr: prompt - 10 * waited_s",
            "fcfs victim=least-computed",
            "sjf reserve=ratio:0.3",
            "srpt predictor=histogram victim=fewest-outputs",
            "vtc victim=worst-rank tpot=1ms",
        ]
        .map(str::to_owned),
    );
    for spec in &specs {
        for max_in_flight in [1, 2] {
            let load =
                Load { policy: spec, max_in_flight, faults: 0, num_requests: 60, then: None };
            let must_happen = ["admitted with a prefix", "held", "blocked", "cancelled"];
            check_seeds(&format!("each-{max_in_flight}"), 20, load, &must_happen);
        }
    }
}

#[test]
fn so_is_every_decision_after_a_switch_of_policies() {
    for (policy, then) in [("fcfs", "vtc"), ("vtc", "priority"), ("lpm", "srpt"), ("mlfq", "sjf")] {
        let load = Load { policy, max_in_flight: 2, faults: 0, num_requests: 60, then: Some(then) };
        check_seeds("switch", 20, load, &["preempted", "switched"]);
    }
}

#[test]
fn so_is_what_follows_a_failure() {
    for (policy, max_in_flight) in [("fcfs", 1), ("adversary", 2)] {
        let load = Load { policy, max_in_flight, faults: 25, num_requests: 60, then: None };
        check_seeds(&format!("{policy}-{max_in_flight}-faults"), 40, load, &["resets"]);
    }
}

/// A run with everything in it, and its header.
fn sample(seed: u64) -> (Vec<Call>, Header) {
    let load =
        Load { policy: "priority", max_in_flight: 2, faults: 0, num_requests: 40, then: None };
    let (run, spec) = Run::new(seed, load);
    let header = header(&spec, &run.config);
    (run.carry_out(), header)
}

#[test]
fn a_planted_difference_is_found_where_it_is() {
    for seed in 0..20 {
        println!("seed {seed}");
        let (mut calls, header) = sample(seed);
        let plans = calls.iter().enumerate().filter_map(|(index, call)| {
            let is_planned = |decision: &Decision| {
                matches!(decision, Decision::Planned(plan) if plan.rows.len() > 1)
            };
            Some((index, call.decisions.iter().position(is_planned)?))
        });
        let plans: Vec<_> = plans.collect();
        let (index, position) = plans[plans.len() / 2];
        let Decision::Planned(plan) = &mut calls[index].decisions[position] else { panic!() };
        plan.rows.swap(0, 1);
        let path = path("planted");
        write(&path, header, &calls, NO_LIMIT);
        let replay = replay_file(&path);
        let ReplayEnd::Differs(difference) = replay.end else { panic!("{:?}", replay.end) };
        assert_eq!((difference.call, difference.num_equal), (index as u64, position));
        let text = difference.to_string();
        assert!(text.contains("row 1 of the step differs"), "{text}");
    }
}

#[test]
fn another_policy_decides_otherwise_and_that_is_found() {
    let (calls, header) = sample(3);
    let path = path("other");
    write(&path, header, &calls, NO_LIMIT);
    let log = LogReader::open(&path).unwrap();
    let replay = replay(log, &mut |_, _| Ok(policy("fcfs"))).unwrap();
    assert!(matches!(replay.end, ReplayEnd::Differs(_)), "{:?}", replay.end);
}

/// The calls of a log, and what ended it.
fn read(path: &Path) -> (Vec<Call>, Option<LogError>) {
    let (mut calls, mut error) = (Vec::new(), None);
    for entry in LogReader::open(path).unwrap() {
        match entry {
            Ok(Entry::Call(call)) => calls.push(*call),
            Ok(_) => {}
            Err(broken) => error = Some(broken),
        }
    }
    (calls, error)
}

#[test]
fn what_is_read_is_what_was_written_less_the_texts() {
    let (calls, header) = sample(5);
    let path = path("read");
    let mut disguise = Disguise::reproducible(&header.engine);
    let mut file =
        LogFile::create(&path, header.clone(), Disguise::reproducible(&header.engine), NO_LIMIT)
            .unwrap();
    file.write(calls.clone()).unwrap();
    file.flush().unwrap();
    let expected: Vec<_> = calls
        .into_iter()
        .map(|mut call| {
            disguise.apply(&mut call);
            call
        })
        .collect();
    let (found, error) = read(&path);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(found, expected);
}

#[test]
fn no_token_of_a_text_is_in_the_log() {
    let (mut calls, header) = sample(6);
    // Texts of a secret that could be found if it were there.
    for call in &mut calls {
        if let Input::Arrival(arrival) = &mut call.input {
            arrival.prompt.iter_mut().for_each(|token| *token = 0x0bad_cafe);
        }
    }
    let path = path("secret");
    write(&path, header, &calls, NO_LIMIT);
    for call in read(&path).0 {
        if let Input::Arrival(arrival) = call.input {
            assert!(!arrival.prompt.contains(&0x0bad_cafe), "{arrival:?}");
        }
    }
}

#[test]
fn a_log_that_is_cut_off_is_read_to_its_last_whole_frame() {
    let (calls, header) = sample(7);
    let path = path("cut");
    write(&path, header, &calls, NO_LIMIT);
    let (all, _) = read(&path);
    let bytes = std::fs::read(&path).unwrap();
    let mut random = Random(7);
    let mut num_read = Vec::new();
    for _ in 0..40 {
        let len = bytes.len() / 2 + random.below(bytes.len() as u32 / 2) as usize;
        std::fs::write(&path, &bytes[..len]).unwrap();
        let (calls, error) = read(&path);
        assert_eq!(calls, all[..calls.len()]);
        match error {
            Some(LogError::CutOff { offset }) => assert!(offset <= len as u64),
            other => assert!(calls.len() < all.len() && other.is_none(), "{other:?}"),
        }
        num_read.push(calls.len());
    }
    assert!(num_read.iter().any(|&num| num > 0), "nothing was ever read");
}

#[test]
fn whatever_byte_is_changed_is_noticed_or_harmless_and_never_a_panic() {
    let (calls, header) = sample(8);
    let path = path("damaged");
    write(&path, header, &calls, NO_LIMIT);
    let bytes = std::fs::read(&path).unwrap();
    let (all, _) = read(&path);
    let mut random = Random(8);
    for round in 0..200 {
        let place = random.below(bytes.len() as u32) as usize;
        let mut changed = bytes.clone();
        changed[place] ^= 1 << random.below(8);
        std::fs::write(&path, &changed).unwrap();
        match LogReader::open(&path) {
            Err(error) => println!("round {round}, byte {place}: {error}"),
            Ok(log) => {
                let entries: Vec<_> = log.collect();
                let is_noticed = entries.last().is_some_and(std::result::Result::is_err);
                assert!(is_noticed, "byte {place} of {}", changed.len());
                assert!(entries.len() <= all.len() + 1);
            }
        }
    }
}

#[test]
fn what_is_no_log_is_told_so_with_the_place() {
    let path = path("foreign");
    for (content, expected) in [
        (&b""[..], "byte 0: not a decision log of folio"),
        (b"{\"some\": \"json\"}", "byte 0: not a decision log of folio"),
        (b"folio decision log 99\n", "byte 19: version \"99\" of the decision log"),
        (b"folio decision log 1\n", "byte 21: the log was cut off here"),
        (b"folio decision log 1\n\0\0\0\0\0\0\0\0", "byte 21: the log is damaged: a frame of 0"),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = LogReader::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_full_log_goes_on_in_another_file_that_knows_who_is_there() {
    let load = Load { policy: "fcfs", max_in_flight: 1, faults: 0, num_requests: 400, then: None };
    let (run, spec) = Run::new(11, load);
    let header = header(&spec, &run.config);
    let path = path("rotated");
    write(&path, header, &run.carry_out(), LogLimits { max_bytes: Some(40_000) });
    let mut log = LogReader::open(&path).unwrap();
    assert!(log.header().continues);
    let error = replay(LogReader::open(&path).unwrap(), &mut |_, spec| Ok(policy(spec)));
    assert!(error.unwrap_err().to_string().contains("FILE.1"));
    let mut known = std::collections::HashSet::new();
    for entry in log.by_ref() {
        let call = match entry.unwrap() {
            Entry::Carried { arrival, .. } => {
                known.extend((0..arrival.num_choices).map(|n| arrival.first.0 + u64::from(n)));
                continue;
            }
            Entry::Call(call) => call,
            Entry::Label { .. } => continue,
        };
        if let Input::Arrival(arrival) = &call.input {
            known.extend((0..arrival.num_choices).map(|n| arrival.first.0 + u64::from(n)));
        }
        for decision in &call.decisions {
            if let Decision::Planned(plan) = decision {
                assert!(plan.rows.iter().all(|row| known.contains(&row.id.0)), "{plan:?}");
            }
        }
    }
    let mut old = path.into_os_string();
    old.push(".1");
    let size = std::fs::metadata(old).unwrap().len();
    assert!((20_000..26_000).contains(&size), "{size} bytes");
}
