//! What `/render` answers: the prompt that would run, and how.

use std::collections::BTreeMap;

use folio_engine::types::TokenId;
use schemars::JsonSchema;
use serde::Serialize;

/// One prompt that would run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Rendered {
    /// The model, by the name that the client used.
    pub model: String,
    /// The prompt as the model sees it, special tokens spelled out.
    pub prompt: String,
    /// Its tokens.
    pub token_ids: Vec<TokenId>,
    /// How tokens would be chosen, and when to stop.
    pub sampling_params: RenderedSampling,
    /// Smaller is more urgent.
    pub priority: i32,
}

/// The settings of a generation as they were settled, under vLLM's names.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RenderedSampling {
    /// Number of choices.
    pub n: u32,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Tokens to choose among; 0 for all.
    pub top_k: u32,
    /// Probability to choose among.
    pub top_p: f32,
    /// Least probability, as a part of the largest.
    pub min_p: f32,
    /// The seed; null: another for each request.
    pub seed: Option<i64>,
    /// Taken off for each occurrence in the answer.
    pub frequency_penalty: f32,
    /// Taken off once for a token that occurred in the answer.
    pub presence_penalty: f32,
    /// Divides the logits of tokens that occurred.
    pub repetition_penalty: f32,
    /// Added to the logits of tokens, by id.
    pub logit_bias: BTreeMap<String, f32>,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Fewest tokens of the answer.
    pub min_tokens: u32,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Tokens that end it, the model's own among them.
    pub stop_token_ids: Vec<TokenId>,
    /// Whether the model's own end tokens are not among them.
    pub ignore_eos: bool,
    /// Likeliest tokens told for each position; null: no log-probabilities.
    pub logprobs: Option<u32>,
}
