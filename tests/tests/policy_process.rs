//! Policies that are other programs: their order is followed one step behind, and whatever becomes
//! of them, every request is served.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc;

use folio_engine::core::{EngineCore, Turn};
use folio_engine::policy_process;
use folio_engine::sched::{
    ComplaintKind, Complaints, Decider, Limits, Policy, PolicyContext, PolicyRequest, Rank,
    Refresh, Registry, SchedEvent, Tempo, View,
};
use folio_engine::types::{
    Choice, EngineConfig, Event, EventReceiver, EventSender, ManualClock, ModelId, ModelKind,
    ModelLimits, Nanos, PrefixCaching, Request, RequestId, SamplingParams, SequenceId, Slo,
    StepPlan, Task, TenantId,
};
use folio_tests::{FingerprintExecutor, Random};

const NUM_REQUESTS: u64 = 60;

fn config() -> EngineConfig {
    EngineConfig {
        models: vec![ModelLimits { kind: ModelKind::Decoder, max_model_len: 64, vocab_size: 50 }],
        block_size: 4,
        num_blocks: 41,
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        max_num_partial_prefills: 2,
        long_prefill_token_threshold: None,
        max_queued_requests: 1000,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
    .validated()
    .unwrap()
}

fn request(id: u64, random: &mut Random, receivers: &mut Vec<EventReceiver>) -> Request {
    let max_tokens = 1 + random.below(6);
    let (events, receiver) = EventSender::channel(max_tokens);
    receivers.push(receiver);
    let mut params = SamplingParams::default();
    params.stop.max_tokens = max_tokens;
    let family = random.below(3);
    Request {
        id: RequestId(id),
        model: ModelId(0),
        prompt: (0..=random.below(40)).map(|i| if i < 12 { family } else { i }).collect(),
        task: Task::Generate(params),
        choices: vec![Choice::new(events)],
        priority: 0,
        tenant: TenantId(random.below(3)),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    }
}

/// All plans of a run in which everybody is served.
fn plans(policy: impl Into<Decider>) -> Vec<StepPlan> {
    let config = config();
    let clock = ManualClock::default();
    let executor = Box::new(FingerprintExecutor::new(&config));
    let mut core = EngineCore::new(config, policy, executor, Box::new(clock.clone()));
    let (mut random, mut receivers, mut plans) = (Random(5), Vec::new(), Vec::new());
    let mut num_turns = 0;
    while (receivers.len() as u64) < NUM_REQUESTS || !core.is_idle() {
        clock.advance(Nanos(50_000_000));
        for _ in 0..random.below(5) {
            if (receivers.len() as u64) < NUM_REQUESTS {
                let id = receivers.len() as u64;
                core.admit(request(id, &mut random, &mut receivers));
            }
        }
        if let Some(plan) = core.plan() {
            plans.push(plan.clone());
            core.submit(plan);
        }
        if let Turn::Failed(fault) = core.collect() {
            panic!("{}", fault.message);
        }
        core.scheduler().assert_consistent();
        num_turns += 1;
        assert!(num_turns < 10_000, "never idle");
    }
    for mut receiver in receivers {
        let events = std::iter::from_fn(|| receiver.try_recv().ok());
        let num_ends = events.filter(|event| matches!(event, Event::Finished { .. })).count();
        assert_eq!(num_ends, 1, "everybody is served once");
    }
    plans
}

/// What a policy has said, and how often.
struct Heard {
    complaints: Complaints,
    said: mpsc::Receiver<String>,
}

fn process(spec: &str, tempo: Tempo) -> (Decider, Heard) {
    let (say, said) = mpsc::channel();
    let complaints = Complaints::new(move |text| drop(say.send(text.to_owned())));
    let mut registry = Registry::builtin();
    policy_process::register(&mut registry);
    let context = PolicyContext { tempo, complaints: complaints.clone(), ..Default::default() };
    let policy = registry.make(spec, &context).unwrap_or_else(|error| panic!("{error}"));
    (policy, Heard { complaints, said })
}

fn example(name: &str) -> String {
    let root: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "server", "examples", name].iter().collect();
    root.display().to_string()
}

/// Shortest prompt first, told one step late: what a process can do at the best.
#[derive(Default)]
struct Late {
    news: Vec<(SequenceId, f64)>,
    known: HashMap<SequenceId, f64>,
}

impl Policy for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(self.known.get(&request.id()).copied().unwrap_or(f64::INFINITY), 0.0)
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        self.known.extend(self.news.drain(..));
        view.defaults()
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        if let SchedEvent::Arrived(id) = *event {
            let request = view.request(id).unwrap();
            let seconds = request.arrival().0 as f64 / 1e9;
            self.news.push((id, f64::from(request.prompt_len()) + 200.0 * seconds));
        }
    }
}

