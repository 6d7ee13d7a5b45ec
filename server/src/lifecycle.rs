//! Whether the server takes new work, and how much it still has.

use tokio::sync::watch;

use crate::error::ApiError;

/// Counts work and knows whether more is taken.
#[derive(Debug)]
pub struct Lifecycle {
    is_draining: watch::Sender<bool>,
    num_active: watch::Sender<usize>,
}

/// One piece of work; it counts until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct ActiveWork(watch::Sender<usize>);

impl Lifecycle {
    /// Takes work.
    pub fn new() -> Self {
        Self { is_draining: watch::Sender::new(false), num_active: watch::Sender::new(0) }
    }

    /// Begins a piece of work, unless the server is draining.
    pub fn enter(&self) -> Result<ActiveWork, ApiError> {
        // Counted first: work is either seen by `drained` or sees the draining itself.
        self.num_active.send_modify(|num| *num += 1);
        let work = ActiveWork(self.num_active.clone());
        if self.is_draining() {
            return Err(ApiError::shutting_down());
        }
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
        *self.num_active.borrow()
    }

    /// Waits until no more work is taken and none is left.
    pub async fn drained(&self) {
        let mut draining = self.is_draining.subscribe();
        let mut active = self.num_active.subscribe();
        // The senders live as long as `self`: neither wait can fail.
        let _ = draining.wait_for(|draining| *draining).await;
        let _ = active.wait_for(|num| *num == 0).await;
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ActiveWork {
    fn drop(&mut self) {
        self.0.send_modify(|num| *num -= 1);
    }
}
