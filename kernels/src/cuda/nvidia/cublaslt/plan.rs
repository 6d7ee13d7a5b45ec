//! One matrix product as cuBLASLt wants it described.
//!
//! The library thinks in columns. A row-major `[rows, cols]` is a column-major `[cols, rows]`, so
//! that `output = input * weight^T` in rows is `output^T = weight * input^T` to it: the weight is
//! its A, transposed, and the input its B. A bias per column of the output is then one per row of
//! its D, which is the kind of bias that it adds. Sums are in single precision.

use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatrixLayout_t,
    cudaDataType,
};

use super::library::{Library, check};
use crate::cuda::context::{Element, Epilogue, OutputElement};
use crate::cuda::driver::{DevicePtr, MatmulShape, Result};

/// `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;
/// `CUBLAS_OP_N`.
const AS_IT_IS: i32 = 0;

/// An address to guess algorithms with, before there is a bias: aligned, and never looked at.
const SOME_BIAS: u64 = 1 << 12;

/// Where the matrices of a product lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda::nvidia) struct Pointers {
    pub(in crate::cuda::nvidia) input: DevicePtr,
    pub(in crate::cuda::nvidia) weight: DevicePtr,
    pub(in crate::cuda::nvidia) bias: DevicePtr,
    pub(in crate::cuda::nvidia) output: DevicePtr,
}

/// Scratch memory and queue of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) workspace: DevicePtr,
    pub(super) stream: sys::cudaStream_t,
}

/// A layout of a matrix, destroyed when dropped.
#[derive(Debug)]
struct Layout(cublasLtMatrixLayout_t);

