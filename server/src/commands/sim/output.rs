//! Writing results of simulations where the arguments say, and what is said beside the table.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use folio_sim::outcome::End;
use folio_sim::{Description, Outcome};
use jiff::Timestamp;
use serde_json::Value;

use crate::args::SimArgs;
use crate::commands::sweep::digest;

/// What a user should know of the run, beside its figures.
pub(super) fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    if !outcome.read.dropped.is_empty() {
        notes.push(format!("Requests of the load: {}", super::tally(outcome)));
    }
    let num_cut = outcome.requests.iter().filter(|request| request.end == End::Cut).count();
    if num_cut > 0 {
        notes.push(format!(
            "{num_cut} answers were cut: by --max-tokens, the model's length or the KV cache"
        ));
    }
    let num_long = outcome.requests.iter().filter(|request| request.end == End::TooLong).count();
    if num_long > 0 {
        notes.push(format!(
            "{num_long} requests were turned away: their prompts leave no room for an answer \
             (--max-model-len, --num-blocks)"
        ));
    }
    notes
}

/// Writes the result, if that is wanted; tells where.
pub(super) fn save(
    args: &SimArgs,
    outcome: &Outcome,
    description: &Description,
) -> Result<Vec<String>> {
    let output = &args.output;
    if !output.save_result && output.result_filename.is_none() {
        return Ok(Vec::new());
    }
    let directory = output.result_dir.clone().unwrap_or_default();
    let name = match &output.result_filename {
        Some(name) => name.clone(),
        None => default_name(outcome, description),
    };
    let path = directory.join(name);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    let mut result = outcome.to_json(description);
    if let (true, Value::Object(result)) = (output.save_detailed, &mut result) {
        // What `folio report` draws distributions and courses from.
        result.insert("digest".to_owned(), serde_json::to_value(digest(args, outcome)?)?);
    }
    let mut text = serde_json::to_string_pretty(&result)?;
    text.push('\n');
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    let mut notes = vec![format!("Result: {}", path.display())];
    if output.save_detailed {
        let requests = path.with_extension("requests.csv");
        write(&requests, |file| outcome.write_requests(file))?;
        let series = path.with_extension("series.csv");
        write(&series, |file| outcome.write_series(file))?;
        notes.push(format!("Requests: {}", requests.display()));
        notes.push(format!("State over time: {}", series.display()));
    }
    Ok(notes)
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        content(&mut file)?;
        file.flush()
    };
    write().with_context(|| path.display().to_string())
}

/// As vLLM names its results: load, rate, model and the time of writing.
fn default_name(outcome: &Outcome, description: &Description) -> PathBuf {
    let rate = description.load.rate.unwrap_or_else(|| outcome.offered_rate());
    let rate = if rate.is_finite() {
        format!("{}", (rate * 1000.0).round() / 1000.0)
    } else {
        "inf".to_owned()
    };
    let model = Path::new(&description.model).file_name().unwrap_or_default().to_string_lossy();
    let now = Timestamp::now().strftime("%Y%m%d-%H%M%S");
    PathBuf::from(format!("{}-{rate}qps-{model}-{now}.json", description.workload))
}
