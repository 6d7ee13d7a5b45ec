// Matrix product y[M, N] = x[M, K] * W[N, K]^T by tiles, for 16-bit x and W with sums in f32.
//
// gemm_<rows>x<columns>: a block computes a tile of y over all of K, 64 columns a step, through a ring of
// cp.async with one barrier a step; fragments of the next 16 columns are read while these are multiplied.
// All tiles add up K in one order with one instruction, so no bit depends on which is taken, nor on other
// rows.
//
// Floors of an H100: 2 M N K operations at about 600 TFLOP/s (mma.sync); (rows + columns) * 128 bytes from
// L2 a block and step, at about 5.5 TB/s for all: 470 TFLOP/s by 128x256, 350 by 128x128, 175 by 64x64. With
// few rows, 2 N K bytes at 3.0 TB/s. A step of a warp of 128x256 on sm_90a: 256 instructions, of them 128
// HMMA, 32 LDSM, 12 LDGSTS (128x128: 276, 128, 32, 16). Shared memory: 144, 96, 64, 60 KB.
// nvcc: --fmad=false
// sass gemm_128x*: registers<=255 HMMA LDSM LDGSTS.E.BYPASS
// sass gemm_64x64_*: registers<=128 HMMA LDSM LDGSTS.E.BYPASS
// sass gemm_16x32_*: registers<=96 HMMA LDSM LDGSTS.E.BYPASS
#include "gemm.cuh"

namespace {

// The first `num` of 8 values; `whole` when there are 8 and the address is a multiple of 16 bytes.
template <class Out>
DEVICE void store_chunk(Out* to, const float (&values)[kChunkElements], bool whole, int num) {
    if (whole) {
        constexpr int kWords = kChunkElements * static_cast<int>(sizeof(Out)) / 16;
        union { Out parts[kChunkElements]; uint4 words[kWords]; } u;
        for (int e = 0; e < kChunkElements; e++) u.parts[e] = from_float<Out>(values[e]);
        for (int i = 0; i < kWords; i++) reinterpret_cast<uint4*>(to)[i] = u.words[i];
    } else {
        for (int e = 0; e < kChunkElements; e++)
            if (e < num) to[e] = from_float<Out>(values[e]);
    }
}

template <class T, int TILE_ROWS, int TILE_COLS, int WARPS_ROWS, int WARPS_COLS, int STAGES>
struct TileProduct {
    static constexpr int kThreads = 32 * WARPS_ROWS * WARPS_COLS;
    static constexpr int kRowsPerPass = kThreads / 8; // rows that all threads copy at once, a chunk each
    static constexpr int kInputPasses = TILE_ROWS / kRowsPerPass;
    static constexpr int kWeightPasses = TILE_COLS / kRowsPerPass;
    static constexpr int kInputBytes = TILE_ROWS * kRowBytes;
    static constexpr int kStageBytes = (TILE_ROWS + TILE_COLS) * kRowBytes;
    static constexpr int kWarpRows = TILE_ROWS / WARPS_ROWS;
    static constexpr int kWarpCols = TILE_COLS / WARPS_COLS;
    static constexpr int kRowBlocks = kWarpRows / 16; // of m16n8k16
    static constexpr int kColPairs = kWarpCols / 16;  // two n8 each
    static constexpr int kSteps = kRowElements / 16;
    static_assert(TILE_ROWS % kRowsPerPass == 0 && TILE_COLS % kRowsPerPass == 0, "whole passes");
    static_assert(kRowsPerPass % 8 == 0, "a thread's rows agree modulo 8");

    struct Fragments {
        uint32_t input[kRowBlocks][4];
        uint32_t weight[kColPairs][4];
    };

    const GemmOperands& p;
    unsigned char* shared;
    const T* input;  // this thread's chunk of the tile's first row
    const T* weight;
    int first_row, first_col;
    int thread, warp_row, warp_col;
    float sums[kRowBlocks][2 * kColPairs][4];

    DEVICE TileProduct(const GemmOperands& operands, unsigned char* shared_bytes, int row_tile, int col_tile)
        : p(operands), shared(shared_bytes), first_row(row_tile * TILE_ROWS), first_col(col_tile * TILE_COLS),
          thread(threadIdx.x), warp_row(thread / 32 / WARPS_COLS * kWarpRows),
          warp_col(thread / 32 % WARPS_COLS * kWarpCols) {
        input = static_cast<const T*>(p.input) + first_row * p.input_stride;
        weight = static_cast<const T*>(p.weight) + first_col * p.weight_stride;
        for (int i = 0; i < kRowBlocks; i++)
            for (int j = 0; j < 2 * kColPairs; j++)
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
    }

