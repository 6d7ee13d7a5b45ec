//! Wire types: what requests may say and what answers look like, as in OpenAI's API.
//!
//! Reading is strict: an unknown field, a wrong type or a value outside its range is an error that
//! names the field's path. Nothing here knows a model; what depends on one is checked later.

mod chat;
mod completions;
mod embeddings;
mod fields;
mod generation;
mod inputs;
mod json;
mod messages;
mod output;
mod policy;
mod prompt;
mod rendered;
mod response;
mod response_items;
mod responses;
mod scoring;
mod structure;
mod tokenize;
mod tools;
mod trace;

pub use chat::{ChatRequest, Effort, Reasoning, ShownReasoning};
pub use completions::{CompletionRequest, Echo};
pub use embeddings::{EmbeddingRequest, Encoding};
pub use generation::{EndOfSequence, Generation, Queueing, Reply, UsageChunk};
pub use inputs::{Content, Input};
pub use json::parse;
pub use output::{Output, StopReason, TokenIds, TokenNames};
pub use policy::{FaultCount, KnownPolicy, PolicyRequest, PolicyResponse, ShadowAnswer};
pub use prompt::{PromptOptions, Truncation};
pub use rendered::{Rendered, RenderedSampling};
pub use response::{
    CalledFunction, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, ChatMessage,
    ChatResponse, CompletionChoice, CompletionDetails, CompletionLogprobs, CompletionResponse,
    Delta, EmbeddingItem, EmbeddingResponse, EmbeddingUsage, Finish, FunctionDelta, Header,
    HealthResponse, LoadResponse, MessageToolCall, ModelCard, ModelList, PromptDetails,
    PromptLogprobs, PromptToken, ReasoningText, TokenLogprob, ToolCallDelta, TopLogprob, Usage,
    Vector, VersionResponse, finite_logprob,
};
pub use responses::{
    Delivery, Keeping, ReasoningSettings, ResponseSettings, ResponsesRequest, TextSettings,
};
pub use scoring::{
    RerankRequest, RerankResponse, RerankResult, RerankedDocument, ScoreItem, ScoreRequest,
    ScoreResponse, ShownDocuments,
};
pub use structure::{Constraint, JsonShape, Keywords, Structure, Whitespace};
pub use tokenize::{
    DetokenizeRequest, DetokenizeResponse, TokenizeInput, TokenizeRequest, TokenizeResponse,
};
pub use tools::{ParallelCalls, Strictness, Tool, ToolChoice, Tools};
pub use trace::{RequestBody, Trace, general};

use crate::error::ApiError;
use fields::Fields;

/// Takes the name of the model, which must be there.
fn model(fields: &mut Fields) -> Result<String, ApiError> {
    fields.string("model")?.ok_or_else(|| ApiError::missing("model"))
}
