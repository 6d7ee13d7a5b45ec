//! Matrix products with our own kernels: checks, the choice of a kernel, the launch.
//!
//! [`plan_gemm`] chooses; `gemm_products.rs` sets the driver's library beside this.

use super::context::{Context, DeviceBuffer, Element, Epilogue, Launch, OutputElement, View};
use super::driver::{Command, DevicePtr, Result};
use super::gemm_plan::{
    GemmMode, GemmPlan, GemmShape, GemmWork, MAX_PARTIAL_BYTES, STREAM_BLOCKS_PER_MULTIPROCESSOR,
    plan_gemm,
};
use super::params::{self, GemmOperands, GemmParams, GemmSmallParams};
use super::shapes::{check_shape, is_aligned, kernel};

/// What [`gemm`] works on: `output = epilogue(input x weight^T)`, with sums in f32.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// x, `[M, K]`, 16-bit; K, the stride and the address are multiples of 8 elements.
    pub input: View,
    /// W, `[N, K]`, 16-bit, aligned as x. It is read before the kernel before this one has ended,
    /// so whatever wrote it was waited for on the host.
    pub weight: View,
    /// `[N]`, 16-bit; present where the epilogue adds one. Written as W.
    pub bias: Option<DevicePtr>,
    /// What happens to a sum before it is rounded to the output's format.
    pub epilogue: Epilogue,
    /// y, `[M, N]`, apart from all inputs; any stride and address.
    pub output: View,
    /// Format of y.
    pub output_element: OutputElement,
    /// Format of x, W and the bias.
    pub element: Element,
    /// Whether a row's bits may depend on the number of rows.
    pub mode: GemmMode,
}

impl Gemm {
    /// Its sizes.
    #[must_use]
    pub fn shape(&self) -> GemmShape {
        GemmShape { rows: self.input.rows, cols: self.weight.rows, inner: self.input.cols }
    }

    pub(super) fn check(&self) {
        let GemmShape { rows, cols, inner } = self.shape();
        check_shape("gemm input", self.input, [rows, inner]);
        check_shape("gemm weight", self.weight, [cols, inner]);
        check_shape("gemm output", self.output, [rows, cols]);
        let adds_bias = self.epilogue != Epilogue::None;
        assert!(
            self.bias.is_some() == adds_bias,
            "gemm: epilogue {:?} with bias {:?}",
            self.epilogue,
            self.bias
        );
        for (what, view) in [("input", self.input), ("weight", self.weight)] {
            assert!(
                inner.is_multiple_of(8) && view.stride.is_multiple_of(8) && is_aligned(view.ptr),
                "gemm {what}: rows of {inner} with stride {} at {:#x} are not 16-byte vectors",
                view.stride,
                view.ptr.0
            );
        }
        let is_countable = |size: usize| i32::try_from(size).is_ok();
        assert!(
            is_countable(rows) && is_countable(cols) && is_countable(inner),
            "gemm: [{rows}, {inner}] x [{cols}, {inner}] is beyond 32-bit sizes"
        );
        // Offsets within a tile are 32-bit.
        let stride = self.input.stride.max(self.weight.stride);
        assert!(stride <= 1 << 22, "gemm: stride {stride} is beyond {}", 1 << 22);
    }

    fn operands(&self) -> GemmOperands {
        let shape = self.shape();
        GemmOperands {
            input: self.input.ptr.as_ptr(),
            weight: self.weight.ptr.as_ptr(),
            bias: self.bias.unwrap_or(DevicePtr::NULL).as_ptr(),
            output: self.output.ptr.as_mut_ptr(),
            input_stride: self.input.stride as i64,
            weight_stride: self.weight.stride as i64,
            output_stride: self.output.stride as i64,
            num_rows: shape.rows as i32,
            num_cols: shape.cols as i32,
            inner: shape.inner as i32,
            epilogue: match self.epilogue {
                Epilogue::None => params::GEMM_NONE,
                Epilogue::Bias => params::GEMM_BIAS,
                Epilogue::BiasGelu => params::GEMM_BIAS_GELU,
                Epilogue::BiasGeluTanh => params::GEMM_BIAS_GELU_TANH,
            },
            output_is_f32: i32::from(self.output_element == OutputElement::F32),
        }
    }

