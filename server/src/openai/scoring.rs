//! The bodies of `POST /v1/rerank` (as Jina, Cohere and vLLM have it) and of `POST /v1/score` (as
//! vLLM has it), and what answers look like.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::fields::Fields;
use super::generation::{self, Queueing};
use super::inputs::{Content, Input};
use super::json::type_name;
use super::response::EmbeddingUsage;
use super::trace::RequestBody;
use crate::error::ApiError;

/// Most documents, or texts on one side, of a request.
const MAX_TEXTS: usize = 1024;

/// A request to order documents by how well they answer a query.
#[derive(Clone, Debug)]
pub struct RerankRequest {
    /// Name of the model.
    pub model: String,
    /// What is asked.
    pub query: Input,
    /// What may answer it, never empty.
    pub documents: Vec<Input>,
    /// How many of the best are wanted; all when absent.
    pub top_n: Option<u32>,
    /// Whether results show their documents.
    pub shown: ShownDocuments,
    /// How the work is queued.
    pub queueing: Queueing,
}

/// Whether results show their documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownDocuments {
    /// They do: the default.
    Shown,
    /// They have only the index (`return_documents`: false).
    Hidden,
}

/// A request to score pairs of texts.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// Name of the model.
    pub model: String,
    /// The first text of each pair: one for all pairs, or as many as there are second ones.
    pub first: Vec<Input>,
    /// The second text of each pair, never empty.
    pub second: Vec<Input>,
    /// How the work is queued.
    pub queueing: Queueing,
}

/// Fields of other servers that ask for what this one does not do, with the values that ask for
/// nothing.
const UNSUPPORTED: &[(&str, &[&str])] =
    &[("truncate_prompt_tokens", &[]), ("use_activation", &["true"]), ("mm_processor_kwargs", &[])];
const UNSUPPORTED_IN_RERANK: &[(&str, &[&str])] =
    &[("max_tokens_per_doc", &[]), ("max_chunks_per_doc", &[]), ("rank_fields", &["[\"text\"]"])];

impl RerankRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let query = text("query".to_owned(), fields.require_shaped("query", text_shape)?)?;
        let documents = fields.require_shaped("documents", || many(&text_shape()))?;
        let documents = texts("documents", documents)?;
        let top_n = generation::count(&mut fields, "top_n", 1)?;
        let shown = match fields.boolean("return_documents")? {
            Some(false) => ShownDocuments::Hidden,
            _ => ShownDocuments::Shown,
        };
        let queueing = generation::read_queueing(&mut fields)?;
        fields.refuse_unsupported(UNSUPPORTED)?;
        fields.refuse_unsupported(UNSUPPORTED_IN_RERANK)?;
        fields.finish()?;
        Ok(Self { model, query, documents, top_n, shown, queueing })
    }
}

impl ScoreRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let mut side = |name: &str| {
            let shape = || json!({ "anyOf": [text_shape(), many(&text_shape())] });
            match fields.require_shaped(name, shape)? {
                many @ Value::Array(_) => texts(name, many),
                one => Ok(vec![text(name.to_owned(), one)?]),
            }
        };
        let (first, second) = (side("text_1")?, side("text_2")?);
        let queueing = generation::read_queueing(&mut fields)?;
        fields.refuse_unsupported(UNSUPPORTED)?;
        fields.finish()?;
        let (num_first, num_second) = (first.len(), second.len());
        if num_first != 1 && num_first != num_second {
            let message = format!(
                "text_1 has {num_first} texts and text_2 has {num_second}: text_1 must have one, \
                 or as many as text_2"
            );
            return Err(ApiError::invalid_value("text_1", message));
        }
        Ok(Self { model, first, second, queueing })
    }
}

/// The JSON Schema of a text, alone or in an object.
fn text_shape() -> Value {
    let text = json!({ "type": "string", "minLength": 1 });
    json!({ "anyOf": [text, {
        "type": "object",
        "properties": { "text": text },
        "required": ["text"],
        "additionalProperties": false,
    }] })
}

fn many(item: &Value) -> Value {
    json!({ "type": "array", "items": item, "minItems": 1, "maxItems": MAX_TEXTS })
}

fn texts(name: &str, value: Value) -> Result<Vec<Input>, ApiError> {
    let Value::Array(items) = value else {
        return Err(ApiError::invalid_type(name, "an array of texts", type_name(&value)));
    };
    let num_items = items.len();
    if !(1..=MAX_TEXTS).contains(&num_items) {
        let message = format!("{name} has {num_items} items, from 1 to {MAX_TEXTS} are allowed");
        return Err(ApiError::invalid_value(name, message));
    }
    let items = items.into_iter().enumerate();
    items.map(|(index, item)| text(format!("{name}[{index}]"), item)).collect()
}

/// A string, or an object with the field `text`.
fn text(path: String, value: Value) -> Result<Input, ApiError> {
    match value {
        Value::String(text) if text.is_empty() => {
            let message = format!("{path} is empty");
            Err(ApiError::invalid_value(path, message))
        }
        Value::String(text) => Ok(Input { path, content: Content::Text(text) }),
        Value::Object(mut map) => {
            let inner = map.shift_remove("text").filter(|value| !value.is_null());
            if let Some(name) = map.keys().next() {
                return Err(ApiError::unknown_field(format!("{path}.{name}")));
            }
            let path = format!("{path}.text");
            match inner {
                None => Err(ApiError::missing(path)),
                Some(inner @ Value::String(_)) => text(path, inner),
                Some(other) => Err(ApiError::invalid_type(path, "a string", type_name(&other))),
            }
        }
        other => {
            let expected = "a string or an object with text";
            Err(ApiError::invalid_type(path, expected, type_name(&other)))
        }
    }
}

/// Answer of `POST /v1/rerank`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RerankResponse {
    /// Unique id, such as `rerank-…`.
    pub id: String,
    /// The model, by the name that the client used.
    pub model: String,
    /// What it cost.
    pub usage: EmbeddingUsage,
    /// The best documents, best first.
    pub results: Vec<RerankResult>,
}

/// One document.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RerankResult {
    /// Which document of the request.
    pub index: usize,
    /// How well it answers the query: more is better.
    pub relevance_score: f32,
    /// The document, unless that was not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RerankedDocument>,
}

/// A document in a result.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RerankedDocument {
    /// Its text.
    pub text: String,
}

/// Answer of `POST /v1/score`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ScoreResponse {
    /// Unique id, such as `score-…`.
    pub id: String,
    /// Always `list`.
    pub object: &'static str,
    /// When the request was taken: seconds since 1970, UTC.
    pub created: u64,
    /// The model, by the name that the client used.
    pub model: String,
    /// One for each pair, in order.
    pub data: Vec<ScoreItem>,
    /// What it cost.
    pub usage: EmbeddingUsage,
}

/// The score of one pair.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ScoreItem {
    /// Which pair.
    pub index: usize,
    /// Always `score`.
    pub object: &'static str,
    /// The score: more is better.
    pub score: f32,
}
