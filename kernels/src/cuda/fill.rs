//! Weights that are made up on the device, to measure a model's speed without a checkpoint.

use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::{FillFloatsParams, FillRandomParams};
use super::shapes::{is_aligned, kernel};

/// Threads of a block.
const NUM_THREADS: usize = 256;

/// What [`fill_random`] works on.
#[derive(Clone, Copy, Debug)]
pub struct FillRandom {
    /// What is filled, dense.
    pub output: View,
    /// Chooses the numbers.
    pub seed: u64,
    /// Numbers are uniform in -scale..scale.
    pub scale: f32,
    /// Format of the output.
    pub element: Element,
}

/// Fills a matrix with numbers that depend on their place and the seed alone.
pub fn fill_random(context: &Context, args: FillRandom) -> Result<()> {
    let FillRandom { output, seed, scale, element } = args;
    assert!(output.is_dense() && is_aligned(output.ptr), "fill_random: {output:?} is not dense");
    let num_elements = output.rows * output.cols;
    let params = FillRandomParams {
        out: output.ptr.as_mut_ptr(),
        num_elements: num_elements as i64,
        seed,
        scale,
        padding: 0,
    };
    let launch = launch_over(context, num_elements.div_ceil(8));
    // SAFETY: the view is of memory that exists.
    unsafe { context.launch(kernel(context, "fill_random", element)?, launch, &params) }
}

/// Sets `num_elements` single-precision numbers from `output` on to `value`.
pub fn fill_floats(
    context: &Context,
    output: DevicePtr,
    num_elements: usize,
    value: f32,
) -> Result<()> {
    let params = FillFloatsParams {
        out: output.as_mut_ptr(),
        num_elements: num_elements as i64,
        value,
        padding: 0,
    };
    let launch = launch_over(context, num_elements);
    // SAFETY: the caller's memory is as long as it says.
    unsafe { context.launch(context.kernel("fill_floats")?, launch, &params) }
}

/// Enough blocks for `num_items`, one a thread, but no more than fill the device: threads go round.
fn launch_over(context: &Context, num_items: usize) -> Launch {
    let max_blocks = context.device().num_multiprocessors.max(1) as usize * 8;
    let num_blocks = num_items.div_ceil(NUM_THREADS).min(max_blocks);
    Launch { grid: [num_blocks, 1, 1], num_threads: NUM_THREADS, shared_bytes: 0 }
}
