// Tensor cores: ldmatrix and mma.sync with the layouts of the PTX manual.
#pragma once
#include <stdint.h>

#include "collectives.h"
#include "numbers.h"

namespace emulator {

struct MatrixOperands {
    const void* row;
    uint32_t result[4];
};

struct ProductOperands {
    float c[4];
    uint32_t a[4];
    uint32_t b[2];
};

void compute_ldmatrix(void* const* operands, uint32_t mask);
void compute_ldmatrix_trans(void* const* operands, uint32_t mask);
void compute_mma_bf16(void* const* operands, uint32_t mask);
void compute_mma_f16(void* const* operands, uint32_t mask);

void load_matrices(uint32_t (&r)[4], const void* row, const Collective& how);
void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Collective& how);

} // namespace emulator

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMULATOR_SITE) {
    emulator::load_matrices(r, row, {"ldmatrix", emulator::compute_ldmatrix, ~0u, {file, line}});
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMULATOR_SITE) {
    emulator::load_matrices(r, row, {"ldmatrix.trans", emulator::compute_ldmatrix_trans, ~0u, {file, line}});
}

template <class T>
inline void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATOR_SITE);
template <>
inline void mma_16816<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                            const char* file, int line) {
    emulator::multiply(c, a, {b0, b1}, {"mma.bf16", emulator::compute_mma_bf16, ~0u, {file, line}});
}
template <>
inline void mma_16816<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                           const char* file, int line) {
    emulator::multiply(c, a, {b0, b1}, {"mma.f16", emulator::compute_mma_f16, ~0u, {file, line}});
}
