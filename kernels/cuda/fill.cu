// fill_random: weights that are made up on the device. fill_floats: one number everywhere.
//
// Element i is a hash of i and the seed, scaled to -scale..scale: the same whatever the grid.
//
// Floor: 2 bytes written an element, or 4.
// sass fill_random_*: registers<=48 STG.E.128
#include "rows.cuh"

// A finaliser of 64 bits: every bit of the result depends on every bit of x.
DEVICE uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// 24 random bits as a number in -1..1.
DEVICE float uniform(uint32_t bits) { return (bits >> 8) * (1.0f / 8388608.0f) - 1.0f; }

// Numbers 2 k and 2 k + 1 are the halves of one hash.
template <class T> DEVICE uint32_t random_pair(const FillRandomParams& p, int64_t k) {
    const uint64_t bits = mix(p.seed + (uint64_t(k) + 1) * 0x9E3779B97F4A7C15ull);
    return pack2<T>(uniform(uint32_t(bits)) * p.scale, uniform(uint32_t(bits >> 32)) * p.scale);
}

template <class T> DEVICE void fill_random(const FillRandomParams& p) {
    wait_for_previous_kernel();
    const int64_t step = int64_t(gridDim.x) * blockDim.x * 8;
    for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8; i < p.num_elements; i += step) {
        Packed<T, 8> packed;
#pragma unroll
        for (int j = 0; j < 4; j++) packed.words[j] = random_pair<T>(p, i / 2 + j);
        if (i + 8 <= p.num_elements) {
            store(p.out, i, packed);
            continue;
        }
        for (int j = 0; i + j < p.num_elements; j++) {
            float2 pair = unpack2<T>(packed.words[j / 2]);
            static_cast<T*>(p.out)[i + j] = from_float<T>(j % 2 ? pair.y : pair.x);
        }
    }
}

FOLIO_KERNEL(fill_random_bf16, FillRandomParams, 256, 4) { fill_random<bf16>(p); }
FOLIO_KERNEL(fill_random_f16, FillRandomParams, 256, 4) { fill_random<f16>(p); }

FOLIO_KERNEL(fill_floats, FillFloatsParams, 256, 4) {
    wait_for_previous_kernel();
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.num_elements; i += step) {
        p.out[i] = p.value;
    }
}
