//! Device memory of steps: the arena, the upload with what is made of it, and the KV cache.
//!
//! All of it is allocated once, at addresses that never change, so that steps can be captured.

use folio_kernels::cuda::{
    BlockTables, Context, DeviceBuffer, DevicePtr, EventId, KvCacheShape, KvLayer, PinnedBuffer,
    PrepareStep, Result, StepArrays, StepRow, View, prepare_step,
};

use super::upload::{StepSizes, StepUpload, UploadLayout};
use crate::ops::{KvShape, Reserve};

/// Uploads that may be under way at once.
const NUM_STAGED: usize = 2;

/// Memory of steps.
#[derive(Debug)]
pub(crate) struct StepMemory {
    /// Activations.
    pub(super) arena: DeviceBuffer,
    /// The KV cache, if there is a decoder.
    pub(super) kv: Option<KvCache>,
    /// Arrays that every step makes anew.
    arrays: DeviceBuffer,
    layout: UploadLayout,
    /// Most tokens in a step.
    max_tokens: usize,
    /// Where uploads arrive.
    upload: DeviceBuffer,
    staged: [Staged; NUM_STAGED],
    /// Which of them is next.
    turn: usize,
}

/// Keys and values, and which blocks of them belong to which slot.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(super) shape: KvCacheShape,
    pub(super) memory: DeviceBuffer,
    /// Where blocks of preempted sequences wait, if anywhere.
    pub(super) host: Option<PinnedBuffer>,
    /// `i32`, `[slots, max_blocks]`.
    tables: DeviceBuffer,
    max_blocks: usize,
    /// `i32`, `[slots]`: what was sampled last.
    last_tokens: DeviceBuffer,
}

/// Pinned memory of one upload, and the event after which it may be written again.
#[derive(Debug)]
struct Staged {
    memory: PinnedBuffer,
    copied: EventId,
    is_under_way: bool,
}

impl StepMemory {
    /// Allocates what `reserve` asks for.
    pub(super) fn allocate(context: &Context, reserve: Reserve) -> Result<Self> {
        let kv = reserve.kv.map(|shape| KvCache::allocate(context, shape, reserve)).transpose()?;
        let max_blocks = kv.as_ref().map_or(0, |kv| kv.max_blocks);
        let layout = UploadLayout {
            max_rows: reserve.max_num_seqs,
            max_outputs: reserve.max_num_seqs,
            max_ids: max_ids(reserve, max_blocks),
        };
        let num_bytes = layout.num_words() * 4;
        let stage = || {
            let memory = context.allocate_pinned(num_bytes)?;
            Ok(Staged { memory, copied: context.create_event()?, is_under_way: false })
        };
        let max_tokens = reserve.max_num_tokens;
        Ok(Self {
            arena: context.allocate(reserve.arena_bytes)?,
            kv,
            arrays: context.allocate(arrays_bytes(max_tokens, layout.max_rows))?,
            layout,
            max_tokens,
            upload: context.allocate(num_bytes)?,
            staged: [stage()?, stage()?],
            turn: 0,
        })
    }

    /// Bytes that [`allocate`](Self::allocate) takes beside arena and KV blocks.
    pub(crate) fn overhead_bytes(reserve: Reserve) -> usize {
        let max_blocks = reserve.kv.map_or(0, |kv| max_blocks(kv, reserve));
        let tables = (reserve.max_num_seqs + 1) * (max_blocks + 1) * 4;
        let ids = max_ids(reserve, max_blocks);
        let upload = (reserve.max_num_seqs * (StepRow::NUM_WORDS + 2) + ids) * 4;
        arrays_bytes(reserve.max_num_tokens, reserve.max_num_seqs) + tables + upload
    }

