//! Files of experiments, their runs, what is kept of a run, and what is said about them.

use std::num::NonZeroUsize;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::statistics::{Judge, Verdict};

fn parse(text: &str) -> Result<Experiment, String> {
    Experiment::parse(text, Path::new("e.toml")).map_err(|error| error.to_string())
}

const GOOD: &str = r#"
title = "Shortest first"
[sweep]
policies = ["fcfs", "sjf ageing=200"]
rates = [2, 4.5]
seeds = 3
[sweep.options]
max-num-seqs = [64, 128]
[run]
trace = "azure.csv"
num-prompts = 100
goodput = ["ttft:500", "tpot:50"]
no-enable-prefix-caching = true
"#;

#[test]
fn every_combination_is_run_and_names_its_flags() {
    let jobs = parse(GOOD).unwrap().jobs(&[]);
    assert_eq!(jobs.len(), 2 * 2 * 2 * 3);
    let words = "--goodput ttft:500 tpot:50 --no-enable-prefix-caching --num-prompts 100 \
                 --trace azure.csv --max-num-seqs 64 --policy sjf ageing=200 --seed 1 \
                 --request-rate 4.5";
    let lines: Vec<String> = jobs.iter().map(|job| job.arguments().join(" ")).collect();
    assert!(lines.iter().any(|line| line == words), "{lines:#?}");
    let mut names: Vec<String> = jobs.iter().map(|job| job.file_name("9f")).collect();
    assert_eq!(names[0], "fcfs-max-num-seqs-64-rate-2-seed-1-9f");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), jobs.len());
}

#[test]
fn options_are_compared_where_there_is_one_policy() {
    let text = GOOD
        .replace(", \"sjf ageing=200\"", "")
        .replace("rates = [2, 4.5]", "loads = [0.5]\nbaseline = \"max-num-seqs=128\"");
    let experiment = parse(&text).unwrap();
    assert_eq!(experiment.baseline(), "max-num-seqs=128");
    let jobs = experiment.jobs(&[8.0, 10.0]);
    let labels: Vec<&str> = jobs.iter().map(|job| job.label.as_str()).collect();
    assert_eq!(labels[..4], [["max-num-seqs=64"; 3].as_slice(), &["max-num-seqs=128"]].concat());
    // All under the same load, or the comparison would be of loads.
    assert!(jobs.iter().all(|job| job.variant.is_empty()));
    assert!(jobs.iter().all(|job| (job.rate.unwrap().per_second - 4.0).abs() < 1e-9));
    let wrong = text.replace("max-num-seqs=128", "fcfs");
    assert!(parse(&wrong).unwrap_err().contains("FLAG=VALUE"));
}

#[test]
fn loads_are_shares_of_what_fcfs_can_do() {
    let text = GOOD.replace("rates = [2, 4.5]", "loads = [0.5, 1.1]");
    let jobs = parse(&text).unwrap().jobs(&[8.0, 10.0]);
    let rates: Vec<f64> = jobs.iter().map(|job| job.rate.unwrap().per_second).collect();
    assert!([4.0, 8.8, 5.0, 11.0].iter().all(|rate| rates.iter().any(|r| (r - rate).abs() < 1e-9)));
}

/// Each message names the file, the key, the value and the limit.
#[test]
fn what_is_wrong_with_a_file_is_said() {
    let policies = "policies = [\"fcfs\", \"sjf ageing=200\"]";
    let cases: [(&str, &str, &[&str]); 14] = [
        (policies, "policies = []", &["sweep.policies", "[]", "at least one"]),
        (policies, "policies = [\"a\", \"a\"]", &["sweep.policies", "\"a\"", "once"]),
        ("seeds = 3", "seeds = 0", &["sweep.seeds", "[]", "from 1"]),
        ("seeds = 3", "seeds = [1, 1]", &["sweep.seeds", "[1, 1]", "different"]),
        ("seeds = 3", "seeds = -1", &["line 6", "seeds"]),
        ("rates = [2, 4.5]", "rates = [2, -4.5]", &["sweep.rates", "-4.5", "above 0"]),
        ("rates = [2, 4.5]", "rates = [2]\nloads = [0.5]", &["sweep.loads", "0.5", "beside"]),
        ("rates = [2, 4.5]", "loads = [101]", &["sweep.loads", "101", "at most 100"]),
        ("seeds = 3", "baseline = \"vtc\"", &["sweep.baseline", "vtc", "sweep.policies"]),
        ("seeds = 3", "seed = 3", &["line 6", "unknown field `seed`"]),
        ("num-prompts = 100", "policy = \"sjf\"", &["run", "policy", "sweep.policies"]),
        ("num-prompts = 100", "rate = 3", &["run", "rate", "sweep.rates"]),
        ("num-prompts = 100", "num-prompts = false", &["run", "num-prompts", "true"]),
        ("[64, 128]", "[]", &["sweep.options", "max-num-seqs", "list"]),
    ];
    for (old, new, wanted) in cases {
        let message = parse(&GOOD.replace(old, new)).unwrap_err();
        assert!(message.contains("e.toml"), "{message}");
        assert!(wanted.iter().all(|word| message.contains(word)), "{new}: {message}");
    }
    let too_many = GOOD.replace("seeds = 3", "seeds = 4000");
    assert!(parse(&too_many).unwrap_err().contains("10,000"));
    assert!(Experiment::read(Path::new("/nowhere.toml")).is_err());
}

