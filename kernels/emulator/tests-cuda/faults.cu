// Kernels with one fault each, which the emulator must find. Input and output have 64 floats each,
// shared memory 256 bytes, blocks 64 threads.
#include "../../cuda/device.cuh"
#include "params.h"

// The body follows.
#define FAULT(name)                                                                                   \
    DEVICE void name##_body(const ProbeParams& p);                                                   \
    FOLIO_KERNEL(fault_##name, ProbeParams, 64, 1) {                                                 \
        wait_for_previous_kernel();                                                                  \
        name##_body(p);                                                                              \
    }                                                                                                \
    DEVICE void name##_body([[maybe_unused]] const ProbeParams& p)

FOLIO_KERNEL(fault_never_waits, ProbeParams, 64, 1) {
    static_cast<float*>(p.output)[threadIdx.x] = 1.f;
}

FAULT(barriers_differ) {
    if (threadIdx.x < 32) {
        __syncthreads();
        static_cast<float*>(p.output)[threadIdx.x] = 1.f;
    } else {
        __syncthreads();
    }
}
FAULT(barrier_in_part_of_a_warp) {
    if (threadIdx.x < 16) __syncthreads();
    static_cast<float*>(p.output)[threadIdx.x] = warp_sum(1.f);
}
FAULT(shuffle_in_part_of_a_warp) {
    if (threadIdx.x % 32 < 16) static_cast<float*>(p.output)[threadIdx.x] = warp_sum(1.f);
}
FAULT(shuffle_after_return) {
    if (threadIdx.x % 32 == 5) return;
    __syncthreads();
    static_cast<float*>(p.output)[threadIdx.x] = warp_sum(1.f);
}
FAULT(collectives_differ) {
    const bool is_low = threadIdx.x % 32 < 16;
    static_cast<int*>(p.output)[threadIdx.x] = is_low ? __shfl_sync(~0u, 1, 0) : __any_sync(~0u, 1);
}
FAULT(lane_outside_its_mask) { static_cast<int*>(p.output)[0] = __any_sync(0xffff, 1); }
FAULT(deadlock_of_halves) {
    // Each half waits for the other before it gets to where the other waits.
    const uint32_t mask = threadIdx.x % 32 < 16 ? 0x0001ffff : 0xffff8000;
    __syncwarp(mask);
}
FAULT(mma_in_part_of_a_warp) {
    float c[4] = {};
    const uint32_t a[4] = {};
    mma_16816<bf16>(c, a, 0, 0);
    static_cast<float*>(p.output)[threadIdx.x] = c[0];
}

FAULT(copy_beyond_shared) {
    DYNAMIC_SHARED(bytes);
    cp_async_16(bytes + threadIdx.x * 16, p.input, true);
    cp_async_commit();
    cp_async_wait<0>();
}
FAULT(copy_to_odd_address) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 0) cp_async_16(bytes + 8, p.input, true);
}
FAULT(copy_from_beyond) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 0) cp_async_16(bytes, static_cast<const float*>(p.input) + 64, true);
}
FAULT(copy_from_odd_address) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 0) cp_async_16(bytes, static_cast<const float*>(p.input) + 1, false);
}
FAULT(copy_left_under_way) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 0) cp_async_16(bytes, p.input, true);
    cp_async_commit();
}
FAULT(ldmatrix_beyond_shared) {
    DYNAMIC_SHARED(bytes);
    uint32_t words[4];
    ldmatrix_x4(words, bytes + threadIdx.x % 32 * 16);
    static_cast<uint32_t*>(p.output)[threadIdx.x] = words[0];
}
FAULT(shared_overrun) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 0) bytes[256 + p.count] = 1;
}
FAULT(shared_far_overrun) {
    DYNAMIC_SHARED(bytes);
    bytes[threadIdx.x * 16384] = 1;
}

FAULT(output_overrun) {
    if (threadIdx.x == 0) static_cast<float*>(p.output)[64 + p.count] = 1.f;
}
FAULT(output_underrun) {
    if (threadIdx.x == 0) static_cast<float*>(p.output)[-1 - p.count] = 1.f;
}
FAULT(read_far_beyond) {
    static_cast<float*>(p.output)[threadIdx.x] = static_cast<const float*>(p.input)[threadIdx.x * 100];
}
FAULT(read_input) {
    static_cast<float*>(p.output)[threadIdx.x] = static_cast<const float*>(p.input)[threadIdx.x];
}
FAULT(misaligned_vector) {
    const float* input = static_cast<const float*>(p.input) + threadIdx.x % 16;
    static_cast<float*>(p.output)[threadIdx.x] = reinterpret_cast<const float4*>(input)->x;
}
FAULT(array_index) {
    int numbers[4] = {1, 2, 3, 4};
    for (int i = 0; i < p.count; i++) numbers[i] += static_cast<const int*>(p.input)[i];
    static_cast<int*>(p.output)[threadIdx.x] = numbers[threadIdx.x % 4];
}
FAULT(division_by_zero) { static_cast<int*>(p.output)[threadIdx.x] = 64 / p.variant; }
FAULT(trap) {
    if (threadIdx.x == 7) __trap();
}

// Not faults by themselves: numbers that nobody has written are NaN.
FAULT(nothing_but_shared_is_unwritten) {
    DYNAMIC_SHARED(bytes);
    static_cast<float*>(p.output)[threadIdx.x] = reinterpret_cast<float*>(bytes)[threadIdx.x];
}
FAULT(nothing_but_copy_is_read_early) {
    DYNAMIC_SHARED(bytes);
    const float* input = static_cast<const float*>(p.input);
    float* tile = reinterpret_cast<float*>(bytes);
    if (threadIdx.x < 16) cp_async_16(tile + threadIdx.x * 4, input + threadIdx.x * 4, true);
    cp_async_commit();
    if (p.variant == 1) cp_async_wait<0>();
    __syncthreads();
    static_cast<float*>(p.output)[threadIdx.x] = tile[threadIdx.x];
    __syncthreads();
    cp_async_wait<0>();
}
