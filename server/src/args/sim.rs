//! Flags of `folio sim`. Those that vLLM's `bench serve` has keep their names and meaning, and so
//! do those of `folio serve`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use folio_engine::types::{Nanos, Slo};
use folio_sim::Metric;
use folio_sim::cluster::ROUTERS;
use folio_sim::trace::Format;

/// `folio sim`.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SimArgs {
    /// What is asked for and when.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Lengths of made-up load.
    #[command(flatten)]
    pub random: RandomArgs,
    /// The simulated engine.
    #[command(flatten)]
    pub engine: SimEngineArgs,
    /// What computes.
    #[command(flatten)]
    pub device: SimDeviceArgs,
    /// Several engines.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What is told of it.
    #[command(flatten)]
    pub output: OutputArgs,
}

const AFTER_HELP: &str = "\
With no load given, plays a part of the Azure conversation trace of 2023 that comes with the
program.

Examples:
  folio sim --policy 'sjf ageing=200' --rate 30
  folio sim --trace mooncake.jsonl.gz --cost roofline:h200 --num-blocks 40000
  folio sim --dataset-name random --request-rate 20 --goodput ttft:500 tpot:50
  folio sim --instances 4 --router e2 --trace agentic.jsonl.gz --request-rate 0.5";

/// What is asked for and when.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Trace to play: CSV or JSON lines, plain or gzipped
    #[arg(
        long,
        visible_alias = "dataset-path",
        value_name = "FILE",
        conflicts_with = "dataset_name"
    )]
    pub trace: Option<PathBuf>,

    /// How the trace is written down [default: as its beginning says]
    #[arg(long, value_name = "FORMAT", value_parser = trace_format, requires = "trace")]
    pub trace_format: Option<Format>,

    /// Tokens that an id of a prefix stands for [default: the format's own: 512 in mooncake, 16 in
    /// timed-trace and bailian, as the trace says in weka]
    #[arg(
        long,
        visible_alias = "timed-trace-chunk-hash-size",
        value_name = "TOKENS",
        requires = "trace",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub trace_block_size: Option<u32>,

    /// Malformed rows that are dropped and counted before one is an error
    #[arg(long, value_name = "ROWS", default_value_t = 0, requires = "trace")]
    pub max_bad_rows: u64,

    /// Make load up instead of playing a trace
    #[arg(long, value_enum, value_name = "NAME")]
    pub dataset_name: Option<Dataset>,

    /// Requests in all; a trace that is shorter is played again, its lengths in another order
    /// [default: the trace; 1000 of made-up load]
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u64).range(1..))]
    pub num_prompts: Option<u64>,

    /// Play the trace so that this many requests arrive in a second, its own pattern kept
    #[arg(
        long,
        value_name = "RPS",
        value_parser = above_zero,
        conflicts_with_all = ["speed", "request_rate"]
    )]
    pub rate: Option<f64>,

    /// Play the trace so many times as fast
    #[arg(long, value_name = "FACTOR", value_parser = above_zero, conflicts_with = "request_rate")]
    pub speed: Option<f64>,

    /// Draw arrivals, this many in a second; inf: all at once [default: the trace's own; inf for
    /// load without times]
    #[arg(long, value_name = "RPS", value_parser = rate)]
    pub request_rate: Option<f64>,

    /// Shape of the gaps between drawn arrivals: 1 for a Poisson process, less for bursts
    #[arg(long, value_name = "SHAPE", default_value_t = 1.0, value_parser = above_zero)]
    pub burstiness: f64,
}

/// Kinds of made-up load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dataset {
    /// Lengths drawn around a mean.
    Random,
}

/// Lengths of made-up load.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Made-up load")]
#[expect(clippy::struct_field_names, reason = "they are the names of vLLM's flags")]
pub(crate) struct RandomArgs {
    /// Tokens of a prompt, behind its prefix
    #[arg(
        long,
        visible_alias = "input-len",
        value_name = "TOKENS",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    pub random_input_len: u32,

    /// Tokens of an answer
    #[arg(
        long,
        visible_alias = "output-len",
        value_name = "TOKENS",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    pub random_output_len: u32,

    /// Lengths are drawn from LEN (1 - SHARE) to LEN (1 + SHARE)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = below_one)]
    pub random_range_ratio: f64,

