//! A made-up CUDA driver, and processes that find it before any other.

use std::path::PathBuf;
use std::process::Command;

/// The environment variable that names the case to a process.
pub(crate) const CASE: &str = "FAKE_CUDA_CASE";
/// The environment variable that names the file where the driver notes its calls.
pub(crate) const LOG: &str = "FAKE_CUDA_LOG";

/// Runs a case with the driver that these macros make of it.
pub(crate) fn run(case: &str, macros: &[&str]) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-cuda-{case}"));
    std::fs::create_dir_all(&folder).unwrap();
    compile(&folder, macros);
    let log = folder.join("log");
    std::fs::write(&log, "").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["case", "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", &folder)
        .env(CASE, case)
        .env(LOG, &log)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(text.contains("1 passed"), "the case did not run:\n{text}");
}

/// Both libraries under the names that are looked for first, so that a real one is not found.
fn compile(folder: &std::path::Path, macros: &[&str]) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_cuda/cuda.c");
    let library = folder.join("libcuda.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(source)
        .args(macros.iter().map(|name| format!("-D{name}")))
        .arg("-lm")
        .status()
        .unwrap();
    assert!(status.success(), "the C compiler failed");
    // One file for both, so that they know the same streams.
    let _ = std::fs::remove_file(folder.join("libcublasLt.so"));
    std::fs::hard_link(&library, folder.join("libcublasLt.so")).unwrap();
}

/// What the driver noted so far.
pub(crate) fn log() -> String {
    std::fs::read_to_string(std::env::var(LOG).unwrap()).unwrap()
}

/// Begins the notes anew.
pub(crate) fn clear_log() {
    std::fs::write(std::env::var(LOG).unwrap(), "").unwrap();
}

/// The number of the stream that was made last.
pub(crate) fn last_stream(log: &str) -> String {
    let line = log.lines().rfind(|line| line.starts_with("stream ")).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}
