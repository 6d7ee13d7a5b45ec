//! Server-sent events: the pieces of a running job as chunks, then `[DONE]`.
//!
//! Chunks are made only when the connection can take more, so a client that reads slowly keeps
//! its tokens in its own channels and slows nobody. A client that goes away drops the stream,
//! and with it the job.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Serialize;

use crate::error::ApiError;
use crate::generate::{ChatDelta, ChatStream, Piece, Running};
use crate::lifecycle::{ActiveStream, ActiveWork};
use crate::openai::{Usage, UsageChunk};

/// How often an idle stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a stream is read from.
pub trait Source: Send + 'static {
    /// What is new in a choice.
    type Piece: Send;
    /// The next piece of any choice; `None` when all have ended.
    fn next(&mut self) -> impl Future<Output = Option<Result<Self::Piece, ApiError>>> + Send;
    /// Tokens used so far.
    fn usage(&self) -> Usage;
}

impl Source for Running {
    type Piece = Piece;

    async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        self.next().await
    }

    fn usage(&self) -> Usage {
        self.usage()
    }
}

impl Source for ChatStream {
    type Piece = ChatDelta;

    async fn next(&mut self) -> Option<Result<ChatDelta, ApiError>> {
        self.next().await
    }

    fn usage(&self) -> Usage {
        self.usage()
    }
}

/// How an endpoint writes its chunks.
pub trait ChunkWriter: Send + 'static {
    /// What is new in a choice.
    type Piece;
    /// Chunks that come before any text.
    fn begin(&mut self, chunks: &mut Chunks);
    /// Chunks for what is new in a choice.
    fn piece(&mut self, piece: Self::Piece, chunks: &mut Chunks);
    /// The chunk that holds the usage.
    fn usage(&mut self, usage: Usage, chunks: &mut Chunks);
}

/// Chunks that wait to be sent.
#[derive(Debug, Default)]
pub struct Chunks(VecDeque<String>);

impl Chunks {
    /// Adds a chunk.
    pub fn push(&mut self, chunk: &impl Serialize) {
        let text = serde_json::to_string(chunk).unwrap_or_else(|error| {
            let error = ApiError::internal(format!("a chunk could not be written: {error}"));
            error.to_json().to_string()
        });
        self.0.push_back(text);
    }
}

struct State<S, W> {
    writer: W,
    usage: UsageChunk,
    chunks: Chunks,
    /// `None` once the job has ended.
    job: Option<(S, ActiveStream)>,
}

/// Answers with a stream of everything that `running` yields.
pub fn respond<S: Source>(
    mut writer: impl ChunkWriter<Piece = S::Piece>,
    usage: UsageChunk,
    running: S,
    work: ActiveWork,
) -> Response {
    let mut chunks = Chunks::default();
    writer.begin(&mut chunks);
    let state = State { writer, usage, chunks, job: Some((running, work.into_stream())) };
    let events = stream::unfold(state, |mut state| async {
        let chunk = state.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(chunk)), state))
    });
    answer(events)
}

/// An answer that is a stream of `events`.
pub fn answer<S>(events: S) -> Response
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect answers would turn a stream into one block.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<S: Source, W: ChunkWriter<Piece = S::Piece>> State<S, W> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(chunk) = self.chunks.0.pop_front() {
                if let Some((_, work)) = &self.job {
                    work.count_chunk();
                }
                return Some(chunk);
            }
            let (running, _) = self.job.as_mut()?;
            match running.next().await {
                Some(Ok(piece)) => self.writer.piece(piece, &mut self.chunks),
                Some(Err(error)) => {
                    self.chunks.push(&error.to_json());
                    self.end();
                }
                None => {
                    if self.usage == UsageChunk::Sent {
                        let usage = running.usage();
                        self.writer.usage(usage, &mut self.chunks);
                    }
                    self.end();
                }
            }
        }
    }

    fn end(&mut self) {
        self.job = None;
        self.chunks.0.push_back("[DONE]".to_owned());
    }
}
