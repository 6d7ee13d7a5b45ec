//! The C++ half: the list of kernels that were compiled in, and launches. Mirrors
//! `cpp/launch.cpp` and `cpp/pages.h`.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

/// A kernel as `cpp/registry.h` lays it out.
#[repr(C)]
struct RawKernel {
    name: *const c_char,
    num_params_bytes: u32,
    max_threads: u32,
    body: *const c_void,
    next: *const Self,
}

/// A range of device memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Address of its first byte.
    pub(crate) begin: u64,
    /// Its length.
    pub(crate) num_bytes: u64,
}

#[repr(C)]
struct RawLaunch {
    kernel: *const RawKernel,
    params: *const u8,
    allocations: *const Range,
    num_allocations: usize,
    seed: u64,
    grid: [u32; 3],
    num_threads: u32,
    num_shared_bytes: u32,
}

#[repr(C)]
struct RawOutcome {
    num_mmas: u64,
    failure: [c_char; 1536],
}

unsafe extern "C" {
    fn folio_emulator_first_kernel() -> *const RawKernel;
    fn folio_emulator_new_machine(num_workers: usize) -> *mut c_void;
    fn folio_emulator_free_machine(machine: *mut c_void);
    fn folio_emulator_launch(
        machine: *mut c_void,
        launch: *const RawLaunch,
        outcome: *mut RawOutcome,
    );
    fn folio_emulator_map(num_bytes: usize) -> *mut c_void;
    fn folio_emulator_close(pages: *mut c_void, num_bytes: usize);
    fn folio_emulator_unmap(pages: *mut c_void, num_bytes: usize);
}

const PAGE_BYTES: usize = 4096;

/// Memory between pages that nobody may touch.
#[derive(Debug)]
pub(crate) struct Pages {
    begin: NonNull<c_void>,
    num_bytes: usize,
}

// SAFETY: no thread is tied to it.
unsafe impl Send for Pages {}

impl Pages {
    /// Pages of at least so many bytes, if there is memory.
    pub(crate) fn map(num_bytes: usize) -> Option<Self> {
        let num_bytes = num_bytes.next_multiple_of(PAGE_BYTES);
        // SAFETY: a multiple of the page size.
        let begin = NonNull::new(unsafe { folio_emulator_map(num_bytes) })?;
        Some(Self { begin, num_bytes })
    }

    /// The address after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.begin.as_ptr() as u64 + self.num_bytes as u64
    }

    /// Makes every access from here on a fault.
    ///
    /// # Safety
    /// Nobody has a reference into them.
    pub(crate) unsafe fn close(&self) {
        // SAFETY: mapped with this size.
        unsafe { folio_emulator_close(self.begin.as_ptr(), self.num_bytes) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped with this size; whoever has an address in them was told not to use it.
        unsafe { folio_emulator_unmap(self.begin.as_ptr(), self.num_bytes) };
    }
}

/// An entry point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    raw: &'static RawKernel,
    /// Its name.
    pub(crate) name: &'static str,
    /// Size of its parameter struct.
    pub(crate) num_params_bytes: usize,
    /// The most threads that a block may have.
    pub(crate) max_threads: u32,
}

impl std::fmt::Debug for RawKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawKernel").field("body", &self.body).finish_non_exhaustive()
    }
}

// SAFETY: made before `main` and never changed.
unsafe impl Sync for RawKernel {}

/// All kernels that were compiled in.
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    // SAFETY: the list is complete before `main`, is never changed, and ends in null.
    let mut next = unsafe { folio_emulator_first_kernel().as_ref() };
    while let Some(raw) = next {
        // SAFETY: a string literal, and the rest of the list.
        let (name, rest) = unsafe { (CStr::from_ptr(raw.name), raw.next.as_ref()) };
        kernels.push(Kernel {
            raw,
            name: name.to_str().unwrap_or_default(),
            num_params_bytes: raw.num_params_bytes as usize,
            max_threads: raw.max_threads,
        });
        next = rest;
    }
    kernels
}

/// A launch, checked for sizes.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) params: &'a [u8],
    pub(crate) grid: [u32; 3],
    pub(crate) num_threads: u32,
    pub(crate) shared_bytes: u32,
}

/// Runs blocks.
#[derive(Debug)]
pub(crate) struct Machine {
    machine: NonNull<c_void>,
}

// SAFETY: it holds stacks and buffers that no thread is tied to.
unsafe impl Send for Machine {}

impl Machine {
    pub(crate) fn new(num_workers: usize) -> Self {
        // SAFETY: no requirement.
        let machine = unsafe { folio_emulator_new_machine(num_workers.max(1)) };
        let Some(machine) = NonNull::new(machine) else { unreachable!("new never gives null") };
        Self { machine }
    }

    /// Runs a grid to its end; how many products of 16x8x16 its warps made, or what went wrong.
    ///
    /// # Safety
    /// The addresses in the parameters are valid for what the kernel does with them.
    pub(crate) unsafe fn launch(
        &mut self,
        launch: &Launch<'_>,
        allocations: &[Range],
        seed: u64,
    ) -> Result<u64, String> {
        assert_eq!(launch.params.len(), launch.kernel.num_params_bytes, "{}", launch.kernel.name);
        let raw = RawLaunch {
            kernel: launch.kernel.raw,
            params: launch.params.as_ptr(),
            allocations: allocations.as_ptr(),
            num_allocations: allocations.len(),
            seed,
            grid: launch.grid,
            num_threads: launch.num_threads,
            num_shared_bytes: launch.shared_bytes,
        };
        let mut outcome = RawOutcome { num_mmas: 0, failure: [0; 1536] };
        // SAFETY: the caller's promise; the failure is a string that ends within its buffer.
        let failure = unsafe {
            folio_emulator_launch(self.machine.as_ptr(), &raw const raw, &raw mut outcome);
            CStr::from_ptr(outcome.failure.as_ptr())
        };
        if failure.is_empty() {
            return Ok(outcome.num_mmas);
        }
        Err(failure.to_string_lossy().into_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { folio_emulator_free_machine(self.machine.as_ptr()) }
    }
}
