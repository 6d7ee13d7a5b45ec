//! What the whole-system tests share: executors without weights.

mod fingerprint;

pub use fingerprint::FingerprintExecutor;
