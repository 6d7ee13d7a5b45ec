//! How faithful the simulator is: the real engine on the processor beside its simulation.
//!
//! For each load and policy the engine serves an open loop of requests in this process, with every
//! call of its scheduler recorded, in the time that its one thread computes. Then (a) the record is
//! replayed and every decision compared, (b) the same requests are simulated with a fitted cost
//! model and latencies compared, and (c) the order of the policies is compared. Prints a JSON line
//! for each run, and a table at the end.

mod clock;
mod engine;
mod load;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::Parser;
use folio_engine::decisions::LogReader;
use folio_engine::sched::{Decider, PolicyContext, Registry, Tempo};
use folio_sim::calibrate::{Calibration, Recording, calibrate};
use folio_sim::cost::{Fitted, FittedFile};
use folio_sim::replay::{Replay, ReplayEnd, replay};

use engine::Bench;
use load::{Job, capacity, jobs};
use table::Run;

/// How faithful the simulator is to the real engine on the processor.
#[derive(Debug, Parser)]
struct Args {
    /// Directory of a model
    #[arg(long, default_value = "server/builtin/folio-tiny")]
    model: PathBuf,
    /// Trace to take the lengths of prompts and answers from
    #[arg(long)]
    trace: PathBuf,
    /// Divides lengths of prompts, to fit the model
    #[arg(long, default_value_t = 8)]
    input_divisor: u32,
    /// Divides lengths of answers
    #[arg(long, default_value_t = 4)]
    output_divisor: u32,
    /// Cost model that `folio profile` wrote; without it steps are measured first
    #[arg(long)]
    costs: Option<PathBuf>,
    /// Seconds to measure steps for
    #[arg(long, default_value_t = 60.0)]
    profile_s: f64,
    /// Policies, separated by semicolons [default: all that are built in]
    #[arg(long, value_delimiter = ';')]
    policies: Vec<String>,
    /// Loads, as shares of what the simulator says the engine can do
    #[arg(long, value_delimiter = ',', default_values_t = [0.7])]
    loads: Vec<f64>,
    /// Requests of each run
    #[arg(long, default_value_t = 500)]
    num_requests: usize,
    /// Repeats of each run, each with another seed
    #[arg(long, default_value_t = 1)]
    num_seeds: u64,
    /// Most sequences in a step
    #[arg(long, default_value_t = 32)]
    max_num_seqs: u32,
    /// Most tokens in a step
    #[arg(long, default_value_t = 512)]
    max_num_batched_tokens: u32,
    /// Directory for logs and cost models
    #[arg(long, default_value = "target/fidelity")]
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.output)?;
    let bench = Bench::new(&args)?;
    let costs = match &args.costs {
        Some(path) => path.clone(),
        None => bench.profile(args.profile_s, &args.output)?,
    };
    let file = FittedFile::parse(&std::fs::read_to_string(&costs)?, &costs)?;
    let model = Arc::new(Fitted::new(format!("fitted:{}", costs.display()), &file));
    let registry = Registry::builtin();
    let builtin = || registry.names().filter(|name| !is_language(name)).collect();
    let policies: Vec<String> =
        if args.policies.is_empty() { builtin() } else { args.policies.clone() };

    let most = capacity(&jobs(&args, 1.0, 0)?, bench.config(), &model)?;
    table::print_line(&serde_json::json!({ "capacity_requests_per_s": most }))?;
    let mut runs = Vec::new();
    for &load in &args.loads {
        ensure!(load > 0.0, "--loads {load}: must be above 0");
        for seed in 0..args.num_seeds {
            // Policies by turns, so that all see the machine's good and bad times.
            for policy in &policies {
                let jobs = jobs(&args, load * most, seed)?;
                let run = compare(&bench, (policy, load, seed), &jobs, &model)
                    .with_context(|| format!("{policy} at {load}"))?;
                table::print_line(&run.to_json())?;
                runs.push(run);
            }
        }
    }
    table::print(&runs)
}

/// Runs, replays and simulates.
fn compare(
    bench: &Bench,
    (policy, load, seed): (&str, f64, u64),
    jobs: &[Job],
    model: &Arc<Fitted>,
) -> anyhow::Result<Run> {
    let path = bench.run(policy, jobs, make(policy, bench.config().block_size, model)?)?;
    let mut recording = Recording::read(LogReader::open(&path)?)?;
    ensure!(recording.requests.len() == jobs.len(), "{} answers", recording.requests.len());
    // The log knows when the engine saw a request; its client knows when it was sent.
    for (recorded, job) in recording.requests.iter_mut().zip(jobs) {
        recorded.record.arrival = job.due.since(recording.begin);
    }
    let replayed = replay(LogReader::open(&path)?, &mut |header, spec| {
        make(spec, header.engine.block_size, model).map_err(|error| error.to_string())
    })?;
    let calibration = calibrate(&recording, model, None, &mut |header, spec| {
        make(spec, header.engine.block_size, model).map_err(|error| error.to_string())
    })?;
    std::fs::remove_file(&path)?;
    Ok(run(policy, (load, seed), &replayed, calibration))
}

fn run(policy: &str, (load, seed): (f64, u64), replay: &Replay, calibration: Calibration) -> Run {
    let difference = match &replay.end {
        ReplayEnd::Complete => None,
        ReplayEnd::Differs(difference) => Some(difference.to_string()),
        other => Some(format!("{other:?}")),
    };
    Run {
        policy: policy.to_owned(),
        load,
        seed,
        num_steps: replay.num_steps,
        difference,
        calibration,
    }
}

/// Languages need a text behind their names.
fn is_language(name: &str) -> bool {
    name.starts_with("expr") || name.starts_with("process")
}

fn make(spec: &str, block_size: u32, model: &Arc<Fitted>) -> anyhow::Result<Decider> {
    let context = PolicyContext {
        block_size,
        cost: Some(Arc::clone(model) as _),
        tempo: Tempo::Simulated,
        ..PolicyContext::default()
    };
    Registry::builtin().make(spec, &context).map_err(|error| anyhow::anyhow!("{error}"))
}
