//! Files of costs as TOML. Written through JSON: its numbers, strings and lists are TOML's too.

use serde::Serialize;
use serde_json::{Map, Value};

/// `file` as TOML: what is single first, then its tables.
pub(super) fn to_toml(file: &impl Serialize) -> String {
    let mut text = String::new();
    // Numbers, names, lists and tables of them are always representable.
    if let Ok(Value::Object(fields)) = serde_json::to_value(file) {
        write_table(&mut text, "", &fields);
    }
    text
}

fn write_table(text: &mut String, path: &str, fields: &Map<String, Value>) {
    for (key, value) in fields {
        match value {
            Value::Object(_) | Value::Null => {}
            value => text.extend([key, " = ", value.to_string().as_str(), "\n"]),
        }
    }
    for (key, value) in fields {
        if let Value::Object(fields) = value {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            text.extend(["\n[", path.as_str(), "]\n"]);
            write_table(text, &path, fields);
        }
    }
}
