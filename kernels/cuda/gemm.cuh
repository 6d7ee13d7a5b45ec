// What the matrix products share: the epilogue, and rows of 128 bytes in shared memory.
#pragma once
#include "device.cuh"

// A row of a tile in shared memory holds 64 numbers, 8 chunks of 16 bytes. Chunk c of row r lies at
// c ^ (r % 8), so that the 8 rows of a matrix of ldmatrix, and the 8 chunks of a row, each touch all 32 banks
// once.
constexpr int kRowBytes = 128;
constexpr int kRowElements = 64;
constexpr int kChunkElements = 8;

DEVICE int chunk_offset(int row, int chunk) { return row * kRowBytes + ((chunk ^ (row & 7)) << 4); }

DEVICE float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
DEVICE float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

DEVICE float finish(float sum, float bias, int epilogue) {
    const float x = sum + bias;
    if (epilogue == GEMM_BIAS_GELU) return gelu_erf(x);
    if (epilogue == GEMM_BIAS_GELU_TANH) return gelu_tanh(x);
    return x;
}

// The bias of a column; 0 where there is none, and beyond the last column.
template <class T> DEVICE float bias_of(const GemmOperands& p, int col) {
    if (p.epilogue == GEMM_NONE || col >= p.num_cols) return 0.0f;
    return to_float(static_cast<const T*>(p.bias)[col]);
}
