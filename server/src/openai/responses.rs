//! The body of `POST /v1/responses`.
//!
//! A response is a chat: what the body asks for is written down as the body of a chat request and
//! read by that reader, so that both endpoints honour and refuse the same. Errors of that reader
//! are told with this body's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::chat::ChatRequest;
use super::fields::Fields;
use super::response_items;
use super::trace::RequestBody;
use crate::error::ApiError;

/// Most entries of `metadata`, and most characters of its keys and values, as in OpenAI's API.
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

/// Fields that mean the same in a chat request, under the same name.
const SHARED: &[&str] = &[
    "cache_salt",
    "chat_template_kwargs",
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "min_p",
    "min_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "repetition_penalty",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "stop_token_ids",
    "temperature",
    "top_k",
    "top_p",
    "user",
];

/// Fields of OpenAI's API that ask for what this server does not do, with the values that ask for
/// nothing.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("background", &["false"]),
    ("context_management", &["[]"]),
    ("conversation", &[]),
    ("max_tool_calls", &[]),
    ("moderation", &[]),
    ("prompt", &[]),
    ("prompt_cache_options", &["{}"]),
    ("truncation", &["\"disabled\""]),
];

/// What `include` may ask for.
const LOGPROBS: &str = "message.output_text.logprobs";

/// How the chat reader calls what this body calls otherwise.
const RENAMED: &[(&str, &str)] = &[
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
];

/// An error of the chat reader, told with the names of this body.
fn told_here(error: ApiError) -> ApiError {
    let Some(param) = error.param() else {
        return error;
    };
    let renamed = RENAMED.iter().find(|(from, _)| param.starts_with(from));
    let param = match renamed {
        Some((from, to)) => param.replacen(from, to, 1),
        None if param.starts_with("messages") => "input".to_owned(),
        None if param.starts_with("tool") => param.replacen(".function", "", 1),
        None => return error,
    };
    error.renamed(&param)
}

/// A request for a response whose own fields are good.
#[derive(Clone, Debug)]
pub struct ResponsesRequest {
    /// Name of the model.
    pub model: String,
    /// The items of `input`, each with its type and its content as parts.
    pub input: Vec<Value>,
    /// The response that this one goes on from.
    pub previous: Option<String>,
    /// Whether the response is kept for later.
    pub keeping: Keeping,
    /// How to answer.
    pub delivery: Delivery,
    /// What the response repeats of the request.
    pub settings: ResponseSettings,
    /// The body of the chat request, but for the messages.
    chat: Map<String, Value>,
}

/// Whether a response is kept for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// The default, if the server keeps any.
    Default,
    /// `store` is true.
    Asked,
    /// `store` is false.
    Declined,
}

/// How a response is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream,
}

/// What a response repeats of its request.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ResponseSettings {
    /// What stood before the input, for this response only.
    pub instructions: Option<String>,
    /// The response that this one goes on from.
    pub previous_response_id: Option<String>,
    /// Sampling temperature.
    pub temperature: f64,
    /// Nucleus sampling.
    pub top_p: f64,
    /// Most tokens of the answer.
    pub max_output_tokens: Option<u32>,
    /// The tools that may be called.
    pub tools: Vec<Value>,
    /// Which of them.
    pub tool_choice: Value,
    /// Whether several may be called at once.
    pub parallel_tool_calls: bool,
    /// Shape of the text.
    pub text: TextSettings,
    /// How much the model thinks first.
    pub reasoning: ReasoningSettings,
    /// Number of likeliest tokens told for each position.
    pub top_logprobs: u32,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
    /// Whose request it was.
    pub user: Option<String>,
    /// The successor of `user`.
    pub safety_identifier: Option<String>,
}

/// Shape of the text.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TextSettings {
    /// As the request said it.
    pub format: Value,
    /// Always `medium`.
    pub verbosity: &'static str,
}

