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
use futures_util::stream;
use serde::Serialize;

use crate::error::ApiError;
use crate::generate::{Piece, Running};
use crate::lifecycle::{ActiveStream, ActiveWork};
use crate::openai::{Usage, UsageChunk};

/// How often an idle stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How an endpoint writes its chunks.
pub trait ChunkWriter: Send + 'static {
    /// Chunks that come before any text.
    fn begin(&mut self, chunks: &mut Chunks);
    /// Chunks for what is new in a choice.
    fn piece(&mut self, piece: Piece, chunks: &mut Chunks);
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

struct State<W> {
    writer: W,
    usage: UsageChunk,
    chunks: Chunks,
    /// `None` once the job has ended.
    job: Option<(Running, ActiveStream)>,
}

/// Answers with a stream of everything that `running` yields.
pub fn respond(
    mut writer: impl ChunkWriter,
    usage: UsageChunk,
    running: Running,
    work: ActiveWork,
) -> Response {
    let mut chunks = Chunks::default();
    writer.begin(&mut chunks);
    let state = State { writer, usage, chunks, job: Some((running, work.into_stream())) };
    let events = stream::unfold(state, |mut state| async {
        let chunk = state.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(chunk)), state))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect answers would turn a stream into one block.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<W: ChunkWriter> State<W> {
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
