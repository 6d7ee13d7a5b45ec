//! Watches one connection: whether its client sends what it began, asks for something now and
//! then, and reads what it asked for.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::ConnectionLimits;
use super::answer::Unread;

/// How often a connection is looked at, in parts of its shortest limit.
const TICKS_PER_LIMIT: u32 = 4;
const MIN_TICK: Duration = Duration::from_millis(5);
const MAX_TICK: Duration = Duration::from_secs(2);

/// What is known about one connection.
#[derive(Debug)]
pub(super) struct Watch {
    state: Mutex<State>,
    head_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
}

#[derive(Debug)]
struct State {
    /// Answers that are being made or sent.
    unread: Vec<Arc<Unread>>,
    /// When the last of them ended, or the connection began.
    quiet_since: Instant,
    /// When the first byte of a head came that has not ended; from the start, for the first one.
    head_since: Option<Instant>,
    version: Version,
}

/// Whether a connection may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Fine,
    /// A limit has passed.
    Over,
}

/// The place of one request on its connection; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    watch: Arc<Watch>,
    /// What of its answer waits to be read.
    pub(super) unread: Arc<Unread>,
}

impl Watch {
    /// A connection that begins now.
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                unread: Vec::new(),
                quiet_since: now,
                head_since: Some(now),
                version: Version::HTTP_11,
            }),
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            stall_timeout: limits.stall_timeout,
        }
    }

    /// How often [`verdict`](Self::verdict) should be asked for.
    pub(super) fn tick(&self) -> Duration {
        let shortest = self.head_timeout.min(self.idle_timeout).min(self.stall_timeout);
        (shortest / TICKS_PER_LIMIT).clamp(MIN_TICK, MAX_TICK)
    }

    /// A head has come whole: its request begins.
    pub(super) fn enter(self: &Arc<Self>, version: Version) -> InFlight {
        let unread = Arc::new(Unread::default());
        self.with_state(|state| {
            state.version = version;
            state.head_since = None;
            state.unread.push(Arc::clone(&unread));
        });
        InFlight { watch: Arc::clone(self), unread }
    }

    /// Takes back what clients have not read for too long, and says whether anything is left to
    /// keep the connection for.
    pub(super) fn verdict(&self) -> Verdict {
        let now = Instant::now();
        let mut taken = Vec::new();
        let is_over = self.with_state(|state| {
            if state.unread.is_empty() {
                return match state.head_since {
                    Some(since) => now - since > self.head_timeout,
                    None => now - state.quiet_since > self.idle_timeout,
                };
            }
            let mut num_cut = 0;
            for unread in &state.unread {
                let (is_cut, body) = unread.cut_after(self.stall_timeout, now);
                num_cut += usize::from(is_cut);
                taken.extend(body);
            }
            num_cut == state.unread.len()
        });
        // Dropping a body cancels its work: not under the lock.
        drop(taken);
        if is_over { Verdict::Over } else { Verdict::Fine }
    }

    fn note_read(&self) {
        self.with_state(|state| {
            // Over HTTP/2 bytes come between requests that belong to none.
            if state.unread.is_empty() && state.version != Version::HTTP_2 {
                state.head_since.get_or_insert_with(Instant::now);
            }
        });
    }

    fn note_written(&self) {
        self.with_state(|state| {
            // The rest of an answer may still go out long after its body was handed over.
            if state.unread.is_empty() {
                state.quiet_since = Instant::now();
            }
        });
    }

    fn leave(&self, unread: &Arc<Unread>) {
        self.with_state(|state| {
            state.unread.retain(|one| !Arc::ptr_eq(one, unread));
            state.head_since = None;
            state.quiet_since = Instant::now();
        });
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.watch.leave(&self.unread);
    }
}

/// Bytes of a connection; says when some come or go.
#[derive(Debug)]
pub(super) struct WatchedIo<S> {
    stream: S,
    watch: Arc<Watch>,
}

