//! The emulated device itself: that its words mean what CUDA's mean, that it finds faults, and that
//! its streams are queues.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "launches take raw parameters")]

mod cuda_common;

use cuda_common::{ELEMENTS, Random, context, download_f32, rounded, upload};
use folio_kernels::cuda::{Context, DevicePtr, Launch, Params, Result};

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

fn probe(context: &Context, name: &str, launch: Launch, params: &Probe) -> Result<()> {
    let kernel = context.kernel(name)?;
    // SAFETY: the tests pass buffers of the sizes that the probes use, or are about what happens when
    // they do not.
    unsafe { context.launch(kernel, launch, params) }
}

#[test]
fn warps_sum_rows_of_sixteen_bit_numbers() {
    for element in ELEMENTS {
        let context = context();
        let values = Random(3).normals(37 * 32);
        let input = upload(&context, element, &values);
        let output = context.allocate(37 * 4).unwrap();
        let name = format!("probe_sum_rows_{}", element.suffix());
        let launch = Launch { grid: [10, 1, 1], num_threads: 128, shared_bytes: 0 };
        let params = Probe { input: input.ptr(), output: output.ptr(), count: 37, variant: 0 };
        probe(&context, &name, launch, &params).unwrap();
        let sums = download_f32(&context, &output);
        for (row, sum) in rounded(element, &values).chunks(32).zip(sums) {
            let expected: f64 = row.iter().map(|&x| f64::from(x)).sum();
            assert!((expected - f64::from(sum)).abs() < 1e-4, "{sum} instead of {expected}");
        }
    }
}
