//! What a request says about the shape of the generated text, whichever field said it:
//! `response_format` as in OpenAI's API, `structured_outputs` and the older `guided_…` as in vLLM.
//!
//! Read here, compiled by `crate::structured`. At most one field may ask for a shape.

use serde_json::{Value, json};

use super::fields::Fields;
use super::json::{parse, type_name};
use crate::error::ApiError;

/// A shape that the generated text must have, and the path of the field that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// Such as `response_format.json_schema.schema` or `structured_outputs.regex`.
    pub path: String,
    /// The shape.
    pub constraint: Constraint,
}

/// The shape that a text must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject(Whitespace),
    /// JSON that a schema accepts.
    JsonSchema(JsonShape),
    /// A text that this regular expression matches whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A sentence of this grammar, in the dialect of Lark that the `llguidance` crate reads.
    Lark(String),
}

/// JSON of a schema.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonShape {
    /// The schema: an object or a boolean.
    pub schema: Value,
    /// White space between the parts of the text.
    pub whitespace: Whitespace,
    /// What becomes of keywords that cannot be enforced.
    pub keywords: Keywords,
}

/// White space between the parts of a JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whitespace {
    /// At most one space, after a comma or a colon.
    #[default]
    OneSpace,
    /// None.
    Nothing,
    /// What this regular expression matches, at most once between any two parts.
    Pattern(String),
}

/// What becomes of the keywords of a schema that cannot be enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keywords {
    /// The request is refused.
    MustHold,
    /// They say nothing about the text (`"strict": false`).
    BestEffort,
}

impl Structure {
    /// The shape of a schema that stands at `path`, with the usual white space.
    pub fn json_schema(path: impl Into<String>, schema: Value, keywords: Keywords) -> Self {
        let shape = JsonShape { schema, whitespace: Whitespace::default(), keywords };
        Self { path: path.into(), constraint: Constraint::JsonSchema(shape) }
    }
}

/// Takes every field that may ask for a shape; at most one may.
pub(super) fn read(fields: &mut Fields) -> Result<Option<Structure>, ApiError> {
    let mut found = Vec::new();
    found.extend(read_response_format(fields)?);
    found.extend(read_structured_outputs(fields)?);
    found.extend(read_guided(fields)?);
    only(found)
}

/// The one shape that was asked for.
fn only(mut found: Vec<Structure>) -> Result<Option<Structure>, ApiError> {
    let last = found.pop();
    match (&last, found.first()) {
        (Some(last), Some(first)) => {
            let message = format!(
                "{} and {} both say which shape the text must have: give one of them",
                last.path, first.path
            );
            Err(ApiError::invalid_value(last.path.clone(), message))
        }
        _ => Ok(last),
    }
}

/// What `response_format.type` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    JsonObject,
    JsonSchema,
}

fn read_response_format(fields: &mut Fields) -> Result<Option<Structure>, ApiError> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(None);
    };
    let kinds = [
        ("text", Format::Text),
        ("json_object", Format::JsonObject),
        ("json_schema", Format::JsonSchema),
    ];
    let path = format.path("type");
    let kind = format.word("type", &kinds)?.ok_or_else(|| ApiError::missing(path))?;
    let schema = format.object("json_schema")?;
    let structure = match (kind, schema) {
        (Format::JsonSchema, Some(schema)) => Some(read_json_schema(schema)?),
        (Format::JsonSchema, None) => return Err(ApiError::missing(format.path("json_schema"))),
        (_, Some(_)) => {
            let path = format.path("json_schema");
            let message = format!("{path} needs response_format.type = \"json_schema\"");
            return Err(ApiError::invalid_value(path, message));
        }
        (Format::JsonObject, None) => Some(Structure {
            path: "response_format".to_owned(),
            constraint: Constraint::JsonObject(Whitespace::default()),
        }),
        (Format::Text, None) => None,
    };
    format.finish()?;
    Ok(structure)
}

/// Reads `{name, description, schema, strict}`.
fn read_json_schema(mut fields: Fields) -> Result<Structure, ApiError> {
    let path = fields.path("name");
    let name = fields.string("name")?.ok_or_else(|| ApiError::missing(path.clone()))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        let message =
            format!("{path} = {name:?} must be 1 to 64 letters, digits, underscores or dashes");
        return Err(ApiError::invalid_value(path, message));
    }
    fields.string("description")?;
    let keywords = match fields.boolean("strict")? {
        Some(true) => Keywords::MustHold,
        _ => Keywords::BestEffort,
    };
    let path = fields.path("schema");
    let schema = fields.require_shaped("schema", || json!({ "type": ["object", "boolean"] }))?;
    if !schema.is_object() && !schema.is_boolean() {
        return Err(ApiError::invalid_type(path, "a JSON Schema", type_name(&schema)));
    }
    fields.finish()?;
    Ok(Structure::json_schema(path, schema, keywords))
}

fn read_structured_outputs(fields: &mut Fields) -> Result<Option<Structure>, ApiError> {
    let Some(mut options) = fields.object("structured_outputs")? else {
        return Ok(None);
    };
    let path = "structured_outputs".to_owned();
    let compact = options.boolean("disable_any_whitespace")?.unwrap_or(false);
    let pattern = options.string("whitespace_pattern")?;
    // There is one way of doing it and no other to fall back to.
    options.boolean("disable_fallback")?;
    options.refuse_unsupported(&[
        ("structural_tag", &[]),
        ("disable_additional_properties", &["false"]),
    ])?;
    let structure = only(read_constraints(&mut options, "")?)?;
    options.finish()?;
    let Some(structure) = structure else {
        let message = format!("{path} must have json, json_object, regex, choice or grammar");
        return Err(ApiError::invalid_value(path, message));
    };
    let whitespace = match (compact, pattern) {
        (true, Some(_)) => {
            let path = format!("{path}.whitespace_pattern");
            let message = format!("{path} contradicts disable_any_whitespace");
            return Err(ApiError::invalid_value(path, message));
        }
        (true, None) => Some(("disable_any_whitespace", Whitespace::Nothing)),
        (false, Some(pattern)) => Some(("whitespace_pattern", Whitespace::Pattern(pattern))),
        (false, None) => None,
    };
    match whitespace {
        Some((name, whitespace)) => {
            with_whitespace(structure, &format!("{path}.{name}"), whitespace).map(Some)
        }
        None => Ok(Some(structure)),
    }
}

