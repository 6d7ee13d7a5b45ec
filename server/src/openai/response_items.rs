//! The items of a response's `input`, and what a chat template sees of them.
//!
//! Items are kept in one form, with their type and their content as parts: that of `input_items`
//! and of a response's `output`, so that what went out can come in again.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::json::type_name;
use super::trace::ITEMS;
use crate::error::ApiError;

/// What an item is.
#[derive(Clone, Copy)]
enum Kind {
    Message,
    FunctionCall,
    FunctionCallOutput,
    Reasoning,
}

const KINDS: [(&str, Kind); 4] = [
    ("message", Kind::Message),
    ("function_call", Kind::FunctionCall),
    ("function_call_output", Kind::FunctionCallOutput),
    ("reasoning", Kind::Reasoning),
];

const ROLES: [(&str, &str); 4] = [
    ("user", "user"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("developer", "developer"),
];

const STATUSES: [(&str, &str); 3] =
    [("completed", "completed"), ("incomplete", "incomplete"), ("in_progress", "in_progress")];

/// The JSON Schema of `input`.
pub(super) fn shape() -> Value {
    json!({ "anyOf": [
        { "type": "string", "minLength": 1 },
        { "type": "array", "items": ITEMS, "minItems": 1 },
    ] })
}

/// The JSON Schema of a content: a text or parts.
fn content_shape() -> Value {
    json!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": ITEMS, "minItems": 1 },
    ] })
}

/// Reads `input`: a text of the user's, or items.
pub(super) fn read(body: &Fields, input: Value) -> Result<Vec<Value>, ApiError> {
    let items = match input {
        Value::String(text) if !text.is_empty() => {
            let content = parts_of("user", &text);
            return Ok(vec![json!({ "type": "message", "role": "user", "content": content })]);
        }
        Value::Array(items) if !items.is_empty() => items,
        Value::String(_) | Value::Array(_) => {
            return Err(ApiError::invalid_value("input", "input is empty"));
        }
        other => {
            let expected = "a string or an array of items";
            return Err(ApiError::invalid_type("input", expected, type_name(&other)));
        }
    };
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read_item(body.child(format!("input[{index}]"), item)?))
        .collect()
}

fn read_item(mut fields: Fields) -> Result<Value, ApiError> {
    let kind = fields.word("type", &KINDS)?.unwrap_or(Kind::Message);
    let mut item = Map::new();
    if let Some(id) = fields.string("id")? {
        item.insert("id".to_owned(), id.into());
    }
    let status = fields.word("status", &STATUSES)?;
    match kind {
        Kind::Message => read_message(&mut fields, &mut item)?,
        Kind::FunctionCall => read_call(&mut fields, &mut item)?,
        Kind::FunctionCallOutput => {
            item.insert("type".to_owned(), "function_call_output".into());
            let path = fields.path("call_id");
            let id = fields.string("call_id")?.ok_or_else(|| ApiError::missing(path))?;
            item.insert("call_id".to_owned(), id.into());
            let output = fields.require_shaped("output", content_shape)?;
            let parts = read_content(&fields, "output", "user", output)?;
            item.insert("output".to_owned(), text_of_parts(&parts).into());
        }
        Kind::Reasoning => read_reasoning(&mut fields, &mut item)?,
    }
    if let Some(status) = status {
        item.insert("status".to_owned(), status.into());
    }
    fields.finish()?;
    Ok(item.into())
}

fn read_message(fields: &mut Fields, item: &mut Map<String, Value>) -> Result<(), ApiError> {
    let path = fields.path("role");
    let role = fields.word("role", &ROLES)?.ok_or_else(|| ApiError::missing(path))?;
    let content = fields.require_shaped("content", content_shape)?;
    let content = read_content(fields, "content", role, content)?;
    fields.refuse_unsupported(&[("phase", &[])])?;
    item.insert("type".to_owned(), "message".into());
    item.insert("role".to_owned(), role.into());
    item.insert("content".to_owned(), content.into());
    Ok(())
}

fn read_call(fields: &mut Fields, item: &mut Map<String, Value>) -> Result<(), ApiError> {
    item.insert("type".to_owned(), "function_call".into());
    for name in ["call_id", "name", "arguments"] {
        let value = fields.string(name)?.ok_or_else(|| ApiError::missing(fields.path(name)))?;
        item.insert(name.to_owned(), value.into());
    }
    Ok(())
}

/// Reasoning of an earlier answer.
fn read_reasoning(fields: &mut Fields, item: &mut Map<String, Value>) -> Result<(), ApiError> {
    let shape = || json!({ "type": "array", "items": ITEMS });
    item.insert("type".to_owned(), "reasoning".into());
    item.insert("summary".to_owned(), json!([]));
    fields.refuse_unsupported(&[("summary", &["[]"]), ("encrypted_content", &[])])?;
    if let Some(content) = fields.take_shaped("content", shape) {
        let content = read_content(fields, "content", "reasoning", content)?;
        item.insert("content".to_owned(), content.into());
    }
    Ok(())
}

