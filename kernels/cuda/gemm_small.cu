// Matrix product y[M, N] = x[M, K] * W[N, K]^T for M <= 64: each weight is read once, at the memory's pace.
//
// gemm_small_<rows>x<columns>: tiles of y. Their work is one list of units, 16 KB of W each, tile by tile
// and along K within one; a block takes an equal run. Of several blocks with parts of a tile the last to
// arrive adds them up, in the order of the blocks: one launch, the same bits every time, counters at 0
// again. W of the first three units is under way before the previous kernel has ended.
//
// Floor: 2 N K bytes at 3.0 TB/s (H100). Under way: 32 to 48 KB of W a multiprocessor, 4.2 to 6.3 MB in all;
// 3 TB/s at 1 us of latency need 3. A unit's share of memory is 1260 cycles; its work is about 115
// instructions a warp (8x32 on sm_90a: 5 LDGSTS, 6 LDSM, 4 HMMA). x costs rows / columns of W's bytes, from
// L2. Shared memory: 72 to 96 KB, so that the next kernel fits beside. Expected: 8 MB in 4 us, 33 MB in 13.
// nvcc: --fmad=false
// sass gemm_small_*: registers<=128 HMMA LDSM LDGSTS.E.BYPASS
#include "gemm.cuh"

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;

// A place in the list of units, which goes along K first, and the stage of the ring that the unit has.
struct Cursor {
    int tile, unit_of_tile, stage;

    DEVICE void advance(int units_per_tile, int num_stages) {
        stage = stage + 1 == num_stages ? 0 : stage + 1;
        unit_of_tile++;
        if (unit_of_tile < units_per_tile) return;
        unit_of_tile = 0;
        tile++;
    }
};

// Copies NUM_ROWS rows by a unit's columns, a chunk a thread at a time. In shared memory each inner group has
// the rows of its own 64 columns.
template <class T, int NUM_ROWS, int CHUNKS> struct RowCopy {
    static constexpr int kStep = kThreads / CHUNKS; // rows at once
    static constexpr int kPasses = (NUM_ROWS + kStep - 1) / kStep;
    const T* rows[kPasses];

    // Rows beyond the matrix are read as its last row and dropped in the end.
    DEVICE void seek(const void* from, int64_t stride, int first, int num_rows) {
#pragma unroll
        for (int i = 0; i < kPasses; i++) {
            const int row = static_cast<int>(threadIdx.x) / CHUNKS + i * kStep;
            rows[i] = static_cast<const T*>(from) + min(first + row, num_rows - 1) * stride;
        }
    }
    // Columns beyond K are zeros.
    DEVICE void copy(unsigned char* to, int unit_of_tile, int inner) const {
        const int chunk = threadIdx.x % CHUNKS;
        const int k = (unit_of_tile * CHUNKS + chunk) * kChunkElements;
        const bool valid = k < inner;
        const int offset = valid ? k : 0;
        to += chunk / 8 * (NUM_ROWS * kRowBytes);
#pragma unroll
        for (int i = 0; i < kPasses; i++) {
            const int row = static_cast<int>(threadIdx.x) / CHUNKS + i * kStep;
            if (NUM_ROWS % kStep == 0 || row < NUM_ROWS)
                cp_async_16(to + chunk_offset(row, chunk % 8), rows[i] + offset, valid);
        }
    }
};

