//! `folio profile`: how long steps take on this machine, as a cost model for the simulator.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use folio_engine::types::{Clock, Nanos, Sampling, SystemClock};
use folio_sim::cost::{Error, GroupFit, Identity};
use folio_sim::profile::{Profile, ProfileOptions, profile};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::args::ProfileArgs;
use crate::load::load_bare;

/// Key of prompts and orders: measurements of one machine are to be alike.
const SEED: u64 = 1;

/// Measures and writes the files.
pub(crate) fn run(args: &ProfileArgs) -> Result<()> {
    let bare = load_bare(&args.models, &args.engine)?;
    let identity = identity(&bare.model, &bare.device, bare.engine.block_size);
    let options = ProfileOptions {
        engine: bare.engine,
        sampling: Sampling { temperature: args.temperature, ..Sampling::default() },
        max_time: Nanos::from(args.max_time),
        seed: SEED,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let bar = Bar::new(args.max_time.as_secs_f64());
    let measured = profile(bare.executor, &clock, &options, &mut |share| bar.show(share));
    bar.0.finish_and_clear();
    let measured = measured?;
    let seconds = clock.now().as_secs_f64();
    let fitted = measured.fit(identity)?;
    write(&args.output, &fitted.to_toml())?;
    if let Some(path) = &args.table {
        write(path, &measured.table(&fitted)?.to_toml())?;
    }
    if let Some(path) = &args.record {
        write(path, &lines(&measured)?)?;
    }
    let mut output = std::io::stdout().lock();
    let Identity { model, device, .. } = &fitted.identity;
    let (num_shapes, num_steps) = (measured.samples.len(), measured.steps.len());
    let num_rounds = measured.num_rounds;
    writeln!(
        output,
        "{model} on {device}: {num_shapes} shapes, {num_steps} steps (rounds: \
         {num_rounds}), {seconds:.0} s"
    )?;
    writeln!(output, "\nError of the fit, a share of a step's time:")?;
    writeln!(
        output,
        "  {:<8} {:>6} {:>8}  {:>16}  {:>16}",
        "", "shapes", "spread", "fitted mean, p95", "held back"
    )?;
    for (name, group) in [("decode", &fitted.decode), ("mixed", &fitted.mixed)] {
        writeln!(output, "  {}", line(name, group))?;
    }
    let host = fitted.host;
    writeln!(
        output,
        "\nHost: {:.1} us a step and {:.2} us a sequence in it",
        host.step_ns * 1e-3,
        host.sequence_ns * 1e-3
    )?;
    let output_file = args.output.display();
    writeln!(output, "Wrote {output_file}; simulate with --cost fitted:{output_file}")?;
    Ok(output.flush()?)
}

fn line(name: &str, group: &GroupFit) -> String {
    let percent = |share: f64| 100.0 * share;
    let both =
        |error: &Error| format!("{:>6.1} % {:>6.1} %", percent(error.mean), percent(error.p95));
    let spread = percent(group.spread);
    let num_shapes = group.num_fitted + group.held_back.num_steps;
    let (fitted, held_back) = (both(&group.fitted), both(&group.held_back));
    format!("{name:<8} {num_shapes:>6} {spread:>6.1} %  {fitted:>16}  {held_back:>16}")
}

fn lines(measured: &Profile) -> Result<String> {
    let mut text = String::new();
    for sample in &measured.samples {
        text.push_str(&serde_json::to_string(sample)?);
        text.push('\n');
    }
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What was measured, so that files of different machines or programs are not mistaken.
fn identity((model, fingerprint): &(String, String), device: &str, block_size: u32) -> Identity {
    // Why there is no GPU does not matter to the processor.
    let device = device.split(" (").next().unwrap_or(device).to_owned();
    let mut hash = Sha256::new();
    for part in [fingerprint, &device, env!("CARGO_PKG_VERSION")] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut hex = String::new();
    for byte in digest.iter().take(8) {
        let _ = write!(hex, "{byte:02x}");
    }
    Identity {
        model: model.clone(),
        device,
        program: format!("folio {}", env!("CARGO_PKG_VERSION")),
        digest: hex,
        block_size,
    }
}

/// A bar on the terminal; nothing if the standard error is none.
struct Bar(ProgressBar);

impl Bar {
    fn new(seconds: f64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("Measuring [{bar:40}] {percent} % of {msg}");
        let bar = match style {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        };
        bar.set_message(format!("{seconds:.0} s"));
        Self(bar)
    }

    fn show(&self, share: f64) {
        self.0.set_position((1000.0 * share) as u64);
    }
}