/// How much the model thinks first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ReasoningSettings {
    /// As the request said it.
    pub effort: Option<String>,
    /// Always null: reasoning is given whole.
    pub summary: Option<String>,
}

impl ResponsesRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let mut chat = Map::new();
        chat.insert("model".to_owned(), model.clone().into());
        for name in SHARED {
            pass(&mut fields, name, name, &mut chat);
        }
        pass(&mut fields, "max_output_tokens", "max_completion_tokens", &mut chat);
        let input = fields.require_shaped("input", response_items::shape)?;
        let input = response_items::read(&fields, input)?;
        let previous = fields.string("previous_response_id")?;
        let keeping = match fields.boolean("store")? {
            None => Keeping::Default,
            Some(true) => Keeping::Asked,
            Some(false) => Keeping::Declined,
        };
        let delivery = match fields.boolean("stream")? {
            Some(true) => Delivery::Stream,
            _ => Delivery::Whole,
        };
        read_stream_options(&mut fields, delivery)?;
        read_logprobs(&mut fields, &mut chat)?;
        let settings = ResponseSettings {
            instructions: fields.string("instructions")?,
            previous_response_id: previous.clone(),
            temperature: number(&chat, "temperature"),
            top_p: number(&chat, "top_p"),
            max_output_tokens: chat
                .get("max_completion_tokens")
                .and_then(Value::as_u64)
                .map(|max| max as u32),
            tools: read_tools(&mut fields, &mut chat)?,
            tool_choice: read_tool_choice(&mut fields, &mut chat)?,
            parallel_tool_calls: chat.get("parallel_tool_calls") != Some(&Value::Bool(false)),
            text: read_text(&mut fields, &mut chat)?,
            reasoning: read_reasoning(&mut fields, &mut chat)?,
            top_logprobs: chat.get("top_logprobs").and_then(Value::as_u64).unwrap_or(0) as u32,
            metadata: read_metadata(&mut fields)?,
            user: text_of(&chat, "user"),
            safety_identifier: text_of(&chat, "safety_identifier"),
        };
        fields.refuse_unsupported(UNSUPPORTED)?;
        fields.finish()?;
        let request = Self { model, input, previous, keeping, delivery, settings, chat };
        // What the chat reader refuses is refused now, before anything is looked up.
        request.to_chat(&[])?;
        Ok(request)
    }

    /// An error of the chat that this became, told with the names of this body.
    pub fn told_here(error: ApiError) -> ApiError {
        told_here(error)
    }

    /// The chat request: `earlier` items, then those of this request.
    pub fn to_chat(&self, earlier: &[Arc<Value>]) -> Result<ChatRequest, ApiError> {
        let instructions = self.settings.instructions.as_deref();
        let items = earlier.iter().map(AsRef::as_ref).chain(&self.input);
        let mut chat = self.chat.clone();
        chat.insert("messages".to_owned(), response_items::messages(instructions, items).into());
        ChatRequest::read(Value::from(chat)).map_err(told_here)
    }
}

/// Takes the field `name`, which the chat reader knows as `chat_name`.
fn pass(fields: &mut Fields, name: &str, chat_name: &str, chat: &mut Map<String, Value>) {
    let shape =
        || json!({ "$ref": format!("#/components/schemas/ChatRequest/properties/{chat_name}") });
    if let Some(value) = fields.take_shaped(name, shape) {
        chat.insert(chat_name.to_owned(), value);
    }
}

fn number(chat: &Map<String, Value>, name: &str) -> f64 {
    chat.get(name).and_then(Value::as_f64).unwrap_or(1.0)
}

fn text_of(chat: &Map<String, Value>, name: &str) -> Option<String> {
    chat.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn read_stream_options(fields: &mut Fields, delivery: Delivery) -> Result<(), ApiError> {
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(());
    };
    if delivery == Delivery::Whole {
        let message = "stream_options needs stream = true";
        return Err(ApiError::invalid_value("stream_options", message));
    }
    options.refuse_unsupported(&[("include_obfuscation", &["false"])])?;
    options.finish()
}

