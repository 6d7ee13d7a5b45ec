//! The program: reads the command line and does what it says.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::args::{Cli, Command, SimCommand};
use crate::commands;
use crate::policy::{Policies, registry};
use folio_engine::sched::Registry;

/// Stack of the threads that read requests: deep JSON and long patterns need room.
const THREAD_STACK_BYTES: usize = 8 << 20;

/// Does what `words`, the name of the program first, ask for.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(registry(), words)
}

/// The same for a program that knows the policies of `registry`: `--policy`, `PUT /v1/policy` and
/// all commands take them.
pub fn main_with(registry: Registry, words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let policies = Policies::new(registry);
    let cli = match Cli::read(words, policies.registry()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match run(cli.command, &policies) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, policies: &Policies) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Serve(args) => commands::serve::run(*args, policies).await,
            Command::Generate(args) => {
                unless_closed(commands::generate::run(*args, policies).await)
            }
            Command::Embed(args) => unless_closed(commands::embed::run(*args, policies).await),
            Command::Bench(args) => unless_closed(commands::bench::run(args, policies).await),
            Command::Sim(args) => unless_closed(match &args.command {
                None => commands::sim::run(&args.run, policies),
                Some(SimCommand::Sweep(sweep)) => commands::sweep::run(sweep, policies),
            }),
            Command::Capacity(args) => unless_closed(commands::capacity::run(&args, policies)),
            Command::Report(args) => unless_closed(commands::report::run(&args)),
            Command::Profile(args) => unless_closed(commands::profile::run(&args)),
            Command::Calibrate(args) => unless_closed(commands::calibrate::run(&args, policies)),
            Command::Config(args) => unless_closed(commands::config::run(&args, policies)),
            Command::Explain(args) => unless_closed(commands::explain::run(&args)),
            Command::Timeline(args) => unless_closed(commands::timeline::run(&args)),
            Command::Replay(args) => unless_closed(commands::replay::run(&args, policies)),
        }
    });
    // What still runs, runs for a client that is gone or was told so.
    runtime.shutdown_background();
    result
}

/// Whoever reads the output and has seen enough, such as `head`, may close it.
fn unless_closed(result: anyhow::Result<()>) -> anyhow::Result<()> {
    let is_closed = |error: &anyhow::Error| {
        let error = error.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    match result {
        Err(error) if is_closed(&error) => Ok(()),
        other => other,
    }
}
