//! `folio sim` as its users run it: the program in a directory of its own.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// An empty directory, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("folio-sim-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// `folio sim` with these words, in the directory.
    fn sim(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
        command.arg("sim").args(words).current_dir(&self.0).env_clear();
        command.output().expect("the program runs")
    }

    fn table(&self, words: &[&str]) -> String {
        let output = self.sim(words);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn error(&self, words: &[&str]) -> String {
        let output = self.sim(words);
        assert!(!output.status.success(), "{words:?} went well");
        String::from_utf8(output.stderr).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn value(table: &str, name: &str) -> String {
    let line = table.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name:?} in\n{table}"))[name.len()..].trim().to_owned()
}

#[test]
fn it_runs_without_any_argument() {
    let folder = Folder::new("plain");
    let table = folder.table(&[]);
    assert_eq!(value(&table, "Successful requests:"), "5000");
    assert_eq!(value(&table, "Policy:"), "fcfs");
    assert_eq!(value(&table, "Cost model:"), "roofline:h100");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "nothing is written unasked");
}

#[test]
fn a_result_is_the_same_to_the_byte_and_has_its_tables_beside_it() {
    let folder = Folder::new("result");
    for name in ["a/first.json", "a/second.json"] {
        folder.table(&[
            "--num-prompts=400",
            "--request-rate=30",
            "--burstiness=0.5",
            "--seed=7",
            "--save-result",
            "--save-detailed",
            "--result-dir=.",
            "--result-filename",
            name,
            "--goodput",
            "ttft:200",
            "tpot:20",
            "--metadata",
            "who=me",
            "--policy=sjf",
        ]);
    }
    assert_eq!(folder.read("a/first.json"), folder.read("a/second.json"));
    let result: serde_json::Value = serde_json::from_str(&folder.read("a/first.json")).unwrap();
    assert_eq!(result["simulated"], true);
    assert_eq!(result["policy"], "sjf");
    assert_eq!(result["request_rate"], 30.0);
    assert_eq!(result["who"], "me");
    assert_eq!(result["ttfts"].as_array().unwrap().len(), 400);
    assert!(result["request_goodput"].as_f64().unwrap() > 0.0);
    assert_eq!(folder.read("a/first.requests.csv").lines().count(), 401);
    assert!(folder.read("a/first.series.csv").starts_with("time_s,"));
}

#[test]
fn a_trace_is_played_at_the_rate_and_length_asked_for() {
    let folder = Folder::new("trace");
    folder.write(
        "t.csv",
        "arrival_s,tenant,input_tokens,output_tokens\n0,0,100,10\n1,1,200,20\n2,0,0,5\n3,1,50,5\n",
    );
    let output = folder.sim(&["--trace=t.csv"]);
    assert_eq!(value(&String::from_utf8(output.stdout).unwrap(), "Successful requests:"), "3");
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("4 read, 3 kept, dropped: 1 empty-prompt"), "{notes}");
    // Two gaps in three seconds; at six requests a second the whole is over soon.
    let table = folder.table(&["--trace=t.csv", "--rate=6", "--num-prompts=900"]);
    assert_eq!(value(&table, "Successful requests:"), "900");
    assert_eq!(value(&table, "Total input tokens:"), (300 * 350).to_string());
    let duration: f64 = value(&table, "Benchmark duration (s):").parse().unwrap();
    assert!((duration - 150.0).abs() < 1.0, "{duration}");
    assert_eq!(value(&table, "Tenants:"), "2");
}

#[test]
fn several_engines_share_the_load() {
    let folder = Folder::new("cluster");
    let load = ["--dataset-name=random", "--num-prompts=200", "--request-rate=40"];
    for router in ["round-robin", "least-tokens", "e2", "prefill-decode"] {
        let mut words = load.to_vec();
        words.extend(["--instances=3", "--router", router]);
        let table = folder.table(&words);
        assert_eq!(value(&table, "Successful requests:"), "200");
        assert_eq!(value(&table, "Engines:"), "3");
    }
}

#[test]
fn a_decision_log_can_be_replayed() {
    let folder = Folder::new("log");
    folder.table(&["--num-prompts=200", "--rate=40", "--decision-log=run.log", "--policy=vtc"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
    command.args(["replay", "run.log"]).current_dir(&folder.0).env_clear();
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// What is wrong, where, and what would be right.
#[test]
fn wrong_arguments_are_named_with_what_would_be_right() {
    let folder = Folder::new("errors");
    folder.write("bad.csv", "arrival_s,tenant,input_tokens,output_tokens\n0,0,1,1\nsoon,0,1,1\n");
    folder.write("lengths.csv", "num_prefill_tokens,num_decode_tokens\n3,4\n");
    folder.write("none.csv", "arrival_s,tenant,input_tokens,output_tokens\n0,0,0,1\n");
    folder.write("odd.txt", "what is this\n");
    let cases: [(&[&str], &str); 17] = [
        (&["--trace=bad.csv"], "bad.csv, row 3, arrival_s: \"soon\" must be a number of seconds"),
        (&["--trace=nowhere.csv"], "nowhere.csv: No such file"),
        (&["--trace=odd.txt"], "odd.txt: no known format of a trace begins like this"),
        (&["--trace=none.csv"], "the load has no requests: 1 read, 0 kept, dropped: 1 empty-pro"),
        (&["--trace=lengths.csv", "--rate=3"], "this one has no times: use --request-rate"),
        (&["--trace=bad.csv", "--trace-format=odd"], "must be one of azure, mooncake"),
        (&["--policy=soon"], "soon"),
        (&["--cost=roofline:h99"], "the device `h99` is not known; there are h100"),
        (&["--model=llama-9"], "llama-9"),
        (&["--model=llama-3-70b"], "does not fit into the memory of roofline:h100"),
        (&["--rate=0"], "must be a number above 0"),
        (&["--goodput", "ttft=5"], "must be ttft, tpot or e2el, a colon and a number of"),
        (&["--percentile-metrics=speed"], "must be one of ttft, tpot, itl, e2el"),
        (&["--metric-percentiles=101"], "must be a number from 0 to 100"),
        (&["--max-num-seqs=0"], "max_num_seqs = 0: must be at least 1"),
        (&["--router=e2"], "--router e2 has nothing to choose from: --instances must be at"),
        (
            &["--instances=2", "--router=prefill-decode", "--prefill-instances=2"],
            "--prefill-instances = 2: must leave one of --instances = 2",
        ),
    ];
    for (words, expected) in cases {
        let message = folder.error(words);
        assert!(message.contains(expected), "{words:?}: {message}");
        assert!(!message.contains("panicked"), "{words:?}: {message}");
    }
}