/// Takes `include` and `top_logprobs`.
fn read_logprobs(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let shape = || json!({ "type": "array", "items": { "enum": [LOGPROBS] } });
    let includes = match fields.take_shaped("include", shape) {
        None => Vec::new(),
        Some(Value::Array(includes)) => includes,
        Some(other) => {
            let found = super::json::type_name(&other);
            return Err(ApiError::invalid_type("include", "an array of strings", found));
        }
    };
    for (index, what) in includes.iter().enumerate() {
        if what != LOGPROBS {
            let path = format!("include[{index}]");
            let message = format!("{path} = {what} is not supported by this server: {LOGPROBS} is");
            return Err(ApiError::unsupported(path, message));
        }
    }
    let top = fields.integer("top_logprobs", 0..=20)?;
    if includes.is_empty() && top.is_some_and(|top| top > 0) {
        let message = format!("top_logprobs needs include = [\"{LOGPROBS}\"]");
        return Err(ApiError::invalid_value("top_logprobs", message));
    }
    if !includes.is_empty() {
        chat.insert("logprobs".to_owned(), true.into());
        chat.insert("top_logprobs".to_owned(), top.unwrap_or(0).into());
    }
    Ok(())
}

/// Takes `tools`: functions with their fields side by side.
fn read_tools(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<Vec<Value>, ApiError> {
    let shape = || json!({ "type": "array", "items": super::trace::ITEMS });
    let tools = match fields.take_shaped("tools", shape) {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => {
            let found = super::json::type_name(&other);
            return Err(ApiError::invalid_type("tools", "an array of tools", found));
        }
    };
    let mut functions = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let mut tool = fields.child(format!("tools[{index}]"), tool.clone())?;
        let path = tool.path("type");
        tool.word("type", &[("function", ())])?.ok_or_else(|| ApiError::missing(path))?;
        let mut function = Map::new();
        let name = tool.string("name")?.ok_or_else(|| ApiError::missing(tool.path("name")))?;
        function.insert("name".to_owned(), name.into());
        if let Some(text) = tool.string("description")? {
            function.insert("description".to_owned(), text.into());
        }
        if let Some(schema) = tool.object("parameters")? {
            function.insert("parameters".to_owned(), schema.into_rest().into());
        }
        if let Some(strict) = tool.boolean("strict")? {
            function.insert("strict".to_owned(), strict.into());
        }
        tool.refuse_unsupported(&[("defer_loading", &["false"])])?;
        tool.finish()?;
        functions.push(json!({ "type": "function", "function": function }));
    }
    chat.insert("tools".to_owned(), functions.into());
    Ok(tools)
}

