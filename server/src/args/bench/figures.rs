//! Flags that say what is found out and where it goes.

use std::path::PathBuf;

use clap::Args;

/// What is found out and where it goes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Result")]
pub(crate) struct FigureArgs {
    /// Metrics of the terminal's block, with commas: ttft, tpot, itl, e2el, ttft_sched, e2el_sched,
    /// queue, stall, norm_latency, client_queue_time, e2el_including_client_queue
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub percentile_metrics: Vec<String>,

    /// Percentiles of all metrics, with commas
    #[arg(long, value_name = "PERCENTILES", value_delimiter = ',', default_value = "99",
        value_parser = percentile)]
    pub metric_percentiles: Vec<f64>,

    /// What makes a request good, in milliseconds: ttft, tpot, e2el
    #[arg(long, value_name = "NAME:MS", num_args = 1..)]
    pub goodput: Vec<String>,

    /// The same by name, as mlperf:llama3.1-8b-interactive
    #[arg(long, value_name = "NAME", conflicts_with = "goodput")]
    pub slo: Option<String>,

    /// Send N of the requests again, alone, and fail if an answer differs. Requests get temperature
    /// 0, or a seed where another temperature is asked for
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "16"
    )]
    pub verify: Option<usize>,

    /// With --verify: most that an element of a vector may differ
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 1e-4)]
    pub verify_tolerance: f32,

    /// What the run is called [default: the backend]
    #[arg(long)]
    pub label: Option<String>,

    /// Write the result to a JSON file
    #[arg(long)]
    pub save_result: bool,

    /// With what became of each request
    #[arg(long)]
    pub save_detailed: bool,

    /// Append the result to a file of JSON lines
    #[arg(long)]
    pub append_result: bool,

    /// Directory of the file
    #[arg(long, value_name = "DIR")]
    pub result_dir: Option<PathBuf>,

    /// Name of the file [default: label, rate, model and time]
    #[arg(long, value_name = "FILE", alias = "output-file")]
    pub result_filename: Option<PathBuf>,

    /// More keys of the result
    #[arg(long, value_name = "KEY=VALUE", num_args = 0..)]
    pub metadata: Vec<String>,
}

fn percentile(text: &str) -> Result<f64, String> {
    let value = text.trim().parse().ok().filter(|value| (0.0..=100.0).contains(value));
    value.ok_or_else(|| "must be a number from 0 to 100".to_owned())
}
