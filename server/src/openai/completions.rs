//! The body of `POST /v1/completions`.

use super::fields::Fields;
use super::generation::{self, Generation, Reply};
use super::inputs::{self, Input};
use super::output::{self, MAX_TOP_LOGPROBS};
use super::prompt::PromptOptions;
use super::trace::RequestBody;
use crate::error::ApiError;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 2048;
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
    /// How prompts become tokens.
    pub prompt_options: PromptOptions,
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
        let mut generation = generation::read_with(&mut fields, 0)?;
        generation.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        let logprobs = fields.integer("logprobs", 0..=MAX_TOP_LOGPROBS)?;
        generation.params.logprobs = logprobs.map(|top| top as u32);
        read_best_of(&mut fields, &generation)?;
        let echo = match fields.boolean("echo")? {
            Some(true) => Echo::Prompt,
            _ => Echo::Nothing,
        };
        ask_about_prompt(&mut generation, echo)?;
        let prompt_options = PromptOptions::read(&mut fields)?;
        let reply = generation::read_reply(&mut fields)?;
        output::check_reply(&generation, reply)?;
        fields.refuse_unsupported(UNSUPPORTED)?;
        fields.finish()?;
        Ok(Self { model, prompts, prompt_options, echo, generation, reply })
    }
}

/// With an echo, log-probabilities are those of the prompt too. Without an answer to generate,
/// there must be something to say about the prompt.
fn ask_about_prompt(generation: &mut Generation, echo: Echo) -> Result<(), ApiError> {
    let params = &mut generation.params;
    if echo == Echo::Prompt {
        params.prompt_logprobs = params.prompt_logprobs.max(params.logprobs);
    }
    if generation.max_tokens != Some(0) {
        return Ok(());
    }
    if echo == Echo::Nothing && params.prompt_logprobs.is_none() {
        let message = "max_tokens = 0 must be at least 1 without echo = true or prompt_logprobs";
        return Err(ApiError::invalid_value("max_tokens", message));
    }
    params.prompt_logprobs.get_or_insert(0);
    Ok(())
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
