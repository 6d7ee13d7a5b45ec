//! Latencies, loads and failures, all known beforehand.

use std::time::Duration;

use folio::bench::arrivals::Arrivals;
use folio::bench::client::{Backend, Settings};
use folio::bench::load::{Due, History, Load, run};
use folio::bench::metrics::{Metric, Summary, Wanted};
use folio::bench::sample::{Class, CountedBy};
use folio::bench::saturation::Rule;
use folio::bench::slo::Objective;
use folio::bench::timing::{Kind, Timing};
use folio::bench::{Prompt, Request, Sample};

use crate::fake::{Fault, Script, Server, every, load, requests, sent};

/// Time is counted in nanoseconds; seconds in floating point lose a little.
fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-6
}

#[track_caller]
fn assert_close(found: f64, expected: f64) {
    assert!(close(found, expected), "{found}, not {expected}");
}

fn summary(samples: &[Sample], percents: &[f64]) -> Summary {
    let wanted = Wanted {
        metrics: Metric::ALL.to_vec(),
        percents: percents.to_vec(),
        objective: Objective { ttft: Some(1000.0), ..Objective::default() },
        seed: 0,
    };
    Summary::of(samples, Class::Generation, &wanted).unwrap()
}

#[tokio::test(start_paused = true)]
async fn latencies_are_those_that_the_server_has() {
    let done = sent(Script::default(), requests(5, 11), every(1.0, 5)).await;
    for (index, sample) in done.samples.iter().enumerate() {
        assert!(sample.is_success(), "{:?}", sample.failure);
        assert_close(sample.times.sent, index as f64);
        assert_close(sample.ttft().unwrap(), 0.1);
        assert_close(sample.tpot().unwrap(), 0.02);
        assert_close(sample.e2el(), 0.1 + 10.0 * 0.02);
        assert_close(sample.queue(), 0.0);
        assert_close(sample.stall().unwrap(), 0.02);
        assert_eq!(sample.gaps().count(), 10);
        assert_eq!((sample.tokens.input, sample.tokens.output), (3, 11));
    }
    let summary = summary(&done.samples, &[99.0]);
    assert_close(summary.duration, 4.3);
    assert_close(summary.rate(summary.counts.output_tokens), 55.0 / 4.3);
    assert_eq!(summary.max_concurrent_requests, 1);
    assert_close(summary.max_output_tokens_per_s, 11.0);
    let itl = summary.distribution(Metric::Itl).unwrap();
    assert_eq!(itl.num, 50);
    assert_close(itl.percentiles[0].1, 20.0);
}

#[tokio::test(start_paused = true)]
async fn the_role_of_a_chat_is_no_token() {
    let server = Server::start(Script::default());
    let client = server.client(Settings::new(Backend::Chat, "m"));
    let request = Request::new(Prompt::Text("hi".into()), 1, 3);
    let done = run(&client, load(vec![request], every(1.0, 1)), &mut |_| {}).await;
    let sample = &done.samples[0];
    assert_close(sample.ttft().unwrap(), 0.1);
    assert_eq!(sample.chunks.len(), 3);
    let (path, body) = server.asked().remove(0);
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(body["messages"][0]["content"], "hi");
    assert_eq!(body["max_completion_tokens"], 3);
    assert_eq!(body["stream_options"]["include_usage"], true);
}

