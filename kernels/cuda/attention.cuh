// What the attention kernels share: tiles of keys and values in shared memory, products with them, and
// the softmax that goes along.
//
// A warp has 16 query rows in the layout of mma m16n8k16: lane l holds rows g = l / 4 and g + 8, and
// of each 8 columns 2t and 2t + 1, t = l % 4. Scores are raw products; `scale` below is what turns
// them into exponents of 2. Each row keeps an offset near its largest exponent: weights are
// 2^(score * scale - offset). The offset moves only when a weight would pass 2^8, and for each row by
// its own scores alone, so that neither time nor bits are spent on rows that did not ask for it.
#pragma once
#include "device.cuh"

constexpr int TILE_TOKENS = 64;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float NOTHING_SEEN = -1e30f;
constexpr float MAX_GROWTH = 8.0f;
constexpr float MINUS_INFINITY = -__builtin_huge_valf();

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// ---- tiles in shared memory: [rows][D], 16-byte chunks permuted within a row ----------------------------

// Within how many neighbours chunks are permuted.
template <int D> constexpr int SPREAD = D / 8 % 8 == 0 ? 8 : D / 8 % 4 == 0 ? 4 : 2;

// Element offset of a chunk of 8 elements. Eight rows' chunks of one number, which an ldmatrix reads
// together, lie in different banks for every D that is a multiple of 16.
template <int D> DEVICE int chunk_offset(int row, int chunk) {
    return row * D + (chunk ^ ((row / (8 / SPREAD<D>)) & (SPREAD<D> - 1))) * 8;
}

// The same of chunk 2 * k + half, half being 0 or 1, in a form that costs little for every further k.
template <int D> DEVICE int chunk_offset(int row, int half, int k) {
    constexpr int period = SPREAD<D> / 2;
    return (chunk_offset<D>(row, half) ^ (k % period * 16)) + k / period * (period * 16);
}

// The same of chunk 32 * round + lane of all rows.
template <int D> DEVICE int round_offset(int lane, int round) {
    constexpr int num_chunks = D / 8;
    if constexpr (32 % num_chunks == 0) {
        constexpr int rows = 32 / num_chunks;
        const int lane_offset = chunk_offset<D>(lane / num_chunks, lane % num_chunks);
        return (lane_offset ^ (SPREAD<D> == 8 ? round * rows % 8 * 8 : 0)) + round * 256;
    } else {
        return chunk_offset<D>((round * 32 + lane) / num_chunks, (round * 32 + lane) % num_chunks);
    }
}

// A warp sends for rows of D elements that follow one another; those outside [begin, end) become zeros
// and are not read. `source` is row 0, an address that may be read.
template <class T, int D, int NUM_ROWS>
DEVICE void load_rows(T* shared, const T* source, int begin, int end) {
    constexpr int num_rounds = NUM_ROWS * D / 256;
    static_assert(NUM_ROWS * D % 256 == 0, "a warp loads whole rounds of 32 chunks");
    const int lane = threadIdx.x % 32;
    source = opaque(source + lane * 8);
    if (begin <= 0 && end >= NUM_ROWS) {
#pragma unroll
        for (int round = 0; round < num_rounds; ++round) {
            cp_async_16(shared + round_offset<D>(lane, round), source + round * 256, true);
        }
        return;
    }
#pragma unroll 1
    for (int round = 0; round < num_rounds; ++round) {
        const int row = (round * 32 + lane) / (D / 8);
        const bool valid = row >= begin && row < end;
        cp_async_16(shared + round_offset<D>(lane, round), source + (valid ? round * 256 : 0), valid);
    }
}

// The same of rows that begin `stride` elements apart.
template <class T, int D, int NUM_ROWS>
DEVICE void load_rows(T* shared, const T* source, int64_t stride, int begin, int end) {
    constexpr int num_chunks = D / 8, num_rounds = NUM_ROWS * D / 256;
    const int lane = threadIdx.x % 32;
    if (32 % num_chunks == 0 && begin <= 0 && end >= NUM_ROWS) {
        const T* from = source + lane / num_chunks * stride + lane % num_chunks * 8;
#pragma unroll
        for (int round = 0; round < num_rounds; ++round) {
            cp_async_16(shared + round_offset<D>(lane, round), from, true);
            from = opaque(from + 32 / num_chunks * stride);
        }
        return;
    }
#pragma unroll 1
    for (int round = 0; round < num_rounds; ++round) {
        const int row = (round * 32 + lane) / num_chunks, chunk = (round * 32 + lane) % num_chunks;
        const bool valid = row >= begin && row < end;
        const T* from = source + (valid ? row * stride : 0) + chunk * 8;
        cp_async_16(shared + round_offset<D>(lane, round), from, valid);
    }
}

