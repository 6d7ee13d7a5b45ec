//! Attention: over the paged cache for rows of one token and of more, and among tokens of texts.
//!
//! What each launch does is in the [`AttentionPlan`] of the step. Rows of one token have a kernel
//! that reads keys and values at the speed of memory; the other kernel has tiles of query rows, and
//! with [`Splits::Fixed`](super::Splits::Fixed) takes every row.

use super::attention_plan::{AttentionPlan, AttentionStep, Keys, QueryTiles};
use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::kv_cache::KvLayer;
use super::params::{AttentionDecodeParams, AttentionPrefillParams};
use super::step::BlockTables;

/// The operands of [`paged_attention`].
#[derive(Clone, Copy, Debug)]
pub struct PagedAttention {
    /// Queries `[T, N * D]`, rows at multiples of 8 elements.
    pub queries: View,
    /// Where results go, likewise.
    pub output: View,
    /// Format of both and of the cache.
    pub element: Element,
    /// Keys and values of the layer, those of this step already stored.
    pub kv: KvLayer,
    /// Blocks of all sequences. Only entries are read whose positions some query sees.
    pub block_tables: BlockTables,
    /// What the products of queries and keys are multiplied by, above 0.
    pub scale: f32,
    /// Keys that a query sees, its own included; one of the plan's windows.
    pub window: Option<u32>,
    /// The c of `c * tanh(score / c)`, above 0, where the model caps its scores.
    pub soft_cap: Option<f32>,
    /// A logit for each query head that takes part in every softmax, `f32`, `[N]`.
    pub sinks: Option<DevicePtr>,
    /// The step that the plan was prepared for.
    pub step: AttentionStep,
}

/// Causal attention over the paged cache: a query at position p sees the keys up to p, or the last
/// of them that fit the window. Of N query heads, N / K neighbours share a key/value head.
///
/// One launch for rows of one token and one for all others, as far as the step may have them.
/// Scores and sums are f32; weights are rounded to 16 bits before they meet the values. A row of
/// one token whose slot is a dummy costs as little as its length, and writes only its own output.
pub fn paged_attention(
    context: &Context,
    plan: &AttentionPlan,
    args: &PagedAttention,
) -> Result<()> {
    check(plan, args);
    if args.step.has_decode() {
        decode(context, plan, args)?;
    }
    if args.step.has_prefill() {
        prefill(context, plan, args)?;
    }
    Ok(())
}

fn decode(context: &Context, plan: &AttentionPlan, args: &PagedAttention) -> Result<()> {
    let heads = plan.limits().heads;
    let params = AttentionDecodeParams {
        queries: args.queries.ptr.as_ptr(),
        output: args.output.ptr.as_mut_ptr(),
        keys: args.kv.keys.as_ptr(),
        values: args.kv.values.as_ptr(),
        block_tables: args.block_tables.blocks.ptr.as_ptr(),
        sinks: args.sinks.unwrap_or(DevicePtr::NULL).as_ptr(),
        rows: plan.rows().as_ptr(),
        shares: plan.shares(args.window).as_ptr(),
        partials: plan.partials().as_mut_ptr(),
        partial_states: plan.states().as_mut_ptr(),
        counters: plan.counters().as_mut_ptr(),
        query_stride: args.queries.stride as i64,
        output_stride: args.output.stride as i64,
        block_stride: args.kv.block_stride,
        max_blocks: args.block_tables.blocks.cols as i32,
        num_kv_heads: heads.num_kv_heads as i32,
        group: heads.group() as i32,
        block_shift: args.kv.block_size.trailing_zeros() as i32,
        window: args.window.unwrap_or(0) as i32,
        exponent_scale: args.scale * std::f32::consts::LOG2_E,
        product_cap: args.soft_cap.map_or(0.0, |cap| cap / args.scale),
    };
    let kernel = kernel_name("attention_decode", args.element, heads.head_size);
    let launch = Launch {
        grid: [plan.num_blocks(), 1, 1],
        num_threads: 128,
        shared_bytes: heads.decode_shared_bytes(),
    };
    // SAFETY: operands were checked; rows, slots and blocks are what the host wrote.
    unsafe { context.launch(context.kernel(&kernel)?, launch, &params) }
}

fn prefill(context: &Context, plan: &AttentionPlan, args: &PagedAttention) -> Result<()> {
    let heads = plan.limits().heads;
    let params = AttentionPrefillParams {
        queries: args.queries.ptr.as_ptr(),
        output: args.output.ptr.as_mut_ptr(),
        keys: args.kv.keys.as_ptr(),
        values: args.kv.values.as_ptr(),
        block_tables: args.block_tables.blocks.ptr.as_ptr(),
        sinks: args.sinks.unwrap_or(DevicePtr::NULL).as_ptr(),
        counts: plan.counts().as_ptr(),
        tiles: plan.tiles().as_ptr(),
        query_stride: args.queries.stride as i64,
        output_stride: args.output.stride as i64,
        key_stride: args.kv.block_stride,
        max_blocks: args.block_tables.blocks.cols as i32,
        num_kv_heads: heads.num_kv_heads as i32,
        group: heads.group() as i32,
        block_shift: args.kv.block_size.trailing_zeros() as i32,
        window: args.window.unwrap_or(0) as i32,
        exponent_scale: args.scale * std::f32::consts::LOG2_E,
        product_cap: args.soft_cap.map_or(0.0, |cap| cap / args.scale),
    };
    launch_prefill(context, plan, (Keys::Paged, args.element, args.step), &params)
}