/// The server does one request in 0.1 s and is asked for 20 a second by a client that sends one at
/// a time: whoever measures from the sending sees nothing of the queue.
#[tokio::test(start_paused = true)]
async fn coordinated_omission_shows_only_from_the_scheduled_time() {
    let script = Script { num_at_once: 1, ..Script::default() };
    let server = Server::start(script);
    let client = server.client(Settings::new(Backend::Completions, "m"));
    let load = Load { max_concurrency: Some(1), ..load(requests(101, 1), every(0.05, 101)) };
    let due = load.due.clone();
    let done = run(&client, load, &mut |_| {}).await;
    let summary = summary(&done.samples, &[100.0]);
    let worst = |metric| summary.distribution(metric).unwrap().percentiles[0].1;
    assert_close(worst(Metric::Ttft), 100.0);
    // The last one was due at 5 s and came at 10.1 s.
    assert_close(worst(Metric::TtftSched), 5100.0);
    assert_close(worst(Metric::Queue), 5000.0);
    assert_close(worst(Metric::E2elIncludingClientQueue), 5100.0);
    assert_eq!(summary.counts.good, 101);
    // Request k comes 0.1 + 0.05 k seconds late: within a second up to k = 18.
    assert_eq!(summary.counts.good_sched, 19);
    assert_eq!(Timing::of(&done.samples, &due, Some(1)).kind, Kind::SemiOpen);
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_does_not_wait_for_the_server() {
    let script = Script { num_at_once: 1, ..Script::default() };
    let due = every(0.05, 40);
    let done = sent(script, requests(40, 1), due.clone()).await;
    let last = &done.samples[39];
    assert_close(last.times.sent, 1.95);
    assert_close(last.ttft().unwrap(), 4.0 - 1.95);
    let timing = Timing::of(&done.samples, &due, None);
    assert_eq!(timing.kind, Kind::Open, "{timing:?}");
    assert_close(timing.offered_rate.unwrap(), 20.0);
}

#[tokio::test(start_paused = true)]
async fn users_send_when_they_have_thought() {
    let requests = requests(9, 1);
    let due = Arrivals::Users { num: 3, think: 0.4 }.schedule(&requests, 0).unwrap();
    let done = sent(Script::default(), requests, due.clone()).await;
    for (index, sample) in done.samples.iter().enumerate() {
        // 0.1 s for the answer, 0.4 s of thought.
        assert_close(sample.times.sent, (index / 3) as f64 * 0.5);
    }
    assert_eq!(summary(&done.samples, &[]).max_concurrent_requests, 3);
    assert_eq!(Timing::of(&done.samples, &due, None).kind, Kind::Closed);
}

#[tokio::test(start_paused = true)]
async fn turns_of_a_conversation_contain_those_before() {
    let server = Server::start(Script::default());
    let client = server.client(Settings::new(Backend::Chat, "m"));
    let turn =
        |text: &str| Request { session: Some(4), ..Request::new(Prompt::Text(text.into()), 1, 2) };
    let due = vec![Due::At(0.0), Due::After { index: 0, think: 1.0 }];
    let load = Load { history: History::Grown, ..load(vec![turn("one"), turn("two")], due) };
    let done = run(&client, load, &mut |_| {}).await;
    assert_close(done.samples[1].times.sent, 0.12 + 1.0);
    let (_, body) = server.asked().remove(1);
    let contents: Vec<&str> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(contents, ["one", done.samples[0].text.as_str(), "two"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_by_kind_and_make_no_figures() {
    let faults = vec![
        (1, Fault::Status(429)),
        (2, Fault::Status(429)),
        (3, Fault::Cut),
        (4, Fault::Event),
        (5, Fault::Silence),
    ];
    let server = Server::start(Script { faults, ..Script::default() });
    let timeout = Duration::from_secs(30);
    let client = server.client(Settings { timeout, ..Settings::new(Backend::Completions, "m") });
    let done = run(&client, load(requests(7, 5), every(1.0, 7)), &mut |_| {}).await;
    let summary = summary(&done.samples, &[]);
    assert_eq!((summary.counts.completed, summary.counts.failed), (2, 5));
    let kinds: Vec<(&str, usize)> =
        summary.errors.iter().map(|(kind, (num, _))| (kind.as_str(), *num)).collect();
    assert_eq!(kinds, [("cut", 1), ("error event", 1), ("http 429", 2), ("timeout", 1)]);
    assert_eq!(summary.errors["http 429"].1, "refused 1");
    assert_eq!(summary.counts.output_tokens, 10);
    assert_close(done.samples[5].e2el(), 30.0);
}

#[tokio::test(start_paused = true)]
async fn nobody_listening_is_a_failure_of_each_request() {
    let dial = || {
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Box::pin(std::future::ready(Err(error))) as _
    };
    let http = folio::bench::http::Http::over(std::sync::Arc::new(dial));
    let settings = Settings::new(Backend::Completions, "m");
    let client = std::sync::Arc::new(folio::bench::Client::new(http, settings));
    let done = run(&client, load(requests(2, 5), every(1.0, 2)), &mut |_| {}).await;
    let summary = summary(&done.samples, &[]);
    assert_eq!(summary.errors["connect"].0, 2);
    assert_close(summary.distribution(Metric::Ttft).unwrap().mean, 0.0);
}

#[tokio::test(start_paused = true)]
async fn without_usage_chunks_are_counted_and_that_is_known() {
    let script = Script { usage: false, ..Script::default() };
    let done = sent(script, requests(1, 4), every(1.0, 1)).await;
    let tokens = done.samples[0].tokens;
    assert_eq!((tokens.output, tokens.counted_by), (4, CountedBy::Client));
    assert_eq!(summary(&done.samples, &[]).counts.uncounted, 1);
}

/// Twice as many requests as the server can do.
#[tokio::test(start_paused = true)]
async fn more_than_the_server_can_take_stops_the_run() {
    let stops = async |seconds: f64| {
        let script = Script { num_at_once: 1, ..Script::default() };
        let server = Server::start(script);
        let client = server.client(Settings::new(Backend::Completions, "m"));
        let stop = Some(Rule::new(10.0));
        let load = Load { stop, ..load(requests(600, 1), every(seconds, 600)) };
        run(&client, load, &mut |_| {}).await
    };
    let done = stops(0.05).await;
    let why = done.stopped.unwrap();
    assert!(why.starts_with("over-saturated"), "{why}");
    assert!(done.samples.len() < 400, "{}", done.samples.len());
    assert!(done.samples.iter().all(Sample::is_success), "what was sent is waited for");
    let done = stops(0.11).await;
    assert_eq!((done.stopped, done.samples.len()), (None, 600));
}
