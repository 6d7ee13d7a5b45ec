//! What the whole-system tests share: an engine with real models, and executors without any.

mod engine;
mod faulty;
mod fingerprint;
mod late;
mod random;
mod toy;

pub use engine::{Setup, generation};
pub use faulty::{FaultScript, FaultyExecutor, StepFault};
pub use fingerprint::FingerprintExecutor;
pub use late::{Faults, LateExecutor, StepLog};
pub use random::Random;
pub use toy::ToyGrammar;
