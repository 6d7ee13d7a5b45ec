//! `folio calibrate`: a recorded run beside its simulation.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use folio_engine::decisions::LogReader;
use folio_engine::sched::{PolicyContext, Tempo};
use folio_sim::calibrate::{Recording, calibrate, samples};
use folio_sim::cost::{Fitted, FittedFile, HostFit, fit};

use crate::args::CalibrateArgs;
use crate::policy::Policies;

/// Prints the errors.
pub(crate) fn run(args: &CalibrateArgs, policies: &Policies) -> Result<()> {
    let text = std::fs::read_to_string(&args.costs)
        .with_context(|| format!("--costs {}", args.costs.display()))?;
    let file = FittedFile::parse(&text, &args.costs)?;
    let model = Arc::new(Fitted::new(format!("fitted:{}", args.costs.display()), &file));
    let log = args.log.display().to_string();
    let reader = LogReader::open(&args.log).with_context(|| log.clone())?;
    let recording = Recording::read(reader).with_context(|| log.clone())?;
    let measured = samples(&recording);
    let host = args.host_from_log.then(|| HostFit::new(&measured));
    let registry = policies.registry();
    let calibration = calibrate(&recording, &model, host, &mut |header, spec| {
        let context = PolicyContext {
            block_size: header.engine.block_size,
            cost: Some(Arc::clone(&model) as _),
            tempo: Tempo::Simulated,
            ..PolicyContext::default()
        };
        registry.make(spec, &context).map_err(|error| error.to_string())
    });
    let calibration = calibration.with_context(|| log.clone())?;
    let mut output = std::io::stdout().lock();
    let recorded = recording.header.models.first().map_or("", |one| &one.name);
    if recorded != file.identity.model {
        let costs = &file.identity.model;
        writeln!(output, "Note: the log is of {recorded}, the cost model of {costs}\n")?;
    }
    write!(output, "{calibration}")?;
    if let Some(path) = &args.refit {
        let refitted = fit(&measured, file.identity.clone()).with_context(|| log.clone())?;
        std::fs::write(path, refitted.to_toml())
            .with_context(|| format!("--refit {}", path.display()))?;
        writeln!(output, "\nWrote {}", path.display())?;
    }
    Ok(output.flush()?)
}
