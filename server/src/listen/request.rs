//! The body of a request that lingers: what nobody wants is still taken from the client for a
//! moment.
//!
//! An answer that comes before the body was read, a refusal, would else be followed at once by a
//! reset, and clients that see the reset before the answer never learn why.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Longest time that an unwanted body is taken for.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Most bytes of an unwanted body that are taken.
const MAX_LINGER_BYTES: usize = 256 << 10;

/// A body as it comes; `None` once it has ended.
#[derive(Debug)]
pub(super) struct Lingering(Option<Incoming>);

impl Lingering {
    /// Of a request that has just come.
    pub(super) fn new(incoming: Incoming) -> Self {
        Self(Some(incoming))
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let unread = self.0.take().filter(|incoming| !incoming.is_end_stream());
        if let (Some(incoming), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(LINGER_TIME, discard(incoming)));
        }
    }
}

/// Reads to the end, or to the most that is worth it.
async fn discard(mut incoming: Incoming) {
    let mut num_bytes = 0;
    while let Some(Ok(frame)) = incoming.frame().await {
        num_bytes += frame.data_ref().map_or(0, Bytes::len);
        if num_bytes > MAX_LINGER_BYTES {
            return;
        }
    }
}