impl Layout {
    /// Column-major, without gaps between columns.
    fn new(element: cudaDataType, rows: u32, cols: u32) -> Result<Self> {
        let mut layout = ptr::null_mut();
        let (rows, cols, stride) = (u64::from(rows), u64::from(cols), i64::from(rows));
        // SAFETY: writes one handle.
        let status = unsafe {
            sys::cublasLtMatrixLayoutCreate(&raw mut layout, element, rows, cols, stride)
        };
        check("cublasLtMatrixLayoutCreate", status)?;
        Ok(Self(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { sys::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// What is to be computed, destroyed when dropped.
#[derive(Debug)]
struct Description(cublasLtMatmulDesc_t);

impl Description {
    fn new(epilogue: cublasLtEpilogue_t) -> Result<Self> {
        use cublasLtMatmulDescAttributes_t as A;
        let mut description = ptr::null_mut();
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        // SAFETY: writes one handle.
        let status = unsafe {
            sys::cublasLtMatmulDescCreate(&raw mut description, compute, cudaDataType::CUDA_R_32F)
        };
        check("cublasLtMatmulDescCreate", status)?;
        let description = Self(description);
        description.set(A::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        description.set(A::CUBLASLT_MATMUL_DESC_TRANSB, &AS_IT_IS)?;
        description.set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        Ok(description)
    }

    fn set<T: Copy>(&self, which: cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        let value = ptr::from_ref(value).cast::<c_void>();
        // SAFETY: reads a value of this size.
        let status =
            unsafe { sys::cublasLtMatmulDescSetAttribute(self.0, which, value, size_of::<T>()) };
        check("cublasLtMatmulDescSetAttribute", status)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { sys::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// A product that is described, but for the algorithm.
#[derive(Debug)]
pub(super) struct Plan {
    description: Description,
    weight: Layout,
    input: Layout,
    output: Layout,
    has_bias: bool,
}

/// What the library calls an epilogue; `None` where it has no such thing.
///
/// Its GELU is the tanh approximation (PyTorch uses it as such, and only as such), so that GELU by
/// the error function is not among them. It adds 16-bit biases to 16-bit outputs only.
fn epilogue_of(shape: &MatmulShape) -> Option<cublasLtEpilogue_t> {
    match (shape.epilogue, shape.output) {
        (Epilogue::None, _) => Some(cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT),
        (Epilogue::Bias, OutputElement::Same) => Some(cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS),
        (Epilogue::BiasGeluTanh, OutputElement::Same) => {
            Some(cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS)
        }
        _ => None,
    }
}

impl Plan {
    /// Describes a product; `None` if the library cannot do it.
    pub(super) fn new(shape: &MatmulShape) -> Result<Option<Self>> {
        let Some(epilogue) = epilogue_of(shape) else { return Ok(None) };
        let element = match shape.element {
            Element::Bf16 => cudaDataType::CUDA_R_16BF,
            Element::F16 => cudaDataType::CUDA_R_16F,
        };
        let output = match shape.output {
            OutputElement::Same => element,
            OutputElement::F32 => cudaDataType::CUDA_R_32F,
        };
        let description = Description::new(epilogue)?;
        if shape.epilogue != Epilogue::None {
            let which = cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            description.set(which, &SOME_BIAS)?;
        }
        Ok(Some(Self {
            description,
            weight: Layout::new(element, shape.inner, shape.cols)?,
            input: Layout::new(element, shape.inner, shape.rows)?,
            output: Layout::new(output, shape.cols, shape.rows)?,
            has_bias: shape.epilogue != Epilogue::None,
        }))
    }

    /// The library's best guesses for this product, at most `max` of them, the best first.
    pub(super) fn candidates(
        &self,
        library: &Library,
        max: usize,
    ) -> Vec<cublasLtMatmulHeuristicResult_t> {
        // SAFETY: plain numbers, for which zeros are values.
        let mut found: Vec<cublasLtMatmulHeuristicResult_t> =
            vec![unsafe { std::mem::zeroed() }; max];
        let mut count = 0;
        // SAFETY: all handles are alive; writes at most `max` results and one integer.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                library.handle,
                self.description.0,
                self.weight.0,
                self.input.0,
                self.output.0,
                self.output.0,
                library.preference,
                max as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        let is_usable = |result: &cublasLtMatmulHeuristicResult_t| {
            result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
        };
        let count = if check("", status).is_ok() { count.max(0) as usize } else { 0 };
        found.truncate(count);
        found.retain(is_usable);
        found
    }

    /// Whether an algorithm that was found for another number of rows, or at another start, does
    /// this product within the scratch memory.
    pub(super) fn accepts(&self, library: &Library, algorithm: &cublasLtMatmulAlgo_t) -> bool {
        // SAFETY: plain numbers, for which zeros are values.
        let mut result: cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: all handles are alive; writes one result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                library.handle,
                self.description.0,
                self.weight.0,
                self.input.0,
                self.output.0,
                self.output.0,
                ptr::from_ref(algorithm),
                &raw mut result,
            )
        };
        check("", status).is_ok() && result.workspaceSize <= super::WORKSPACE_BYTES
    }

    /// Multiplies.
    ///
    /// # Safety
    /// The matrices have the plan's sizes and stay valid until the stream has come past this, and
    /// for every replay if it is being captured; so does the scratch memory, which is used by this
    /// stream alone.
    pub(super) unsafe fn multiply(
        &self,
        library: &Library,
        algorithm: &cublasLtMatmulAlgo_t,
        pointers: &Pointers,
        place: Place,
    ) -> Result<()> {
        if self.has_bias {
            let which = cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            self.description.set(which, &pointers.bias.0)?;
        }
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the factors are read before the call returns; the rest is the caller's promise.
        let status = unsafe {
            sys::cublasLtMatmul(
                library.handle,
                self.description.0,
                (&raw const one).cast(),
                pointers.weight.as_ptr(),
                self.weight.0,
                pointers.input.as_ptr(),
                self.input.0,
                (&raw const zero).cast(),
                pointers.output.as_ptr(),
                self.output.0,
                pointers.output.as_mut_ptr(),
                self.output.0,
                ptr::from_ref(algorithm),
                place.workspace.as_mut_ptr(),
                super::WORKSPACE_BYTES,
                place.stream,
            )
        };
        check("cublasLtMatmul", status)
    }
}