    /// Whether every row of y begins at a multiple of `num_bytes`.
    pub(super) fn output_is_aligned(&self, num_bytes: usize) -> bool {
        let element_bytes = match self.output_element {
            OutputElement::Same => Element::NUM_BYTES,
            OutputElement::F32 => 4,
        };
        self.output.ptr.0.is_multiple_of(num_bytes as u64)
            && (self.output.stride * element_bytes).is_multiple_of(num_bytes)
    }

    /// Whether two neighbours of a 16-bit y can be stored at once, from any even column.
    fn outputs_are_paired(&self) -> bool {
        self.output_element == OutputElement::Same
            && self.output_is_aligned(4)
            && self.output.cols.is_multiple_of(2)
    }
}

/// Memory in which blocks of `gemm_small` leave sums to one another. The products of one stream
/// share one; it belongs to the device's context that made it, and its addresses never change.
#[derive(Debug)]
pub struct GemmWorkspace {
    partials: DeviceBuffer,
    counters: DeviceBuffer,
}

impl GemmWorkspace {
    /// Allocates it: about 64 KiB a multiprocessor, 9 MB on an H100.
    pub fn new(context: &Context) -> Result<Self> {
        let num_multiprocessors = context.device().num_multiprocessors.max(1) as usize;
        let num_blocks = num_multiprocessors * STREAM_BLOCKS_PER_MULTIPROCESSOR;
        let partials = context.allocate(num_blocks * 2 * MAX_PARTIAL_BYTES)?;
        let counters = context.allocate(num_blocks * 4)?;
        let command = Command::Zero { to: counters.ptr(), num_bytes: counters.num_bytes() };
        // SAFETY: the buffer is as long as that, and outlives the wait below.
        unsafe { context.driver().enqueue(context.stream(), command)? };
        context.synchronize()?;
        Ok(Self { partials, counters })
    }

    /// The counters, of which there are enough for that many blocks.
    fn counters_for(&self, num_blocks: usize) -> DevicePtr {
        let num_counters = self.counters.num_bytes() / 4;
        assert!(
            num_blocks <= num_counters,
            "gemm: {num_blocks} blocks with a workspace for {num_counters}"
        );
        self.counters.ptr()
    }
}

/// Multiplies with the kernel of ours that [`plan_gemm`] chooses, in one launch; nothing is
/// launched without rows or columns.
///
/// Panics when shapes do not fit together, when rows of x or W are not whole vectors of 16 bytes,
/// or when the workspace is another device's.
pub fn gemm(context: &Context, workspace: &GemmWorkspace, args: Gemm) -> Result<()> {
    let shape = args.shape();
    if shape.rows == 0 || shape.cols == 0 {
        return Ok(());
    }
    gemm_by_plan(context, workspace, args, plan_gemm(context.device(), shape, args.mode))
}

/// Multiplies as `plan` says, whatever `args.mode`. Panics as [`gemm`] does, and when the plan is
/// for another shape.
pub fn gemm_by_plan(
    context: &Context,
    workspace: &GemmWorkspace,
    args: Gemm,
    plan: GemmPlan,
) -> Result<()> {
    args.check();
    assert_eq!(args.shape(), plan.shape, "gemm: the plan is for another shape");
    let kernel = kernel(context, plan.kernel, args.element)?;
    let launch = Launch {
        grid: [plan.num_blocks, 1, 1],
        num_threads: plan.num_threads,
        shared_bytes: plan.shared_bytes,
    };
    match plan.work {
        GemmWork::Tiles { num_row_tiles, num_col_tiles } => {
            let params = GemmParams {
                product: args.operands(),
                num_row_tiles: num_row_tiles as i32,
                num_col_tiles: num_col_tiles as i32,
                outputs_are_aligned: i32::from(args.output_is_aligned(16)),
            };
            // SAFETY: the views are of memory that exists, and their sizes were checked.
            unsafe { context.launch(kernel, launch, &params) }
        }
        GemmWork::Units { per_tile, per_block, total } => {
            let params = GemmSmallParams {
                product: args.operands(),
                partials: workspace.partials.ptr().as_mut_ptr(),
                counters: workspace.counters_for(plan.num_blocks).as_mut_ptr(),
                units_per_block: per_block as i32,
                num_units: total as i32,
                units_per_tile: per_tile as i32,
                outputs_are_paired: i32::from(args.outputs_are_paired()),
            };
            // SAFETY: as above; the workspace has two tiles and a counter for every block.
            unsafe { context.launch(kernel, launch, &params) }
        }
    }
}
