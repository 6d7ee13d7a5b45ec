//! A server of this very program, for as long as a benchmark takes.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::sync::oneshot;

use super::error::BenchError;

/// A running `folio serve`, ended when dropped.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
    url: String,
}

impl Spawned {
    /// Starts `program serve` with `args` on a free port and waits until it can be used.
    ///
    /// # Errors
    /// [`BenchError::Server`] if it ends before that; it has said why on the standard error.
    pub async fn start(program: &Path, args: &[OsString]) -> Result<Self, BenchError> {
        let fail = |why: String| BenchError::Server(format!("--spawn: {why}"));
        let mut command = Command::new(program);
        let says_how_to_log =
            |arg: &OsString| arg.to_str().is_some_and(|arg| arg.starts_with("--log-level"));
        command.arg("serve");
        if !args.iter().any(says_how_to_log) {
            // A line for each request would bury the figures.
            command.args(["--log-level", "warn"]);
        }
        let mut child = command
            .args(args)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| fail(error.to_string()))?;
        let stdout = child.stdout.take().ok_or_else(|| fail("no output".to_owned()))?;
        let (found, address) = oneshot::channel();
        // Reads on to the end, so that the server is never held up by a full pipe.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let url = lines.find_map(|line| url(&line));
            if let Some(url) = url {
                let _ = found.send(url);
            }
            lines.for_each(drop);
        });
        let mut spawned = Self { child, url: String::new() };
        match address.await {
            Ok(url) => spawned.url = url,
            Err(_) => return Err(fail("the server ended before it could be used".to_owned())),
        }
        Ok(spawned)
    }

    /// Where it is, as `http://127.0.0.1:40123`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // Nobody uses it any more, so nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's address, in the line that says that it is ready.
fn url(line: &str) -> Option<String> {
    line.strip_prefix("Listening on ").map(|url| url.trim().to_owned())
}
