//! Folio's engine: from a [`Request`](types::Request) to its [`Event`](types::Event)s.

pub mod exec;
pub mod model;
pub mod ops;
pub mod sched;
pub mod types;
