// store_heads: what happens to queries, keys and values between their projection and attention, at once:
// RMS norm of query and key heads, rotary embedding, and the keys' and values' way into the paged cache.
//
// A head is worked on by a power of two of lanes; each has W dimensions of its first half and the W they
// are paired with in its second half. Queries go back to their place in qkv, and so do keys without cache.
// Roundings: the norm's as in norm.cu; rotation is in single precision, rounded once (reference code rounds
// cosines, sines and both products to 16 bits as well; that only loses precision). A position beyond
// the tables gives NaN. A slot below 0 is not written.
//
// Floor, bytes a token: 4 D N for queries, 4 D a key and a value head, 4 D for cosines and sines.
// nvcc: --fmad=false
// sass store_heads_*: registers<=80
// sass store_heads_wide_*: LDG.E.128 STG.E.128
#include "rows.cuh"

enum class Kind { Query, Key, Value };

// A lane's share of one head.
template <class T, int W> struct Pair {
    float low[W];
    float high[W];

    DEVICE void read(const T* head, int dim, int half) {
        unpack(load<T, W>(head, dim), low);
        unpack(load<T, W>(head, dim + half), high);
    }

    DEVICE void write(T* head, int dim, int half) const {
        store(head, dim, pack<T, W>(low));
        store(head, dim + half, pack<T, W>(high));
    }

    DEVICE float sum_of_squares() const {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < W; i++) total = fmaf(low[i], low[i], fmaf(high[i], high[i], total));
        return total;
    }

    DEVICE void scale(float factor, const float (&low_weight)[W], const float (&high_weight)[W]) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            low[i] *= factor;
            high[i] *= factor;
        }
        round_all<T>(low);
        round_all<T>(high);
#pragma unroll
        for (int i = 0; i < W; i++) {
            low[i] *= low_weight[i];
            high[i] *= high_weight[i];
        }
        round_all<T>(low);
        round_all<T>(high);
    }

    DEVICE void rotate(const float (&cosines)[W], const float (&sines)[W]) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float x = low[i];
            const float y = high[i];
            low[i] = fmaf(x, cosines[i], -(y * sines[i]));
            high[i] = fmaf(y, cosines[i], x * sines[i]);
        }
    }
};

// The cosines and sines of a lane's dimensions at the token's position.
template <int W> DEVICE void read_angles(const StoreHeadsParams& p, int token, int dim, float (&cosines)[W],
                                         float (&sines)[W]) {
    const int position = p.positions[token];
    if (position < 0 || position >= p.num_positions) {
#pragma unroll
        for (int i = 0; i < W; i++) cosines[i] = sines[i] = NAN;
        return;
    }
    const int64_t place = int64_t(position) * (p.head_size / 2) + dim;
    load_floats(p.cosines + place, cosines);
    load_floats(p.sines + place, sines);
}

// Where a head goes; null where nothing is to be written.
template <class T> DEVICE T* destination(const StoreHeadsParams& p, int token, int head, Kind kind, T* in_place) {
    if (kind == Kind::Query || !p.keys) return in_place;
    const int slot = p.slot_mapping[token];
    if (slot < 0) return nullptr;
    const int64_t block = slot >> p.block_shift;
    const int64_t offset = slot & ((1 << p.block_shift) - 1);
    const int kv_head = head - p.num_query_heads - (kind == Kind::Value ? p.num_kv_heads : 0);
    T* base = static_cast<T*>(kind == Kind::Key ? p.keys : p.values);
    const int64_t row = (int64_t(kv_head) << p.block_shift) + offset;
    return base + block * p.block_stride + row * p.head_size;
}

template <class T, int W> DEVICE void store_heads(const StoreHeadsParams& p) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    const int unit = thread >> p.lanes_shift;
    const int half = p.head_size / 2;
    const int dim = (thread & ((1 << p.lanes_shift) - 1)) * W;
    const bool has_work = unit < p.num_units && dim < half;
    const int token = has_work ? unit / p.num_heads : 0;
    const int head = p.first_head + (has_work ? unit - token * p.num_heads : 0);
    const int first_value = p.num_query_heads + p.num_kv_heads;
    const Kind kind = head < p.num_query_heads ? Kind::Query : head < first_value ? Kind::Key : Kind::Value;
    const bool is_normed = has_work && kind != Kind::Value && p.query_norm;
    const bool is_rotated = has_work && kind != Kind::Value && p.cosines;
    T* in_place = static_cast<T*>(p.qkv) + token * p.qkv_stride + int64_t(head) * p.head_size;

    // No kernel writes weights: they are read while the kernel before is still running.
    float low_weight[W];
    float high_weight[W];
    if (is_normed) {
        const float* weight = kind == Kind::Query ? p.query_norm : p.key_norm;
        load_floats(weight + dim, low_weight);
        load_floats(weight + dim + half, high_weight);
    }

    wait_for_previous_kernel();
    Pair<T, W> pair = {};
    float cosines[W];
    float sines[W];
    if (has_work) pair.read(in_place, dim, half);
    if (is_rotated) read_angles(p, token, dim, cosines, sines);
    T* out = has_work ? destination(p, token, head, kind, in_place) : nullptr;
    let_next_kernel_begin();

    if (p.query_norm) {
        float total = pair.sum_of_squares();
        for (int distance = 1 << p.lanes_shift >> 1; distance > 0; distance /= 2) {
            total += __shfl_xor_sync(~0u, total, distance);
        }
        const float factor = 1.0f / sqrtf(total * p.inverse_head_size + p.epsilon);
        if (is_normed) pair.scale(factor, low_weight, high_weight);
    }
    if (is_rotated) pair.rotate(cosines, sines);
    if (out) pair.write(out, dim, half);
}

// Heads of a multiple of 16: both halves are whole vectors of 16 bytes.
FOLIO_KERNEL(store_heads_wide_bf16, StoreHeadsParams, 128, 4) { store_heads<bf16, 8>(p); }
FOLIO_KERNEL(store_heads_wide_f16, StoreHeadsParams, 128, 4) { store_heads<f16, 8>(p); }
// Heads of a multiple of 8.
FOLIO_KERNEL(store_heads_narrow_bf16, StoreHeadsParams, 128, 4) { store_heads<bf16, 4>(p); }
FOLIO_KERNEL(store_heads_narrow_f16, StoreHeadsParams, 128, 4) { store_heads<f16, 4>(p); }
