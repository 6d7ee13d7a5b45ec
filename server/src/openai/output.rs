//! The fields that say what an answer shows beside its text, shared by chat and completions.

use folio_engine::types::TokenId;
use schemars::JsonSchema;
use serde::Serialize;

use super::Reply;
use super::fields::Fields;
use super::generation::Generation;
use crate::error::ApiError;
use crate::text::{Skip, StopText};

/// Largest number of likeliest tokens at one position.
pub(super) const MAX_TOP_LOGPROBS: i64 = 20;

/// What an answer shows beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whether special tokens leave their spelling in the text (`skip_special_tokens`).
    pub skip: Skip,
    /// Whether what ended a choice is part of it (`include_stop_str_in_output`).
    pub stop_text: StopText,
    /// Whether ids of tokens are wanted (`return_token_ids`).
    pub token_ids: TokenIds,
    /// What log-probabilities call a token (`return_tokens_as_token_ids`).
    pub token_names: TokenNames,
    /// How many of the likeliest tokens are wanted at each place of the prompt
    /// (`prompt_logprobs`).
    pub prompt_logprobs: Option<u32>,
}

/// Whether ids of tokens are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenIds {
    /// Those of prompt and answer.
    Returned,
    /// The default.
    Omitted,
}

/// What log-probabilities call a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenNames {
    /// By its text.
    Text,
    /// `token_id:` and its id.
    Ids,
}

impl TokenNames {
    /// The name of a token, whose text is made when it is needed.
    pub fn name(self, id: TokenId, text: impl FnOnce() -> String) -> String {
        match self {
            Self::Text => text(),
            Self::Ids => format!("token_id:{id}"),
        }
    }
}

/// What ended a choice, where that was a stop string or a stop token of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StopReason {
    /// One of `stop_token_ids`.
    Token(TokenId),
    /// One of `stop`.
    Text(String),
}

/// Takes the fields out of `fields`.
pub(super) fn read(fields: &mut Fields) -> Result<Output, ApiError> {
    let skip = match fields.boolean("skip_special_tokens")? {
        Some(false) => Skip::Nothing,
        _ => Skip::Special,
    };
    let stop_text = match fields.boolean("include_stop_str_in_output")? {
        Some(true) => StopText::Kept,
        _ => StopText::Dropped,
    };
    let token_ids = match fields.boolean("return_token_ids")? {
        Some(true) => TokenIds::Returned,
        _ => TokenIds::Omitted,
    };
    let token_names = match fields.boolean("return_tokens_as_token_ids")? {
        Some(true) => TokenNames::Ids,
        _ => TokenNames::Text,
    };
    let prompt_logprobs = fields.integer("prompt_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    let prompt_logprobs = prompt_logprobs.map(|num| num as u32);
    fields.refuse_unsupported(&[("spaces_between_special_tokens", &["true"])])?;
    Ok(Output { skip, stop_text, token_ids, token_names, prompt_logprobs })
}

/// Refuses `prompt_logprobs` in a stream, which has no place for them.
pub(super) fn check_reply(generation: &Generation, reply: Reply) -> Result<(), ApiError> {
    if generation.output.prompt_logprobs.is_some() && reply != Reply::Whole {
        let message = "prompt_logprobs cannot be combined with stream = true";
        return Err(ApiError::unsupported("prompt_logprobs", message));
    }
    Ok(())
}
