//! Who does what in the attention of a step, decided on the device once a step for all its layers.
//!
//! The plan owns all memory that attention needs beside its operands, at fixed addresses, and every
//! launch depends on upper bounds only, so that a step can be captured in a graph. `attention.rs`
//! launches what was planned.

use std::ops::Range;

use super::context::{Context, DeviceBuffer, Launch};
use super::driver::{Command, DevicePtr, Result};
use super::params::{AttentionPlanParams, AttentionRow, AttentionShare, AttentionTile};

/// Query heads of a group that one tile of decode attention takes.
const HEADS_PER_TILE: usize = 16;
/// Tokens whose keys decode attention sends for at a time.
const TOKENS_PER_TILE: usize = 64;
/// Windows that one plan has room for.
const MAX_WINDOWS: usize = 4;
/// Threads of the planning kernel, and its counters beside those for rows and blocks.
const PLAN_THREADS: usize = 512;
const NUM_PLAN_COUNTERS: usize = 16 + 256 + 8;

/// Heads of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionHeads {
    /// Query heads N, a multiple of K.
    pub num_heads: usize,
    /// Key/value heads K.
    pub num_kv_heads: usize,
    /// Numbers in a head D: 32, 64, 80, 96, 128 or 256.
    pub head_size: usize,
}

impl AttentionHeads {
    /// Query heads that share a key/value head, N / K.
    #[must_use]
    pub fn group(self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    fn tiles_per_row(self) -> usize {
        self.num_kv_heads * self.group().div_ceil(HEADS_PER_TILE)
    }

    /// Half tiles of 16 tokens in the ring of a warp: as `RING_LENGTH` of `attention_decode.cu`.
    fn ring_length(self) -> usize {
        match self.head_size {
            ..=96 => 8,
            97..=128 => 6,
            _ => 3,
        }
    }

    pub(super) fn decode_shared_bytes(self) -> usize {
        640 + self.ring_length() * TOKENS_PER_TILE * self.head_size * 2
    }

    /// Two stages of keys and values, of heads of 256 half as many; and the queries, where
    /// registers do not hold them.
    pub(super) fn prefill_shared_bytes(self, tiles: QueryTiles) -> usize {
        let num_stage_rows = if self.head_size > 128 { 4 * 32 } else { 4 * 64 };
        let holds_queries = self.head_size <= 128 && tiles == QueryTiles::Narrow;
        let num_query_rows = if holds_queries { 0 } else { tiles.num_rows() };
        (num_stage_rows + num_query_rows) * self.head_size * 2
    }
}

/// Where prefill attention finds its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// In the paged cache.
    Paged,
    /// Beside the queries.
    OfTexts,
}

impl Keys {
    /// Head sizes that have wide tiles too: others lack the registers, or are not held up by shared
    /// memory.
    fn wide_head_sizes(self) -> &'static [usize] {
        match self {
            Self::Paged => &[64, 128],
            Self::OfTexts => &[64],
        }
    }
}

/// Tiles of query rows, heads times tokens, of prefill attention. Results are the same bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryTiles {
    /// Of 64.
    Narrow,
    /// Of 128: faster where there are enough of them.
    Wide,
}

impl QueryTiles {
    fn num_rows(self) -> usize {
        match self {
            Self::Narrow => 64,
            Self::Wide => 128,
        }
    }

    /// Most tiles in steps of so many rows and tokens: all full but one for each row.
    fn max_tiles(self, limits: &AttentionLimits, num_rows: usize, num_tokens: usize) -> usize {
        num_tokens * limits.heads.group() / self.num_rows() + num_rows.min(num_tokens)
    }
}

/// What an [`AttentionPlan`] has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionLimits {
    /// Heads of every layer.
    pub heads: AttentionHeads,
    /// The layers' windows, each once: keys that a query sees, its own included; `None`: all.
    pub windows: Vec<Option<u32>>,
    /// Most rows S of a step, padding included.
    pub max_rows: usize,
    /// Most tokens T of a step.
    pub max_tokens: usize,
}

/// Which rows a step has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKinds {
    /// Every row has one token.
    DecodeOnly,
    /// Every row has more than one.
    PrefillOnly,
    /// Not known, or both kinds.
    Mixed,
}

/// How the keys of one row are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// Such that all multiprocessors have equally much to do.
    Balanced,
    /// By the row's own sequence alone: a position's result is the same bit for bit in every batch,
    /// with every chunking, as a chunk's last token and as a row of one. Long rows take longer.
    Fixed,
}

/// What the host knows of a step: the launches depend on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionStep {
    /// Rows S, or an upper bound.
    pub num_rows: usize,
    /// Tokens T of all rows, or an upper bound.
    pub num_tokens: usize,
    /// Which rows there are.
    pub kinds: RowKinds,
    /// How their keys are shared out.
    pub splits: Splits,
}