#[test]
fn a_program_decides_like_the_policy_that_it_spells_out() {
    let spec = format!("process: python3 {}", example("shortest_first.py"));
    let (policy, heard) = process(&spec, Tempo::Simulated);
    let by_process = plans(policy);
    assert_eq!(heard.said.try_recv().ok(), None);
    let late: Box<dyn Policy> = Box::<Late>::default();
    assert_eq!(by_process, plans(late), "decision for decision");
    let fcfs = Registry::builtin().make("fcfs", &PolicyContext::default()).unwrap();
    assert_ne!(by_process, plans(fcfs), "the order matters here");
    let (again, _) = process(&spec, Tempo::Simulated);
    assert_eq!(by_process, plans(again), "runs are alike");
}

#[test]
fn the_example_with_numpy_orders_by_tenant_and_cache() {
    let python = example("../../.cache/ray/bin/python");
    let has_numpy = std::process::Command::new(&python).args(["-c", "import numpy"]).status();
    if !has_numpy.is_ok_and(|status| status.success()) {
        println!("not run: {python} has no numpy; scripts/test installs it");
        return;
    }
    let spec = format!("process: cached=on {python} {}", example("policy.py"));
    let (policy, heard) = process(&spec, Tempo::Simulated);
    let by_process = plans(policy);
    assert_eq!(heard.said.try_recv().ok(), None);
    let fcfs = Registry::builtin().make("fcfs", &PolicyContext::default()).unwrap();
    assert_ne!(by_process, plans(fcfs), "the order matters here");
}

/// Whatever a program does wrong: what is said, once, and everybody is served in order of arrival.
#[test]
fn a_program_that_fails_is_said_once_and_not_waited_for() {
    let fcfs = || Registry::builtin().make("fcfs", &PolicyContext::default()).unwrap();
    let by_arrival = plans(fcfs());
    for (command, kind, message) in [
        ("true", ComplaintKind::Ended, "it ended (exit status: 0) at step 1: first come, first"),
        ("sh -c 'read a; read b; exit 3'", ComplaintKind::Ended, "(exit status: 3) at step"),
        ("sh -c 'kill -9 $$'", ComplaintKind::Ended, "signal: 9"),
        (
            "cat",
            ComplaintKind::Nonsense,
            "the answer to step 1 is of no use: unknown field `protocol`",
        ),
        ("yes", ComplaintKind::Nonsense, "expected value at line 1 column 1, in \"y\\n\""),
        (
            "stall=50ms sleep 1000",
            ComplaintKind::Ended,
            "no answer for 50ms at step 1: first come, first served from now on",
        ),
    ] {
        let (policy, heard) = process(&format!("process: {command}"), Tempo::Simulated);
        assert_eq!(plans(policy), by_arrival, "{command}");
        let said: Vec<_> = heard.said.try_iter().collect();
        // One that does not read is given up in the end, too.
        assert!(said.len() == 1 || command == "yes", "{command}: {said:?}");
        assert!(said[0].contains(message), "{command}: {said:?}");
        assert!(heard.complaints.num(kind) > 0, "{command}");
    }
}

/// Live, a program that never answers costs one wait, not one a step.
#[test]
fn a_slow_program_is_waited_for_once() {
    let spec = "process: deadline=1ms stall=1s sleep 1000";
    let (policy, heard) = process(spec, Tempo::Live);
    let fcfs = Registry::builtin().make("fcfs", &PolicyContext::default()).unwrap();
    assert_eq!(plans(policy), plans(fcfs));
    let said: Vec<_> = heard.said.try_iter().collect();
    assert!(said[0].contains("no answer to step 1 within 1ms"), "{said:?}");
    assert!(said[1].contains("no answer for 1s at step 1"), "{said:?}");
    assert_eq!(heard.complaints.num(ComplaintKind::Late), 1);
    assert_eq!(heard.complaints.num(ComplaintKind::Ended), 1);
}

#[test]
fn an_answer_about_nobody_is_of_no_use() {
    let script = r#"process: python3 -c 'import json, sys; sys.stdin.readline()
for line in sys.stdin:
    answer = {"step": json.loads(line)["step"], "order": [999]}
    print(json.dumps(answer), flush=True)'"#;
    let (policy, heard) = process(script, Tempo::Simulated);
    let fcfs = Registry::builtin().make("fcfs", &PolicyContext::default()).unwrap();
    assert_eq!(plans(policy), plans(fcfs));
    let said: Vec<_> = heard.said.try_iter().collect();
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("it names sequence 999, which was never there"), "{said:?}");
}
