//! The program of somebody who added a policy: every command knows it.

use std::process::{Command, Output};

fn run(words: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_own-policy")).args(words).output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output, said)
}

#[test]
fn the_policy_is_in_the_help_and_computes() {
    let (output, said) = run(&["serve", "--help"]);
    assert!(output.status.success() && said.contains("- lottery: by lot"), "{said}");
    let policy = ["--policy", "lottery tickets=5 victim=least-computed", "--seed", "1"];
    let (output, said) = run(&[&["generate", "Hello", "--max-tokens", "5"][..], &policy].concat());
    assert!(output.status.success(), "{said}");
    let (output, said) = run(&[&["config", "--check"][..], &policy].concat());
    assert!(output.status.success() && said.contains("These settings can work"), "{said}");
    let (output, said) = run(&["sim", "--num-prompts", "50", "--policy", "lottery tickets=5"]);
    assert!(output.status.success() && said.contains("Serving Benchmark Result"), "{said}");
}

#[test]
fn its_parameters_are_checked_like_those_of_any_other() {
    for (spec, message) in [
        ("lottery tickets=0", "tickets is \"0\" and must be a number from 1 to 1000000"),
        ("lottery tikets=2", "tikets is not a parameter of lottery (did you mean tickets?)"),
        ("lotery", "there is no policy \"lotery\" (did you mean lottery?)"),
    ] {
        let (output, said) = run(&["config", "--check", "--policy", spec]);
        assert!(!output.status.success() && said.contains(message), "{said}");
    }
}
