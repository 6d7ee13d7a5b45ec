//! `messages` of a chat request: an array of role objects, that array as JSON text, or the plain
//! text of one user message.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::generation::limit;
use super::json::{self, type_name};
use super::trace::ITEMS;
use crate::error::ApiError;

/// The JSON Schema of `messages`.
pub(super) fn shape() -> Value {
    json!({ "anyOf": [
        { "type": "string", "minLength": 1 },
        { "type": "array", "items": ITEMS, "minItems": 1 },
    ] })
}

fn role_shape() -> Value {
    json!({ "enum": ROLES })
}

fn content_shape() -> Value {
    json!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": ITEMS, "minItems": 1 },
    ] })
}

fn calls_shape() -> Value {
    json!({ "type": "array", "items": ITEMS, "minItems": 1 })
}

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 16_384;
/// Most parts, or calls, of a message.
const MAX_PARTS: usize = 4096;

const ROLES: [&str; 5] = ["developer", "system", "user", "assistant", "tool"];

/// Fields of a message that only other servers act on, with the values that ask for nothing.
const UNSUPPORTED: &[(&str, &[&str])] =
    &[("annotations", &["[]"]), ("audio", &[]), ("function_call", &[]), ("refusal", &[])];

/// Checks `messages`, a field of `body`, and returns the role objects, with no fields but those a
/// template may read.
pub(super) fn read(body: &Fields, value: Value) -> Result<Vec<Value>, ApiError> {
    let messages = match value {
        Value::String(text) => return read_text(body, &text),
        Value::Array(messages) => messages,
        other => {
            let expected = "an array of messages or a string";
            return Err(ApiError::invalid_type("messages", expected, type_name(&other)));
        }
    };
    if messages.is_empty() {
        return Err(ApiError::invalid_value("messages", "messages is empty"));
    }
    limit("messages", messages.len(), MAX_MESSAGES, "messages")?;
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| read_message(body.child(format!("messages[{index}]"), message)?))
        .collect()
}

/// A string that parses as an array of role objects is that array; any other is what a user says.
fn read_text(body: &Fields, text: &str) -> Result<Vec<Value>, ApiError> {
    if is_array_of_roles(text) {
        return read(body, json::parse(text.as_bytes())?);
    }
    if text.is_empty() {
        return Err(ApiError::invalid_value("messages", "messages is empty"));
    }
    Ok(vec![json!({ "role": "user", "content": text })])
}

fn is_array_of_roles(text: &str) -> bool {
    // No conversation has that many values: what this is, is not worth the memory to find out.
    if json::has_too_many_values(text.as_bytes()) {
        return false;
    }
    let Ok(Value::Array(items)) = serde_json::from_str(text) else {
        return false;
    };
    !items.is_empty() && items.iter().all(|item| item["role"].is_string())
}

fn read_message(mut fields: Fields) -> Result<Value, ApiError> {
    let role = read_role(&mut fields)?;
    let tool_calls = fields.take_shaped("tool_calls", calls_shape);
    let content = fields.take_shaped("content", content_shape);
    let reasoning = read_reasoning(&mut fields, &role)?;
    let mut message = Map::new();
    message.insert("role".into(), role.clone().into());
    match content {
        Some(content) => {
            let content = read_content(&fields, content)?;
            message.insert("content".into(), content);
        }
        None if role == "assistant" && tool_calls.is_some() => {}
        // An answer that was cut off before it came to its content.
        None if reasoning.is_some() => {
            message.insert("content".into(), "".into());
        }
        None => return Err(ApiError::missing(fields.path("content"))),
    }
    if let Some(reasoning) = reasoning {
        message.insert("reasoning_content".into(), reasoning.into());
    }
    if let Some(calls) = tool_calls {
        let path = fields.path("tool_calls");
        if role != "assistant" {
            let text = format!("{path} belongs to messages of the assistant");
            return Err(ApiError::invalid_value(path, text));
        }
        message.insert("tool_calls".into(), read_tool_calls(&fields, calls)?);
    }
    match fields.string("tool_call_id")? {
        Some(id) if role == "tool" => {
            message.insert("tool_call_id".into(), id.into());
        }
        Some(_) => {
            let path = fields.path("tool_call_id");
            let text = format!("{path} belongs to messages of a tool");
            return Err(ApiError::invalid_value(path, text));
        }
        None if role == "tool" => return Err(ApiError::missing(fields.path("tool_call_id"))),
        None => {}
    }
    if let Some(name) = fields.string("name")? {
        message.insert("name".into(), name.into());
    }
    fields.refuse_unsupported(UNSUPPORTED)?;
    fields.finish()?;
    Ok(message.into())
}

