//! Activation functions of matrices, alone or times another matrix.

use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::ActivateParams;
use super::shapes::{access_width, check_shape, kernel, threads_for};
use crate::cpu::Activation;

/// What [`activate`] works on. All matrices are `[T, I]`; the output may be one of the operands.
#[derive(Clone, Copy, Debug)]
pub struct Activate {
    /// What the function is applied to.
    pub input: View,
    /// What its result is multiplied by, if anything.
    pub factor: Option<View>,
    /// The results.
    pub output: View,
    /// The function.
    pub function: Activation,
    /// Format of all.
    pub element: Element,
}

/// `function(input)`, or `round(function(input)) * factor`, in single precision; `round` is to 16
/// bits, as in Hugging Face's models.
pub fn activate(context: &Context, args: Activate) -> Result<()> {
    let Activate { input, factor, output, .. } = args;
    for view in [Some(input), factor].into_iter().flatten() {
        check_shape("activate", view, [output.rows, output.cols]);
    }
    let width = access_width(&[input, factor.unwrap_or(input), output]);
    let params = ActivateParams {
        input: input.ptr.as_ptr(),
        factor: factor.map_or(DevicePtr::NULL, |view| view.ptr).as_ptr(),
        out: output.ptr.as_mut_ptr(),
        input_stride: input.stride as i64,
        factor_stride: factor.map_or(0, |view| view.stride as i64),
        out_stride: output.stride as i64,
        cols: output.cols as i32,
        width: width as i32,
        function: match args.function {
            Activation::Silu => 0,
            Activation::Gelu => 1,
            Activation::GeluTanh => 2,
            Activation::Relu => 3,
        },
        padding: 0,
    };
    let num_accesses = output.cols.div_ceil(width);
    let num_threads = threads_for(num_accesses, 256);
    let grid = [output.rows, num_accesses.div_ceil(num_threads), 1];
    let launch = Launch { grid, num_threads, shared_bytes: 0 };
    // SAFETY: views are of memory that exists.
    unsafe { context.launch(kernel(context, "activate", args.element)?, launch, &params) }
}