fn read_guided(fields: &mut Fields) -> Result<Option<Structure>, ApiError> {
    let backends = [("auto", ()), ("guidance", ()), ("llguidance", ())];
    let backend = fields.word("guided_decoding_backend", &backends)?;
    let pattern = fields.string("guided_whitespace_pattern")?;
    let structure = only(read_constraints(fields, "guided_")?)?;
    match (structure, pattern) {
        (Some(structure), Some(pattern)) => {
            let path = "guided_whitespace_pattern";
            with_whitespace(structure, path, Whitespace::Pattern(pattern)).map(Some)
        }
        (Some(structure), None) => Ok(Some(structure)),
        (None, Some(_)) => Err(needs_json("guided_whitespace_pattern")),
        (None, None) if backend.is_some() => {
            let path = "guided_decoding_backend";
            let message = format!("{path} needs a guided_… field that asks for a shape");
            Err(ApiError::invalid_value(path, message))
        }
        (None, None) => Ok(None),
    }
}

/// Takes `json`, `json_object`, `regex`, `choice` and `grammar`, with `prefix` before each name.
fn read_constraints(fields: &mut Fields, prefix: &str) -> Result<Vec<Structure>, ApiError> {
    let name = |name: &str| format!("{prefix}{name}");
    let mut found = Vec::new();
    let mut add = |path: String, constraint| found.push(Structure { path, constraint });
    let json = name("json");
    if let Some(schema) = read_schema(fields, &json)? {
        let (whitespace, keywords) = (Whitespace::default(), Keywords::MustHold);
        let shape = JsonShape { schema, whitespace, keywords };
        add(fields.path(&json), Constraint::JsonSchema(shape));
    }
    let json_object = name("json_object");
    if fields.boolean(&json_object)? == Some(true) {
        add(fields.path(&json_object), Constraint::JsonObject(Whitespace::default()));
    }
    let regex = name("regex");
    if let Some(pattern) = fields.string(&regex)? {
        add(fields.path(&regex), Constraint::Regex(pattern));
    }
    let choice = name("choice");
    if let Some(choices) = read_choices(fields, &choice)? {
        add(fields.path(&choice), Constraint::Choice(choices));
    }
    let grammar = name("grammar");
    if let Some(text) = fields.string(&grammar)? {
        add(fields.path(&grammar), Constraint::Lark(text));
    }
    Ok(found)
}

/// A schema, as JSON or as a string that holds JSON.
fn read_schema(fields: &mut Fields, name: &str) -> Result<Option<Value>, ApiError> {
    let path = fields.path(name);
    let shape = || json!({ "type": ["object", "string"] });
    match fields.take_shaped(name, shape) {
        None => Ok(None),
        Some(schema @ Value::Object(_)) => Ok(Some(schema)),
        Some(Value::String(text)) => match parse(text.as_bytes()) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Some(schema)),
            Ok(other) => {
                let message = format!("{path} must hold a JSON Schema, not {}", type_name(&other));
                Err(ApiError::invalid_value(path, message))
            }
            Err(error) => {
                let message = error.message().replace("the body", &path);
                Err(ApiError::invalid_value(path, message))
            }
        },
        Some(other) => {
            let expected = "a JSON Schema, or a string that holds one";
            Err(ApiError::invalid_type(path, expected, type_name(&other)))
        }
    }
}

fn read_choices(fields: &mut Fields, name: &str) -> Result<Option<Vec<String>>, ApiError> {
    let path = fields.path(name);
    let shape = || json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
    let choices = match fields.take_shaped(name, shape) {
        None => return Ok(None),
        Some(Value::Array(choices)) => choices,
        Some(other) => {
            return Err(ApiError::invalid_type(path, "an array of strings", type_name(&other)));
        }
    };
    if choices.is_empty() {
        return Err(ApiError::invalid_value(&path, format!("{path} is empty")));
    }
    let read = |(index, choice): (usize, Value)| match choice {
        Value::String(choice) if choice.is_empty() => {
            let path = format!("{path}[{index}]");
            Err(ApiError::invalid_value(&path, format!("{path} is empty")))
        }
        Value::String(choice) => Ok(choice),
        other => {
            let path = format!("{path}[{index}]");
            Err(ApiError::invalid_type(path, "a string", type_name(&other)))
        }
    };
    choices.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

/// Sets the white space that the field at `path` asked for; only JSON has any.
fn with_whitespace(
    mut structure: Structure,
    path: &str,
    whitespace: Whitespace,
) -> Result<Structure, ApiError> {
    match &mut structure.constraint {
        Constraint::JsonObject(of) => *of = whitespace,
        Constraint::JsonSchema(shape) => shape.whitespace = whitespace,
        _ => return Err(needs_json(path)),
    }
    Ok(structure)
}

fn needs_json(path: &str) -> ApiError {
    let message = format!("{path} says something only beside a JSON schema or json_object");
    ApiError::invalid_value(path, message)
}
