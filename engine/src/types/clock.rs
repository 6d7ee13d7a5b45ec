//! Time. The engine reads it only through [`Clock`], so that a simulation can own it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds: an instant counted from the clock's own origin, or a length of time.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// A length of time in seconds; zero when it is negative or no number.
    #[must_use]
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * 1e9).max(0.0) as u64)
    }

    /// The same length of time in seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-9
    }
}

impl std::ops::Add for Nanos {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Enough to tell the mean of a length of time between any two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySum {
    /// How many were measured.
    pub num: u64,
    /// All of them together.
    pub total: Nanos,
}

impl LatencySum {
    /// Adds one that took `latency`.
    pub fn add(&mut self, latency: Nanos) {
        self.num += 1;
        self.total = self.total + latency;
    }
}

/// Where the engine gets the time from.
pub trait Clock: Send + Sync {
    /// Time since the clock's origin; never goes back.
    fn now(&self) -> Nanos;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Nanos {
        (**self).now()
    }
}

/// Monotonic wall time, counted from its creation.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock that reads zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        self.origin.elapsed().into()
    }
}

/// A clock that moves only when told: for simulation and tests. Clones share the time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Arc<AtomicU64>,
}

impl ManualClock {
    /// Moves the time forward by `step`.
    pub fn advance(&self, step: Nanos) {
        self.now.fetch_add(step.0, Ordering::Relaxed);
    }

    /// Moves the time forward to `instant`; stays where it is later already.
    pub fn advance_to(&self, instant: Nanos) {
        self.now.fetch_max(instant.0, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.now.load(Ordering::Relaxed))
    }
}
