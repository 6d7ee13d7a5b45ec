//! The command line and the environment: the only place that reads either.
//!
//! Precedence is flag, then environment, then `folio.toml`, then the defaults below. The file
//! says the same things as the flags, so its values simply become the defaults. Flags that vLLM
//! users know keep their names and meaning.

mod access;
mod bench;
mod calibrate;
mod capacity;
mod decisions;
mod engine;
mod file;
mod http;
mod limits;
mod models;
mod policies;
mod profile;
mod report;
mod settings;
mod sim;
mod size;
mod sweep;
mod telemetry;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::locate::HubCache;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use folio_engine::sched::Registry;

pub(crate) use access::{AccessArgs, TlsArgs};
pub(crate) use bench::{
    AbArgs, BackendName, BenchArgs, BenchCommand, BenchServeArgs, CompareArgs, DatasetArgs,
    DatasetName, FigureArgs, JudgeArgs, LatencyArgs, OfflineArgs, SamplingArgs, SweepArgs,
    TargetArgs, ThroughputArgs, TrafficArgs,
};
pub(crate) use calibrate::CalibrateArgs;
pub(crate) use capacity::CapacityArgs;
pub(crate) use decisions::{ExplainArgs, ReplayArgs, TimelineArgs};
pub(crate) use engine::{Device, EngineArgs};
pub(crate) use http::HttpArgs;
pub(crate) use limits::{LimitArgs, Seconds};
pub(crate) use models::{Dtype, LoadFormat, ModelArgs};
pub(crate) use profile::ProfileArgs;
pub(crate) use report::ReportArgs;
pub(crate) use sim::{Dataset, SimArgs};
pub(crate) use size::Bytes;
pub(crate) use sweep::{SimCommand, SimCommandArgs, SimSweepArgs};
pub(crate) use telemetry::TelemetryArgs;

/// Serves chat and embeddings with continuous batching over one paged KV cache.
#[derive(Debug, Parser)]
#[command(name = "folio", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// File whose keys are the names of the flags [default: folio.toml, if it exists]
    #[arg(long, global = true, env = "FOLIO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve an OpenAI-compatible API over HTTP
    Serve(Box<ServeArgs>),
    /// Answer a prompt in the terminal
    Generate(Box<GenerateArgs>),
    /// Turn texts into vectors, one JSON line each
    Embed(Box<EmbedArgs>),
    /// Play a load through the scheduler on a simulated device: what a policy would have done
    Sim(Box<SimCommandArgs>),
    /// Measure a server, or the engine alone
    Bench(BenchArgs),
    /// Find the highest request rate at which simulated requests keep an objective
    Capacity(Box<CapacityArgs>),
    /// Make a page of HTML from the result files of runs
    Report(ReportArgs),
    /// Measure how long steps of many shapes take, and fit a cost model for the simulator
    Profile(Box<ProfileArgs>),
    /// Simulate a recorded run, and say how far a cost model is off and in which term
    Calibrate(Box<CalibrateArgs>),
    /// Print all settings of `serve` as a folio.toml, or check them
    Config(Box<ConfigArgs>),
    /// Say in words what a decision log tells: why requests waited, and for whom
    Explain(ExplainArgs),
    /// Draw a decision log as a trace for ui.perfetto.dev
    Timeline(TimelineArgs),
    /// Let the scheduler decide again what a decision log has, and compare
    Replay(ReplayArgs),
}

/// `folio serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Address of the server.
    #[command(flatten)]
    pub http: HttpArgs,
    /// What it tells about itself.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `folio config`.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// Say whether `serve` could start with these settings: files, keys, models, memory. Loads no
    /// weights
    #[arg(long)]
    pub check: bool,

    /// What flags, environment and file say.
    #[command(flatten)]
    pub serve: ServeArgs,

    /// The same as the text of a `folio.toml`.
    #[arg(skip)]
    pub settings: String,
}

/// `folio generate`.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// What to say to the model
    pub prompt: String,

    /// What to tell the model before it
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,

    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    pub raw: bool,

    /// Most tokens to generate [default: what the context leaves]
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens: Option<u32>,

    /// Randomness: 0 always takes the likeliest token; at most 2
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f32,

    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_parser = top_p)]
    pub top_p: f32,

    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `folio embed`.
#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// Texts to embed [default: the lines of the standard input]
    pub texts: Vec<String>,

    /// Print how similar the texts are to each other (the cosine) instead of their vectors
    #[arg(long)]
    pub similarity: bool,

    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl Cli {
    /// Reads the command line, the environment and the file. What is wrong with them, and the
    /// answers to `--help` and `--version`, come as an error to be shown.
    ///
    /// The help lists the policies of `registry`.
    pub(crate) fn read(
        args: impl IntoIterator<Item = OsString>,
        registry: &Registry,
    ) -> Result<Self, clap::Error> {
        let args: Vec<OsString> = args.into_iter().collect();
        let mut command = policies::listed(Self::command(), registry);
        if let Some(path) = file::path(command.clone(), &args) {
            command = file::with_defaults(command, &path)?;
        }
        let matches = command.try_get_matches_from_mut(args)?;
        let mut cli =
            Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if let (Command::Config(args), Some((_, given))) = (&mut cli.command, matches.subcommand())
        {
            let mut pristine = Self::command();
            pristine.build();
            args.settings = settings::file(&pristine, given);
        }
        Ok(cli)
    }
}

/// Where the tools of the Hugging Face hub keep what they download.
pub(crate) fn hub_cache() -> HubCache {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    HubCache {
        hub_cache: variable("HF_HUB_CACHE"),
        hf_home: variable("HF_HOME"),
        cache_home: variable("XDG_CACHE_HOME"),
        home: variable("HOME"),
    }
}

/// What a body's `temperature` may be.
fn temperature(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=2.0).contains(value));
    value.ok_or_else(|| "must be a number from 0 to 2".to_owned())
}

/// What a body's `top_p` may be.
fn top_p(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= 1.0);
    value.ok_or_else(|| "must be a number above 0 and at most 1".to_owned())
}
