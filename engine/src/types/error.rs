//! Errors, by what a caller can do about them.

use super::{ConfigError, Nanos};

/// What the engine can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range or contradicts another.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of a model is missing, unreadable or malformed.
    #[error("{file}: {message}")]
    ModelFile {
        /// Path or name of the file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The model is well-formed but asks for something that is not implemented.
    #[error("unsupported model: {field} = {value} ({hint})")]
    UnsupportedModel {
        /// Field of the model's configuration.
        field: String,
        /// Its value.
        value: String,
        /// What is supported.
        hint: String,
    },
    /// A weight is missing or has another shape or type than the configuration says.
    #[error("weight {name}: {message}")]
    Weight {
        /// Tensor name in the checkpoint.
        name: String,
        /// Expected against found.
        message: String,
    },
    /// The memory plan does not fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device failed.
    #[error("device: {0}")]
    Device(String),
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// Result with the engine's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request is not taken. The text names the field, the value and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Prompt and requested output exceed what the model can attend to.
    #[error(
        "the model's context is {max_model_len} tokens, but {prompt} prompt tokens and \
         {max_tokens} output tokens were asked for"
    )]
    ContextLength {
        /// Tokens in the prompt.
        prompt: u32,
        /// Output tokens asked for.
        max_tokens: u32,
        /// The model's limit.
        max_model_len: u32,
    },
    /// The KV cache could not hold the request even if it were alone.
    #[error(
        "the KV cache holds {capacity} tokens, but {prompt} prompt tokens and {max_tokens} \
         output tokens were asked for"
    )]
    KvCapacity {
        /// Tokens in the prompt.
        prompt: u32,
        /// Output tokens asked for.
        max_tokens: u32,
        /// Tokens that the whole pool holds.
        capacity: u32,
    },
    /// The request is malformed in a way that the front end should have caught.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// Too many requests are waiting.
    #[error("{queued} requests are waiting and the limit is {limit}")]
    QueueFull {
        /// Requests waiting now.
        queued: u32,
        /// `--max-queued-requests`.
        limit: u32,
        /// Until there is room, at the rate measured; `None` before anything was measured.
        room_in: Option<Nanos>,
    },
    /// Requests with too many tokens are waiting.
    #[error(
        "requests of {queued} tokens are waiting, this one has {num_tokens} more and the limit is \
         {limit}"
    )]
    QueueFullOfTokens {
        /// Tokens waiting now.
        queued: u64,
        /// Prompt tokens that were to join them.
        num_tokens: u64,
        /// `--max-queued-tokens`.
        limit: u64,
        /// Until there is room, at the rate measured; `None` before anything was measured.
        room_in: Option<Nanos>,
    },
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}
