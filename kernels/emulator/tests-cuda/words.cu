// Kernels that show what the emulator's words do: each writes what it saw, and a test compares.
#include "../../cuda/device.cuh"
#include "params.h"

// Sums [count] rows of 32 numbers of T, one warp a row.
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

// Writes [8][32] ints, what each lane got of 100 + lane.
FOLIO_KERNEL(probe_shuffles, ProbeParams, 32, 1) {
    wait_for_previous_kernel();
    const int lane = threadIdx.x;
    const int value = 100 + lane;
    int* output = static_cast<int*>(p.output) + lane;
    output[0 * 32] = __shfl_sync(~0u, value, lane * 7);
    output[1 * 32] = __shfl_sync(~0u, value, 3, 8);
    output[2 * 32] = __shfl_up_sync(~0u, value, 3);
    output[3 * 32] = __shfl_up_sync(~0u, value, 3, 8);
    output[4 * 32] = __shfl_down_sync(~0u, value, 5);
    output[5 * 32] = __shfl_down_sync(~0u, value, 5, 16);
    output[6 * 32] = __shfl_xor_sync(~0u, value, 9);
    output[7 * 32] = static_cast<int>(__shfl_xor_sync(~0u, static_cast<float>(value), 16));
}

// Writes [7][32] ints: votes of the whole warp, of its halves each for itself, and sums of halves.
FOLIO_KERNEL(probe_votes, ProbeParams, 32, 1) {
    wait_for_previous_kernel();
    const int lane = threadIdx.x;
    int* output = static_cast<int*>(p.output) + lane;
    output[0 * 32] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
    output[1 * 32] = __any_sync(~0u, lane == 17);
    output[2 * 32] = __any_sync(~0u, lane == 32);
    output[3 * 32] = __all_sync(~0u, lane < 32);
    output[4 * 32] = __all_sync(~0u, lane != 31);
    if (lane < 16) {
        output[5 * 32] = static_cast<int>(__ballot_sync(0x0000ffffu, lane % 2));
        output[6 * 32] = __reduce_add_sync(0x0000ffffu, lane);
    } else {
        __syncwarp(0xffff0000u);
        output[5 * 32] = __any_sync(0xffff0000u, lane == 3);
        output[6 * 32] = __reduce_max_sync(0xffff0000u, lane);
    }
}

// Each thread of the grid does one of each to output[0..8], which begin as 0.
FOLIO_KERNEL(probe_atomics, ProbeParams, 128, 1) {
    wait_for_previous_kernel();
    int* output = static_cast<int*>(p.output);
    auto* unsigned_output = static_cast<unsigned*>(p.output);
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&output[0], thread);
    atomicAdd(&unsigned_output[1], 1u);
    atomicMax(&output[2], thread);
    atomicMin(&output[3], -thread);
    atomicAdd(static_cast<float*>(p.output) + 4, 0.5f);
    atomicAdd(reinterpret_cast<unsigned long long*>(unsigned_output + 6), 0x100000000ull + 1);
    // A counter that is read, changed and swapped back.
    int expected = output[5];
    for (;;) {
        const int found = atomicCAS(&output[5], expected, expected + 2);
        if (found == expected) break;
        expected = found;
    }
    // Whoever comes last finds all the others there.
    if (atomicAdd(&unsigned_output[8], 1u) == gridDim.x * blockDim.x - 1) output[9] = output[0];
}

// Each thread writes its position in the grid, all three coordinates, and sizes at the end of the grid.
FOLIO_KERNEL(probe_indices, ProbeParams, 64, 1) {
    wait_for_previous_kernel();
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int* output = static_cast<int*>(p.output) + (block * blockDim.x + threadIdx.x) * 4;
    output[0] = blockIdx.x;
    output[1] = blockIdx.y;
    output[2] = blockIdx.z;
    output[3] = threadIdx.x;
}

// In which order blocks took their tickets.
FOLIO_KERNEL(probe_order, ProbeParams, 32, 1) {
    wait_for_previous_kernel();
    int* output = static_cast<int*>(p.output);
    if (threadIdx.x == 0) output[1 + atomicAdd(&output[0], 1)] = blockIdx.x;
}

