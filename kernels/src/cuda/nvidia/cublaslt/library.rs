//! cuBLASLt itself: found when a device is opened, or missed in a sentence.

use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::sys::{
    self, cublasLtHandle_t, cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
    cublasStatus_t,
};

use crate::cuda::driver::{DriverError, Result};

/// What every matrix of a product must be aligned to: rows of a multiple of eight 16-bit numbers,
/// anywhere in an allocation.
pub(super) const ALIGNMENT_BYTES: u32 = 16;

/// All that is called here.
const SYMBOLS: &[&str] = &[
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// The library with what its heuristic must keep to.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) handle: cublasLtHandle_t,
    pub(super) preference: cublasLtMatmulPreference_t,
    /// Its version: 10,000 times the major, 100 times the minor, and the patch.
    pub(super) version: usize,
}

impl Library {
    /// Finds the library for the current context, or says why it cannot be used.
    pub(super) fn open() -> std::result::Result<Self, String> {
        // SAFETY: looks for a shared library, whose initialisers its installer vouches for.
        if !unsafe { sys::is_culib_present() } {
            return Err("cuBLASLt not found: no libcublasLt where libraries are looked for".into());
        }
        // SAFETY: it is there, so that this does not panic.
        let library = unsafe { sys::culib() };
        for symbol in SYMBOLS {
            // SAFETY: only whether the symbol exists is looked at.
            if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
                return Err(format!("cuBLASLt not usable: it has no {symbol}"));
            }
        }
        Self::create().map_err(|error| format!("cuBLASLt not usable: {error}"))
    }

    fn create() -> Result<Self> {
        use cublasLtMatmulPreferenceAttributes_t as A;
        // SAFETY: asks for a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        check("cublasLtCreate", unsafe { sys::cublasLtCreate(&raw mut handle) })?;
        let mut library = Self { handle, preference: ptr::null_mut(), version };
        // SAFETY: writes one handle.
        let status = unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut library.preference) };
        check("cublasLtMatmulPreferenceCreate", status)?;
        library.prefer(
            A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &(super::WORKSPACE_BYTES as u64),
        )?;
        for which in [
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            library.prefer(which, &ALIGNMENT_BYTES)?;
        }
        Ok(library)
    }

    fn prefer<T: Copy>(
        &self,
        which: cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<()> {
        let (value, size) = (ptr::from_ref(value).cast::<c_void>(), size_of::<T>());
        // SAFETY: reads a value of this size.
        let status = unsafe {
            sys::cublasLtMatmulPreferenceSetAttribute(self.preference, which, value, size)
        };
        check("cublasLtMatmulPreferenceSetAttribute", status)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made by `create`, destroyed once; null where that was cut short.
        unsafe {
            if !self.preference.is_null() {
                let _ = sys::cublasLtMatmulPreferenceDestroy(self.preference);
            }
            let _ = sys::cublasLtDestroy(self.handle);
        }
    }
}

/// Whether a call did what it was asked to.
pub(super) fn check(call: &str, status: cublasStatus_t) -> Result<()> {
    if status == cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        Ok(())
    } else {
        Err(DriverError::Failed(format!("{call}: {status:?}")))
    }
}
