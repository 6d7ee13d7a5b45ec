// pool: one vector per text from the hidden states of its tokens: the first, the last, or their mean.
//
// One block a text. For a mean, each warp sums every 16th token of 256 columns, and the 16 sums are added in
// order: a text's vector does not depend on the texts beside it. A text without tokens, or with a
// number that is not finite, leaves what is not finite, for the host to find.
//
// Floor, bytes a text: 2 H per token that counts, 4 H written, with a normalisation 4 H read and written.
// nvcc: --fmad=false
// sass pool_*: registers<=64 LDG.E.128
#include "rows.cuh"

constexpr int NUM_WARPS = 16;
constexpr int NUM_COLS = 256;

// The sum over the tokens of the warp of W consecutive columns from `col`.
template <class T, int W>
DEVICE void sum_tokens(const PoolParams& p, int first, int end, int col, float (&sum)[W]) {
    // As many vectors under way as there are numbers in one: a lone text is read by one multiprocessor.
#pragma unroll W
    for (int token = first; token < end; token += NUM_WARPS) {
        float x[W];
        unpack(load<T, W>(p.hidden, token * p.hidden_stride + col), x);
#pragma unroll
        for (int i = 0; i < W; i++) sum[i] += x[i];
    }
}

// Each warp leaves its sums of the NUM_COLS columns from `first_col` in its row of `partial`.
template <class T, int W>
DEVICE void sum_columns(const PoolParams& p, int first, int end, int first_col, float* partial) {
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int part = 0; part < NUM_COLS / (32 * W); part++) {
        const int col = (part * 32 + lane) * W;
        float sum[W] = {};
        if (first_col + col < p.cols) sum_tokens<T, W>(p, first + warp, end, first_col + col, sum);
#pragma unroll
        for (int i = 0; i < W; i++) partial[warp * NUM_COLS + col + i] = sum[i];
    }
}

template <class T> DEVICE void pool_mean(const PoolParams& p, int first, int end, float* partial) {
    const float num_tokens = end - first;
    float* out = p.out + blockIdx.x * p.out_stride;
    for (int first_col = 0; first_col < p.cols; first_col += NUM_COLS) {
        if (p.width == 8) {
            sum_columns<T, 8>(p, first, end, first_col, partial);
        } else {
            sum_columns<T, 1>(p, first, end, first_col, partial);
        }
        __syncthreads();
        const int col = first_col + threadIdx.x;
        if (threadIdx.x < NUM_COLS && col < p.cols) {
            float total = 0.0f;
#pragma unroll
            for (int warp = 0; warp < NUM_WARPS; warp++) total += partial[warp * NUM_COLS + threadIdx.x];
            out[col] = total / num_tokens;
        }
        __syncthreads();
    }
}

template <class T> DEVICE void pool_one(const PoolParams& p, int first, int end) {
    if (threadIdx.x >= NUM_COLS) return;
    const int token = p.pooling == 0 ? first : end - 1;
    const T* row = static_cast<const T*>(p.hidden) + token * p.hidden_stride;
    float* out = p.out + blockIdx.x * p.out_stride;
    for (int col = threadIdx.x; col < p.cols; col += NUM_COLS) {
        out[col] = first < end ? to_float(row[col]) : NAN;
    }
}

// Each thread reads the columns that it wrote itself.
DEVICE void normalize(const PoolParams& p, float* sums) {
    float* out = p.out + blockIdx.x * p.out_stride;
    float total = 0.0f;
    if (threadIdx.x < NUM_COLS) {
        for (int col = threadIdx.x; col < p.cols; col += NUM_COLS) total = fmaf(out[col], out[col], total);
    }
    const float length = sqrtf(block_sum(total, sums));
    if (threadIdx.x >= NUM_COLS) return;
    for (int col = threadIdx.x; col < p.cols; col += NUM_COLS) {
        out[col] = length < 1e-12f ? out[col] / 1e-12f : out[col] / length;
    }
}

template <class T> DEVICE void pool(const PoolParams& p) {
    DYNAMIC_SHARED(shared);
    float* partial = reinterpret_cast<float*>(shared);
    wait_for_previous_kernel();
    const int first = p.cu_seqlens[blockIdx.x];
    const int end = p.cu_seqlens[blockIdx.x + 1];
    if (p.pooling == 1) {
        pool_mean<T>(p, first, end, partial);
    } else {
        pool_one<T>(p, first, end);
    }
    let_next_kernel_begin();
    if (p.normalizes) normalize(p, partial);
}

FOLIO_KERNEL(pool_bf16, PoolParams, 512, 2) { pool<bf16>(p); }
FOLIO_KERNEL(pool_f16, PoolParams, 512, 2) { pool<f16>(p); }
