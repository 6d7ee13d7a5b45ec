//! `folio bench sweep`: one load after the other, a line each.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;

use super::serve::{conclude, progress_bar, save};
use super::setup::{Flags, Prepared, Target};
use crate::args::{DatasetArgs, FigureArgs, SweepArgs, TrafficArgs};
use crate::bench::metrics::{Metric, Summary};
use crate::bench::report::Report;
use crate::bench::{BenchError, timing::Kind};

/// Most requests of one run that a rate and a time can ask for.
const MAX_REQUESTS: f64 = 1e7;

/// One run of a sweep.
struct Point {
    name: String,
    dataset: DatasetArgs,
    traffic: TrafficArgs,
}

/// Runs all points on one server and prints a line for each as it ends.
pub(super) async fn run(args: SweepArgs) -> Result<()> {
    let points = points(&args)?;
    let target = Target::find(&args.target, &args.serve_args).await?;
    // All results belong into one file.
    let saves = args.figures.save_result || args.figures.append_result;
    let figures = FigureArgs { append_result: saves, ..args.figures.clone() };
    let num = points.iter().map(|point| point.dataset.num_prompts).sum();
    let bar = progress_bar(num, args.traffic.disable_tqdm);
    let mut date = None;
    bar.suspend(|| writeln!(std::io::stdout(), "{HEADING}"))?;
    for point in &points {
        let flags = Flags {
            target: &args.target,
            dataset: &point.dataset,
            sampling: &args.sampling,
            traffic: &point.traffic,
            figures: &figures,
        };
        let Prepared { plan, mut head, notes } = flags.prepare(&target)?;
        if date.is_none() {
            // Once: the notes are the same for all.
            for note in &notes {
                bar.suspend(|| writeln!(std::io::stderr(), "Note: {note}"))?;
            }
        }
        let first_date = date.get_or_insert_with(|| head.date.clone());
        let (report, samples) = plan.execute(&mut |_| bar.inc(1)).await?;
        bar.suspend(|| writeln!(std::io::stdout(), "{}", line(&point.name, &report)))?;
        let file = figures.result_filename.clone();
        let file = file.unwrap_or_else(|| format!("sweep-{first_date}.jsonl").into());
        head.label.get_or_insert_with(|| point.name.clone());
        save(
            &FigureArgs { result_filename: Some(file), ..figures.clone() },
            &head,
            &report,
            &samples,
        )?;
        conclude(&report)?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn points(args: &SweepArgs) -> Result<Vec<Point>> {
    if let Some(max) = args.concurrencies.iter().find(|max| **max == 0) {
        let message = format!("{max}: must be at least 1");
        return Err(BenchError::flag("--concurrencies", message).into());
    }
    let by_rate = args.rates.iter().map(|&request_rate| -> Result<Point> {
        let num = args.seconds_each.map_or(args.dataset.num_prompts as f64, |seconds| {
            (seconds * request_rate).round().max(1.0)
        });
        if !(request_rate > 0.0 && num <= MAX_REQUESTS) {
            let message =
                format!("{request_rate}: must be above 0, and finite with --seconds-each");
            return Err(BenchError::flag("--rates", message).into());
        }
        let num_prompts = num as usize;
        Ok(Point {
            name: format!("{request_rate}/s"),
            dataset: DatasetArgs { num_prompts, ..args.dataset.clone() },
            traffic: TrafficArgs { request_rate, ..args.traffic.clone() },
        })
    });
    let by_concurrency = args.concurrencies.iter().map(|&max| -> Result<Point> {
        Ok(Point {
            name: format!("{max} at once"),
            dataset: args.dataset.clone(),
            traffic: TrafficArgs { max_concurrency: Some(max), ..args.traffic.clone() },
        })
    });
    by_rate
        .chain(by_concurrency)
        .enumerate()
        .map(|(index, point)| {
            // No run has prompts of another, which a prefix cache would know.
            let mut point: Point = point?;
            point.dataset.seed = point.dataset.seed.wrapping_add(index as u64);
            Ok(point)
        })
        .collect()
}

const HEADING: &str = "run             req/s    tok/s  TTFT p50       p99  TPOT p50       p99  \
                       E2EL p50       p99  failed  load";

/// A run in one line: times in milliseconds, from the scheduled time.
fn line(name: &str, report: &Report) -> String {
    let Some(summary) = report.summaries.first() else { return name.to_owned() };
    let counts = &summary.counts;
    let tokens = counts.output_tokens.max(counts.input_tokens * u64::from(counts.texts > 0));
    let cells: Vec<String> = [Metric::TtftSched, Metric::Tpot, Metric::E2elSched]
        .into_iter()
        .flat_map(|metric| ends(summary, metric))
        .map(|value| format!("{value:>9.1}"))
        .collect();
    let mut line = format!(
        "{name:<12} {:>8.2} {:>8.1} {} {:>7}  {}",
        summary.rate(counts.completed as u64),
        summary.rate(tokens),
        cells.join(" "),
        counts.failed,
        report.timing.kind.as_str()
    );
    if report.timing.kind == Kind::Late {
        let _ = write!(line, " ({:.1} ms)", report.timing.lag_ms[1]);
    }
    if report.stopped.is_some() {
        line += ", over-saturated";
    }
    line
}

/// Median and the largest percentile that was asked for.
fn ends(summary: &Summary, metric: Metric) -> [f64; 2] {
    let Some(found) = summary.distribution(metric) else { return [f64::NAN; 2] };
    let last = found.percentiles.iter().map(|(_, value)| *value).fold(found.median, f64::max);
    [found.median, last]
}
