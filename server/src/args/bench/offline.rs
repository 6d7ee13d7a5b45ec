//! Flags of what needs no server: the engine in this very process.

use std::path::PathBuf;

use clap::Args;

use crate::args::{EngineArgs, ModelArgs};

/// What both have in common.
#[derive(Args, Debug)]
pub(crate) struct OfflineArgs {
    /// What prompts follow from
    #[arg(long, default_value_t = 0)]
    pub prompt_seed: u64,

    /// Write the result to a JSON file
    #[arg(long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,

    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `folio bench throughput`.
#[derive(Args, Debug)]
pub(crate) struct ThroughputArgs {
    /// Requests, all submitted at the start
    #[arg(long, default_value_t = 1000)]
    pub num_prompts: usize,

    /// Tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub input_len: u32,

    /// Tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub output_len: u32,

    /// Lengths are uniform from (1 - RATIO) to (1 + RATIO) times the above
    #[arg(long, value_name = "RATIO", default_value_t = 0.0)]
    pub random_range_ratio: f64,

    /// The rest.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// `folio bench latency`.
#[derive(Args, Debug)]
pub(crate) struct LatencyArgs {
    /// Tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 32)]
    pub input_len: u32,

    /// Tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub output_len: u32,

    /// Requests of a batch
    #[arg(long, value_name = "REQUESTS", default_value_t = 8)]
    pub batch_size: usize,

    /// Batches before the measurement
    #[arg(long, value_name = "BATCHES", default_value_t = 10)]
    pub num_iters_warmup: usize,

    /// Batches that are measured
    #[arg(long, value_name = "BATCHES", default_value_t = 30)]
    pub num_iters: usize,

    /// The rest.
    #[command(flatten)]
    pub offline: OfflineArgs,
}
