//! The body of `POST /v1/completions`.

use super::fields::Fields;
use super::generation::{self, Generation, Reply};
use super::inputs::{self, Input};
use super::trace::RequestBody;
use crate::error::ApiError;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 2048;
/// Largest `logprobs`, as in OpenAI's API.
const MAX_LOGPROBS: i64 = 5;
/// `max_tokens` when it is not given, as in OpenAI's API.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 16;

/// Fields of OpenAI's API that ask for what this server does not do, with the values that ask for
/// nothing.
const UNSUPPORTED: &[(&str, &[&str])] = &[("suffix", &["\"\""])];

/// A completion request whose fields are within their ranges.
#[derive(Clone, Debug)]
pub struct CompletionRequest {
    /// Name of the model.
    pub model: String,
    /// Prompts, never empty.
    pub prompts: Vec<Input>,
    /// Whether the prompt leads each choice's text.
    pub echo: Echo,
    /// How to generate.
    pub generation: Generation,
    /// How to answer.
    pub reply: Reply,
}

/// Whether the prompt leads each choice's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// It does.
    Prompt,
    /// The default.
    Nothing,
}

impl CompletionRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let prompts = inputs::read(
            "prompt",
            fields.require_shaped("prompt", || inputs::shape(MAX_PROMPTS))?,
            MAX_PROMPTS,
        )?;
        let mut generation = generation::read(&mut fields)?;
        generation.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        let logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?;
        generation.params.logprobs = logprobs.map(|top| top as u32);
        read_best_of(&mut fields, &generation)?;
        let echo = match fields.boolean("echo")? {
            Some(true) if logprobs.is_some() => {
                let message = "echo cannot be combined with logprobs: \
                               log-probabilities of prompt tokens are not computed";
                return Err(ApiError::unsupported("echo", message));
            }
            Some(true) => Echo::Prompt,
            _ => Echo::Nothing,
        };
        let reply = generation::read_reply(&mut fields)?;
        fields.refuse_unsupported(UNSUPPORTED)?;
        fields.finish()?;
        Ok(Self { model, prompts, echo, generation, reply })
    }
}

/// `best_of` asks for candidates that are thrown away; only their absence is supported.
fn read_best_of(fields: &mut Fields, generation: &Generation) -> Result<(), ApiError> {
    let n = i64::from(generation.num_choices);
    match fields.integer("best_of", 1..=i64::from(u32::MAX))? {
        Some(best_of) if best_of > n => {
            let message = format!("best_of = {best_of} above n = {n} is not supported");
            Err(ApiError::unsupported("best_of", message))
        }
        Some(best_of) if best_of < n => {
            let message = format!("best_of = {best_of} must be at least n = {n}");
            Err(ApiError::invalid_value("best_of", message))
        }
        _ => Ok(()),
    }
}