/// What an assistant thought earlier, as answers tell it, for templates that show it.
fn read_reasoning(fields: &mut Fields, role: &str) -> Result<Option<String>, ApiError> {
    let (path, newer_path) = (fields.path("reasoning_content"), fields.path("reasoning"));
    let older = fields.string("reasoning_content")?;
    let newer = fields.string("reasoning")?;
    if let (Some(older), Some(newer)) = (&older, &newer)
        && older != newer
    {
        let message = format!("{path} and {newer_path} differ: they are names of the same text");
        return Err(ApiError::invalid_value(newer_path, message));
    }
    let path = if older.is_some() { path } else { newer_path };
    let reasoning = older.or(newer);
    if reasoning.is_some() && role != "assistant" {
        let message = format!("{path} belongs to messages of the assistant");
        return Err(ApiError::invalid_value(path, message));
    }
    Ok(reasoning)
}

fn read_role(fields: &mut Fields) -> Result<String, ApiError> {
    let path = fields.path("role");
    let role =
        fields.string_shaped("role", role_shape)?.ok_or_else(|| ApiError::missing(path.clone()))?;
    if !ROLES.contains(&role.as_str()) {
        let message = format!("{path} = {role:?} must be one of {}", ROLES.join(", "));
        return Err(ApiError::invalid_value(path, message));
    }
    Ok(role)
}

/// A text, or an array of parts of type text.
fn read_content(message: &Fields, content: Value) -> Result<Value, ApiError> {
    let path = message.path("content");
    let parts = match content {
        Value::String(_) => return Ok(content),
        Value::Array(parts) => parts,
        other => {
            let expected = "a string or an array of parts";
            return Err(ApiError::invalid_type(path, expected, type_name(&other)));
        }
    };
    if parts.is_empty() {
        return Err(ApiError::invalid_value(path.clone(), format!("{path} is empty")));
    }
    limit(&path, parts.len(), MAX_PARTS, "parts")?;
    parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| read_part(message.child(format!("{path}[{index}]"), part)?))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::from)
}

fn read_part(mut fields: Fields) -> Result<Value, ApiError> {
    let path = fields.path("type");
    let kind = fields.string_shaped("type", || json!({ "const": "text" }))?;
    let kind = kind.ok_or_else(|| ApiError::missing(path.clone()))?;
    if kind != "text" {
        let message = format!("{path} = {kind:?} is not supported by this server: send \"text\"");
        return Err(ApiError::unsupported(path, message));
    }
    let text = fields.string("text")?.ok_or_else(|| ApiError::missing(fields.path("text")))?;
    fields.finish()?;
    Ok(json!({ "type": "text", "text": text }))
}

/// Calls that an assistant made earlier, for the template to show.
fn read_tool_calls(message: &Fields, calls: Value) -> Result<Value, ApiError> {
    let path = message.path("tool_calls");
    let Value::Array(calls) = calls else {
        return Err(ApiError::invalid_type(path, "an array", type_name(&calls)));
    };
    if calls.is_empty() {
        return Err(ApiError::invalid_value(path.clone(), format!("{path} is empty")));
    }
    limit(&path, calls.len(), MAX_PARTS, "calls")?;
    calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| read_tool_call(message.child(format!("{path}[{index}]"), call)?))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::from)
}

