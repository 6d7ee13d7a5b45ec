//! What is asked of the server: prompts, and how much to generate.

use std::sync::Arc;

use folio_engine::types::TokenId;
use serde_json::Value;

/// One request of a load.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the model is to continue, answer or embed.
    pub prompt: Prompt,
    /// Tokens of the prompt as far as the client knows; the server's `usage` goes before it.
    pub input_len: u32,
    /// Most tokens to generate; 0 for embeddings.
    pub output_len: u32,
    /// When it arrives in its trace, in seconds from the trace's start.
    pub timestamp: Option<f64>,
    /// Number of its conversation: its turns wait for one another.
    pub session: Option<u32>,
    /// The request that must have ended before this one is sent, where its trace says so: its place
    /// in the dataset, and seconds of thinking.
    pub after: Option<(usize, f64)>,
    /// Whose work it is, where the dataset knows: sent as the field `user`.
    pub tenant: Option<u32>,
}

/// The prompt of a request, cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Token ids, for servers' completions.
    Ids(Arc<[TokenId]>),
    /// Text; the user's one message where it is a chat.
    Text(Arc<str>),
    /// The messages of a chat, as OpenAI's API has them.
    Messages(Arc<[Value]>),
    /// Texts to embed in one request.
    Texts(Arc<[String]>),
}

impl Request {
    /// A request for up to `output_len` tokens.
    pub fn new(prompt: Prompt, input_len: u32, output_len: u32) -> Self {
        Self {
            prompt,
            input_len,
            output_len,
            timestamp: None,
            session: None,
            after: None,
            tenant: None,
        }
    }

    /// Whether vectors are asked for.
    pub fn is_embedding(&self) -> bool {
        matches!(self.prompt, Prompt::Texts(_))
    }
}
