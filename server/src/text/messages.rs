//! From the messages of the OpenAI interface to those that chat templates are written for.
//!
//! [`prepare`] does what the interface asks for: parts of text become one text, the arguments of
//! calls become objects, `developer` becomes `system` where a template knows no better.
//! [`normalize`] does what Hugging Face does to every conversation. Neither changes any words.

use serde_json::{Map, Value};

use super::error::{Error, Result};

/// What becomes of messages by a developer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeveloperRole {
    /// The template knows the role.
    Keep,
    /// They are the system's, as they were called before.
    AsSystem,
}

/// Names of the field with a model's reasoning. Templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Goes after the last message where the model is to continue it.
const END_MARK: &str = "<|folio: the answer goes on here|>";
/// Shows whether a template trims the message.
const END_MARK_WITH_SPACE: &str = "<|folio: the answer goes on here|> ";

/// Messages as clients send them, as templates want them:
/// - a list of parts becomes one text, the parts' texts joined by line breaks (only parts of text
///   are possible);
/// - the arguments of a tool call, a text with JSON in it, become that JSON;
/// - empty lists of tool calls go;
/// - `developer` follows `developer`.
///
/// Everything else stays, names and ids included.
///
/// # Errors
/// [`Error::Message`] with the path of the field.
pub fn prepare(messages: &[Value], developer: DeveloperRole) -> Result<Vec<Value>> {
    let prepare = |(at, message): (usize, &Value)| {
        let path = format!("messages[{at}]");
        let Value::Object(message) = message else {
            return Err(Error::message(&path, "must be an object with a role"));
        };
        let mut message = message.clone();
        prepare_role(&mut message, &path, developer)?;
        if let Some(Value::Array(parts)) = message.get("content") {
            let text = joined_parts(parts, &format!("{path}.content"))?;
            message.insert("content".to_owned(), Value::String(text));
        }
        prepare_calls(&mut message, &path)?;
        Ok(Value::Object(message))
    };
    messages.iter().enumerate().map(prepare).collect()
}

fn prepare_role(
    message: &mut Map<String, Value>,
    path: &str,
    developer: DeveloperRole,
) -> Result<()> {
    match message.get("role").and_then(Value::as_str) {
        None => Err(Error::message(&format!("{path}.role"), "must be a string")),
        Some("developer") if developer == DeveloperRole::AsSystem => {
            message.insert("role".to_owned(), Value::from("system"));
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

fn joined_parts(parts: &[Value], path: &str) -> Result<String> {
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str);
        let field = match kind {
            Some("text" | "input_text" | "output_text") => "text",
            Some("refusal") => "refusal",
            Some(other) => {
                let message = format!("{other:?} is not supported, only text is");
                return Err(Error::message(&format!("{path}[{at}].type"), &message));
            }
            None => {
                return Err(Error::message(&format!("{path}[{at}].type"), "must be a string"));
            }
        };
        let text = part.get(field).and_then(Value::as_str);
        let path = || format!("{path}[{at}].{field}");
        texts.push(text.ok_or_else(|| Error::message(&path(), "must be a string"))?);
    }
    Ok(texts.join("\n"))
}

fn prepare_calls(message: &mut Map<String, Value>, path: &str) -> Result<()> {
    let Some(Value::Array(calls)) = message.get_mut("tool_calls") else {
        return Ok(());
    };
    for (at, call) in calls.iter_mut().enumerate() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else {
            continue;
        };
        let Some(text) = arguments.as_str() else {
            continue;
        };
        let text = if text.trim().is_empty() { "{}" } else { text };
        let parsed: Value = serde_json::from_str(text).unwrap_or_default();
        if !parsed.is_object() {
            let field = format!("{path}.tool_calls[{at}].function.arguments");
            return Err(Error::message(&field, "must be a JSON object, written as a string"));
        }
        *arguments = parsed;
    }
    if calls.is_empty() {
        // Templates ask whether the field is there.
        message.shift_remove("tool_calls");
    }
    Ok(())
}

/// Takes out fields that are null, which many templates would print as `None`, and gives a
/// model's reasoning all the names that templates read it by.
pub(super) fn normalize(messages: &[Value]) -> Result<Vec<Value>> {
    if messages.is_empty() {
        return Err(Error::message("messages", "must hold at least one message"));
    }
    let normalize = |(at, message): (usize, &Value)| {
        let Value::Object(message) = message else {
            return Err(Error::message(&format!("messages[{at}]"), "must be an object"));
        };
        let mut message = message.clone();
        message.retain(|_, value| !value.is_null());
        let reasoning = REASONING.iter().find_map(|name| message.get(*name)).cloned();
        if let Some(reasoning) = reasoning {
            message.entry("thinking").or_insert_with(|| reasoning.clone());
            message.insert(REASONING[0].to_owned(), reasoning);
        }
        Ok(Value::Object(message))
    };
    messages.iter().enumerate().map(normalize).collect()
}

/// Marks the end of the last message's content, for [`cut_at_mark`] to find.
pub(super) fn mark_end(messages: &mut [Value]) -> Result<()> {
    let at = messages.len().saturating_sub(1);
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => content,
    };
    if let Some(Value::String(text)) = text {
        text.push_str(END_MARK_WITH_SPACE);
        return Ok(());
    }
    Err(Error::message(&format!("messages[{at}].content"), "there is no text to continue"))
}

/// The rendered text up to the mark. Where the template trimmed the message, so is the text.
pub(super) fn cut_at_mark(mut text: String) -> Result<String> {
    let Some(at) = text.rfind(END_MARK) else {
        let message = "the chat template does not show the last message, so it cannot be continued";
        return Err(Error::message("messages", message));
    };
    let is_trimmed = !text[at..].starts_with(END_MARK_WITH_SPACE);
    text.truncate(at);
    if is_trimmed {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}