/// Takes `tool_choice`: a word, or one function.
fn read_tool_choice(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<Value, ApiError> {
    let words = ["none", "auto", "required"];
    let shape = || json!({ "anyOf": [{ "enum": words }, super::trace::ITEMS] });
    let Some(choice) = fields.take_shaped("tool_choice", shape) else {
        return Ok("auto".into());
    };
    let for_chat = match &choice {
        Value::String(word) if words.contains(&word.as_str()) => choice.clone(),
        Value::String(word) => {
            let all = words.join(", ");
            let message = format!("tool_choice = {word:?} must be one of {all}, or a function");
            return Err(ApiError::invalid_value("tool_choice", message));
        }
        _ => {
            let mut named = fields.child("tool_choice", choice.clone())?;
            let path = named.path("type");
            named.word("type", &[("function", ())])?.ok_or_else(|| ApiError::missing(path))?;
            let name =
                named.string("name")?.ok_or_else(|| ApiError::missing(named.path("name")))?;
            named.finish()?;
            json!({ "type": "function", "function": { "name": name } })
        }
    };
    chat.insert("tool_choice".to_owned(), for_chat);
    Ok(choice)
}

/// Takes `text`.
fn read_text(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<TextSettings, ApiError> {
    let plain = json!({ "type": "text" });
    let Some(mut text) = fields.object("text")? else {
        return Ok(TextSettings { format: plain, verbosity: "medium" });
    };
    text.refuse_unsupported(&[("verbosity", &["\"medium\""])])?;
    let format = text.object("format")?;
    text.finish()?;
    let Some(mut format) = format else {
        return Ok(TextSettings { format: plain, verbosity: "medium" });
    };
    let path = format.path("type");
    let kinds = [("text", "text"), ("json_object", "json_object"), ("json_schema", "json_schema")];
    let kind = format.word("type", &kinds)?.ok_or_else(|| ApiError::missing(path))?;
    let mut told = json!({ "type": kind });
    if kind == "json_schema" {
        let mut schema = Map::new();
        let name = format.string("name")?.ok_or_else(|| ApiError::missing(format.path("name")))?;
        schema.insert("name".to_owned(), name.into());
        let path = format.path("schema");
        let object = format.object("schema")?.ok_or_else(|| ApiError::missing(path))?;
        schema.insert("schema".to_owned(), object.into_rest().into());
        if let Some(text) = format.string("description")? {
            schema.insert("description".to_owned(), text.into());
        }
        if let Some(strict) = format.boolean("strict")? {
            schema.insert("strict".to_owned(), strict.into());
        }
        let fields = schema.iter().map(|(key, value)| (key.clone(), value.clone()));
        if let Value::Object(told) = &mut told {
            told.extend(fields);
        }
        let response_format = json!({ "type": kind, "json_schema": schema });
        chat.insert("response_format".to_owned(), response_format);
    } else {
        chat.insert("response_format".to_owned(), json!({ "type": kind }));
    }
    format.finish()?;
    Ok(TextSettings { format: told, verbosity: "medium" })
}

/// Takes `reasoning`.
fn read_reasoning(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
) -> Result<ReasoningSettings, ApiError> {
    let Some(mut reasoning) = fields.object("reasoning")? else {
        return Ok(ReasoningSettings { effort: None, summary: None });
    };
    let effort = reasoning.string("effort")?;
    if let Some(effort) = &effort {
        chat.insert("reasoning_effort".to_owned(), effort.clone().into());
    }
    reasoning.refuse_unsupported(&[("summary", &[]), ("generate_summary", &[])])?;
    reasoning.finish()?;
    Ok(ReasoningSettings { effort, summary: None })
}

/// Takes `metadata`: a few short texts, kept for the client.
fn read_metadata(fields: &mut Fields) -> Result<BTreeMap<String, String>, ApiError> {
    let Some(metadata) = fields.object("metadata")? else {
        return Ok(BTreeMap::new());
    };
    let shape = || json!({ "type": "string", "maxLength": MAX_METADATA_VALUE });
    let metadata = metadata.into_entries(shape);
    if metadata.len() > MAX_METADATA {
        let num = metadata.len();
        let message = format!("metadata has {num} entries, at most {MAX_METADATA} are allowed");
        return Err(ApiError::invalid_value("metadata", message));
    }
    let entry = |(key, value): (String, Value)| {
        let path = format!("metadata.{key}");
        let Value::String(text) = value else {
            return Err(ApiError::invalid_type(path, "a string", super::json::type_name(&value)));
        };
        let (key_len, len) = (key.chars().count(), text.chars().count());
        if key_len > MAX_METADATA_KEY || len > MAX_METADATA_VALUE {
            let message = format!(
                "{path}: the key has {key_len} characters and the value {len}, at most \
                 {MAX_METADATA_KEY} and {MAX_METADATA_VALUE} are allowed"
            );
            return Err(ApiError::invalid_value(path, message));
        }
        Ok((key, text))
    };
    metadata.into_iter().map(entry).collect()
}
