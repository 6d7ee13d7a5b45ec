//! Verdicts: right about servers that differ, and rarely wrong about equal ones.

use folio::bench::compare::{By, HEADLINES, Side, Table, compare, word};
use folio_sim::statistics::Judge;
use serde_json::{Map, Value, json};

/// Numbers from 0 to 1, a function of `seed` (SplitMix64).
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Runs whose times are about `speed`, give or take a tenth.
fn side(name: &str, num_runs: usize, speed: f64, seed: u64) -> Side {
    let mut noise = noise(seed);
    let mut about = |value: f64| value * (0.9 + 0.2 * noise());
    let run = |_| {
        let run = json!({
            "num_prompts": 10,
            "output_throughput": about(100.0 * speed),
            "mean_ttft_sched_ms": about(50.0 / speed),
            "p99_ttft_sched_ms": about(90.0 / speed),
            "mean_tpot_ms": about(10.0 / speed),
            "failed": 0,
        });
        object(run)
    };
    Side { name: name.to_owned(), runs: (0..num_runs).map(run).collect() }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

fn compared(baseline: &Side, candidate: &Side) -> Table {
    let keys = HEADLINES.map(str::to_owned);
    compare(baseline, candidate, &keys, &Judge::default())
}

fn verdicts(table: &Table) -> Vec<&'static str> {
    table.rows.iter().map(|row| word(row.comparison.verdict)).collect()
}

#[test]
fn a_faster_server_is_faster_and_a_slower_one_slower() {
    let baseline = side("a", 8, 1.0, 1);
    let table = compared(&baseline, &side("b", 8, 2.0, 2));
    assert_eq!(verdicts(&table), ["faster"; 4], "{}", table.text());
    let table = compared(&baseline, &side("b", 8, 0.5, 3));
    assert_eq!(verdicts(&table), ["slower"; 4], "{}", table.text());
    assert_eq!(verdicts(&compared(&baseline, &baseline)), ["same"; 4]);
    assert!(table.text().contains("8 runs"), "{}", table.text());
    assert_eq!(table.to_json()["rows"][0]["verdict"], "slower");
}

#[test]
fn equal_servers_rarely_get_a_verdict_in_any_row() {
    let num_wrong = (0..60)
        .filter(|&seed| {
            let table = compared(&side("a", 6, 1.0, 2 * seed), &side("b", 6, 1.0, 2 * seed + 1));
            verdicts(&table).iter().any(|verdict| *verdict != "cannot tell")
        })
        .count();
    // 3 expected of 60; more than 9 has a chance below 1 in 500.
    assert!(num_wrong <= 9, "{num_wrong} of 60 tables");
}

#[test]
fn few_runs_support_no_verdict() {
    let table = compared(&side("a", 3, 1.0, 1), &side("b", 4, 5.0, 2));
    assert_eq!(verdicts(&table), ["cannot tell"; 4]);
    assert!(table.notes.iter().any(|note| note.contains("only the first 3")), "{:?}", table.notes);
    assert!(table.notes.iter().any(|note| note.contains("fewer than 5")), "{:?}", table.notes);
}

#[test]
fn requests_of_single_runs_are_compared_in_pairs() {
    let run = |ttft: f64| {
        let ttfts: Vec<f64> = (0..50).map(|index| ttft * (1.0 + f64::from(index) * 0.1)).collect();
        let queue = vec![0.0; 50];
        object(json!({ "ttfts": ttfts, "queue_times": queue, "mean_ttft_sched_ms": 1e3 * ttft }))
    };
    let side = |name: &str, ttft| Side { name: name.to_owned(), runs: vec![run(ttft)] };
    let table = compared(&side("a", 0.1), &side("b", 0.05));
    assert_eq!(table.rows.len(), 1);
    assert_eq!((table.rows[0].by, table.rows[0].comparison.num_pairs), (By::Requests, 50));
    assert_eq!(verdicts(&table), ["faster"]);
}

#[test]
fn wrong_answers_are_compared_with_nothing_and_other_loads_are_noted() {
    let mut wrong = side("a", 5, 1.0, 1);
    wrong.runs[2].insert("verify".into(), json!({ "passed": false }));
    let error = wrong.verified().unwrap_err().to_string();
    assert!(error.contains("answers of run 3 are not verified"), "{error}");
    let mut other = side("b", 5, 1.0, 2);
    other.runs[0].insert("num_prompts".into(), json!(20));
    let table = compared(&side("a", 5, 1.0, 1), &other);
    let note = "not the same load: num_prompts is 10 and 20";
    assert!(table.notes.iter().any(|found| found == note), "{:?}", table.notes);
}
