// activate: SiLU, GELU, its tanh approximation or ReLU of every number, times a factor where there is one.
//
// A thread works on one vector; rows are the grid's first dimension. The function's result is rounded to
// 16 bits before it is multiplied, as the models' reference code does. Results may take the place of either
// operand.
//
// Floor, bytes a number: 4, or 6 with a factor.
// nvcc: --fmad=false
// sass activate_*: registers<=64 LDG.E.128 STG.E.128
#include "rows.cuh"

// 1 / (1 + e^-x); 0 where e^-x is infinite.
DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_fast(-1.44269504f * x)); }

template <int F> DEVICE float activated(float x) {
    if constexpr (F == 0) return x * sigmoid(x);
    if constexpr (F == 3) return x < 0.0f ? 0.0f : x;
    if constexpr (F == 1) return 0.5f * x * (1.0f + erff(0.70710678f * x));
    // x (1 + tanh u) / 2 is x / (1 + e^-2u).
    const float u = 0.79788456f * fmaf(0.044715f * x * x, x, x);
    return x * sigmoid(2.0f * u);
}

template <class T, int W, int F>
DEVICE void activate_vector(const Packed<T, W>& input, const Packed<T, W>& factor, bool has_factor, T* out) {
    float x[W];
    unpack(input, x);
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = activated<F>(x[i]);
    if (has_factor) {
        float y[W];
        unpack(factor, y);
        round_all<T>(x);
#pragma unroll
        for (int i = 0; i < W; i++) x[i] *= y[i];
    }
    store(out, 0, pack<T, W>(x));
}

template <class T, int W> DEVICE void activate_at(const ActivateParams& p) {
    const int col = (blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (col >= p.cols) return;
    const int64_t row = blockIdx.x;
    const auto input = load<T, W>(p.input, row * p.input_stride + col);
    Packed<T, W> factor = {};
    if (p.factor) factor = load<T, W>(p.factor, row * p.factor_stride + col);
    let_next_kernel_begin();
    T* out = static_cast<T*>(p.out) + row * p.out_stride + col;
    if (p.function == 0) {
        activate_vector<T, W, 0>(input, factor, p.factor, out);
    } else if (p.function == 1) {
        activate_vector<T, W, 1>(input, factor, p.factor, out);
    } else if (p.function == 2) {
        activate_vector<T, W, 2>(input, factor, p.factor, out);
    } else {
        activate_vector<T, W, 3>(input, factor, p.factor, out);
    }
}

template <class T> DEVICE void activate(const ActivateParams& p) {
    wait_for_previous_kernel();
    if (p.width == 8) {
        activate_at<T, 8>(p);
    } else {
        activate_at<T, 1>(p);
    }
}

FOLIO_KERNEL(activate_bf16, ActivateParams, 256, 4) { activate<bf16>(p); }
FOLIO_KERNEL(activate_f16, ActivateParams, 256, 4) { activate<f16>(p); }
