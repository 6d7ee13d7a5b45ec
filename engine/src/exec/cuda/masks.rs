//! The way of grammars' masks to the device: one upload a step, and none where no row has one.
//!
//! Masks are computed while the forward pass of their step runs, and uploaded behind it.

use folio_kernels::cuda::{
    Context, DeviceBuffer, EventId, PinnedBuffer, SampleMasks, SamplerLimits,
};

use crate::ops::{CudaDevice, failure};
use crate::types::Result;

/// Uploads that may be under way at once.
const NUM_STAGED: usize = 2;

/// Masks of the rows of a step, in pinned memory and on the device: first which mask each row has,
/// then the masks.
#[derive(Debug)]
pub(super) struct DeviceMasks {
    layout: Layout,
    memory: DeviceBuffer,
    staged: [Staged; NUM_STAGED],
    turn: usize,
    num_masks: usize,
}

/// Where the parts lie, in words of four bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    max_rows: usize,
    /// Words of a mask.
    num_words: usize,
}

/// Pinned memory of an upload, and the event after which it may be written again.
#[derive(Debug)]
struct Staged {
    memory: PinnedBuffer,
    copied: EventId,
    is_under_way: bool,
}

impl Layout {
    fn new(limits: SamplerLimits) -> Self {
        Self { max_rows: limits.max_rows, num_words: limits.vocab_size.div_ceil(32) }
    }

    /// Where the masks begin: aligned for loads of any width.
    fn masks(self) -> usize {
        self.max_rows.next_multiple_of(4)
    }

    fn num_bytes(self, num_masks: usize) -> usize {
        (self.masks() + num_masks * self.num_words) * 4
    }
}

impl DeviceMasks {
    /// Bytes on the device.
    pub(super) fn num_bytes(limits: SamplerLimits) -> usize {
        Layout::new(limits).num_bytes(limits.max_rows)
    }

    /// Room for a mask for each row.
    pub(super) fn new(context: &Context, limits: SamplerLimits) -> Result<Self> {
        let layout = Layout::new(limits);
        let num_bytes = Self::num_bytes(limits);
        let stage = || {
            let memory = context.allocate_pinned(num_bytes)?;
            Ok(Staged { memory, copied: context.create_event()?, is_under_way: false })
        };
        let make = || {
            let memory = context.allocate(num_bytes)?;
            Ok(Self { layout, memory, staged: [stage()?, stage()?], turn: 0, num_masks: 0 })
        };
        make().map_err(|error| failure(&error))
    }

    /// Gives `row` a mask; [`upload`](Self::upload) follows. False if it is shorter than V bits.
    pub(super) fn push(&mut self, device: &mut CudaDevice, row: usize, mask: &[u32]) -> bool {
        let Layout { max_rows, num_words } = self.layout;
        let Some(mask) = mask.get(..num_words) else { return false };
        if self.num_masks == 0 {
            self.begin(device);
        }
        assert!(row < max_rows && self.num_masks < max_rows, "row {row} of {max_rows}");
        let start = self.layout.masks() + self.num_masks * num_words;
        let (words, _) = self.staged[self.turn].memory.as_mut_slice().as_chunks_mut::<4>();
        words[row] = (self.num_masks as i32).to_ne_bytes();
        for (word, value) in words[start..start + num_words].iter_mut().zip(mask) {
            *word = value.to_ne_bytes();
        }
        self.num_masks += 1;
        true
    }

    /// Waits until the memory whose turn it is may be written; no row has a mask then.
    fn begin(&mut self, device: &mut CudaDevice) {
        let staged = &mut self.staged[self.turn];
        if staged.is_under_way {
            let copied = staged.copied;
            device.launch(|context| context.wait(copied));
            staged.is_under_way = false;
        }
        let (words, _) = staged.memory.as_mut_slice().as_chunks_mut::<4>();
        words[..self.layout.max_rows].fill((-1i32).to_ne_bytes());
    }

    /// Uploads what was pushed since the last time; `None` if nothing was.
    pub(super) fn upload(&mut self, device: &mut CudaDevice) -> Option<SampleMasks> {
        let num_masks = std::mem::take(&mut self.num_masks);
        if num_masks == 0 {
            return None;
        }
        let staged = &mut self.staged[self.turn];
        self.turn = (self.turn + 1) % NUM_STAGED;
        let num_bytes = self.layout.num_bytes(num_masks);
        let memory = &self.memory;
        device.launch(|context| {
            context.copy_in(&staged.memory, 0..num_bytes, memory, 0)?;
            context.record(staged.copied)
        });
        staged.is_under_way = true;
        let shape = [num_masks, self.layout.num_words];
        let masks = memory.view(self.layout.masks(), shape, 4);
        Some(SampleMasks { masks, row_masks: memory.ptr() })
    }
}
