//! Flags of `folio calibrate`.

use std::path::PathBuf;

use clap::Args;

/// `folio calibrate`.
#[derive(Args, Debug)]
pub(crate) struct CalibrateArgs {
    /// Decision log of a real run, as `folio serve --decision-log FILE` writes it
    pub log: PathBuf,

    /// Cost model that `folio profile` wrote
    #[arg(long, value_name = "FILE", default_value = "costs.toml")]
    pub costs: PathBuf,

    /// Take the host's time of each step from the log instead of the cost model
    #[arg(long)]
    pub host_from_log: bool,

    /// Write a cost model fitted to the run itself to this file
    #[arg(long, value_name = "FILE")]
    pub refit: Option<PathBuf>,
}
