//! Flags that say when requests are sent and how answers are sampled.

use clap::{Args, ValueEnum};

use crate::bench::arrivals::Ramp;

/// When requests are sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Traffic")]
pub(crate) struct TrafficArgs {
    /// Requests a second, or `inf` for all at once
    #[arg(long, value_name = "RATE", default_value_t = f64::INFINITY)]
    pub request_rate: f64,

    /// 1 for a Poisson process, less for bursts, more for even gaps, inf for equal ones
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub burstiness: f64,

    /// Most requests in flight; the wait for it is reported as `queue`
    #[arg(long, value_name = "REQUESTS")]
    pub max_concurrency: Option<usize>,

    /// How the rate grows from the first request to the last
    #[arg(
        long,
        value_enum,
        requires_all = ["ramp_up_start_rps", "ramp_up_end_rps"],
        conflicts_with = "request_rate"
    )]
    pub ramp_up_strategy: Option<RampStrategy>,

    /// Requests a second at first
    #[arg(long, value_name = "RATE", requires = "ramp_up_strategy")]
    pub ramp_up_start_rps: Option<f64>,

    /// Requests a second at last
    #[arg(long, value_name = "RATE", requires = "ramp_up_strategy")]
    pub ramp_up_end_rps: Option<f64>,

    /// Closed loop: so many users who send, wait for the answer, think and send again
    #[arg(long, conflicts_with_all = ["request_rate", "ramp_up_strategy", "max_concurrency"])]
    pub users: Option<usize>,

    /// Time that users think after an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = not_negative)]
    pub think_time: f64,

    /// Send requests when the dataset's timestamps say: the default of traces
    #[arg(long, conflicts_with_all = ["request_rate", "ramp_up_strategy", "users"])]
    pub self_timed: bool,

    /// Do not look at a trace's timestamps
    #[arg(long, conflicts_with = "self_timed")]
    pub no_self_timed: bool,

    /// How much faster than the timestamps
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub speed: f64,

    /// Requests before the measurement, as long as the first ones but of other content, so that
    /// they do not warm the prefix cache
    #[arg(long, value_name = "REQUESTS", default_value_t = 0)]
    pub num_warmups: usize,

    /// Stop sending when requests in flight and time to the first token both grow significantly,
    /// but not in the first SECONDS
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30",
        value_parser = not_negative
    )]
    pub stop_over_saturated: Option<f64>,

    /// No progress bar
    #[arg(long)]
    pub disable_tqdm: bool,
}

/// How a rate grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RampStrategy {
    /// By equal steps
    Linear,
    /// By equal factors
    Exponential,
}

impl RampStrategy {
    /// What the client calls it.
    pub(crate) fn ramp(self) -> Ramp {
        match self {
            Self::Linear => Ramp::Linear,
            Self::Exponential => Ramp::Exponential,
        }
    }

    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Exponential => "exponential",
        }
    }
}

/// How answers are sampled: sent only where given.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Generate on to the full length; the dataset `random` and those of fixed lengths always do
    #[arg(long)]
    pub ignore_eos: bool,

    /// `temperature` of every request [default: the server's; 0 with --verify]
    #[arg(long)]
    pub temperature: Option<f64>,

    /// `top_p` of every request
    #[arg(long)]
    pub top_p: Option<f64>,

    /// `top_k` of every request
    #[arg(long, allow_negative_numbers = true)]
    pub top_k: Option<i64>,

    /// `min_p` of every request
    #[arg(long)]
    pub min_p: Option<f64>,

    /// `frequency_penalty` of every request
    #[arg(long, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,

    /// `presence_penalty` of every request
    #[arg(long, allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,

    /// `repetition_penalty` of every request
    #[arg(long)]
    pub repetition_penalty: Option<f64>,

    /// More fields of every body, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub extra_body: Option<Object>,
}

/// A JSON object.
pub(crate) type Object = serde_json::Map<String, serde_json::Value>;

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object: {error}"))
}

fn not_negative(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "must be a number of seconds, at least 0".to_owned())
}