    /// Uploads what `pack` writes, from which the arrays of a step will be made.
    pub(crate) fn stage(
        &mut self,
        context: &Context,
        pack: impl FnOnce(&mut StepUpload<'_>),
    ) -> Result<StepSizes> {
        let staged = &mut self.staged[self.turn];
        self.turn = (self.turn + 1) % NUM_STAGED;
        if staged.is_under_way {
            context.wait(staged.copied)?;
        }
        let mut upload = StepUpload::new(self.layout, staged.memory.as_mut_slice());
        pack(&mut upload);
        let (sizes, num_bytes) = upload.finish();
        assert!(sizes.num_tokens <= self.max_tokens, "{sizes:?} of {} tokens", self.max_tokens);
        context.copy_in(&staged.memory, 0..num_bytes, &self.upload, 0)?;
        context.record(staged.copied)?;
        staged.is_under_way = true;
        Ok(sizes)
    }

    /// Makes the arrays of a step of `num_rows` from what was uploaded.
    pub(crate) fn launch_prepare(
        &self,
        context: &Context,
        pages: Pages,
        num_rows: usize,
    ) -> Result<()> {
        let kv = self.kv.as_ref().filter(|_| pages == Pages::Cached);
        let args = PrepareStep {
            rows: self.upload.ptr(),
            num_rows,
            upload: self.upload.ptr(),
            last_tokens: self.kv.as_ref().map_or(DevicePtr::NULL, KvCache::last_tokens),
            block_tables: kv
                .map(|kv| BlockTables { blocks: kv.tables(), block_size: kv.shape.block_size }),
            arrays: self.arrays(),
        };
        prepare_step(context, args)
    }

    /// The arrays of a step, at addresses that stay the same.
    pub(crate) fn arrays(&self) -> StepArrays {
        let (tokens, rows) = array_lens(self.max_tokens, self.layout.max_rows);
        let at = |words: usize| self.arrays.ptr().offset(words * 4);
        StepArrays {
            token_ids: at(0),
            positions: at(tokens),
            slot_mapping: at(2 * tokens),
            cu_seqlens: at(3 * tokens),
            seq_lens: at(3 * tokens + rows),
            row_slots: at(3 * tokens + 2 * rows),
        }
    }

    /// Most rows and most tokens of a step.
    pub(crate) fn max_sizes(&self) -> (usize, usize) {
        (self.layout.max_rows, self.max_tokens)
    }

    /// Tokens whose outputs are wanted in a step, `i32`, `[E]`.
    pub(crate) fn output_rows(&self, step: StepSizes) -> DevicePtr {
        let start = step.moved_outputs.unwrap_or(self.layout.outputs());
        self.upload.ptr().offset(start * 4)
    }

    /// Row of the step that each output belongs to, `i32`, `[E]`, below 0 where it is not sampled.
    pub(crate) fn emitting_rows(&self) -> DevicePtr {
        self.upload.ptr().offset(self.layout.emitting() * 4)
    }
}

/// Token ids, block ids and, where every token is an output, those.
fn max_ids(reserve: Reserve, max_blocks: usize) -> usize {
    2 * reserve.max_num_tokens + reserve.max_num_seqs * max_blocks
}

/// Whether a step reads and writes the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// It does: a decoder.
    Cached,
    /// It does not: an encoder.
    None,
}

/// Words of an array of tokens and of one of rows, each with a start that vectors may be read from.
fn array_lens(max_tokens: usize, max_rows: usize) -> (usize, usize) {
    (max_tokens.next_multiple_of(32), (max_rows + 1).next_multiple_of(32))
}

fn arrays_bytes(max_tokens: usize, max_rows: usize) -> usize {
    let (tokens, rows) = array_lens(max_tokens, max_rows);
    (3 * tokens + 3 * rows) * 4
}

/// Blocks that the longest sequence takes.
fn max_blocks(kv: KvShape, reserve: Reserve) -> usize {
    reserve.max_model_len.div_ceil(kv.block_size).max(1)
}

impl KvCache {
    /// A cache in which every slot's blocks are the scratch block.
    fn allocate(context: &Context, kv: KvShape, reserve: Reserve) -> Result<Self> {
        let shape = KvCacheShape {
            num_layers: kv.num_layers,
            num_kv_heads: kv.num_kv_heads,
            block_size: kv.block_size,
            head_size: kv.head_size,
        };
        // One slot more than rows, for rows that only fill up a captured step.
        let num_slots = reserve.max_num_seqs + 1;
        let max_blocks = max_blocks(kv, reserve);
        let cache = Self {
            shape,
            memory: context.allocate(shape.cache_bytes(kv.num_blocks))?,
            host: None,
            tables: context.allocate(num_slots * max_blocks * 4)?,
            max_blocks,
            last_tokens: context.allocate(num_slots * 4)?,
        };
        // What is masked is multiplied with zero, so nothing in the cache may be infinite.
        for buffer in [&cache.memory, &cache.tables, &cache.last_tokens] {
            context.zero(buffer)?;
        }
        Ok(cache)
    }

    /// One layer of the cache.
    pub(crate) fn layer(&self, layer: usize) -> KvLayer {
        self.shape.layer(self.memory.ptr(), layer)
    }

    /// Block tables of all slots, `i32`, `[slots, max_blocks]`.
    pub(crate) fn tables(&self) -> View {
        let num_slots = self.tables.num_bytes() / (self.max_blocks * 4);
        self.tables.view(0, [num_slots, self.max_blocks], 4)
    }

    /// Tokens in a block, P.
    pub(crate) fn block_size(&self) -> usize {
        self.shape.block_size
    }

    /// What was sampled last in each slot, `i32`, `[slots]`.
    pub(crate) fn last_tokens(&self) -> DevicePtr {
        self.last_tokens.ptr()
    }

    /// Says which token a slot goes on with; waits for the device.
    pub(crate) fn set_last_token(&self, context: &Context, slot: u32, token: u32) -> Result<()> {
        context.write(&token.to_ne_bytes(), &self.last_tokens, slot as usize * 4)
    }

    /// Copies all layers of a block.
    pub(super) fn copy_block(&self, context: &Context, source: u32, target: u32) -> Result<()> {
        let num_bytes = self.shape.block_bytes();
        let (source, target) = (source as usize * num_bytes, target as usize * num_bytes);
        context.copy_within(&self.memory, source..source + num_bytes, target)
    }
}
