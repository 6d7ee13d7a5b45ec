//! The compiled kernels: embedded in the program, loaded when a device is opened.
//!
//! All are loaded at once: a kernel that were loaded at its first launch could not be captured in
//! a graph. Each gets the device's whole shared memory, and its parameter struct is held to the
//! size that the compiled kernel has for it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr;

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule};

use super::calls::check;
use crate::cuda::driver::{DriverError, KernelId, Result};

/// Compiled kernels of one family, for all architectures.
#[derive(Clone, Copy, Debug)]
pub struct Fatbin {
    /// Name of the family.
    pub family: &'static str,
    /// What nvcc made, aligned to 16 bytes.
    pub bytes: &'static [u8],
}

#[allow(dead_code, reason = "the table is empty before the first scripts/build_kernels")]
#[repr(align(16))]
struct Aligned<T>(T);

static FATBINS: &[Fatbin] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// What is embedded in the program.
#[must_use]
pub fn embedded_fatbins() -> &'static [Fatbin] {
    FATBINS
}

/// A kernel that can be launched.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) function: CUfunction,
    pub(super) params_bytes: usize,
}

/// All kernels of a device.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    modules: Vec<CUmodule>,
    loaded: Vec<Kernel>,
    by_name: HashMap<String, KernelId>,
}

impl Kernels {
    /// Loads all of `fatbins` into the current context.
    pub(super) fn load(&mut self, fatbins: &[Fatbin], max_shared_bytes: u32) -> Result<()> {
        for fatbin in fatbins {
            let mut module = ptr::null_mut();
            // SAFETY: a whole fatbin, which says its own length.
            let result =
                unsafe { sys::cuModuleLoadData(&raw mut module, fatbin.bytes.as_ptr().cast()) };
            check(&format!("cuModuleLoadData of {}", fatbin.family), result)?;
            self.modules.push(module);
            for function in functions(module)? {
                let kernel = prepare(function, max_shared_bytes)?;
                let id = KernelId(self.loaded.len() as u32);
                if self.by_name.insert(kernel.name.clone(), id).is_some() {
                    let message = format!("two kernels are called {}", kernel.name);
                    return Err(DriverError::Failed(message));
                }
                self.loaded.push(kernel);
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Result<KernelId> {
        self.by_name.get(name).copied().ok_or_else(|| {
            let message = format!(
                "there is no kernel {name} among the {} of the {} families in this program",
                self.loaded.len(),
                self.modules.len()
            );
            DriverError::Failed(message)
        })
    }

    pub(super) fn get(&self, id: KernelId) -> &Kernel {
        &self.loaded[id.0 as usize]
    }

    /// Unloads all. None of them may be pending.
    pub(super) fn unload(&mut self) {
        for module in self.modules.drain(..) {
            // SAFETY: loaded by this, unloaded once.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

fn functions(module: CUmodule) -> Result<Vec<CUfunction>> {
    let mut count = 0;
    // SAFETY: writes one integer.
    let result = unsafe { sys::cuModuleGetFunctionCount(&raw mut count, module) };
    check("cuModuleGetFunctionCount", result)?;
    let mut functions = vec![ptr::null_mut(); count as usize];
    // SAFETY: writes at most `count` handles.
    let result = unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module) };
    check("cuModuleEnumerateFunctions", result)?;
    Ok(functions)
}

/// Loads a function and gives it all the shared memory that the device has.
fn prepare(function: CUfunction, max_shared_bytes: u32) -> Result<Kernel> {
    use CUfunction_attribute as A;
    // SAFETY: a function of a loaded module.
    check("cuFuncLoad", unsafe { sys::cuFuncLoad(function) })?;
    let mut name = ptr::null();
    // SAFETY: writes one pointer, to a string that lives as long as the module.
    check("cuFuncGetName", unsafe { sys::cuFuncGetName(&raw mut name, function) })?;
    // SAFETY: it succeeded, so that the string is there.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();

    let (mut offset, mut params_bytes) = (0, 0);
    // SAFETY: writes two integers.
    let result =
        unsafe { sys::cuFuncGetParamInfo(function, 0, &raw mut offset, &raw mut params_bytes) };
    check(&format!("cuFuncGetParamInfo of {name}"), result)?;

    let mut static_bytes = 0;
    let which = A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: writes one integer.
    let result = unsafe { sys::cuFuncGetAttribute(&raw mut static_bytes, which, function) };
    check("cuFuncGetAttribute", result)?;
    // What the driver reserves for itself may count as static, and takes nothing from the rest.
    let most = max_shared_bytes as i32;
    let which = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    set(function, which, most).or_else(|_| set(function, which, most - static_bytes))?;
    // All of it: a kernel with another split than the one before waits for it to finish.
    set(function, A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)?;
    Ok(Kernel { name, function, params_bytes })
}

fn set(function: CUfunction, which: CUfunction_attribute, value: i32) -> Result<()> {
    // SAFETY: a function of a loaded module.
    check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function, which, value) })
}
