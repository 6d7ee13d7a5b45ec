//! One vector per text from the hidden states of its tokens.

use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::PoolParams;
use super::shapes::{access_width, check_shape, kernel};

/// Which tokens of a text count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PooledTokens {
    /// The first.
    First,
    /// All, by their mean.
    Mean,
    /// The last.
    Last,
}

/// What happens to a text's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PooledLength {
    /// Nothing.
    Kept,
    /// It is divided by its Euclidean length, or by 1e-12 where that is larger.
    One,
}

/// What [`pool_texts`] works on.
#[derive(Clone, Copy, Debug)]
pub struct PoolTexts {
    /// Hidden states, 16-bit, `[T, H]`.
    pub hidden: View,
    /// Where each text's tokens start, and the end: `i32`, `[S + 1]`.
    pub cu_seqlens: DevicePtr,
    /// Which tokens count.
    pub tokens: PooledTokens,
    /// What happens to the vectors.
    pub length: PooledLength,
    /// The vectors, `f32`, `[S, H]`.
    pub output: View,
    /// Format of the hidden states.
    pub element: Element,
}

/// Pools the texts of a step, in single precision. A text's vector does not depend on the others;
/// a text without tokens, or with hidden states that are not finite, gets numbers that are not.
pub fn pool_texts(context: &Context, args: PoolTexts) -> Result<()> {
    let PoolTexts { hidden, output, .. } = args;
    check_shape("pool_texts: hidden", hidden, [hidden.rows, output.cols]);
    let params = PoolParams {
        hidden: hidden.ptr.as_ptr(),
        cu_seqlens: args.cu_seqlens.as_ptr(),
        out: output.ptr.as_mut_ptr(),
        hidden_stride: hidden.stride as i64,
        out_stride: output.stride as i64,
        cols: output.cols as i32,
        width: access_width(&[hidden]) as i32,
        pooling: match args.tokens {
            PooledTokens::First => 0,
            PooledTokens::Mean => 1,
            PooledTokens::Last => 2,
        },
        normalizes: i32::from(args.length == PooledLength::One),
    };
    // 16 warps, each with sums of 256 columns.
    let shared_bytes = 16 * 256 * size_of::<f32>();
    let launch = Launch { grid: [output.rows, 1, 1], num_threads: 512, shared_bytes };
    // SAFETY: views are of memory that exists; the step's arrays stay within the hidden states.
    unsafe { context.launch(kernel(context, "pool", args.element)?, launch, &params) }
}
