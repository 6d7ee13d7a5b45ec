// Attention of many query rows: prompts over the paged cache, and texts among their own tokens.
//
// Grid: (tile of query rows, key/value head), in the order of attention_plan, more blocks than it may
// need. A tile has 64 * M rows of one sequence and group, row m being token m / group: each of four
// warps has 16 * M of them, and all go through the keys in tiles of 64 (32 if D = 256) from position 0,
// two of which are in shared memory. Tiles that a warp's rows do not see are skipped, and masks are
// computed only where some row sees a part of a tile; neither changes a bit of any row, nor does what
// else is in its tile, nor M. Splits::Fixed rests on that.
// Floor: 4 * D * N operations per query token and key; at 660 TFLOP/s, what mma.sync may reach of an
// H100, 25 ns per token and 1000 keys with N * D = 4096. With M = 1 shared memory is the narrower gate
// (D = 128: 32 KiB a warp and tile, 1024 clocks for four warps, against 736 of tensor cores), with
// M = 2 it is not (40 KiB, 1280 against 1472). Keys and values come mostly from L2.
#pragma once
#include "attention.cuh"

constexpr int WARPS = 4;

// Where keys come from, and who sees whom.
enum class Keys { paged, of_text };

template <int D, int M> struct Shape {
    static constexpr int warp_rows = 16 * M;
    static constexpr int query_rows = WARPS * warp_rows;
    static constexpr int tokens = D <= 128 ? 64 : 32;
    static constexpr int warp_tokens = tokens / WARPS;
    static constexpr int half_elements = tokens * D;     // keys or values of a tile
    // Queries stay in shared memory where registers do not suffice for them.
    static constexpr bool holds_queries = M == 1 && D <= 128;
};

// Query rows of a tile: their tokens, heads, and which keys they see.
struct QueryRows {
    int first_row, num_rows;            // of the tile in its sequence; rows of the sequence
    int first_position, seq_len;        // of the sequence's first query; keys that its last one sees
    int group, window;
    uint32_t reciprocal;                // 2^32 / group, rounded up
    bool sees_all;

    DEVICE QueryRows(const AttentionPrefillParams& p, const AttentionTile& tile, bool is_text)
        : first_row(tile.first_query_row), num_rows(tile.num_tokens * p.group),
          first_position(tile.seq_len - tile.num_tokens), seq_len(tile.seq_len), group(p.group),
          window(p.window > 0 ? p.window : 1 << 30), reciprocal(0xffffffffu / p.group + 1),
          sees_all(is_text) {}

    DEVICE bool exists(int row) const { return first_row + row < num_rows; }
    // Exact while rows times group stay below 2^32.
    DEVICE int token(int row) const {
        const uint64_t product = static_cast<uint64_t>(first_row + row) * reciprocal;
        return group == 1 ? first_row + row : static_cast<int>(product >> 32);
    }
    DEVICE int head(int row) const { return first_row + row - token(row) * group; }

    // Row r, which exists, sees the keys [begin(r), end(r)); both grow with r.
    DEVICE int end(int row) const { return sees_all ? seq_len : first_position + token(row) + 1; }
    DEVICE int begin(int row) const { return max(0, end(row) - window); }
    // The last row in existence of `count` from `row`.
    DEVICE int last(int row, int count) const { return min(row + count, num_rows - first_row) - 1; }
};

