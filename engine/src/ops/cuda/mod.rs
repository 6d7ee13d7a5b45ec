//! CUDA as a device: operations on the kernels of `folio-kernels`, launched on one stream.
//!
//! Nothing waits for the device but loading and [`Device::read`](super::Device::read). Handles
//! become addresses; what lies there is the device's business. The first failure is kept and told
//! by `check` and `read`; kernels after it are not launched.

mod attention;
mod device;
mod memory;
mod operations;
mod steps;
mod swap;
mod upload;
mod weights;

use folio_kernels::cuda::{self, Context, Driver, DriverError, Element, GemmMode, Products};

use self::attention::AttentionPlans;
pub(crate) use self::memory::Pages;
use self::memory::StepMemory;
use self::upload::StepSizes;
pub(crate) use self::upload::{RowTokens, StepUpload, UploadRow};
use self::weights::Weights;
use super::{ActivationLayout, Arena, Dtype, Reserve, Stacking};
use crate::types::{Error, Result};

/// Room for the workspaces of products and attention: 9 MB and about 5 MB a model on an H100, and
/// what the driver's library takes.
const WORKSPACE_BYTES: u64 = 64 << 20;

/// Whether results may depend on what else is in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Determinism {
    /// The last bits of a number may depend on the sizes of a step.
    #[default]
    Fast,
    /// Every sequence's numbers are the same in any batch and with any chunking, bit for bit.
    Fixed,
}

/// Whether decode steps are captured in graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Graphs {
    /// At the start, and replayed from then on.
    #[default]
    Captured,
    /// Every kernel is launched in every step.
    Off,
}

/// How a CUDA device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// Format of activations, weights and the KV cache.
    pub element: Element,
    /// Whether results may depend on what else is in a step.
    pub determinism: Determinism,
    /// Whether decode steps are captured.
    pub graphs: Graphs,
}

impl CudaOptions {
    /// The format for weights of `dtype`: their own where kernels compute with it; float16 has more
    /// of the digits of single precision than bfloat16.
    #[must_use]
    pub fn element_for(dtype: Dtype) -> Element {
        match dtype {
            Dtype::Bf16 => Element::Bf16,
            Dtype::F16 | Dtype::F32 => Element::F16,
        }
    }

    /// How activations are laid out with these options.
    #[must_use]
    pub fn layout(self) -> ActivationLayout {
        let dtype = match self.element {
            Element::Bf16 => Dtype::Bf16,
            Element::F16 => Dtype::F16,
        };
        ActivationLayout { dtype, stacking: Stacking::SideBySide }
    }
}

/// Operations on an NVIDIA GPU, or on what stands in for one.
#[derive(Debug)]
pub struct CudaDevice {
    context: Context,
    options: CudaOptions,
    weights: Weights,
    products: Products,
    arena: Arena,
    memory: Option<StepMemory>,
    plans: AttentionPlans,
    /// Sizes of the step in progress.
    step: StepSizes,
    failure: Option<DriverError>,
    /// What was read last, in single precision.
    mirror: Vec<f32>,
}

impl CudaDevice {
    /// Numbers in a head, D, that there are kernels for.
    pub const HEAD_SIZES: [usize; 6] = [32, 64, 80, 96, 128, 256];

    /// Bytes that a device takes beside weights, arena and KV blocks: what steps are uploaded to
    /// and made of, and what products and attention work in.
    #[must_use]
    pub fn overhead_bytes(reserve: Reserve) -> u64 {
        StepMemory::overhead_bytes(reserve) as u64 + WORKSPACE_BYTES
    }

    /// A device without weights on `driver`.
    pub fn new(driver: std::sync::Arc<dyn Driver>, options: CudaOptions) -> Result<Self> {
        let context = Context::new(driver).map_err(|error| failure(&error))?;
        Ok(Self {
            products: Products::new(&context).map_err(|error| failure(&error))?,
            context,
            options,
            weights: Weights::new(options.element),
            arena: Arena::new(0, options.layout()),
            memory: None,
            plans: AttentionPlans::default(),
            step: StepSizes::default(),
            failure: None,
            mirror: Vec::new(),
        })
    }

    /// Keeps the first failure.
    fn note<T>(&mut self, result: cuda::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.failure.get_or_insert(error);
                None
            }
        }
    }

    fn memory(&self) -> &StepMemory {
        let Some(memory) = &self.memory else {
            panic!("a step on a device without memory for steps");
        };
        memory
    }

    fn gemm_mode(&self) -> GemmMode {
        match self.options.determinism {
            Determinism::Fast => GemmMode::Fast,
            Determinism::Fixed => GemmMode::Deterministic,
        }
    }
}

/// A driver's failure as the engine's error.
pub(crate) fn failure(error: &DriverError) -> Error {
    match error {
        DriverError::OutOfMemory { .. } => Error::OutOfMemory(error.to_string()),
        DriverError::Failed(message) => Error::Device(message.clone()),
    }
}
