//! `folio sim sweep`: the runs of an experiment on every core, and its report.

use std::fmt::Write as _;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use folio_sim::experiment::{
    Alone, Analysis, Digest, Experiment, Job, Role, RunResult, Sweep, change, in_parallel,
};
use folio_sim::statistics::{Bootstrap, Judge, Verdict};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{report, sim};
use crate::args::{Cli, Command, SimArgs, SimSweepArgs};
use crate::policy::Policies;

/// Carries out an experiment.
pub(crate) fn run(args: &SimSweepArgs, policies: &Policies) -> Result<()> {
    let mut experiment = Experiment::read(&args.experiment)?;
    find_traces(&mut experiment, &args.experiment);
    let output = output(args)?;
    let runs = output.join("runs");
    std::fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
    let threads = threads(args.threads);
    let bench = Bench { policies, runs, fresh: args.fresh };
    let jobs = experiment.jobs(&bench.capacities(&experiment, threads)?);
    // What is wrong with any run is said before the first begins.
    for job in &jobs {
        bench.arguments(job)?;
    }
    let bar = bar(jobs.len());
    let results = in_parallel(&jobs, threads, |_, job| {
        let result = bench.result(job);
        bar.inc(1);
        result.with_context(|| format!("{} with seed {}", job.label, job.seed))
    })?;
    bar.finish_and_clear();
    let num_reused = results.iter().filter(|(_, origin)| *origin == Origin::File).count();
    let results: Vec<RunResult> = results.into_iter().map(|(result, _)| result).collect();
    let judge = judge(&experiment);
    let num_runs = results.len();
    let analysis = Analysis::new(results, &experiment.baseline(), &judge);
    std::fs::write(output.join("comparisons.csv"), analysis.to_csv()?)?;
    let page = output.join("report.html");
    let num_figures = report::save(&analysis.report(&experiment.title, &judge)?, &page)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(summary(&experiment.title, &analysis).as_bytes())?;
    let reused = if num_reused > 0 { format!(" ({num_reused} kept)") } else { String::new() };
    writeln!(stdout, "{}: {num_runs} runs{reused}, {num_figures} figures", page.display())?;
    Ok(())
}

/// The traces of an experiment count from where its file is.
fn find_traces(experiment: &mut Experiment, file: &Path) {
    let directory = file.parent().unwrap_or(Path::new(""));
    let found = |value: &mut toml::Value| {
        if let toml::Value::String(path) = value {
            *path = directory.join(&path).to_string_lossy().into_owned();
        }
    };
    for flag in ["trace", "dataset-path"] {
        experiment.run.get_mut(flag).into_iter().for_each(found);
        experiment.sweep.options.get_mut(flag).into_iter().flatten().for_each(found);
    }
}

fn output(args: &SimSweepArgs) -> Result<PathBuf> {
    if let Some(output) = &args.output {
        return Ok(output.clone());
    }
    let stem = args.experiment.file_stem().context("the experiment must be a file")?;
    Ok(PathBuf::from(format!("{}-results", stem.to_string_lossy())))
}

pub(super) fn threads(wanted: Option<NonZeroUsize>) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    wanted.unwrap_or_else(cores)
}

fn bar(num_runs: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(num_runs as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{pos}/{len} runs [{bar:40}] {elapsed}, {eta} to go");
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

fn judge(experiment: &Experiment) -> Judge {
    let wanted = experiment.judge;
    let bootstrap = Bootstrap {
        num_resamples: wanted.resamples,
        confidence: wanted.confidence,
        ..Bootstrap::default()
    };
    Judge { bootstrap, margin: wanted.margin }
}

/// Where a result is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was run.
    Run,
    /// The file of an earlier run with the same inputs.
    File,
}

/// Runs jobs.
struct Bench<'a> {
    policies: &'a Policies,
    runs: PathBuf,
    fresh: bool,
}

