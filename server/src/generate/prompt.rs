//! A prompt as tokens.

use folio_engine::types::TokenId;

use super::shape::AnswerKind;
use crate::error::ApiError;
use crate::models::ServedModel;
use crate::openai::{Content, Input};
use crate::text::SpecialTokens;

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

impl Prompt {
    /// Tokens of a text with the model's special tokens around it, or given tokens as they are.
    pub fn encode(model: &ServedModel, input: Input) -> Result<Self, ApiError> {
        let path = input.path;
        let tokens = match input.content {
            Content::Text(text) => {
                let tokenizer = model.text.tokenizer();
                let tokens = tokenizer
                    .check_length(&text, model.limits.max_model_len)
                    .and_then(|()| tokenizer.encode(&text, SpecialTokens::Add));
                tokens.map_err(|error| ApiError::from_text(&error, &path))?
            }
            Content::Tokens(tokens) => {
                for (index, &id) in tokens.iter().enumerate() {
                    model.check_token(|| format!("{path}[{index}]"), id)?;
                }
                tokens
            }
        };
        Ok(Self { path, tokens, answer: AnswerKind::default() })
    }
}
