//! A prompt as tokens.

use folio_engine::types::{PromptLogprob, TokenId};

use super::shape::AnswerKind;
use crate::error::ApiError;
use crate::models::ServedModel;
use crate::openai::{Content, Input, PromptOptions};

/// One prompt, and the path of the field it came from.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Such as `messages` or `prompt[3]`.
    pub path: String,
    /// Its tokens, special tokens included.
    pub tokens: Vec<TokenId>,
    /// What its answer is besides a text.
    pub answer: AnswerKind,
}

/// What there is to say about a prompt beside its length.
#[derive(Clone, Debug, Default)]
pub struct PromptReport {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// How likely they were, from the second on, when that was asked for.
    pub logprobs: Option<Vec<PromptLogprob>>,
}

impl Prompt {
    /// Tokens of a text with the model's special tokens around it, or given tokens as they are.
    pub fn encode(model: &ServedModel, input: Input) -> Result<Self, ApiError> {
        Self::encode_with(model, input, PromptOptions::default())
    }

    /// The same, with what `options` say about special tokens and the length. A text that is far
    /// too long for the model is refused before it is cut.
    pub fn encode_with(
        model: &ServedModel,
        input: Input,
        options: PromptOptions,
    ) -> Result<Self, ApiError> {
        let path = input.path;
        let mut tokens = match input.content {
            Content::Text(text) => {
                let tokenizer = model.text.tokenizer();
                let tokens = tokenizer
                    .check_length(&text, model.limits.max_model_len)
                    .and_then(|()| tokenizer.encode(&text, options.special_tokens));
                tokens.map_err(|error| ApiError::from_text(&error, &path))?
            }
            Content::Tokens(tokens) => {
                for (index, &id) in tokens.iter().enumerate() {
                    model.check_token(|| format!("{path}[{index}]"), id)?;
                }
                tokens
            }
        };
        if let Some(max_tokens) = options.max_tokens(model.limits.max_model_len) {
            let num_left_out = tokens.len().saturating_sub(max_tokens as usize);
            tokens.drain(..num_left_out);
        }
        Ok(Self { path, tokens, answer: AnswerKind::default() })
    }
}