    /// Tokens that prompts begin with in common
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=10_000_000)
    )]
    pub random_prefix_len: u32,

    /// How many such beginnings there are
    #[arg(
        long,
        visible_alias = "prefix-repetition-num-prefixes",
        value_name = "PREFIXES",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub random_num_prefixes: u32,

    /// Tenants that send it, each as much as the others
    #[arg(
        long,
        value_name = "TENANTS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub random_num_tenants: u32,
}

/// The simulated engine.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Engine")]
pub(crate) struct SimEngineArgs {
    /// Which sequences go first: the name of a policy and its parameters
    #[arg(long, visible_alias = "policy", value_name = "SPEC", default_value = "fcfs")]
    pub scheduling_policy: String,

    /// Most sequences in a step
    #[arg(long, value_name = "SEQUENCES", default_value_t = 64)]
    pub max_num_seqs: u32,

    /// Most tokens in a step
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub max_num_batched_tokens: u32,

    /// Most prompts that are partly computed at the same time
    #[arg(long, value_name = "SEQUENCES", default_value_t = 4)]
    pub max_num_partial_prefills: u32,

    /// Most prompt tokens of one sequence in a step [default: no limit but the step's]
    #[arg(long, value_name = "TOKENS")]
    pub long_prefill_token_threshold: Option<u32>,

    /// Most sequences that may wait [default: any number]
    #[arg(long, value_name = "SEQUENCES")]
    pub max_queued_requests: Option<u32>,

    /// Tokens in a block of the KV cache
    #[arg(long, value_name = "TOKENS", default_value_t = 16)]
    pub block_size: u32,

    /// Blocks in the KV cache [default: what the device's memory leaves beside the model]
    #[arg(long, visible_alias = "num-gpu-blocks-override", value_name = "BLOCKS")]
    pub num_blocks: Option<u32>,

    /// Longest sequence, prompt and answer together [default: the model's]
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<u32>,

    /// Do not share the KV cache between requests that begin alike
    #[arg(long, action = ArgAction::SetTrue)]
    pub no_enable_prefix_caching: bool,
}

/// What computes, and how long it takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Device")]
pub(crate) struct SimDeviceArgs {
    /// Model: a name such as llama-3-8b, qwen3-0.6b or folio-tiny, or a directory with a
    /// config.json
    #[arg(long, value_name = "MODEL", default_value = "llama-3-8b")]
    pub model: String,

    /// How long steps take: roofline:GPU[:DTYPE], fitted:FILE or table:FILE, the last two as
    /// measured by `folio profile`
    #[arg(long, value_name = "SPEC", default_value = "roofline:h100")]
    pub cost: String,

    /// Host time for each step, in microseconds [default: as measured with the fit, else 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = not_negative)]
    pub host_step_us: Option<f64>,

    /// Host time for each sequence in a step, in microseconds [default: as measured with the fit,
    /// else 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = not_negative)]
    pub host_sequence_us: Option<f64>,

    /// Plan a step while the one before it is computed
    #[arg(long, action = ArgAction::SetTrue)]
    pub async_scheduling: bool,

    /// Most tokens that an answer may have, as clients ask for; policies see this, not the true
    /// length
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_tokens: u32,

    /// Time after which clients give up [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = above_zero)]
    pub timeout: Option<f64>,

    /// Virtual time after which no more requests are sent [default: the end of the load]
    #[arg(long, value_name = "SECONDS", value_parser = above_zero)]
    pub max_duration: Option<f64>,
}

/// Several engines behind a router.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Engines, all alike
    #[arg(
        long,
        value_name = "ENGINES",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub instances: u32,

    /// Who chooses among them; prefill-decode computes prompts on some and answers on the others
    #[arg(
        long,
        value_name = "NAME",
        default_value = "round-robin",
        value_parser = clap::builder::PossibleValuesParser::new(ROUTERS)
    )]
    pub router: String,

    /// Engines that compute prompts under the router prefill-decode [default: half of them]
    #[arg(long, value_name = "ENGINES", value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill_instances: Option<u32>,

    /// Speed of the links between engines, in GB a second
    #[arg(long, value_name = "GB/S", default_value_t = 50.0, value_parser = above_zero)]
    pub transfer_bandwidth: f64,

    /// Time before anything comes over such a link, in microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 100.0, value_parser = not_negative)]
    pub transfer_latency_us: f64,
}

