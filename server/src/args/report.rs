//! Flags of `folio report`.

use std::path::PathBuf;

use clap::Args;

/// `folio report`.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Result files of runs, simulated or not, or directories of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Page to write; its figures go beside it, as SVG and CSV
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,

    /// Heading of the page
    #[arg(long, value_name = "TEXT", default_value = "Benchmark report")]
    pub title: String,

    /// Policy, or label of the file, that the others are compared with [default: that of the first
    /// file]
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,

    /// Differences below this share of the baseline do not matter
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub margin: f64,
}

/// A share of something: from 0 to below 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.0..1.0).contains(value));
    value.ok_or_else(|| "must be a number from 0 to below 1".to_owned())
}