    // Rows beyond the matrix are read as its last row and dropped in the end; columns beyond K are zeros.
    template <int PASSES>
    DEVICE void copy(unsigned char* to, const T* from, int64_t stride, int num_rows, int k_tile) const {
        const int row = thread / 8, chunk = thread % 8;
        const int k = k_tile * kRowElements + chunk * kChunkElements;
        const bool valid = k < p.inner;
        const T* source = from + (valid ? k : 0);
        const int first = row * static_cast<int>(stride), step = kRowsPerPass * static_cast<int>(stride);
        const int last = (num_rows - 1) * static_cast<int>(stride);
        to += chunk_offset(row, chunk);
#pragma unroll
        for (int i = 0; i < PASSES; i++)
            cp_async_16(to + i * kRowsPerPass * kRowBytes, source + min(first + i * step, last), valid);
    }
    DEVICE void copy_input(int k_tile) const {
        unsigned char* stage = shared + k_tile % STAGES * kStageBytes;
        copy<kInputPasses>(stage, input, p.input_stride, min(p.num_rows - first_row, TILE_ROWS), k_tile);
    }
    DEVICE void copy_weight(int k_tile) const {
        unsigned char* stage = shared + k_tile % STAGES * kStageBytes + kInputBytes;
        copy<kWeightPasses>(stage, weight, p.weight_stride, min(p.num_cols - first_col, TILE_COLS), k_tile);
    }

    DEVICE void load(Fragments& f, const unsigned char* stage, int step) const {
        const int lane = thread % 32;
        const unsigned char* rows =
            stage + warp_row * kRowBytes + chunk_offset(lane % 16, 2 * step + lane / 16);
#pragma unroll
        for (int i = 0; i < kRowBlocks; i++) ldmatrix_x4(f.input[i], rows + i * 16 * kRowBytes);
        const int row = lane % 8 + lane / 16 * 8;
        const unsigned char* cols =
            stage + kInputBytes + warp_col * kRowBytes + chunk_offset(row, 2 * step + lane / 8 % 2);
#pragma unroll
        for (int j = 0; j < kColPairs; j++) ldmatrix_x4(f.weight[j], cols + j * 16 * kRowBytes);
    }

    DEVICE void multiply(const Fragments& f) {
#pragma unroll
        for (int i = 0; i < kRowBlocks; i++)
#pragma unroll
            for (int j = 0; j < kColPairs; j++) {
                mma_16816<T>(sums[i][2 * j], f.input[i], f.weight[j][0], f.weight[j][1]);
                mma_16816<T>(sums[i][2 * j + 1], f.input[i], f.weight[j][2], f.weight[j][3]);
            }
    }

    // Fragments of the next step are read while this one is multiplied; the ring is one barrier a tile.
    DEVICE void run() {
        const int num_k_tiles = (p.inner + kRowElements - 1) / kRowElements;
        for (int i = 0; i < STAGES - 1; i++)
            if (i < num_k_tiles) copy_weight(i); // weights are never written, so they need not wait
        wait_for_previous_kernel();
        for (int i = 0; i < STAGES - 1; i++) {
            if (i < num_k_tiles) copy_input(i);
            cp_async_commit();
        }
        let_next_kernel_begin();
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        Fragments fragments[2];
        load(fragments[0], shared, 0);
        int stage = 0;
        for (int k_tile = 0; k_tile < num_k_tiles; k_tile++) {
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                if (step == 0) {
                    if (k_tile + STAGES - 1 < num_k_tiles) {
                        copy_weight(k_tile + STAGES - 1);
                        copy_input(k_tile + STAGES - 1);
                    }
                    cp_async_commit();
                }
                if (step == kSteps - 1) {
                    cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    stage = stage + 1 == STAGES ? 0 : stage + 1;
                }
                load(fragments[(step + 1) % 2], shared + stage * kStageBytes, (step + 1) % kSteps);
                multiply(fragments[step % 2]);
            }
        }
        cp_async_wait<0>();
        __syncthreads();
    }

