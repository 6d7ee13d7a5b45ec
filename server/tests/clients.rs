//! The real program, the built-in models and the official clients, as users run them.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says so when it cannot run"
)]

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
        let mut child = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["serve", "--port", "0", "--api-key", KEY])
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

/// Python with the official clients, which `scripts/test` sets up.
fn python() -> Option<PathBuf> {
    let python = workspace().join(".cache/clients/bin/python");
    if python.exists() {
        return Some(python);
    }
    println!("not run: {} does not exist; scripts/test makes it", python.display());
    None
}

#[test]
fn the_openai_client_for_python_works_unmodified() {
    let Some(python) = python() else { return };
    let server = Server::start();
    let script = workspace().join("server/tests/clients/openai_client.py");
    let base_url = format!("http://{}/v1", server.address);
    let output = Command::new(python)
        .arg(script)
        .args([&base_url, KEY, "folio-tiny", "folio-tiny-e5"])
        .output()
        .expect("python runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.starts_with("ok: "), "{stdout}");
}

#[test]
fn generate_answers_in_the_terminal() {
    let output = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args(["generate", "What is PagedAttention?", "--temperature", "0"])
        .output()
        .expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("block"), "an answer about blocks of the KV cache, not {text:?}");
}
