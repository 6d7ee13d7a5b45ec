//! The fields that say how a prompt becomes tokens.

use super::fields::Fields;
use crate::error::ApiError;
use crate::text::SpecialTokens;

/// How a prompt becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptOptions {
    /// Whether the model's special tokens are put around a text (`add_special_tokens`).
    pub special_tokens: SpecialTokens,
    /// How much of it is kept, if not all (`truncate_prompt_tokens`).
    pub truncation: Option<Truncation>,
}

/// How much of a prompt is kept: its last tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// At most this many.
    Tokens(u32),
    /// As many as the model takes, −1 on the wire.
    ModelLength,
}

impl Default for PromptOptions {
    fn default() -> Self {
        Self { special_tokens: SpecialTokens::Add, truncation: None }
    }
}

impl PromptOptions {
    /// Most tokens that are kept for a model of this length, if there is a limit.
    pub fn max_tokens(self, max_model_len: u32) -> Option<u32> {
        self.truncation.map(|truncation| match truncation {
            Truncation::Tokens(num) => num,
            Truncation::ModelLength => max_model_len,
        })
    }

    /// Takes the fields out of `fields`.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let special_tokens = match fields.boolean("add_special_tokens")? {
            Some(false) => SpecialTokens::Omit,
            _ => SpecialTokens::Add,
        };
        let field = "truncate_prompt_tokens";
        let truncation = match fields.integer(field, -1..=i64::from(u32::MAX))? {
            None => None,
            Some(-1) => Some(Truncation::ModelLength),
            Some(0) => {
                let message =
                    format!("{field} = 0 must be at least 1, or -1 for the model's length");
                return Err(ApiError::invalid_value(field, message));
            }
            Some(num) => Some(Truncation::Tokens(num as u32)),
        };
        Ok(Self { special_tokens, truncation })
    }
}
