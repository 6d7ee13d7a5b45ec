//! The grammar of an answer that must call tools, in the format that the model writes them in.
//!
//! A Lark grammar of the `llguidance` crate: names and marks are fixed texts, arguments are JSON of
//! the tool's schema with at most one space between its parts, so that whatever the model picks is
//! a call that its client can make. Neighbours: `crate::structured` compiles it.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::format::ToolFormat;
use super::{hermes, mistral};
use crate::openai::{Strictness, Tool};
use crate::structured::{UNENFORCEABLE, exact};
use crate::text::Tokenizer;

/// Keywords that say nothing about a value.
const ANNOTATIONS: [&str; 9] = [
    "$comment",
    "$schema",
    "default",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// The grammar of one to `max_calls` calls of `tools`, which must not be empty.
pub(crate) fn required_calls(
    tokenizer: &Tokenizer,
    format: ToolFormat,
    tools: &[&Tool],
    max_calls: u32,
) -> String {
    let mark = |text: &str| mark(tokenizer, text);
    let more = max_calls.saturating_sub(1);
    let rules = match format {
        ToolFormat::Hermes => {
            let (open, close) = (mark(hermes::OPEN), mark(hermes::CLOSE));
            let call = format!("call: {open} \"\\n\" object \"\\n\" {close}\n");
            format!("{}{call}", repeated("call", "\"\\n\"", more))
        }
        ToolFormat::Llama3Json => repeated("object", "\"; \"", more),
        ToolFormat::Mistral if is_newer_mistral(tokenizer) => {
            let rule = repeated("call", "", more);
            let names: Vec<_> = (0..tools.len()).map(|at| format!("call{at}")).collect();
            let mut rules = format!("{rule}call: {}\n", names.join(" | "));
            let (calls, args) = (mark(mistral::MARK), mark(mistral::ARGS));
            for (at, tool) in tools.iter().enumerate() {
                let name = quoted(&tool.name);
                // Writing to a string cannot fail.
                let _ = writeln!(rules, "call{at}: {calls} {name} {args} arguments{at}");
            }
            return rules + &arguments(tools);
        }
        ToolFormat::Mistral => {
            let rule = repeated("object", "\", \"", more).replacen("start:", "calls:", 1);
            format!("start: {} \"[\" calls \"]\"\n{rule}", mark(mistral::MARK))
        }
    };
    let key = if format == ToolFormat::Llama3Json { "parameters" } else { "arguments" };
    let names: Vec<_> = (0..tools.len()).map(|at| format!("object{at}")).collect();
    let mut rules = format!("{rules}object: {}\n", names.join(" | "));
    for (at, tool) in tools.iter().enumerate() {
        let head = format!("{{\"name\": {}, \"{key}\": ", Value::from(tool.name.as_str()));
        let _ = writeln!(rules, "object{at}: {} arguments{at} \"}}\"", quoted(&head));
    }
    rules + &arguments(tools)
}

/// `start`: one `rule`, and up to `more` after separators.
fn repeated(rule: &str, separator: &str, more: u32) -> String {
    if more == 0 {
        return format!("start: {rule}\n");
    }
    format!("start: {rule} ({separator} {rule}){{0,{more}}}\n")
}

/// Newer vocabularies have a mark between name and arguments.
fn is_newer_mistral(tokenizer: &Tokenizer) -> bool {
    tokenizer.id(mistral::ARGS).is_some()
}

/// A mark: its token where that is special, for then no text can spell it.
fn mark(tokenizer: &Tokenizer, text: &str) -> String {
    match tokenizer.id(text) {
        Some(id) if tokenizer.is_special(id) => format!("<[{id}]>"),
        _ => quoted(text),
    }
}

/// A fixed text, as the grammar's language writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The rules of all arguments.
fn arguments(tools: &[&Tool]) -> String {
    let mut rules = String::new();
    for (at, tool) in tools.iter().enumerate() {
        // A colon in a string may be written as its code: some grammars of another language are
        // told by theirs.
        let schema = schema(tool).to_string().replace("::", "\\u003a\\u003a");
        let _ = writeln!(rules, "arguments{at}: %json {schema}");
    }
    rules
}

/// The schema of a tool's arguments, with what the compiler is told about it.
fn schema(tool: &Tool) -> Value {
    let mut schema = match &tool.parameters {
        Some(schema) => schema.clone(),
        None => Map::new(),
    };
    if tool.parameters.is_none() {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    schema.insert("type".to_owned(), "object".into());
    let mut schema = Value::Object(schema);
    strip(&mut schema, tool.strictness);
    let mut schema = exact(schema);
    schema["x-guidance"] = json!({
        "whitespace_flexible": false,
        "item_separator": ", ?",
        "key_separator": ": ?",
        "lenient": tool.strictness == Strictness::BestEffort,
    });
    schema
}

/// Takes annotations out of a schema and the schemas in it, which makes the grammar shorter, and
/// what cannot be enforced, if that is to be let through.
fn strip(schema: &mut Value, strictness: Strictness) {
    let Value::Object(map) = schema else {
        return;
    };
    let is_lenient = strictness == Strictness::BestEffort;
    map.retain(|key, _| {
        let key = key.as_str();
        let is_left_out = is_lenient && UNENFORCEABLE.contains(&key);
        !ANNOTATIONS.contains(&key) && key != "x-guidance" && !is_left_out
    });
    let strip = |schema: &mut Value| strip(schema, strictness);
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(map)) => {
                map.values_mut().for_each(strip);
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(list)) => {
                list.iter_mut().for_each(strip);
            }
            ("items" | "additionalItems" | "additionalProperties", value) => strip(value),
            _ => {}
        }
    }
}