// Sends for tiles of keys and values, one tile ahead of the arithmetic.
template <class T, int D, int M, Keys KEYS> struct Loader {
    using S = Shape<D, M>;
    const T* keys;                      // of the head: in block 0, or of the text's first token
    int slot;                           // the sequence's row in the block tables
    int begin, end;                     // keys that some row of the tile sees
    int tile;                           // the next one
    int page;                           // of this warp's tokens in it

    DEVICE Loader(const AttentionPrefillParams& p, const AttentionTile& tile_of_rows, int kv_head,
                  const QueryRows& rows)
        : keys(static_cast<const T*>(p.keys)), slot(tile_of_rows.slot), begin(rows.begin(0)),
          end(rows.end(rows.last(0, S::query_rows))), tile(begin / S::tokens), page(0) {
        if constexpr (KEYS == Keys::paged) {
            keys += static_cast<int64_t>(kv_head << p.block_shift) * D;
        } else {
            keys += tile_of_rows.first_token * p.key_stride + kv_head * D;
        }
        fetch_page(p);
    }

    DEVICE int first_token() const { return tile * S::tokens + threadIdx.x / 32 * S::warp_tokens; }

    DEVICE void fetch_page(const AttentionPrefillParams& p) {
        const int token = first_token();
        if (KEYS == Keys::paged && token < end && token + S::warp_tokens > begin) {
            page = p.block_tables[static_cast<int64_t>(slot) * p.max_blocks + (token >> p.block_shift)];
        }
    }

    DEVICE void load(const AttentionPrefillParams& p, T* stage) {
        const int token = first_token(), row = threadIdx.x / 32 * S::warp_tokens;
        const bool is_seen = token < end && token + S::warp_tokens > begin;
        const int first = is_seen ? begin - token : 0, last = is_seen ? end - token : 0;
        T* const key_rows = stage + row * D;
        T* const value_rows = stage + S::half_elements + row * D;
        // Values lie as keys do.
        const int64_t to_values = static_cast<const T*>(p.values) - static_cast<const T*>(p.keys);
        if constexpr (KEYS == Keys::paged) {
            const int64_t offset =
                page * p.key_stride + static_cast<int64_t>(token & ((1 << p.block_shift) - 1)) * D;
            const T* from = is_seen ? keys + offset : keys;
            load_rows<T, D, S::warp_tokens>(key_rows, from, first, last);
            load_rows<T, D, S::warp_tokens>(value_rows, from + to_values, first, last);
        } else {
            const T* from = is_seen ? keys + token * p.key_stride : keys;
            load_rows<T, D, S::warp_tokens>(key_rows, from, p.key_stride, first, last);
            load_rows<T, D, S::warp_tokens>(value_rows, from + to_values, p.key_stride, first, last);
        }
        ++tile;
        fetch_page(p);
    }
};

// A warp sends for its query rows; rows that do not exist become zeros.
template <class T, int D, int M>
DEVICE void load_queries(T* shared, const AttentionPrefillParams& p, const AttentionTile& tile,
                         int first_head, const QueryRows& rows) {
    constexpr int num_chunks = D / 8;
    const int lane = threadIdx.x % 32, first_row = threadIdx.x / 32 * 16 * M;
    const T* source = static_cast<const T*>(p.queries) + tile.first_token * p.query_stride + first_head * D;
#pragma unroll
    for (int i = lane; i < 16 * M * num_chunks; i += 32) {
        const int row = i / num_chunks, chunk = i % num_chunks;
        const bool exists = rows.exists(first_row + row);
        const int64_t offset = exists ? rows.token(first_row + row) * p.query_stride
                                            + rows.head(first_row + row) * D
                                      : 0;
        cp_async_16(shared + chunk_offset<D>(row, chunk), source + offset + chunk * 8, exists);
    }
}

// A warp's queries as left operands, from where load_queries put them.
template <class T, int D, int M> struct Queries {
    static constexpr bool is_held = Shape<D, M>::holds_queries;
    uint32_t held[is_held ? D / 16 : 1][4];
    const T* shared;

    DEVICE Queries(const T* at) : shared(at) {
        if constexpr (is_held) {
#pragma unroll
            for (int k = 0; k < D / 16; ++k) read(0, k, held[k]);
        }
    }

    DEVICE void read(int m, int k, uint32_t (&a)[4]) const {
        const int lane = threadIdx.x % 32;
        ldmatrix_x4(a, shared + m * 16 * D + chunk_offset<D>(lane % 16, lane / 16, k));
    }

    DEVICE void fragment(int m, int k, uint32_t (&a)[4]) const {
        if constexpr (is_held) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = held[k][i];
        } else {
            read(m, k, a);
        }
    }
};

// Scores of keys from `token` on that this lane's rows, of 16 * M from `first_row`, do not see become
// -inf. What they see is worked out anew: few tiles need it, and registers are short.
template <int M, int N>
DEVICE void mask_scores(float (&scores)[M][N][4], const QueryRows& rows, int first_row, int token) {
    const int first_key = token + threadIdx.x % 4 * 2, g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int end = rows.end(min(first_row + m * 16 + half * 8 + g, rows.last(0, rows.num_rows)));
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int key = first_key + n * 8 + i;
                    if (key < end - rows.window || key >= end) scores[m][n][half * 2 + i] = MINUS_INFINITY;
                }
            }
        }
    }
}

