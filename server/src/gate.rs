//! Bounds the work that is done before the engine sees a request: reading JSON, rendering the
//! chat template, tokenising. All of it runs on the blocking pool.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Lets so many requests prepare at the same time and so many more wait for it.
#[derive(Debug)]
pub struct Gate {
    places: Semaphore,
    max_places: usize,
    workers: Arc<Semaphore>,
}

impl Gate {
    /// `max_workers` prepare while others wait; beyond `max_places` a request is refused.
    pub fn new(max_workers: usize, max_places: usize) -> Self {
        Self {
            places: Semaphore::new(max_places.min(Semaphore::MAX_PERMITS)),
            max_places,
            workers: Arc::new(Semaphore::new(max_workers)),
        }
    }

    /// Runs `work` on the blocking pool when its turn comes. A caller that gives up while it
    /// waits costs nothing more.
    pub async fn run<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        let _place = self.places.try_acquire().map_err(|_| {
            let max = self.max_places;
            let message = "requests are being read or wait for it, which is the limit";
            ApiError::queue_full(format!("{max} {message}"), None)
        })?;
        let worker = Arc::clone(&self.workers)
            .acquire_owned()
            .await
            .map_err(|_| ApiError::shutting_down())?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(worker);
            result
        });
        done.await.map_err(|error| {
            ApiError::internal(format!("the request could not be read: {error}"))
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beyond_the_places_a_request_is_refused() {
        let gate = Arc::new(Gate::new(1, 2));
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move {
                gate.run(move || {
                    started.send(()).unwrap();
                    blocked.recv().unwrap();
                    Ok(1)
                })
                .await
            }
        });
        has_started.await.unwrap();
        let mut second = Box::pin(gate.run(|| Ok(2)));
        assert!(futures_util::poll!(&mut second).is_pending());
        let refused = gate.run(|| Ok(3)).await.unwrap_err();
        assert_eq!(refused.status(), 429);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
        assert_eq!(second.await.unwrap(), 2);
        assert_eq!(gate.run(|| Ok(4)).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_panic_is_one_requests_error() {
        let gate = Gate::new(1, 1);
        let error = gate.run::<(), _>(|| panic!("broken")).await.unwrap_err();
        assert_eq!(error.status(), 500);
        assert_eq!(gate.run(|| Ok(1)).await.unwrap(), 1);
    }
}