/// What is told of a run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Key of all that is drawn: the same key, the same result to the byte
    #[arg(long, value_name = "SEED", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: i64,

    /// What a request must keep to count as good, in milliseconds: ttft:500 tpot:50 e2el:10000
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., value_parser = objective)]
    pub goodput: Vec<(Metric, Nanos)>,

    /// Latencies to tell of, separated by commas
    #[arg(
        long,
        value_name = "METRICS",
        value_delimiter = ',',
        default_value = "ttft,tpot,itl,e2el",
        value_parser = metric
    )]
    pub percentile_metrics: Vec<Metric>,

    /// Percentiles of them, separated by commas
    #[arg(
        long,
        value_name = "PERCENTS",
        value_delimiter = ',',
        default_value = "99",
        value_parser = percent
    )]
    pub metric_percentiles: Vec<f64>,

    /// Write the result as JSON, with the keys of vLLM's
    #[arg(long, action = ArgAction::SetTrue)]
    pub save_result: bool,

    /// Put lists of all requests into the result, and a CSV file of them beside it
    #[arg(long, action = ArgAction::SetTrue, requires = "save_result")]
    pub save_detailed: bool,

    /// Directory of the result [default: the current one]
    #[arg(long, value_name = "DIRECTORY")]
    pub result_dir: Option<PathBuf>,

    /// File of the result [default: a name of load, rate, model and time]
    #[arg(long, value_name = "FILE")]
    pub result_filename: Option<PathBuf>,

    /// What the result is called [default: the name of the load]
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,

    /// More to put into the result
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = key_value)]
    pub metadata: Vec<(String, String)>,

    /// Write what the scheduler was asked and decided, of the first engine, for `folio explain`
    #[arg(long, value_name = "FILE")]
    pub decision_log: Option<PathBuf>,
}

impl OutputArgs {
    /// What requests must keep.
    pub(crate) fn slo(&self) -> Slo {
        let limit = |metric| {
            let given = self.goodput.iter().rev().find(|(known, _)| *known == metric);
            given.map(|&(_, limit)| limit)
        };
        Slo { ttft: limit(Metric::Ttft), tpot: limit(Metric::Tpot), e2el: limit(Metric::E2el) }
    }
}

fn trace_format(text: &str) -> Result<Format, String> {
    let names = Format::ALL.map(Format::name).join(", ");
    Format::from_name(text).ok_or_else(|| format!("must be one of {names}"))
}

fn number(text: &str, limit: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && holds(*value));
    value.ok_or_else(|| format!("must be a number {limit}"))
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, "above 0", |value| value > 0.0)
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "of at least 0", |value| value >= 0.0)
}

fn below_one(text: &str) -> Result<f64, String> {
    number(text, "from 0 to below 1", |value| (0.0..1.0).contains(&value))
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, "from 0 to 100", |value| (0.0..=100.0).contains(&value))
}

fn rate(text: &str) -> Result<f64, String> {
    if text == "inf" {
        return Ok(f64::INFINITY);
    }
    number(text, "above 0, or inf", |value| value > 0.0)
}

fn metric(text: &str) -> Result<Metric, String> {
    let found = Metric::ALL.into_iter().find(|metric| metric.key() == text);
    found.ok_or_else(|| format!("must be one of {}", Metric::ALL.map(Metric::key).join(", ")))
}

fn objective(text: &str) -> Result<(Metric, Nanos), String> {
    let limit = "must be ttft, tpot or e2el, a colon and a number of milliseconds above 0";
    let (name, ms) = text.split_once(':').ok_or_else(|| limit.to_owned())?;
    let metric = [Metric::Ttft, Metric::Tpot, Metric::E2el];
    let metric = metric.into_iter().find(|metric| metric.key() == name);
    match (metric, above_zero(ms)) {
        (Some(metric), Ok(ms)) => Ok((metric, Nanos::from_secs_f64(ms * 1e-3))),
        _ => Err(limit.to_owned()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| "must be KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}
