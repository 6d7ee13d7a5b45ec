//! Prints what the kernels of a GPU reach of its roofs, and writes it as JSON.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::Parser;
use folio_benches::gpu::{self, Line, Roofs, Scale};
use folio_kernels::cuda::{Context, NvidiaDriver};

/// Kernels of a GPU against its roofs.
#[derive(Debug, Parser)]
struct Args {
    /// Which GPU
    #[arg(long, default_value_t = 0)]
    ordinal: usize,
    /// Write one JSON line a kernel and shape to this file too
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let context = Context::new(NvidiaDriver::open(args.ordinal)?)?;
    let device = context.device().clone();
    let mut lines: Vec<serde_json::Value> = Vec::new();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}, {} multiprocessors", device.name, device.num_multiprocessors)?;
    let mut failure = None;
    let mut show = |line: Line, roofs: Roofs| {
        let share = 100.0 * line.share(roofs);
        let shown = writeln!(
            output,
            "{:<20} {:<32} {:>10.2} us {:>6.1} %",
            line.kernel, line.shape, line.micros, share
        );
        failure = failure.take().or(shown.err());
        lines.push(line.json(roofs));
    };
    let roofs = gpu::run(&context, Scale::Full, &mut show)?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    writeln!(
        std::io::stdout(),
        "roofs: {:.2} TB/s copied, {:.0} TFLOP/s",
        roofs.bytes_per_s * 1e-12,
        roofs.flops_per_s * 1e-12
    )?;
    if let Some(path) = args.json {
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        std::fs::write(&path, text.join("\n") + "\n")
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}
