//! Steps piece by piece, for an executor that captures them and keeps tokens on the device.

use folio_kernels::cuda::{
    self, Context, DevicePtr, Element, GraphId, PinnedBuffer, StepArrays, View,
};

use super::upload::{StepSizes, StepUpload};
use super::{CudaDevice, Determinism, Pages, failure};
use crate::ops::{Device, Dtype, Tensor};
use crate::types::{Result, TokenId};

impl CudaDevice {
    /// Starts a step with what `pack` uploads.
    pub(crate) fn begin_step(&mut self, pages: Pages, pack: impl FnOnce(&mut StepUpload<'_>)) {
        self.stage(pack);
        self.start_step(pages);
    }

    /// Uploads what `pack` writes: the first half of a step's start, never captured.
    pub(crate) fn stage(&mut self, pack: impl FnOnce(&mut StepUpload<'_>)) {
        let Some(memory) = &mut self.memory else {
            panic!("a step on a device without memory for steps");
        };
        self.step = StepSizes::default();
        if self.failure.is_none() {
            let staged = memory.stage(&self.context, pack);
            self.step = self.note(staged).unwrap_or_default();
        }
    }

    /// Makes the arrays of the step that was staged: the second half, which a graph may hold.
    pub(crate) fn start_step(&mut self, pages: Pages) {
        self.arena.reset();
        self.plans.forget_step();
        let num_rows = self.step.num_rows;
        if self.failure.is_none() && num_rows > 0 {
            let prepared = self.memory().launch_prepare(&self.context, pages, num_rows);
            self.note(prepared);
        }
    }

    /// Notes what `run` launches instead of running it.
    pub(crate) fn capture(&mut self, run: impl FnOnce(&mut Self)) -> Result<GraphId> {
        let stream = self.context.stream();
        let begun = self.context.driver().begin_capture(stream);
        self.note(begun);
        run(self);
        let graph = self.context.driver().end_capture(stream).map_err(|error| failure(&error));
        self.check().and(graph)
    }

    /// Launches what was captured.
    pub(crate) fn replay(&mut self, graph: GraphId) {
        self.launch(|context| context.replay(graph));
    }

    /// Waits for all that was launched.
    pub(crate) fn synchronize(&mut self) -> Result<()> {
        self.launch(Context::synchronize);
        self.check()
    }

    /// The device's memory and stream.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Computes in another mode from here on; returns the one before.
    pub(crate) fn set_determinism(&mut self, determinism: Determinism) -> Determinism {
        std::mem::replace(&mut self.options.determinism, determinism)
    }

    /// Format of activations.
    pub(crate) fn element(&self) -> Element {
        self.options.element
    }

    /// The arrays of the step.
    pub(crate) fn step_arrays(&self) -> StepArrays {
        self.memory().arrays()
    }

    /// Row of the step that each output belongs to, `i32`, `[E]`.
    pub(crate) fn emitting_rows(&self) -> DevicePtr {
        self.memory().emitting_rows()
    }

    /// What was sampled last in each slot, `i32`, `[slots]`.
    pub(crate) fn last_tokens(&self) -> DevicePtr {
        self.memory().kv.as_ref().map_or(DevicePtr::NULL, super::memory::KvCache::last_tokens)
    }

    /// Says which token a slot goes on with, after it was sampled on the host.
    pub(crate) fn set_last_token(&mut self, slot: u32, token: TokenId) {
        if self.failure.is_some() {
            return;
        }
        let Some(kv) = &self.memory().kv else {
            panic!("a token for a slot without a KV cache");
        };
        let result = kv.set_last_token(&self.context, slot, token);
        self.note(result);
    }

    /// A tensor of single precision, of undefined content.
    pub(crate) fn alloc_floats(&mut self, rows: usize, cols: usize) -> Tensor {
        self.arena.alloc_as(Dtype::F32, rows, cols)
    }

    /// Has a dense tensor copied to `offset` bytes into `to`; it must not be read before an event
    /// after this.
    pub(crate) fn fetch(&mut self, tensor: Tensor, to: &mut PinnedBuffer, offset: usize) {
        let start = tensor.offset();
        let num_bytes = tensor.rows() * tensor.cols() * tensor.dtype().num_bytes();
        assert!(tensor.is_dense(), "{tensor:?} has gaps");
        if self.failure.is_none() {
            let arena = &self.memory().arena;
            let result = self.context.copy_out(arena, start..start + num_bytes, (to, offset));
            self.note(result);
        }
    }

    /// Where a tensor lies in device memory.
    pub(crate) fn view(&self, tensor: Tensor) -> View {
        View {
            ptr: self.memory().arena.ptr().offset(tensor.offset()),
            rows: tensor.rows(),
            cols: tensor.cols(),
            stride: tensor.stride(),
        }
    }

    /// Launches unless something failed before.
    pub(crate) fn launch(&mut self, launch: impl FnOnce(&Context) -> cuda::Result<()>) {
        if self.failure.is_none() {
            let result = launch(&self.context);
            self.note(result);
        }
    }
}
