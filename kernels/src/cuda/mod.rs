//! CUDA kernels and the seam through which they run: the driver of an NVIDIA GPU, or an emulator.
//!
//! [`Driver`] is the seam. Everything above it (buffers, parameter packing, grids, graphs) is the
//! same for both, so that all of it is tested on machines without a GPU. Each kernel family has one
//! file here, which checks sizes, packs the parameter struct and launches.

mod activation;
mod attention;
mod attention_plan;
mod context;
mod driver;
mod embed;
mod fill;
mod gemm;
mod gemm_plan;
mod gemm_products;
mod heads;
mod kv_cache;
mod norm;
pub mod nvidia;
#[rustfmt::skip]
pub mod params;
mod pool;
mod sample;
mod sample_state;
mod shapes;
mod step;
mod transfer;

pub use activation::{Activate, activate};
pub use attention::{EncoderAttention, PagedAttention, encoder_attention, paged_attention};
pub use attention_plan::{
    AttentionHeads, AttentionLimits, AttentionPlan, AttentionStep, PrepareAttention, RowKinds,
    Splits,
};
pub use context::{
    Context, DeviceBuffer, Element, Epilogue, Launch, OutputElement, Params, PinnedBuffer, View,
};
pub use driver::{
    Command, Device, DevicePtr, Driver, DriverError, EventId, GraphId, KernelId, MatmulId,
    MatmulShape, Memory, Result, StreamId,
};
pub use embed::{Embed, TableLookup, embed, gather_rows};
pub use fill::{FillRandom, fill_floats, fill_random};
pub use gemm::{Gemm, GemmWorkspace, gemm, gemm_by_plan};
pub use gemm_plan::{GemmMode, GemmPlan, GemmShape, GemmWork, gemm_plans, plan_gemm};
pub use gemm_products::{ProductChoice, Products};
pub use heads::{HeadNorms, KvSlots, RopeTables, StoreHeads, store_heads};
pub use kv_cache::{KvCacheShape, KvLayer};
pub use norm::{LayerNorm, NormInput, RmsNorm, layer_norm, rms_norm};
pub use nvidia::{NvidiaDriver, NvidiaOptions, OpenError};
pub use params::StepRow;
pub use pool::{PoolTexts, PooledLength, PooledTokens, pool_texts};
pub use sample::{
    RowLogprobs, Sample, SampleFailure, SampleKind, SampleMasks, SampleOutcome, read_result, sample,
};
pub use sample_state::{
    SamplerLimits, SamplerState, SlotDraw, SlotEdits, SlotParams, SlotUpdates, update_slots,
};
pub use step::{BlockTables, PrepareStep, StepArrays, prepare_step};
