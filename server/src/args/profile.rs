//! Flags of `folio profile`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{EngineArgs, ModelArgs};

/// `folio profile`.
#[derive(Args, Debug)]
pub(crate) struct ProfileArgs {
    /// File to write the fitted cost model to, for `--cost fitted:FILE`
    #[arg(short, long, value_name = "FILE", default_value = "costs.toml")]
    pub output: PathBuf,

    /// Also write a table of the measured steps, for `--cost table:FILE`
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,

    /// Also write what was measured, a line of JSON for each shape
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Seconds to measure for; every shape is measured once even if it takes longer
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub max_time: Duration,

    /// Temperature at which tokens are chosen; choosing is a part of a step
    #[arg(long, default_value_t = 1.0, value_parser = super::temperature)]
    pub temperature: f32,

    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// The longest time to measure for.
const MAX_SECONDS: f64 = 86_400.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= MAX_SECONDS);
    let value =
        value.ok_or_else(|| format!("must be a number above 0 and at most {MAX_SECONDS}"))?;
    Ok(Duration::from_secs_f64(value))
}
