//! The result file and the block on the terminal, against what scripts for vLLM's look for.

use folio::bench::client::{Backend, Settings};
use folio::bench::load::run;
use folio::bench::metrics::{Metric, Wanted};
use folio::bench::plan::Plan;
use folio::bench::report::{self, Head, Report};
use folio::bench::slo::Objective;
use folio::bench::verify::Check;
use folio::bench::{Prompt, Request, Sample};
use serde_json::{Map, Value, json};

use crate::fake::{Script, Server, every, load, requests};

/// vLLM's keys of a result, in its order, but for those that only its own engine has.
const KEYS: [&str; 14] = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
];
const RATES: [&str; 7] = [
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
];
const DETAILS: [&str; 9] = [
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
];

/// Lines of vLLM's block, in its order.
const LINES: [&str; 21] = [
    "============ Serving Benchmark Result ============",
    "Successful requests:                     6         ",
    "Failed requests:                         0         ",
    "Maximum request concurrency:             2         ",
    "Request rate configured (RPS):           10.00     ",
    "Benchmark duration (s):                  ",
    "Total input tokens:                      18        ",
    "Total generated tokens:                  24        ",
    "Request throughput (req/s):              ",
    "Request goodput (req/s):                 ",
    "Output token throughput (tok/s):         ",
    "Peak output token throughput (tok/s):    ",
    "Peak concurrent requests:                2.00      ",
    "Total token throughput (tok/s):          ",
    "---------------Time to First Token----------------",
    "Mean TTFT (ms):                          100.00    ",
    "Median TTFT (ms):                        100.00    ",
    "P50 TTFT (ms):                           100.00    ",
    "P99.9 TTFT (ms):                         100.00    ",
    "-----Time per Output Token (excl. 1st token)------",
    "Mean TPOT (ms):                          20.00     ",
];

fn head() -> Head {
    let traffic = json!({ "request_rate": 10.0, "burstiness": 1.0, "max_concurrency": 2 });
    let Value::Object(traffic) = traffic else { unreachable!() };
    Head {
        date: "20260131-235959".into(),
        backend: "openai".into(),
        model_id: "org/m".into(),
        num_prompts: 6,
        metadata: vec![("gpu".into(), "none".into())],
        traffic,
        ..Head::default()
    }
}

fn plan(server: &Server, requests: Vec<Request>, due: f64) -> Plan {
    let num = requests.len() as u32;
    let mut settings = Settings::new(Backend::Completions, "m");
    settings.embedding_model = Some("e".into());
    let mut load = load(requests, every(due, num));
    load.max_concurrency = Some(2);
    let shown = vec![Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el];
    let mut metrics = shown.clone();
    metrics.extend([Metric::TtftSched, Metric::Stall]);
    Plan {
        client: server.client(settings),
        warmups: Vec::new(),
        load,
        wanted: Wanted {
            metrics,
            percents: vec![50.0, 99.9],
            objective: Objective { ttft: Some(150.0), ..Objective::default() },
            seed: 0,
        },
        shown,
        objective_name: Some("test".into()),
        check: Some(Check { num: 3, tolerance: 0.0, seed: 0 }),
    }
}

async fn reported(requests: Vec<Request>) -> (Report, Vec<Sample>) {
    let server = Server::start(Script::default());
    plan(&server, requests, 0.0).execute(&mut |_| {}).await.unwrap()
}

fn keys(result: &Map<String, Value>) -> Vec<&str> {
    result.keys().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn the_file_has_vllms_keys() {
    let (report, samples) = reported(requests(6, 4)).await;
    let brief = report::result(&head(), &report, None);
    let mut expected: Vec<String> = KEYS.iter().chain(&RATES).map(|&key| key.to_owned()).collect();
    for metric in ["ttft", "tpot", "itl", "e2el"] {
        for statistic in ["mean", "median", "std", "p50", "p99.9"] {
            expected.push(format!("{statistic}_{metric}_ms"));
        }
    }
    for key in &expected {
        assert!(brief.contains_key(key), "{key} is not in {:?}", keys(&brief));
    }
    assert!(DETAILS.iter().all(|key| !brief.contains_key(*key)), "{:?}", keys(&brief));
    assert_eq!(brief["gpu"], "none");
    assert_eq!(brief["completed"], 6);
    assert_eq!(brief["verify"]["passed"], true);
    assert_eq!(brief["load"]["kind"], "burst");
    assert_eq!(brief["intervals"]["ttft"]["num_samples"], 6);
    let detailed = report::result(&head(), &report, Some(&samples));
    for key in DETAILS {
        let list = detailed[key].as_array();
        assert_eq!(list.map(Vec::len), Some(6), "{key}");
    }
    assert_eq!(detailed["itls"][0].as_array().unwrap().len(), 3);
    assert_eq!(detailed["errors"][0], "");
    assert_eq!(report::file_name(&head()), "openai-10.0qps-concurrency2-m-20260131-235959.json");
}

#[tokio::test(start_paused = true)]
async fn the_block_is_vllms_line_for_line() {
    let (report, _) = reported(requests(6, 4)).await;
    let block = report::block(&report, Some(2), Some(10.0));
    for (line, expected) in block.lines().zip(LINES) {
        assert!(line.starts_with(expected), "{line:?}, not {expected:?}, in\n{block}");
    }
    // Three pairs, each 0.16 s: all at once, but two at a time.
    assert!(block.contains("Kind of load:                            burst"), "{block}");
    assert!(block.contains("Mean TTFT_SCHED (ms):                    260.00"), "{block}");
    assert!(
        block.contains("Verified: of 3 requests sent again alone, 0 answers differ"),
        "{block}"
    );
}

#[tokio::test(start_paused = true)]
async fn classes_have_figures_of_their_own() {
    let mut mixed = requests(4, 4);
    let texts: Vec<String> = vec!["abc".into()];
    mixed.push(Request::new(Prompt::Texts(texts.into()), 3, 0));
    let (report, _) = reported(mixed).await;
    let result = report::result(&head(), &report, None);
    assert_eq!(result["completed"], 4);
    let classes = &result["by_class"];
    assert_eq!(classes["generation"]["total_output_tokens"], 16);
    assert_eq!(classes["embeddings"]["total_input_sequences"], 1);
    assert_eq!(classes["embeddings"]["completed"], 1);
    assert!(classes["embeddings"]["request_goodput"].is_number(), "{classes}");
    let block = report::block(&report, None, None);
    assert!(block.contains(" embeddings ="), "{block}");
}

#[tokio::test(start_paused = true)]
async fn connections_are_used_again() {
    let server = Server::start(Script::default());
    let client = server.client(Settings::new(Backend::Completions, "m"));
    for _ in 0..3 {
        let done = run(&client, load(requests(5, 2), every(0.0, 5)), &mut |_| {}).await;
        assert!(done.samples.iter().all(Sample::is_success));
    }
    assert_eq!(server.num_connections(), 5);
}

#[test]
fn files_of_several_results_are_read() {
    let one = "{\n \"a\": 1\n}";
    assert_eq!(report::lines(one).unwrap().len(), 1);
    assert_eq!(report::lines("{\"a\": 1}\n{\"a\": 2}").unwrap().len(), 2);
    let error = report::lines("{\"a\": 1}\n{\"a\": ").unwrap_err();
    assert!(error.starts_with("line 2"), "{error}");
}
