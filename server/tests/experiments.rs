//! `folio sim sweep`, `folio report` and `folio capacity` as users run them.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of a test, gone when dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("folio-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a place");
        Self(place)
    }

    fn folio(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(args)
            .current_dir(&self.0)
            .output()
            .expect("the program runs")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        let path = self.0.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The message of a command that must fail, in one line of words.
fn complaint(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const SWEEP: &str = r#"
title = "A small one"
[sweep]
policies = ["fcfs", "sjf"]
loads = [0.8, 1.2]
seeds = 3
[run]
dataset-name = "random"
random-range-ratio = 0.9
num-prompts = 60
goodput = ["ttft:1000"]
"#;

#[test]
fn a_sweep_says_the_same_with_any_number_of_threads() {
    let place = Place::new("threads");
    place.write("e.toml", SWEEP);
    succeeds(&place.folio(&["sim", "sweep", "e.toml", "--threads", "1", "--output", "one"]));
    succeeds(&place.folio(&["sim", "sweep", "e.toml", "--threads", "3", "--output", "three"]));
    for file in ["comparisons.csv", "report.html", "report-figures/ttft-by-rate.csv"] {
        let of = |directory: &str| place.read(&Path::new(directory).join(file).to_string_lossy());
        assert!(of("one") == of("three"), "{file} differs");
    }
}

#[test]
fn a_sweep_runs_only_what_has_no_result_from_the_same_inputs() {
    let place = Place::new("kept");
    place.write("e.toml", SWEEP);
    let sweep =
        |args: &[&str]| succeeds(&place.folio(&[&["sim", "sweep", "e.toml"], args].concat()));
    assert!(sweep(&[]).contains(": 12 runs, "));
    assert!(sweep(&[]).contains(": 12 runs (12 kept), "));
    assert!(sweep(&["--fresh"]).contains(": 12 runs, "));
    place.write("e.toml", &SWEEP.replace("num-prompts = 60", "num-prompts = 61"));
    assert!(sweep(&[]).contains(": 12 runs, "));
}

#[test]
fn what_is_wrong_with_an_experiment_is_said_before_anything_runs() {
    let place = Place::new("wrong");
    let cases = [
        ("policies = [\"fcfs\", \"sjf\"]", "policies = [\"fcfs\", \"sjf agein=3\"]", "agein"),
        ("num-prompts = 60", "num-promts = 60", "--num-promts"),
        ("num-prompts = 60", "num-prompts = \"many\"", "many"),
        ("num-prompts = 60", "save-result = true\nresult-filename = [\"a\", \"b\"]", "b"),
        ("loads = [0.8, 1.2]", "loads = [0.8, -1.2]", "e.toml: sweep.loads = -1.2: must be"),
        ("seeds = 3", "seeds = 3\nsedes = 4", "unknown field `sedes`"),
    ];
    for (old, new, wanted) in cases {
        place.write("e.toml", &SWEEP.replace(old, new));
        let message = complaint(&place.folio(&["sim", "sweep", "e.toml"]));
        assert!(message.contains(wanted), "{new}: {message}");
    }
    let message = complaint(&place.folio(&["sim", "sweep", "nowhere.toml"]));
    assert!(message.contains("nowhere.toml"), "{message}");
}

#[test]
fn a_capacity_is_found_and_proven_or_said_not_to_exist() {
    let place = Place::new("capacity");
    let load = ["--dataset-name", "random", "--num-prompts", "60", "--seeds", "2"];
    let capacity = |args: &[&str]| place.folio(&[&["capacity"], &load[..], args].concat());
    let found = succeeds(&capacity(&["--goodput", "ttft:500", "--report", "c.html"]));
    assert!(found.starts_with("Capacity: ") && found.contains("worst of 2 seeds"), "{found}");
    assert!(place.read("c.html").contains("<svg "));
    assert!(place.read("c-figures/attainment.csv").lines().count() > 5);
    let none = succeeds(&capacity(&["--goodput", "ttft:0.001"]));
    assert!(none.starts_with("No capacity: "), "{none}");
    assert!(complaint(&capacity(&[])).contains("--goodput must say"));
    let rate = complaint(&capacity(&["--goodput", "ttft:500", "--request-rate", "3"]));
    assert!(rate.contains("--request-rate cannot be given"), "{rate}");
}

#[test]
fn a_report_names_what_it_cannot_read() {
    let place = Place::new("report");
    place.write("other.json", "{\"a\": 1}");
    place.write("vllm.json", "{\"backend\": \"vllm\", \"mean_ttft_ms\": 3.0, \"request_rate\": 2}");
    let message = complaint(&place.folio(&["report", "other.json"]));
    assert!(message.contains("other.json is not a result file: it has neither"), "{message}");
    // In a directory, others are passed over.
    let output = place.folio(&["report", ".", "--output", "page.html"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("passed over: "));
    assert!(succeeds(&output).starts_with("page.html: 1 results, "));
    assert!(place.read("page.html").contains("vllm"));
    let message = complaint(&place.folio(&["report", "vllm.json", "--baseline", "sjf"]));
    assert!(message.contains("\"sjf\"") && message.contains("vllm"), "{message}");
}
