//! Flags of `folio bench`: names, meanings and defaults are those of `vllm bench` where that has
//! them.

mod compare;
mod dataset;
mod figures;
mod offline;
mod target;
mod traffic;

use std::ffi::OsString;

use clap::{Args, Subcommand};

pub(crate) use compare::{AbArgs, CompareArgs, JudgeArgs, SweepArgs};
pub(crate) use dataset::{DatasetArgs, DatasetName};
pub(crate) use figures::FigureArgs;
pub(crate) use offline::{LatencyArgs, OfflineArgs, ThroughputArgs};
pub(crate) use target::{BackendName, TargetArgs};
pub(crate) use traffic::{SamplingArgs, TrafficArgs};

/// `folio bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Put load on a server over HTTP and measure latency, throughput and goodput
    Serve(Box<BenchServeArgs>),
    /// The same for embeddings: texts of --input-len tokens (128), --random-batch-size a request
    Embed(Box<BenchServeArgs>),
    /// Run the same load at several rates, or with several numbers of requests in flight
    Sweep(Box<SweepArgs>),
    /// Say whether results are faster than others, slower, or nobody can tell
    Compare(CompareArgs),
    /// Put the same load on two servers in turn, and compare them
    Ab(Box<AbArgs>),
    /// Offline, without a server: tokens a second of all requests at once
    Throughput(Box<ThroughputArgs>),
    /// Offline, without a server: how long a batch takes
    Latency(Box<LatencyArgs>),
}

/// `folio bench serve`.
#[derive(Args, Debug)]
pub(crate) struct BenchServeArgs {
    /// Which server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Which requests.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// How they are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// When they are sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// What is found out and where it goes.
    #[command(flatten)]
    pub figures: FigureArgs,

    /// With --spawn: flags of `folio serve`, after `--`
    #[arg(last = true, value_name = "SERVE_FLAGS", requires = "spawn")]
    pub serve_args: Vec<OsString>,
}
