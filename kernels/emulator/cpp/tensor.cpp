// Tensor cores. See tensor.h.
#include "tensor.h"

#include "launch.h"

namespace emulator {

namespace {

constexpr uint32_t all_lanes = ~0u;

void require_whole_warp(const Collective& how, uint32_t mask) {
    if (mask != all_lanes) {
        self->block->fail("%s at %s:%d in a warp of fewer than 32 threads", how.operation, how.site.file,
                          how.site.line);
    }
}

template <bool transposed> void load_for_all_lanes(void* const* operands) {
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t rows[8][8];
        for (int i = 0; i < 8; i++) {
            memcpy(rows[i], static_cast<MatrixOperands*>(operands[matrix * 8 + i])->row, 16);
        }
        for (int lane = 0; lane < width_of_warp; lane++) {
            const int row = lane / 4, column = lane % 4 * 2;
            const uint32_t low = transposed ? rows[column][row] : rows[row][column];
            const uint32_t high = transposed ? rows[column + 1][row] : rows[row][column + 1];
            static_cast<MatrixOperands*>(operands[lane])->result[matrix] = low | high << 16;
        }
    }
}

// Lane l holds of a (16x16) rows l/4 and l/4+8, columns 2(l%4) and the next, and those 8 further on; of
// b (16x8) column l/4, rows 2(l%4) and so on; of c (16x8) rows l/4 and l/4+8, columns 2(l%4) and the next.
template <class T> void multiply_for_all_lanes(void* const* operands) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < width_of_warp; lane++) {
        const auto& its = *static_cast<const ProductOperands*>(operands[lane]);
        const int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            const float2 pair = unpack2<T>(its.a[i]);
            a[row + i % 2 * 8][column + i / 2 * 8] = pair.x;
            a[row + i % 2 * 8][column + i / 2 * 8 + 1] = pair.y;
            c[row + i / 2 * 8][column + i % 2] = its.c[i];
        }
        for (int i = 0; i < 2; i++) {
            const float2 pair = unpack2<T>(its.b[i]);
            b[column + i * 8][row] = pair.x;
            b[column + i * 8 + 1][row] = pair.y;
        }
    }
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 16; k++) {
            for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
        }
    }
    for (int lane = 0; lane < width_of_warp; lane++) {
        auto& its = *static_cast<ProductOperands*>(operands[lane]);
        const int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 4; i++) its.c[i] = c[row + i / 2 * 8][column + i % 2];
    }
    self->block->launch->num_mmas.fetch_add(1, std::memory_order_relaxed);
}

} // namespace

void compute_ldmatrix(void* const* operands, uint32_t mask) {
    require_whole_warp(self->collective, mask);
    load_for_all_lanes<false>(operands);
}
void compute_ldmatrix_trans(void* const* operands, uint32_t mask) {
    require_whole_warp(self->collective, mask);
    load_for_all_lanes<true>(operands);
}
void compute_mma_bf16(void* const* operands, uint32_t mask) {
    require_whole_warp(self->collective, mask);
    multiply_for_all_lanes<bf16>(operands);
}
void compute_mma_f16(void* const* operands, uint32_t mask) {
    require_whole_warp(self->collective, mask);
    multiply_for_all_lanes<f16>(operands);
}

void load_matrices(uint32_t (&r)[4], const void* row, const Collective& how) {
    self->block->check_shared(row, 16, "ldmatrix reads");
    MatrixOperands operands{row, {}};
    self->block->collective(how, &operands);
    memcpy(r, operands.result, sizeof r);
}

void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Collective& how) {
    ProductOperands operands;
    memcpy(operands.c, c, sizeof c);
    memcpy(operands.a, a, sizeof a);
    memcpy(operands.b, b, sizeof b);
    self->block->collective(how, &operands);
    memcpy(c, operands.c, sizeof c);
}

} // namespace emulator