// A block of 8 warps works through a run of units, 16 KB of weights each: TILE rows of W by UNIT columns.
template <class T, int ROW_BLOCKS, int ROW_GROUPS> struct StreamProduct {
    static constexpr int kInnerGroups = kWarps / ROW_GROUPS; // of warps with the same rows
    static constexpr int kTile = 16 * ROW_GROUPS;
    static constexpr int kUnit = kRowElements * kInnerGroups;
    static constexpr int kRows = 8 * ROW_BLOCKS; // rows of x that fit
    static constexpr int kStages = 4;
    static constexpr int kWeightBytes = kTile * kUnit * 2;
    static constexpr int kStageBytes = kWeightBytes + kRows * kUnit * 2;
    static constexpr int kChunks = kUnit / kChunkElements; // of a row
    static constexpr int kSteps = kRowElements / 16;
    static constexpr int kTileVectors = ROW_BLOCKS * ROW_GROUPS * 32; // float4 of a tile of sums

    const GemmSmallParams& params;
    const GemmOperands& p;
    unsigned char* shared;
    int lane, row_group, inner_group;
    int first_unit, end_unit;
    RowCopy<T, kTile, kChunks> weight; // of the tile that is being copied
    RowCopy<T, kRows, kChunks> input;
    float sums[ROW_BLOCKS][4];

    DEVICE StreamProduct(const GemmSmallParams& parameters, unsigned char* shared_bytes)
        : params(parameters), p(parameters.product), shared(shared_bytes), lane(threadIdx.x % 32),
          row_group(threadIdx.x / 32 % ROW_GROUPS), inner_group(threadIdx.x / 32 / ROW_GROUPS) {
        first_unit = static_cast<int>(blockIdx.x) * params.units_per_block;
        end_unit = min(first_unit + params.units_per_block, params.num_units);
        clear();
    }
    DEVICE void clear() {
        for (int i = 0; i < ROW_BLOCKS; i++)
            for (int e = 0; e < 4; e++) sums[i][e] = 0.0f;
    }

    DEVICE unsigned char* stage_at(Cursor at) const { return shared + at.stage * kStageBytes; }
    DEVICE void copy_weight(Cursor to) const { weight.copy(stage_at(to), to.unit_of_tile, p.inner); }
    DEVICE void copy_input(Cursor to) const {
        input.copy(stage_at(to) + kWeightBytes, to.unit_of_tile, p.inner);
    }
    // On to the next unit, and to the rows of its tile.
    DEVICE void advance(Cursor& ahead) {
        ahead.advance(params.units_per_tile, kStages);
        if (ahead.unit_of_tile == 0) seek_weight(ahead.tile);
    }
    DEVICE void seek_weight(int tile) { weight.seek(p.weight, p.weight_stride, tile * kTile, p.num_cols); }

    // Weights are the 16 rows of the mma, so that the rows of x are padded to 8 only.
    DEVICE void multiply(const unsigned char* stage) {
        const unsigned char* weights = stage + (inner_group * kTile + row_group * 16) * kRowBytes;
        const unsigned char* inputs = stage + kWeightBytes + inner_group * kRows * kRowBytes;
        uint32_t input[kSteps][ROW_BLOCKS][2];
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            uint32_t r[4];
            if (ROW_BLOCKS == 1) {
                if (step % 2 == 1) continue; // four chunks of 8 rows: two steps at once
                ldmatrix_x4(r, inputs + chunk_offset(lane % 8, 2 * step + lane / 8));
                input[step][0][0] = r[0], input[step][0][1] = r[1];
                input[step + 1][0][0] = r[2], input[step + 1][0][1] = r[3];
            } else {
                for (int i = 0; i < ROW_BLOCKS; i += 2) { // two chunks of 16 rows
                    const int row = i * 8 + lane / 16 * 8 + lane % 8;
                    ldmatrix_x4(r, inputs + chunk_offset(row, 2 * step + lane / 8 % 2));
                    input[step][i][0] = r[0], input[step][i][1] = r[1];
                    input[step][i + 1][0] = r[2], input[step][i + 1][1] = r[3];
                }
            }
        }
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            uint32_t weight[4];
            ldmatrix_x4(weight, weights + chunk_offset(lane % 16, 2 * step + lane / 16));
#pragma unroll
            for (int i = 0; i < ROW_BLOCKS; i++)
                mma_16816<T>(sums[i], weight, input[step][i][0], input[step][i][1]);
        }
    }

    // Adds up the inner groups in shared memory that no copy is under way to; the first group has the sums.
    DEVICE void join_inner_groups(unsigned char* stage) {
        if (kInnerGroups == 1) return;
        static_assert((kInnerGroups - 1) * kTileVectors * 16 <= kStageBytes, "the sums fit a stage");
        float4* staged = reinterpret_cast<float4*>(stage) + row_group * 32 + lane;
        __syncthreads(); // until all have multiplied what lies there
        for (int i = 0; i < ROW_BLOCKS; i++)
            if (inner_group > 0)
                staged[(inner_group - 1) * kTileVectors + i * ROW_GROUPS * 32] =
                    make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        __syncthreads();
        if (inner_group > 0) return;
        for (int group = 0; group < kInnerGroups - 1; group++)
            for (int i = 0; i < ROW_BLOCKS; i++)
                add(sums[i], staged[group * kTileVectors + i * ROW_GROUPS * 32]);
    }
    DEVICE static void add(float (&to)[4], float4 x) {
        to[0] += x.x;
        to[1] += x.y;
        to[2] += x.z;
        to[3] += x.w;
    }

    DEVICE float4* partial(int block, int tile) const {
        const int is_later = block * params.units_per_block / params.units_per_tile != tile;
        return reinterpret_cast<float4*>(params.partials) + (2 * block + is_later) * kTileVectors +
               row_group * 32 + lane;
    }

    // Whether this block was the last with a part of `tile`; it then has the tile's sums, added up in the
    // order of the blocks whoever was last. The counter is that of the tile's first block and ends at 0.
    DEVICE bool join_blocks(int tile, int first_block, int last_block) {
        if (inner_group == 0) {
            float4* mine = partial(blockIdx.x, tile);
            for (int i = 0; i < ROW_BLOCKS; i++)
                mine[i * ROW_GROUPS * 32] = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        }
        __threadfence();
        __syncthreads();
        int* is_last = reinterpret_cast<int*>(shared + kStages * kStageBytes);
        if (threadIdx.x == 0) {
            *is_last = atomicAdd(params.counters + first_block, 1) == last_block - first_block;
            if (*is_last) params.counters[first_block] = 0;
        }
        __syncthreads();
        if (!*is_last) return false;
        __threadfence();
        if (inner_group > 0) return true;
        clear();
        for (int block = first_block; block <= last_block; block++) {
            const float4* theirs = partial(block, tile);
            for (int i = 0; i < ROW_BLOCKS; i++) add(sums[i], theirs[i * ROW_GROUPS * 32]);
        }
        return true;
    }

    // A thread has columns n and n + 8 of rows 2t and 2t + 1. For 16-bit outputs, lanes of neighbouring
    // columns trade so that each stores two columns of one row.
    DEVICE void store(int tile) const {
        const int col = tile * kTile + row_group * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int n = col + half * 8;
            const float bias = bias_of<T>(p, n);
#pragma unroll
            for (int i = 0; i < ROW_BLOCKS; i++) {
                const int m = i * 8 + lane % 4 * 2;
                store_pair(m, n, finish(sums[i][2 * half], bias, p.epilogue),
                           finish(sums[i][2 * half + 1], bias, p.epilogue));
            }
        }
    }
    DEVICE void store_pair(int m, int n, float upper, float lower) const {
        if (params.outputs_are_paired) {
            const bool is_odd = lane / 4 % 2;
            const float other = __shfl_xor_sync(~0u, is_odd ? upper : lower, 4);
            const int row = m + is_odd;
            if (row >= p.num_rows || n >= p.num_cols) return;
            T* to = static_cast<T*>(p.output) + row * p.output_stride + (n - is_odd);
            *reinterpret_cast<uint32_t*>(to) = is_odd ? pack2<T>(other, lower) : pack2<T>(upper, other);
            return;
        }
        if (n >= p.num_cols) return;
        if (m < p.num_rows) store_one(m * p.output_stride + n, upper);
        if (m + 1 < p.num_rows) store_one((m + 1) * p.output_stride + n, lower);
    }
    DEVICE void store_one(int64_t at, float value) const {
        if (p.output_is_f32) {
            static_cast<float*>(p.output)[at] = value;
        } else {
            static_cast<T*>(p.output)[at] = from_float<T>(value);
        }
    }

    DEVICE void finish_tile(int tile, unsigned char* stage) {
        const int first = tile * params.units_per_tile, last = first + params.units_per_tile - 1;
        const int first_block = first / params.units_per_block, last_block = last / params.units_per_block;
        join_inner_groups(stage);
        if (first_block == last_block || join_blocks(tile, first_block, last_block)) {
            if (inner_group == 0) store(tile);
        }
        clear();
    }

    DEVICE void run() {
        const int units_per_tile = params.units_per_tile;
        int num_units = end_unit - first_unit, num_to_copy = num_units;
        Cursor at = {first_unit / units_per_tile, first_unit % units_per_tile, 0};
        Cursor ahead = at, input_ahead = at;
        seek_weight(at.tile);
        for (int i = 0; i < kStages - 1; i++) {
            if (i < num_units) copy_weight(ahead); // never written, so they need not wait
            advance(ahead);
        }
        input.seek(p.input, p.input_stride, 0, p.num_rows);
        wait_for_previous_kernel();
        for (int i = 0; i < kStages - 1; i++) {
            if (i < num_units) copy_input(input_ahead);
            cp_async_commit();
            input_ahead.advance(units_per_tile, kStages);
        }
        let_next_kernel_begin();
        num_to_copy -= kStages - 1;
        for (; num_units > 0; num_units--, num_to_copy--) {
            cp_async_wait<kStages - 2>();
            __syncthreads();
            if (num_to_copy > 0) {
                copy_weight(ahead);
                copy_input(ahead);
                advance(ahead);
            }
            cp_async_commit();
            multiply(stage_at(at));
            if (num_units == 1 || at.unit_of_tile + 1 == units_per_tile) finish_tile(at.tile, stage_at(at));
            at.advance(units_per_tile, kStages);
        }
    }
};

