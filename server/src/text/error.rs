//! What the text side can fail with, by who can act on it.

use std::fmt::Display;

/// A failure between text and tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model is missing or malformed. Seen at start-up only.
    #[error("{file}: {message}")]
    ModelFile {
        /// Name of the file inside the model's directory.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// A chat was asked of a model that comes with no chat template.
    #[error(
        "model {model} has no chat template (no chat_template.jinja, and no chat_template in \
         tokenizer_config.json); use /v1/completions with a prompt of your own"
    )]
    NoChatTemplate {
        /// The model, as the operator named it.
        model: String,
    },
    /// The template called `raise_exception`: it does not take this conversation. The text is
    /// the template's own, meant for whoever wrote the messages.
    #[error("{0}")]
    Refused(String),
    /// The template has a defect, or asks for something that is not implemented.
    #[error("chat template {template}: {message}")]
    Template {
        /// Which of the model's templates, such as `default` or `tool_use`.
        template: String,
        /// The template engine's own explanation, with the line where it knows it.
        message: String,
    },
    /// A message of the conversation is malformed.
    #[error("{field}: {message}")]
    Message {
        /// Path of the field, such as `messages[2].tool_calls[0].function.arguments`.
        field: String,
        /// What is wrong with it, with value and limit.
        message: String,
    },
    /// A text cannot fit, as its length alone tells.
    #[error(
        "a text of {num_bytes} bytes cannot fit into the context of {max_tokens} tokens: at most \
         {max_bytes} bytes of it can"
    )]
    TooLong {
        /// Bytes of the text.
        num_bytes: u64,
        /// Most bytes that can fit.
        max_bytes: u64,
        /// Tokens that there is room for.
        max_tokens: u32,
    },
    /// The tokenizer failed on a text.
    #[error("tokenizer: {0}")]
    Tokenize(String),
}

/// Result with the text side's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file that is there but cannot be used.
    pub(crate) fn file(file: &str, message: &dyn Display) -> Self {
        Self::ModelFile { file: file.to_owned(), message: message.to_string() }
    }

    /// A message that cannot be rendered.
    pub(crate) fn message(field: &str, message: &str) -> Self {
        Self::Message { field: field.to_owned(), message: message.to_owned() }
    }
}
