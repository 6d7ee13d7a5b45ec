//! What a response looks like, as in OpenAI's API.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::openai::{ResponseSettings, TokenLogprob, Usage};

/// Answer of `POST /v1/responses`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Response {
    /// Unique id, such as `resp_…`.
    pub id: String,
    /// Always `response`.
    pub object: &'static str,
    /// When the request was taken: seconds since 1970, UTC.
    pub created_at: u64,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
    /// The model, by the name that the client used.
    pub model: String,
    /// What the model did, in order.
    pub output: Vec<OutputItem>,
    /// What it cost; null until it has ended.
    pub usage: Option<ResponseUsage>,
    /// What it repeats of the request.
    #[serde(flatten)]
    pub settings: ResponseSettings,
    /// What no request can change.
    #[serde(flatten)]
    pub fixed: Fixed,
}

/// How far a response is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Progress {
    /// In a word.
    pub status: Status,
    /// Why it failed.
    pub error: Option<FailureDetails>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
}

impl Progress {
    /// Nothing is known but the status.
    pub fn new(status: Status) -> Self {
        Self { status, error: None, incomplete_details: None }
    }
}

/// What no request can change.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Fixed {
    /// Whether it can be fetched later.
    pub store: bool,
    /// Always false.
    pub background: bool,
    /// Always `disabled`: an input that is too long is an error.
    pub truncation: &'static str,
    /// Always `default`.
    pub service_tier: &'static str,
    /// Always null: there are no built-in tools.
    pub max_tool_calls: Option<u32>,
}

impl Fixed {
    /// With the one thing that differs.
    pub fn new(is_stored: IsStored) -> Self {
        Self {
            store: is_stored == IsStored::Yes,
            background: false,
            truncation: "disabled",
            service_tier: "default",
            max_tool_calls: None,
        }
    }
}

/// Whether a response can be fetched later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsStored {
    /// It can.
    Yes,
    /// It cannot.
    No,
}

/// How far a response or an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// More is to come.
    InProgress,
    /// It ended by itself.
    Completed,
    /// It was cut off.
    Incomplete,
    /// The server failed.
    Failed,
}

/// Why a response is incomplete.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`.
    pub reason: &'static str,
}

/// Why a response failed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FailureDetails {
    /// Always `server_error`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// One thing that the model did.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// It thought.
    Reasoning {
        /// Such as `rs_…`.
        id: String,
        /// Always empty: the content is whole.
        summary: Vec<Value>,
        /// One part: the thoughts.
        content: Vec<OutputPart>,
        /// How far it is.
        status: Status,
    },
    /// It said something.
    Message {
        /// Such as `msg_…`.
        id: String,
        /// Always `assistant`.
        role: &'static str,
        /// One part: the text.
        content: Vec<OutputPart>,
        /// How far it is.
        status: Status,
    },
    /// It called a function.
    FunctionCall {
        /// Such as `fc_…`.
        id: String,
        /// Names the call: the output's item refers to it.
        call_id: String,
        /// The function.
        name: String,
        /// A JSON object as text.
        arguments: String,
        /// How far it is.
        status: Status,
    },
}

/// A part of an item.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPart {
    /// Text for the user.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        annotations: Vec<Value>,
        /// Log-probabilities of its tokens, when asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// What the model thought.
    ReasoningText {
        /// The text.
        text: String,
    },
}

/// Tokens that a response cost.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Where they came from.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated.
    pub output_tokens: u64,
    /// What they were spent on.
    pub output_tokens_details: OutputTokensDetails,
    /// Both.
    pub total_tokens: u64,
}

/// Where tokens of a prompt came from.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct InputTokensDetails {
    /// Taken from the prefix cache.
    pub cached_tokens: u64,
}

/// What generated tokens were spent on.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct OutputTokensDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        let details = usage.completion_tokens_details;
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: details.map_or(0, |details| details.reasoning_tokens),
            },
            total_tokens: usage.total_tokens,
        }
    }
}

/// Answer of `GET /v1/responses/{id}/input_items`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InputItems {
    /// Always `list`.
    pub object: &'static str,
    /// The items of this page.
    pub data: Vec<Value>,
    /// Id of the first of them.
    pub first_id: Option<String>,
    /// Id of the last of them.
    pub last_id: Option<String>,
    /// Whether more follow.
    pub has_more: bool,
}

/// Answer of `POST /v1/responses/input_tokens`.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct InputTokens {
    /// Always `response.input_tokens`.
    pub object: &'static str,
    /// Tokens of the prompt.
    pub input_tokens: u64,
}

/// Answer of `DELETE /v1/responses/{id}`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Deleted {
    /// What was deleted.
    pub id: String,
    /// Always `response`.
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}