template <class T, int ROW_BLOCKS, int ROW_GROUPS> DEVICE void gemm_small(const GemmSmallParams& p) {
    DYNAMIC_SHARED(shared);
    StreamProduct<T, ROW_BLOCKS, ROW_GROUPS>(p, shared).run();
}

} // namespace

FOLIO_KERNEL(gemm_small_8x16_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 1, 1>(p); }
FOLIO_KERNEL(gemm_small_8x16_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 1, 1>(p); }
FOLIO_KERNEL(gemm_small_8x32_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 1, 2>(p); }
FOLIO_KERNEL(gemm_small_8x32_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 1, 2>(p); }
FOLIO_KERNEL(gemm_small_8x64_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 1, 4>(p); }
FOLIO_KERNEL(gemm_small_8x64_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 1, 4>(p); }
FOLIO_KERNEL(gemm_small_16x32_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 2, 2>(p); }
FOLIO_KERNEL(gemm_small_16x32_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 2, 2>(p); }
FOLIO_KERNEL(gemm_small_16x64_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 2, 4>(p); }
FOLIO_KERNEL(gemm_small_16x64_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 2, 4>(p); }
FOLIO_KERNEL(gemm_small_32x64_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 4, 4>(p); }
FOLIO_KERNEL(gemm_small_32x64_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 4, 4>(p); }
FOLIO_KERNEL(gemm_small_32x128_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 4, 8>(p); }
FOLIO_KERNEL(gemm_small_32x128_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 4, 8>(p); }
FOLIO_KERNEL(gemm_small_64x128_bf16, GemmSmallParams, 256, 2) { gemm_small<bf16, 8, 8>(p); }
FOLIO_KERNEL(gemm_small_64x128_f16, GemmSmallParams, 256, 2) { gemm_small<f16, 8, 8>(p); }
