//! Parameter structs of the kernels. Generated from `kernels/include/params.h`; do not edit.
#![allow(missing_docs, reason = "the header documents every field")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "all zeros is a value of every field")]

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct StepRow {
    pub slot: i32,
    pub first_token: i32,
    pub num_tokens: i32,
    pub start: i32,
    pub token_offset: i32,
    pub block_offset: i32,
    pub num_new_blocks: i32,
    pub first_new_block: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PrepareStepParams {
    pub rows: *const StepRow,
    pub upload: *const i32,
    pub last_tokens: *const i32,
    pub block_tables: *mut i32,
    pub token_ids: *mut i32,
    pub positions: *mut i32,
    pub slot_mapping: *mut i32,
    pub cu_seqlens: *mut i32,
    pub seq_lens: *mut i32,
    pub row_slots: *mut i32,
    pub max_blocks: i32,
    pub block_shift: i32,
}
impl Default for PrepareStepParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EmbedTable {
    pub entries: *const ::core::ffi::c_void,
    pub indices: *const i32,
    pub stride: i64,
    pub num_entries: i32,
    pub offset: i32,
}
impl Default for EmbedTable {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EmbedParams {
    pub tables: [EmbedTable; 2usize],
    pub out: *mut ::core::ffi::c_void,
    pub out_stride: i64,
    pub cols: i32,
    pub width: i32,
}
impl Default for EmbedParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GatherRowsParams {
    pub input: *const ::core::ffi::c_void,
    pub rows: *const i32,
    pub out: *mut ::core::ffi::c_void,
    pub input_stride: i64,
    pub out_stride: i64,
    pub cols: i32,
    pub width: i32,
}
impl Default for GatherRowsParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NormParams {
    pub input: *const ::core::ffi::c_void,
    pub delta: *const ::core::ffi::c_void,
    pub sum: *mut ::core::ffi::c_void,
    pub out: *mut ::core::ffi::c_void,
    pub rows: *const i32,
    pub weight: *const f32,
    pub bias: *const f32,
    pub input_stride: i64,
    pub delta_stride: i64,
    pub sum_stride: i64,
    pub out_stride: i64,
    pub num_rows: i32,
    pub cols: i32,
    pub epsilon: f32,
    pub inverse_cols: f32,
}
impl Default for NormParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct StoreHeadsParams {
    pub qkv: *mut ::core::ffi::c_void,
    pub query_norm: *const f32,
    pub key_norm: *const f32,
    pub cosines: *const f32,
    pub sines: *const f32,
    pub positions: *const i32,
    pub keys: *mut ::core::ffi::c_void,
    pub values: *mut ::core::ffi::c_void,
    pub slot_mapping: *const i32,
    pub qkv_stride: i64,
    pub block_stride: i64,
    pub num_positions: i32,
    pub num_query_heads: i32,
    pub num_kv_heads: i32,
    pub head_size: i32,
    pub first_head: i32,
    pub num_heads: i32,
    pub num_units: i32,
    pub lanes_shift: i32,
    pub block_shift: i32,
    pub epsilon: f32,
    pub inverse_head_size: f32,
    pub padding: i32,
}
impl Default for StoreHeadsParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ActivateParams {
    pub input: *const ::core::ffi::c_void,
    pub factor: *const ::core::ffi::c_void,
    pub out: *mut ::core::ffi::c_void,
    pub input_stride: i64,
    pub factor_stride: i64,
    pub out_stride: i64,
    pub cols: i32,
    pub width: i32,
    pub function: i32,
    pub padding: i32,
}
impl Default for ActivateParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionRow {
    pub token: i32,
    pub slot: i32,
    pub seq_len: i32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionShare {
    pub row: i32,
    pub head_tile: i32,
    pub tile: i32,
    pub num_tiles: i32,
    pub first_owner: i32,
    pub first_pieces: i32,
    pub last_pieces: i32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionTile {
    pub first_token: i32,
    pub num_tokens: i32,
    pub seq_len: i32,
    pub slot: i32,
    pub first_query_row: i32,
    pub cost: i32,
    pub reserved: [i32; 2usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttentionPlanParams {
    pub cu_seqlens: *const i32,
    pub seq_lens: *const i32,
    pub row_slots: *const i32,
    pub counts: *mut i32,
    pub rows: *mut AttentionRow,
    pub shares: *mut AttentionShare,
    pub tiles: *mut AttentionTile,
    pub windows: [i32; 4usize],
    pub num_windows: i32,
    pub num_rows: i32,
    pub num_shares: i32,
    pub num_head_tiles: i32,
    pub group: i32,
    pub query_rows: i32,
    pub decode_tokens: i32,
}
impl Default for AttentionPlanParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttentionDecodeParams {
    pub queries: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub keys: *const ::core::ffi::c_void,
    pub values: *const ::core::ffi::c_void,
    pub block_tables: *const i32,
    pub sinks: *const f32,
    pub rows: *const AttentionRow,
    pub shares: *const AttentionShare,
    pub partials: *mut f32,
    pub partial_states: *mut f32,
    pub counters: *mut i32,
    pub query_stride: i64,
    pub output_stride: i64,
    pub block_stride: i64,
    pub max_blocks: i32,
    pub num_kv_heads: i32,
    pub group: i32,
    pub block_shift: i32,
    pub window: i32,
    pub exponent_scale: f32,
    pub product_cap: f32,
}
impl Default for AttentionDecodeParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttentionPrefillParams {
    pub queries: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub keys: *const ::core::ffi::c_void,
    pub values: *const ::core::ffi::c_void,
    pub block_tables: *const i32,
    pub sinks: *const f32,
    pub counts: *const i32,
    pub tiles: *const AttentionTile,
    pub query_stride: i64,
    pub output_stride: i64,
    pub key_stride: i64,
    pub max_blocks: i32,
    pub num_kv_heads: i32,
    pub group: i32,
    pub block_shift: i32,
    pub window: i32,
    pub exponent_scale: f32,
    pub product_cap: f32,
}
impl Default for AttentionPrefillParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub const GEMM_NONE: i32 = 0;
pub const GEMM_BIAS: i32 = 1;
pub const GEMM_BIAS_GELU: i32 = 2;
pub const GEMM_BIAS_GELU_TANH: i32 = 3;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GemmOperands {
    pub input: *const ::core::ffi::c_void,
    pub weight: *const ::core::ffi::c_void,
    pub bias: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub input_stride: i64,
    pub weight_stride: i64,
    pub output_stride: i64,
    pub num_rows: i32,
    pub num_cols: i32,
    pub inner: i32,
    pub epilogue: i32,
    pub output_is_f32: i32,
}
impl Default for GemmOperands {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GemmParams {
    pub product: GemmOperands,
    pub num_row_tiles: i32,
    pub num_col_tiles: i32,
    pub outputs_are_aligned: i32,
}
impl Default for GemmParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GemmSmallParams {
    pub product: GemmOperands,
    pub partials: *mut f32,
    pub counters: *mut i32,
    pub units_per_block: i32,
    pub num_units: i32,
    pub units_per_tile: i32,
    pub outputs_are_paired: i32,
}
impl Default for GemmSmallParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub const SAMPLE_BLOCK_TOKENS: i32 = 256;
pub const SAMPLE_CHUNK_BLOCKS: i32 = 16;
pub const SAMPLE_MAX_TOP: i32 = 20;
pub const SAMPLE_WORKSPACE_BYTES: i32 = 12544;
pub const SAMPLE_BYTES_PER_BLOCK: i32 = 16;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SlotSampling {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub seed_low: u32,
    pub seed_high: u32,
    pub choice_index: u32,
    pub prompt_len: u32,
    pub min_tokens: u32,
    pub frequency: f32,
    pub presence: f32,
    pub repetition: f32,
    pub num_logprobs: i32,
    pub tracks_counts: u32,
    pub num_counts: u32,
    pub num_biases: u32,
    pub num_stops: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SampleCount {
    pub token: u32,
    pub count: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SampleLogit {
    pub token: u32,
    pub logit: f32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SampleRecord {
    pub status: i32,
    pub token: u32,
    pub raw_logit: f32,
    pub raw_max: f32,
    pub raw_mass: u64,
    pub num_top: i32,
    pub reserved: i32,
}
pub const SAMPLED: i32 = 0;
pub const SAMPLE_NOT_A_NUMBER: i32 = 1;
pub const SAMPLE_INFINITE: i32 = 2;
pub const SAMPLE_ALL_BANNED: i32 = 3;
pub const SAMPLE_COUNTS_FULL: i32 = 4;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SampleState {
    pub slots: *mut SlotSampling,
    pub counts: *mut SampleCount,
    pub count_originals: *mut f32,
    pub biases: *mut SampleLogit,
    pub bias_originals: *mut f32,
    pub stops: *mut u32,
    pub maxima: *mut u32,
    pub masses: *mut u64,
    pub candidates: *mut SampleLogit,
    pub num_candidates: *mut u32,
    pub floors: *mut u32,
    pub bests: *mut u64,
    pub num_arrived: *mut u32,
    pub records: *mut SampleRecord,
    pub tops: *mut SampleLogit,
    pub max_counts: i32,
    pub max_listed: i32,
    pub max_candidates: i32,
    pub vocab_size: i32,
    pub num_blocks: i32,
}
impl Default for SampleState {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SampleParams {
    pub state: SampleState,
    pub logits: *mut f32,
    pub stride: i64,
    pub rows: *const i32,
    pub row_slots: *const i32,
    pub seq_lens: *const i32,
    pub masks: *const u32,
    pub row_masks: *const i32,
    pub last_tokens: *mut i32,
    pub mask_stride: i32,
    pub width: i32,
}
impl Default for SampleParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct UpdateSlotsParams {
    pub state: SampleState,
    pub updates: *const u32,
}
impl Default for UpdateSlotsParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PoolParams {
    pub hidden: *const ::core::ffi::c_void,
    pub cu_seqlens: *const i32,
    pub out: *mut f32,
    pub hidden_stride: i64,
    pub out_stride: i64,
    pub cols: i32,
    pub width: i32,
    pub pooling: i32,
    pub normalizes: i32,
}
impl Default for PoolParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FillRandomParams {
    pub out: *mut ::core::ffi::c_void,
    pub num_elements: i64,
    pub seed: u64,
    pub scale: f32,
    pub padding: i32,
}
impl Default for FillRandomParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FillFloatsParams {
    pub out: *mut f32,
    pub num_elements: i64,
    pub value: f32,
    pub padding: i32,
}
impl Default for FillFloatsParams {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for PrepareStepParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for EmbedParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for GatherRowsParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for NormParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for StoreHeadsParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for ActivateParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for AttentionPlanParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for AttentionDecodeParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for AttentionPrefillParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for GemmParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for GemmSmallParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for SampleParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for UpdateSlotsParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for PoolParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for FillRandomParams {}

// SAFETY: `repr(C)`, generated from the header.
unsafe impl super::Params for FillFloatsParams {}
