//! Executors: they carry out plans.

pub mod batch;
pub mod memory;
pub mod pooling;
pub mod random;
pub mod runner;
pub mod sampler;

pub use batch::{BatchRow, Emits};
pub use memory::{KvCacheSize, MemoryOptions, MemoryPlan};
pub use runner::{DeviceOptions, ModelRunner, Progress, RunnerOptions};

pub use crate::ops::ActivationLayout;
use crate::sched::Sequences;
use crate::types::{Result, StepOutput, StepPlan};

/// The device seam. `submit` starts a step, `collect` waits for the oldest one started.
pub trait Executor {
    /// Starts the step. Sequences are borrowed for the length of the call only; they are mutable
    /// because logits processors have state.
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()>;

    /// Waits for the oldest step that was submitted.
    fn collect(&mut self) -> Result<StepOutput>;
}
