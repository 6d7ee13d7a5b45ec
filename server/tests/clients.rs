//! The real program, the built-in models and the official clients, as users run them.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says so when it cannot run"
)]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const KEY: &str = "sk-test";

/// A running `folio serve`, killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["serve", "--port", "0", "--api-key", KEY])
            .args(args)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(stdout).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.expect("UTF-8");
            line.split_whitespace()
                .find_map(|word| word.strip_prefix("http://"))
                .map(|address| address.trim_end_matches(['/', ',', '.']).to_owned())
        });
        // Keep reading, so that the server never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("a line that says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Python with the clients' packages, and Node beside its own; `scripts/test` sets both up.
fn python() -> Option<Command> {
    let python = workspace().join(".cache/clients/bin/python");
    is_there(&python).then(|| Command::new(python))
}

fn node() -> Option<Command> {
    let packages = workspace().join(".cache/clients-node/node_modules");
    is_there(&packages).then(|| {
        let mut node = Command::new("node");
        node.env("NODE_PATH", packages);
        node
    })
}

fn is_there(path: &Path) -> bool {
    if !path.exists() {
        println!("not run: {} does not exist; scripts/test makes it", path.display());
    }
    path.exists()
}

/// Runs a script of a client against a server of the built-in models.
fn runs(command: Option<Command>, script: &str) {
    let Some(command) = command else { return };
    let server = Server::start();
    let url = format!("http://{}/v1", server.address);
    let script = workspace().join("server/tests/clients").join(script);
    succeeds(command, &script, [&url, KEY, "folio-tiny", "folio-tiny-e5"]);
}

/// Runs a script, which must end well and say so in a line that begins with `ok: `.
fn succeeds<A: AsRef<OsStr>>(
    mut command: Command,
    script: &Path,
    args: impl IntoIterator<Item = A>,
) {
    let output = command.arg(script).args(args).output().expect("the script runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    // Some packages have more to say.
    assert!(stdout.lines().any(|line| line.starts_with("ok: ")), "{stdout}");
}

#[test]
fn the_openai_client_for_python_works_unmodified() {
    runs(python(), "openai_client.py");
}

#[test]
fn vllms_benchmark_can_measure_it() {
    runs(python(), "vllm_bench.py");
}

#[test]
fn the_openai_client_for_python_makes_responses() {
    runs(python(), "openai_responses.py");
}

/// A short run of `scripts/api_fuzz`, always the same.
#[test]
fn a_property_based_tester_finds_nothing() {
    if !is_there(&workspace().join(".cache/fuzz/bin/schemathesis")) {
        return;
    }
    let output = Command::new(workspace().join("scripts/api_fuzz"))
        .args(["3", "1"])
        .env("FOLIO_BIN", env!("CARGO_BIN_EXE_folio"))
        .output()
        .expect("bash runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
}

#[test]
fn the_openai_client_for_node_works_unmodified() {
    runs(node(), "openai_client.mjs");
}

#[test]
fn langchain_works_unmodified() {
    runs(python(), "langchain_client.py");
}

#[test]
fn litellm_works_unmodified() {
    runs(python(), "litellm_client.py");
}

/// Every schema of the corpus, on the built-in model and on one whose weights are random.
#[test]
fn structured_answers_are_valid_for_an_independent_validator() {
    let Some(mut validator) = python() else { return };
    let has_validator = validator.args(["-c", "import jsonschema"]).status();
    if !has_validator.is_ok_and(|status| status.success()) {
        println!("not run: no jsonschema in .cache/clients; scripts/test installs it");
        return;
    }
    let folio_tiny = workspace().join("server/builtin/folio-tiny");
    let random = ["--load-format", "dummy", "--model", folio_tiny.to_str().expect("UTF-8")];
    for args in [&[], random.as_slice()] {
        let server = Server::with(args);
        let url = format!("http://{}/v1", server.address);
        let script = workspace().join("scripts/check_structured.py");
        let args = [&url, "folio-tiny", "--key", KEY, "--tokens", "300"];
        succeeds(python().expect("it was there"), &script, args);
    }
}

#[test]
fn a_router_can_follow_the_prefix_cache() {
    let Some(python) = python() else { return };
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("tcp://{}", listener.local_addr().expect("its address"))
    };
    let (events, replay) = (free(), free());
    let config = format!(
        "{{\"enable_kv_cache_events\": true, \"topic\": \"kv@test\", \
         \"endpoint\": \"{events}\", \"replay_endpoint\": \"{replay}\"}}"
    );
    // A small pool, so that content is evicted.
    let server = Server::with(&["--num-blocks", "128", "--kv-events-config", &config]);
    let url = format!("http://{}/v1", server.address);
    let script = workspace().join("server/tests/clients/kv_events_client.py");
    succeeds(python, &script, [&url, KEY, "folio-tiny", &events, &replay]);
}

/// Two workers of `scripts/ray_batch.py`, killed while they work.
#[test]
fn a_batch_on_ray_loses_nothing() {
    let python = workspace().join(".cache/ray/bin/python");
    if !is_there(&python) {
        return;
    }
    let directory = std::env::temp_dir().join(format!("folio-ray-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let script = workspace().join("server/tests/ray/loses_nothing.py");
    let ray_batch = workspace().join("scripts/ray_batch.py");
    let args = [Path::new(env!("CARGO_BIN_EXE_folio")), &ray_batch, &directory];
    succeeds(Command::new(python), &script, args);
    let _ = std::fs::remove_dir_all(&directory);
}

fn folio(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_folio")).args(args).output().expect("the program runs")
}

/// The README's first command, and what it says stays the same.
#[test]
fn generate_answers_in_the_terminal() {
    let [first, second] = [(), ()].map(|()| folio(&["generate", "What is PagedAttention?"]));
    let text = String::from_utf8(first.stdout).expect("UTF-8");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(text.contains("block"), "an answer about blocks of the KV cache, not {text:?}");
    assert_eq!(text.as_bytes(), second.stdout);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for command in ["generate", "embed"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args([command, "hello"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("error"), "{command}: {stderr}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_by_its_flag() {
    // A decoder's directory; of its weights only the configuration is looked at.
    let decoder = workspace().join("server/builtin/folio-tiny");
    let decoder = decoder.to_str().expect("UTF-8");
    for (args, expected) in [
        (vec!["--embedding-model", decoder], vec!["--embedding-model", "decoder", "folio-tiny"]),
        (vec!["--served-model-name", "x,x"], vec!["--served-model-name", "x is given twice"]),
        (vec!["--served-model-name", "a,"], vec!["--served-model-name", "name 2 of 2 is empty"]),
        (
            vec!["--served-model-name", "x", "--served-embedding-model-name", "x"],
            vec!["--served-embedding-model-name", "two models", "\"x\""],
        ),
        (vec!["--tool-call-parser", "x"], vec!["--tool-call-parser \"x\"", "hermes"]),
        (vec!["--reasoning-parser", "x"], vec!["--reasoning-parser \"x\"", "deepseek_r1"]),
        (
            vec!["--enable-auto-tool-choice", "--tool-call-parser", "none"],
            vec!["--enable-auto-tool-choice", "--tool-call-parser"],
        ),
        (vec!["--block-size", "0"], vec!["block_size", "from 1 to 1024"]),
        (vec!["--num-blocks", "0"], vec!["--num-blocks", "at least 1"]),
    ] {
        let args: Vec<_> = ["serve", "--port", "0"].into_iter().chain(args).collect();
        let output = folio(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        for word in expected {
            assert!(stderr.contains(word), "{args:?}: {word} is not in {stderr}");
        }
    }
}