impl<S> WatchedIo<S> {
    /// Watches `stream`.
    pub(super) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }

    fn note_written(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.watch.note_written();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let num_before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() && buffer.filled().len() > num_before {
            self.watch.note_read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_written(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio::time::advance;

    use super::*;
    use crate::listen::answer::Answer;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        max_connections: 1,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        stall_timeout: Duration::from_secs(120),
        max_head_bytes: 8192,
        max_streams: 1,
    };

    async fn after(watch: &Watch, seconds: u64) -> Verdict {
        advance(Duration::from_secs(seconds)).await;
        watch.verdict()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_the_time_of_a_head() {
        let watch = Watch::new(&LIMITS);
        assert_eq!(after(&watch, 10).await, Verdict::Fine);
        assert_eq!(after(&watch, 1).await, Verdict::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_connection_may_idle_but_not_send_slowly() {
        let watch = Arc::new(Watch::new(&LIMITS));
        let request = watch.enter(Version::HTTP_11);
        assert_eq!(after(&watch, 1000).await, Verdict::Fine, "the answer takes its time");
        drop(request);
        assert_eq!(after(&watch, 74).await, Verdict::Fine);
        watch.note_read();
        assert_eq!(after(&watch, 9).await, Verdict::Fine);
        watch.note_read();
        assert_eq!(after(&watch, 2).await, Verdict::Over, "the head began 11 seconds ago");
        let watch = Arc::new(Watch::new(&LIMITS));
        drop(watch.enter(Version::HTTP_11));
        assert_eq!(after(&watch, 76).await, Verdict::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_has_frames_that_begin_no_request() {
        let watch = Arc::new(Watch::new(&LIMITS));
        drop(watch.enter(Version::HTTP_2));
        watch.note_read();
        assert_eq!(after(&watch, 70).await, Verdict::Fine);
        assert_eq!(after(&watch, 6).await, Verdict::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_on_its_way_keeps_the_connection() {
        let watch = Arc::new(Watch::new(&LIMITS));
        drop(watch.enter(Version::HTTP_11));
        for _ in 0..10 {
            watch.note_written();
            assert_eq!(after(&watch, 74).await, Verdict::Fine);
        }
        assert_eq!(after(&watch, 2).await, Verdict::Over);
    }

    /// Asks an answer for its next part.
    fn poll(answer: &mut Answer) -> Poll<Option<Result<(), ()>>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let polled = hyper::body::Body::poll_frame(Pin::new(answer), &mut context);
        polled.map(|part| part.map(|part| part.map(drop).map_err(drop)))
    }

    /// A body of endless parts; `held` goes with it.
    fn endless(held: Arc<()>) -> Body {
        let parts = futures_util::stream::repeat_with(move || {
            Ok::<_, std::convert::Infallible>(if Arc::strong_count(&held) > 0 { "x" } else { "" })
        });
        Body::from_stream(parts)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_taken_back_and_the_rest_stays() {
        let watch = Arc::new(Watch::new(&LIMITS));
        let [unread, read] = [(), ()].map(|()| Arc::new(()));
        let mut first = Answer::new(endless(Arc::clone(&unread)), watch.enter(Version::HTTP_2));
        let mut second = Answer::new(endless(Arc::clone(&read)), watch.enter(Version::HTTP_2));
        assert!(matches!(poll(&mut first), Poll::Ready(Some(Ok(())))));
        for _ in 0..3 {
            assert!(matches!(poll(&mut second), Poll::Ready(Some(Ok(())))));
            assert_eq!(after(&watch, 50).await, Verdict::Fine);
        }
        assert_eq!((Arc::strong_count(&unread), Arc::strong_count(&read)), (1, 2));
        assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(())))));
        assert_eq!(after(&watch, 121).await, Verdict::Over, "nobody reads anything");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_waited_for_is_not_stalled() {
        let watch = Arc::new(Watch::new(&LIMITS));
        let pending = futures_util::stream::pending::<Result<&str, std::convert::Infallible>>();
        let mut answer = Answer::new(Body::from_stream(pending), watch.enter(Version::HTTP_11));
        assert!(poll(&mut answer).is_pending());
        assert_eq!(after(&watch, 10_000).await, Verdict::Fine);
    }
}
