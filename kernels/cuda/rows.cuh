// Rows of 16-bit numbers, W at a time: 8 with one access of 16 bytes, 4 with one of 8, or 1.
//
// The small kernels are limited by memory alone. They read and write whole vectors where addresses
// and strides allow it (the host decides), and single numbers elsewhere.
#pragma once
#include "device.cuh"

// W numbers as they lie in memory.
template <class T, int W> struct Packed;
template <class T> struct alignas(16) Packed<T, 8> {
    uint32_t words[4];
};
template <class T> struct alignas(8) Packed<T, 4> {
    uint32_t words[2];
};
template <class T> struct Packed<T, 1> {
    T number;
};

// Four single-precision numbers, one access of 16 bytes.
struct alignas(16) Float4 {
    float x[4];
};

template <class T, int W> DEVICE void unpack(const Packed<T, W>& packed, float (&x)[W]) {
    if constexpr (W == 1) {
        x[0] = to_float(packed.number);
    } else {
#pragma unroll
        for (int i = 0; i < W / 2; i++) {
            float2 pair = unpack2<T>(packed.words[i]);
            x[2 * i] = pair.x;
            x[2 * i + 1] = pair.y;
        }
    }
}

template <class T, int W> DEVICE Packed<T, W> pack(const float (&x)[W]) {
    Packed<T, W> packed;
    if constexpr (W == 1) {
        packed.number = from_float<T>(x[0]);
    } else {
#pragma unroll
        for (int i = 0; i < W / 2; i++) packed.words[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
    }
    return packed;
}

template <class T, int W> DEVICE Packed<T, W> load(const void* row, int64_t index) {
    return *reinterpret_cast<const Packed<T, W>*>(static_cast<const T*>(row) + index);
}
template <class T, int W> DEVICE void store(void* row, int64_t index, const Packed<T, W>& packed) {
    *reinterpret_cast<Packed<T, W>*>(static_cast<T*>(row) + index) = packed;
}

// W single-precision numbers, aligned to 16 bytes where W is a multiple of 4.
template <int W> DEVICE void load_floats(const float* from, float (&x)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W / 4; i++) {
            Float4 four = reinterpret_cast<const Float4*>(from)[i];
#pragma unroll
            for (int j = 0; j < 4; j++) x[4 * i + j] = four.x[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = from[i];
    }
}

// Each number becomes the nearest among those of T. In pairs: see pack2.
template <class T, int W> DEVICE void round_all(float (&x)[W]) { unpack(pack<T, W>(x), x); }

// The sum of x over all threads of the block, the same for every thread, in an order that depends on
// the number of threads only. `sums` has a float for each warp and is free once all have returned and met
// at a barrier.
DEVICE float block_sum(float x, float* sums) {
    int num_warps = blockDim.x / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    int lane = threadIdx.x % 32;
    return warp_sum(lane < num_warps ? sums[lane] : 0.0f);
}
