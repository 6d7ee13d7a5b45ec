//! A CUDA device made of software: the kernels of `kernels/cuda`, compiled by the system's C++
//! compiler, behind the same [`Driver`] as a GPU.
//!
//! It is for tests. Launches are checked as they run (see `README.md`), commands run as late as the
//! contract of a stream allows, and whatever goes wrong comes back as an error of the launch.
#![allow(unsafe_code, reason = "device memory and the C++ half are reached through raw pointers")]

mod driver;
mod machine;
mod memory;
mod stream;
mod test_device;

use std::sync::Arc;

use folio_kernels::cuda::Driver;

pub use driver::{Counters, Emulator};
pub use test_device::{TestDevice, emulator_only, test_driver};

/// How an emulated device is made up.
#[derive(Clone, Copy, Debug)]
pub struct EmulatorOptions {
    /// Where the order of blocks, warps and lanes is drawn from.
    pub seed: u64,
    /// Device memory, in bytes.
    pub memory_bytes: usize,
    /// Streaming multiprocessors that the device claims to have.
    pub num_multiprocessors: u32,
    /// Threads of the operating system that run blocks; with 1 a run can be repeated exactly.
    pub num_workers: usize,
    /// A kernel whose name ends in this takes the place of the one without, for tests of tests.
    pub variant: &'static str,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            memory_bytes: 256 << 20,
            num_multiprocessors: 4,
            num_workers: std::thread::available_parallelism().map_or(1, usize::from).min(8),
            variant: "",
        }
    }
}

impl Emulator {
    /// A device with the default options, as a driver.
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "what tests want is a driver")]
    pub fn new() -> Arc<dyn Driver> {
        Self::with(EmulatorOptions::default())
    }
}
