//! The benches of GPU kernels run: at tiny sizes, on the emulator.

use folio_benches::gpu::{Scale, run};
use folio_emulator::Emulator;
use folio_kernels::cuda::Context;

#[test]
fn every_kernel_is_measured() {
    let context = Context::new(Emulator::new()).unwrap();
    let mut kernels = Vec::new();
    let roofs = run(&context, Scale::Tiny, &mut |line, _| {
        assert!(line.micros > 0.0 && line.bytes + line.flops > 0.0, "{line:?}");
        kernels.push(line.kernel);
    });
    let roofs = roofs.unwrap();
    assert!(roofs.bytes_per_s > 0.0 && roofs.flops_per_s > 0.0);
    kernels.dedup();
    for kernel in ["add_rms_norm", "gemm own", "attention_decode", "attention_prefill"] {
        assert!(kernels.iter().any(|one| one == kernel), "{kernel} is missing in {kernels:?}");
    }
}
