//! The body of an answer that can be taken back while nobody reads it.
//!
//! A connection asks for the next part of a body only when it has room for it. So a body that
//! gave its last part long ago, and was not asked since, waits for its client. What such a body
//! holds (a running generation, its KV blocks) goes free when the body is taken back.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use super::watch::InFlight;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way to a client.
#[derive(Debug)]
pub(super) struct Answer {
    place: InFlight,
}

/// What of an answer has not been read.
#[derive(Debug, Default)]
pub(super) struct Unread(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// When the client's turn began; `None` while it is the server's.
    since: Option<Instant>,
}

#[derive(Debug, Default)]
enum Stage {
    /// It is being made.
    #[default]
    Awaited,
    /// It is being sent.
    Sent(Body),
    /// The client took too long.
    Cut,
}

impl Answer {
    /// Sends `body` in the place of its request.
    pub(super) fn new(body: Body, place: InFlight) -> Self {
        place.unread.with_state(|state| state.stage = Stage::Sent(body));
        Self { place }
    }
}

impl Unread {
    /// Cuts the answer if its client has read nothing for `timeout`. Also returns what was cut,
    /// to be dropped.
    pub(super) fn cut_after(&self, timeout: Duration, now: Instant) -> (bool, Option<Body>) {
        self.with_state(|state| {
            if state.since.is_some_and(|since| now - since > timeout) {
                state.since = None;
                if let Stage::Sent(body) = std::mem::replace(&mut state.stage, Stage::Cut) {
                    return (true, Some(body));
                }
            }
            (matches!(state.stage, Stage::Cut), None)
        })
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn body<T>(&self, otherwise: T, ask: impl FnOnce(&Body) -> T) -> T {
        self.with_state(|state| match &state.stage {
            Stage::Sent(body) => ask(body),
            Stage::Awaited | Stage::Cut => otherwise,
        })
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.place.unread.with_state(|state| {
            let Stage::Sent(body) = &mut state.stage else {
                return Poll::Ready(Some(Err("the client read nothing for too long".into())));
            };
            let polled = Pin::new(body).poll_frame(cx);
            let is_clients_turn = matches!(polled, Poll::Ready(Some(Ok(_))));
            state.since = is_clients_turn.then(Instant::now);
            polled.map_err(Into::into)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.place.unread.body(false, Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.place.unread.body(SizeHint::default(), Body::size_hint)
    }
}
