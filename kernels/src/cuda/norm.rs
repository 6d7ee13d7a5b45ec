//! Norms of rows, with the residual sum before and a choice of rows in the same launch.
//!
//! A row's result depends on that row alone: which kernel and how many threads work on it is
//! decided by its width and alignment.

use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::NormParams;
use super::shapes::{access_width, check_shape, is_aligned, kernel, threads_for};

/// Widest row that a warp holds.
const MAX_WARP_COLS: usize = 1024;
/// Widest row that a block holds.
const MAX_BLOCK_COLS: usize = 16384;

/// What is normalised: x, `[any, H]`.
#[derive(Clone, Copy, Debug)]
pub enum NormInput {
    /// The rows of a matrix.
    Rows(View),
    /// `residual + delta`, rounded to 16 bits, which also takes the place of `residual`.
    AddTo {
        /// The residual stream.
        residual: View,
        /// What a layer adds to it.
        delta: View,
    },
    /// `left + right`, rounded to 16 bits and not kept.
    Sum {
        /// One summand.
        left: View,
        /// The other.
        right: View,
    },
}

/// What [`rms_norm`] works on.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// x. The sum of `AddTo` must not be the output; otherwise the output may be an operand, where
    /// there is no list of rows.
    pub input: NormInput,
    /// Which rows of x are normalised, `i32`, `[R]`, each once; `None`: all of them.
    pub rows: Option<DevicePtr>,
    /// Scale of each column, `f32`, `[H]`.
    pub weight: DevicePtr,
    /// Added to the mean square.
    pub epsilon: f32,
    /// The results, `[R, H]`.
    pub output: View,
    /// Format of x and the results.
    pub element: Element,
}

/// What [`layer_norm`] works on.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// x, as for [`RmsNorm`].
    pub input: NormInput,
    /// Which rows of x are normalised, as for [`RmsNorm`].
    pub rows: Option<DevicePtr>,
    /// Scale of each column, `f32`, `[H]`.
    pub weight: DevicePtr,
    /// Added to each column, `f32`, `[H]`, if any.
    pub bias: Option<DevicePtr>,
    /// Added to the variance.
    pub epsilon: f32,
    /// The results, `[R, H]`.
    pub output: View,
    /// Format of x and the results.
    pub element: Element,
}

/// `round(round(x / sqrt(mean(x^2) + epsilon)) * weight)` for each row, `round` being to 16 bits
/// and all else in single precision: the roundings of Hugging Face's Llama.
pub fn rms_norm(context: &Context, args: RmsNorm) -> Result<()> {
    let args = LayerNorm {
        input: args.input,
        rows: args.rows,
        weight: args.weight,
        bias: None,
        epsilon: args.epsilon,
        output: args.output,
        element: args.element,
    };
    launch(context, "rms_norm", args)
}

/// `(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias` for each row, in single precision
/// and rounded once.
pub fn layer_norm(context: &Context, args: LayerNorm) -> Result<()> {
    launch(context, "layer_norm", args)
}

fn launch(context: &Context, name: &str, args: LayerNorm) -> Result<()> {
    let output = args.output;
    let (input, delta, sum) = match args.input {
        NormInput::Rows(rows) => (rows, None, None),
        NormInput::AddTo { residual, delta } => (residual, Some(delta), Some(residual)),
        NormInput::Sum { left, right } => (left, Some(right), None),
    };
    let num_rows = if args.rows.is_some() { input.rows } else { output.rows };
    for view in [Some(input), delta].into_iter().flatten() {
        check_shape(name, view, [num_rows, output.cols]);
    }
    assert!(sum.is_none_or(|sum| sum.ptr != output.ptr), "{name}: the residual is the output");
    let stride = |view: Option<View>| view.map_or(0, |view| view.stride as i64);
    let ptr = |view: Option<View>| view.map_or(DevicePtr::NULL, |view| view.ptr);
    let params = NormParams {
        input: input.ptr.as_ptr(),
        delta: ptr(delta).as_ptr(),
        sum: ptr(sum).as_mut_ptr(),
        out: output.ptr.as_mut_ptr(),
        rows: args.rows.unwrap_or(DevicePtr::NULL).as_ptr(),
        weight: args.weight.as_ptr(),
        bias: args.bias.unwrap_or(DevicePtr::NULL).as_ptr(),
        input_stride: input.stride as i64,
        delta_stride: stride(delta),
        sum_stride: stride(sum),
        out_stride: output.stride as i64,
        num_rows: output.rows as i32,
        cols: output.cols as i32,
        epsilon: args.epsilon,
        inverse_cols: 1.0 / output.cols as f32,
    };
    let has_vectors = access_width(&[input, delta.unwrap_or(input), output]) == 8
        && is_aligned(args.weight)
        && args.bias.is_none_or(is_aligned);
    let (kind, launch) = shape_of(output, has_vectors);
    let kernel = kernel(context, &format!("{name}_{kind}"), args.element)?;
    // SAFETY: views are of memory that exists, weights are H long; the host made the row numbers.
    unsafe { context.launch(kernel, launch, &params) }
}

/// Which kernel works on rows like those of `output`, and how.
fn shape_of(output: View, has_vectors: bool) -> (&'static str, Launch) {
    let shared_bytes = 64 * size_of::<f32>();
    if !has_vectors || output.cols > MAX_BLOCK_COLS {
        ("any", Launch { grid: [output.rows, 1, 1], num_threads: 256, shared_bytes })
    } else if output.cols > MAX_WARP_COLS {
        // Two vectors of 8 a thread.
        let num_threads = threads_for(output.cols.div_ceil(16), 1024);
        ("block", Launch { grid: [output.rows, 1, 1], num_threads, shared_bytes })
    } else {
        let grid = [output.rows.div_ceil(4), 1, 1];
        ("warp", Launch { grid, num_threads: 128, shared_bytes: 0 })
    }
}
