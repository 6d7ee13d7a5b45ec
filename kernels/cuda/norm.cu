// rms_norm and layer_norm of rows, with the residual sum before and a choice of rows, all optional.
//
// x = input, or round16(input + delta), which may be kept (in place of the input: the residual stream).
// Root mean square: round16(round16(x / sqrt(mean(x^2) + epsilon)) * weight), roundings where the models'
// reference code has them. Layer norm: single precision throughout, rounded once.
// Sums are made in an order that depends on the width alone, so a row's result does not depend on others.
// *_warp: a warp a row, up to 1024 columns. *_block: a block a row, up to 16384. Both hold the row in
// registers. *_any: any width and alignment, rows are read again for each pass.
//
// Floor, bytes a row: 4 H alone, 8 H with the residual kept, and 4 H of weights from the cache.
// nvcc: --fmad=false
// sass *_norm_warp_*: registers<=128 LDG.E.128 STG.E.128
// sass *_norm_block_*: registers<=64 LDG.E.128 STG.E.128
// sass *_norm_any_*: registers<=40
#include "rows.cuh"

enum class Norm { RootMeanSquare, Layer };

// Where row `row` of the result comes from and goes to.
template <class T> struct Rows {
    const T* input;
    const T* delta;
    T* sum;
    T* out;
};

template <class T> DEVICE Rows<T> rows_of(const NormParams& p, int row) {
    const int64_t from = p.rows ? p.rows[row] : row;
    Rows<T> rows;
    rows.input = static_cast<const T*>(p.input) + from * p.input_stride;
    rows.delta = p.delta ? static_cast<const T*>(p.delta) + from * p.delta_stride : nullptr;
    rows.sum = p.sum ? static_cast<T*>(p.sum) + from * p.sum_stride : nullptr;
    rows.out = static_cast<T*>(p.out) + row * p.out_stride;
    return rows;
}

// From x to the result, all but its rounding.
template <class T, Norm N, int W>
DEVICE void scale(float (&x)[W], float mean, float factor, const float (&weight)[W], const float (&bias)[W]) {
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = N == Norm::Layer ? (x[i] - mean) * factor : x[i] * factor;
    if (N == Norm::RootMeanSquare) round_all<T>(x);
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = N == Norm::Layer ? fmaf(x[i], weight[i], bias[i]) : x[i] * weight[i];
}

// V vectors of 8 columns that a thread holds: vector v is columns 8 (thread + v * num_threads) and on.
template <class T, int V> struct Held {
    float x[V][8];
    float weight[V][8];
    int num_threads;
    int thread;
    int cols;

    DEVICE int col(int v) const { return 8 * (thread + v * num_threads); }
    DEVICE bool has(int v) const { return col(v) < cols; }

    // No kernel writes weights, so they are read while the kernel before is still running: at decode sizes
    // they come from memory, since a whole step's weights went through the cache after the last use.
    DEVICE void read_weight(const float* from) {
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (has(v)) load_floats(from + col(v), weight[v]);
        }
    }

    DEVICE void read(const Rows<T>& rows) {
        Packed<T, 8> input[V];
        Packed<T, 8> delta[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (!has(v)) continue;
            input[v] = load<T, 8>(rows.input, col(v));
            if (rows.delta) delta[v] = load<T, 8>(rows.delta, col(v));
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (!has(v)) continue;
            unpack(input[v], x[v]);
            if (!rows.delta) continue;
            float add[8];
            unpack(delta[v], add);
#pragma unroll
            for (int i = 0; i < 8; i++) x[v][i] += add[i];
            round_all<T>(x[v]);
            if (rows.sum) store(rows.sum, col(v), pack<T, 8>(x[v]));
        }
    }

    // This thread's part of the sum of x, or of the squares of x - mean.
    DEVICE float sum() const {
        float total = 0.0f;
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (!has(v)) continue;
#pragma unroll
            for (int i = 0; i < 8; i++) total += x[v][i];
        }
        return total;
    }
    DEVICE float sum_of_squares(float mean) const {
        float total = 0.0f;
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (!has(v)) continue;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float distance = x[v][i] - mean;
                total = fmaf(distance, distance, total);
            }
        }
        return total;
    }

    template <Norm N> DEVICE void write(const NormParams& p, T* out, float mean, float factor) {
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (!has(v)) continue;
            float bias[8] = {};
            if (N == Norm::Layer && p.bias) load_floats(p.bias + col(v), bias);
            scale<T, N>(x[v], mean, factor, weight[v], bias);
            store(out, col(v), pack<T, 8>(x[v]));
        }
    }
};

DEVICE float inverse_root(float variance, float epsilon) { return 1.0f / sqrtf(variance + epsilon); }

