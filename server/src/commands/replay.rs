//! `folio replay`.

use std::io::Write;

use anyhow::{Result, bail};
use folio_sim::replay::{Replay, ReplayEnd, replay};

use super::explain::open;
use crate::args::ReplayArgs;
use crate::policy::Policies;

/// Replays a log, and says whether all was decided in the same way.
pub(crate) fn run(args: &ReplayArgs, policies: &Policies) -> Result<()> {
    let log = open(&args.log)?;
    let policy = args.policy.clone().unwrap_or_else(|| log.header().policy.clone());
    let replay = replay(log, &mut |header, spec| {
        let spec = args.policy.as_deref().unwrap_or(spec);
        let made = policies.make(spec, header.engine.block_size);
        made.map(|made| made.policy.into()).map_err(|error| error.pointed())
    })?;
    let Replay { num_calls, num_steps, num_requests, span, end } = replay;
    let seconds = span.as_secs_f64();
    let mut output = std::io::stdout().lock();
    writeln!(
        output,
        "{num_requests} requests, {num_steps} steps, {num_calls} calls in {seconds:.3} s under \
         {policy}: all decided in the same way{}",
        if matches!(end, ReplayEnd::Complete) { "" } else { " so far" }
    )?;
    match end {
        ReplayEnd::Complete => Ok(()),
        ReplayEnd::Gap { num_calls } => {
            writeln!(
                output,
                "{num_calls} calls are missing in the log; nothing after can be compared"
            )?;
            Ok(())
        }
        ReplayEnd::Broken(error) => {
            writeln!(std::io::stderr(), "warning: {}: {error}", args.log.display())?;
            Ok(())
        }
        ReplayEnd::Differs(difference) => bail!("the first difference is {difference}"),
    }
}
