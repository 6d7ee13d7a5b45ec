//! Flags of what measures more than once.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{DatasetArgs, FigureArgs, SamplingArgs, TargetArgs, TrafficArgs};

/// How two sides are judged.
#[derive(Args, Debug)]
#[command(next_help_heading = "Verdict")]
pub(crate) struct JudgeArgs {
    /// Differences below this share do not matter
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub margin: f64,

    /// Measures to compare, as result files call them, with commas [default: throughput, goodput,
    /// and mean and p99 latencies from the scheduled time]. The more there are, the wider the
    /// intervals
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub metrics: Vec<String>,

    /// Write the verdicts to a JSON file
    #[arg(long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}

/// `folio bench compare`.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Result files: the first is the baseline of all others. Repetitions are further lines of a
    /// file, as --append-result writes them
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// How they are judged.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `folio bench ab`.
#[derive(Args, Debug)]
pub(crate) struct AbArgs {
    /// URL of the baseline
    #[arg(long, value_name = "URL")]
    pub a: String,

    /// URL of the candidate
    #[arg(long, value_name = "URL")]
    pub b: String,

    /// Blocks of --num-prompts requests on each; their order is A B B A A B B A, and no block has
    /// prompts of another
    #[arg(long, default_value_t = 6)]
    pub blocks: usize,

    /// How they are judged.
    #[command(flatten)]
    pub judge: JudgeArgs,

    /// Which model.
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
    /// What is found out.
    #[command(flatten)]
    pub figures: FigureArgs,
}

/// `folio bench sweep`.
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    /// Rates to run at, with commas
    #[arg(
        long,
        value_name = "RATES",
        value_delimiter = ',',
        required_unless_present = "concurrencies"
    )]
    pub rates: Vec<f64>,

    /// Numbers of requests in flight to run with, with commas
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', conflicts_with = "rates")]
    pub concurrencies: Vec<usize>,

    /// Requests of each run are the number that its rate has in this time, not --num-prompts
    #[arg(long, value_name = "SECONDS", requires = "rates")]
    pub seconds_each: Option<f64>,

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
