// embed: the sum of one row of each of up to two tables, for every token. gather_rows: chosen rows.
//
// One block a row of the result. Sums are made in single precision and rounded once; a single row is
// copied exactly. An index that is not in its table gives a row of NaN, which every check of the results
// finds, and reads nothing.
//
// Floor: 2 H bytes read a table and 2 H written a token; 4 bytes an index.
// sass embed_*: registers<=40 LDG.E.128 STG.E.128
// sass gather_rows: registers<=32 LDG.E.128 STG.E.128
#include "rows.cuh"

// The row of the table that is meant for a token; null where the index is not in the table.
template <class T> DEVICE const T* chosen_row(const EmbedTable& table, int token) {
    const int64_t index = int64_t(table.indices[token]) + table.offset;
    if (index < 0 || index >= table.num_entries) return nullptr;
    return static_cast<const T*>(table.entries) + index * table.stride;
}

template <class T, int W> DEVICE void add_rows(const EmbedParams& p, const T* first, const T* second) {
    T* out = static_cast<T*>(p.out) + int64_t(blockIdx.x) * p.out_stride;
    const bool is_valid = first && (second || !p.tables[1].entries);
    for (int col = threadIdx.x * W; col < p.cols; col += blockDim.x * W) {
        float sum[W];
        if (is_valid) {
            unpack(load<T, W>(first, col), sum);
            if (second) {
                float x[W];
                unpack(load<T, W>(second, col), x);
#pragma unroll
                for (int i = 0; i < W; i++) sum[i] += x[i];
            }
        } else {
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] = NAN;
        }
        store(out, col, pack<T, W>(sum));
    }
}

template <class T> DEVICE void embed(const EmbedParams& p) {
    wait_for_previous_kernel();
    const T* first = chosen_row<T>(p.tables[0], blockIdx.x);
    const T* second = p.tables[1].entries ? chosen_row<T>(p.tables[1], blockIdx.x) : nullptr;
    let_next_kernel_begin();
    if (p.width == 8) {
        add_rows<T, 8>(p, first, second);
    } else {
        add_rows<T, 1>(p, first, second);
    }
}

FOLIO_KERNEL(embed_bf16, EmbedParams, 256, 4) { embed<bf16>(p); }
FOLIO_KERNEL(embed_f16, EmbedParams, 256, 4) { embed<f16>(p); }

template <int W> DEVICE void copy_row(const GatherRowsParams& p, int row) {
    const bf16* from = static_cast<const bf16*>(p.input) + row * p.input_stride;
    bf16* to = static_cast<bf16*>(p.out) + int64_t(blockIdx.x) * p.out_stride;
    for (int col = threadIdx.x * W; col < p.cols; col += blockDim.x * W) {
        store(to, col, load<bf16, W>(from, col));
    }
}

// Any 16-bit numbers: they are not looked at.
FOLIO_KERNEL(gather_rows, GatherRowsParams, 256, 4) {
    wait_for_previous_kernel();
    const int row = p.rows[blockIdx.x];
    let_next_kernel_begin();
    if (p.width == 8) {
        copy_row<8>(p, row);
    } else {
        copy_row<1>(p, row);
    }
}