#[test]
fn results_stand_in_the_order_of_the_jobs_whatever_the_threads() {
    let items: Vec<u64> = (0..200).collect();
    let square = |_: usize, item: &u64| Ok::<u64, ()>(item * item);
    let expected: Vec<u64> = items.iter().map(|item| item * item).collect();
    for num_threads in [1, 2, 7] {
        let num_threads = NonZeroUsize::new(num_threads).unwrap();
        assert_eq!(in_parallel(&items, num_threads, square).unwrap(), expected);
    }
    let fails = |_: usize, item: &u64| if *item == 50 { Err("fifty") } else { Ok(*item) };
    assert_eq!(in_parallel(&items, NonZeroUsize::new(3).unwrap(), fails), Err("fifty"));
}

/// One request every second, of which each takes `service` seconds to its first token and two
/// seconds more for its five tokens.
fn requests(service: f64) -> Vec<Served> {
    let request = |index: u32| {
        let arrival = f64::from(index);
        Served {
            tenant: index % 2,
            arrival,
            started: Some(arrival + 0.5 * service),
            first_token: Some(arrival + service),
            last_token: Some(arrival + service + 2.0),
            input: 100,
            output: 5,
            longest_gap: 0.6,
            alone: Some(2.0),
            met: Some(!index.is_multiple_of(4)),
        }
    };
    (0..40).map(request).collect()
}

#[test]
fn a_digest_says_what_one_works_out_by_hand() {
    let facts = Facts {
        objective: Objective { ttft: Some(2.0), ..Objective::default() },
        recompute_tax: Some(0.25),
        gaps: vec![(400.0, 3), (600.0, 1)],
        ..Facts::default()
    };
    let digest = Digest::of(&requests(3.0), &facts);
    let expected = [
        ("mean_ttft_ms", 3000.0),
        ("p99_ttft_ms", 3000.0),
        ("mean_tpot_ms", 500.0),
        ("mean_e2el_ms", 5000.0),
        ("slowest_decile_e2el_ms", 5000.0),
        ("mean_slowdown", 2.5),
        ("p99_stall_ms", 600.0),
        ("slo_attainment", 0.75),
        ("recompute_tax", 0.25),
        ("jain_index_of_ttft", 1.0),
        // 40 requests from 0 s until 44 s, of five tokens each.
        ("request_throughput", 40.0 / 44.0),
        ("output_throughput", 200.0 / 44.0),
        ("request_goodput", 30.0 / 44.0),
    ];
    for (key, value) in expected {
        assert!((digest.measures[key] - value).abs() < 1e-9, "{key}: {:?}", digest.measures);
    }
    // Three seconds are 1.5 times two: met from there on.
    let met_from = digest.by_scale.iter().find(|(_, share)| *share > 0.999).unwrap().0;
    assert!((met_from - 1.5).abs() < 1e-9);
    assert_eq!(digest.curves["itl_ms"], [(400.0, 0.75), (600.0, 1.0)]);
    // A prompt of 100 and twice five tokens, twenty times.
    let served = digest.tenants[0].service.last().unwrap().1;
    assert!((served - 20.0 * 110.0).abs() < 20.0, "{served}");
    assert_eq!(digest.lives.len(), 20);
}

#[test]
fn a_digest_of_nothing_is_empty() {
    let digest = Digest::of(&[], &Facts::default());
    assert!(digest.curves.values().all(Vec::is_empty));
    assert!(digest.by_size.is_empty() && digest.tenants.is_empty() && digest.lives.is_empty());
}

fn job(policy: &str, seed: u64) -> Job {
    let rate = Some(Rate { per_second: 1.0, load: None });
    let (label, policy) = (policy.to_owned(), policy.to_owned());
    let (variant, arrivals) = (String::new(), Arrivals::Drawn);
    Job { label, policy, rate, seed, variant, arrivals, flags: Vec::new() }
}

