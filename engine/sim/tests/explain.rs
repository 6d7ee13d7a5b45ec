//! What `explain` and `timeline` say of small loads that can be followed by hand.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use folio_engine::decisions::{Disguise, Header, LogFile, LogLimits, LogReader};
use folio_engine::sched::Scheduler;
use folio_engine::sched::decisions::Input;
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, EngineConfig, EventSender, ModelId, ModelKind, ModelLimits, Nanos, PrefixCaching,
    Request, RequestId, SampledToken, SamplingParams, SeqResult, Slo, StepOutput, StopConditions,
    Task, TenantId, TokenId,
};
use folio_sim::explain::{Wanted, explain, summarize};
use folio_sim::timeline::{Window, timeline};
use serde_json::Value;

const MILLI: u64 = 1_000_000;

fn config(num_blocks: u32, max_num_seqs: u32) -> EngineConfig {
    EngineConfig {
        models: vec![ModelLimits { kind: ModelKind::Decoder, max_model_len: 64, vocab_size: 99 }],
        block_size: 4,
        num_blocks: num_blocks + 1,
        max_num_seqs,
        max_num_batched_tokens: 70,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: Some(8),
        max_queued_requests: 100,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
    .validated()
    .unwrap()
}

/// A request that arrives at some time, of so many tokens, for so many.
struct Sent {
    at: u64,
    prompt: Vec<TokenId>,
    max_tokens: u32,
}

/// Runs `load` on steps of ten milliseconds and writes the log.
fn run(name: &str, config: &EngineConfig, load: Vec<Sent>) -> PathBuf {
    let mut scheduler = Scheduler::new(config.clone(), Box::new(Fcfs));
    scheduler.record_decisions();
    let (mut now, mut num_sent) = (0, 0);
    let mut load = load.into_iter().peekable();
    let mut calls = Vec::new();
    while load.peek().is_some() || !scheduler.is_idle() {
        while let Some(sent) = load.next_if(|sent| sent.at <= now) {
            scheduler.admit(request(num_sent, &sent), Nanos(sent.at * MILLI));
            num_sent += 1;
        }
        if let Some(plan) = scheduler.plan(Nanos(now * MILLI)) {
            let results = plan.seqs.iter().map(|row| {
                if row.emits {
                    SeqResult::Token(SampledToken { id: 7, logprobs: None })
                } else {
                    SeqResult::Computed
                }
            });
            let output = StepOutput { results: results.collect(), ..StepOutput::default() };
            now += 10;
            let _ = scheduler.commit(&plan, output, Nanos(now * MILLI));
        } else {
            now += 1;
        }
        calls.extend(scheduler.take_decisions());
        assert!(now < 10_000, "no end in sight");
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("explain-{name}.log"));
    let header = Header::new("fcfs", config.clone(), &["toy".to_owned()]);
    let disguise = Disguise::secret(config);
    let mut file = LogFile::create(&path, header, disguise, LogLimits { max_bytes: None }).unwrap();
    for call in calls {
        if let Input::Arrival(arrival) = &call.input {
            let label = format!("job-{}", (b'a' + arrival.request.0 as u8) as char);
            file.label(arrival.request, &label).unwrap();
        }
        file.write(vec![call]).unwrap();
    }
    file.flush().unwrap();
    path
}

fn request(number: u64, sent: &Sent) -> Request {
    let stop = StopConditions { max_tokens: sent.max_tokens, ..StopConditions::default() };
    Request {
        id: RequestId(number),
        model: ModelId(0),
        prompt: sent.prompt.clone(),
        task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
        choices: vec![Choice::new(EventSender::discard())],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    }
}

fn sent(at: u64, token: TokenId, len: usize, max_tokens: u32) -> Sent {
    Sent { at, prompt: vec![token; len], max_tokens }
}

fn story(path: &Path, label: &str) -> String {
    let show = |at: Nanos| format!("{:.3} s", at.as_secs_f64());
    let log = LogReader::open(path).unwrap();
    let mut explanation = explain(log, &Wanted::Label(label.to_owned()), &show);
    assert!(explanation.broken.is_none() && explanation.stories.len() == 1);
    explanation.stories.remove(0)
}

/// Two may run: the third waits for the first to end.
#[test]
fn who_waits_for_a_place_is_told_so() {
    let load = vec![sent(0, 1, 6, 5), sent(0, 2, 6, 9), sent(3, 3, 20, 2)];
    let path = run("place", &config(50, 2), load);
    let expected = "\
Request 2 (job-c)
  toy, 20 prompt tokens, at most 2 to generate; tenant 0, priority 0
  arrived at 0.003 s; policy fcfs

     0.000 s  arrived; nobody waited before it
     0.000 s  waited 47.0 ms
                   7.0 ms  the step in progress had to end
                  40.0 ms  as many sequences ran as may (max_num_seqs, or the policy's limit): \
2 of 2
     0.047 s  started, with nothing of it computed
     0.047 s  computed 20 tokens in 3 steps (8 + 8 + 4), 30.0 ms
     0.077 s  first token
     0.077 s  generated 2 tokens in 10.0 ms, 10.0 ms each
     0.087 s  ended: as many tokens as it may have
";
    assert_eq!(story(&path, "job-c"), expected);
    let behind =
        run("behind", &config(50, 1), vec![sent(0, 1, 6, 5), sent(1, 2, 6, 2), sent(2, 3, 6, 2)]);
    let text = story(&behind, "job-c");
    assert!(text.contains("in the queue behind request 1 (job-b)"), "{text}");
}

/// Six blocks: both fit at first and not to their ends, so the younger gives way.
#[test]
fn who_gives_way_is_told_for_whom() {
    let path = run("gives-way", &config(6, 4), vec![sent(0, 1, 7, 12), sent(0, 2, 7, 12)]);
    let text = story(&path, "job-b");
    let line = text.lines().find(|line| line.contains("preempted")).unwrap();
    assert!(
        line.contains("preempted: request 0 (job-a) needed a block and none was free"),
        "{text}"
    );
    assert!(
        line.contains("12 computed tokens dropped") || line.contains("computed tokens dropped")
    );
    assert!(text.contains("too few KV blocks were free: needed"), "{text}");
    assert!(text.contains("most blocks were held by request 0 (job-a)"), "{text}");
    assert!(text.contains("went on"), "{text}");
    assert!(!story(&path, "job-a").contains("preempted"));
}

#[test]
fn who_waits_for_a_prefix_is_told_who_computes_it() {
    let path = run("prefix", &config(50, 4), vec![sent(0, 1, 20, 2), sent(1, 1, 20, 2)]);
    let text = story(&path, "job-b");
    let expected = "another request was computing the same prefix: computed by request 0 (job-a)";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("16 tokens need not be computed"), "{text}");
}

#[test]
fn the_sums_are_those_of_the_stories() {
    let load = vec![sent(0, 1, 6, 5), sent(0, 2, 6, 9), sent(3, 3, 20, 2)];
    let path = run("sums", &config(50, 2), load);
    let (summary, broken) = summarize(LogReader::open(&path).unwrap(), 2);
    assert!(broken.is_none());
    assert_eq!((summary.num_requests, summary.num_steps), (3, 9));
    assert_eq!(summary.ends, [("length", 3)].into_iter().collect());
    assert!((summary.wait_s[3] - 0.047).abs() < 1e-9, "{:?}", summary.wait_s);
    let total: f64 = summary.reasons.iter().map(|reason| reason.total_s).sum();
    assert!((total - 0.047).abs() < 1e-9, "{:?}", summary.reasons);
    assert!((summary.reasons[0].total_s - 0.040).abs() < 1e-9, "{:?}", summary.reasons);
    let longest = &summary.longest_waits[0];
    assert_eq!((longest.name.as_str(), longest.mostly), ("request 2 (job-c)", "max_num_seqs"));
    let text = summary.to_string();
    assert!(text.contains("3 requests and 9 steps in 90.0 ms, policy fcfs"), "{text}");
}

fn trace(path: &Path, window: Window) -> (Vec<Value>, folio_sim::timeline::Written) {
    let mut json = Vec::new();
    let written = timeline(LogReader::open(path).unwrap(), window, &mut json).unwrap();
    let trace: Value = serde_json::from_slice(&json).unwrap();
    (trace["traceEvents"].as_array().unwrap().clone(), written)
}

/// What the format asks of each kind of event, and that slices of a track do not overlap.
fn check_schema(events: &[Value]) {
    let mut ends: HashMap<(u64, u64), f64> = HashMap::new();
    let mut slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    slices.sort_by(|a, b| a["ts"].as_f64().unwrap().total_cmp(&b["ts"].as_f64().unwrap()));
    for slice in slices {
        let (begin, dur) = (slice["ts"].as_f64().unwrap(), slice["dur"].as_f64().unwrap());
        assert!(slice["name"].is_string() && dur > 0.0, "{slice}");
        let track = (slice["pid"].as_u64().unwrap(), slice["tid"].as_u64().unwrap());
        let end = ends.entry(track).or_insert(0.0);
        assert!(begin >= *end - 1e-6, "overlaps what ends at {end}: {slice}");
        *end = begin + dur;
    }
    for event in events {
        match event["ph"].as_str().unwrap() {
            "X" => {}
            "C" => assert!(event["args"]["value"].is_u64() && event["ts"].is_number(), "{event}"),
            "M" => assert!(event["args"]["name"].is_string() && event["pid"].is_u64(), "{event}"),
            other => panic!("{other}: {event}"),
        }
    }
}

fn names_of(events: &[Value], track: u64) -> Vec<(&str, f64, f64)> {
    let slices = events.iter().filter(|e| e["ph"] == "X" && e["pid"] == 2 && e["tid"] == track);
    let ms = |value: &Value| value.as_f64().unwrap() / 1000.0;
    slices.map(|e| (e["name"].as_str().unwrap(), ms(&e["ts"]), ms(&e["dur"]))).collect()
}

#[test]
fn a_timeline_shows_what_each_did_when() {
    let load = vec![sent(0, 1, 6, 5), sent(0, 2, 6, 9), sent(3, 3, 20, 2)];
    let path = run("timeline", &config(50, 2), load);
    let (events, written) = trace(&path, Window::default());
    check_schema(&events);
    assert_eq!((written.num_sequences, written.num_left_out, written.num_steps), (3, 0, 9));
    let expected = [
        ("queued", 3.0, 47.0),
        ("prefill", 50.0, 10.0),
        ("prefill", 60.0, 10.0),
        ("prefill", 70.0, 10.0),
        ("decode", 80.0, 10.0),
    ];
    assert_eq!(names_of(&events, 2), expected);
    let steps = events.iter().filter(|e| e["ph"] == "X" && e["pid"] == 1);
    assert_eq!(steps.count(), 9);
    let waiting = events.iter().filter(|e| e["ph"] == "C" && e["name"] == "waiting");
    let waiting: Vec<_> = waiting.map(|e| e["args"]["value"].as_u64().unwrap()).collect();
    assert_eq!(waiting, [0, 1, 1, 1, 1, 0, 0, 0, 0]);
}

#[test]
fn a_timeline_is_as_long_as_it_may_be() {
    let load = (0..30).map(|n| sent(10 * u64::from(n), n, 9, 6)).collect();
    let path = run("window", &config(50, 3), load);
    let (events, written) =
        trace(&path, Window { max_sequences: 10, max_steps: 12, ..Window::default() });
    check_schema(&events);
    assert_eq!(written.num_sequences, 10);
    assert!(written.cut_at.is_some() && written.num_steps == 12, "{written:?}");
    let window = Window { from: Nanos(100 * MILLI), to: Nanos(200 * MILLI), ..Window::default() };
    let (events, written) = trace(&path, window);
    check_schema(&events);
    assert!(written.cut_at.is_none() && written.num_steps == 11, "{written:?}");
    let times = events.iter().filter_map(|event| event["ts"].as_f64());
    assert!(times.clone().all(|at| (100_000.0..=200_000.0).contains(&at)));
}
