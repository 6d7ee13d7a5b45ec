//! The bodies of `POST /tokenize` and `POST /detokenize`, as in vLLM.

use folio_engine::types::TokenId;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, token_id, token_ids_shape};
use super::json::type_name;
use super::messages;
use super::trace::RequestBody;
use crate::error::ApiError;
use crate::text::{GenerationPrompt, SpecialTokens};

/// A request to show the tokens of a text or of a conversation.
#[derive(Clone, Debug)]
pub struct TokenizeRequest {
    /// Name of the model; the first one when absent.
    pub model: Option<String>,
    /// What to tokenise.
    pub input: TokenizeInput,
    /// Whether the spelling of each token is wanted too.
    pub return_token_strs: bool,
}

/// What to tokenise.
#[derive(Clone, Debug)]
pub enum TokenizeInput {
    /// A text.
    Prompt {
        /// The text.
        text: String,
        /// Whether the model's special tokens are put around it.
        special: SpecialTokens,
    },
    /// A conversation, rendered by the chat template.
    Messages {
        /// Role objects.
        messages: Vec<Value>,
        /// Whether the template opens the assistant's turn.
        generation_prompt: GenerationPrompt,
    },
}

/// Tokens of a text.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TokenizeResponse {
    /// Number of tokens.
    pub count: usize,
    /// Longest sequence of the model.
    pub max_model_len: u32,
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// Their spelling in the vocabulary, when asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The text of tokens.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DetokenizeResponse {
    /// The text, special tokens spelled out.
    pub prompt: String,
}

/// A request to show the text of tokens.
#[derive(Clone, Debug)]
pub struct DetokenizeRequest {
    /// Name of the model; the first one when absent.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<TokenId>,
}

impl TokenizeRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = fields.string("model")?;
        let return_token_strs = fields.boolean("return_token_strs")?.unwrap_or(false);
        let input =
            match (fields.string("prompt")?, fields.take_shaped("messages", messages::shape)) {
                (Some(text), None) => TokenizeInput::Prompt {
                    text,
                    special: match fields.boolean("add_special_tokens")? {
                        Some(false) => SpecialTokens::Omit,
                        _ => SpecialTokens::Add,
                    },
                },
                (None, Some(messages)) => TokenizeInput::Messages {
                    messages: messages::read(&fields, messages)?,
                    generation_prompt: match fields.boolean("add_generation_prompt")? {
                        Some(false) => GenerationPrompt::Omit,
                        _ => GenerationPrompt::Add,
                    },
                },
                (None, None) => return Err(ApiError::missing("prompt")),
                (Some(_), Some(_)) => {
                    let message = "send prompt or messages, not both";
                    return Err(ApiError::invalid_value("messages", message));
                }
            };
        fields.finish()?;
        Ok(Self { model, input, return_token_strs })
    }
}

impl DetokenizeRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = fields.string("model")?;
        let tokens = match fields.require_shaped("tokens", token_ids_shape)? {
            Value::Array(tokens) => tokens,
            other => {
                let expected = "an array of token ids";
                return Err(ApiError::invalid_type("tokens", expected, type_name(&other)));
            }
        };
        let tokens = tokens
            .iter()
            .enumerate()
            .map(|(index, id)| token_id(&format!("tokens[{index}]"), id))
            .collect::<Result<_, _>>()?;
        fields.finish()?;
        Ok(Self { model, tokens })
    }
}
