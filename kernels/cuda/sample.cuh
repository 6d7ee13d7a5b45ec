// What the sampling kernels share: rows, keys, weights, masses.
//
// They give the tokens of the sampler on the host, bit for bit. Logits are compared by their keys,
// integers in the same order. Weights, e^((logit - largest) / temperature), are made with the host's own
// additions and multiplications (never contracted: --fmad=false) and summed as integers, masses, in
// units of 2^-40: the sums are the same in whatever order threads arrive. The tokens of a row form blocks
// of 256; the largest key of each tells which blocks need not be read again.
#pragma once
#include "device.cuh"

using u64 = unsigned long long;

constexpr int BLOCK_TOKENS = SAMPLE_BLOCK_TOKENS;
// Tokens of a block that one lane holds: two groups of four neighbours.
constexpr int LANE_TOKENS = 8;
constexpr int MAX_TOP = SAMPLE_MAX_TOP;

// Keys of the two infinities and of the lowest number.
constexpr uint32_t KEY_OF_BAN = 0x007fffff;
constexpr uint32_t KEY_OF_LOWEST = 0x00800000;
constexpr uint32_t KEY_OF_INFINITY = 0xff800000;

// Larger for larger logits, equal for equal ones, the two zeros among them. NaN is above all.
DEVICE uint32_t key_of(float logit) {
    const uint32_t bits = __float_as_uint(logit + 0.0f);
    const uint32_t key = bits ^ (bits >> 31 != 0 ? ~0u : 0x80000000u);
    return logit != logit ? ~0u : key;
}
DEVICE float logit_of(uint32_t key) {
    return __uint_as_float(key >> 31 != 0 ? key ^ 0x80000000u : ~key);
}

// A token's place in the ranking: by logit, the smaller id first among equals. Larger is likelier.
DEVICE u64 place_of(uint32_t key, uint32_t token) { return static_cast<u64>(key) << 32 | (~token); }
DEVICE uint32_t key_at(u64 place) { return static_cast<uint32_t>(place >> 32); }
DEVICE uint32_t token_at(u64 place) { return ~static_cast<uint32_t>(place); }

// ---- rows -----------------------------------------------------------------------------------------

struct Row {
    int index;          // among the emitting rows
    int slot;           // -1: a row of padding
    uint32_t position;  // of the new token
    float* logits;      // [V]
};

DEVICE Row find_row(const SampleParams& p, int index) {
    Row row;
    const int from = p.rows[index];
    row.index = index;
    row.slot = from < 0 ? -1 : p.row_slots[from];
    row.position = from < 0 ? 0 : static_cast<uint32_t>(p.seq_lens[from]);
    row.logits = p.logits + index * p.stride;
    return row;
}

// The row's block maxima, as keys, and block masses.
DEVICE uint32_t* maxima_of(const SampleParams& p, const Row& row) {
    return p.state.maxima + static_cast<int64_t>(row.index) * p.state.num_blocks;
}
DEVICE uint64_t* masses_of(const SampleParams& p, const Row& row) {
    return p.state.masses + static_cast<int64_t>(row.index) * p.state.num_blocks;
}

// The i-th of the tokens of a block that this lane holds.
DEVICE int token_of(int block, int i) {
    const int lane = threadIdx.x % 32;
    return block * BLOCK_TOKENS + i / 4 * (BLOCK_TOKENS / 2) + lane * 4 + i % 4;
}

// This lane's logits of a block; minus infinity beyond the row.
DEVICE void load_block(const SampleParams& p, const Row& row, int block, float (&logits)[LANE_TOKENS]) {
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i += 4) {
        const int token = token_of(block, i);
        if (p.width == 4 && token + 4 <= p.state.vocab_size) {
            const float4 four = *reinterpret_cast<const float4*>(row.logits + token);
            logits[i] = four.x;
            logits[i + 1] = four.y;
            logits[i + 2] = four.z;
            logits[i + 3] = four.w;
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const bool exists = token + j < p.state.vocab_size;
                logits[i + j] = exists ? row.logits[token + j] : -INFINITY;
            }
        }
    }
}

// ---- weights --------------------------------------------------------------------------------------

