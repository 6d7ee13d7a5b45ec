//! Results as files: the keys that scripts read, figures worked out by hand, the same bytes every
//! time.

use crate::common::{config, ms, options, record, run};
use folio_sim::result::{EachRequest, LoadDescription, Selection};
use folio_sim::synthetic::{Prefixes, RandomLoad, RandomWorkload};
use folio_sim::table::table;
use folio_sim::trace::Pace;
use folio_sim::{Description, Detail, Metric, Options, Outcome, Record, Slo, simulate};
use serde_json::{Value, json};

/// Two requests, as worked out in `schedules.rs`: the first answered in tokens at 15, 33 and 45
/// ms, the second, which came at 3 ms, at 33, 45 and 56 ms. Two tenants.
fn outcome() -> Outcome {
    let slo = Slo { ttft: Some(ms(20)), ..Slo::default() };
    let options = Options { detail: Detail::Tokens, slo, ..options(config()) };
    let second = Record { tenant: 7, ..record(3, 7, 3) };
    run(options, vec![record(0, 5, 3), second])
}

fn description() -> Description {
    Description {
        model: "llama".to_owned(),
        workload: "hand".to_owned(),
        cost: "ten-and-one".to_owned(),
        load: LoadDescription { rate: Some(f64::INFINITY), burstiness: 1.0 },
        slo: Slo { ttft: Some(ms(20)), ..Slo::default() },
        selection: Selection { percents: vec![50.0, 99.0], ..Selection::default() },
        metadata: vec![("who".to_owned(), "me".to_owned())],
        ..Description::default()
    }
}

/// The keys of vLLM's `bench serve --save-result --metric-percentiles 50,99`, in its order.
const VLLM_KEYS: [&str; 39] = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "who",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "mean_ttft_ms",
    "median_ttft_ms",
    "std_ttft_ms",
    "p50_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "median_tpot_ms",
    "std_tpot_ms",
    "p50_tpot_ms",
    "p99_tpot_ms",
    "mean_itl_ms",
    "median_itl_ms",
    "std_itl_ms",
    "p50_itl_ms",
    "p99_itl_ms",
    "mean_e2el_ms",
    "median_e2el_ms",
];

fn near(value: &Value, expected: f64) {
    let found = value.as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found} and {expected}");
}

#[test]
fn a_result_has_vllms_keys_in_vllms_order_and_says_that_it_is_simulated() {
    let result = outcome().to_json(&description());
    let keys: Vec<&str> = result.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..VLLM_KEYS.len()], VLLM_KEYS);
    for (key, expected) in [
        ("simulated", json!(true)),
        ("cost_model", json!("ten-and-one")),
        ("policy", json!("fcfs")),
        ("seed", json!(0)),
        ("request_rate", json!("inf")),
        ("max_concurrency", Value::Null),
        ("num_preemptions", json!(0)),
        ("goodput", json!({"ttft": 20.0})),
    ] {
        assert_eq!(result[key], expected, "{key}");
    }
    assert!(!keys.contains(&"ttfts"), "no lists unless they are wanted");
}

/// Time to first token 15 and 30 ms, time per token 15 and 11.5, end to end 45 and 53; six tokens
/// in 56 ms; gaps 18, 12, 12 and 11 ms; one of two within 20 ms.
#[test]
fn figures_are_those_worked_out_by_hand() {
    let result = outcome().to_json(&description());
    for (key, expected) in [
        ("duration", 0.056),
        ("completed", 2.0),
        ("total_input_tokens", 12.0),
        ("total_output_tokens", 6.0),
        ("request_throughput", 2.0 / 0.056),
        ("request_goodput", 1.0 / 0.056),
        ("output_throughput", 6.0 / 0.056),
        ("total_token_throughput", 18.0 / 0.056),
        ("max_output_tokens_per_s", 6.0),
        ("max_concurrent_requests", 2.0),
        ("mean_ttft_ms", 22.5),
        ("median_ttft_ms", 22.5),
        ("std_ttft_ms", 7.5),
        ("p99_ttft_ms", 15.0 + 0.99 * 15.0),
        ("mean_tpot_ms", 13.25),
        ("mean_itl_ms", 13.25),
        ("mean_e2el_ms", 49.0),
        ("mean_queue_ms", 6.0),
        ("max_itl_ms", 18.0),
        ("slo_attainment", 0.5),
        ("num_steps", 4.0),
        ("num_computed_tokens", 16.0),
        ("device_utilization", 1.0),
        // Service 5 + 2 x 3 and 7 + 2 x 3.
        ("jain_index", 24.0 * 24.0 / (2.0 * (121.0 + 169.0))),
    ] {
        near(&result[key], expected);
    }
    let tenants = result["tenants"].as_array().unwrap();
    assert_eq!(tenants.len(), 2);
    assert_eq!((&tenants[1]["tenant"], &tenants[1]["total_input_tokens"]), (&json!(7), &json!(7)));
    near(&tenants[1]["mean_ttft_ms"], 30.0);
}

