//! Flags of the commands that read a decision log.

use std::path::PathBuf;

use clap::Args;

/// `folio explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Decision log, as `serve --decision-log` or `sim --decision-log` wrote it
    pub log: PathBuf,

    /// Tell the story of one request: its X-Request-Id, or its number in the log [default: sum the
    /// log up]
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,

    /// Requests that are listed in tables
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub top: usize,

    /// Print the sums as JSON
    #[arg(long, conflicts_with = "request")]
    pub json: bool,
}

/// `folio timeline`.
#[derive(Args, Debug)]
pub(crate) struct TimelineArgs {
    /// Decision log, as `serve --decision-log` or `sim --decision-log` wrote it
    pub log: PathBuf,

    /// File for the trace; - for the standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,

    /// Begin so many seconds after the zero of the log
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    pub from: f64,

    /// End so many seconds after the zero of the log [default: at its end]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub to: Option<f64>,

    /// Requests that get a track, each choice by itself; later ones are left out
    #[arg(long, value_name = "NUMBER", default_value_t = 2000)]
    pub max_requests: u32,

    /// Steps that are drawn; the trace ends where there are more
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    pub max_steps: u32,
}

/// `folio replay`.
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// Decision log, as `serve --decision-log` or `sim --decision-log` wrote it
    pub log: PathBuf,

    /// Decide by this policy instead of the log's, and show where it first decides otherwise
    #[arg(long, visible_alias = "scheduling-policy", value_name = "SPEC")]
    pub policy: Option<String>,
}

/// A moment of a log.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds.ok_or_else(|| "must be a number of seconds from 0 to 1000000000".to_owned())
}
