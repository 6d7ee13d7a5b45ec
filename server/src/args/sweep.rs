//! Flags of `folio sim sweep`, and `folio sim` with what stands under it.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::SimArgs;

/// `folio sim`, alone or with a command under it.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SimCommandArgs {
    /// What to do instead of one run.
    #[command(subcommand)]
    pub command: Option<SimCommand>,

    /// One run.
    #[command(flatten)]
    pub run: SimArgs,
}

/// What stands under `folio sim`.
#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Compare policies under loads, seed by seed, as a file says
    Sweep(SimSweepArgs),
}

/// `folio sim sweep`.
#[derive(Args, Debug)]
pub(crate) struct SimSweepArgs {
    /// What to compare: a TOML file with the tables `sweep` and `run`
    #[arg(value_name = "EXPERIMENT")]
    pub experiment: PathBuf,

    /// Directory of results, report and figures [default: the file's name with -results]
    #[arg(short, long, value_name = "DIRECTORY")]
    pub output: Option<PathBuf>,

    /// Threads that run simulations [default: one for each core]
    #[arg(long, value_name = "THREADS")]
    pub threads: Option<NonZeroUsize>,

    /// Run again what has a result already
    #[arg(long, action = ArgAction::SetTrue)]
    pub fresh: bool,
}
