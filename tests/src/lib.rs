//! What the whole-system tests share: an engine with real models, and an executor without any.

mod engine;
mod fingerprint;

pub use engine::{Setup, generation};
pub use fingerprint::FingerprintExecutor;
