// Kernels that show what the emulator's words do: each writes what it saw, and a test compares.
#include "../../cuda/device.cuh"
#include "params.h"

// Sums [count] numbers of T, one warp a row of 32.
template <class T> DEVICE void sum_rows(const ProbeParams& p) {
    wait_for_previous_kernel();
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= p.count) return;
    const T* input = static_cast<const T*>(p.input);
    const float sum = warp_sum(to_float(input[row * 32 + threadIdx.x % 32]));
    if (threadIdx.x % 32 == 0) static_cast<float*>(p.output)[row] = sum;
}
FOLIO_KERNEL(probe_sum_rows_bf16, ProbeParams, 128, 1) { sum_rows<bf16>(p); }
FOLIO_KERNEL(probe_sum_rows_f16, ProbeParams, 128, 1) { sum_rows<f16>(p); }
