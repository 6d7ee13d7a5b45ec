//! `folio serve` as a process: its beginning, its signals, its end.

#![cfg(unix)]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

const FIRST: &str = "sk-the-first-key-of-all";
const SECOND: &str = "sk-the-key-that-follows";

/// A running `folio serve`, killed when dropped.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["serve", "--port", "0"])
            .args(args)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut server = Self { child, output, address: String::new() };
        let line = server.line_with("Listening on http://");
        let (_, address) = line.split_once("://").expect("an address");
        address.trim().clone_into(&mut server.address);
        server
    }

    /// Reads the output up to the next line with `text` in it.
    fn line_with(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let num = self.output.read_line(&mut line).expect("UTF-8");
            assert!(num > 0, "ended without {text:?}:\n{seen}");
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// Sends a request; its answer is read by [`status`] or [`rest`].
    fn open(&self, head: &str, key: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let text = format!(
            "{head} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).expect("the request is sent");
        stream
    }

    fn status(&self, path: &str, key: &str) -> u16 {
        let answer = rest(self.open(&format!("GET {path}"), key, ""));
        answer.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8 to the end");
    answer
}

/// A file that is removed when dropped.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("folio-{}-{name}", std::process::id())));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("the file is written");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn key_file(key: &str) -> String {
    format!("[[key]]\nname = \"tests\"\nkey = \"{key}\"\n")
}

#[test]
fn the_key_file_is_read_again_on_sighup() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = TempFile::new("keys.toml", &key_file(FIRST));
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(file.path(), open).expect("permissions");
    let mut server = Server::start(&["--api-key-file", file.path()]);
    assert_eq!(server.status("/v1/models", FIRST), 200);
    assert_eq!(server.status("/v1/models", SECOND), 401);
    file.write(&key_file(SECOND));
    server.signal("HUP");
    server.line_with("Warning: others may read");
    server.line_with("Read again: keys");
    assert_eq!(server.status("/v1/models", FIRST), 401);
    assert_eq!(server.status("/v1/models", SECOND), 200);
    for bad in ["", "[[key]]\nname = \"tests\"\n", &key_file("short")] {
        file.write(bad);
        server.signal("HUP");
        let line = server.line_with("Kept the keys as before");
        assert!(line.contains(file.path()) || bad.is_empty(), "{line}");
        assert_eq!(server.status("/v1/models", SECOND), 200);
    }
}

#[test]
fn a_key_file_that_cannot_be_used_is_refused_at_the_start() {
    let priority = format!("{}priority = 3\n", key_file(FIRST));
    for (text, expected) in [
        ("", "no key"),
        ("[[key]]\nname = \"tests\"\nkey = \"short\"\n", "line 1"),
        (priority.as_str(), "--scheduling-policy priority"),
    ] {
        let file = TempFile::new("bad-keys.toml", text);
        let output = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["serve", "--port", "0", "--api-key-file", file.path()])
            .output()
            .expect("the program runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected) && stderr.contains("--api-key-file"), "{stderr}");
    }
}

/// Work for far longer than a test may take, and longer than sockets buffer is never asked for.
const ENDLESS: &str = r#"{"model": "folio-tiny", "prompt": "Once", "n": 64, "stream": true,
    "ignore_eos": true, "max_tokens": 900}"#;

#[test]
fn what_runs_when_the_time_to_drain_is_over_is_cut_off_with_an_error() {
    let mut server = Server::start(&["--drain-timeout", "0"]);
    let mut stream = server.open("POST /v1/completions", "", ENDLESS);
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("the answer begins");
    server.signal("TERM");
    server.line_with("cutting off");
    let answer = rest(stream);
    let tail = answer.get(answer.len().saturating_sub(400)..).unwrap_or(&answer);
    assert!(tail.contains("\"code\":\"shutting_down\""), "{tail}");
    assert!(tail.contains("data: [DONE]"), "{tail}");
    let status = server.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_runs_is_finished_when_there_is_time() {
    let mut server = Server::start(&["--drain-timeout", "3600"]);
    let body = r#"{"model": "folio-tiny", "prompt": "Once", "stream": true, "ignore_eos": true,
        "max_tokens": 100}"#;
    let mut stream = server.open("POST /v1/completions", "", body);
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("the answer begins");
    server.signal("TERM");
    server.line_with("Stopping when all work is done");
    let answer = rest(stream);
    assert!(answer.contains("\"finish_reason\":\"length\""), "{answer}");
    let status = server.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

fn folio(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_folio")).args(args).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn what_the_scheduler_decides_can_be_explained_drawn_and_decided_again() {
    let (log, trace) = (TempFile::new("d.log", ""), TempFile::new("d.json", ""));
    let mut server = Server::start(&["--decision-log", log.path(), "--max-num-seqs", "2"]);
    let body = r#"{"model": "folio-tiny", "prompt": "Once", "ignore_eos": true, "max_tokens": 60}"#;
    let answers = ["one", "two", "three", "four"].map(|name| {
        server.open(
            &format!("POST /v1/completions HTTP/1.1\r\nx-request-id: {name}\r\nx:"),
            "",
            body,
        )
    });
    for answer in answers {
        assert!(rest(answer).contains("\"finish_reason\":\"length\""));
    }
    server.signal("TERM");
    server.child.wait().expect("it ends");
    let (is_well, text) = folio(&["replay", log.path()]);
    assert!(is_well && text.contains("4 requests") && text.contains("in the same way"), "{text}");
    let (is_well, text) = folio(&["explain", log.path()]);
    assert!(is_well && text.contains("4 requests") && text.contains("max_num_seqs"), "{text}");
    let (is_well, text) = folio(&["explain", log.path(), "--request", "three"]);
    assert!(is_well && text.contains("(three)") && text.contains("60 tokens"), "{text}");
    let (is_well, text) = folio(&["explain", log.path(), "--request", "five"]);
    assert!(!is_well && text.contains("no request \"five\""), "{text}");
    let (is_well, text) = folio(&["timeline", log.path(), "-o", trace.path()]);
    assert!(is_well && text.contains("4 tracks"), "{text}");
    let trace = std::fs::read(&trace.0).expect("the trace");
    assert!(serde_json::from_slice::<serde_json::Value>(&trace).is_ok());
}

#[test]
fn what_is_no_decision_log_is_refused_with_the_place() {
    let file = TempFile::new("not.log", "folio decision log 9\n");
    for command in ["explain", "replay"] {
        let (is_well, text) = folio(&[command, file.path()]);
        assert!(!is_well && text.contains("byte 19: version \"9\""), "{text}");
        let (is_well, text) = folio(&[command, "/nowhere.log"]);
        assert!(!is_well && text.contains("/nowhere.log: cannot be opened"), "{text}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--drain-timeout", "3600"]);
    let mut stream = server.open("POST /v1/completions", "", ENDLESS);
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("the answer begins");
    server.signal("TERM");
    server.line_with("Stopping when all work is done");
    server.signal("TERM");
    server.line_with("Stopped with requests unfinished");
    let status = server.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn tls_files_that_cannot_be_used_are_refused_at_the_start() {
    let file = TempFile::new("no-cert.pem", "nothing");
    for (args, expected) in [
        (vec!["--tls-cert", file.path()], "--tls-key"),
        (vec!["--tls-cert", file.path(), "--tls-key", file.path()], file.path()),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["serve", "--port", "0"])
            .args(args)
            .output()
            .expect("the program runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(stderr.contains(expected), "{stderr}");
    }
}