/// A text, or parts of type text. The parts of an assistant are called otherwise.
fn read_content(
    fields: &Fields,
    name: &str,
    role: &str,
    content: Value,
) -> Result<Vec<Value>, ApiError> {
    let path = fields.path(name);
    match content {
        Value::String(text) => Ok(parts_of(role, &text)),
        Value::Array(parts) if parts.is_empty() => {
            Err(ApiError::invalid_value(path.clone(), format!("{path} is empty")))
        }
        Value::Array(parts) => {
            let parts = parts.into_iter().enumerate();
            let read = |(index, part)| read_part(fields.child(format!("{path}[{index}]"), part)?);
            parts.map(read).collect()
        }
        other => {
            let expected = "a string or an array of parts";
            Err(ApiError::invalid_type(path, expected, type_name(&other)))
        }
    }
}

fn read_part(mut fields: Fields) -> Result<Value, ApiError> {
    let path = fields.path("type");
    let kinds = ["input_text", "output_text", "reasoning_text"].map(|kind| (kind, kind));
    let kind = fields.word("type", &kinds)?.ok_or_else(|| ApiError::missing(path))?;
    let text = fields.string("text")?.ok_or_else(|| ApiError::missing(fields.path("text")))?;
    let mut part = json!({ "type": kind, "text": text });
    if kind == "output_text" {
        fields.refuse_unsupported(&[("annotations", &["[]"])])?;
        // How likely an earlier answer was changes nothing about the next.
        fields.take_shaped("logprobs", || json!({ "type": "array" }));
        part["annotations"] = json!([]);
    }
    fields.finish()?;
    Ok(part)
}

fn parts_of(role: &str, text: &str) -> Vec<Value> {
    vec![match role {
        "assistant" => json!({ "type": "output_text", "text": text, "annotations": [] }),
        "reasoning" => json!({ "type": "reasoning_text", "text": text }),
        _ => json!({ "type": "input_text", "text": text }),
    }]
}

fn text_of_parts(parts: &[Value]) -> String {
    let texts = parts.iter().filter_map(|part| part["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// The messages of a chat that has `items` so far. Reasoning goes with the message or the call
/// that follows it; whether the model sees it is for its template to say.
pub(super) fn messages<'a>(
    instructions: Option<&str>,
    items: impl Iterator<Item = &'a Value>,
) -> Vec<Value> {
    let mut messages = Vec::new();
    if let Some(text) = instructions {
        messages.push(json!({ "role": "system", "content": text }));
    }
    // What the assistant thought before what it says next.
    let mut thoughts = None;
    for item in items {
        match item["type"].as_str() {
            Some("reasoning") => thoughts = thoughts_of(item),
            Some("message") => {
                let parts = item["content"].as_array().map_or(&[][..], Vec::as_slice);
                let texts =
                    parts.iter().map(|part| json!({ "type": "text", "text": part["text"] }));
                let content = match parts {
                    [part] => part["text"].clone(),
                    _ => texts.collect(),
                };
                messages.push(json!({ "role": item["role"], "content": content }));
                add_thoughts(&mut messages, thoughts.take());
            }
            Some("function_call") => {
                add_call(&mut messages, item);
                add_thoughts(&mut messages, thoughts.take());
            }
            Some("function_call_output") => messages.push(json!({
                "role": "tool", "tool_call_id": item["call_id"], "content": item["output"],
            })),
            _ => {}
        }
    }
    messages
}

fn thoughts_of(item: &Value) -> Option<String> {
    let text = text_of_parts(item["content"].as_array()?);
    (!text.is_empty()).then_some(text)
}

/// Puts `thoughts` into the last message, if that is the assistant's and has none.
fn add_thoughts(messages: &mut [Value], thoughts: Option<String>) {
    let last = messages.last_mut().filter(|message| message["role"] == "assistant");
    if let (Some(Value::Object(message)), Some(thoughts)) = (last, thoughts) {
        message.entry("reasoning_content").or_insert(thoughts.into());
    }
}

/// A call belongs to the assistant's message before it, or makes one.
fn add_call(messages: &mut Vec<Value>, item: &Value) {
    let function = json!({ "name": item["name"], "arguments": item["arguments"] });
    let call = json!({ "id": item["call_id"], "type": "function", "function": function });
    let last = messages.last_mut().filter(|message| message["role"] == "assistant");
    let Some(Value::Object(message)) = last else {
        messages.push(json!({ "role": "assistant", "tool_calls": [call] }));
        return;
    };
    match message.get_mut("tool_calls") {
        Some(Value::Array(calls)) => calls.push(call),
        _ => {
            message.insert("tool_calls".to_owned(), json!([call]));
        }
    }
}
