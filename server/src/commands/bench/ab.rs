//! `folio bench compare` and `folio bench ab`: verdicts.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use folio_sim::statistics::Judge;
use serde_json::Value;

use super::serve::{conclude, progress_bar};
use super::setup::{Flags, Target};
use crate::args::{AbArgs, CompareArgs, DatasetArgs, JudgeArgs};
use crate::bench::compare::{HEADLINES, Side, Table, compare};
use crate::bench::{BenchError, report};

/// Compares result files with the first of them.
pub(super) fn compare_files(args: &CompareArgs) -> Result<()> {
    let (judge, keys) = (judge(&args.judge)?, keys(&args.judge));
    let sides = args.files.iter().map(|path| Side::read(path));
    let sides: Vec<Side> = sides.collect::<Result<_, _>>()?;
    let [baseline, candidates @ ..] = sides.as_slice() else { return Ok(()) };
    let tables = candidates.iter().map(|candidate| compare(baseline, candidate, &keys, &judge));
    conclude_with(&tables.collect::<Vec<_>>(), &args.judge)
}

/// Puts the same load on two servers in turn.
pub(super) async fn run(args: AbArgs) -> Result<()> {
    let (judge, keys) = (judge(&args.judge)?, keys(&args.judge));
    if args.target.base_url.is_some() || args.target.spawn {
        return Err(BenchError::flag("--base-url", "the servers are --a and --b").into());
    }
    if args.figures.save_result || args.figures.append_result {
        return Err(BenchError::flag("--save-result", "use --output-json").into());
    }
    if args.blocks == 0 {
        return Err(BenchError::flag("--blocks", "0: must be at least 1").into());
    }
    let mut sides = Vec::new();
    for (name, url) in [("A", &args.a), ("B", &args.b)] {
        let target = Target::at(&args.target, url.clone()).await?;
        let side = Side { name: format!("{name} {url}"), runs: Vec::new() };
        sides.push((target, side));
    }
    let num = args.dataset.num_prompts * args.blocks * 2;
    let bar = progress_bar(num, args.traffic.disable_tqdm);
    for block in 0..args.blocks {
        // Prompts of a block are the same on both, and new: no cache knows them.
        let seed = args.dataset.seed.wrapping_add(block as u64);
        let dataset = DatasetArgs { seed, ..args.dataset.clone() };
        let flags = Flags {
            target: &args.target,
            dataset: &dataset,
            sampling: &args.sampling,
            traffic: &args.traffic,
            figures: &args.figures,
        };
        let order = if block % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in order {
            let (target, side) = &mut sides[index];
            let prepared = flags.prepare(target)?;
            let (found, _) = prepared.plan.execute(&mut |_| bar.inc(1)).await?;
            conclude(&found).with_context(|| side.name.clone())?;
            side.runs.push(report::result(&prepared.head, &found, None));
        }
    }
    bar.finish_and_clear();
    let [(_, a), (_, b)] = sides.as_slice() else { return Ok(()) };
    conclude_with(&[compare(a, b, &keys, &judge)], &args.judge)
}

fn judge(args: &JudgeArgs) -> Result<Judge> {
    if !(0.0..1.0).contains(&args.margin) {
        let message = format!("{}: must be at least 0 and below 1", args.margin);
        return Err(BenchError::flag("--margin", message).into());
    }
    Ok(Judge { margin: args.margin, ..Judge::default() })
}

/// The measures that are compared.
fn keys(args: &JudgeArgs) -> Vec<String> {
    if args.metrics.is_empty() {
        HEADLINES.iter().map(|&key| key.to_owned()).collect()
    } else {
        args.metrics.clone()
    }
}

fn conclude_with(tables: &[Table], args: &JudgeArgs) -> Result<()> {
    let texts: Vec<String> = tables.iter().map(Table::text).collect();
    write!(std::io::stdout(), "{}", texts.join("\n"))?;
    if let Some(path) = &args.output_json {
        let value: Value = tables.iter().map(Table::to_json).collect();
        std::fs::write(path, format!("{value}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
