//! The benchmark client: load on any OpenAI-compatible server, and what may be said of it after.
//!
//! A [`datasets`] module makes [`Request`]s, [`arrivals`] says when each is due, [`load`] sends
//! them through a [`Client`] and collects [`Sample`]s, [`metrics`] makes figures of these,
//! [`report`] the file and the block on the terminal that vLLM's users know. Times are seconds
//! from the start of a run on one monotonic clock, tokio's, so tests can run on a paused one.

pub mod arrivals;
pub mod client;
pub mod compare;
pub mod datasets;
pub mod error;
pub mod http;
pub mod intervals;
pub mod load;
pub mod metrics;
mod pacer;
pub mod plan;
pub mod report;
pub mod request;
pub mod sample;
pub mod saturation;
pub mod slo;
pub mod spawn;
pub mod stream;
pub mod timing;
pub mod verify;

pub use client::{Backend, Client};
pub use error::BenchError;
pub use load::{Load, run};
pub use pacer::Pacing;
pub use request::{Prompt, Request};
pub use sample::Sample;