impl AttentionStep {
    pub(super) fn has_decode(&self) -> bool {
        self.splits == Splits::Balanced && self.kinds != RowKinds::PrefillOnly
    }

    pub(super) fn has_prefill(&self) -> bool {
        self.splits == Splits::Fixed || self.kinds != RowKinds::DecodeOnly
    }
}

/// The operands of [`AttentionPlan::prepare`].
#[derive(Clone, Copy, Debug)]
pub struct PrepareAttention {
    /// Where each row's query tokens begin, `i32`, `[S + 1]`, from 0 to T.
    pub cu_seqlens: DevicePtr,
    /// Keys that each row's last token sees, `i32`, `[S]`, at least 1. `None` for texts that see
    /// themselves only.
    pub seq_lens: Option<DevicePtr>,
    /// Each row's place in the block tables, `i32`, `[S]`. `None` without block tables.
    pub row_slots: Option<DevicePtr>,
    /// The step. Its number of rows is exact.
    pub step: AttentionStep,
}

/// Memory of attention: work lists, and partial results of rows that several thread blocks share.
#[derive(Debug)]
pub struct AttentionPlan {
    limits: AttentionLimits,
    num_multiprocessors: usize,
    num_blocks: usize,
    memory: DeviceBuffer,
    parts: Parts,
}

/// Byte ranges in a plan's memory.
#[derive(Clone, Debug)]
struct Parts {
    counts: Range<usize>,
    counters: Range<usize>,
    rows: Range<usize>,
    shares: Range<usize>,
    tiles: Range<usize>,
    states: Range<usize>,
    partials: Range<usize>,
}

impl Parts {
    fn new(limits: &AttentionLimits, num_blocks: usize, max_tiles: usize) -> Self {
        let mut end = 0;
        let mut take = |num_bytes: usize| {
            let start = end;
            end += num_bytes.next_multiple_of(256);
            start..start + num_bytes
        };
        let num_partial_rows = 2 * num_blocks * HEADS_PER_TILE;
        Self {
            counts: take(2 * size_of::<i32>()),
            counters: take(num_blocks * size_of::<i32>()),
            rows: take(limits.max_rows * size_of::<AttentionRow>()),
            shares: take(limits.windows.len() * num_blocks * size_of::<AttentionShare>()),
            tiles: take(max_tiles * size_of::<AttentionTile>()),
            states: take(num_partial_rows * 2 * size_of::<f32>()),
            partials: take(num_partial_rows * limits.heads.head_size * size_of::<f32>()),
        }
    }
}

impl AttentionPlan {
    /// A plan with room for `limits`, on the device of `context`.
    ///
    /// Panics on heads that there are no kernels for, or more than four windows.
    pub fn new(context: &Context, limits: AttentionLimits) -> Result<Self> {
        check(&limits);
        let device = context.device();
        let shared_bytes = limits.heads.decode_shared_bytes();
        // A block takes 1 KiB beside what it asks for; of what is left, two blocks are enough.
        let blocks_per_multiprocessor =
            ((device.max_shared_bytes as usize + 1024) / (shared_bytes + 1024)).clamp(1, 2);
        let num_multiprocessors = device.num_multiprocessors as usize;
        let num_blocks = blocks_per_multiprocessor * num_multiprocessors;
        let max_tiles = QueryTiles::Narrow.max_tiles(&limits, limits.max_rows, limits.max_tokens);
        let parts = Parts::new(&limits, num_blocks, max_tiles);
        let memory = context.allocate(parts.partials.end)?;
        let to = memory.ptr().offset(parts.counters.start);
        let zero = Command::Zero { to, num_bytes: parts.counters.len() };
        // SAFETY: the range lies within the buffer, which outlives the wait below.
        unsafe { context.driver().enqueue(context.stream(), zero)? };
        context.synchronize()?;
        Ok(Self { limits, num_multiprocessors, num_blocks, memory, parts })
    }

