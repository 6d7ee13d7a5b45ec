//! `folio timeline`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use folio_engine::types::Nanos;
use folio_sim::timeline::{Window, Written, timeline};

use super::explain::{open, warn};
use crate::args::TimelineArgs;

/// Writes the trace, and says what is in it.
pub(crate) fn run(args: &TimelineArgs) -> Result<()> {
    let to = args.to.map_or(Nanos(u64::MAX), Nanos::from_secs_f64);
    let from = Nanos::from_secs_f64(args.from);
    ensure!(from < to, "--from {} must be before --to {}", args.from, to.as_secs_f64());
    let window = Window { from, to, max_sequences: args.max_requests, max_steps: args.max_steps };
    let log = open(&args.log)?;
    let path = &args.output;
    let written = if path == Path::new("-") {
        timeline(log, window, std::io::stdout().lock())?
    } else {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        timeline(log, window, BufWriter::new(file)).with_context(|| path.display().to_string())?
    };
    let Written { num_sequences, num_left_out, num_steps, cut_at, broken } = written;
    let mut said = std::io::stderr();
    let (output, steps) = (path.display(), num_steps);
    writeln!(said, "{output}: {num_sequences} tracks, {steps} steps; open it at ui.perfetto.dev")?;
    if num_left_out > 0 {
        writeln!(
            said,
            "{num_left_out} requests are left out: see --max-requests, --from and --to"
        )?;
    }
    if let Some(at) = cut_at {
        let at = at.as_secs_f64();
        writeln!(said, "it ends at {at:.3} s of the log: see --max-steps, --from and --to")?;
    }
    warn(&args.log, broken.as_ref())
}