fn read_tool_call(mut fields: Fields) -> Result<Value, ApiError> {
    let id = fields.string("id")?.ok_or_else(|| ApiError::missing(fields.path("id")))?;
    if let Some(kind) = fields
        .string_shaped("type", || json!({ "enum": ["function"] }))?
        .filter(|kind| kind != "function")
    {
        let path = fields.path("type");
        let message =
            format!("{path} = {kind:?} is not supported by this server: send \"function\"");
        return Err(ApiError::unsupported(path, message));
    }
    let mut function =
        fields.object("function")?.ok_or_else(|| ApiError::missing(fields.path("function")))?;
    let name = function.string("name")?.ok_or_else(|| ApiError::missing(function.path("name")))?;
    let arguments = function
        .string("arguments")?
        .ok_or_else(|| ApiError::missing(function.path("arguments")))?;
    function.finish()?;
    fields.finish()?;
    let function = json!({ "name": name, "arguments": arguments });
    Ok(json!({ "id": id, "type": "function", "function": function }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_alone(value: Value) -> Result<Vec<Value>, ApiError> {
        read(&Fields::new("", json!({})).unwrap(), value)
    }

    fn user(content: &str) -> Vec<Value> {
        vec![json!({ "role": "user", "content": content })]
    }

    #[test]
    fn a_string_is_an_array_of_roles_or_what_a_user_says() {
        let array = r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]"#;
        let expected: Vec<Value> = serde_json::from_str(array).unwrap();
        assert_eq!(read_alone(array.into()).unwrap(), expected);
        let padded = format!("\n {array} ");
        assert_eq!(read_alone(padded.into()).unwrap(), expected);
        for text in [
            "Hello",
            "[1] is a footnote",
            "[1]",
            "[]",
            "{\"role\":\"user\",\"content\":\"x\"}",
            "[{\"content\":\"x\"}]",
            "[{\"role\":\"user\",\"content\":\"x\"}",
            "[{\"role\":\"user\",\"content\":\"x\"}, 1]",
            "null",
            " ",
        ] {
            assert_eq!(read_alone(text.into()).unwrap(), user(text), "{text}");
        }
    }

    #[test]
    fn errors_inside_the_string_form_name_the_message() {
        let text = r#"[{"role":"user","content":"x"},{"role":"wizard","content":"y"}]"#;
        let error = read_alone(text.into()).unwrap_err().to_json();
        assert_eq!(error["error"]["param"], "messages[1].role");
    }

    #[test]
    fn parts_and_tool_messages_are_kept() {
        let messages = json!([
            { "role": "developer", "content": [{ "type": "text", "text": "a" }] },
            { "role": "assistant", "tool_calls": [{ "id": "1", "type": "function",
              "function": { "name": "f", "arguments": "{}" } }] },
            { "role": "tool", "tool_call_id": "1", "content": "42" },
            { "role": "user", "content": "x", "name": "Ann" },
        ]);
        assert_eq!(Value::from(read_alone(messages.clone()).unwrap()), messages);
    }

    #[test]
    fn reasoning_goes_by_either_name_or_both() {
        for message in [
            json!({ "role": "assistant", "content": "x", "reasoning": "hm" }),
            json!({ "role": "assistant", "content": "x", "reasoning_content": "hm" }),
            json!({ "role": "assistant", "content": "x", "reasoning": "hm",
                    "reasoning_content": "hm" }),
        ] {
            let read = read_alone(json!([message])).unwrap();
            let expected =
                json!({ "role": "assistant", "content": "x", "reasoning_content": "hm" });
            assert_eq!(read, [expected]);
        }
        let cut_off = json!([{ "role": "assistant", "content": null, "reasoning": "hm" }]);
        assert_eq!(read_alone(cut_off).unwrap()[0]["content"], "");
        for (message, param) in [
            (json!({ "role": "user", "content": "x", "reasoning": "hm" }), "reasoning"),
            (
                json!({ "role": "assistant", "content": "x", "reasoning": "a",
                        "reasoning_content": "b" }),
                "reasoning",
            ),
        ] {
            let error = read_alone(json!([message])).unwrap_err().to_json();
            assert_eq!(error["error"]["param"], format!("messages[0].{param}"));
        }
    }

    #[test]
    fn fields_that_ask_for_nothing_are_dropped() {
        let message = json!([{ "role": "assistant", "content": "x", "refusal": null,
                               "annotations": [], "audio": null, "tool_calls": null }]);
        let expected = vec![json!({ "role": "assistant", "content": "x" })];
        assert_eq!(read_alone(message).unwrap(), expected);
    }
}