fn launch_prefill(
    context: &Context,
    plan: &AttentionPlan,
    (keys, element, step): (Keys, Element, AttentionStep),
    params: &AttentionPrefillParams,
) -> Result<()> {
    let heads = plan.limits().heads;
    let tiles = plan.query_tiles(&step, keys);
    let name = match (keys, tiles) {
        (Keys::Paged, QueryTiles::Narrow) => "attention_prefill",
        (Keys::Paged, QueryTiles::Wide) => "attention_prefill_wide",
        (Keys::OfTexts, QueryTiles::Narrow) => "attention_encoder",
        (Keys::OfTexts, QueryTiles::Wide) => "attention_encoder_wide",
    };
    let kernel = kernel_name(name, element, heads.head_size);
    let launch = Launch {
        grid: [plan.max_tiles(&step, tiles) * heads.num_kv_heads, 1, 1],
        num_threads: 128,
        shared_bytes: heads.prefill_shared_bytes(tiles),
    };
    // SAFETY: operands were checked; rows, slots and blocks are what the host wrote.
    unsafe { context.launch(context.kernel(&kernel)?, launch, params) }
}

/// The operands of [`encoder_attention`].
#[derive(Clone, Copy, Debug)]
pub struct EncoderAttention {
    /// Queries `[T, N * D]`, rows at multiples of 8 elements, as all of these.
    pub queries: View,
    /// Keys `[T, K * D]`.
    pub keys: View,
    /// Values `[T, K * D]`, with the stride of the keys.
    pub values: View,
    /// Where results go, `[T, N * D]`.
    pub output: View,
    /// Format of all four.
    pub element: Element,
    /// What the products of queries and keys are multiplied by, above 0.
    pub scale: f32,
    /// The step that the plan was prepared for, without `seq_lens`, with [`Splits::Fixed`].
    ///
    /// [`Splits::Fixed`]: super::Splits::Fixed
    pub step: AttentionStep,
}

/// Attention among the tokens of each text, in both directions: a query sees all keys of its row.
///
/// Bits of a token's result depend on its own text only.
pub fn encoder_attention(
    context: &Context,
    plan: &AttentionPlan,
    args: &EncoderAttention,
) -> Result<()> {
    const NAME: &str = "encoder_attention";
    let heads = plan.limits().heads;
    plan.check_step(&args.step);
    assert!(!args.step.has_decode(), "{NAME}: all rows are of one kind, not {:?}", args.step);
    check_view(NAME, args.queries, [args.step.num_tokens, heads.num_heads * heads.head_size]);
    check_view(NAME, args.output, [args.step.num_tokens, heads.num_heads * heads.head_size]);
    check_view(NAME, args.keys, [args.step.num_tokens, heads.num_kv_heads * heads.head_size]);
    check_view(NAME, args.values, [args.step.num_tokens, heads.num_kv_heads * heads.head_size]);
    assert!(
        args.keys.stride == args.values.stride,
        "{NAME}: keys have stride {}, values {}",
        args.keys.stride,
        args.values.stride
    );
    assert!(args.scale > 0.0, "{NAME}: scale {}", args.scale);
    let params = AttentionPrefillParams {
        queries: args.queries.ptr.as_ptr(),
        output: args.output.ptr.as_mut_ptr(),
        keys: args.keys.ptr.as_ptr(),
        values: args.values.ptr.as_ptr(),
        counts: plan.counts().as_ptr(),
        tiles: plan.tiles().as_ptr(),
        query_stride: args.queries.stride as i64,
        output_stride: args.output.stride as i64,
        key_stride: args.keys.stride as i64,
        num_kv_heads: heads.num_kv_heads as i32,
        group: heads.group() as i32,
        exponent_scale: args.scale * std::f32::consts::LOG2_E,
        ..AttentionPrefillParams::default()
    };
    launch_prefill(context, plan, (Keys::OfTexts, args.element, args.step), &params)
}

fn kernel_name(name: &str, element: Element, head_size: usize) -> String {
    format!("{name}_{}_d{head_size}", element.suffix())
}

/// Panics unless kernels can read or write `view` as `[rows, cols]`.
fn check_view(name: &str, view: View, [rows, cols]: [usize; 2]) {
    assert!(
        view.rows >= rows && view.cols == cols && view.stride >= cols,
        "{name}: a view [{}, {}] with stride {}, expected [{rows}, {cols}]",
        view.rows,
        view.cols,
        view.stride
    );
    assert!(
        view.ptr.0.is_multiple_of(16) && view.stride.is_multiple_of(8),
        "{name}: rows of stride {} at {:?} do not begin at multiples of 16 bytes",
        view.stride,
        view.ptr
    );
}

fn check(plan: &AttentionPlan, args: &PagedAttention) {
    const NAME: &str = "paged_attention";
    let heads = plan.limits().heads;
    plan.check_step(&args.step);
    check_view(NAME, args.queries, [args.step.num_tokens, heads.num_heads * heads.head_size]);
    check_view(NAME, args.output, [args.step.num_tokens, heads.num_heads * heads.head_size]);
    let KvLayer { num_kv_heads, block_size, head_size, .. } = args.kv;
    assert!(
        num_kv_heads == heads.num_kv_heads && head_size == heads.head_size,
        "{NAME}: {num_kv_heads} heads of {head_size} in the cache, a plan for {heads:?}"
    );
    assert!(
        block_size >= 16 && block_size.is_power_of_two(),
        "{NAME}: block size {block_size} is not a power of two of at least 16"
    );
    let tables = args.block_tables;
    assert!(
        tables.blocks.is_dense() && tables.block_size == block_size,
        "{NAME}: block tables {tables:?} for blocks of {block_size}"
    );
    assert!(args.scale > 0.0, "{NAME}: scale {}", args.scale);
    assert!(args.soft_cap.is_none_or(|cap| cap > 0.0), "{NAME}: soft cap {:?}", args.soft_cap);
}
