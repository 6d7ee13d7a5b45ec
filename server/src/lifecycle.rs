//! Whether the server takes new work, and how much it still has.
//!
//! Work begins when a request has arrived whole: a client that sends or reads nothing must not
//! keep a draining server from ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::ApiError;

/// How long a draining server waits for a client that reads nothing of a finished answer.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// Counts work and knows whether more is taken.
#[derive(Debug)]
pub struct Lifecycle {
    is_draining: watch::Sender<bool>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    active: watch::Sender<usize>,
    /// Those of them that are streams.
    streams: AtomicUsize,
    /// Chunks that all streams together have handed to their connections.
    chunks: AtomicU64,
}

/// One piece of work; it counts until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct ActiveWork(Arc<Counts>);

/// Work whose answer goes out while it is made; it counts until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct ActiveStream(ActiveWork);

impl Lifecycle {
    /// Takes work.
    pub fn new() -> Self {
        let counts = Counts {
            active: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
            chunks: AtomicU64::new(0),
        };
        Self { is_draining: watch::Sender::new(false), counts: Arc::new(counts) }
    }

    /// Refuses while the server is draining.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.is_draining() { Err(ApiError::shutting_down()) } else { Ok(()) }
    }

    /// Begins a piece of work, unless the server is draining.
    pub fn enter(&self) -> Result<ActiveWork, ApiError> {
        // Counted first: work is either seen by `drained` or sees the draining itself.
        self.counts.active.send_modify(|num| *num += 1);
        let work = ActiveWork(Arc::clone(&self.counts));
        self.check()?;
        Ok(work)
    }

    /// Takes no more work from now on.
    pub fn drain(&self) {
        self.is_draining.send_replace(true);
    }

    /// Whether no more work is taken.
    pub fn is_draining(&self) -> bool {
        *self.is_draining.borrow()
    }

    /// Pieces of work that have not ended.
    pub fn num_active(&self) -> usize {
        *self.counts.active.borrow()
    }

    /// Waits until no more work is taken and none is left but streams of an idle engine, of
    /// which nobody reads anything.
    pub async fn drained(&self, is_engine_idle: impl Fn() -> bool) {
        let mut draining = self.is_draining.subscribe();
        let mut active = self.counts.active.subscribe();
        // The senders live as long as `self`: neither wait can fail.
        let _ = draining.wait_for(|draining| *draining).await;
        loop {
            let num_chunks = self.counts.chunks.load(Ordering::Relaxed);
            let ended = active.wait_for(|num| *num == 0);
            if tokio::time::timeout(STALL_LIMIT, ended).await.is_ok() {
                return;
            }
            let num_streams = self.counts.streams.load(Ordering::Relaxed);
            let has_only_streams = self.num_active() == num_streams;
            let is_stalled = self.counts.chunks.load(Ordering::Relaxed) == num_chunks;
            if has_only_streams && is_stalled && is_engine_idle() {
                return;
            }
        }
    }
}

/// Ends all answers, whole or not, when there is no more time for them.
#[derive(Debug)]
pub struct Cut(watch::Sender<bool>);

/// Waits for the [`Cut`].
#[derive(Clone, Debug)]
pub struct CutReceiver(watch::Receiver<bool>);

impl Cut {
    /// Has not come.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Ends all answers from now on.
    pub fn cut(&self) {
        self.0.send_replace(true);
    }

    /// Something to wait with.
    pub fn receiver(&self) -> CutReceiver {
        CutReceiver(self.0.subscribe())
    }
}

impl Default for Cut {
    fn default() -> Self {
        Self::new()
    }
}

impl CutReceiver {
    /// Waits for the cut, for ever if it can no longer come.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|is_cut| *is_cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl ActiveWork {
    /// From now on the work is done as its answer is read.
    pub fn into_stream(self) -> ActiveStream {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        ActiveStream(self)
    }
}

impl ActiveStream {
    /// The connection took a chunk.
    pub fn count_chunk(&self) {
        self.0.0.chunks.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ActiveWork {
    fn drop(&mut self) {
        self.0.active.send_modify(|num| *num -= 1);
    }
}
