//! All settings of `folio serve` as a `folio.toml`.
//!
//! The text is made from the flags themselves, so no setting can be missing in it.

use std::fmt::Write;

use clap::builder::OsStr;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Width of the lines of help, their marks included.
const MAX_COLUMNS: usize = 100;

/// All settings of `folio serve` in TOML: those that differ from the defaults as they are, the
/// others as comments.
pub(super) fn file(command: &Command, matches: &ArgMatches) -> String {
    let serve = command.find_subcommand("serve");
    let flags = serve.into_iter().flat_map(Command::get_arguments);
    let mut text =
        String::from("# Settings of folio serve. A flag and FOLIO_<NAME> go before this file.\n");
    let mut heading = None;
    for flag in flags.filter(|flag| is_setting(flag)) {
        if heading != flag.get_help_heading() {
            heading = flag.get_help_heading();
            let title = heading.unwrap_or("Other");
            // Writing to a string cannot fail.
            let _ = write!(text, "\n# {title}\n# {}\n", "-".repeat(title.len()));
        }
        text.push('\n');
        text.push_str(&entry(flag, matches));
    }
    text
}

fn is_setting(flag: &Arg) -> bool {
    flag.get_long().is_some_and(|long| !matches!(long, "config" | "help" | "version"))
}

/// One setting below its help.
fn entry(flag: &Arg, matches: &ArgMatches) -> String {
    let name = flag.get_long().unwrap_or_default();
    let help = flag.get_long_help().or_else(|| flag.get_help());
    let mut text = comment(&help.map(ToString::to_string).unwrap_or_default());
    let defaults = flag.get_default_values();
    let given: Vec<_> = matches.get_raw(flag.get_id().as_str()).into_iter().flatten().collect();
    let is_default = given.is_empty() || given == defaults;
    if flag.is_hide_env_values_set() && !is_default {
        // A secret is not for the screen.
        let _ = writeln!(text, "# {name} is set");
        return text;
    }
    let shown = if is_default { defaults.iter().map(OsStr::as_os_str).collect() } else { given };
    let values: Vec<String> =
        shown.iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let mark = if is_default { "# " } else { "" };
    let _ = writeln!(text, "{mark}{name} = {}", value(flag, &values));
    text
}

fn value(flag: &Arg, values: &[String]) -> String {
    if !flag.get_action().takes_values() {
        let is_set = values.first().is_some_and(|value| value == "true");
        return is_set.to_string();
    }
    match (flag.get_action(), values) {
        (ArgAction::Append, values) => {
            let values: Vec<_> = values.iter().map(|value| scalar(value)).collect();
            format!("[{}]", values.join(", "))
        }
        (_, [value]) => scalar(value),
        _ => "\"\"".to_owned(),
    }
}

/// A number where the text is one, else a string.
fn scalar(text: &str) -> String {
    let is_number = text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
        || text.parse::<f64>().is_ok_and(|number| number.to_string() == text && text.contains('.'));
    // A string of JSON is one of TOML.
    if is_number { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// `text` as lines of comment, broken between words.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > MAX_COLUMNS {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}
