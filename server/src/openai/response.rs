//! What answers look like.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use folio_engine::types::TokenId;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Encoding, StopReason};

/// What every answer and every chunk of a generation begins with.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Header {
    /// Unique id, such as `chatcmpl-…`.
    pub id: String,
    /// Kind of the object.
    pub object: &'static str,
    /// When the request was taken: seconds since 1970, UTC.
    pub created: u64,
    /// The model, by the name that the client used.
    pub model: String,
    /// Changes when the program or the model's files change.
    pub system_fingerprint: String,
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token or a stop string.
    Stop,
    /// `max_tokens` or the model's length.
    Length,
    /// The model called tools of its own will, or because it had to call some.
    ToolCalls,
}

impl Finish {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Tokens that a request cost. Prompts are counted once, whatever `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens generated, all choices together.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Where prompt tokens came from.
    pub prompt_tokens_details: PromptDetails,
    /// What generated tokens were spent on; for chats with models that reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionDetails>,
}

/// Where prompt tokens came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PromptDetails {
    /// Taken from the prefix cache instead of being computed.
    pub cached_tokens: u64,
}

/// What generated tokens were spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CompletionDetails {
    /// Tokens of reasoning, its marks counted.
    pub reasoning_tokens: u64,
}

/// Answer of `POST /v1/chat/completions`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatResponse {
    /// Id, model, time.
    #[serde(flatten)]
    pub header: Header,
    /// One for each of `n`, in order.
    pub choices: Vec<ChatChoice>,
    /// What it cost.
    pub usage: Usage,
    /// How likely the tokens of the prompt were, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Tokens of the prompt, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<TokenId>>,
}

/// One choice of a chat.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatChoice {
    /// Which of `n`.
    pub index: u32,
    /// What the model says.
    pub message: ChatMessage,
    /// Log-probabilities, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Finish,
    /// What of the request ended it, if anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Tokens of the answer, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<TokenId>>,
}

/// What the model says.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text; null where the model called tools and said nothing.
    pub content: Option<String>,
    /// Always null: this server has no separate refusals.
    pub refusal: Option<String>,
    /// What the model thought before it answered.
    #[serde(flatten)]
    pub reasoning: ReasoningText,
    /// The tools that it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<MessageToolCall>,
}

/// A model's reasoning under both names that clients read it by. Left out where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReasoningText {
    /// The older name, which most clients know.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// The newer name, the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
}

impl ReasoningText {
    /// `text` under both names.
    pub fn new(text: Option<String>) -> Self {
        Self { reasoning_content: text.clone(), reasoning: text }
    }
}

/// A tool call of a whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MessageToolCall {
    /// Names the call: the tool's message refers to it.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is called.
    pub function: CalledFunction,
}

/// A function with the arguments that it is called with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// A JSON object as text, as the model wrote it.
    pub arguments: String,
}

/// Log-probabilities of a chat choice.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<TokenLogprob>,
    /// Always null, as [`ChatMessage::refusal`].
    pub refusal: Option<()>,
}

/// One generated token with its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TokenLogprob {
    /// The token itself.
    #[serde(flatten)]
    pub chosen: TopLogprob,
    /// The likeliest tokens at this position, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TopLogprob {
    /// Its text; parts of a character show as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// A log-probability as JSON can write it: OpenAI's API says −9999 for a token that cannot come.
pub fn finite_logprob(value: f32) -> f32 {
    if value.is_finite() { value } else { -9999.0 }
}

/// A chunk of a streamed chat.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatChunk<'a> {
    /// Id, model, time.
    #[serde(flatten)]
    pub header: &'a Header,
    /// One choice; none in the chunk of the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// When asked for: null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// Tokens of the prompt, when asked for, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<TokenId>>,
}

/// What is new in one choice.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct ChatChunkChoice {
    /// Which of `n`.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Log-probabilities of the tokens of this chunk.
    pub logprobs: Option<ChatLogprobs>,
    /// Set in the choice's last chunk.
    pub finish_reason: Option<Finish>,
    /// Set in the choice's last chunk if something of the request ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Tokens of this chunk, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<TokenId>>,
}

/// What is new in a message.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Reasoning to append.
    #[serde(flatten)]
    pub reasoning: ReasoningText,
    /// Tool calls that begin or go on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// What is new in a tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ToolCallDelta {
    /// Which call of the message.
    pub index: u32,
    /// Id, in the call's first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the call's first chunk only.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What is new in what is called.
    pub function: FunctionDelta,
}

/// What is new in a called function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FunctionDelta {
    /// Its name, in the call's first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text to append to the arguments.
    pub arguments: String,
}

/// Answer of `POST /v1/completions`, and a chunk of its stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CompletionResponse<'a> {
    /// Id, model, time.
    #[serde(flatten)]
    pub header: &'a Header,
    /// One for each prompt and each of `n`, prompts first.
    pub choices: Vec<CompletionChoice>,
    /// What it cost. In a stream, when asked for: null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// One choice of a completion.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct CompletionChoice {
    /// Which choice.
    pub index: u32,
    /// The text, or what is new in it.
    pub text: String,
    /// Log-probabilities, when asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<Finish>,
    /// What of the request ended it, if anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// How likely the tokens of the prompt were, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Tokens of the prompt, when asked for; in a stream in the choice's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<TokenId>>,
    /// Tokens of the text, or those that are new, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<TokenId>>,
}

impl CompletionChoice {
    /// A choice that says nothing.
    pub fn empty(index: u32) -> Self {
        Self { index, ..Self::default() }
    }
}

/// For each token of a prompt how likely it and others were there, by token id; nothing for the
/// first.
pub type PromptLogprobs = Vec<Option<BTreeMap<String, PromptToken>>>;

/// How likely a token was at a place of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PromptToken {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// 1 for the likeliest.
    pub rank: u32,
    /// Its text; parts of a character show as U+FFFD.
    pub decoded_token: String,
}

/// Log-probabilities of a completion, column by column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CompletionLogprobs {
    /// Text of each token.
    pub tokens: Vec<String>,
    /// Its log-probability; none for the first of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens at its position, itself among them; none for the first of a prompt.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where its text begins, in characters from the beginning of the choice.
    pub text_offset: Vec<usize>,
}

/// Answer of `POST /v1/embeddings`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EmbeddingResponse {
    /// Always `list`.
    pub object: &'static str,
    /// One for each input, in order.
    pub data: Vec<EmbeddingItem>,
    /// The model, by the name that the client used.
    pub model: String,
    /// What it cost.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EmbeddingItem {
    /// Always `embedding`.
    pub object: &'static str,
    /// Which input.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// Tokens that embeddings cost.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs, special tokens counted.
    pub prompt_tokens: u64,
    /// The same.
    pub total_tokens: u64,
}

/// A vector as the client wants it written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Vector {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian f32.
    Base64(String),
}

impl Vector {
    /// Writes `values` in `encoding`, without loss in either.
    pub fn encode(values: Vec<f32>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Float(values),
            Encoding::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// An entry of `GET /v1/models`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelCard {
    /// Name to use in requests.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// When the server was started: seconds since 1970, UTC.
    pub created: u64,
    /// Always `folio`.
    pub owned_by: &'static str,
    /// The first name of the same model.
    pub root: String,
    /// Always null: models here derive from no other.
    pub parent: Option<String>,
    /// Longest sequence, prompt and output together.
    pub max_model_len: u32,
}

/// Answer of `GET /v1/models`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// An entry for each name.
    pub data: Vec<ModelCard>,
}

/// Answer of `GET /health`.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct HealthResponse {
    /// Always `ok`.
    pub status: &'static str,
}

/// Answer of `GET /load`.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct LoadResponse {
    /// Choices and embeddings that run or wait.
    pub server_load: u32,
    /// Those that take part in steps.
    pub num_requests_running: u32,
    /// Those that wait.
    pub num_requests_waiting: u32,
    /// Share of the KV blocks in use, from 0 to 1.
    pub kv_cache_usage: f64,
}

/// Answer of `GET /version`.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct VersionResponse {
    /// The program's version.
    pub version: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_of_a_vector_are_exact() {
        let values = vec![0.1, -0.0, f32::MIN_POSITIVE, 1.0 / 3.0, -12345.678];
        let Vector::Base64(text) = Vector::encode(values.clone(), Encoding::Base64) else {
            panic!("asked for base64");
        };
        let bytes = STANDARD.decode(text).unwrap();
        let decoded: Vec<u32> =
            bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
        assert_eq!(decoded, bits);
        let json = serde_json::to_string(&Vector::encode(values, Encoding::Float)).unwrap();
        let read: Vec<f32> = serde_json::from_str(&json).unwrap();
        assert_eq!(read.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), bits);
    }
}
