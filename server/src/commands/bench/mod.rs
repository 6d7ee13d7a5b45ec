//! `folio bench`: reads flags, calls the library, prints.

mod ab;
mod offline;
mod serve;
mod setup;
mod sweep;

use anyhow::Result;

use crate::args::{BackendName, BenchArgs, BenchCommand};
use crate::policy::Policies;

/// Tokens of a text to embed when nothing else is said: what most encoders take.
const EMBED_INPUT_LEN: u32 = 128;

/// Measures what the flags say, offline with one of `policies`.
pub(crate) async fn run(args: BenchArgs, policies: &Policies) -> Result<()> {
    match args.command {
        BenchCommand::Serve(args) => serve::run(*args).await,
        BenchCommand::Embed(mut args) => {
            args.target.backend = BackendName::OpenaiEmbeddings;
            args.dataset.input_len.get_or_insert(EMBED_INPUT_LEN);
            serve::run(*args).await
        }
        BenchCommand::Sweep(args) => sweep::run(*args).await,
        BenchCommand::Compare(args) => ab::compare_files(&args),
        BenchCommand::Ab(args) => ab::run(*args).await,
        BenchCommand::Throughput(args) => offline::throughput(*args, policies).await,
        BenchCommand::Latency(args) => offline::latency(*args, policies).await,
    }
}
