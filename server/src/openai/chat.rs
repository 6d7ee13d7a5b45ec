//! The body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::generation::{self, Generation, Reply};
use super::messages;
use super::output::{self, MAX_TOP_LOGPROBS};
use super::tools::{self, Tools};
use super::trace::RequestBody;
use crate::error::ApiError;

/// Fields of OpenAI's API that ask for what this server does not do, with the values that ask for
/// nothing.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("audio", &[]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("metadata", &["{}"]),
    ("modalities", &["[\"text\"]"]),
    ("moderation", &[]),
    ("prediction", &[]),
    ("prompt_cache_key", &[]),
    ("prompt_cache_options", &["{}"]),
    ("prompt_cache_retention", &["\"in_memory\"", "\"in-memory\""]),
    ("service_tier", &["\"auto\"", "\"default\""]),
    ("store", &["false"]),
    ("verbosity", &["\"medium\""]),
    ("web_search_options", &[]),
];

/// A chat request whose fields are within their ranges.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// Name of the model.
    pub model: String,
    /// Role objects, never empty.
    pub messages: Vec<Value>,
    /// What the model may call.
    pub tools: Tools,
    /// Variables for the chat template (`chat_template_kwargs`).
    pub template_arguments: Option<Map<String, Value>>,
    /// How much the model is to think, and whether that is shown.
    pub reasoning: Reasoning,
    /// How to generate.
    pub generation: Generation,
    /// How to answer.
    pub reply: Reply,
}

/// What a request says about reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// How much the model is to think (`reasoning_effort`), where the client said.
    pub effort: Option<Effort>,
    /// Whether the answer has it (`include_reasoning`).
    pub shown: ShownReasoning,
}

/// Whether an answer has the model's reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShownReasoning {
    /// The default.
    #[default]
    Included,
    /// It is generated, and counted, but not sent.
    LeftOut,
}

/// How much a model is to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Not at all.
    None,
    /// As little as it can.
    Minimal,
    /// A little.
    Low,
    /// As it does by itself.
    Medium,
    /// Much.
    High,
    /// Very much.
    ExtraHigh,
}

impl Effort {
    /// All, by their words.
    pub const WORDS: [(&str, Self); 6] = [
        ("none", Self::None),
        ("minimal", Self::Minimal),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("xhigh", Self::ExtraHigh),
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, effort)| *effort == self).map_or("", |(word, _)| word)
    }
}

impl ChatRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let messages = fields.require_shaped("messages", messages::shape)?;
        let messages = messages::read(&fields, messages)?;
        let tools = tools::read(&mut fields)?;
        let template_arguments = fields.object("chat_template_kwargs")?.map(Fields::into_rest);
        let reasoning = read_reasoning(&mut fields)?;
        let mut generation = generation::read(&mut fields)?;
        read_max_completion_tokens(&mut fields, &mut generation)?;
        generation.params.logprobs = read_logprobs(&mut fields)?;
        let reply = generation::read_reply(&mut fields)?;
        output::check_reply(&generation, reply)?;
        fields.refuse_unsupported(UNSUPPORTED)?;
        fields.finish()?;
        Ok(Self { model, messages, tools, template_arguments, reasoning, generation, reply })
    }
}

fn read_reasoning(fields: &mut Fields) -> Result<Reasoning, ApiError> {
    let effort = fields.word("reasoning_effort", &Effort::WORDS)?;
    let shown = match fields.boolean("include_reasoning")? {
        Some(false) => ShownReasoning::LeftOut,
        _ => ShownReasoning::Included,
    };
    Ok(Reasoning { effort, shown })
}

/// The newer name of `max_tokens`. Both may be given if they agree.
fn read_max_completion_tokens(
    fields: &mut Fields,
    generation: &mut Generation,
) -> Result<(), ApiError> {
    let field = "max_completion_tokens";
    let Some(newer) = generation::count(fields, field, 1)? else {
        return Ok(());
    };
    if let Some(older) = generation.max_tokens.filter(|&older| older != newer) {
        let message = format!("{field} = {newer} contradicts max_tokens = {older}");
        return Err(ApiError::invalid_value(field, message));
    }
    generation.max_tokens = Some(newer);
    generation.max_tokens_field = field;
    Ok(())
}

fn read_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::invalid_value("top_logprobs", "top_logprobs needs logprobs = true"))
        }
    }
}