fn result(policy: &str, seed: u64, service: f64) -> RunResult {
    let mut object = serde_json::Map::new();
    object.insert("simulated".to_owned(), Value::Bool(true));
    let digest = Digest::of(&requests(service), &Facts::default());
    RunResult::annotate(&mut object, &job(policy, seed), &digest);
    RunResult::from_value(&Value::Object(object), "x").unwrap()
}

#[test]
fn results_come_back_from_their_files_as_they_were() {
    let read = result("sjf", 3, 2.0);
    assert_eq!((read.policy.as_str(), read.seed, read.rate), ("sjf", 3, Some(1.0)));
    assert!(read.is_simulated);
    assert_eq!(read.get("mean_ttft_ms"), Some(2000.0));
    let digest = Digest::of(&requests(2.0), &Facts::default());
    assert_eq!(read.digest, Some(digest));
}

#[test]
fn result_files_of_vllm_are_read_and_others_refused() {
    let vllm = json!({
        "backend": "vllm", "label": null, "request_rate": "inf", "mean_ttft_ms": 12.5,
        "median_ttft_ms": 11.0, "output_throughput": 900.0, "max_concurrency": null,
    });
    let read = RunResult::from_value(&vllm, "file").unwrap();
    assert_eq!((read.policy.as_str(), read.rate), ("vllm", None));
    assert_eq!(read.get("p50_ttft_ms"), Some(11.0));
    for (other, reason) in [(json!([1]), "object"), (json!({"a": 1}), "mean_ttft_ms")] {
        assert!(RunResult::from_value(&other, "file").unwrap_err().contains(reason));
    }
}

/// By seed the load differs more than the policies do: only pairs tell.
fn results() -> Vec<RunResult> {
    let mut results = Vec::new();
    for seed in 1..=5 {
        let load = 2.0 + seed as f64;
        results.push(result("fcfs", seed, load));
        results.push(result("slower", seed, load + 0.5));
        results.push(result("equal", seed, load));
    }
    results
}

#[test]
fn policies_are_compared_in_pairs_and_losses_are_named() {
    let analysis = Analysis::new(results(), "fcfs", &Judge::default());
    let of = |policy: &str, key: &str| {
        let found = analysis.findings.iter().find(|f| f.policy == policy && f.measure.key == key);
        found.unwrap().comparison
    };
    assert_eq!(of("slower", "mean_ttft_ms").verdict, Verdict::Worse);
    assert!((of("slower", "mean_ttft_ms").difference() - 500.0).abs() < 1e-6);
    assert_eq!(of("equal", "mean_ttft_ms").verdict, Verdict::Same);
    assert_eq!(of("slower", "mean_tpot_ms").verdict, Verdict::Same);
    let worse = analysis.worse();
    assert!(!worse.is_empty() && worse.iter().all(|finding| finding.policy == "slower"));
    assert_eq!(analysis.to_csv().unwrap().lines().count(), 1 + analysis.findings.len());
}

#[test]
fn a_report_leads_with_verdicts_and_losses() {
    let judge = Judge::default();
    let report = Analysis::new(results(), "fcfs", &judge).report("A title", &judge).unwrap();
    let titles: Vec<&str> = report.sections.iter().map(|part| part.title.as_str()).collect();
    assert_eq!(titles[..2], ["Verdicts against fcfs", "What got worse"]);
    assert!(titles.contains(&"Distributions") && titles.contains(&"Tenants"), "{titles:?}");
    let html = report.to_html();
    assert!(html.contains("worse +") && html.contains("A title"));
    let mut names: Vec<&str> = report.plots().map(|plot| plot.name.as_str()).collect();
    let num_figures = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), num_figures, "each figure has a file of its own");
}

#[test]
fn seeds_that_change_nothing_are_said() {
    let judge = Judge::default();
    let results: Vec<RunResult> =
        (1..=3).flat_map(|seed| ["a", "b"].map(|policy| result(policy, seed, 2.0))).collect();
    let lead = |results| Analysis::new(results, "a", &judge).report("T", &judge).unwrap().lead;
    assert!(lead(results).iter().any(|text| text.contains("seeds change nothing")));
    assert!(!lead(self::results()).iter().any(|text| text.contains("seeds change")));
}

#[test]
fn a_report_of_one_run_compares_nothing() {
    let judge = Judge::default();
    let analysis = Analysis::new(vec![result("fcfs", 1, 2.0)], "fcfs", &judge);
    let report = analysis.report("One", &judge).unwrap();
    assert_ne!(report.sections[0].title, "What got worse");
    assert_eq!(report.sections.last().unwrap().title, "Numbers");
    assert_eq!(report.lead.len(), 1);
}

proptest! {
    /// What is read from a file is either runs within the limit or a message.
    #[test]
    fn no_file_makes_a_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }
}