template <class T, Norm N> DEVICE void norm_warp(const NormParams& p) {
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= p.num_rows) return;
    Held<T, 4> held;
    held.num_threads = 32;
    held.thread = threadIdx.x % 32;
    held.cols = p.cols;
    held.read_weight(p.weight);
    wait_for_previous_kernel();
    const Rows<T> rows = rows_of<T>(p, row);
    held.read(rows);
    let_next_kernel_begin();
    float mean = 0.0f;
    if (N == Norm::Layer) mean = warp_sum(held.sum()) * p.inverse_cols;
    const float variance = warp_sum(held.sum_of_squares(mean)) * p.inverse_cols;
    held.template write<N>(p, rows.out, mean, inverse_root(variance, p.epsilon));
}

template <class T, Norm N> DEVICE void norm_block(const NormParams& p) {
    DYNAMIC_SHARED(shared);
    float* sums = reinterpret_cast<float*>(shared);
    Held<T, 2> held;
    held.num_threads = blockDim.x;
    held.thread = threadIdx.x;
    held.cols = p.cols;
    held.read_weight(p.weight);
    wait_for_previous_kernel();
    const Rows<T> rows = rows_of<T>(p, blockIdx.x);
    held.read(rows);
    let_next_kernel_begin();
    float mean = 0.0f;
    if (N == Norm::Layer) mean = block_sum(held.sum(), sums) * p.inverse_cols;
    const float variance = block_sum(held.sum_of_squares(mean), sums + 32) * p.inverse_cols;
    held.template write<N>(p, rows.out, mean, inverse_root(variance, p.epsilon));
}

template <class T, Norm N> DEVICE void norm_any(const NormParams& p) {
    DYNAMIC_SHARED(shared);
    float* sums = reinterpret_cast<float*>(shared);
    wait_for_previous_kernel();
    const Rows<T> rows = rows_of<T>(p, blockIdx.x);
    auto value = [&](int col) {
        const float x = to_float(rows.input[col]);
        return rows.delta ? to_float(from_float<T>(x + to_float(rows.delta[col]))) : x;
    };
    float mean = 0.0f;
    if (N == Norm::Layer) {
        float total = 0.0f;
        for (int col = threadIdx.x; col < p.cols; col += blockDim.x) total += value(col);
        mean = block_sum(total, sums) * p.inverse_cols;
    }
    float total = 0.0f;
    for (int col = threadIdx.x; col < p.cols; col += blockDim.x) {
        const float distance = value(col) - mean;
        total = fmaf(distance, distance, total);
    }
    const float factor = inverse_root(block_sum(total, sums + 32) * p.inverse_cols, p.epsilon);
    let_next_kernel_begin();
    for (int col = threadIdx.x; col < p.cols; col += blockDim.x) {
        float x[1] = {value(col)};
        if (rows.sum) rows.sum[col] = from_float<T>(x[0]);
        const float weight[1] = {p.weight[col]};
        const float bias[1] = {N == Norm::Layer && p.bias ? p.bias[col] : 0.0f};
        scale<T, N>(x, mean, factor, weight, bias);
        rows.out[col] = from_float<T>(x[0]);
    }
}

FOLIO_KERNEL(rms_norm_warp_bf16, NormParams, 128, 4) { norm_warp<bf16, Norm::RootMeanSquare>(p); }
FOLIO_KERNEL(rms_norm_warp_f16, NormParams, 128, 4) { norm_warp<f16, Norm::RootMeanSquare>(p); }
FOLIO_KERNEL(layer_norm_warp_bf16, NormParams, 128, 4) { norm_warp<bf16, Norm::Layer>(p); }
FOLIO_KERNEL(layer_norm_warp_f16, NormParams, 128, 4) { norm_warp<f16, Norm::Layer>(p); }
FOLIO_KERNEL(rms_norm_block_bf16, NormParams, 1024, 1) { norm_block<bf16, Norm::RootMeanSquare>(p); }
FOLIO_KERNEL(rms_norm_block_f16, NormParams, 1024, 1) { norm_block<f16, Norm::RootMeanSquare>(p); }
FOLIO_KERNEL(layer_norm_block_bf16, NormParams, 1024, 1) { norm_block<bf16, Norm::Layer>(p); }
FOLIO_KERNEL(layer_norm_block_f16, NormParams, 1024, 1) { norm_block<f16, Norm::Layer>(p); }
FOLIO_KERNEL(rms_norm_any_bf16, NormParams, 256, 4) { norm_any<bf16, Norm::RootMeanSquare>(p); }
FOLIO_KERNEL(rms_norm_any_f16, NormParams, 256, 4) { norm_any<f16, Norm::RootMeanSquare>(p); }
FOLIO_KERNEL(layer_norm_any_bf16, NormParams, 256, 4) { norm_any<bf16, Norm::Layer>(p); }
FOLIO_KERNEL(layer_norm_any_f16, NormParams, 256, 4) { norm_any<f16, Norm::Layer>(p); }