// Writes from_float's bits of [count] floats, as ints, and what to_float makes of them, [2][count].
template <class T> DEVICE void convert(const ProbeParams& p) {
    wait_for_previous_kernel();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    const uint32_t word = pack2<T>(0.f, static_cast<const float*>(p.input)[i]);
    const float2 back = unpack2<T>(word);
    static_cast<uint32_t*>(p.output)[i] = word >> 16;
    static_cast<float*>(p.output)[p.count + i] = back.x + back.y;
}
FOLIO_KERNEL(probe_convert_bf16, ProbeParams, 128, 1) { convert<bf16>(p); }
FOLIO_KERNEL(probe_convert_f16, ProbeParams, 128, 1) { convert<f16>(p); }

// What functions of bits and of mixed signs say of input[0..4].
FOLIO_KERNEL(probe_bits, ProbeParams, 32, 1) {
    wait_for_previous_kernel();
    if (threadIdx.x != 0) return;
    const auto* x = static_cast<const unsigned*>(p.input);
    auto* output = static_cast<unsigned*>(p.output);
    output[0] = __popc(x[0]);
    output[1] = __ffs(static_cast<int>(x[0]));
    output[2] = __clz(static_cast<int>(x[0]));
    output[3] = __umulhi(x[0], x[1]);
    output[4] = __float_as_uint(__uint_as_float(x[0]));
    output[5] = min(-1, x[1]);
    output[6] = max(static_cast<int>(x[2]), 5);
    output[7] = __clz(0) + __ffs(0);
}

// ldmatrix of count = 0, or its transposing twin of count = 1, of a [32][8] tile of 16-bit numbers
// whose row r is r * 8 and so on. Writes [32][4] words.
FOLIO_KERNEL(probe_ldmatrix, ProbeParams, 32, 1) {
    wait_for_previous_kernel();
    DYNAMIC_SHARED(bytes);
    uint16_t* tile = reinterpret_cast<uint16_t*>(bytes);
    for (int i = threadIdx.x; i < 256; i += 32) tile[i] = static_cast<uint16_t>(i);
    __syncwarp();
    uint32_t words[4];
    if (p.count == 0) ldmatrix_x4(words, tile + threadIdx.x * 8);
    else ldmatrix_x4_trans(words, tile + threadIdx.x * 8);
    for (int i = 0; i < 4; i++) static_cast<uint32_t*>(p.output)[threadIdx.x * 4 + i] = words[i];
}

// c + a * b of one tensor-core product: a [16][16], then b as [8][16], of T; c [16][8] in output.
template <class T> DEVICE void multiply(const ProbeParams& p) {
    wait_for_previous_kernel();
    DYNAMIC_SHARED(bytes);
    T* tile = reinterpret_cast<T*>(bytes);
    const T* input = static_cast<const T*>(p.input);
    for (int i = threadIdx.x; i < 24 * 16 / 8; i += 32) cp_async_16(tile + i * 8, input + i * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    const int lane = threadIdx.x;
    uint32_t a[4], b[4];
    ldmatrix_x4(a, tile + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x4(b, tile + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);
    float* output = static_cast<float*>(p.output) + lane / 4 * 8 + lane % 4 * 2;
    float c[4] = {output[0], output[1], output[64], output[65]};
    mma_16816<T>(c, a, b[0], b[1]);
    output[0] = c[0];
    output[1] = c[1];
    output[64] = c[2];
    output[65] = c[3];
}
FOLIO_KERNEL(probe_multiply_bf16, ProbeParams, 32, 1) { multiply<bf16>(p); }
FOLIO_KERNEL(probe_multiply_f16, ProbeParams, 32, 1) { multiply<f16>(p); }

// output[i] = 2 * output[i] + 1, for [count] ints.
FOLIO_KERNEL(probe_step, ProbeParams, 128, 1) {
    wait_for_previous_kernel();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    int* output = static_cast<int*>(p.output);
    output[i] = 2 * output[i] + 1;
}