    // Sums go through shared memory in f32, so that threads store whole chunks and warps whole rows; one
    // loop does every epilogue and format, which keeps the code short (it runs once, from a cold cache).
    DEVICE void store(int outputs_are_aligned) const {
        constexpr int kPitch = TILE_COLS + 8; // in floats: rows of a warp's 8-byte stores hit different banks
        constexpr int kChunks = TILE_COLS / kChunkElements;
        static_assert(TILE_ROWS * kPitch * 4 <= STAGES * kStageBytes, "the tile fits the ring");
        static_assert(kThreads % kChunks == 0, "a thread stays in its columns");
        float* staged = reinterpret_cast<float*>(shared);
        const int lane = thread % 32;
#pragma unroll
        for (int i = 0; i < kRowBlocks; i++)
#pragma unroll
            for (int j = 0; j < 2 * kColPairs; j++) {
                const int row = warp_row + i * 16 + lane / 4, col = warp_col + j * 8 + lane % 4 * 2;
                float* to = staged + row * kPitch + col;
                *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][0], sums[i][j][1]);
                *reinterpret_cast<float2*>(to + 8 * kPitch) = make_float2(sums[i][j][2], sums[i][j][3]);
            }
        __syncthreads();
        const int col = thread % kChunks * kChunkElements;
        const int num = min(p.num_cols - first_col - col, kChunkElements);
        if (num <= 0) return;
        float bias[kChunkElements];
        for (int e = 0; e < kChunkElements; e++) bias[e] = bias_of<T>(p, first_col + col + e);
        const int num_rows = min(p.num_rows - first_row, TILE_ROWS);
        const int64_t output = first_row * p.output_stride + first_col + col;
        for (int row = thread / kChunks; row < num_rows; row += kThreads / kChunks) {
            float values[kChunkElements];
            for (int e = 0; e < kChunkElements; e++)
                values[e] = finish(staged[row * kPitch + col + e], bias[e], p.epilogue);
            const int64_t at = output + row * p.output_stride;
            const bool whole = outputs_are_aligned && num == kChunkElements;
            if (p.output_is_f32) {
                store_chunk(static_cast<float*>(p.output) + at, values, whole, num);
            } else {
                store_chunk(static_cast<T*>(p.output) + at, values, whole, num);
            }
        }
    }
};

// Blocks that run together share 16 row tiles, so that both operands come from the L2 cache.
template <class T, int TILE_ROWS, int TILE_COLS, int WARPS_ROWS, int WARPS_COLS, int STAGES>
DEVICE void gemm(const GemmParams& p) {
    DYNAMIC_SHARED(shared);
    constexpr int kGroup = 16;
    const int block = blockIdx.x, per_group = kGroup * p.num_col_tiles;
    const int first = block / per_group * kGroup;
    const int num_rows = min(p.num_row_tiles - first, kGroup);
    const int within = block % per_group;
    TileProduct<T, TILE_ROWS, TILE_COLS, WARPS_ROWS, WARPS_COLS, STAGES> product(
        p.product, shared, first + within % num_rows, within / num_rows);
    product.run();
    product.store(p.outputs_are_aligned);
}

} // namespace

FOLIO_KERNEL(gemm_128x256_bf16, GemmParams, 256, 1) { gemm<bf16, 128, 256, 2, 4, 3>(p); }
FOLIO_KERNEL(gemm_128x256_f16, GemmParams, 256, 1) { gemm<f16, 128, 256, 2, 4, 3>(p); }
FOLIO_KERNEL(gemm_128x128_bf16, GemmParams, 128, 2) { gemm<bf16, 128, 128, 2, 2, 3>(p); }
FOLIO_KERNEL(gemm_128x128_f16, GemmParams, 128, 2) { gemm<f16, 128, 128, 2, 2, 3>(p); }
FOLIO_KERNEL(gemm_64x64_bf16, GemmParams, 128, 3) { gemm<bf16, 64, 64, 2, 2, 4>(p); }
FOLIO_KERNEL(gemm_64x64_f16, GemmParams, 128, 3) { gemm<f16, 64, 64, 2, 2, 4>(p); }
FOLIO_KERNEL(gemm_16x32_bf16, GemmParams, 64, 3) { gemm<bf16, 16, 32, 1, 2, 10>(p); }
FOLIO_KERNEL(gemm_16x32_f16, GemmParams, 64, 3) { gemm<f16, 16, 32, 1, 2, 10>(p); }
