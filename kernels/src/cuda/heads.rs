//! What happens to heads between the projection and attention, in one launch: norms of query and
//! key heads, rotary embedding, and the way of keys and values into the paged cache.

use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::kv_cache::KvLayer;
use super::params::StoreHeadsParams;
use super::shapes::{is_aligned, kernel};

/// Largest head, in dimensions.
const MAX_HEAD_SIZE: usize = 256;
/// Threads of a block.
const NUM_THREADS: usize = 128;

/// RMS norms of single heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms {
    /// Scale of a query head's dimensions, `f32`, `[D]`.
    pub query: DevicePtr,
    /// Scale of a key head's dimensions, `f32`, `[D]`.
    pub key: DevicePtr,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Rotary embedding: dimension i < D / 2 is paired with i + D / 2.
#[derive(Clone, Copy, Debug)]
pub struct RopeTables {
    /// Cosines, `f32`, `[num_positions, D / 2]`, dense.
    pub cosines: DevicePtr,
    /// Sines, likewise.
    pub sines: DevicePtr,
    /// Rows of the tables. A position beyond them gives NaN.
    pub num_positions: usize,
    /// Position of each token, `i32`, `[T]`.
    pub positions: DevicePtr,
}

/// Where keys and values go.
#[derive(Clone, Copy, Debug)]
pub struct KvSlots {
    /// The layer's part of the cache.
    pub layer: KvLayer,
    /// KV slot of each token, block * P + offset, `i32`, `[T]`. Below 0: it is not stored.
    pub slot_mapping: DevicePtr,
}

/// What [`store_heads`] works on.
#[derive(Clone, Copy, Debug)]
pub struct StoreHeads {
    /// Queries, keys and values of each token, `[T, (N + 2 K) * D]`.
    pub qkv: View,
    /// Query heads, N.
    pub num_query_heads: usize,
    /// Key/value heads, K.
    pub num_kv_heads: usize,
    /// Numbers in a head, D: a multiple of 8, at most 256.
    pub head_size: usize,
    /// Norms of query and key heads, if the model has them.
    pub norms: Option<HeadNorms>,
    /// Rotary embedding of queries and keys, if the model has it.
    pub rope: Option<RopeTables>,
    /// The cache; without one, keys stay in `qkv`.
    pub kv: Option<KvSlots>,
    /// Format of `qkv` and the cache.
    pub element: Element,
}

/// Normalises and rotates query and key heads, and stores keys and values.
///
/// Queries are written back to their place in `qkv`. Keys and values go to the cache and their
/// place in `qkv` is left as it was; without a cache, keys are written back and values left alone.
/// The norm's roundings are those of [`rms_norm`](super::rms_norm); the rotation is in single
/// precision and rounded once.
pub fn store_heads(context: &Context, args: StoreHeads) -> Result<()> {
    let StoreHeads { qkv, num_query_heads, num_kv_heads, head_size, .. } = args;
    check(&args);
    // Without norm and rotation queries stay as they are, without a cache values do.
    let is_changed = args.norms.is_some() || args.rope.is_some();
    let first_head = if is_changed { 0 } else { num_query_heads };
    let last_head = match (&args.kv, is_changed) {
        (Some(_), _) => num_query_heads + 2 * num_kv_heads,
        (None, true) => num_query_heads + num_kv_heads,
        (None, false) => return Ok(()),
    };
    let width = if head_size.is_multiple_of(16) { 8 } else { 4 };
    let num_lanes = (head_size / 2 / width).next_power_of_two();
    let num_units = qkv.rows * (last_head - first_head);
    assert!(
        i32::try_from(num_units * num_lanes).is_ok(),
        "store_heads: {num_units} heads of {num_lanes} lanes"
    );
    let params = StoreHeadsParams {
        first_head: first_head as i32,
        num_heads: (last_head - first_head) as i32,
        num_units: num_units as i32,
        lanes_shift: num_lanes.trailing_zeros() as i32,
        ..params_of(&args)
    };
    let name = if width == 8 { "store_heads_wide" } else { "store_heads_narrow" };
    let grid = [(num_units * num_lanes).div_ceil(NUM_THREADS), 1, 1];
    let launch = Launch { grid, num_threads: NUM_THREADS, shared_bytes: 0 };
    // SAFETY: views are of memory that exists; the kernel checks positions, the host made slots.
    unsafe { context.launch(kernel(context, name, args.element)?, launch, &params) }
}

/// All parameters that need no decision.
fn params_of(args: &StoreHeads) -> StoreHeadsParams {
    let mut params = StoreHeadsParams {
        qkv: args.qkv.ptr.as_mut_ptr(),
        qkv_stride: args.qkv.stride as i64,
        num_query_heads: args.num_query_heads as i32,
        num_kv_heads: args.num_kv_heads as i32,
        head_size: args.head_size as i32,
        inverse_head_size: 1.0 / args.head_size as f32,
        ..StoreHeadsParams::default()
    };
    if let Some(norms) = args.norms {
        params.query_norm = norms.query.as_ptr();
        params.key_norm = norms.key.as_ptr();
        params.epsilon = norms.epsilon;
    }
    if let Some(rope) = args.rope {
        params.cosines = rope.cosines.as_ptr();
        params.sines = rope.sines.as_ptr();
        params.num_positions = rope.num_positions as i32;
        params.positions = rope.positions.as_ptr();
    }
    if let Some(KvSlots { layer, slot_mapping }) = args.kv {
        params.keys = layer.keys.as_mut_ptr();
        params.values = layer.values.as_mut_ptr();
        params.slot_mapping = slot_mapping.as_ptr();
        params.block_stride = layer.block_stride;
        params.block_shift = layer.block_size.trailing_zeros() as i32;
    }
    params
}

fn check(args: &StoreHeads) {
    let StoreHeads { qkv, num_query_heads, num_kv_heads, head_size, .. } = *args;
    assert!(
        head_size.is_multiple_of(8) && (8..=MAX_HEAD_SIZE).contains(&head_size),
        "store_heads: head size {head_size} is not a multiple of 8 up to {MAX_HEAD_SIZE}"
    );
    let num_heads = num_query_heads + 2 * num_kv_heads;
    assert!(
        qkv.cols == num_heads * head_size
            && num_kv_heads > 0
            && qkv.stride >= qkv.cols
            && qkv.stride.is_multiple_of(8)
            && is_aligned(qkv.ptr),
        "store_heads: {qkv:?} for {num_query_heads} + 2 x {num_kv_heads} heads of {head_size}"
    );
    if let Some(rope) = args.rope {
        assert!(
            is_aligned(rope.cosines) && is_aligned(rope.sines),
            "store_heads: tables at {:?} and {:?}",
            rope.cosines,
            rope.sines
        );
    }
    if let Some(norms) = args.norms {
        assert!(
            is_aligned(norms.query) && is_aligned(norms.key),
            "store_heads: norms at {:?} and {:?}",
            norms.query,
            norms.key
        );
    }
    if let Some(KvSlots { layer, .. }) = args.kv {
        assert!(
            layer.num_kv_heads == num_kv_heads
                && layer.head_size == head_size
                && layer.block_size.is_power_of_two()
                && is_aligned(layer.keys)
                && is_aligned(layer.values),
            "store_heads: {layer:?} for {num_kv_heads} heads of {head_size}"
        );
    }
}
