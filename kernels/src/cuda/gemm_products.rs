//! One call for every matrix product of a model: the driver's library where it is better, our own
//! kernels elsewhere.
//!
//! The library's plans are made for exact numbers of rows, on first use, and kept: rounding lengths
//! up would write rows beyond the end of the output. The driver measures once for all lengths up to
//! a power of two; any other new length costs it microseconds and about a kilobyte. There are at
//! most as many as tokens of a step times weight shapes, so nothing is evicted; beyond
//! [`MAX_PLANS`] new shapes go to our own kernels.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::context::Context;
use super::driver::{Command, DevicePtr, MatmulId, MatmulShape, Result};
use super::gemm::{Gemm, GemmWorkspace, gemm};
use super::gemm_plan::{GemmMode, GemmPlan, plan_gemm};

/// Most shapes that the library is asked about.
const MAX_PLANS: usize = 1 << 16;

/// Up to this many rows a product is bound by reading the weight, which `gemm_small` does without a
/// second launch, at any size of weight and beginning before the kernel before it has ended. An
/// estimate: the two have not been timed against one another yet.
const MAX_ROWS_OF_OWN: usize = 32;

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductChoice {
    /// The driver's library.
    Library(MatmulId),
    /// One of our own kernels.
    Own(GemmPlan),
}

/// The matrix products of one model on one device.
#[derive(Debug)]
pub struct Products {
    workspace: GemmWorkspace,
    plans: Mutex<HashMap<MatmulShape, Option<MatmulId>>>,
}

impl Products {
    /// Allocates the workspace of our own kernels.
    pub fn new(context: &Context) -> Result<Self> {
        Ok(Self { workspace: GemmWorkspace::new(context)?, plans: Mutex::default() })
    }

    /// Multiplies, in one launch on the context's stream; panics as [`gemm`] does.
    ///
    /// The first call for a shape asks the library for a plan, so a graph is captured after a run
    /// without capture.
    pub fn multiply(&self, context: &Context, args: Gemm) -> Result<()> {
        let Some(plan) = self.library_plan(context, &args)? else {
            return gemm(context, &self.workspace, args);
        };
        args.check();
        let command = Command::Matmul {
            plan,
            input: args.input.ptr,
            weight: args.weight.ptr,
            bias: args.bias.unwrap_or(DevicePtr::NULL),
            output: args.output.ptr,
        };
        // SAFETY: the views are dense, of memory that exists and of the sizes the plan was made
        // for.
        unsafe { context.driver().enqueue(context.stream(), command) }
    }

    /// Who multiplies these. Asks the library for a plan as [`multiply`](Self::multiply) does.
    pub fn choice(&self, context: &Context, args: &Gemm) -> Result<ProductChoice> {
        let own = || ProductChoice::Own(plan_gemm(context.device(), args.shape(), args.mode));
        Ok(self.library_plan(context, args)?.map_or_else(own, ProductChoice::Library))
    }

    /// The library's plan, where the library should be the one.
    fn library_plan(&self, context: &Context, args: &Gemm) -> Result<Option<MatmulId>> {
        let rows = args.input.rows;
        let is_dense = [args.input, args.weight, args.output].iter().all(|view| view.is_dense());
        let is_for_library = is_dense && args.output_is_aligned(16);
        if args.mode == GemmMode::Deterministic || rows <= MAX_ROWS_OF_OWN || !is_for_library {
            return Ok(None);
        }
        let shape = MatmulShape {
            rows: rows as u32,
            cols: args.weight.rows as u32,
            inner: args.input.cols as u32,
            element: args.element,
            output: args.output_element,
            epilogue: args.epilogue,
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&plan) = plans.get(&shape) {
            return Ok(plan);
        }
        if plans.len() >= MAX_PLANS {
            return Ok(None);
        }
        let plan = context.driver().prepare_matmul(&shape)?;
        plans.insert(shape, plan);
        Ok(plan)
    }
}
