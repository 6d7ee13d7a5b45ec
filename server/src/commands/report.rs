//! `folio report`: one page of HTML from the result files of runs.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use folio_sim::experiment::{Analysis, RunResult};
use folio_sim::report::Report;
use folio_sim::statistics::Judge;

use crate::args::ReportArgs;

/// Reads the results, compares them and writes the page.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let results = read(&args.paths)?;
    let first = results.first().map(|result| result.policy.clone()).unwrap_or_default();
    let baseline = args.baseline.clone().unwrap_or(first);
    if !results.iter().any(|result| result.policy == baseline) {
        let mut known: Vec<&str> = results.iter().map(|result| result.policy.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        bail!("--baseline {baseline:?} is in no file; there are {}", known.join(", "));
    }
    let judge = Judge { margin: args.margin, ..Judge::default() };
    let num_results = results.len();
    let report = Analysis::new(results, &baseline, &judge).report(&args.title, &judge)?;
    let num_figures = save(&report, &args.output)?;
    let output = args.output.display();
    writeln!(std::io::stdout(), "{output}: {num_results} results, {num_figures} figures")?;
    Ok(())
}

/// Writes the page to `output` and its figures, as SVG and CSV, into a directory beside it that
/// ends in `-figures`; says how many there are.
pub(crate) fn save(report: &Report, output: &Path) -> Result<usize> {
    let stem = output.file_stem().context("the page must be a file")?.to_string_lossy();
    let figures = output.with_file_name(format!("{stem}-figures"));
    std::fs::create_dir_all(&figures)
        .with_context(|| format!("cannot make {}", figures.display()))?;
    let mut num_figures = 0;
    for plot in report.plots() {
        plot.save(&figures)?;
        num_figures += 1;
    }
    std::fs::write(output, report.to_html())
        .with_context(|| format!("cannot write {}", output.display()))?;
    Ok(num_figures)
}

/// The results in `paths`: files, which must be results, and directories, where other JSON files
/// are passed over and named.
fn read(paths: &[PathBuf]) -> Result<Vec<RunResult>> {
    let mut results = Vec::new();
    for path in paths {
        if !path.is_dir() {
            results.push(RunResult::read(path)?);
            continue;
        }
        for file in files_in(path)? {
            match RunResult::read(&file) {
                Ok(result) => results.push(result),
                Err(error) => writeln!(std::io::stderr(), "passed over: {error}")?,
            }
        }
    }
    ensure!(!results.is_empty(), "there is no result file in {}", names(paths));
    Ok(results)
}

/// The JSON files of a directory and of `runs` in it, by name.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for directory in [directory.to_owned(), directory.join("runs")] {
        if !directory.is_dir() {
            continue;
        }
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
