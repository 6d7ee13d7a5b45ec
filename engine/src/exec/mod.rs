//! Executors: they carry out plans.

pub mod batch;
mod cuda;
#[cfg(test)]
mod cuda_tests;
pub mod memory;
pub mod pooling;
pub mod random;
pub mod runner;
pub mod sampler;
pub mod scoring;

pub use batch::{BatchRow, Emits};
pub use cuda::{CudaRunner, SwapChoice, SwapRates, TokenSize};
pub use folio_kernels::cuda::{Driver, Element, NvidiaDriver, OpenError};
pub use memory::{KvCacheSize, MemoryOptions, MemoryPlan};
pub use runner::{DeviceOptions, ModelRunner, Progress, RunnerOptions};

use crate::model::{ModelConfig, ModelFiles};
pub use crate::ops::{ActivationLayout, CudaOptions, Determinism, Graphs};
use crate::sched::Sequences;
use crate::types::{Result, StepOutput, StepPlan};

/// Loads `models`, indexed by `ModelId` in their order, onto a device, and allocates what is
/// planned: the executor that serves.
pub fn load(
    models: Vec<(ModelFiles, ModelConfig)>,
    options: &RunnerOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Box<dyn Executor>> {
    Ok(match &options.device {
        DeviceOptions::Cpu { .. } => Box::new(ModelRunner::load(models, options, progress)?),
        DeviceOptions::Cuda { driver, options: cuda } => {
            let device = (std::sync::Arc::clone(driver), *cuda);
            Box::new(CudaRunner::load(models, device, &options.plan, progress)?)
        }
    })
}

/// The device seam. `submit` starts a step, `collect` waits for the oldest one started.
///
/// With steps in flight a plan is made before their tokens are known: its rows marked
/// [`Placeholder`](crate::types::TokenSource::Placeholder) take the token that the executor sampled
/// last for the sequence. Steps must take effect in the order of their submission. A sequence may
/// end while a step that computes it is in flight; its row is computed all the same and its result
/// is dropped, and its blocks stay its own until that step is collected.
///
/// A step moves blocks before it computes: it saves `swap_out`, then brings `swap_in` back, then
/// makes `copies`. An executor that keeps no blocks in host memory is used with
/// [`num_host_blocks`](crate::types::EngineConfig::num_host_blocks) 0 and never sees the first two.
pub trait Executor {
    /// Steps that may be in flight, at least 1: with 1, each is collected before the next is
    /// planned and no row is a placeholder.
    fn max_in_flight(&self) -> usize {
        1
    }

    /// What an operator should know of how it was set up.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// Starts the step. Sequences are borrowed for the length of the call only, so whatever the
    /// step needs of them is read here; they are mutable because logits processors have state.
    ///
    /// All rows of a plan are live now. The state of a sequence counts what the steps in flight
    /// have computed as not computed and not known yet: how many tokens it will have generated
    /// before the one that a row samples follows from the row's positions alone
    /// (`positions.end - prompt_len`). An error means that the step was not started: there is
    /// nothing to collect for it, and the steps before it go on. They are the last: after an
    /// error, as after a panic, the executor is dropped and another is built in its place.
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()>;

    /// Waits for the oldest step that was submitted. An error means that it is lost, and with it
    /// all that were submitted after it: the executor is dropped.
    fn collect(&mut self) -> Result<StepOutput>;
}