// ---- products -------------------------------------------------------------------------------------

// scores = queries * keys^T for 16 * M query rows and NUM_TOKENS keys. `queries.fragment(m, k, a)`
// gives columns 16 k and on of rows 16 m and on as a left operand.
template <class T, int D, int NUM_TOKENS, int M, class Queries>
DEVICE void multiply_keys(float (&scores)[M][NUM_TOKENS / 8][4], const Queries& queries, const T* keys) {
    const int lane = threadIdx.x % 32;
    const int row = lane / 16 * 8 + lane % 8, half = lane / 8 % 2;
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < NUM_TOKENS / 8; ++n) {
            for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) queries.fragment(m, k, a[m]);
#pragma unroll
        for (int n = 0; n < NUM_TOKENS / 16; ++n) {
            uint32_t b[4];
            ldmatrix_x4(b, keys + n * 16 * D + chunk_offset<D>(row, half, k));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma_16816<T>(scores[m][2 * n], a[m], b[0], b[1]);
                mma_16816<T>(scores[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// sums += weights * values for 16 * M query rows and NUM_TOKENS keys.
template <class T, int D, int NUM_TOKENS, int M>
DEVICE void add_values(float (&sums)[M][D / 8][4], const uint32_t (&weights)[M][NUM_TOKENS / 16][4],
                       const T* values) {
    const int lane = threadIdx.x % 32;
    const int row = lane % 16, half = lane / 16;
#pragma unroll
    for (int k = 0; k < NUM_TOKENS / 16; ++k) {
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, values + k * 16 * D + chunk_offset<D>(row, half, n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma_16816<T>(sums[m][2 * n], weights[m][k], b[0], b[1]);
                mma_16816<T>(sums[m][2 * n + 1], weights[m][k], b[2], b[3]);
            }
        }
    }
}

// ---- softmax --------------------------------------------------------------------------------------

// Of a lane's rows g and g + 8: the offset, equal in the four lanes of a row, and this lane's part of
// the sum of weights.
struct SoftmaxRows {
    float offset[2];
    float sum[2];
};

DEVICE void reset(SoftmaxRows& rows) {
    rows.offset[0] = rows.offset[1] = NOTHING_SEEN;
    rows.sum[0] = rows.sum[1] = 0.0f;
}

DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// Products s become cap * tanh(s / cap).
template <int N> DEVICE void apply_soft_cap(float (&scores)[N][4], float cap) {
    const float to_exponent = 2.0f * LOG2_E / cap;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float power = exp2_fast(scores[n][i] * to_exponent);
            scores[n][i] = fmaf(-2.0f * cap, reciprocal_fast(power + 1.0f), cap);
        }
    }
}

// Moves the offsets of rows whose largest exponent has outgrown them, and rescales what they have.
template <int D>
DEVICE void move_offsets(SoftmaxRows& rows, float (&sums)[D / 8][4], const float (&largest)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float row_largest = quad_max(largest[half]);
        const bool grows = row_largest > rows.offset[half] + MAX_GROWTH;
        const float offset = grows ? row_largest : rows.offset[half];
        const float factor = exp2_fast(rows.offset[half] - offset);
        rows.offset[half] = offset;
        rows.sum[half] *= factor;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            sums[n][2 * half] *= factor;
            sums[n][2 * half + 1] *= factor;
        }
    }
}

// From scores to weights, as the left operand of a product with values. Masked scores are -inf.
template <class T, int D, int N>
DEVICE void weigh(SoftmaxRows& rows, float (&sums)[D / 8][4], uint32_t (&weights)[N / 2][4],
                  const float (&scores)[N][4], float scale) {
    float largest[2] = {MINUS_INFINITY, MINUS_INFINITY};
#pragma unroll
    for (int n = 0; n < N; ++n) {
        largest[0] = fmaxf(largest[0], fmaxf(scores[n][0], scores[n][1]));
        largest[1] = fmaxf(largest[1], fmaxf(scores[n][2], scores[n][3]));
    }
    largest[0] *= scale;
    largest[1] *= scale;
    const bool grows = largest[0] > rows.offset[0] + MAX_GROWTH || largest[1] > rows.offset[1] + MAX_GROWTH;
    if (__any_sync(~0u, grows)) move_offsets<D>(rows, sums, largest);
#pragma unroll
    for (int n = 0; n < N; ++n) {
        float weight[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            weight[i] = exp2_fast(fmaf(scores[n][i], scale, -rows.offset[i / 2]));
            rows.sum[i / 2] += weight[i];
        }
        weights[n / 2][n % 2 * 2] = pack2<T>(weight[0], weight[1]);
        weights[n / 2][n % 2 * 2 + 1] = pack2<T>(weight[2], weight[3]);
    }
}