// 2^x for x <= 0: the host's function of this name.
DEVICE float exp2_of_negative(float x) {
    constexpr float ROUND = 12582912.0f;
    const float rounded = x + ROUND;
    const float f = x - (rounded - ROUND);
    float series = 0.0013381302f;
    series = series * f + 0.009666368f;
    series = series * f + 0.05550381f;
    series = series * f + 0.2402235f;
    series = series * f + 0.693147180559945309f;
    series = series * f + 1.0f;
    const uint32_t exponent = __float_as_uint(rounded) - __float_as_uint(ROUND);
    const float power = __uint_as_float((exponent + 127u) << 23);
    return x > -126.0f ? series * power : 0.0f;
}

// What turns logits of a row into weights.
struct Weigher {
    float max;
    float scale;
    float min_weight;   // lighter tokens weigh nothing
};

DEVICE Weigher weigher_of(uint32_t max_key, float temperature, float min_p) {
    const float scale = 1.44269504088896341f / temperature;
    return {logit_of(max_key), fminf(scale, 3.402823466e38f), fminf(fmaxf(min_p, 0.0f), 1.0f)};
}

DEVICE float exponent_of(const Weigher& weigher, float logit) {
    return (logit - weigher.max) * weigher.scale;
}
DEVICE float weight_of(const Weigher& weigher, float logit) {
    const float weight = exp2_of_negative(exponent_of(weigher, logit));
    return weight >= weigher.min_weight ? weight : 0.0f;
}

// ---- masses ---------------------------------------------------------------------------------------

// A weight in units of 2^-40, to the nearest, as a count of 2^-17 and a signed one of 2^-40, each above an
// offset: adding 96 rounds to a multiple of 2^-17, adding 1.5 * 2^-17 to one of 2^-40.
constexpr float COARSE = 96.0f;
constexpr float FINE = 1.5f / 131072.0f;

DEVICE void add_digits(float weight, uint32_t& coarse, uint32_t& fine) {
    const float rounded = weight + COARSE;
    const float rest = weight - (rounded - COARSE);
    coarse += __float_as_uint(rounded) - __float_as_uint(COARSE);
    fine += __float_as_uint(rest + FINE) - __float_as_uint(FINE);
}
DEVICE u64 join_digits(uint32_t coarse, uint32_t fine) {
    const long long signed_fine = static_cast<int32_t>(fine);
    return (static_cast<u64>(coarse) << 23) + static_cast<u64>(signed_fine);
}

DEVICE u64 mass_of(float weight) {
    uint32_t coarse = 0, fine = 0;
    add_digits(weight, coarse, fine);
    return join_digits(coarse, fine);
}

// The mass of a block whose weights the lanes of a warp hold, for all of them.
DEVICE u64 mass_of_block(const float (&weights)[LANE_TOKENS]) {
    uint32_t coarse = 0, fine = 0;
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) add_digits(weights[i], coarse, fine);
    return join_digits(__reduce_add_sync(~0u, coarse), __reduce_add_sync(~0u, fine));
}

// ---- over the threads of a block ------------------------------------------------------------------

DEVICE u64 warp_max(u64 x) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const u64 other = __shfl_xor_sync(~0u, x, distance);
        x = other > x ? other : x;
    }
    return x;
}

// The largest x, for all threads. `scratch` has an element a warp.
DEVICE u64 block_max(u64 x, u64* scratch) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    const int num_warps = blockDim.x / 32, lane = threadIdx.x % 32;
    return warp_max(lane < num_warps ? scratch[lane] : 0);
}

// What is wrong with a row whose largest logit has this key, or SAMPLED.
DEVICE int status_of(uint32_t max_key) {
    if (max_key > KEY_OF_INFINITY) return SAMPLE_NOT_A_NUMBER;
    if (max_key == KEY_OF_INFINITY) return SAMPLE_INFINITE;
    return max_key <= KEY_OF_BAN ? SAMPLE_ALL_BANNED : SAMPLED;
}

// For one thread: what the host reads of a row that reports no log-probabilities.
DEVICE void write_result(const SampleParams& p, const Row& row, int status, uint32_t token) {
    p.state.records[row.index] = {status, token, 0.0f, 0.0f, 0, -1, 0};
    p.last_tokens[row.slot] = status == SAMPLED ? static_cast<int32_t>(token) : 0;
}
