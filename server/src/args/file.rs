//! `folio.toml`: the same names and values as the flags, as defaults for them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::error::ErrorKind;

/// Read when it exists and `--config` names no other.
const DEFAULT_PATH: &str = "folio.toml";

/// The file that the command line or the environment names, else the one in the current
/// directory, if there is one.
pub(super) fn path(command: Command, args: &[OsString]) -> Option<PathBuf> {
    // Whatever is wrong with the other arguments is reported when they are read in earnest.
    let matches = command.ignore_errors(true).try_get_matches_from(args).ok();
    let given = matches.and_then(|mut matches| {
        let nested = matches.remove_subcommand();
        let nested = nested.and_then(|(_, mut nested)| nested.remove_one::<PathBuf>("config"));
        nested.or_else(|| matches.remove_one::<PathBuf>("config"))
    });
    given.or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()))
}

/// `command` with the values of the file as defaults of its flags.
pub(super) fn with_defaults(mut command: Command, path: &Path) -> Result<Command, clap::Error> {
    let fail = |command: &mut Command, message: String| {
        let message = format!("{}: {message}", path.display());
        command.error(ErrorKind::InvalidValue, message)
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| fail(&mut command, error.to_string()))?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| fail(&mut command, error.to_string()))?;
    let mut defaults = HashMap::new();
    for (key, value) in table {
        if !is_flag(&command, &key) {
            return Err(fail(&mut command, format!("{key} is not a setting")));
        }
        let Some(values) = texts(&value) else {
            let message = format!("{key} must be a text, a number, a boolean or an array of them");
            return Err(fail(&mut command, message));
        };
        defaults.insert(key, values);
    }
    Ok(command.mut_subcommands(|subcommand| with_values(subcommand, &defaults)))
}

fn is_flag(command: &Command, key: &str) -> bool {
    let mut flags =
        command.get_subcommands().flat_map(Command::get_arguments).filter_map(clap::Arg::get_long);
    key != "config" && flags.any(|flag| flag == key)
}

/// The value as it would be written on the command line, one text for each time the flag is given.
fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::Array(values) => values.iter().map(text).collect(),
        single => text(single).map(|text| vec![text]),
    }
}

fn text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

fn with_values(subcommand: Command, defaults: &HashMap<String, Vec<String>>) -> Command {
    subcommand.mut_args(|arg| match arg.get_long().and_then(|long| defaults.get(long)) {
        Some(values) => {
            let values: Vec<OsString> = values.iter().map(OsString::from).collect();
            arg.default_values(values)
        }
        None => arg,
    })
}