#[test]
fn a_detailed_result_has_a_list_entry_and_a_row_for_each_request() {
    let selection = Selection { requests: EachRequest::Tell, ..Selection::default() };
    let outcome = outcome();
    let result = outcome.to_json(&Description { selection, ..description() });
    assert_eq!(result["input_lens"], json!([5, 7]));
    assert_eq!(result["output_lens"], json!([3, 3]));
    assert_eq!(result["ttfts"], json!([0.015, 0.03]));
    assert_eq!(result["itls"], json!([[0.018, 0.012], [0.012, 0.011]]));
    assert_eq!(result["start_times"], json!([0.0, 0.003]));
    assert_eq!(result["errors"], json!(["", ""]));
    assert_eq!(result["queue_times"], json!([0.0, 0.012]));
    let mut rows = Vec::new();
    outcome.write_requests(&mut rows).unwrap();
    let rows = String::from_utf8(rows).unwrap();
    let lines: Vec<&str> = rows.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[2],
        "1,7,0.003000000,7,3,0,0,12.000000,30.000000,11.500000,53.000000,12.000000,complete,missed"
    );
    let mut series = Vec::new();
    outcome.write_series(&mut series).unwrap();
    assert!(String::from_utf8(series).unwrap().starts_with("time_s,kv_use,num_running"));
}

/// Lines that scripts scrape, 50 columns or a name of 40 and a value.
#[test]
fn the_table_is_vllms() {
    let text = table(&outcome(), &description());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "============ Serving Benchmark Result ============");
    assert_eq!(lines[1], "Successful requests:                     2         ");
    assert_eq!(lines.last(), Some(&"=".repeat(50).as_str()));
    for expected in [
        "---------------Time to First Token----------------",
        "-----Time per Output Token (excl. 1st token)------",
        "---------------Inter-token Latency----------------",
        "----------------End-to-end Latency----------------",
        "Mean TTFT (ms):                          22.50     ",
        "P99 TTFT (ms):                           29.85     ",
        "Request goodput (req/s):                 17.86     ",
    ] {
        assert!(lines.contains(&expected), "{expected:?} is not in\n{text}");
    }
}

fn random_load(seed: u64) -> RandomWorkload {
    RandomWorkload::new(RandomLoad {
        num_prompts: 300,
        input_len: 40,
        output_len: 20,
        range_ratio: 0.8,
        prefixes: Prefixes { len: 32, num: 3 },
        num_tenants: 4,
        pace: Pace { rate: 4.0, burstiness: 0.5 },
        seed,
    })
}

fn random_result(seed: u64) -> String {
    let engine = folio_sim::instance::decoder_config(1000, 100);
    let options = Options { detail: Detail::Tokens, seed, ..options(engine) };
    let outcome = simulate(options, &mut random_load(seed)).unwrap();
    let selection = Selection {
        metrics: Metric::ALL.to_vec(),
        percents: vec![50.0, 90.0, 99.9],
        requests: EachRequest::Tell,
    };
    outcome.to_json(&Description { selection, seed, ..description() }).to_string()
}

/// Equal seeds, equal bytes, however many run side by side; another seed, another result.
#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let alone: Vec<String> = (0..4).map(random_result).collect();
    assert_ne!(alone[0], alone[1]);
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || random_result(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}
