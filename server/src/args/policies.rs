//! The help of `--scheduling-policy`: it lists what the program at hand knows.

use clap::Command;
use folio_engine::sched::Registry;

/// `command` with the policies of `registry` in the help of all that take one.
pub(super) fn listed(command: Command, registry: &Registry) -> Command {
    let lines: Vec<String> =
        registry.help().map(|(name, help)| format!("- {name}: {help}")).collect();
    let help = format!(
        "Which sequences go first: the name of a policy, and its parameters as key=value\n\n{}",
        lines.join("\n")
    );
    let short = format!(
        "Which sequences go first: a policy's name and its parameters as key=value; --help tells \
         more [{}]",
        registry.names().collect::<Vec<_>>().join(", ")
    );
    command.mut_subcommands(|subcommand| {
        subcommand.mut_args(|arg| match arg.get_long() {
            Some("scheduling-policy") => arg.help(short.clone()).long_help(help.clone()),
            _ => arg,
        })
    })
}
