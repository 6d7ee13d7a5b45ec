//! `folio capacity`: the highest rate at which requests keep their objective.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use folio_sim::capacity::{Capacity, Search, Trial};
use folio_sim::experiment::in_parallel;
use folio_sim::outcome::Verdict;
use folio_sim::plot::{Axis, Figure, Layer, Mark, Shape, Stroke, number};
use folio_sim::report::{Block, Cell, Report, Section, Table};

use super::sweep::threads;
use super::{report, sim};
use crate::args::{CapacityArgs, SimArgs};
use crate::policy::Policies;

/// Searches, and says what was found.
pub(crate) fn run(args: &CapacityArgs, policies: &Policies) -> Result<()> {
    check(args)?;
    let threads = threads(args.threads);
    let attain = |rate: f64, seeds: &[u64]| attainments(args, policies, (rate, seeds), threads);
    let search = Search {
        attainment: args.attainment,
        start: saturated(args, policies)?,
        tolerance: args.tolerance,
        seeds: (1..=u64::from(args.seeds)).collect(),
    };
    let mut stderr = std::io::stderr();
    let capacity = search.run(|rate, seeds| {
        let attainments = attain(rate, seeds)?;
        let least = attainments.iter().copied().fold(1.0, f64::min);
        let (num, plural) = (seeds.len(), if seeds.len() == 1 { "" } else { "s" });
        // Whoever closes the standard error does not want to know.
        let _ = writeln!(
            stderr,
            "{rate:10.3} requests/s: {:6.2} % within the objective ({num} seed{plural})",
            100.0 * least
        );
        anyhow::Ok(attainments)
    })?;
    let words = words(args, &capacity);
    writeln!(std::io::stdout(), "{words}")?;
    if let Some(path) = &args.report {
        save(args, &capacity, words, path)?;
    }
    Ok(())
}

fn check(args: &CapacityArgs) -> Result<()> {
    let load = &args.run.load;
    ensure!(
        !args.run.output.goodput.is_empty(),
        "--goodput must say what requests have to keep, such as ttft:500 tpot:50"
    );
    let rates = [
        ("--rate", load.rate.is_some()),
        ("--speed", load.speed.is_some()),
        ("--request-rate", load.request_rate.is_some()),
        ("--decision-log", args.run.output.decision_log.is_some()),
        ("--save-result", args.run.output.save_result),
    ];
    match rates.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => bail!("{flag} cannot be given: many rates are tried"),
        None => Ok(()),
    }
}

/// The same run at a rate, with a seed.
fn at(args: &CapacityArgs, rate: f64, seed: u64) -> SimArgs {
    let mut run = args.run.clone();
    run.load.request_rate = Some(rate);
    run.output.seed = seed as i64;
    run
}

/// Requests a second that end when all wait at the start.
fn saturated(args: &CapacityArgs, policies: &Policies) -> Result<f64> {
    let (outcome, _) = sim::simulate(&at(args, f64::INFINITY, 1), policies)?;
    let num_answered = outcome.requests.iter().filter(|request| request.end.is_success()).count();
    let rate = num_answered as f64 / outcome.duration_s();
    ensure!(rate.is_finite() && rate > 0.0, "no request of the load is answered");
    Ok(rate)
}

fn attainments(
    args: &CapacityArgs,
    policies: &Policies,
    (rate, seeds): (f64, &[u64]),
    threads: NonZeroUsize,
) -> Result<Vec<f64>> {
    in_parallel(seeds, threads, |_, seed| {
        let (outcome, _) = sim::simulate(&at(args, rate, *seed), policies)?;
        let num_met = outcome.requests.iter().filter(|r| r.verdict == Verdict::Met).count();
        Ok(num_met as f64 / outcome.requests.len().max(1) as f64)
    })
}

fn words(args: &CapacityArgs, capacity: &Capacity) -> String {
    let share = number(100.0 * args.attainment);
    match (&capacity.found, capacity.is_unbounded) {
        (Some(found), true) => format!(
            "No rate fails: {} requests/s keep the objective ({:.2} % of the requests, worst of {} \
             seeds), and higher rates were not tried",
            number(found.rate),
            100.0 * found.least(),
            found.attainments.len()
        ),
        (Some(found), false) => format!(
            "Capacity: {} requests/s at {share} % within the objective ({:.2} % in the worst of {} \
             seeds)",
            number(found.rate),
            100.0 * found.least(),
            found.attainments.len()
        ),
        (None, _) => {
            let least = capacity.trials.iter().map(|trial| trial.rate).reduce(f64::min);
            format!(
                "No capacity: even at {} requests/s fewer than {share} % are within the objective",
                number(least.unwrap_or(0.0))
            )
        }
    }
}

/// The attainment at every rate tried, as a page.
fn save(args: &CapacityArgs, capacity: &Capacity, words: String, path: &Path) -> Result<()> {
    let mut trials: Vec<&Trial> = capacity.trials.iter().collect();
    trials.sort_by(|left, right| left.rate.total_cmp(&right.rate));
    let points = trials.iter().map(|trial| (trial.rate, trial.least())).collect();
    let policy = &args.run.engine.scheduling_policy;
    let mut figure = Figure::new(
        "attainment",
        "SLO attainment against request rate, worst seed",
        Axis::log("Request rate (requests/s)"),
        Axis::linear("Share of requests within the objective").over(0.0, 1.0),
    )
    .with(Layer::new(policy.clone(), 0, Shape::Line(points, Stroke::Solid)))
    .marked(Mark::Horizontal(args.attainment, format!("{} %", number(100.0 * args.attainment))));
    if let Some(found) = &capacity.found {
        let label = format!("{} requests/s", number(found.rate));
        figure.marks.push(Mark::Vertical(found.rate, label));
    }
    let row = |trial: &&Trial| {
        vec![
            Cell::number(number(trial.rate)),
            Cell::number(trial.attainments.len().to_string()),
            Cell::number(number(100.0 * trial.least())),
            Cell::number(number(100.0 * trial.mean())),
        ]
    };
    let table = Table {
        caption: String::new(),
        header: ["Rate (requests/s)", "Seeds", "Worst (%)", "Mean (%)"].map(str::to_owned).into(),
        rows: trials.iter().map(row).collect(),
    };
    let mut section = Section::new("Rates tried");
    section.blocks = vec![Block::Figure(figure.draw()?), Block::Table(table)];
    let title = format!("Capacity under {policy}");
    let page = Report { title, lead: vec![words], sections: vec![section] };
    let num_figures = report::save(&page, path)?;
    writeln!(std::io::stdout(), "{}: {num_figures} figure", path.display())?;
    Ok(())
}