impl Bench<'_> {
    /// What `fcfs` can do in each variant, where loads are shares of it: the requests a second
    /// that it ends when all wait at the start.
    fn capacities(&self, experiment: &Experiment, threads: NonZeroUsize) -> Result<Vec<f64>> {
        if experiment.sweep.loads.is_empty() {
            return Ok(Vec::new());
        }
        let sweep = Sweep {
            policies: vec!["fcfs".to_owned()],
            baseline: None,
            rates: vec![f64::INFINITY],
            loads: Vec::new(),
            arrivals: folio_sim::experiment::Arrivals::Drawn,
            ..experiment.sweep.clone()
        };
        let mut jobs = Experiment { sweep, ..experiment.clone() }.jobs(&[]);
        let first = jobs.first().map(|job| job.seed);
        jobs.retain(|job| Some(job.seed) == first);
        let results = in_parallel(&jobs, threads, |_, job| self.result(job))?;
        let capacity = |(result, _): &(RunResult, Origin)| {
            let rate = result.get("request_throughput").filter(|rate| *rate > 0.0);
            rate.context("fcfs answers nothing, so loads are shares of nothing")
        };
        results.iter().map(capacity).collect()
    }

    /// The flags of `folio sim` that a job stands for.
    fn arguments(&self, job: &Job) -> Result<SimArgs> {
        let words = ["folio".to_owned(), "sim".to_owned()].into_iter().chain(job.arguments());
        let cli = Cli::read(words.map(Into::into), self.policies.registry());
        let cli = cli.map_err(|error| {
            let text = error.to_string();
            anyhow::anyhow!("{}", text.trim_start_matches("error: ").trim_end().to_owned())
        })?;
        match cli.command {
            Command::Sim(args) if args.command.is_none() => Ok(args.run),
            _ => anyhow::bail!("the table `run` holds flags of `folio sim`, not commands"),
        }
    }

    /// The result of a job: from its file where that was made from the same inputs, else run.
    fn result(&self, job: &Job) -> Result<(RunResult, Origin)> {
        let args = self.arguments(job)?;
        let inputs = fingerprint(job, &args)?;
        let name = job.file_name(&inputs[..8]);
        let path = self.runs.join(format!("{name}.json"));
        if !self.fresh
            && let Some(kept) = kept(&path, &inputs)
        {
            return Ok((kept, Origin::File));
        }
        let mut object = simulated(&args, self.policies, job)?;
        object.insert("inputs".to_owned(), Value::String(inputs));
        let result = RunResult::from_value(&Value::Object(object.clone()), &name);
        let result = result.map_err(|reason| anyhow::anyhow!("{name}: {reason}"))?;
        // Whole or not at all: what is cut off by an interruption must not look like a result.
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec(&object)?)
            .and_then(|()| std::fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok((result, Origin::Run))
    }
}

/// Runs a simulation; its result with what reports need.
fn simulated(args: &SimArgs, policies: &Policies, job: &Job) -> Result<Map<String, Value>> {
    let (outcome, description) = sim::simulate(args, policies)?;
    let Value::Object(mut object) = outcome.to_json(&description) else {
        anyhow::bail!("a result is an object");
    };
    RunResult::annotate(&mut object, job, &digest(args, &outcome)?);
    Ok(object)
}

/// What a report needs of a simulation.
pub(crate) fn digest(args: &SimArgs, outcome: &folio_sim::Outcome) -> Result<Digest> {
    let cost = sim::cost_model(args)?;
    let max_num_batched_tokens = args.engine.max_num_batched_tokens;
    let alone = Alone { cost: cost.as_ref(), max_num_batched_tokens };
    Ok(Digest::of_simulation(outcome, args.output.slo(), alone))
}

/// The result that `path` holds, if it was made from `inputs`.
fn kept(path: &Path, inputs: &str) -> Option<RunResult> {
    let text = std::fs::read_to_string(path).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    (value.get("inputs")?.as_str()? == inputs)
        .then(|| RunResult::from_value(&value, "").ok())
        .flatten()
}

/// Everything that the result of a job depends on, hashed: its flags, the files that they name,
/// and the program.
fn fingerprint(job: &Job, args: &SimArgs) -> Result<String> {
    let mut hash = Sha256::new();
    let settings = json!([job.arguments(), format!("{:?}", args)]);
    hash.update(settings.to_string());
    let files = [args.load.trace.clone(), args.device.cost.split_once(':').map(|(_, f)| f.into())];
    for file in files.into_iter().flatten().filter(|file| file.is_file()) {
        let bytes = std::fs::read(&file);
        hash.update(bytes.with_context(|| format!("cannot read {}", file.display()))?);
    }
    // The program's version says too little while it is worked on.
    let program = std::env::current_exe()?.metadata()?;
    hash.update(format!("{} {:?}", program.len(), program.modified()?));
    Ok(hash.finalize().iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The verdicts in a few lines.
fn summary(title: &str, analysis: &Analysis) -> String {
    let mut text = format!("{title}\n");
    let baseline = &analysis.baseline;
    for setting in &analysis.settings {
        let _ = writeln!(text, "\n{}, against {baseline}:", setting.name());
        for policy in &analysis.policies[1..] {
            let _ = writeln!(text, "  {policy}");
            let of_policy = analysis
                .findings
                .iter()
                .filter(|finding| finding.setting == *setting && finding.policy == *policy);
            for finding in of_policy {
                let verdict = finding.comparison.verdict;
                let is_shown = finding.measure.role == Role::Headline || verdict == Verdict::Worse;
                if is_shown {
                    let change = change(&finding.comparison);
                    let label = finding.measure.label;
                    let verdict = verdict.as_str();
                    let _ = writeln!(text, "    {label:<40} {verdict:<12} {change}");
                }
            }
        }
    }
    text.push('\n');
    text
}
