//! `folio config`: every setting as a file, and whether the settings given can work.

use std::io::Write;

use anyhow::Result;

use crate::args::ConfigArgs;
use crate::commands::serve;
use crate::policy::Policies;

/// Prints the settings, or says what a server would be with them.
pub(crate) fn run(args: &ConfigArgs, policies: &Policies) -> Result<()> {
    let mut output = std::io::stdout().lock();
    if args.check {
        for line in serve::check(&args.serve, policies)? {
            writeln!(output, "{line}")?;
        }
        writeln!(output, "These settings can work")?;
    } else {
        output.write_all(args.settings.as_bytes())?;
    }
    Ok(output.flush()?)
}
