//! Says when requests are due, to a fraction of a millisecond.
//!
//! tokio's timers have steps of a millisecond, which is as late as a load may be and still be
//! called open. A thread that sleeps is woken within some fifty microseconds.

use std::sync::mpsc as std_mpsc;
use std::sync::mpsc::RecvTimeoutError;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

/// What watches the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pacing {
    /// A thread of its own: precise.
    #[default]
    Thread,
    /// tokio's timer: follows a paused clock.
    Timer,
}

/// Yields the numbers of requests when they are due.
#[derive(Debug)]
pub(super) struct Pacer {
    due: mpsc::UnboundedReceiver<usize>,
    _source: Source,
}

#[derive(Debug)]
enum Source {
    /// The thread ends when this is dropped.
    Thread {
        _alive: std_mpsc::Sender<()>,
    },
    Timer(JoinHandle<()>),
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Timer(task) = self {
            task.abort();
        }
    }
}

impl Pacer {
    /// `times`: seconds from `origin`, ascending, and the number that is due then.
    pub(super) fn start(times: Vec<(f64, usize)>, origin: Instant, pacing: Pacing) -> Self {
        // Bounded by the load: each number once.
        let (sender, due) = mpsc::unbounded_channel();
        let at = move |seconds: f64| origin + Duration::from_secs_f64(seconds.max(0.0));
        let source = match pacing {
            Pacing::Timer => Source::Timer(tokio::spawn(async move {
                for (seconds, index) in times {
                    tokio::time::sleep_until(at(seconds)).await;
                    if sender.send(index).is_err() {
                        return;
                    }
                }
            })),
            Pacing::Thread => {
                let (alive, ended) = std_mpsc::channel::<()>();
                std::thread::spawn(move || {
                    for (seconds, index) in times {
                        let left = at(seconds).into_std();
                        let left = left.saturating_duration_since(std::time::Instant::now());
                        let is_over = match ended.recv_timeout(left) {
                            Err(RecvTimeoutError::Timeout) => false,
                            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
                        };
                        if is_over || sender.send(index).is_err() {
                            return;
                        }
                    }
                });
                Source::Thread { _alive: alive }
            }
        };
        Self { due, _source: source }
    }

    /// The next number that is due; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<usize> {
        self.due.recv().await
    }
}
