//! Flags of the log and the traces.

use std::path::PathBuf;

use super::Bytes;
use crate::kv_events::KvEventsConfig;
use crate::telemetry;
use clap::{Args, ValueEnum};

/// What the server tells about itself.
#[derive(Args, Debug)]
#[command(next_help_heading = "Observability")]
pub(crate) struct TelemetryArgs {
    /// How the lines of the log, on the standard error stream, are written
    #[arg(long, env = "FOLIO_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace or off, or several with a module each,
    /// such as `info,crate::access=off`
    #[arg(long, env = "FOLIO_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    #[arg(value_parser = level)]
    pub log_level: String,

    /// Where traces are sent (OTLP over HTTP, protobuf), such as
    /// http://localhost:4318/v1/traces [default: nowhere]
    #[arg(long, env = "FOLIO_OTLP_TRACES_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub otlp_traces_endpoint: Option<String>,

    /// What enters and leaves the prefix cache, published over ZeroMQ for routers: JSON as in vLLM,
    /// such as {"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}. It holds the tokens of
    /// prompts [default: nothing]
    #[arg(long, env = "FOLIO_KV_EVENTS_CONFIG", value_name = "JSON")]
    pub kv_events_config: Option<KvEventsConfig>,

    /// File for all that the scheduler decides, for folio explain, timeline and replay: lengths,
    /// times and ids, no texts [default: none]
    #[arg(long, env = "FOLIO_DECISION_LOG", value_name = "FILE")]
    pub decision_log: Option<PathBuf>,

    /// Most bytes of the decision log: when it has half of them it becomes FILE.1, and a new one
    /// is begun
    #[arg(
        long,
        env = "FOLIO_DECISION_LOG_MAX_BYTES",
        value_name = "BYTES",
        default_value = "1GiB"
    )]
    pub decision_log_max_bytes: Bytes,
}

/// How the lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl From<LogFormat> for telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Directives that the filter of the log understands. A word alone must be a level: the filter
/// would take any other for the name of a module, and log nothing else.
fn level(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let mut words = text.split(',').filter(|directive| !directive.contains(['=', '[', ':']));
    if let Some(word) = words.find(|word| !levels.contains(&word.trim())) {
        return Err(format!("{word:?} is not a level: {}", levels.join(", ")));
    }
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}: must be like info or info,crate::access=off")),
    }
}

/// An endpoint that traces can be sent to.
fn endpoint(text: &str) -> Result<String, String> {
    telemetry::endpoint_url(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