    /// Plans a step, for all its layers. Graph-safe: lengths are read on the device.
    pub fn prepare(&self, context: &Context, args: &PrepareAttention) -> Result<()> {
        let AttentionLimits { heads, windows, .. } = &self.limits;
        self.check_step(&args.step);
        let keys = if args.seq_lens.is_some() { Keys::Paged } else { Keys::OfTexts };
        let mut window_sizes = [0; MAX_WINDOWS];
        for (size, window) in window_sizes.iter_mut().zip(windows) {
            *size = window.unwrap_or(0) as i32;
        }
        let params = AttentionPlanParams {
            cu_seqlens: args.cu_seqlens.as_ptr(),
            seq_lens: args.seq_lens.unwrap_or(DevicePtr::NULL).as_ptr(),
            row_slots: args.row_slots.unwrap_or(DevicePtr::NULL).as_ptr(),
            counts: self.address(&self.parts.counts).as_mut_ptr(),
            rows: self.address(&self.parts.rows).as_mut_ptr(),
            shares: self.address(&self.parts.shares).as_mut_ptr(),
            tiles: self.address(&self.parts.tiles).as_mut_ptr(),
            windows: window_sizes,
            num_windows: windows.len() as i32,
            num_rows: args.step.num_rows as i32,
            num_shares: self.num_blocks as i32,
            num_head_tiles: heads.tiles_per_row() as i32,
            group: heads.group() as i32,
            query_rows: self.query_tiles(&args.step, keys).num_rows() as i32,
            decode_tokens: i32::from(args.step.splits == Splits::Balanced),
        };
        let num_counters = NUM_PLAN_COUNTERS + 3 * (args.step.num_rows + 1) + self.num_blocks;
        let launch = Launch {
            grid: [windows.len() + 1, 1, 1],
            num_threads: PLAN_THREADS,
            shared_bytes: num_counters * size_of::<i32>(),
        };
        // SAFETY: the lists have room for the limits, within which the step was checked to be.
        unsafe { context.launch(context.kernel("attention_plan")?, launch, &params) }
    }

    /// What the plan has room for.
    #[must_use]
    pub fn limits(&self) -> &AttentionLimits {
        &self.limits
    }

    /// Bytes of device memory that it holds.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.memory.num_bytes()
    }

    /// Thread blocks of decode attention.
    pub(super) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Wide tiles if rows fill them and there are two for each multiprocessor.
    pub(super) fn query_tiles(&self, step: &AttentionStep, keys: Keys) -> QueryTiles {
        let heads = self.limits.heads;
        let num_query_rows = step.num_tokens * heads.group();
        let wide_rows = QueryTiles::Wide.num_rows();
        let fills = num_query_rows >= wide_rows * step.num_rows
            && num_query_rows * heads.num_kv_heads >= wide_rows * 2 * self.num_multiprocessors;
        if fills && keys.wide_head_sizes().contains(&heads.head_size) {
            QueryTiles::Wide
        } else {
            QueryTiles::Narrow
        }
    }

    /// Most tiles of query rows that a step can have.
    pub(super) fn max_tiles(&self, step: &AttentionStep, tiles: QueryTiles) -> usize {
        tiles.max_tiles(&self.limits, step.num_rows, step.num_tokens)
    }

    fn address(&self, part: &Range<usize>) -> DevicePtr {
        self.memory.ptr().offset(part.start)
    }

    pub(super) fn counts(&self) -> DevicePtr {
        self.address(&self.parts.counts)
    }

    pub(super) fn counters(&self) -> DevicePtr {
        self.address(&self.parts.counters)
    }

    pub(super) fn rows(&self) -> DevicePtr {
        self.address(&self.parts.rows)
    }

    pub(super) fn tiles(&self) -> DevicePtr {
        self.address(&self.parts.tiles)
    }

    pub(super) fn states(&self) -> DevicePtr {
        self.address(&self.parts.states)
    }

    pub(super) fn partials(&self) -> DevicePtr {
        self.address(&self.parts.partials)
    }

    /// The shares of decode attention in a layer with this window.
    pub(super) fn shares(&self, window: Option<u32>) -> DevicePtr {
        let windows = &self.limits.windows;
        let index = windows.iter().position(|&planned| planned == window);
        assert!(index.is_some(), "attention: window {window:?} is not among {windows:?}");
        let num_bytes = self.num_blocks * size_of::<AttentionShare>();
        self.address(&self.parts.shares).offset(index.unwrap_or(0) * num_bytes)
    }

    pub(super) fn check_step(&self, step: &AttentionStep) {
        let AttentionLimits { max_rows, max_tokens, .. } = self.limits;
        assert!(
            step.num_rows <= max_rows && step.num_tokens <= max_tokens,
            "attention: {step:?} in a plan for {max_rows} rows and {max_tokens} tokens"
        );
    }
}

fn check(limits: &AttentionLimits) {
    let AttentionHeads { num_heads, num_kv_heads, head_size } = limits.heads;
    assert!(
        num_kv_heads > 0 && num_heads > 0 && num_heads.is_multiple_of(num_kv_heads),
        "attention: {num_heads} query heads for {num_kv_heads} key/value heads"
    );
    assert!(
        [32, 64, 80, 96, 128, 256].contains(&head_size),
        "attention: no kernels for heads of {head_size}"
    );
    let windows = &limits.windows;
    assert!(
        (1..=MAX_WINDOWS).contains(&windows.len()) && !windows.contains(&Some(0)),
        "attention: windows {windows:?}, expected 1 to {MAX_WINDOWS} of at least one key"
    );
}