// The results of 16 rows go to shared memory, and from there to the output in pieces of 16 bytes.
template <class T, int D>
DEVICE void store_rows(const AttentionPrefillParams& p, const AttentionTile& tile, const QueryRows& rows,
                       int first_row, int first_head, SoftmaxRows& softmax, const float (&sums)[D / 8][4],
                       T* shared) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = g + half * 8;
        float total = quad_sum(softmax.sum[half]);
        if (p.sinks != nullptr) {
            const float sink = p.sinks[first_head + rows.head(first_row + row)];
            total += exp2_fast(sink * LOG2_E - softmax.offset[half]);
        }
        const float factor = 1.0f / total;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            *reinterpret_cast<uint32_t*>(shared + chunk_offset<D>(row, n) + t * 2) =
                pack2<T>(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
        }
    }
    __syncwarp();
    constexpr int num_chunks = D / 8;
    T* target = static_cast<T*>(p.output) + tile.first_token * p.output_stride + first_head * D;
    for (int i = lane; i < 16 * num_chunks; i += 32) {
        const int row = i / num_chunks, chunk = i % num_chunks;
        if (!rows.exists(first_row + row)) continue;
        T* to = target + rows.token(first_row + row) * p.output_stride + rows.head(first_row + row) * D;
        *reinterpret_cast<uint4*>(to + chunk * 8) =
            *reinterpret_cast<const uint4*>(shared + chunk_offset<D>(row, chunk));
    }
}

template <class T, int D, int M, Keys KEYS> DEVICE void attention_prefill(const AttentionPrefillParams& p) {
    using S = Shape<D, M>;
    DYNAMIC_SHARED(shared);
    T* const stages = reinterpret_cast<T*>(shared);
    const int first_row = threadIdx.x / 32 * S::warp_rows;
    // Held queries pass through the stage that is filled last.
    T* const query_rows = stages + (S::holds_queries ? 2 : 4) * S::half_elements + first_row * D;

    wait_for_previous_kernel();
    const int index = blockIdx.x / p.num_kv_heads, kv_head = blockIdx.x % p.num_kv_heads;
    if (index >= p.counts[1]) return;
    const AttentionTile tile = p.tiles[index];
    const QueryRows rows(p, tile, KEYS == Keys::of_text);
    load_queries<T, D, M>(query_rows, p, tile, kv_head * p.group, rows);
    cp_async_commit();
    Loader<T, D, M, KEYS> loader(p, tile, kv_head, rows);
    const int first_tile = loader.tile, end_tile = ceil_div(loader.end, S::tokens);
    loader.load(p, stages);
    cp_async_commit();
    cp_async_wait<1>();
    __syncwarp();
    const Queries<T, D, M> queries(query_rows);

    const bool is_idle = !rows.exists(first_row);
    const int last_row = rows.last(first_row, S::warp_rows);
    const int first_begin = is_idle ? 0 : rows.begin(first_row);
    const int first_end = is_idle ? 0 : rows.end(first_row);
    const int last_begin = is_idle ? 0 : rows.begin(last_row);
    const int last_end = is_idle ? 0 : rows.end(last_row);
    SoftmaxRows softmax[M];
    float sums[M][D / 8][4] = {};
#pragma unroll
    for (int m = 0; m < M; ++m) reset(softmax[m]);

    for (int key_tile = first_tile; key_tile < end_tile; ++key_tile) {
        T* const stage = stages + (key_tile - first_tile) % 2 * 2 * S::half_elements;
        T* const other = stages + (1 - (key_tile - first_tile) % 2) * 2 * S::half_elements;
        cp_async_wait<0>();
        __syncthreads();                // the tile is there, and nobody needs the one before
        if (key_tile + 1 < end_tile) loader.load(p, other);
        cp_async_commit();
        const int token = key_tile * S::tokens;
        if (token >= last_end || token + S::tokens <= first_begin) continue;
        float scores[M][S::tokens / 8][4];
        multiply_keys<T, D, S::tokens>(scores, queries, stage);
        if (p.product_cap > 0.0f) {
#pragma unroll
            for (int m = 0; m < M; ++m) apply_soft_cap(scores[m], p.product_cap);
        }
        if (token + S::tokens > first_end || token < last_begin) {
            mask_scores(scores, QueryRows(p, p.tiles[index], KEYS == Keys::of_text), first_row, token);
        }
        uint32_t weights[M][S::tokens / 16][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
            weigh<T, D>(softmax[m], sums[m], weights[m], scores[m], p.exponent_scale);
        }
        add_values<T, D, S::tokens>(sums, weights, stage + S::half_elements);
    }
    let_next_kernel_begin();
    __syncthreads();                    // the stages are free
    if (is_idle) return;
    // Read once more, rather than kept in registers all the while.
    const AttentionTile same_tile = p.tiles[index];
    const QueryRows same_rows(p, same_tile, KEYS == Keys::of_text);
#pragma unroll
    for (int m = 0; m < M; ++m) {
        store_rows<T, D>(p, same_tile, same_rows, first_row + m * 16, kv_head * p.group, softmax[m], sums[m],
                         stages + (first_row + m * 16) * D);
    }
}
