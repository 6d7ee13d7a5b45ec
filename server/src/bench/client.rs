//! One request to the server, from its body to the last event of its answer.
//!
//! The server's `usage` counts the tokens; text is never tokenised again. A server that sends none
//! has its chunks counted instead, and the result says so.

use std::time::Duration;

use axum::http::StatusCode;
use hyper::body::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::error::BenchError;
use super::http::{Exchange, Http, refused};
use super::request::{Prompt, Request};
use super::sample::{CountedBy, Failure, Tokens};
use super::stream::{Chunk, Events, Usage};

/// Which API the prompts go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/embeddings`
    Embeddings,
}

impl Backend {
    /// Where its API is.
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// vLLM's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completions => "openai",
            Self::Chat => "openai-chat",
            Self::Embeddings => "openai-embeddings",
        }
    }
}

/// What all requests have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which API.
    pub backend: Backend,
    /// Its path, where it is not the usual one.
    pub endpoint: Option<String>,
    /// The model that generates, or embeds where that is all there is.
    pub model: String,
    /// The model that embeds beside one that generates.
    pub embedding_model: Option<String>,
    /// Fields of every body: sampling parameters and whatever else the server takes.
    pub extra_body: Map<String, Value>,
    /// Seeds requests one by one, so that they can be repeated alone.
    pub seeds: Seeds,
    /// Begins the id of every request.
    pub request_id_prefix: Option<String>,
    /// Longest time that a request may take.
    pub timeout: Duration,
    /// What is kept of answers that are vectors.
    pub vectors: Vectors,
}

/// Whether requests have seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeds {
    /// None but what the body says.
    AsGiven,
    /// Each has its own, from this one on.
    From(u64),
}

/// What is kept of answers that are vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// Their number.
    Counted,
    /// All.
    Kept,
}

impl Settings {
    /// Settings for `backend` and `model`, with nothing special.
    pub fn new(backend: Backend, model: impl Into<String>) -> Self {
        const SIX_HOURS: Duration = Duration::from_secs(6 * 3600);
        Self {
            backend,
            endpoint: None,
            model: model.into(),
            embedding_model: None,
            extra_body: Map::new(),
            seeds: Seeds::AsGiven,
            request_id_prefix: None,
            timeout: SIX_HOURS,
            vectors: Vectors::Counted,
        }
    }
}

/// Sends requests to one server.
#[derive(Debug)]
pub struct Client {
    http: Http,
    settings: Settings,
}

/// An answer, or what there was of it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// When each chunk with tokens came.
    pub chunks: Vec<Instant>,
    /// When the answer ended, or failed.
    pub last: Instant,
    /// Counts.
    pub tokens: Tokens,
    /// Text of the first choice.
    pub text: String,
    /// Vectors, one after the other, if they are kept.
    pub vectors: Vec<f32>,
    /// Why the server says that it ended.
    pub finish_reason: Option<String>,
    /// What went wrong.
    pub failure: Option<Failure>,
}

impl Client {
    /// A client that sends over `http`.
    pub fn new(http: Http, settings: Settings) -> Self {
        Self { http, settings }
    }

    /// What all requests have in common.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The connections.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Checks that the API takes such prompts.
    ///
    /// # Errors
    /// [`BenchError::Flag`] for token ids or texts where only messages go, or the reverse.
    pub fn check(&self, requests: &[Request]) -> Result<(), BenchError> {
        let fails = |request: &Request| {
            let backend = self.settings.backend;
            match &request.prompt {
                Prompt::Ids(_) => backend != Backend::Completions,
                Prompt::Text(_) => backend == Backend::Embeddings,
                Prompt::Messages(_) => backend != Backend::Chat,
                Prompt::Texts(_) => {
                    backend != Backend::Embeddings && self.settings.embedding_model.is_none()
                }
            }
        };
        if requests.iter().any(fails) {
            let backend = self.settings.backend.as_str();
            let message = format!("{backend} does not take prompts of the kind of this dataset");
            return Err(BenchError::flag("--backend", message));
        }
        Ok(())
    }

    /// The body of request `index`, in a conversation where `history` has been said.
    pub fn body(&self, index: usize, request: &Request, history: &[Value]) -> Bytes {
        let settings = &self.settings;
        let mut body = Map::new();
        let model = match (&request.prompt, &settings.embedding_model) {
            (Prompt::Texts(_), Some(model)) => model,
            _ => &settings.model,
        };
        body.insert("model".to_owned(), model.as_str().into());
        if let Prompt::Texts(texts) = &request.prompt {
            body.insert("input".to_owned(), json!(texts.as_ref()));
            return Value::Object(body).to_string().into();
        }
        let limit = match settings.backend {
            Backend::Chat => {
                body.insert("messages".to_owned(), messages(&request.prompt, history).into());
                "max_completion_tokens"
            }
            Backend::Completions | Backend::Embeddings => {
                body.insert("prompt".to_owned(), prompt(&request.prompt, history));
                "max_tokens"
            }
        };
        body.insert(limit.to_owned(), request.output_len.into());
        body.insert("stream".to_owned(), true.into());
        body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
        if let Seeds::From(seed) = settings.seeds {
            // Within what every server takes for a seed.
            let seed = seed.wrapping_add(index as u64) & (u64::MAX >> 33);
            body.insert("seed".to_owned(), seed.into());
        }
        if let Some(tenant) = request.tenant {
            body.insert("user".to_owned(), format!("tenant-{tenant}").into());
        }
        body.extend(settings.extra_body.iter().map(|(key, value)| (key.clone(), value.clone())));
        Value::Object(body).to_string().into()
    }

