//! What a call of the driver returned, in words; and which calls this backend needs.
//!
//! The library is found when the program runs. Its binding panics where the library or a symbol is
//! missing, so that both are asked for here before anything else is called.

use std::ffi::{CStr, c_char};
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use super::open::OpenError;
use crate::cuda::driver::{DriverError, Result};

/// Needed to ask anything at all; every driver has them.
const FIRST_SYMBOLS: &[&str] =
    &["cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"];

/// All others that this backend calls.
const SYMBOLS: &[&str] = &[
    "cuCtxGetStreamPriorityRange",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncGetName",
    "cuFuncGetParamInfo",
    "cuFuncLoad",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleEnumerateFunctions",
    "cuModuleGetFunctionCount",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// Errors after which a context gives nothing but errors.
const FATAL: &[CUresult] = &[
    CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
    CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
    CUresult::CUDA_ERROR_CONTAINED,
    CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
    CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUresult::CUDA_ERROR_ASSERT,
    CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
    CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
    CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
    CUresult::CUDA_ERROR_INVALID_PC,
    CUresult::CUDA_ERROR_LAUNCH_FAILED,
    CUresult::CUDA_ERROR_EXTERNAL_DEVICE,
];

/// What the CUDA of the compiled kernels needs: a driver that knows it, in the driver's counting.
pub(super) const MIN_DRIVER_VERSION: i32 = 13_000;

/// Finds the driver and initialises it: from here on every call of this backend exists.
pub(super) fn initialise() -> std::result::Result<(), OpenError> {
    // SAFETY: looks for a shared library, whose initialisers the system's installer vouches for.
    if !unsafe { sys::is_culib_present() } {
        return Err(OpenError::NoDriver);
    }
    require(FIRST_SYMBOLS)?;
    // SAFETY: the flag must be 0 and is.
    let result = unsafe { sys::cuInit(0) };
    if result == CUresult::CUDA_ERROR_NO_DEVICE {
        return Err(OpenError::NoDevice);
    }
    check("cuInit", result)?;
    let mut version = 0;
    // SAFETY: writes one integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    if version < MIN_DRIVER_VERSION {
        return Err(OpenError::OldDriver { version });
    }
    require(SYMBOLS)
}

fn require(symbols: &'static [&'static str]) -> std::result::Result<(), OpenError> {
    // SAFETY: the library is there, so that this does not panic.
    let library = unsafe { sys::culib() };
    for symbol in symbols {
        // SAFETY: only whether the symbol exists is looked at.
        if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
            return Err(OpenError::MissingSymbol { symbol });
        }
    }
    Ok(())
}

/// Whether a call did what it was asked to.
pub(super) fn check(call: &str, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(failed(call, result)) }
}

/// Whether an allocation of so many bytes worked.
pub(super) fn check_memory(call: &str, result: CUresult, num_bytes: usize) -> Result<()> {
    if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Err(DriverError::OutOfMemory { num_bytes });
    }
    check(call, result)
}

/// The error in CUDA's words, and whether there is any point in going on.
pub(super) fn failed(call: &str, result: CUresult) -> DriverError {
    let mut name = ptr::null();
    let mut text = ptr::null();
    // SAFETY: both write one pointer to a static string, or null for a code they do not know.
    let known = unsafe {
        (sys::cuGetErrorName(result, &raw mut name), sys::cuGetErrorString(result, &raw mut text))
    };
    let (name, text) = if known == (CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS) {
        (static_text(name), static_text(text))
    } else {
        (format!("{result:?}"), "no description".to_owned())
    };
    let fate = if FATAL.contains(&result) {
        "; nothing works on this device any more until the program starts anew"
    } else {
        ""
    };
    DriverError::Failed(format!("{call}: {text} ({name}){fate}"))
}

fn static_text(text: *const c_char) -> String {
    if text.is_null() {
        return "no description".to_owned();
    }
    // SAFETY: a string of the driver that ends in zero and lives as long as the driver.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
