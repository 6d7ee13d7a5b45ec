//! `folio bench serve`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use super::setup::{Flags, Prepared, Target};
use crate::args::{BenchServeArgs, FigureArgs};
use crate::bench::report::{self, Head, Report};
use crate::bench::sample::Sample;

/// Puts the load on the server, prints the figures and writes the file.
pub(super) async fn run(args: BenchServeArgs) -> Result<()> {
    let flags = Flags {
        target: &args.target,
        dataset: &args.dataset,
        sampling: &args.sampling,
        traffic: &args.traffic,
        figures: &args.figures,
    };
    let target = Target::find(&args.target, &args.serve_args).await?;
    let Prepared { plan, head, notes } = flags.prepare(&target)?;
    for note in notes {
        writeln!(std::io::stderr(), "Note: {note}")?;
    }
    let bar = progress_bar(plan.load.requests.len(), args.traffic.disable_tqdm);
    let (report, samples) = plan.execute(&mut |_| bar.inc(1)).await?;
    bar.finish_and_clear();
    let rate = Some(args.traffic.request_rate).filter(|rate| rate.is_finite());
    let block = report::block(&report, args.traffic.max_concurrency, rate);
    write!(std::io::stdout(), "{block}")?;
    save(&args.figures, &head, &report, &samples)?;
    conclude(&report)
}

/// Fails for a run whose figures are worth nothing.
pub(super) fn conclude(report: &Report) -> Result<()> {
    if report.verification.as_ref().is_some_and(|verification| !verification.is_good()) {
        bail!("the answers are not verified: the figures do not count");
    }
    if report.summaries.iter().all(|summary| summary.counts.completed == 0) {
        bail!("no request succeeded");
    }
    Ok(())
}

/// A bar on the terminal; nothing if the standard error is none.
pub(super) fn progress_bar(num: usize, is_disabled: bool) -> ProgressBar {
    if is_disabled {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(num as u64), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("[{bar:40}] {pos}/{len} {per_sec} {eta}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Writes the result file, if one is asked for.
pub(super) fn save(
    args: &FigureArgs,
    head: &Head,
    report: &Report,
    samples: &[Sample],
) -> Result<()> {
    if !args.save_result && !args.append_result {
        return Ok(());
    }
    let result = report::result(head, report, args.save_detailed.then_some(samples));
    let path = write_result(args, head, &result)?;
    writeln!(std::io::stderr(), "Result in {}", path.display())?;
    Ok(())
}

/// Writes `result` where `args` say, and says where that is.
fn write_result(args: &FigureArgs, head: &Head, result: &Map<String, Value>) -> Result<PathBuf> {
    let name = args.result_filename.clone();
    let name = name.unwrap_or_else(|| report::file_name(head).into());
    let path = match &args.result_dir {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("--result-dir {}", directory.display()))?;
            directory.join(name)
        }
        None => name,
    };
    let mut options = OpenOptions::new();
    options.create(true).write(true);
    if args.append_result {
        options.append(true)
    } else {
        options.truncate(true)
    };
    let file = options.open(&path).with_context(|| format!("cannot write {}", path.display()));
    let mut file = file?;
    let text = serde_json::to_string(result)?;
    let gap = if args.append_result && file.metadata()?.len() > 0 { "\n" } else { "" };
    write!(file, "{gap}{text}").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
