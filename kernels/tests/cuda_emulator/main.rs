//! The emulated device itself: that its words mean what CUDA's mean, that it finds faults, and that
//! its streams are queues. The kernels are in `kernels/emulator/tests-cuda`.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "launches and copies take raw addresses")]

#[path = "../cuda_common/mod.rs"]
mod cuda_common;
mod faults;
mod streams;
mod words;

use folio_kernels::cuda::{Context, DeviceBuffer, DevicePtr, Launch, Params, Result};

/// Mirrors `ProbeParams` of `kernels/emulator/tests-cuda/params.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Probe {
    input: DevicePtr,
    output: DevicePtr,
    count: i32,
    variant: i32,
}

// SAFETY: laid out as in the header.
unsafe impl Params for Probe {}

/// Enqueues a kernel of the tests.
fn probe(context: &Context, name: &str, launch: Launch, params: &Probe) -> Result<()> {
    let kernel = context.kernel(name)?;
    // SAFETY: the tests pass buffers of the sizes that the probes use, or are about what happens
    // when they do not.
    unsafe { context.launch(kernel, launch, params) }
}

/// A launch of one block.
fn one_block(num_threads: usize, shared_bytes: usize) -> Launch {
    Launch { grid: [1, 1, 1], num_threads, shared_bytes }
}

/// Device memory of zeros.
fn zeros(context: &Context, num_bytes: usize) -> DeviceBuffer {
    context.upload(&vec![0; num_bytes]).unwrap()
}
