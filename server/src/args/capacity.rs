//! Flags of `folio capacity`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::SimArgs;
use super::report::share;

/// `folio capacity`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CapacityArgs {
    /// Share of requests that must keep what --goodput asks for
    #[arg(long, value_name = "SHARE", default_value_t = 0.99, value_parser = attainment)]
    pub attainment: f64,

    /// How close to get to a rate that fails, as a share of it
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = tolerance)]
    pub tolerance: f64,

    /// Seeds that must all attain it
    #[arg(
        long,
        value_name = "SEEDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub seeds: u32,

    /// Threads that run simulations [default: one for each core]
    #[arg(long, value_name = "THREADS")]
    pub threads: Option<NonZeroUsize>,

    /// Write the attainment at every rate tried into a page of HTML, with figure and CSV
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// What is run: the flags of `folio sim`.
    #[command(flatten)]
    pub run: SimArgs,
}

const AFTER_HELP: &str = "\
Arrivals are drawn at each rate, as with --request-rate.

Examples:
  folio capacity --goodput ttft:500 tpot:50
  folio capacity --goodput ttft:500 --policy 'sjf ageing=200' --attainment 0.95";

fn attainment(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= 1.0);
    value.ok_or_else(|| "must be a number above 0 and at most 1".to_owned())
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value = share(text).ok().filter(|value| *value >= 0.001);
    value.ok_or_else(|| "must be a number from 0.001 to below 1".to_owned())
}