    /// Sends request `index` with `body` and reads its answer to the end.
    pub async fn send(&self, index: usize, request: &Request, body: Bytes) -> Reply {
        let mut reply = Reply {
            chunks: Vec::with_capacity(request.output_len as usize),
            last: Instant::now(),
            tokens: Tokens { input: request.input_len, ..Tokens::default() },
            text: String::new(),
            vectors: Vec::new(),
            finish_reason: None,
            failure: None,
        };
        let exchange = self.exchange(index, request, body, &mut reply);
        let outcome = tokio::time::timeout(self.settings.timeout, exchange).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let seconds = self.settings.timeout.as_secs_f64();
            Err(Failure::new("timeout", format!("no end after {seconds} seconds")))
        });
        if let Err(failure) = outcome {
            reply.last = Instant::now();
            reply.failure = Some(failure);
        }
        reply
    }

    async fn exchange(
        &self,
        index: usize,
        request: &Request,
        body: Bytes,
        reply: &mut Reply,
    ) -> Result<(), Failure> {
        let settings = &self.settings;
        let id = settings.request_id_prefix.as_ref().map(|prefix| format!("{prefix}{index}"));
        let is_embedding = request.is_embedding();
        let path = match (&settings.endpoint, is_embedding) {
            (Some(path), false) => path.as_str(),
            (Some(path), true) if settings.backend == Backend::Embeddings => path.as_str(),
            (_, true) => Backend::Embeddings.endpoint(),
            (None, false) => settings.backend.endpoint(),
        };
        let exchange = self.http.post(path, body, id.as_deref()).await?;
        if exchange.status != StatusCode::OK {
            let status = exchange.status;
            let bytes = exchange.collect().await?;
            return Err(refused(status, String::from_utf8_lossy(&bytes)));
        }
        if is_embedding {
            return self.read_vectors(exchange, reply).await;
        }
        read_stream(exchange, reply).await
    }

    async fn read_vectors(&self, exchange: Exchange, reply: &mut Reply) -> Result<(), Failure> {
        let bytes = exchange.collect().await?;
        reply.last = Instant::now();
        let malformed = |error: serde_json::Error| Failure::new("malformed", error);
        let usage;
        (reply.tokens.num_texts, usage) = match self.settings.vectors {
            Vectors::Counted => {
                let list: List<IgnoredAny> = serde_json::from_slice(&bytes).map_err(malformed)?;
                (list.data.len() as u32, list.usage)
            }
            Vectors::Kept => {
                let list: List<Vec<f32>> = serde_json::from_slice(&bytes).map_err(malformed)?;
                let num_texts = list.data.len() as u32;
                reply.vectors = list.data.into_iter().flat_map(|item| item.embedding).collect();
                (num_texts, list.usage)
            }
        };
        if let Some(usage) = usage {
            reply.tokens.input = usage.prompt_tokens;
            reply.tokens.counted_by = CountedBy::Server;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct List<T> {
    data: Vec<Item<T>>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Item<T> {
    embedding: T,
}

async fn read_stream(mut exchange: Exchange, reply: &mut Reply) -> Result<(), Failure> {
    let mut events = Events::default();
    let (mut is_done, mut usage) = (false, None);
    while let Some(bytes) = exchange.next().await? {
        let now = Instant::now();
        events.push(&bytes);
        while let Some(data) = events.next_event() {
            if data.as_ref() == b"[DONE]" {
                is_done = true;
                continue;
            }
            let chunk = Chunk::read(&data)?;
            reply.text.push_str(&chunk.text);
            if chunk.is_token {
                reply.chunks.push(now);
            }
            if chunk.is_token || chunk.finish_reason.is_some() {
                reply.last = now;
            }
            reply.finish_reason = chunk.finish_reason.or(reply.finish_reason.take());
            usage = chunk.usage.or(usage);
        }
    }
    // What a server cuts must not pass for a short answer.
    if !is_done && reply.finish_reason.is_none() {
        return Err(Failure::new("cut", "the stream ended before the answer did"));
    }
    if reply.chunks.is_empty() && reply.finish_reason.is_none() {
        return Err(Failure::new("empty", "the stream has neither a token nor an end"));
    }
    reply.tokens.output = reply.chunks.len() as u32;
    if let Some(usage) = usage {
        reply.tokens = Tokens {
            input: usage.prompt_tokens,
            output: usage.completion_tokens,
            cached: usage.cached_tokens(),
            num_texts: 0,
            counted_by: CountedBy::Server,
        };
    }
    // Servers that send an answer in one piece still have a first token: with the last.
    if reply.chunks.is_empty() && reply.tokens.output > 0 {
        reply.chunks.push(reply.last);
    }
    Ok(())
}

fn messages(prompt: &Prompt, history: &[Value]) -> Vec<Value> {
    let mut messages = history.to_vec();
    match prompt {
        Prompt::Messages(own) => messages.extend_from_slice(own),
        Prompt::Text(text) => messages.push(json!({ "role": "user", "content": text.as_ref() })),
        Prompt::Ids(_) | Prompt::Texts(_) => {}
    }
    messages
}

fn prompt(prompt: &Prompt, history: &[Value]) -> Value {
    match prompt {
        Prompt::Ids(ids) => json!(ids.as_ref()),
        Prompt::Text(text) => {
            let said = history.iter().filter_map(|message| message["content"].as_str());
            said.chain([text.as_ref()]).collect::<String>().into()
        }
        Prompt::Messages(_) | Prompt::Texts(_) => Value::Null,
    }
}
