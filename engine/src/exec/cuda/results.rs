//! Where a step's results arrive in host memory: samples of the decoder, then vectors of texts.

use folio_kernels::cuda::{EventId, PinnedBuffer};

use crate::ops::{CudaDevice, Tensor, failure};
use crate::types::{Result, SeqResult};

/// How much a step can yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResultsLayout {
    /// Bytes of the decoder's samples.
    pub(super) sample_bytes: usize,
    /// Numbers of the encoders' vectors.
    pub(super) vector_floats: usize,
}

/// Pinned memory for the results of one step, and the event after which they are there.
#[derive(Debug)]
pub(super) struct Results {
    samples: PinnedBuffer,
    vectors: PinnedBuffer,
    arrived: EventId,
}

impl Results {
    /// Memory for results of any step.
    pub(super) fn new(device: &CudaDevice, layout: ResultsLayout) -> Result<Self> {
        let context = device.context();
        let make = || {
            Ok(Self {
                samples: context.allocate_pinned(layout.sample_bytes)?,
                vectors: context.allocate_pinned(layout.vector_floats * 4)?,
                arrived: context.create_event()?,
            })
        };
        make().map_err(|error| failure(&error))
    }

    /// Has vectors `[S, H]`, a dense tensor of single precision, copied to `first_float` on.
    pub(super) fn fetch_vectors(
        &mut self,
        device: &mut CudaDevice,
        vectors: Tensor,
        first_float: usize,
    ) {
        device.fetch(vectors, &mut self.vectors, first_float * 4);
    }

    /// Where the samples go.
    pub(super) fn samples_mut(&mut self) -> &mut PinnedBuffer {
        &mut self.samples
    }

    /// Everything has been asked for.
    pub(super) fn mark(&mut self, device: &mut CudaDevice) {
        let arrived = self.arrived;
        device.launch(|context| context.record(arrived));
    }

    /// Waits until everything is there.
    pub(super) fn wait(&self, device: &CudaDevice) -> Result<()> {
        // Also after a later submission failed: this step was launched whole, or is lost with the
        // device, which says so here.
        device.context().wait(self.arrived).map_err(|error| failure(&error))
    }

    /// The samples, once they are there.
    pub(super) fn samples(&self) -> &[u8] {
        self.samples.as_slice()
    }

    /// A text's vector, once it is there.
    pub(super) fn vector(&self, offset: usize, num_floats: usize) -> SeqResult {
        let bytes = &self.vectors.as_slice()[offset * 4..][..num_floats * 4];
        let (numbers, _) = bytes.as_chunks::<4>();
        let vector: Vec<f32> = numbers.iter().map(|number| f32::from_ne_bytes(*number)).collect();
        if vector.iter().all(|number| number.is_finite()) {
            SeqResult::Embedding(vector)
        } else {
            SeqResult::Failed("the embedding is not finite".into())
        }
    }
}
